"""The contrast of sentences: NT-Xent between two views of each window (Chen et al. 2020; E2S2, Zhong et al. 2022).

    z        unit vectors of both views of the N windows of a group: 2 N anchors
    l(a, b)  -log( exp(a.b / t) / sum over the 2 N - 1 others of exp(a.z / t) )
    L_cl     the sum over pairs of (l(a, b) + l(b, a)) / 2

The negatives of an anchor are both views of the other windows of its group. Which windows those are is decided by their
numbers, not by the layout: a group lies inside a micro-batch, or is one micro-batch over all ranks, whose vectors are
gathered with their gradient.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from megas2s import dist


class Contrast(NamedTuple):
    """What a contrast leaves, window by window, of this rank's windows."""

    losses: Tensor  # (B,) with a graph: half of each direction
    found: Tensor  # (B,) float without a graph: the share of its two anchors whose pair was the nearest


def contrast(first: Tensor, second: Tensor, *, group: int, temperature: float) -> Contrast:
    """NT-Xent of two views (B, D) of this rank's windows in groups of `group`, B of them or B on each rank together.

    A group larger than B is gathered over the ranks. Sums and products are in float32.
    """
    rows = len(first)
    if group > rows:
        first, second = dist.gather(first), dist.gather(second)
    if len(first) % group:
        raise ValueError(f"{len(first)} windows do not divide into groups of {group}")
    views = F.normalize(torch.stack([first.float(), second.float()]), dim=-1)  # (2, N, D)
    grouped = views.view(2, -1, group, views.shape[-1]).transpose(0, 1).flatten(1, 2)  # (groups, 2 group, D)
    scores = grouped @ grouped.transpose(1, 2) / temperature
    itself = torch.eye(2 * group, dtype=torch.bool, device=scores.device)
    scores = scores.masked_fill(itself, -torch.inf)
    pair = torch.arange(2 * group, device=scores.device).roll(group)
    each = F.cross_entropy(scores.flatten(0, 1), pair.repeat(len(scores)), reduction="none")
    hits = (scores.detach().argmax(-1) == pair).float()
    own = slice(dist.place().rank * rows, (dist.place().rank + 1) * rows) if group > rows else slice(rows)
    losses, found = (values.view(-1, 2, group).mean(1).flatten()[own] for values in (each, hits))
    return Contrast(losses, found)
