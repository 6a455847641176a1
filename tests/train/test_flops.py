import dataclasses

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, mm_flop

from megas2s.models.config import ModelConfig
from megas2s.models.freezing import freeze, frozen_names
from megas2s.models.parameters import parameter_shapes
from megas2s.models.transformer import build
from megas2s.train.flops import Flops, StepSize, layers_with_backward, step_breakdown, step_flops

ENCODER = ModelConfig(
    vocab_size=96, hidden_size=16, num_heads=4, ffn_size=48, num_encoder_layers=3, max_positions=32, dropout=0.0
)


def seq2seq(tying: str, *, layers: int = 2) -> ModelConfig:
    return ModelConfig(
        vocab_size=96,
        hidden_size=16,
        num_heads=4,
        ffn_size=48,
        num_encoder_layers=3,
        num_decoder_layers=layers,
        max_positions=32,
        tying=tying,  # type: ignore[arg-type]
        dropout=0.0,
    )


def counted(config: ModelConfig, patterns: list[str], size: StepSize) -> int:
    """The matrix products of one forward and backward pass of the real model, as torch counts them."""
    model = build(config)
    freeze(model, patterns)
    labels = torch.randint(96, (size.rows * size.predicted,))
    batch = {"input_ids": torch.randint(96, (size.rows, size.source))}
    for name, columns in zip(("target_ids", "pseudo_ids"), size.written, strict=False):
        batch[name] = torch.randint(96, (size.rows, columns))
    if config.is_seq2seq:
        batch["decoder_input_ids"] = torch.randint(96, (size.rows, size.target))
    # Two products are free to the counter: the CPU's fused attention, and the in-place addmm_ of the vocabulary loss.
    known = {torch.ops.aten.addmm_: lambda total, a, b, **_: mm_flop(a, b)}
    with FlopCounterMode(display=False, custom_mapping=known) as counter, sdpa_kernel(SDPBackend.MATH):
        output = model(batch)
        if config.is_seq2seq:
            hidden = output.decoder_hidden[:, : size.predicted]
            loss = output.decoder_vocabulary_loss(hidden.flatten(0, 1), labels)
        else:
            hidden = output.encoder_hidden[:, : size.predicted]
            loss = output.encoder_vocabulary_loss(hidden.flatten(0, 1), labels)
        loss.total.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("written", [(5,), (5, 5)])
@pytest.mark.parametrize("patterns", [[], ["encoder.layers.0.*"], ["encoder.embed.*", "encoder.positions.*"]])
def test_a_row_of_blocks_costs_what_torch_counts(written, patterns):
    size = StepSize(rows=3, source=11, target=0, predicted=5, written=written)
    frozen = frozen_names(ENCODER, patterns)
    assert counted(ENCODER, patterns, size) == step_flops(parameter_shapes(ENCODER), size, frozen=frozen)


@pytest.mark.parametrize(
    "patterns",
    [
        [],
        ["encoder.layers.0.*"],
        ["encoder.embed.*", "encoder.positions.*", "encoder.embed_norm.*"],
        ["encoder.embed.*", "encoder.positions.*", "encoder.embed_norm.*", "encoder.layers.[01].*"],
        ["encoder.layers.*.ffn.*"],
        ["encoder.layers.*.self_attention.[qk].*"],
        ["*.weight"],
        ["encoder.*"],
        ["mlm.*"],
    ],
)
def test_an_encoder_costs_what_torch_counts(patterns):
    size = StepSize(rows=3, source=11, target=0, predicted=4)
    frozen = frozen_names(ENCODER, patterns)
    assert step_flops(parameter_shapes(ENCODER), size, frozen=frozen) == counted(ENCODER, patterns, size)


@pytest.mark.parametrize("tying", ["tied", "tied_to_decoder", "untied"])
@pytest.mark.parametrize("patterns", [[], ["encoder.*"], ["encoder.layers.[01].*"], ["decoder.layers.1.*"]])
def test_an_encoder_decoder_costs_what_torch_counts(tying, patterns):
    config = seq2seq(tying)
    if tying == "tied" and patterns == ["encoder.*"]:
        patterns = ["encoder.*", "decoder.positions.*", "decoder.embed_norm.*"]
    size = StepSize(rows=3, source=11, target=7, predicted=7)
    frozen = frozen_names(config, patterns)
    assert step_flops(parameter_shapes(config), size, frozen=frozen) == counted(config, patterns, size)


