"""Source and target in one row of an encoder, which a mask makes a writer (Bao et al. 2021, s2s-ft, figure 1).

    block       source           target           pseudo
    tokens      [CLS] x [SEP]    y1 y2 [SEP]      P1 P2 P3
    positions   0  1  2          3  4  5          3  4  5
    sees        the source       the source,      the source, the target before it, itself
                                 the target up
                                 to itself

A pseudo token stands where the target's token of the same place stands, and nobody else sees it. Positions go on where
a row's own source ends, whatever it was padded to. With spans instead of places, a token sees the target up to the end
of its span, and pseudo tokens of one span each other: several are written at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from megas2s.models.attention import Blocks, padding_mask
from megas2s.models.config import ModelConfig
from megas2s.models.stacks import check_positions


class Packed(NamedTuple):
    """What an encoder is given: L = S + T columns, S + 2 T with pseudo tokens."""

    ids: Tensor  # (B, L)
    positions: Tensor  # (B, L)
    types: Tensor | None  # (1, L): 0 for the source, 1 for what is written
    blocks: Blocks


def pack(batch: Mapping[str, Tensor], config: ModelConfig) -> Packed:
    """The row of `input_ids` (B, S), `target_ids` (B, T) and, where there are some, `pseudo_ids` (B, T).

    `attention_mask` (B, S) says where a source ends; `target_spans` (B, T) are numbers that ascend from span to span.
    """
    source, target, pseudo = batch["input_ids"], batch["target_ids"], batch.get("pseudo_ids")
    real = batch.get("attention_mask")
    width, count = source.shape[1], target.shape[1]
    check_positions(width + count, config.longest_row)
    place = torch.arange(count, device=source.device)[None]
    ends = source.new_full((len(source), 1), width) if real is None else real.sum(dim=1, keepdim=True)
    written = [target] if pseudo is None else [target, pseudo]
    before = torch.arange(width, device=source.device).expand(len(source), -1)
    types = torch.cat([torch.zeros_like(before[:1]), *(torch.ones_like(place) for _ in written)], dim=1)
    return Packed(
        ids=torch.cat([source, *written], dim=1),
        positions=torch.cat([before, *(ends + place for _ in written)], dim=1),
        types=types if config.segment_types > 1 else None,
        blocks=_blocks(source, real, batch.get("target_spans", place), pseudo=pseudo is not None),
    )


def _blocks(source: Tensor, real: Tensor | None, order: Tensor, *, pseudo: bool) -> Blocks:
    """Who sees whom, where `order` (B or 1, T) says which tokens of a target come before which."""
    (rows, width), count = source.shape, order.shape[1]
    padding = None if real is None else padding_mask(real)
    seen = torch.ones_like(source, dtype=torch.bool)[:, None, None, :] if padding is None else padding
    seen = seen.expand(rows, 1, count, width)
    keys, queries = order[:, None, None, :], order[:, None, :, None]

    def among(visible: Tensor) -> Tensor:
        return visible.expand(rows, 1, count, count)

    own = torch.cat([seen, among(keys <= queries)], dim=-1)
    if not pseudo:
        return Blocks((width, count), (padding, own))
    guess = torch.cat([seen, among(keys < queries), among(keys == queries)], dim=-1)
    return Blocks((width, count, count), (padding, own, guess))
