"""The best weights so far by the dev set: they are kept beside the checkpoints, and a stage ends with them.

    best: {by: chrf, patience: 5}        stop after five evaluations without a better one

What is known of the best lies in its own manifest and nowhere else, so a run that was interrupted goes on with it: one
that comes by the same step again finds the same value, which is no better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from megas2s import dist, files
from megas2s.errors import BadConfig
from megas2s.spec import nearest, spec
from megas2s.train import agree

FOLDER = "best"
LOSS = "loss"


@spec
class Best:
    """Which weights are kept: those with the best dev score called `by`, the highest, or for loss the lowest."""

    by: str = LOSS
    patience: int = 0  # evaluations without a better one after which training ends; 0: it does not end early

    def __post_init__(self) -> None:
        if self.patience < 0:
            raise ValueError(f"patience must be at least 0, got {self.patience}")


class Mark(NamedTuple):
    """A step and what was found there; higher is better."""

    step: int
    value: float


def marked(stage_folder: Path) -> Mark | None:
    """The best so far, None where nothing was kept yet; for rank 0, others are told."""
    folder = stage_folder / FOLDER
    files.settle(folder)
    if not files.is_published(folder):
        return None
    facts = files.read_manifest(folder)
    return Mark(int(facts["step"]), float(facts["value"]))


def value_of(best: Best, found: Mapping[str, float]) -> float:
    """What an evaluation is worth, higher better; BadConfig names what there is where it found no such thing."""
    names = {name.removeprefix("measure/"): name for name in found if name == LOSS or name.count("/") == 1}
    names = {name: full for name, full in names.items() if full == LOSS or full.startswith("measure/")}
    if best.by not in names:
        raise BadConfig(f"best.by: no score is called {best.by!r}; {nearest(best.by, names)}")
    value = found[names[best.by]]
    if not math.isfinite(value):
        return -math.inf
    return -value if best.by == LOSS else value


def tell(stage_folder: Path) -> Mark | None:
    """The best so far as rank 0 finds it, on every rank; collective."""
    mark = marked(stage_folder) if dist.is_main() else None
    told = agree.told("" if mark is None else f"{mark.step} {mark.value!r}")
    step, _, value = told.partition(" ")
    return Mark(int(step), float(value)) if told else None