T5 = {"norm": "rms", "biases": False, "embed_norm": False, "positions": "relative", "gated": True, "head_size": 6}


@pytest.mark.parametrize(
    "patterns", [[], ["encoder.*"], ["encoder.layers.*.self_attention.[qk].*", "encoder.layers.0.ffn.gate.*"]]
)
def test_a_gated_model_with_relative_positions_costs_what_torch_counts(patterns):
    """Frozen queries and keys below a bias that trains: the scores need a gradient all the same."""
    config = dataclasses.replace(seq2seq("tied_to_decoder"), **T5)
    size = StepSize(rows=3, source=11, target=7, predicted=7)
    frozen = frozen_names(config, patterns)
    assert step_flops(parameter_shapes(config), size, frozen=frozen) == counted(config, patterns, size)


INPUTS = ["encoder.embed*", "encoder.positions.*", "encoder.types.*"]
NARROW = {"embedding_size": 8, "segment_types": 2}


@pytest.mark.parametrize(
    "patterns",
    [
        [],
        INPUTS,
        [*INPUTS, "encoder.projection.*"],
        [*INPUTS, "encoder.projection.*", "encoder.layers.[01].*"],
        [*INPUTS, "encoder.projection.*", "encoder.layers.0.self_attention.*"],
        [*INPUTS, "encoder.projection.*", "encoder.layers.*_norm.*"],
        ["encoder.*"],
    ],
)
def test_a_post_norm_encoder_with_narrow_embeddings_costs_what_torch_counts(patterns):
    config = dataclasses.replace(ENCODER, norm_position="post", **NARROW)
    size = StepSize(rows=3, source=11, target=0, predicted=4)
    frozen = frozen_names(config, patterns)
    assert step_flops(parameter_shapes(config), size, frozen=frozen) == counted(config, patterns, size)


@pytest.mark.parametrize(
    "patterns",
    [
        [],
        ["encoder.*"],
        ["encoder.*", "decoder.embed*", "decoder.positions.*"],
        ["encoder.*", "decoder.embed*", "decoder.positions.*", "decoder.layers.*.self_attention*"],
        ["encoder.embed*", "encoder.positions.*", "decoder.*cross_attention.[kv].*"],
        ["decoder.*", "head.*"],
    ],
)
def test_a_post_norm_encoder_decoder_costs_what_torch_counts(patterns):
    config = dataclasses.replace(seq2seq("untied"), norm_position="post")
    size = StepSize(rows=3, source=11, target=7, predicted=7)
    frozen = frozen_names(config, patterns)
    assert step_flops(parameter_shapes(config), size, frozen=frozen) == counted(config, patterns, size)


def test_a_projection_that_trains_below_frozen_layers_keeps_all_their_activations():
    config = dataclasses.replace(ENCODER, **NARROW)
    patterns = [*INPUTS, "encoder.layers.[01].*"]
    assert layers_with_backward(parameter_shapes(config), frozen=frozen_names(config, patterns)) == (3, 0)


def test_a_frozen_decoder_below_a_training_encoder_costs_what_torch_counts():
    config = seq2seq("untied")
    size = StepSize(rows=2, source=9, target=5, predicted=5)
    frozen = frozen_names(config, ["decoder.*", "head.*"])
    assert step_flops(parameter_shapes(config), size, frozen=frozen) == counted(config, ["decoder.*", "head.*"], size)


def test_the_formulas_by_hand():
    # Width 4, inner width 8, 10 vocabulary entries; 2 rows of 3 source and 5 target columns.
    config = ModelConfig(
        vocab_size=10, hidden_size=4, num_heads=2, ffn_size=8, num_encoder_layers=1, num_decoder_layers=1,
        tying="untied", max_positions=8,
    )  # fmt: skip
    found = step_breakdown(parameter_shapes(config), StepSize(rows=2, source=3, target=5, predicted=5))
    # encoder: projections 6 * 64 * 6 = 2304, ffn 6 * 64 * 6 = 2304, scores and mixture 6 * 2 * (2*3*3*4) = 864
    # decoder self: 6 * 64 * 10 = 3840, scores and mixture 6 * 2 * (2*5*5*4) = 2400
    # cross: q and out 6 * 32 * 10 = 1920, k and v 6 * 32 * 6 = 1152, scores and mixture 6 * 2 * (2*5*3*4) = 1440
    # ffn 6 * 64 * 10 = 3840; head 6 * 40 * 10 = 2400
    assert found == Flops(encoder=5472, decoder_self=6240, decoder_cross=4512, decoder_ffn=3840, head=2400)
    assert found.total == 22464


