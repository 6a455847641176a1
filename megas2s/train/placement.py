"""Where a pipeline is cut: parts of equal cost, each with something that trains.

    costs    3 3 3 3 5 5 5 5 4         of each unit: layers of the encoder, of the decoder, the head
    spans    3 3 3 3 | 5 5 | 5 5 4     the slowest part is as fast as it can be

Every part waits for the slowest one, so its cost decides; of placements that are equal in that, the one whose other
parts are the most even. A part of which nothing trains has no optimizer in DeepSpeed, so frozen layers share a part
with one that trains.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from megas2s.models.parts import Span


def placed(costs: Sequence[float], parts: int, *, trains: Sequence[bool]) -> list[Span]:
    """Spans of units for `parts` parts; ValueError where they cannot all hold a unit that trains."""
    if parts > len(costs):
        raise ValueError(f"{parts} pipe stages for {len(costs)} units (layers and the head); take fewer stages")
    sums = list(itertools.accumulate(costs, initial=0.0))
    learning = list(itertools.accumulate(trains, initial=0))
    # best[stop]: (slowest part, sum of squares) and the cuts of the parts so far, which end before `stop`
    best: dict[int, tuple[tuple[float, float], tuple[int, ...]]] = {0: ((0.0, 0.0), ())}
    for _ in range(parts):
        found: dict[int, tuple[tuple[float, float], tuple[int, ...]]] = {}
        for (first, ((slowest, squares), cuts)), stop in itertools.product(best.items(), range(1, len(sums))):
            if stop <= first or learning[stop] == learning[first]:
                continue
            cost = sums[stop] - sums[first]
            candidate = ((max(slowest, cost), squares + cost * cost), (*cuts, stop))
            if stop not in found or candidate < found[stop]:
                found[stop] = candidate
        best = found
    if len(costs) not in best:
        raise ValueError(
            f"{parts} pipe stages each need a layer that trains, and only {sum(trains)} of {len(costs)} units do, the "
            "frozen ones in front; take fewer stages or freeze fewer layers"
        )
    return list(itertools.starmap(Span, itertools.pairwise((0, *best[len(costs)][1]))))


def bubble(parts: int, micro_batches: int) -> float:
    """The share of a step in which a part of equal cost waits (one forward, one backward; Narayanan et al. 2019)."""
    return (parts - 1) / (micro_batches + parts - 1)
