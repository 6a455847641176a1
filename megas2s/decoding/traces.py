"""How a beam search came to its answers, and what it would have answered under another penalty for length.

    frame     0           1            2
    tokens    the  a      cat  dog     .  </s>       K = 2 in each frame
    parents   0    0      0    0       0  1          of the frame before

Every end in any frame is a candidate, in the last frame every row. Scoring anew (s2s-ft's `gen_seq_from_trace.py`) asks
no model.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Trace(NamedTuple):
    """The K best rows of one source after each of F tokens."""

    scores: np.ndarray  # (F, K) sums of log-probabilities
    tokens: np.ndarray  # (F, K)
    parents: np.ndarray  # (F, K) places in the frame before


class Candidate(NamedTuple):
    """A row, its end included where it has one."""

    ids: np.ndarray  # (length,)
    score: float


def candidates(trace: Trace, *, eos: int, penalty: float, best: int = 1, min_length: int = 0) -> list[Candidate]:
    """The best rows, best first; those before `min_length` tokens have come are passed by."""
    frames = len(trace.tokens)
    lengths = np.arange(1, frames + 1)
    over = trace.tokens == eos
    if (alone := over.all(axis=1)).any():
        frames = int(alone.argmax()) + 1
    valid = over & (lengths > min_length)[:, None]
    valid[frames - 1] = True
    valid[frames:] = False
    divisors = np.array([divisor(length, penalty) for length in lengths.tolist()])
    scores = np.where(valid & np.isfinite(trace.scores), trace.scores / divisors[:, None], -np.inf)
    order = np.argsort(-scores, axis=None, kind="stable")[:best]
    places = [np.unravel_index(index, scores.shape) for index in order if np.isfinite(scores.flat[index])]
    return [Candidate(_row(trace, int(frame), int(beam)), float(scores[frame, beam])) for frame, beam in places]


def divisor(length: int, penalty: float) -> float:
    """What the score of so many tokens is divided by; a penalty of 0 or less does nothing, as in s2s-ft."""
    return ((5 + length) / 6) ** penalty if penalty > 0 else 1.0


def _row(trace: Trace, frame: int, beam: int) -> np.ndarray:
    row = np.empty(frame + 1, dtype=np.int64)
    for place in range(frame, -1, -1):
        row[place] = trace.tokens[place, beam]
        beam = int(trace.parents[place, beam])
    return row
