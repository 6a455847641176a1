"""How long the parts of a pipeline wait for each other: measured, and as `train/placement.py` predicts it.

Layers sleep as long as their FLOPs say, so that four parts can be looked at on a machine of two cores: schedule and
transfers are the engine's own. Two parts are also looked at while their layers compute, each on a core of its own,
against all layers in one process.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.bubble_rank import LAYERS, SECONDS
from benchmarks.launched import launch
from benchmarks.measure import Table


def run(given: argparse.Namespace) -> list[Table]:
    """Layers that sleep, on 2 and 4 parts; layers that compute, on 2."""
    given.work.mkdir(parents=True, exist_ok=True)
    asleep = [
        row(kind, stages, found, SECONDS * found["micro_batches"] / (stages * found["seconds"]))
        for kind in LAYERS
        for stages in given.stages
        for found in measured(given, kind, stages)
    ]
    computing = []
    for kind in LAYERS:
        alone = {found["micro_batches"]: found["seconds"] for found in measured(given, kind, 1, "--computes")}
        for found in measured(given, kind, 2, "--computes"):
            busy = alone[found["micro_batches"]] / (2 * found["seconds"])
            computing.append(row(kind, 2, found, busy))
    return [Table("layers that sleep", asleep), Table("layers that compute, a core for each part", computing)]


def measured(given: argparse.Namespace, kind: str, stages: int, *flags: str) -> list[dict[str, Any]]:
    """What the ranks of one pipeline found."""
    out = Path(given.work / "bubble.json").resolve()
    counts = list(map(str, given.micro_batches))
    arguments = ["--stages", str(stages), "--kind", kind, "--micro-batches", *counts, *flags, "--out", str(out)]
    launch("bubble_rank.py", arguments, stages)
    found: list[dict[str, Any]] = json.loads(out.read_text())
    return found


def row(kind: str, stages: int, found: dict[str, Any], busy: float) -> dict[str, Any]:
    """What is shown of one pipeline; `busy` is the share of all parts' time in which they work."""
    return {
        "model": kind,
        "parts": stages,
        "micro-batches": found["micro_batches"],
        "seconds a step": round(found["seconds"], 3),
        "waiting, measured": f"{1 - busy:.1%}",
        "waiting, predicted": f"{found['predicted']:.1%}",
    }
