import dataclasses

import pytest
import torch

from megas2s.models.presets import ALEXATM_VOCABULARY, PRESETS, count_parameters, preset
from megas2s.models.transformer import build


def held(config):
    """Parameters of the real model, built without memory."""
    with torch.device("meta"):
        model = build(config)
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", [*PRESETS, "encoder12_decoder2_1024"])
def test_the_count_is_that_of_the_model(name):
    shape = preset(name, vocab_size=1024)
    assert count_parameters(shape) == held(shape)
    assert count_parameters(shape.encoder_only()) == held(shape.encoder_only())


@pytest.mark.parametrize("tying", ["tied", "tied_to_decoder", "untied"])
def test_the_count_follows_the_tying(tying):
    shape = dataclasses.replace(preset("tiny", vocab_size=1024), tying=tying)
    assert count_parameters(shape) == sum(parameter.numel() for parameter in build(shape).parameters())


@pytest.mark.parametrize(
    ("name", "expected"),
    [  # vocabulary 32,000, tied
        ("tiny", 2_314_752),
        ("small", 61_575_168),
        ("base", 224_630_784),
        ("encoder12_decoder12_1024", 387_588_096),
    ],
)
def test_counts_by_value(name, expected):
    assert count_parameters(preset(name, vocab_size=32_000)) == expected


def test_alexatm_has_its_published_size():
    shape = preset("alexatm_20b", vocab_size=ALEXATM_VOCABULARY)
    assert ALEXATM_VOCABULARY % 128 == 0
    assert (shape.num_encoder_layers, shape.num_decoder_layers) == (46, 32)
    layer = 12 * 4096**2 + 13 * 4096  # attention 4 d^2, feed-forward 8 d^2, their biases and two norms
    cross = 4 * 4096**2 + 6 * 4096
    stacks = 46 * layer + 32 * (layer + cross)
    ends = 2 * (1024 * 4096 + 4 * 4096)  # positions and two norms per stack
    assert count_parameters(shape) == stacks + ends + 3 * ALEXATM_VOCABULARY * 4096 == 19_707_715_584
    assert abs(count_parameters(shape) / 19.75e9 - 1) < 0.003


def test_any_depth_and_width_has_a_name():
    shape = preset("encoder12_decoder2_1024", vocab_size=128, pad_id=3)
    assert (shape.num_encoder_layers, shape.num_decoder_layers, shape.hidden_size) == (12, 2, 1024)
    assert (shape.num_heads, shape.ffn_size, shape.pad_id) == (16, 4096, 3)


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"no preset is called 'smal'; did you mean 'small'\?"):
        preset("smal", vocab_size=128)


def test_presets_of_no_family_keep_mbarts_epsilon():
    assert {shape.norm_epsilon for shape in PRESETS.values() if shape.family is None} == {1e-5}
