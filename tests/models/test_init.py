"""First values: of the right size, a function of name and seed, the same whoever draws them."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from megas2s.models import init
from megas2s.models.config import ModelConfig
from megas2s.models.init import fill, first_values, seeded
from megas2s.models.parameters import canonical_parameters, parameter_shapes
from megas2s.models.transformer import build, construct

CONFIG = ModelConfig(
    vocab_size=500,
    hidden_size=64,
    num_heads=4,
    ffn_size=128,
    num_encoder_layers=1,
    num_decoder_layers=1,
    max_positions=64,
    tying="untied",
    init_std=0.05,
)
T5 = dataclasses.replace(
    CONFIG,
    init="fan_in",
    init_std=2.0,
    positions="relative",
    biases=False,
    norm="rms",
    scale_attention=False,
    relative_buckets=64,
    relative_max_distance=128,
)


def values(seed, *address):
    with seeded(seed, *address):
        return {name: parameter.detach() for name, parameter in canonical_parameters(build(CONFIG)).items()}


def test_weights_are_normal_biases_zero_and_norms_one():
    for name, value in values(1, "init").items():
        if name.endswith("bias"):
            assert not value.any(), name
        elif "norm" in name:
            assert (value == 1).all(), name
        else:
            assert abs(value.std().item() / 0.05 - 1) < 0.05, name
            assert abs(value.mean().item()) < 0.005, name


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("encoder.embed.weight", 1),
        ("encoder.relative_bias.weight", 64),
        ("encoder.layers.0.self_attention.q.weight", 64 * 16),
        ("encoder.layers.0.self_attention.k.weight", 64),
        ("decoder.layers.0.cross_attention.out.weight", 64),
        ("decoder.layers.0.ffn.up.weight", 64),
        ("decoder.layers.0.ffn.down.weight", 128),
        ("head.weight", 64),
    ],
)
def test_t5_s_weights_are_divided_by_the_root_of_their_inputs(name: str, inputs: int):
    """As transformers' `_init_weights` has it, after Mesh TensorFlow."""
    assert first_values(T5, 3)(name).std().item() == pytest.approx(2.0 * inputs**-0.5, rel=0.1)


def test_the_same_address_gives_the_same_weights_and_another_gives_others():
    first, again, other = values(1, "init", "mlm"), values(1, "init", "mlm"), values(1, "init", "seq2seq")
    name = "encoder.layers.0.ffn.up.weight"
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first[name], other[name])


def test_a_parameter_begins_alike_in_models_that_have_other_ones_beside_it():
    deeper = dataclasses.replace(CONFIG, num_encoder_layers=3, tying="tied_to_decoder")
    shared = parameter_shapes(CONFIG).keys() & parameter_shapes(deeper).keys()
    assert len(shared) > 20
    assert all(torch.equal(first_values(CONFIG, 1)(name), first_values(deeper, 1)(name)) for name in shared)
    up = "encoder.layers.{}.ffn.up.weight"
    assert not torch.equal(first_values(deeper, 1)(up.format(0)), first_values(deeper, 1)(up.format(1)))


@pytest.mark.parametrize("name", ["encoder.embed.weight", "encoder.layers.0.ffn.up.bias", "encoder.norm.weight"])
def test_rows_are_drawn_alone_as_they_are_in_the_whole(name: str, monkeypatch):
    monkeypatch.setattr(init, "BLOCK", 64 * 7)  # blocks of seven rows, which part none of the tables evenly
    whole = first_values(CONFIG, 3)(name)
    for start, stop in [(0, 1), (0, 7), (5, 9), (7, 14), (20, 64), (3, 3), (len(whole) - 3, len(whole) + 9)]:
        assert torch.equal(first_values(CONFIG, 3)(name, slice(start, stop)), whole[start:stop])
    if whole.dim() == 2:
        assert len({tuple(row.tolist()) for row in whole}) == len(whole)


def test_a_constructed_model_is_filled_with_them():
    model = construct(CONFIG)
    fill(model, first_values(CONFIG, 9))
    assert all(torch.equal(p, first_values(CONFIG, 9)(name)) for name, p in canonical_parameters(model).items())


def test_a_model_is_the_same_whatever_dtype_it_is_built_in():
    expected = values(1, "init")
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        narrow = values(1, "init")
    finally:
        torch.set_default_dtype(default)
    assert all(torch.equal(expected[name].bfloat16(), narrow[name]) for name in expected)


def test_building_leaves_torchs_generator_as_it_was():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    values(1, "init")
    assert torch.equal(torch.rand(3), expected)
