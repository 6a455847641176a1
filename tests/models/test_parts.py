"""Parts of a model in a row are the model: states, losses, gradients and names, wherever it is cut."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from megas2s.models.config import ModelConfig
from megas2s.models.freezing import freeze
from megas2s.models.init import fill, first_values
from megas2s.models.parameters import canonical_parameters, parameter_shapes
from megas2s.models.parts import Span, construct_part, forward, held, unit_count
from megas2s.models.transformer import construct

SIZES = {"vocab_size": 64, "hidden_size": 16, "num_heads": 2, "ffn_size": 24, "max_positions": 16, "dropout": 0.0}
BART = ModelConfig(**SIZES, num_encoder_layers=3, num_decoder_layers=2, norm_position="post", tying="tied")
CONFIGS = {
    "encoder": ModelConfig(**SIZES, num_encoder_layers=4),
    "narrow_encoder": ModelConfig(**SIZES, num_encoder_layers=3, embedding_size=8, segment_types=2),
    "bart": BART,
    "bart_e2s2": dataclasses.replace(BART, token_classes=3, encoder_restores=True),
    "mbart": dataclasses.replace(BART, norm_position="pre", scale_embedding=True, tying="untied"),
    "two_stage": dataclasses.replace(BART, norm_position="pre", tying="tied_to_decoder"),
    "t5": dataclasses.replace(
        BART, norm_position="pre", norm="rms", biases=False, embed_norm=False, positions="relative",
        scale_attention=False, relative_buckets=8, relative_max_distance=16, gated=True, tying="untied_head",
    ),
}  # fmt: skip
IDS = torch.arange(5, 35).view(3, 10)
MASK = (torch.arange(10) < torch.tensor([[10], [7], [4]])).long()
SEGMENTS = torch.tensor([[0] * 4 + [1] * 6, [0] * 10, [0] * 2 + [1] * 8])
FULL = {"input_ids": IDS, "decoder_input_ids": IDS[:, :6] + 1}
BATCHES = {
    "full": FULL,
    "padded": {**FULL, "attention_mask": MASK, "token_type_ids": (SEGMENTS > 0).long()},
    "packed": {**FULL, "segment_ids": SEGMENTS, "decoder_segment_ids": SEGMENTS[:, :6]},
}


def spans(config: ModelConfig, parts: int) -> list[list[Span]]:
    """Every way to cut a model into so many parts."""
    last = unit_count(config)
    cuts = itertools.combinations(range(1, last), parts - 1)
    return [list(itertools.starmap(Span, itertools.pairwise((0, *cut, last)))) for cut in cuts]


def heads(output) -> torch.Tensor:
    """A scalar of everything that an objective may read."""
    encoder, decoder = output.encoder_hidden, output.decoder_hidden
    total = encoder.square().sum()
    labels = IDS.flatten()[:18]
    if decoder is not None:
        total = total + output.decoder_vocabulary_loss(decoder.flatten(0, 1), labels).total
    if output.encoder_vocabulary_loss is not None:
        total = total + output.encoder_vocabulary_loss(encoder[:, :6].flatten(0, 1), labels).total
    return total if output.token_scores is None else total + output.token_scores(encoder).square().sum()


def whole(config: ModelConfig, batch: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model = construct(config)
    fill(model, first_values(config, 5))
    loss = heads(model(batch))
    loss.backward()
    return loss.detach(), {name: parameter.grad for name, parameter in canonical_parameters(model).items()}


def in_parts(config: ModelConfig, batch: dict, cut: list[Span]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The same, with a fresh leaf at each border, as a pipeline has."""
    parts, borders, stream = [construct_part(config, span) for span in cut], [], ()
    for part, span in zip(parts, cut, strict=True):
        fill(part, first_values(config, 5))
        inputs = tuple(tensor.detach().requires_grad_() for tensor in stream)
        stream = forward(part, span, batch, inputs)
        borders.append((inputs, stream))
    loss = heads(parts[-1].output(batch, *stream))
    outputs, gradients = (loss,), [None]
    for number, (inputs, _) in reversed(list(enumerate(borders))):
        moving = [(tensor, grad) for tensor, grad in zip(outputs, gradients, strict=True) if tensor.requires_grad]
        torch.autograd.backward([tensor for tensor, _ in moving], [grad for _, grad in moving])
        gradients = [tensor.grad for tensor in inputs]
        outputs = borders[number - 1][1] if number else ()
    found: dict[str, torch.Tensor] = {}
    for part in parts:
        for name, parameter in canonical_parameters(part).items():
            if parameter.grad is not None:
                found[name] = found[name] + parameter.grad if name in found else parameter.grad
    return loss.detach(), found


@pytest.mark.parametrize("rows", BATCHES)
@pytest.mark.parametrize("name", CONFIGS)
def test_parts_in_a_row_are_the_model_wherever_it_is_cut(name: str, rows: str):
    config = CONFIGS[name]
    fields = set(FULL) | ({"attention_mask", "segment_ids", "decoder_segment_ids"} & BATCHES[rows].keys())
    fields |= {"token_type_ids"} if config.segment_types else set()
    batch = {field: value for field, value in BATCHES[rows].items() if field in fields}
    expected, gradients = whole(config, batch)
    for cut in [*spans(config, 2), *spans(config, 3)[::2], *spans(config, 4)[-1:]]:
        loss, found = in_parts(config, batch, cut)
        assert torch.equal(loss, expected), cut
        assert found.keys() == {key for key, value in gradients.items() if value is not None}
        for key, value in found.items():
            torch.testing.assert_close(value, gradients[key], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_is_held_and_names_are_the_model_s(name: str):
    config = CONFIGS[name]
    for cut in spans(config, 3):
        holders = [held(config, span) for span in cut]
        assert set().union(*holders) == set(parameter_shapes(config))
        for span, names in zip(cut, holders, strict=True):
            assert list(canonical_parameters(construct_part(config, span))) == names


def test_what_several_parts_hold_is_what_several_layers_read():
    cut = [Span(0, 2), Span(2, 4), Span(4, 6)]
    copies = {}
    for name in ("bart", "two_stage", "t5", "encoder"):
        holders = [held(CONFIGS[name], span) for span in cut[: 3 if name != "encoder" else 2]]
        copies[name] = {key for one, other in itertools.combinations(holders, 2) for key in set(one) & set(other)}
    assert copies["bart"] == {"shared.weight"}
    assert copies["two_stage"] == {"decoder.embed.weight"}
    assert copies["t5"] == {"shared.weight", "encoder.relative_bias.weight", "decoder.relative_bias.weight"}


@pytest.mark.parametrize(
    "patterns", [["encoder.*"], ["encoder.layers.0.*"], ["encoder.*", "decoder.embed.*", "decoder.layers.0.*"]]
)
@pytest.mark.parametrize("name", ["mbart", "t5"])
def test_modules_of_a_part_drop_out_as_they_do_in_the_whole(name: str, patterns: list[str]):
    """Frozen modules do not; a stack of which this part holds frozen layers alone still does."""
    config = dataclasses.replace(CONFIGS[name], tying="untied")
    whole = construct(config)
    freeze(whole, patterns)
    modes = {place: module.training for place, module in whole.train().named_modules()}
    for unit in range(unit_count(config)):
        part = construct_part(config, Span(unit, unit + 1))
        freeze(part, patterns)
        for place, module in part.train().named_modules():
            if place and not isinstance(module, torch.nn.ModuleList) and any(True for _ in module.parameters()):
                assert module.training == modes[place], (unit, place)
