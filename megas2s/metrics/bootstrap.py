"""How far a score may lie from that of another test set of the same kind: bootstrap intervals (Koehn 2004).

Segments are drawn again with replacement, as many as there are; the score of what was drawn is worked out from sums
of the segments' statistics. The same seed and the same number of segments give the same draws, so the intervals of two
measures, or of two systems on one test set, rest on the same resampled corpora.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from megas2s.metrics.measure import Measure
from megas2s.rng import generator

RESAMPLES = 1000
CONFIDENCE = 0.95


class Interval(NamedTuple):
    """Where the score of `CONFIDENCE` of the resampled corpora lies."""

    low: float
    high: float


def resampled(statistics: np.ndarray, *, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """Sums of segments' statistics (N, K) over corpora drawn from them: (resamples, K)."""
    rng, count = generator(seed, "bootstrap"), len(statistics)
    draws = (np.bincount(rng.integers(count, size=count), minlength=count) for _ in range(resamples))
    return np.stack([times.astype(np.float64) @ statistics for times in draws])


def interval(measure: Measure, rows: np.ndarray, *, seed: int, resamples: int = RESAMPLES) -> Interval:
    """The interval of a measure's score of the segments at `rows`."""
    sums = resampled(measure.statistics[rows], seed=seed, resamples=resamples)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile([measure.score(row) for row in sums], [tail, 1 - tail])
    return Interval(float(low), float(high))
