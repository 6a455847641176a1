"""What reads the last states: the projections onto the vocabulary of decoder and encoder, and classifiers.

A vocabulary head holds its matrix itself, also where it is the embedding's: DeepSpeed's ZeRO-3 gathers a parameter
around the modules that hold it. It is called with the positions to predict and their labels, so that logits are made
for those alone and in chunks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megas2s.models.config import ModelConfig
from megas2s.models.layers import drop, norm
from megas2s.models.loss import Smoothing, cross_entropy
from megas2s.models.lowrank import Linear
from megas2s.models.output import TokenLoss


class VocabularyHead(nn.Module):
    """The projection of decoder states; no bias."""

    def __init__(self, config: ModelConfig, *, weight: nn.Parameter | None = None) -> None:
        super().__init__()
        shape = (config.vocab_size, config.hidden_size)
        self.weight = nn.Parameter(torch.empty(shape)) if weight is None else weight
        self.scale = config.hidden_size**-0.5 if config.scale_head else None
        self.pad_id = config.pad_id

    def forward(
        self, hidden: Tensor, labels: Tensor | None = None, *, drop_ignored: bool = True, smoothing: float = 0.0
    ) -> TokenLoss | Tensor:
        """The loss of `labels` (N,) at `hidden` (N, D); without labels the logits (..., V) of `hidden` (..., D)."""
        if self.scale is not None:
            hidden = hidden * self.scale
        if labels is None:
            return F.linear(hidden, self.weight)
        smoothed = Smoothing(smoothing, self.pad_id)
        return cross_entropy(hidden, self.weight, labels, drop_ignored=drop_ignored, smoothing=smoothed)


class MaskedHead(nn.Module):
    """RoBERTa's head (Liu et al. 2019): dense, gelu, norm, then the embedding matrix and a bias per entry.

    The dense map leads to the width of the embeddings.
    """

    def __init__(self, config: ModelConfig, *, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        width, narrow = config.hidden_size, config.embedding_width
        self.dense = Linear(width, narrow)
        self.norm = norm(config, width=narrow)
        self.pad_id = config.pad_id

    def forward(
        self, hidden: Tensor, labels: Tensor | None = None, *, drop_ignored: bool = True, smoothing: float = 0.0
    ) -> TokenLoss | Tensor:
        """The loss of `labels` (N,) at `hidden` (N, D); without labels the logits (..., V) of `hidden` (..., D)."""
        hidden = self.norm(F.gelu(self.dense(hidden)))
        if labels is None:
            return F.linear(hidden, self.weight, self.bias)
        smoothed = Smoothing(smoothing, self.pad_id)
        return cross_entropy(hidden, self.weight, labels, bias=self.bias, drop_ignored=drop_ignored, smoothing=smoothed)


class TokenHead(Linear):
    """Scores of a few classes for each token, after dropout (Devlin et al. 2019; E2S2, Zhong et al. 2022)."""

    def __init__(self, config: ModelConfig) -> None:
        width = config.hidden_size
        super().__init__(width, config.token_classes)
        self.dropout = config.dropout

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., classes)."""
        return super().forward(drop(hidden, self.dropout, self.training))


class TextHead(nn.Module):
    """Scores of a few classes, or one number, for a text: a dense map, tanh and a linear one, as RoBERTa and BART."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.dropout = config.dropout
        self.dense = Linear(width, width)
        self.out = Linear(width, config.text_classes)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, D), one state of each text -> (B, classes)."""
        hidden = torch.tanh(self.dense(drop(hidden, self.dropout, self.training)))
        scores: Tensor = self.out(drop(hidden, self.dropout, self.training))
        return scores
