"""Memory of each rank while a ZeRO-3 engine starts, saves and starts from what was saved, by model size and ranks.

Bytes are the resident set beyond what a rank has once it has joined the others. In bf16 a parameter has 12 bytes over
all ranks before the first step (weight 2, fp32 master 4, gradient 2, and its fp32 sum 4); what a rank has beyond its
share of them is the constant.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from pathlib import Path
from typing import Any

from benchmarks.launched import launch
from benchmarks.measure import Table
from benchmarks.startup_rank import config
from megas2s.models.parameters import parameter_shapes

STATES = 12  # bytes a parameter
MB = 1_000_000


def run(given: argparse.Namespace) -> list[Table]:
    """One row for each size and number of ranks; the largest rank counts."""
    rows = []
    for width in given.width:
        for ranks in given.ranks:
            found = measure(width, given.vocab_size, ranks, given.work / "startup")
            rows.append(row(width, given.vocab_size, ranks, found))
    return [Table("memory of a rank beyond the empty process, bf16, ZeRO-3, MB", rows)]


def row(width: int, vocab_size: int, ranks: int, found: dict[str, int]) -> dict[str, Any]:
    """What is shown of one measurement."""
    shapes = parameter_shapes(config(width, vocab_size))
    parameters = sum(math.prod(shape) for shape in shapes.values())
    share = STATES * parameters / ranks
    return {
        "parameters (M)": round(parameters / 1e6, 1),
        "ranks": ranks,
        "share of states": round(share / MB),
        "start": round(found["start"] / MB),
        "start - share": round((found["start"] - share) / MB),
        "save": round(found["save"] / MB),
        "start from saved": round(found["read"] / MB),
        "largest tensor, fp32": round(4 * max(map(math.prod, shapes.values())) / MB),
    }


def measure(width: int, vocab_size: int, ranks: int, folder: Path) -> dict[str, int]:
    """Peaks in bytes, of the rank that has the highest: to start from drawn weights, to save, to start from those."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    peaks: dict[str, int] = {}
    for begin in ("drawn", "read"):
        arguments = ["--width", str(width), "--vocab-size", str(vocab_size), "--out", str(folder), "--begin", begin]
        launch("startup_rank.py", arguments, ranks)
        found = [json.loads(path.read_text()) for path in folder.glob(f"{begin}-*.json")]
        assert len(found) == ranks
        peaks["start" if begin == "drawn" else "read"] = max(each["start"] for each in found)
        if begin == "drawn":
            peaks["save"] = max(each["save"] for each in found)
    shutil.rmtree(folder)
    return peaks
