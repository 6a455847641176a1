"""Adapters: nothing at first, all that trains, and part of the weights for everybody else."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from megas2s.models.freezing import count_by_part, frozen_names
from megas2s.models.handoff import hand_off
from megas2s.models.init import fill, first_values
from megas2s.models.lowrank import LowRank
from megas2s.models.parameters import canonical_parameters, parameter_shapes
from megas2s.models.transformer import construct
from megas2s.models.weights import open_weights
from tests.models.small import BATCH, ENCODER, FACTS, made, seq2seq, write

ALL = LowRank(rank=3, alpha=6.0, targets=("q", "k", "v", "out", "up", "down"))


def begun(config, adapters, folder):
    """A model with adapters that begins as weights of one without."""
    reader = write(made(config), folder)
    shaped = adapters.shaped(config)
    carried, fresh = hand_off(reader, shaped), first_values(shaped, 3)
    model = construct(shaped).eval()
    fill(model, lambda name, rows=slice(None): fresh(name, rows) if (v := carried(name, rows)) is None else v)
    return model


@pytest.mark.parametrize("config", [ENCODER, seq2seq()], ids=["encoder", "seq2seq"])
@pytest.mark.parametrize("adapters", [LowRank(), ALL], ids=["q and v", "all"])
def test_a_model_with_new_adapters_is_the_model_without(config, adapters, tmp_path):
    whole, model = made(config), begun(config, adapters, tmp_path / "weights")
    assert list(canonical_parameters(model)) == list(parameter_shapes(model.config))
    for ours, theirs in zip(model(BATCH)[:2], whole(BATCH)[:2], strict=True):
        assert (ours is None and theirs is None) or torch.equal(ours, theirs)


def test_each_map_adds_its_scaled_product(tmp_path):
    model = begun(ENCODER, ALL, tmp_path / "weights")
    linear = model.encoder.layers[0].self_attention.q
    linear.lora_b.data.normal_()
    hidden = torch.randn(4, 16)
    expected = hidden @ (linear.weight + 2.0 * linear.lora_b @ linear.lora_a).T + linear.bias
    torch.testing.assert_close(linear(hidden), expected)


@pytest.mark.parametrize("config", [ENCODER, seq2seq()], ids=["encoder", "seq2seq"])
def test_what_others_read_is_the_model_that_adapters_make(config, tmp_path):
    model = begun(config, ALL, tmp_path / "before")
    for name, parameter in model.named_parameters():
        if name.endswith("lora_b"):
            parameter.data.normal_(std=0.2)
    reader = write(model, tmp_path / "after", shard_bytes=4000)
    assert reader.config == config
    assert set(reader.names) == set(parameter_shapes(config))
    merged = construct(config).eval()
    fill(merged, reader.tensor)
    for ours, theirs in zip(merged(BATCH)[:2], model(BATCH)[:2], strict=True):
        if ours is not None:
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    name = "encoder.layers.1.ffn.up.weight"
    assert torch.equal(reader.tensor(name, slice(3, 9)), reader.tensor(name)[3:9])
    apart = open_weights(tmp_path / "after", merged=False)
    assert apart.config == model.config
    assert apart.metadata == FACTS
    assert torch.equal(
        apart.tensor("encoder.layers.0.self_attention.q.lora_b"),
        dict(model.named_parameters())["encoder.layers.0.self_attention.q.lora_b"],
    )


def test_adapters_alone_train_and_what_is_named_beside_them():
    config = dataclasses.replace(LowRank().shaped(ENCODER), text_classes=3)
    frozen = frozen_names(config, LowRank().frozen(config))
    trained = parameter_shapes(config).keys() - frozen
    assert {name.rpartition(".")[2] for name in trained if not name.startswith("text.")} == {"lora_a", "lora_b"}
    assert all(name in trained for name in parameter_shapes(config) if name.startswith("text."))
    more = LowRank(train=("*norm.*",))
    assert "encoder.norm.weight" in parameter_shapes(config).keys() - set(more.frozen(config))
    counts = count_by_part(config, frozen)
    assert counts["encoder"].trainable == 2 * 2 * 2 * 8 * 16


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rank": 0}, "rank must be at least 1"),
        ({"targets": ()}, "targets name no map"),
        ({"targets": ("query",)}, "no map is called 'query'"),
    ],
)
def test_adapters_that_cannot_be_are_refused(given, said):
    with pytest.raises(ValueError, match=said):
        LowRank(**given)
    with pytest.raises(ValueError, match=r"lora\.train: 'nothing' matches no parameter"):
        LowRank(train=("nothing",)).frozen(LowRank().shaped(ENCODER))
