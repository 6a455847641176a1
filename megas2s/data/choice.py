"""The choice among staged documents: duplicates go, quotas are kept, and some documents are set aside.

Which documents are held out is decided by their text's hash against their language's threshold, so that equal texts
are never on both sides, and nothing depends on order or processes. A language with two different texts or more has at
least one on either side: the text with the smallest hash is held out, the one with the largest never.

Quotas cut by another part of the hash, so what is left of a source is a random sample of it, and a larger quota gives
the same documents and more. Duplicates go before quotas cut: a text that is in two sources belongs to the first one,
also where that one's quota then leaves it out.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import AfterValidator

from megas2s.data.dedup import Marks, mark_duplicates
from megas2s.data.languages import language_code
from megas2s.data.near import mark_near
from megas2s.data.parts import Group, Parts
from megas2s.data.screen import Screening
from megas2s.errors import BadData
from megas2s.spec import spec

SLICES = 1 << 16  # a quota takes whole ones of so many slices of a source
_QUOTA = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}(?:/[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{1,8}){0,3})?")


def _canonical(quotas: dict[str, int]) -> dict[str, int]:
    """The quotas with languages as corpora write them (EN and en are one); raises ValueError where one is none."""
    found: dict[str, int] = {}
    for quota, most in quotas.items():
        if not _QUOTA.fullmatch(quota) or most < 1:
            raise ValueError(f"a quota is SOURCE=TOKENS or SOURCE/LANGUAGE=TOKENS, at least 1, found {quota}={most}")
        source, _, language = quota.partition("/")
        name = f"{source}/{language_code(language, where=quota)}" if language else source
        if name in found:
            raise ValueError(f"quota {name} is given twice; give it once")
        found[name] = most
    return found


Quotas = Annotated[dict[str, int], AfterValidator(_canonical)]  # `source` or `source/language` -> most tokens


@spec
class Choices:
    """Which documents go where and in which form; part of what makes a corpus what it is."""

    deduplicate: bool = True  # drop a document whose normalised text an earlier one has
    held_out: float = 0.005  # share of each language's documents that is kept from training
    quotas: Quotas = dataclasses.field(default_factory=dict)
    screening: Screening = Screening()

    def __post_init__(self) -> None:
        if not 0 <= self.held_out <= 0.5:
            raise ValueError(f"held_out must lie in [0, 0.5], found {self.held_out}")


@dataclasses.dataclass
class Tally:
    """What a language has: the columns of the summary, and what the choice of held-out documents needs."""

    documents: int = 0
    tokens: int = 0
    characters: int = 0
    heldout_documents: int = 0
    heldout_tokens: int = 0
    duplicates: int = 0
    near_duplicates: int = 0
    beyond_quota: int = 0
    least: int = (1 << 64) - 1  # smallest and largest first half of a hash among training documents
    most: int = 0


class Choice:
    """The choice among staged documents; everything in it is a function of what was staged and of `Choices`."""

    def __init__(self, parts: Parts, staging: Path, choices: Choices) -> None:
        self.parts = parts
        self._threshold = int(choices.held_out * 2**64)
        self._same: Marks | None = None
        self._alike: Marks | None = None
        folder = staging / "dedup"
        if choices.deduplicate:
            everything = (records for group in sorted(parts.groups) for records in parts.records(group))
            self._same = mark_duplicates(everything, documents=parts.documents, folder=folder)
        if choices.screening.near_duplicates:
            likeness = choices.screening.near_duplicates
            self._alike = mark_near(parts, likeness=likeness, gone=self._same, folder=folder)
        self.tallies: dict[str, Tally] = {}
        for group in sorted(parts.groups):
            self._survey(group)
        self._slices = self._within(choices.quotas)
        for group in sorted(parts.groups):
            self._count(group)

    def chosen(self, group: Group, split: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Starts and lengths of a group's documents that belong to `split`, some at a time."""
        position = 0
        for records in self.parts.records(group):
            lengths = records["tokens"].astype(np.int64)
            starts = position + np.cumsum(lengths) - lengths
            position += int(lengths.sum())
            here = self._aside(records, group)
            if split == "train":
                here = ~here & self._in_quota(records, group)
            here &= self._kept(records)
            yield starts[here], lengths[here]

    def _survey(self, group: Group) -> None:
        tally = self.tallies.setdefault(group.language, Tally())
        for records in self.parts.records(group):
            same, alike = _marked(self._same, records), _marked(self._alike, records)
            tally.duplicates += int(same.sum())
            tally.near_duplicates += int((alike & ~same).sum())
            kept = records["high"][~same & ~alike]
            if group.split == "train" and len(kept):
                tally.least = min(tally.least, int(kept.min()))
                tally.most = max(tally.most, int(kept.max()))

    def _count(self, group: Group) -> None:
        tally = self.tallies[group.language]
        for records in self.parts.records(group):
            kept, aside, within = self._kept(records), self._aside(records, group), self._in_quota(records, group)
            tally.heldout_documents += int((kept & aside).sum())
            tally.heldout_tokens += int(records["tokens"][kept & aside].sum())
            tally.beyond_quota += int((kept & ~aside & ~within).sum())
            train = kept & ~aside & within
            tally.documents += int(train.sum())
            tally.tokens += int(records["tokens"][train].sum())
            tally.characters += int(records["characters"][train].sum())

    def _kept(self, records: np.ndarray) -> np.ndarray:
        kept: np.ndarray = ~_marked(self._same, records) & ~_marked(self._alike, records)
        return kept

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

    def _in_quota(self, records: np.ndarray, group: Group) -> np.ndarray:
        inside: np.ndarray = _slice_of(records) < self._slices.get(group, SLICES)
        return inside

    def _within(self, quotas: dict[str, int]) -> dict[Group, int]:
        """How many slices each group may keep, so that no quota is exceeded."""
        found: dict[Group, int] = {}
        for name, most in quotas.items():
            source, _, language = name.partition("/")
            groups = [
                group
                for group in self.parts.groups
                if group.split == "train" and group.source == source and language in ("", group.language)
            ]
            if not groups:
                there = sorted({group.language for group in self.parts.groups if group[::2] == ("train", source)})
                raise BadData(f"quota {name} is of no document; source {source} has {', '.join(there) or 'none'}")
            tokens = np.zeros(SLICES, np.int64)
            for group in groups:
                for records in self.parts.records(group):
                    left = self._kept(records) & ~self._aside(records, group)
                    tokens += np.bincount(_slice_of(records)[left], records["tokens"][left], SLICES).astype(np.int64)
            slices = int(np.searchsorted(np.cumsum(tokens), most, side="right"))
            found |= {group: min(slices, found.get(group, SLICES)) for group in groups}
        return found


def _marked(marks: Marks | None, records: np.ndarray) -> np.ndarray:
    return np.zeros(len(records), bool) if marks is None else marks[records["ordinal"].astype(np.int64)]


def _slice_of(records: np.ndarray) -> np.ndarray:
    """Which slice of its source a document is in, by bits of its hash that decide nothing else."""
    found: np.ndarray = (records["low"] >> np.uint64(48)).astype(np.int64)
    return found
