"""From hidden states and labels to a named part of a loss: one sum with a graph, one sum per row without."""

from __future__ import annotations

import math

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
    found = loss(hidden.flatten(0, 1), labels.flatten())
    return Part(found.total, weight, found.each.view(labels.shape).sum(dim=1))


def at_positions(hidden: Tensor, positions: Tensor) -> Tensor:
    """The states at `positions`: (B, S, D), (B, k) -> (B, k, D)."""
    return hidden.gather(1, positions.unsqueeze(-1).expand(-1, -1, hidden.size(-1)))


def check_weight(weight: float, warm_in_steps: int) -> None:
    """Refuse a weight that turns a part off, and a warm-in that ends before it begins."""
    if not 0 < weight < math.inf:
        raise ValueError(
            f"weight must be above 0 and finite, got {weight}; null instead of the whole part turns it off"
        )
    if warm_in_steps < 0:
        raise ValueError(f"warm_in_steps must not be negative, got {warm_in_steps}")


def warmed(weight: float, warm_in_steps: int, step: int | None) -> float:
    """The weight of a part at a step: linear up to `weight` in its first steps; `weight` where there is no step."""
    return weight if step is None else weight * min(1.0, (step + 1) / max(1, warm_in_steps))
