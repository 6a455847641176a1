"""What the pages of runs are tabled with: a row an arm, means and deviations over seeds."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SEEDS = (17, 18, 19)

Values = Callable[[str], Sequence[float]]  # an arm's, seed by seed; none where a column is not for it


def cell(values: Sequence[float], *, sign: str = "", places: int = 3) -> str:
    """Mean and deviation of a sample; a lone value is one that has no seed."""
    if not values:
        return ""
    if len(set(values)) == 1:
        return f"{values[0]:{sign}.{places}f}"
    return f"{statistics.mean(values):{sign}.{places}f} ± {statistics.stdev(values):.{places}f}"


def score(pattern: str, *keys: str) -> Values:
    """A score of the `results.json` in the run folder that `pattern` names, with {arm} and {seed} in it."""

    def of(arm: str) -> list[float]:
        paths = [Path(pattern.format(arm=arm, seed=seed)) / "results.json" for seed in SEEDS]
        return [_at(json.loads(path.read_text(encoding="utf-8")), keys) for path in paths if path.exists()]

    return of


def reports(run: Path, stage: str, kind: str) -> list[dict[str, Any]]:
    """What a stage has logged, in order; `kind` is `train` or `heldout`."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [line for line in lines if (line["stage"], line["kind"]) == (stage, kind)]


def table(columns: dict[str, Values], arms: Sequence[str], *, against: str | None = None, places: int = 3) -> None:
    """One row an arm; with `against`, differences from that arm with the same seed."""
    print("| | " + " | ".join(columns) + " |")
    print("|---|" + "---:|" * len(columns))
    for arm in arms:
        cells = []
        for values in columns.values():
            own = values(arm)
            if against is not None:
                own = [value - other for value, other in zip(own, values(against), strict=True)]
            cells.append(cell(own, sign="+" if against is not None else "", places=places))
        print(f"| {arm} | " + " | ".join(cells) + " |")


def _at(found: Any, keys: Sequence[str]) -> float:
    for key in keys:
        found = found[key]
    return float(found)
