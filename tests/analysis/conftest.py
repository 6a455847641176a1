"""Rows of unequal length as a model reads them, and small models."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from megas2s.analysis.passes import passes
from megas2s.models.config import ModelConfig
from megas2s.models.init import seeded
from megas2s.models.parameters import canonical_parameters
from megas2s.models.transformer import build

LENGTHS = (9, 4, 14, 6, 11)
T5 = {"norm": "rms", "positions": "relative", "biases": False, "embed_norm": False, "relative_buckets": 8}
T5 |= {"relative_max_distance": 20, "scale_attention": False, "gated": True, "decoder_start": "pad"}


@pytest.fixture(scope="session")
def rows():
    generator = np.random.default_rng(5)
    return [np.append(generator.integers(5, 60, length - 1), 2) for length in LENGTHS]


@pytest.fixture(scope="session")
def read():
    """Rows in batches."""
    return lambda rows, batch_tokens=30: passes(rows, pad=1, start=2, batch_tokens=batch_tokens)


@pytest.fixture(scope="session")
def small():
    """A small encoder-decoder with weights of some size, or with what `changes` make of it."""

    def make(**changes):
        sizes = {"vocab_size": 64, "hidden_size": 16, "num_heads": 2, "ffn_size": 24, "num_encoder_layers": 3}
        sizes |= {"num_decoder_layers": 2, "max_positions": 32}
        with seeded(3, "small"):
            model = build(ModelConfig(**{**sizes, **changes}))
            for name, parameter in canonical_parameters(model).items():
                if not name.endswith(("norm.weight", "bias")) or "relative" in name:
                    torch.nn.init.normal_(parameter, 0.0, 0.4)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def t5_like():
    """What makes a small model T5's kind."""
    return T5
