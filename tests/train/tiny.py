"""A model of a few hundred numbers, and what its checkpoints are bound to."""

from __future__ import annotations

from megas2s.models.config import ModelConfig

CONFIG = ModelConfig(vocab_size=32, hidden_size=8, num_heads=2, ffn_size=8, num_encoder_layers=1, max_positions=8)
BINDING = {"seed": "17", "stage.schedule.lr": "0.001"}
