"""Shapes with a name: what a recipe's `model: {preset: ...}` stands for. The vocabulary is the corpus's own.

Widths, heads and depths only; how embeddings are tied is a stage's decision.
"""

from __future__ import annotations

import math
from typing import Final

from megas2s.models.config import ModelConfig
from megas2s.models.parameters import parameter_shapes

PRESETS: Final[dict[str, dict[str, int | float]]] = {
    # For tests and the quickstart.
    "tiny": {
        "hidden_size": 128,
        "num_heads": 4,
        "ffn_size": 512,
        "num_encoder_layers": 2,
        "num_decoder_layers": 2,
        "max_positions": 128,
    },
    "small": {
        "hidden_size": 512,
        "num_heads": 8,
        "ffn_size": 2048,
        "num_encoder_layers": 6,
        "num_decoder_layers": 6,
        "max_positions": 512,
    },
    "base": {
        "hidden_size": 768,
        "num_heads": 12,
        "ffn_size": 3072,
        "num_encoder_layers": 12,
        "num_decoder_layers": 12,
        "max_positions": 512,
    },
    # The pair of arXiv 2306.08756; max_positions as in mBART.
    "encoder12_decoder12_1024": {
        "hidden_size": 1024,
        "num_heads": 16,
        "ffn_size": 4096,
        "num_encoder_layers": 12,
        "num_decoder_layers": 12,
        "max_positions": 1024,
    },
    # AlexaTM 20B, arXiv 2208.01448, table 1; dropout as in its released configuration.
    "alexatm_20b": {
        "hidden_size": 4096,
        "num_heads": 32,
        "ffn_size": 16384,
        "num_encoder_layers": 46,
        "num_decoder_layers": 32,
        "max_positions": 1024,
    },
}


def count_parameters(config: ModelConfig) -> int:
    """Distinct parameters; a matrix with several roles counts once."""
    return sum(math.prod(shape) for shape in parameter_shapes(config).values())
