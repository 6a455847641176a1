import dataclasses

import pytest
import torch

from megas2s.models.config import ModelConfig
from megas2s.models.parameters import aliases, canonical_parameters, owners, parameter_shapes
from megas2s.models.transformer import build

TYINGS = ["tied", "tied_to_decoder", "untied"]
MATRICES = {"shared.weight", "encoder.embed.weight", "decoder.embed.weight", "head.weight"}


def config(decoder=2, tying="tied"):
    return ModelConfig(
        vocab_size=50,
        hidden_size=16,
        num_heads=2,
        ffn_size=24,
        num_encoder_layers=3,
        num_decoder_layers=decoder,
        max_positions=12,
        tying=tying,
    )


HEADS = [{}, {"token_classes": 3}, {"text_classes": 2}, {"encoder_restores": True, "token_classes": 3}]


@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize(("decoder", "tying"), [(0, "tied"), *((2, tying) for tying in TYINGS)])
def test_names_and_shapes_of_the_configuration_are_those_of_the_model(decoder, tying, heads):
    shape = dataclasses.replace(config(decoder, tying), **heads)
    model = build(shape)
    held = {name: tuple(parameter.shape) for name, parameter in canonical_parameters(model).items()}
    assert list(held.items()) == list(parameter_shapes(shape).items())
    assert {id(p) for p in model.parameters()} == {id(p) for p in canonical_parameters(model).values()}


@pytest.mark.parametrize(
    ("decoder", "tying", "expected"),
    [
        (0, "tied", {"encoder.embed.weight"}),
        (2, "tied", {"shared.weight"}),
        (2, "tied_to_decoder", {"encoder.embed.weight", "decoder.embed.weight"}),
        (2, "untied", {"encoder.embed.weight", "decoder.embed.weight", "head.weight"}),
    ],
)
def test_tying_decides_which_matrices_exist(decoder, tying, expected):
    assert MATRICES & parameter_shapes(config(decoder, tying)).keys() == expected
    assert aliases(config(decoder, tying)).keys() == expected


@pytest.mark.parametrize("tying", TYINGS)
def test_every_role_is_played_by_the_module_of_that_name(tying):
    shape = config(2, tying)
    model = build(shape)
    parameters = canonical_parameters(model)
    for role, owner in owners(shape).items():
        assert model.get_parameter(role) is parameters[owner]
    assert owners(shape).keys() == MATRICES - {"shared.weight"}


def test_the_masked_head_projects_onto_the_embedding_matrix():
    model = build(config(decoder=0))
    assert model.mlm.weight is model.encoder.embed.weight


def test_names_are_the_documented_ones():
    names = parameter_shapes(config(2, "untied"))
    for name in (
        "encoder.positions.weight",
        "encoder.embed_norm.bias",
        "encoder.layers.2.self_attention.q.weight",
        "encoder.layers.0.ffn.down.bias",
        "encoder.norm.weight",
        "decoder.layers.1.cross_attention.out.weight",
        "decoder.layers.1.cross_attention_norm.weight",
        "decoder.layers.0.ffn_norm.bias",
    ):
        assert name in names
    assert {"mlm.dense.weight", "mlm.norm.bias", "mlm.bias"} <= parameter_shapes(config(decoder=0)).keys()


def test_a_step_keeps_tied_matrices_one():
    model = build(config(2, "tied"))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    output = model({"input_ids": torch.arange(8)[None], "decoder_input_ids": torch.arange(6)[None]})
    output.decoder_vocabulary_loss(output.decoder_hidden[0], torch.arange(6)).total.backward()
    before = model.shared.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(before, model.shared.weight)
    assert model.encoder.embed.weight is model.head.weight is model.decoder.embed.weight is model.shared.weight
