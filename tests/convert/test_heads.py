"""Heads beside an export come back as they were, and a file of them that is damaged is named."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors.torch import save_file

from megas2s.convert.heads import FILE, names, read_heads, write_heads
from megas2s.errors import BadCheckpoint

HEADS = [
    {"num_decoder_layers": 1, "token_classes": 3},
    {"num_decoder_layers": 1, "encoder_restores": True},
    {"text_classes": 2},
    {"token_classes": 5, "text_classes": 1},
]


@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_heads_come_back_as_they_were(heads, small, write_weights, tmp_path):
    config = small(**heads)
    reader = write_weights(config, tmp_path / "weights")
    (tmp_path / "export").mkdir()
    write_heads(reader, tmp_path / "export", torch.float32)
    found, tensors = read_heads(tmp_path / "export", config.without_heads())
    assert found == config
    assert sorted(tensors) == names(config)
    assert all(torch.equal(tensors[name], reader.tensor(name)) for name in tensors)


def test_an_encoder_s_own_head_is_none_of_them(small):
    assert names(small()) == []


def test_a_folder_without_heads_leaves_the_model_as_it_is(small, tmp_path):
    assert read_heads(tmp_path, small()) == (small(), {})


def test_a_damaged_file_is_named(small, tmp_path):
    (tmp_path / FILE).write_bytes(b"not safetensors")
    with pytest.raises(BadCheckpoint, match=r"heads.safetensors is damaged .* restore it, or remove it to do without"):
        read_heads(tmp_path, small())


def test_heads_of_another_width_are_refused(small, tmp_path):
    save_file({"classes.weight": torch.zeros(3, 8), "classes.bias": torch.zeros(3)}, tmp_path / FILE)
    with pytest.raises(BadCheckpoint, match="and the model has room for"):
        read_heads(tmp_path, dataclasses.replace(small(), num_decoder_layers=1))
