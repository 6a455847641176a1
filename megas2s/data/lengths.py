"""How long rows are before they are cut: what to say of them, and a histogram to look at.

train sources: 5 to 185 tokens, 22.1 on average; 3 of 64 are cut to 128, by 57 tokens at most
      1-16   ##########################  41
     17-32   ############  20
    129-185  ##  3
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

BARS = 8  # up to the limit; what is beyond it has one more
WIDTH = 40


class Bar(NamedTuple):
    """How many rows have `first` to `last` tokens."""

    first: int
    last: int
    rows: int


class Lengths(NamedTuple):
    """Rows in tokens, special ones included, before they are cut to `limit`."""

    limit: int
    rows: int
    shortest: int
    longest: int
    mean: float
    cut: int  # rows that are longer than the limit
    most_lost: int  # tokens that one of those loses
    bars: tuple[Bar, ...]

    def plain(self) -> dict[str, object]:
        """For a JSON file."""
        return {**self._asdict(), "bars": [bar._asdict() for bar in self.bars]}

    def said(self) -> str:
        """In one sentence."""
        cut = f"{self.cut:,} of {self.rows:,} are cut to {self.limit}, by {self.most_lost:,} tokens at most"
        return (
            f"{self.shortest} to {self.longest:,} tokens, {self.mean:.1f} on average; "
            f"{cut if self.cut else f'none is cut to {self.limit}'}"
        )

    def drawn(self) -> list[str]:
        """A line for each bar from the first with rows in it to the last."""
        held = [place for place, bar in enumerate(self.bars) if bar.rows]
        most = max(bar.rows for bar in self.bars)
        return [
            f"{bar.first:>6}-{bar.last:<6} {'#' * -(-bar.rows * WIDTH // most)}  {bar.rows:,}"
            for bar in self.bars[held[0] : held[-1] + 1]
        ]


def measured(lengths: Sequence[int], limit: int) -> Lengths:
    """What there is to say of rows of these lengths, at least one."""
    longest = max(lengths)
    step = -(-limit // BARS)
    lasts = [min(limit, first + step - 1) for first in range(1, limit + 1, step)]
    lasts += [longest] if longest > limit else []
    bars, first = [], 1
    for last in lasts:
        bars.append(Bar(first, last, sum(first <= length <= last for length in lengths)))
        first = last + 1
    return Lengths(
        limit=limit,
        rows=len(lengths),
        shortest=min(lengths),
        longest=longest,
        mean=sum(lengths) / len(lengths),
        cut=sum(length > limit for length in lengths),
        most_lost=max(0, longest - limit),
        bars=tuple(bars),
    )
