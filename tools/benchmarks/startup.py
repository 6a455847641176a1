"""Memory of each rank while a ZeRO-3 engine starts, saves and starts from what was saved, by model size and ranks.

Bytes are the resident set beyond what a rank has once it has joined the others. In bf16 a parameter has 12 bytes over
all ranks before the first step (weight 2, fp32 master 4, gradient 2, and its fp32 sum 4); what a rank has beyond its
share of them is the constant.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.measure import Table
from benchmarks.startup_rank import config
from megas2s.models.parameters import parameter_shapes

STATES = 12  # bytes a parameter
MB = 1_000_000
SECONDS = 500


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
        launch(["--width", str(width), "--vocab-size", str(vocab_size), "--out", str(folder), "--begin", begin], ranks)
        found = [json.loads(path.read_text()) for path in folder.glob(f"{begin}-*.json")]
        assert len(found) == ranks
        peaks["start" if begin == "drawn" else "read"] = max(each["start"] for each in found)
        if begin == "drawn":
            peaks["save"] = max(each["save"] for each in found)
    shutil.rmtree(folder)
    return peaks


def launch(arguments: list[str], ranks: int) -> None:
    """Run `startup_rank.py` on so many ranks; raises with what they said where one fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    program = Path(__file__).with_name("startup_rank.py")
    command = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", str(ranks), "--master_port", port]
    root = program.parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{os.environ.get('PYTHONPATH', '')}"}
    ended = subprocess.run(
        [*command, str(program), *arguments],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )
    if ended.returncode:
        raise RuntimeError(ended.stdout[-4000:])
