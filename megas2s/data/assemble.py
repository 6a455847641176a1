"""Staged documents to shards: plan them by the choice of documents, write them.

    plans = write_plans(choice, staging)   every shard to be, and which documents it has; by one process
    write_shard_of(plans[i], ...)          one of them, by whoever wants to

Shards are cut by counts alone, so a run that is interrupted here goes on with those that have no entry yet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from megas2s.data.arrays import load_array, save_array
from megas2s.data.choice import Choice
from megas2s.data.parts import Group, Parts
from megas2s.data.shards import SHARD_DOCUMENTS, SHARD_TOKENS, ShardEntry, ShardMeta, write_shard
from megas2s.files import disk_trouble, hash_file, make_folder, read_json, sync_folder, write_json

PLANS = "plans"
ENTRIES = "entries"  # what `corpus.json` will say of each shard


class ShardPlan(NamedTuple):
    """One shard to be. Which documents of its group it has lies in `PLANS`."""

    split: str
    group: Group
    number: int
    documents: int
    tokens: int

    def path(self, corpus: Path) -> Path:
        """Where the shard lies."""
        return corpus / self.split / self.group.language / f"{self.group.source}-{self.number:05d}.arrow"


def write_plans(choice: Choice, staging: Path) -> list[ShardPlan]:
    """Every shard that is to be, and beside them which documents each has."""
    folder = staging / PLANS
    with disk_trouble(folder):
        make_folder(folder)
        plans: list[ShardPlan] = []
        for plan, documents in _shards(choice):
            save_array(folder / f"{len(plans):06d}.npy", documents)
            plans.append(plan)
        sync_folder(folder)
    return plans


def write_shard_of(
    plan: ShardPlan, index: int, parts: Parts, corpus: Path, staging: Path, *, fingerprint: str, separator: int
) -> ShardEntry:
    """Write the shard of a plan, the one of that index, and last its entry, unless both are there and agree."""
    path, group = plan.path(corpus), plan.group
    known = _known(plan, index, corpus, staging)
    if known is not None:
        return known
    meta = ShardMeta(language=group.language, source=group.source, fingerprint=fingerprint, separator=separator)
    starts, lengths = load_array(staging / PLANS / f"{index:06d}.npy", corpus)
    entry = write_shard(path, lengths, parts.ids(group, _runs(starts, lengths)), dtype=parts.dtype, meta=meta)
    write_json(_entry_place(staging, index), {**dataclasses.asdict(entry), "path": str(path)})
    return entry


def read_entry(plan: ShardPlan, index: int, corpus: Path, staging: Path) -> ShardEntry:
    """What `corpus.json` will say of a shard that has been written."""
    return ShardEntry(**{**read_json(_entry_place(staging, index)), "path": plan.path(corpus)})


def _entry_place(staging: Path, index: int) -> Path:
    return staging / ENTRIES / f"{index:06d}.json"


def _known(plan: ShardPlan, index: int, corpus: Path, staging: Path) -> ShardEntry | None:
    """The entry of a shard that an interrupted run has written, if the file is what the entry says."""
    try:
        entry = read_entry(plan, index, corpus, staging)
        size = entry.path.stat().st_size
    except (FileNotFoundError, ValueError, TypeError):
        return None
    planned = (entry.documents, entry.tokens) == (plan.documents, plan.tokens)
    return entry if planned and size == entry.bytes and hash_file(entry.path) == entry.sha256 else None


def _shards(choice: Choice) -> Iterator[tuple[ShardPlan, np.ndarray]]:
    """Every shard, in the order of `corpus.json`, by split, language, source and number; with each the starts and
    lengths (2, documents) of its documents among the flat ids of its group."""
    for split in ("train", "heldout"):
        names = sorted({(group.language, group.source) for group in choice.parts.groups})
        for language, source in names:
            number = 0
            for origin in ("heldout", "train"):
                group = Group(origin, language, source)
                if group not in choice.parts.groups:
                    continue
                for starts, lengths in _cut(choice.chosen(group, split)):
                    plan = ShardPlan(split, group, number, len(lengths), int(lengths.sum()))
                    yield plan, np.stack([starts, lengths])
                    number += 1


def _runs(starts: np.ndarray, lengths: np.ndarray) -> Iterator[tuple[int, int]]:
    """From where to where the ids of neighbouring documents lie: they are read together."""
    breaks = np.flatnonzero(starts[1:] != starts[:-1] + lengths[:-1]) + 1
    first = np.concatenate([[0], breaks])
    last = np.concatenate([breaks, [len(starts)]]) - 1
    ends = starts[last] + lengths[last]
    return zip(starts[first].tolist(), ends.tolist(), strict=True)


def _cut(parts: Iterator[tuple[np.ndarray, np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Join parts and cut them into shards of at most SHARD_TOKENS and SHARD_DOCUMENTS, or of one longer document."""
    starts = lengths = np.empty(0, np.int64)
    for more_starts, more_lengths in parts:
        starts, lengths = np.concatenate([starts, more_starts]), np.concatenate([lengths, more_lengths])
        while (fits := _fitting(lengths)) < len(lengths):
            yield starts[:fits], lengths[:fits]
            starts, lengths = starts[fits:], lengths[fits:]
    if len(lengths):
        yield starts, lengths


def _fitting(lengths: np.ndarray) -> int:
    """How many documents from the front go into one shard."""
    by_tokens = int(np.searchsorted(np.cumsum(lengths), SHARD_TOKENS, side="right"))
    return min(max(1, by_tokens), SHARD_DOCUMENTS) if len(lengths) else 0
