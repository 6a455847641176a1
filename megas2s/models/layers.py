"""The blocks of both stacks: lookup tables, the pre-LN encoder layer and the pre-LN decoder layer.

Pre-LN (Xiong et al. 2020): each sublayer reads the normalised stream and adds to the raw one. A block knows its own
parameters and the tensors it is given, and nothing of the model around it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megas2s.models.attention import Attention, Linear
from megas2s.models.config import ModelConfig
from megas2s.models.init import fill_normal

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu}


class Table(nn.Module):
    """A lookup table. Given `weight` it holds that same parameter: this is how embeddings are tied."""

    def __init__(self, rows: int, width: int, *, init_std: float, weight: nn.Parameter | None = None) -> None:
        super().__init__()
        if weight is None:
            weight = nn.Parameter(torch.empty(rows, width))
            fill_normal(weight, init_std)
        self.weight = weight

    def forward(self, ids: Tensor) -> Tensor:
        """One row per id: (...) -> (..., D)."""
        return F.embedding(ids, self.weight)


class EmbedNorm(nn.LayerNorm):
    """The norm over summed embeddings, with the dropout that follows it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config.hidden_size, eps=config.norm_epsilon)
        self.dropout = config.dropout

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, S, D) -> (B, S, D)."""
        return drop(super().forward(hidden), self.dropout, self.training)


class FeedForward(nn.Module):
    """Two linear maps with an activation between them, position by position."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        self.up = Linear(config.hidden_size, config.ffn_size, init_std=config.init_std)
        self.down = Linear(config.ffn_size, config.hidden_size, init_std=config.init_std)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, S, D) -> (B, S, D)."""
        output: Tensor = self.down(self.activation(self.up(hidden)))
        return output


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.self_attention = Attention(config)
        self.self_attention_norm = norm(config)
        self.ffn = FeedForward(config)
        self.ffn_norm = norm(config)

    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, S, D) -> (B, S, D); `mask` broadcasts to (B, H, S, S)."""
        normed = self.self_attention_norm(hidden)
        hidden = hidden + drop(self.self_attention(normed, normed, mask), self.dropout, self.training)
        return hidden + drop(self.ffn(self.ffn_norm(hidden)), self.dropout, self.training)


class DecoderLayer(nn.Module):
    """Causal self-attention, attention over the encoder's states, and feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.self_attention = Attention(config)
        self.self_attention_norm = norm(config)
        self.cross_attention = Attention(config)
        self.cross_attention_norm = norm(config)
        self.ffn = FeedForward(config)
        self.ffn_norm = norm(config)

    def forward(
        self, hidden: Tensor, memory: Tensor, self_mask: Tensor | None = None, cross_mask: Tensor | None = None
    ) -> Tensor:
        """(B, T, D), (B, S, D) -> (B, T, D). Without `self_mask` the layer is causal; with it, the mask says all."""
        normed = self.self_attention_norm(hidden)
        mixed = self.self_attention(normed, normed, self_mask, causal=self_mask is None)
        hidden = hidden + drop(mixed, self.dropout, self.training)
        mixed = self.cross_attention(self.cross_attention_norm(hidden), memory, cross_mask)
        hidden = hidden + drop(mixed, self.dropout, self.training)
        return hidden + drop(self.ffn(self.ffn_norm(hidden)), self.dropout, self.training)


def norm(config: ModelConfig) -> nn.LayerNorm:
    """A layer norm of the model's width, ones and zeros to begin with."""
    return nn.LayerNorm(config.hidden_size, eps=config.norm_epsilon)


def drop(hidden: Tensor, probability: float, training: bool) -> Tensor:
    """Dropout that starts no kernel where there is nothing to drop."""
    return F.dropout(hidden, probability) if training and probability else hidden