def test_a_frozen_encoder_costs_a_third_of_a_training_one():
    config, size = seq2seq("tied_to_decoder"), StepSize(rows=2, source=9, target=5, predicted=5)
    shapes = parameter_shapes(config)
    training = step_breakdown(shapes, size)
    frozen = step_breakdown(shapes, size, frozen=frozen_names(config, ["encoder.*"]))
    assert frozen.encoder * 3 == training.encoder
    assert (frozen.decoder_self, frozen.decoder_ffn, frozen.head) == training[1:2] + training[3:]


def test_the_head_costs_by_predicted_positions_alone():
    shapes = parameter_shapes(ENCODER)
    few = step_breakdown(shapes, StepSize(rows=4, source=20, target=0, predicted=3))
    many = step_breakdown(shapes, StepSize(rows=4, source=20, target=0, predicted=9))
    assert many.head == 3 * few.head
    assert many.encoder == few.encoder


def test_the_flops_of_alexatm_20b_by_hand():
    # AlexaTM 20B: 46 + 32 layers of width 4096. An encoder layer has 12 * 4096^2 matrix elements, a decoder layer 16,
    # of which cross-attention's keys and values, 2, meet the source. One row of 1024 and 1024:
    #   6 * 1024 * 4096^2 * (46 * 12 + 32 * 16)   = 109 676 284 870 656   projections and ffn
    #   12 * 1024 * 1024 * 4096 * (46 + 32 + 32)  =   5 669 356 830 720   scores and mixtures
    #   6 * 1024 * 150 016 * 4096                 =   3 775 276 253 184   head
    config = ModelConfig(
        vocab_size=150_016, hidden_size=4096, num_heads=32, ffn_size=16384, num_encoder_layers=46,
        num_decoder_layers=32, tying="untied", max_positions=1024,
    )  # fmt: skip
    size = StepSize(rows=1, source=1024, target=1024, predicted=1024)
    expected = 109_676_284_870_656 + 5_669_356_830_720 + 3_775_276_253_184
    assert step_flops(parameter_shapes(config), size) == expected


@pytest.mark.parametrize(
    ("patterns", "kept"),
    [
        ([], (3, 2)),
        (["encoder.*"], (0, 2)),
        (["encoder.embed.*", "encoder.positions.*", "encoder.embed_norm.*", "encoder.layers.[01].*"], (1, 2)),
        (["encoder.layers.[01].*"], (3, 2)),  # the embedding below them trains
        (["decoder.*", "head.*"], (3, 2)),  # the encoder's gradient comes through the frozen decoder
    ],
)
def test_layers_below_everything_that_trains_keep_nothing(patterns, kept):
    config = seq2seq("untied")
    assert layers_with_backward(parameter_shapes(config), frozen=frozen_names(config, patterns)) == kept


@pytest.mark.parametrize("patterns", [[], ["encoder.*"]])
@pytest.mark.parametrize("heads", [{"token_classes": 3}, {"encoder_restores": True}])
def test_heads_on_the_encoder_of_an_encoder_decoder_are_counted(heads: dict, patterns: list[str]):
    config = dataclasses.replace(seq2seq("tied_to_decoder"), **heads)
    size = StepSize(rows=2, source=8, target=6, predicted=6, classed=4, restored=3)
    model = build(config)
    freeze(model, patterns)
    batch = {"input_ids": torch.randint(96, (2, 8)), "decoder_input_ids": torch.randint(96, (2, 6))}
    known = {torch.ops.aten.addmm_: lambda total, a, b, **_: mm_flop(a, b)}
    with FlopCounterMode(display=False, custom_mapping=known) as counter, sdpa_kernel(SDPBackend.MATH):
        output = model(batch)
        loss = output.decoder_vocabulary_loss(output.decoder_hidden.flatten(0, 1), torch.randint(96, (12,))).total
        if output.token_scores is not None:
            loss = loss + output.token_scores(output.encoder_hidden[:, :4]).sum()
        else:
            states = output.encoder_hidden[:, :3].flatten(0, 1)
            loss = loss + output.encoder_vocabulary_loss(states, torch.randint(96, (6,))).total
        loss.backward()
    frozen = frozen_names(config, patterns)
    assert step_flops(parameter_shapes(config), size, frozen=frozen) == counter.get_total_flops()
