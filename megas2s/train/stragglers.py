"""Ranks that keep the others waiting.

All ranks of a step end it together, so how long a step takes says nothing of a rank. What tells them apart is a rank's
own time: waiting for its batches, and its forward passes up to the first exchange with others (under ZeRO-3 and in a
pipeline forward passes are exchanges, and only the batches count).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from megas2s import dist

LEAST_SHARE = 0.05  # of a step's time that a rank must be late by: what is less costs little


def outliers(own: Sequence[float], *, factor: float, step: float) -> dict[int, float]:
    """Ranks that take `factor` times the median's own time or more, and by how many times they exceed it.

    `own` and `step` are seconds of a step. Of an even number of ranks the median is the lower one, so that of two the
    slow one stands out.
    """
    median = statistics.median_low(own)
    late = {
        rank: seconds / max(median, 1e-9) for rank, seconds in enumerate(own) if seconds - median > LEAST_SHARE * step
    }
    return {rank: times for rank, times in late.items() if times >= factor}


def sentences(own: float, *, hosts: Sequence[str], factor: float, step: float, steps: int) -> list[str]:
    """One sentence for each rank that keeps the others waiting; collective. `own` is this rank's time in a step."""
    everyones = [float(text) for text in dist.gather_texts(f"{own:.6f}", longest=32)]
    median = statistics.median_low(everyones)
    return [
        f"rank {rank} on {hosts[rank]} keeps the others waiting: its own time in a step is {everyones[rank]:.3f} s, "
        f"{times:.1f} x the median {median:.3f} s, over the last {steps} steps"
        for rank, times in outliers(everyones, factor=factor, step=step).items()
    ]
