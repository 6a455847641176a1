"""Time and memory of finding near-duplicates by documents: does what one process holds grow with them?

Signatures are random numbers, but for a tenth of the documents, which have three quarters of an earlier one's or all of
them; so every pair that is looked at costs what it would among texts.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

TOOLS = Path(__file__).resolve().parents[1]
MB = 1_000_000
PART = 50_000  # documents of one part
LIKENESS = 0.8


def run(given: argparse.Namespace) -> list[Any]:
    """One row a number of documents, each measured in a process of its own."""
    from benchmarks.measure import Table

    rows = []
    for documents in given.documents:
        command = [sys.executable, str(Path(__file__)), str(documents), str(given.work / "near")]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    return [Table("near-duplicates among random signatures, a tenth of them alike", rows)]


def measure(documents: int, staging: Path) -> dict[str, Any]:
    """Seconds and peak memory of marking the near-duplicates of so many documents."""
    from megas2s.data.near import mark_near
    from megas2s.data.parts import Parts

    shutil.rmtree(staging, ignore_errors=True)
    parts = Parts(staging, list(written(documents, staging)), np.dtype(np.uint16))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    since = time.perf_counter()
    marks = mark_near(parts, likeness=LIKENESS, gone=None, folder=staging / "dedup")
    seconds = time.perf_counter() - since
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = int(marks[np.arange(documents)].sum())
    shutil.rmtree(staging)
    return {
        "documents": documents,
        "found alike": found,
        "seconds": round(seconds, 1),
        "peak MB above the start": round((peak - before) / MB),
        "MB of signatures": round(512 * documents / MB),
    }


def written(documents: int, staging: Path) -> Iterator[str]:
    """Names of parts, as they are written."""
    from megas2s.data.parts import FOLDER, write_part
    from megas2s.data.signatures import NUMBERS
    from megas2s.data.tokenise import RECORD, Tokenised
    from megas2s.files import make_folder
    from megas2s.rng import generator

    make_folder(staging / FOLDER)
    for number in range(-(-documents // PART)):
        size = min(PART, documents - number * PART)
        draw = generator(0, "near", number)
        signatures = draw.integers(0, 1 << 32, (size, NUMBERS), dtype=np.uint32)
        alike = draw.choice(np.arange(1, size), size // 10, replace=False)
        changed = signatures[alike - 1]
        some = draw.random((len(alike), NUMBERS)) < draw.choice([0.0, 0.25], (len(alike), 1))
        changed[some] = draw.integers(0, 1 << 32, int(some.sum()), dtype=np.uint32)
        signatures[alike] = changed
        records = np.zeros(size, RECORD)
        records["ordinal"], records["tokens"] = np.arange(size), 1
        tokens = {"en": np.zeros(size, np.uint16)}
        result = Tokenised(tokens, {"en": records}, {"en": signatures}, size, 0, Counter())
        write_part(staging, f"{number:04d}", [("train", "text", result)])
        yield f"{number:04d}"


if __name__ == "__main__":
    sys.path.insert(0, str(TOOLS))
    print(json.dumps(measure(int(sys.argv[1]), Path(sys.argv[2]))))
