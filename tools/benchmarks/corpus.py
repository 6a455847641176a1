"""What so many shards cost a process that reads them: seconds to open, memory maps, open files, resident memory.

The shards are links to a small one, so only their number counts: 10^12 tokens are 14,902 shards of 2^26.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import time
from pathlib import Path
from typing import Any

from benchmarks import loader, synthetic
from benchmarks.measure import Table
from megas2s.data.corpus import Corpus, check_sizes, write_corpus
from megas2s.data.windows import units
from megas2s.tokenizer.vocab import stand_in

MB = 1_000_000
DOCUMENTS = 4
LENGTH = 512


def run(given: argparse.Namespace) -> list[Table]:
    """One row a step of what a rank does when it starts and goes on to read every shard."""
    folder = many(given.work, given.shards)
    rows: list[dict[str, Any]] = []

    def took(what: str, since: float) -> float:
        rows.append({"what": what, "seconds": round(time.perf_counter() - since, 2), **held()})
        return time.perf_counter()

    rows.append({"what": "at first", "seconds": None, **held()})
    since = time.perf_counter()
    corpus = Corpus.open(folder)
    since = took("corpus.json read", since)
    check_sizes(corpus)
    since = took("every shard's size looked up", since)
    found = units(corpus.shards(), LENGTH)
    since = took("windows counted", since)
    for unit in found:
        step = len(unit.windows) // (given.shards // len(found))
        for window in range(0, len(unit.windows), step):
            unit.windows[window][0]
    took("a window read of every shard", since)
    shutil.rmtree(folder)
    return [Table(f"one process and {given.shards:,} shards", rows)]


def many(work: Path, count: int) -> Path:
    """A corpus of so many shards, each a link to one."""
    one = synthetic.corpus(work, stand_in(loader.VOCABULARY), languages=1, shards=1, documents=DOCUMENTS)
    (entry,) = one.entries["train"]
    folder = work / "many"
    shutil.rmtree(folder, ignore_errors=True)
    places = [folder / "train" / entry.language / f"text-{number:05d}.arrow" for number in range(count)]
    places[0].parent.mkdir(parents=True)
    for place in places:
        os.link(entry.path, place)
    shards = [dataclasses.replace(entry, path=place) for place in places]
    write_corpus(folder, {"train": shards}, fingerprint=one.fingerprint, separator=one.separator, record={})
    return folder


def held() -> dict[str, int]:
    """What this process holds now."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "resident MB": round(int(status["VmRSS"].split()[0]) * 1024 / MB),
        "memory maps": len(Path("/proc/self/maps").read_text().splitlines()),
        "open files": len(list(Path("/proc/self/fd").iterdir())),
    }
