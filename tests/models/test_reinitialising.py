import dataclasses

import pytest
import torch

from megas2s.models.parameters import canonical_parameters
from megas2s.models.reinitialising import reinitialised, reinitialised_names
from tests.models.small import ENCODER, made, seq2seq


def fresh(config, patterns, *, seed=0, dtype=torch.float32):
    old = {
        name: torch.full_like(p.detach(), 7.0, dtype=dtype) for name, p in canonical_parameters(made(config)).items()
    }
    return dict(reinitialised(config, old.__getitem__, reinitialised_names(config, patterns), seed=seed))


def changed(values):
    return {name for name, tensor in values.items() if not bool((tensor == 7).all())}


def test_a_layer_is_drawn_anew_and_nothing_else():
    names = changed(fresh(ENCODER, ["encoder.layers.1"]))
    assert names == {name for name in canonical_parameters(made(ENCODER)) if name.startswith("encoder.layers.1.")}


def test_a_pattern_and_the_module_that_it_covers_mean_the_same():
    config = seq2seq("untied")
    assert reinitialised_names(config, ["decoder.*"]) == reinitialised_names(config, ["decoder"])
    some = reinitialised_names(config, ["*.self_attention.q", "head"])
    assert {name.rsplit(".", 2)[-2] for name in some} == {"q", "head"}


def test_layer_one_is_not_layer_ten():
    config = dataclasses.replace(ENCODER, num_encoder_layers=11)
    assert all(".layers.1." in name for name in reinitialised_names(config, ["encoder.layers.1"]))


def test_a_matrix_that_the_encoder_reads_too_stays_unless_it_is_named():
    assert "shared.weight" not in changed(fresh(seq2seq("tied"), ["decoder.*"]))
    assert "shared.weight" in changed(fresh(seq2seq("tied"), ["shared.weight"]))
    assert "decoder.embed.weight" in changed(fresh(seq2seq("tied_to_decoder"), ["decoder.*"]))


def test_first_values_are_those_of_a_new_model():
    values = fresh(dataclasses.replace(ENCODER, hidden_size=64, ffn_size=256, init_std=0.05), ["encoder.*"])
    assert values["encoder.layers.0.ffn.up.weight"].std().item() == pytest.approx(0.05, rel=0.05)
    assert bool((values["encoder.layers.0.ffn.up.bias"] == 0).all())
    assert bool((values["encoder.layers.0.ffn_norm.weight"] == 1).all())


def test_the_values_of_a_layer_depend_on_the_seed_and_not_on_what_else_is_drawn():
    alone = fresh(ENCODER, ["encoder.layers.1"])
    among = fresh(ENCODER, ["encoder.*"])
    other = fresh(ENCODER, ["encoder.layers.1"], seed=1)
    name = "encoder.layers.1.ffn.up.weight"
    assert torch.equal(alone[name], among[name])
    assert not torch.equal(alone[name], other[name])


def test_the_dtype_stays():
    assert {tensor.dtype for tensor in fresh(ENCODER, ["encoder.*"], dtype=torch.bfloat16).values()} == {torch.bfloat16}


def test_a_pattern_that_means_nothing_is_refused_with_the_nearest_module():
    with pytest.raises(ValueError, match=r"'encoder.layer.1' matches no parameter; did you mean 'encoder.layers.1'\?"):
        reinitialised_names(ENCODER, ["encoder.layer.1"])
