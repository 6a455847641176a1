"""Multi-head attention (Vaswani et al. 2017) through torch's fused kernels, and the masks it reads.

A mask is boolean, True where a query may look, or a float that is added to the scores, and broadcasts to
(B, H, T, S). No mask at all is the fast path: full rows, and `causal` alone for a decoder, whose padding lies on the
right where no real position looks. Where a row's parts look at one another by rules of their own there are `Blocks`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megas2s.models.config import ModelConfig
from megas2s.models.lowrank import linear


class Tail(NamedTuple):
    """The last positions of a row ask, nobody else: `mask` broadcasts to (B, H, size, S)."""

    mask: Tensor | None
    size: int


class Blocks(NamedTuple):
    """A row in blocks, one after the other: each looks at the keys up to its own end, through a mask of its own.

    A mask broadcasts to (B, H, size of the block, keys up to its end); None hides none of those. No score is computed
    between a block and those behind it (Bao et al. 2021, the `split_lengths` of s2s-ft's code).
    """

    sizes: tuple[int, ...]
    masks: tuple[Tensor | None, ...]

    def tail(self) -> Tail:
        """The last block alone."""
        return Tail(self.masks[-1], self.sizes[-1])

    def each(self, make: Callable[[slice, slice, Tensor | None], Tensor]) -> list[Tensor]:
        """What `make` gives for the queries, the keys and the mask of each block."""
        found, stop = [], 0
        for size, mask in zip(self.sizes, self.masks, strict=True):
            start, stop = stop, stop + size
            found.append(make(slice(start, stop), slice(stop), mask))
        return found


Mask = Tensor | Blocks | None
KeysValues = tuple[Tensor, Tensor]  # (B, H, S, width of a head) each


class Attention(nn.Module):
    """Queries from one sequence, keys and values from the same or another.

    `keys_values` and `attend` are apart so that decoding can keep the keys and values of earlier positions.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.num_heads * config.head_width
        self.num_heads = config.num_heads
        self.scale = None if config.scale_attention else 1.0
        self.dropout = config.attention_dropout
        self.q = linear(config, "q", width, inner)
        self.k = linear(config, "k", width, inner)
        self.v = linear(config, "v", width, inner)
        self.out = linear(config, "out", inner, width)

    def forward(self, hidden: Tensor, memory: Tensor, mask: Mask = None, *, causal: bool = False) -> Tensor:
        """What positions of `hidden` (B, T, D) gather from `memory` (B, S, D): (B, T, D)."""
        keys, values = self.keys_values(memory)
        return self.attend(hidden, keys, values, mask, causal=causal)

    def keys_values(self, memory: Tensor) -> KeysValues:
        """(B, S, D) -> twice (B, H, S, width of a head)."""
        return self._heads(self.k(memory)), self._heads(self.v(memory))

    def attend(
        self, hidden: Tensor, keys: Tensor, values: Tensor, mask: Mask = None, *, causal: bool = False
    ) -> Tensor:
        """Attention of `hidden` (B, T, D) over given keys and values (B, H, S, width of a head): (B, T, D)."""
        queries = self._heads(self.q(hidden))
        dropout = self.dropout if self.training else 0.0

        def mix(asking: slice, seen: slice, mask: Tensor | None) -> Tensor:
            return F.scaled_dot_product_attention(
                queries[:, :, asking],
                keys[:, :, seen],
                values[:, :, seen],
                mask,
                dropout_p=dropout,
                is_causal=causal,
                scale=self.scale,
            )

        whole = slice(None)
        mixed = torch.cat(mask.each(mix), dim=2) if isinstance(mask, Blocks) else mix(whole, whole, mask)
        output: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return output

    def attend_both(self, hidden: Tensor, shared: KeysValues, own: KeysValues, mask: Tensor) -> Tensor:
        """Attention of `hidden` (R, n, D) over keys that R / B rows side by side share, (B, H, S, .), and own ones,
        (R, H, t, .), as if they were one sequence: (R, n, D). Without dropout; `mask` is (R, 1 or H, n, S + t).
        """
        queries = self._heads(self.q(hidden))
        rows, heads, count, width = queries.shape
        sources = len(shared[0])

        def together(values: Tensor) -> Tensor:  # (R, H, n, x) -> (B, H, copies x n, x)
            return values.view(sources, -1, heads, count, values.shape[-1]).transpose(1, 2).flatten(2, 3)

        def apart(values: Tensor) -> Tensor:
            return (
                values.view(sources, heads, -1, count, values.shape[-1]).transpose(1, 2).reshape(rows, heads, count, -1)
            )

        queries = queries * (width**-0.5 if self.scale is None else self.scale)
        before = apart(together(queries) @ shared[0].transpose(-1, -2))
        scores = torch.cat([before, queries @ own[0].transpose(-1, -2)], dim=-1)
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        weights = scores.softmax(dim=-1, dtype=torch.float32).to(queries.dtype)
        border = shared[0].shape[2]
        mixed = apart(together(weights[..., :border].contiguous()) @ shared[1]) + weights[..., border:] @ own[1]
        output: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return output

    def _heads(self, states: Tensor) -> Tensor:
        return states.view(*states.shape[:2], self.num_heads, -1).transpose(1, 2)


def padding_mask(attention_mask: Tensor) -> Tensor:
    """Keys that are no padding: (B, S) -> (B, 1, 1, S)."""
    return attention_mask.bool()[:, None, None, :]


def segment_mask(queries: Tensor, keys: Tensor) -> Tensor:
    """Positions of one segment see each other: (B, T), (B, S) -> (B, 1, T, S).

    A query whose segment has no key sees every key: a softmax over nothing is not a number and would spread.
    """
    same = queries[:, None, :, None] == keys[:, None, None, :]
    return same | ~same.any(dim=-1, keepdim=True)


def causal_mask(length: int, device: torch.device) -> Tensor:
    """Each position sees itself and what lies before it: (T, T)."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


def segment_positions(segments: Tensor) -> Tensor:
    """Positions that begin at 0 in each segment of a row: (B, S) -> (B, S)."""
    index = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    starts = torch.ones_like(segments, dtype=torch.bool)
    starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return index - torch.where(starts, index, 0).cummax(dim=1).values
