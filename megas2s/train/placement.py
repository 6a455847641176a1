"""Where a pipeline is cut: parts of equal cost, each with something that trains.

    costs    3 3 3 3 5 5 5 5 4         of each unit: layers of the encoder, of the decoder, the head
    spans    3 3 3 3 | 5 5 | 5 5 4     the slowest part is as fast as it can be

Every part waits for the slowest one, so its cost decides; of placements that are equal in that, the one whose other
parts are the most even. A part of which nothing trains has no optimizer in DeepSpeed, so frozen layers share a part
with one that trains.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence

from megas2s.engine import EngineSpec, Pipe
from megas2s.errors import BadConfig
from megas2s.models.config import ModelConfig
from megas2s.models.parameters import parameter_shapes
from megas2s.models.parts import Span, held, unit_count
from megas2s.train.flops import Shapes, StepSize, unit_flops


def spans_of(
    engine: EngineSpec, config: ModelConfig, size: StepSize, *, frozen: Collection[str], recomputed: bool
) -> tuple[Span, ...]:
    """The spans of an engine's parts; none where it is no pipeline."""
    if not isinstance(engine, Pipe):
        return ()
    return tuple(placement(config, size, engine.stages, frozen=frozen, recomputed=recomputed))


def unit_costs(shapes: Shapes, size: StepSize, *, frozen: Collection[str], recomputed: bool) -> list[int]:
    """The FLOPs of a step unit by unit, those of layers that are computed again for their backward pass included."""
    costs = unit_flops(shapes, size, frozen=frozen)
    if not recomputed:
        return costs
    forward = unit_flops(shapes, size, frozen=shapes.keys())
    again = [once if cost > once else 0 for cost, once in zip(costs[:-1], forward, strict=False)]
    return [*(cost + once for cost, once in zip(costs, again, strict=False)), costs[-1]]


def placement(
    config: ModelConfig, size: StepSize, parts: int, *, frozen: Collection[str], recomputed: bool = False
) -> list[Span]:
    """The spans of a model's pipeline by the FLOPs of a step; raises BadConfig where it has too few layers for it."""
    units = [Span(unit, unit + 1) for unit in range(unit_count(config))]
    trains = [any(name not in frozen for name in held(config, unit)) for unit in units]
    try:
        costs = unit_costs(parameter_shapes(config), size, frozen=frozen, recomputed=recomputed)
        return placed(costs, parts, trains=trains)
    except ValueError as error:
        raise BadConfig(str(error)) from None


def check_parts(parts: int, units: int) -> None:
    """ValueError where a model has too few units for each part of a pipeline to hold one."""
    if parts > units:
        raise ValueError(f"{parts} pipe stages for {units} units (layers and the head); take fewer stages")


def placed(costs: Sequence[float], parts: int, *, trains: Sequence[bool]) -> list[Span]:
    """Spans of units for `parts` parts; ValueError where they cannot all hold a unit that trains."""
    check_parts(parts, len(costs))
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


def bubble(costs: Sequence[float], micro_batches: int) -> float:
    """The share of all parts' time in a step that they wait (one forward, one backward; Narayanan et al. 2019).

    A step of m micro-batches lasts as long as one of them takes through all parts, and m - 1 times the slowest part's
    share; (p - 1) / (m + p - 1) where p parts cost the same. Transfers are not counted.
    """
    step = sum(costs) + (micro_batches - 1) * max(costs)
    return 1 - micro_batches * sum(costs) / (len(costs) * step)
