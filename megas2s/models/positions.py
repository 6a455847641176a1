"""Relative positions: a learned bias on the attention scores for each distance between query and key (T5).

    distance   0  1  2 ... 7 | 8 ... 11 | 12 ... 15 | ... | 128 and more
    bucket     0  1  2 ... 7 |    8     |     9     | ... |      15            of 16 in each direction

Raffel et al. 2020, section 2.1: one table per stack, (buckets, H), read by all its layers. Half of the buckets of a
direction are single distances, the rest grows with their logarithm. An encoder looks both ways, a decoder back.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megas2s.models.config import ModelConfig


class RelativeBias(nn.Module):
    """The table of one stack. It makes the mask of the whole stack at once: bias, and what may not be seen."""

    def __init__(self, config: ModelConfig, *, causal: bool) -> None:
        super().__init__()
        self.max_distance = config.relative_max_distance
        self.causal = causal
        self.weight = nn.Parameter(torch.empty(config.relative_buckets, config.num_heads))

    def forward(self, queries: Tensor, keys: Tensor, mask: Tensor | None, dtype: torch.dtype) -> Tensor:
        """What is added to the scores between positions (B, T) and (B, S), in `dtype`: (B, H, T, S).

        `mask` is boolean and broadcasts to (B, H, T, S); a causal table without one lets each position look back.
        B may be 1, for all rows.
        """
        distance = keys[:, None, :] - queries[:, :, None]  # of the key from the query
        found = buckets(distance, len(self.weight), self.max_distance, causal=self.causal)
        # In float32, so that the gradient is: each row of the table is read by thousands of positions, and a CPU adds
        # up a lookup's gradient in the dtype of the table.
        bias = F.embedding(found, self.weight.float()).permute(0, 3, 1, 2).to(dtype)
        if mask is None:
            if not self.causal:
                return bias
            mask = (distance <= 0)[:, None]
        return bias.masked_fill(~mask, -math.inf)


def buckets(distance: Tensor, count: int, max_distance: int, *, causal: bool) -> Tensor:
    """The bucket of each distance (key minus query), of `count` in all; keys ahead of a causal query share bucket 0."""
    if causal:
        side, count, away = torch.zeros_like(distance), count, (-distance).clamp(min=0)
    else:
        count //= 2
        side, away = (distance > 0).long() * count, distance.abs()
    exact = count // 2
    growth = torch.log(away.float() / exact) / math.log(max_distance / exact) * (count - exact)
    far = exact + growth.clamp(min=0).long()
    return side + torch.where(away < exact, away, far.clamp(max=count - 1))
