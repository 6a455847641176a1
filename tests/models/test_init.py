import torch

from megas2s.models.config import ModelConfig
from megas2s.models.init import seeded
from megas2s.models.parameters import canonical_parameters
from megas2s.models.transformer import build

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


def test_the_same_address_gives_the_same_weights_and_another_gives_others():
    first, again, other = values(1, "init", "mlm"), values(1, "init", "mlm"), values(1, "init", "seq2seq")
    name = "encoder.layers.0.ffn.up.weight"
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first[name], other[name])


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
