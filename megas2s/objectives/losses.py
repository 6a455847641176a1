"""From hidden states and labels to a named part of a loss: one sum with a graph, one sum per row without."""

from __future__ import annotations

from torch import Tensor

from megas2s.labels import IGNORED
from megas2s.models.output import VocabularyLoss
from megas2s.objectives.base import Part


def label_counts(labels: Tensor) -> Tensor:
    """How many labels of each row carry loss: (B, N) -> (B,) float."""
    return (labels != IGNORED).sum(dim=1).float()


def vocabulary_part(loss: VocabularyLoss, hidden: Tensor, labels: Tensor, *, weight: float = 1.0) -> Part:
    """Cross-entropy of `labels` (B, N) given `hidden` (B, N, D); ignored labels count nothing.

    The model's head skips the work for ignored positions where the batch says that rows are padded.
    """
    total, each = loss(hidden.flatten(0, 1), labels.flatten())
    return Part(total, weight, each.view(labels.shape).sum(dim=1))


def at_positions(hidden: Tensor, positions: Tensor) -> Tensor:
    """The states at `positions`: (B, S, D), (B, k) -> (B, k, D)."""
    return hidden.gather(1, positions.unsqueeze(-1).expand(-1, -1, hidden.size(-1)))
