"""The held-out set as batches: the same windows under the same noise at every evaluation, whatever the layout."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from megas2s.data.loader import LABELS, Batch, Columns, Corrupt, Example, collate, sample_numbers
from megas2s.data.windows import Unit, Windows
from megas2s.labels import IGNORED
from megas2s.rng import Permutation, generator

log = logging.getLogger(__name__)


class HeldOutRow(NamedTuple):
    """One held-out example and the place of its language."""

    example: Example
    language: int


def heldout_rows(
    units: Sequence[Unit], corrupt: Corrupt, *, languages: Sequence[str], rows_per_language: int, seed: int
) -> list[HeldOutRow]:
    """Up to `rows_per_language` windows of each language, a fixed choice, each under fixed noise of its own.

    A language without a window is named in a warning and left out.
    """
    rows = []
    for place, language in enumerate(languages):
        windows = [unit.windows for unit in units if unit.language == language and len(unit.windows)]
        if not windows:
            log.warning("held out: no window of language %s, its held-out loss is not measured", language)
            continue
        order = Permutation(sum(map(len, windows)), seed, "heldout windows", language)
        for number in range(min(rows_per_language, len(order))):
            rng = generator(seed, "heldout", language, number)
            rows.append(HeldOutRow(corrupt(_among(windows, order[number]), rng, number), place))
    return rows


def heldout_batches(
    rows: Sequence[HeldOutRow], columns: Columns, *, micro_batch: int, rank: int = 0, world_size: int = 1
) -> list[Batch]:
    """A rank's share of the rows. Every rank gets as many micro-batches, so that a collective pass waits for nobody.

    `sample` is a row's number. Rows that fill the last micro-batches up have no label and -1 there.
    """
    if not rows:
        return []
    round_size = micro_batch * world_size
    padded = -(-len(rows) // round_size) * round_size
    shares = sample_numbers(0, rows=padded, micro_batch=micro_batch, rank=rank, world_size=world_size)
    return [
        padded_batch([rows[min(n, len(rows) - 1)] for n in share], [n if n < len(rows) else -1 for n in share], columns)
        for share in shares
    ]


def padded_batch(rows: Sequence[HeldOutRow], numbers: Sequence[int], columns: Columns) -> Batch:
    """The rows as one batch; those of number -1 only fill it up and have no label."""
    batch = collate([row.example for row in rows], columns)
    sample = torch.tensor(numbers)
    for name in LABELS & batch.keys():
        batch[name][sample < 0] = IGNORED
    return {**batch, "language": torch.tensor([row.language for row in rows]), "sample": sample}


def _among(windows: Sequence[Windows], index: int) -> np.ndarray:
    """Window `index` of several units' windows, one after the other."""
    for unit in windows:
        if index < len(unit):
            return unit[index]
        index -= len(unit)
    raise IndexError(index)
