"""What an evaluation found, as its pages, its table and its JSON show it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from megas2s.answers.reading import Row
from megas2s.metrics.bootstrap import CONFIDENCE

BINS = 12  # of the small histogram under a score


class Score(NamedTuple):
    """A score of a group of segments, and its interval."""

    value: float
    low: float
    high: float
    spread: tuple[int, ...]  # segments by their own score, from 0 to the top


class Metric(NamedTuple):
    """A score's name, what a perfect answer has, what somebody who compares must know, and each segment's."""

    name: str
    top: float
    signature: str
    segments: np.ndarray  # (N,)

    def shown(self, value: float) -> str:
        """A value with as many digits as it is worth."""
        return f"{value:.1f}" if self.top > 1 else f"{value:.3f}"


@dataclasses.dataclass(frozen=True)
class Report:
    """Scores by group and name, where groups are `all` and languages, and the segments that they are of."""

    title: str
    rows: list[Row]
    groups: dict[str, list[int]]
    metrics: tuple[Metric, ...]
    scores: dict[str, dict[str, Score]]
    seed: int
    resamples: int
    notes: tuple[str, ...]

    def plain(self) -> dict[str, object]:
        """The scores as JSON has them."""
        return {
            "answers": self.title,
            "segments": {group: len(places) for group, places in self.groups.items()},
            "scores": {
                group: {
                    name: {"score": score.value, "low": score.low, "high": score.high} for name, score in scores.items()
                }
                for group, scores in self.scores.items()
            },
            "signatures": {metric.name: metric.signature for metric in self.metrics},
            "intervals": {"confidence": CONFIDENCE, "resamples": self.resamples, "seed": self.seed},
            "notes": list(self.notes),
        }

    def caption(self) -> str:
        """What the intervals are, in a sentence."""
        return (
            f"Intervals hold {CONFIDENCE:.0%} of {self.resamples:,} corpora whose segments were drawn from these with "
            f"replacement (seed {self.seed})."
        ).replace("%", " %")

    def ranked(self, limit: int) -> list[int]:
        """Places of rows from the worst to the best by the first metric: of each language at most `limit`.

        Where there are more, every n-th by rank stands for its neighbours, the first and the last among them.
        """
        by = self.metrics[0].segments
        languages = [places for group, places in self.groups.items() if len(self.groups) == 1 or group != "all"]
        chosen = [
            sorted(places, key=lambda place: by[place])[rank]
            for places in languages
            for rank in evenly(len(places), limit)
        ]
        return sorted(chosen, key=lambda place: by[place])


def evenly(count: int, limit: int) -> Sequence[int]:
    """Up to `limit` of `count` ranks, the first and the last among them, the others as far apart as can be."""
    if count <= limit:
        return range(count)
    return [round(step * (count - 1) / max(1, limit - 1)) for step in range(limit)]


def spread(segments: np.ndarray, top: float) -> tuple[int, ...]:
    """How many segments have a score in each of `BINS` equal parts of 0 to `top`."""
    counts, _ = np.histogram(np.clip(segments, 0, top), bins=BINS, range=(0, top))
    return tuple(counts.tolist())
