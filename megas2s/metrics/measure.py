"""What a score of texts is: numbers of each segment that add up, and the score that their sum has.

    measure = bleu(Texts(answers, references))
    measure.corpus                                 the score of all segments
    measure.score(measure.statistics[:10].sum(0))  that of the first ten
    measure.segments[3]                            that of one alone, as the library scores a sentence

So a score of one language, or of a resampled corpus, costs a sum and not another pass over the texts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from megas2s.metrics.gold import Annotated


class Texts(NamedTuple):
    """What is compared, segment by segment; where they are known, what was read and the gold edits of it."""

    answers: Sequence[str]
    references: Sequence[str]
    sources: Sequence[str] | None = None
    gold: Sequence[Annotated] | None = None


@dataclasses.dataclass(frozen=True)
class Measure:
    """One score of texts, of all of them and of each."""

    statistics: np.ndarray  # (N, K)
    score: Callable[[np.ndarray], float]  # (K,), the sum over segments -> their score
    segments: np.ndarray  # (N,)
    signature: str  # what somebody who compares must know: version, tokenizer, smoothing
    top: float = 1.0  # the score of a perfect answer: 1, or 100 where the library counts so

    @property
    def corpus(self) -> float:
        """The score of all segments."""
        return self.score(self.statistics.sum(axis=0))


def mean(segments: Sequence[float], signature: str) -> Measure:
    """A measure whose score of a corpus is the mean over its segments."""
    values = np.asarray(segments, np.float64)
    return Measure(np.stack([values, np.ones_like(values)], axis=1), _mean, values, signature)


def _mean(sums: np.ndarray) -> float:
    return float(sums[0] / sums[1])
