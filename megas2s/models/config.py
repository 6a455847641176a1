"""The shape of a model: a few orthogonal switches, each read in exactly one module of this room."""

from __future__ import annotations

import dataclasses
from typing import Literal

from megas2s.spec import spec

Tying = Literal["tied", "tied_to_decoder", "untied"]


@spec
class ModelConfig:
    """An encoder (`num_decoder_layers` = 0) or an encoder-decoder. Lengths are in tokens."""

    vocab_size: int
    hidden_size: int
    num_heads: int
    ffn_size: int
    num_encoder_layers: int
    num_decoder_layers: int = 0
    max_positions: int = 512
    tying: Tying = "tied"  # which embedding matrices are one; an encoder's MLM head is always tied to its embedding
    activation: Literal["gelu", "relu"] = "gelu"
    norm_epsilon: float = 1e-5  # MBart's layer norms have this one and no key to change it
    dropout: float = 0.1
    attention_dropout: float = 0.0
    init_std: float = 0.02
    pad_id: int = 1

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "num_heads", "ffn_size", "num_encoder_layers", "max_positions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_decoder_layers < 0:
            raise ValueError(f"num_decoder_layers must be 0 (an encoder) or more, got {self.num_decoder_layers}")
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not divisible by num_heads {self.num_heads}")
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")

    @property
    def is_seq2seq(self) -> bool:
        """Whether there is a decoder."""
        return self.num_decoder_layers > 0

    def encoder_only(self) -> ModelConfig:
        """The encoder's half of this model."""
        return dataclasses.replace(self, num_decoder_layers=0, tying="tied")
