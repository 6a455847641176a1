"""The blocks of both stacks: lookup tables, norms, the encoder layer and the decoder layer.

    pre     x + sublayer(norm(x))         the stream stays raw (Xiong et al. 2020); the stack ends in a norm of its own
    post    norm(x + sublayer(x))         the stream is normed (Vaswani et al. 2017)

A block knows its own parameters and the tensors it is given, and nothing of the model around it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megas2s.models.attention import Attention, Mask, Tail
from megas2s.models.config import ModelConfig
from megas2s.models.lowrank import linear

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


class Table(nn.Module):
    """A lookup table. Given `weight` it holds that same parameter: this is how embeddings are tied."""

    def __init__(self, rows: int, width: int, *, weight: nn.Parameter | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width)) if weight is None else weight

    def forward(self, ids: Tensor) -> Tensor:
        """One row per id: (...) -> (..., D)."""
        return F.embedding(ids, self.weight)


class Norm(nn.Module):
    """A layer norm, or without a bias one that neither centres nor shifts (Zhang and Sennrich 2019); may drop out what
    it returns."""

    def __init__(self, width: int, *, bias: bool, eps: float, dropout: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None
        self.eps = eps
        self.dropout = dropout

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        if self.bias is None:
            normed = F.rms_norm(hidden, self.weight.shape, self.weight, self.eps)
        else:
            normed = F.layer_norm(hidden, self.weight.shape, self.weight, self.bias, self.eps)
        return drop(normed, self.dropout, self.training)


def norm(config: ModelConfig, *, width: int | None = None, dropout: float = 0.0) -> nn.Module:
    """The model's norm, over `hidden_size` unless `width` says otherwise; ones and zeros to begin with."""
    bias = config.norm == "layer"
    return Norm(width or config.hidden_size, bias=bias, eps=config.norm_epsilon, dropout=dropout)


class FeedForward(nn.Module):
    """Two linear maps with an activation between them, position by position; gated, the activation weighs a third."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.ffn_size
        self.activation = ACTIVATIONS[config.activation]
        self.dropout = config.ffn_dropout
        self.gate = linear(config, "gate", width, inner) if config.gated else None
        self.up = linear(config, "up", width, inner)
        self.down = linear(config, "down", inner, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, S, D) -> (B, S, D)."""
        if self.gate is None:
            inner = self.activation(self.up(hidden))
        else:
            inner = self.activation(self.gate(hidden)) * self.up(hidden)
        output: Tensor = self.down(drop(inner, self.dropout, self.training))
        return output


class Layer(nn.Module):
    """What the layers of both stacks share: how a sublayer joins the stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.pre = config.norm_position == "pre"

    def add(self, hidden: Tensor, norm: nn.Module, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """The stream (B, S, D) after a sublayer and its residual."""
        added = hidden + drop(sublayer(norm(hidden) if self.pre else hidden), self.dropout, self.training)
        stream: Tensor = added if self.pre else norm(added)
        return stream


class EncoderLayer(Layer):
    """Self-attention and feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.self_attention = Attention(config)
        self.self_attention_norm = norm(config)
        self.ffn = FeedForward(config)
        self.ffn_norm = norm(config)

    def forward(self, hidden: Tensor, mask: Mask | Tail = None) -> Tensor:
        """(B, S, D) -> (B, S, D); `mask` broadcasts to (B, H, S, S).

        Given `Tail` the states of the last positions alone, (B, size, D), which still look at all others.
        """
        norm = self.self_attention_norm
        if isinstance(mask, Tail):
            memory = norm(hidden) if self.pre else hidden
            hidden = self.add(hidden[:, -mask.size :], norm, lambda x: self.self_attention(x, memory, mask.mask))
        else:
            hidden = self.add(hidden, norm, lambda x: self.self_attention(x, x, mask))
        return self.add(hidden, self.ffn_norm, self.ffn)


class DecoderLayer(Layer):
    """Causal self-attention, attention over the encoder's states, and feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
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
        hidden = self.add(
            hidden,
            self.self_attention_norm,
            lambda x: self.self_attention(x, x, self_mask, causal=self_mask is None),
        )
        hidden = self.add(hidden, self.cross_attention_norm, lambda x: self.cross_attention(x, memory, cross_mask))
        return self.add(hidden, self.ffn_norm, self.ffn)


def drop(hidden: Tensor, probability: float, training: bool) -> Tensor:
    """Dropout that starts no kernel where there is nothing to drop."""
    return F.dropout(hidden, probability) if training and probability else hidden
