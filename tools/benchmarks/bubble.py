"""How long the parts of a pipeline wait for each other: measured, and as `train/placement.py` predicts it.

Layers sleep as long as their FLOPs say, so that more parts can be looked at than the machine has cores: schedule and
transfers are the engine's own. What all layers take in one process, their little computing included, is the work.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.bubble_rank import LAYERS
from benchmarks.launched import launch
from benchmarks.measure import Table


def run(given: argparse.Namespace) -> list[Table]:
    """A row for each kind of model, number of parts and number of micro-batches."""
    rows = []
    for kind in LAYERS:
        work = {found["micro_batches"]: found["seconds"] for found in measured(given, kind, 1)}
        for stages in given.stages:
            for found in measured(given, kind, stages):
                busy = work[found["micro_batches"]] / (stages * found["seconds"])
                rows.append(
                    {
                        "model": kind,
                        "parts": stages,
                        "micro-batches": found["micro_batches"],
                        "seconds a step": round(found["seconds"], 3),
                        "waiting, measured": f"{1 - busy:.1%}",
                        "waiting, predicted": f"{found['predicted']:.1%}",
                    }
                )
    return [Table("share of all parts' time in which they wait", rows)]


def measured(given: argparse.Namespace, kind: str, stages: int) -> list[dict[str, Any]]:
    """What the ranks of one pipeline found."""
    out = Path(given.work / "bubble.json").resolve()
    counts = list(map(str, given.micro_batches))
    arguments = ["--stages", str(stages), "--kind", kind, "--micro-batches", *counts, "--out", str(out)]
    launch("bubble_rank.py", arguments, stages)
    found: list[dict[str, Any]] = json.loads(out.read_text())
    return found
