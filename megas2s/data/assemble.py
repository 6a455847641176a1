"""Staged documents to shards: drop duplicates, set documents aside, cut shards, write them.

    choice = Choice(parts, ...)            what stays and where; made once, by one process
    plans = write_plans(choice, staging)   every shard to be, and which documents it has
    write_shard_of(plans[i], ...)          one of them, by whoever wants to

Which documents are held out is decided by their text's hash against their language's threshold, so that equal texts
are never on both sides, and nothing depends on order or processes. A language with two different texts or more has at
least one on either side: the text with the smallest hash is held out, the one with the largest never.

Shards are cut by counts alone, so a run that is interrupted here finds the shards that are there already.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from megas2s.data.dedup import Marks, mark_duplicates
from megas2s.data.parts import Group, Parts
from megas2s.data.shards import SHARD_DOCUMENTS, SHARD_TOKENS, ShardEntry, ShardMeta, entry_of, write_shard
from megas2s.files import disk_trouble, make_folder

PLANS = "plans"


@dataclasses.dataclass
class Tally:
    """What a language has: the columns of the summary, and what the choice of held-out documents needs."""

    documents: int = 0
    tokens: int = 0
    characters: int = 0
    heldout_documents: int = 0
    heldout_tokens: int = 0
    duplicates: int = 0
    least: int = (1 << 64) - 1  # smallest and largest first half of a hash among training documents
    most: int = 0


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


class Choice:
    """The choice among staged documents; everything in it is a function of what was staged and two flags."""

    def __init__(self, parts: Parts, staging: Path, *, deduplicate: bool, held_out: float) -> None:
        self.parts = parts
        self._threshold = int(held_out * 2**64)
        self._marks: Marks | None = None
        if deduplicate:
            everything = (records for group in sorted(parts.groups) for records in parts.records(group))
            self._marks = mark_duplicates(everything, documents=parts.documents, folder=staging / "dedup")
        self.tallies: dict[str, Tally] = {}
        for group in sorted(parts.groups):
            self._survey(group)
        for group in sorted(parts.groups):
            self._count(group)

    def shards(self) -> Iterator[tuple[ShardPlan, np.ndarray]]:
        """Every shard, in the order of `corpus.json`, by split, language, source and number; with each the starts and
        lengths (2, documents) of its documents among the flat ids of its group."""
        for split in ("train", "heldout"):
            names = sorted({(group.language, group.source) for group in self.parts.groups})
            for language, source in names:
                number = 0
                for origin in ("heldout", "train"):
                    group = Group(origin, language, source)
                    if group not in self.parts.groups:
                        continue
                    for starts, lengths in _cut(self._chosen(group, split)):
                        plan = ShardPlan(split, group, number, len(lengths), int(lengths.sum()))
                        yield plan, np.stack([starts, lengths])
                        number += 1

    def _survey(self, group: Group) -> None:
        tally = self.tallies.setdefault(group.language, Tally())
        for records in self.parts.records(group):
            kept = records[self._kept(records)]
            tally.duplicates += len(records) - len(kept)
            if group.split == "train" and len(kept):
                tally.least = min(tally.least, int(kept["high"].min()))
                tally.most = max(tally.most, int(kept["high"].max()))

    def _count(self, group: Group) -> None:
        tally = self.tallies[group.language]
        for records in self.parts.records(group):
            kept = self._kept(records)
            aside = kept & self._aside(records, group)
            tally.heldout_documents += int(aside.sum())
            tally.heldout_tokens += int(records["tokens"][aside].sum())
            tally.documents += int((kept & ~aside).sum())
            tally.tokens += int(records["tokens"][kept & ~aside].sum())
            tally.characters += int(records["characters"][kept & ~aside].sum())

    def _kept(self, records: np.ndarray) -> np.ndarray:
        if self._marks is None:
            return np.ones(len(records), bool)
        return ~self._marks[records["ordinal"].astype(np.int64)]

    def _aside(self, records: np.ndarray, group: Group) -> np.ndarray:
        """Which documents are held out."""
        if group.split == "heldout":
            return np.ones(len(records), bool)
        if self._threshold == 0:
            return np.zeros(len(records), bool)
        tally = self.tallies[group.language]
        first = records["high"]
        aside: np.ndarray = ((first < self._threshold) | (first == tally.least)) & (first != tally.most)
        return aside

    def _chosen(self, group: Group, split: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Starts and lengths of a group's documents that belong to `split`, some at a time."""
        position = 0
        for records in self.parts.records(group):
            lengths = records["tokens"].astype(np.int64)
            starts = position + np.cumsum(lengths) - lengths
            position += int(lengths.sum())
            chosen = self._kept(records) & (self._aside(records, group) == (split == "heldout"))
            yield starts[chosen], lengths[chosen]


def write_plans(choice: Choice, staging: Path) -> list[ShardPlan]:
    """Every shard that is to be, and beside them which documents each has."""
    folder = staging / PLANS
    with disk_trouble(folder):
        make_folder(folder)
        plans: list[ShardPlan] = []
        for plan, documents in choice.shards():
            np.save(folder / f"{len(plans):06d}.npy", documents)
            plans.append(plan)
    return plans


def write_shard_of(
    plan: ShardPlan, index: int, parts: Parts, corpus: Path, staging: Path, *, fingerprint: str, separator: int
) -> ShardEntry:
    """Write the shard of a plan, the one of that index, unless it is there."""
    path, group = plan.path(corpus), plan.group
    meta = ShardMeta(language=group.language, source=group.source, fingerprint=fingerprint, separator=separator)
    if path.is_file():  # a shard appears whole, and its content follows from what is staged
        return entry_of(path, plan.documents, plan.tokens, meta)
    starts, lengths = np.load(staging / PLANS / f"{index:06d}.npy", allow_pickle=False)
    return write_shard(path, lengths, parts.ids(group, _runs(starts, lengths)), dtype=parts.dtype, meta=meta)


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
