"""Staged documents to shards: drop duplicates, set documents aside, cut shards, write them.

Which documents are held out is decided by their text's hash against their language's threshold, so that equal texts
are never on both sides, and nothing depends on order or processes. A language with two different texts or more has at
least one on either side: the text with the smallest hash is held out, the one with the largest never.

Shards are cut by counts alone, so a run that is interrupted here finds the shards it has already written.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from megas2s.data.dedup import Marks, mark_duplicates
from megas2s.data.shards import SHARD_DOCUMENTS, SHARD_TOKENS, ShardEntry, ShardMeta, entry_of, write_shard
from megas2s.data.staging import Group, Staging
from megas2s.errors import BadData

PIECE = 1 << 20  # ids copied at once
MOST_THREADS = 8


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


@dataclasses.dataclass(frozen=True)
class ShardPlan:
    """One shard to be: where its documents lie in the flat ids of its group."""

    split: str
    group: Group
    number: int
    starts: np.ndarray  # int64 (documents,)
    lengths: np.ndarray


class Assembly:
    """The choice among staged documents; everything in it is a function of what was staged and two flags."""

    def __init__(self, staging: Staging, *, deduplicate: bool, held_out: float) -> None:
        self.staging = staging
        self._threshold = int(held_out * 2**64)
        self._marks: Marks | None = None
        if deduplicate:
            everything = (part for group in sorted(staging.groups) for part in staging.records(group))
            self._marks = mark_duplicates(everything, documents=staging.documents, folder=staging.folder / "dedup")
        self.tallies: dict[str, Tally] = {}
        for group in sorted(staging.groups):
            self._survey(group)
        for group in sorted(staging.groups):
            self._count(group)

    def plans(self) -> Iterator[ShardPlan]:
        """Every shard, in the order of `corpus.json`: by split, language, source and number."""
        for split in ("train", "heldout"):
            names = sorted({(group.language, group.source) for group in self.staging.groups})
            for language, source in names:
                number = 0
                for origin in ("heldout", "train"):
                    group = Group(origin, language, source)
                    if group not in self.staging.groups:
                        continue
                    for starts, lengths in _cut(self._chosen(group, split)):
                        yield ShardPlan(split, group, number, starts, lengths)
                        number += 1

    def _survey(self, group: Group) -> None:
        tally = self.tallies.setdefault(group.language, Tally())
        for records in self.staging.records(group):
            kept = records[self._kept(records)]
            tally.duplicates += len(records) - len(kept)
            if group.split == "train" and len(kept):
                tally.least = min(tally.least, int(kept["high"].min()))
                tally.most = max(tally.most, int(kept["high"].max()))

    def _count(self, group: Group) -> None:
        tally = self.tallies[group.language]
        for records in self.staging.records(group):
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
        for records in self.staging.records(group):
            lengths = records["tokens"].astype(np.int64)
            starts = position + np.cumsum(lengths) - lengths
            position += int(lengths.sum())
            chosen = self._kept(records) & (self._aside(records, group) == (split == "heldout"))
            yield starts[chosen], lengths[chosen]


def write_shards(
    assembly: Assembly, folder: Path, *, fingerprint: str, separator: int, workers: int, report: Callable[[int], None]
) -> dict[str, list[ShardEntry]]:
    """Write every shard that is not there yet; `report` is told the tokens of each as it is done."""
    entries: dict[str, list[ShardEntry]] = {"train": [], "heldout": []}
    pending: deque[tuple[str, Future[ShardEntry]]] = deque()
    threads = min(workers, MOST_THREADS)

    def take() -> None:
        split, future = pending.popleft()
        entry = future.result()
        entries[split].append(entry)
        report(entry.tokens)

    with ThreadPoolExecutor(threads) as pool:
        try:
            for plan in assembly.plans():
                meta = ShardMeta(
                    language=plan.group.language,
                    source=plan.group.source,
                    fingerprint=fingerprint,
                    separator=separator,
                )
                pending.append((plan.split, pool.submit(_write, plan, folder, meta, assembly.staging)))
                if len(pending) > threads:
                    take()
            while pending:
                take()
        finally:
            pool.shutdown(cancel_futures=True)
    return entries


def _write(plan: ShardPlan, folder: Path, meta: ShardMeta, staging: Staging) -> ShardEntry:
    path = folder / plan.split / meta.language / f"{meta.source}-{plan.number:05d}.arrow"
    if path.is_file():  # a shard appears whole, and its content follows from what is staged
        return entry_of(path, len(plan.lengths), int(plan.lengths.sum()), meta)
    return write_shard(path, plan.lengths, _pieces(plan, staging), dtype=staging.dtype, meta=meta)


def _pieces(plan: ShardPlan, staging: Staging) -> Iterator[np.ndarray]:
    """The ids of the plan's documents; neighbours are read together."""
    breaks = np.flatnonzero(plan.starts[1:] != plan.starts[:-1] + plan.lengths[:-1]) + 1
    first = np.concatenate([[0], breaks])
    last = np.concatenate([breaks, [len(plan.starts)]]) - 1
    with staging.open_ids(plan.group) as file:
        for start, end in zip(plan.starts[first], plan.starts[last] + plan.lengths[last], strict=True):
            file.seek(int(start) * staging.dtype.itemsize)
            for position in range(int(start), int(end), PIECE):
                piece = np.fromfile(file, staging.dtype, min(PIECE, int(end) - position))
                if len(piece) < min(PIECE, int(end) - position):
                    raise BadData(f"{file.name} has lost bytes since it was written; remove {staging.folder}")
                yield piece


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
