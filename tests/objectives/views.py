"""E2S2 objectives, batches of two views, and a small model for them."""

from __future__ import annotations

import numpy as np
import torch

from megas2s.data.loader import Columns, collate
from megas2s.models.config import ModelConfig
from megas2s.objectives import E2S2, Objective
from megas2s.objectives.base import Shape
from megas2s.rng import generator
from megas2s.spec import parse

from .conftest import PAD, SIZE, make_vocabulary

CONFIG = ModelConfig(
    vocab_size=SIZE,
    hidden_size=16,
    num_heads=2,
    ffn_size=32,
    num_encoder_layers=1,
    num_decoder_layers=1,
    max_positions=64,
    dropout=0.0,
)
BASES = {
    "infilling of words": {"name": "denoising", "noise": "mask", "whole_word": True},
    "deletion": {"name": "denoising", "noise": "delete"},
    "spans": {"name": "span_corruption", "noise_density": 0.15, "mean_span_length": 8.0},
}


def words(text: str) -> np.ndarray:
    return np.array([8 + len(word) for word in text.split()], dtype=np.int32)


def objective(**changes) -> E2S2:
    return parse(Objective, {"name": "e2s2", "contrast": {"group": 4}, **changes}, source="recipe")


def shape_of(**changes) -> Shape:
    facts = {"sentinels": tuple(range(120, 128)), "encode": words, **changes}
    return Shape(make_vocabulary(**facts), source_length=48, target_length=48)


def batch_of(wanted: E2S2, shape: Shape, rows: int = 4, filled: int = 0):
    size = wanted.window_size(shape)
    examples = []
    for number in range(rows):
        tokens = generator(number, "text").integers(8, 120, size=size)
        examples.append(wanted.corrupt(tokens, generator(number, "noise"), shape, number))
    columns = wanted.row_lengths(size, shape)
    batch = collate(examples, Columns(columns.source, columns.target, columns.full, PAD))
    numbers = torch.arange(rows)
    return {**batch, "sample": numbers.masked_fill(numbers >= rows - filled, -1)}
