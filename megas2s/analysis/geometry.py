"""Alignment and uniformity of sentence representations (Wang and Isola 2020, arXiv 2005.10242).

    alignment     mean of |x - y|^2 over the two views of each sentence         0: the views are one point
    uniformity    ln of the mean of exp(-2 |x - y|^2) over pairs of sentences   0: all are one point; -4 at best, about

Both are of unit vectors, and lower is better. A representation is the mean of the encoder's states over a row's real
positions. Two kinds of views: E2S2's, a sentence and the same sentence under its noise (words shuffled, tokens
replaced); and dropout's, the same sentence twice through a model that drops out (SimCSE, Gao et al. 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from megas2s.analysis.passes import Pass, pooled
from megas2s.models.config import ModelConfig
from megas2s.models.transformer import EncoderModel, Seq2SeqModel
from megas2s.objectives.disorder import disorder
from megas2s.rng import generator, torch_seed
from megas2s.tokenizer.vocab import Vocabulary

Views = Literal["noise", "dropout"]
SHUFFLE, REPLACE = 0.05, 0.15  # E2S2's: n-grams per token, and share of tokens
DROPOUTS = ("dropout", "attention_dropout", "ffn_dropout", "output_dropout")


def alignment(first: Tensor, second: Tensor) -> float:
    """Of two views (N, D) of N sentences."""
    return float((F.normalize(first, dim=-1) - F.normalize(second, dim=-1)).square().sum(-1).mean())


def uniformity(states: Tensor) -> float:
    """Of sentences (N, D), at least two."""
    squared = torch.pdist(F.normalize(states, dim=-1)).square()
    return float(squared.mul(-2).exp().mean().log())


def noised(rows: Sequence[np.ndarray], vocabulary: Vocabulary, *, seed: int) -> list[np.ndarray]:
    """Each row under E2S2's noise, which is its own: a row has the same whatever stands beside it."""
    return [
        disorder(row, generator(seed, "view", row.tobytes().hex()), vocabulary, shuffle=SHUFFLE, replace=REPLACE).tokens
        for row in rows
    ]


def drops_out(config: ModelConfig) -> bool:
    """Whether the model has any dropout to make views with."""
    return any(getattr(config, name) for name in DROPOUTS)


def pooled_with_dropout(model: EncoderModel | Seq2SeqModel, batches: Sequence[Pass], *, seed: int, view: int) -> Tensor:
    """`pooled` of a model in training mode, which is put back into evaluation afterwards."""
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(torch_seed(seed, "dropout view", view))
        model.train()
        try:
            return pooled(model, batches)
        finally:
            model.eval()
