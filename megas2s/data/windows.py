"""Windows: fixed-length slices of the shards, found by arithmetic and read without a copy.

    shards of one unit     1000 tokens | 70 tokens | 512 tokens          size = 256
    windows                0  1  2     |           | 3  4
    windows[3]             tokens 0 ... 255 of the third shard, a view on its memory map

A unit is one language of one source, the smallest thing that is sampled. A window lies inside one shard; what is
left at a shard's end (fewer than `size` tokens) is never read. No list of windows exists: window i is found by
bisection over the shards, so that a corpus of 10^12 tokens costs what its list of shards costs.
"""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from megas2s.data.shards import Shard, ShardEntry
from megas2s.errors import BadData

OPEN_SHARDS = 1 << 14  # memory maps held per process: 10^12 tokens at 2^26 a shard; Linux allows 65530 by default


OpenTokens = Callable[[ShardEntry], np.ndarray]  # a shard's flat tokens, a view on its memory map; picklable


def map_tokens(shard: ShardEntry) -> np.ndarray:
    """The tokens of a shard on disk."""
    return Shard.open(shard).tokens


class Windows:
    """The windows of one unit, by number. Shards are opened when first read, in the process that reads them."""

    def __init__(self, shards: Iterable[ShardEntry], size: int, open_tokens: OpenTokens = map_tokens) -> None:
        if size < 1:
            raise ValueError(f"a window needs at least one token, got {size}")
        self.size = size
        self._shards = tuple(shards)
        self._open_tokens = open_tokens
        self._first = list(itertools.accumulate((shard.tokens // size for shard in self._shards), initial=0))

    def __len__(self) -> int:
        return self._first[-1]

    def locate(self, index: int) -> tuple[int, int]:
        """Which shard window `index` lies in, and at which of its tokens it starts."""
        if not 0 <= index < self._first[-1]:
            raise IndexError(f"window {index} is outside 0 ... {self._first[-1] - 1}")
        shard = bisect.bisect_right(self._first, index) - 1
        return shard, (index - self._first[shard]) * self.size

    def __getitem__(self, index: int) -> np.ndarray:
        shard, start = self.locate(index)
        return _tokens(self._open_tokens, self._shards[shard])[start : start + self.size]


class Unit(NamedTuple):
    """One language of one source: its tokens in all its shards, and its windows."""

    language: str
    source: str
    tokens: int
    windows: Windows

    @property
    def name(self) -> str:
        """How the unit is addressed and printed."""
        return f"{self.language}/{self.source}"


def units(shards: Iterable[ShardEntry], size: int, open_tokens: OpenTokens = map_tokens) -> list[Unit]:
    """The units that `shards` make, sorted by language and source; some may have no window of `size` tokens."""

    def key(shard: ShardEntry) -> tuple[str, str]:
        return shard.language, shard.source

    groups = [(name, list(group)) for name, group in itertools.groupby(sorted(shards, key=key), key)]
    return [
        Unit(*name, sum(shard.tokens for shard in group), Windows(group, size, open_tokens)) for name, group in groups
    ]


def require_windows(units: Sequence[Unit]) -> None:
    """Refuse units that cannot give a single window."""
    for unit in units:
        if not len(unit.windows):
            raise BadData(
                f"language {unit.language!r} of source {unit.source!r} has {unit.tokens} tokens and no shard of"
                f" {unit.windows.size} or more, the length of one window; add text, shorten the lengths or leave it out"
            )


@functools.lru_cache(maxsize=OPEN_SHARDS)
def _tokens(open_tokens: OpenTokens, shard: ShardEntry) -> np.ndarray:
    tokens = open_tokens(shard)
    if len(tokens) != shard.tokens:
        raise BadData(f"{shard.path} holds {len(tokens)} tokens instead of {shard.tokens}; write the corpus again")
    return tokens
