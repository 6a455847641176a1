"""Resuming: from nothing to the first micro-batch of a step, through corpus, stage data and the real loader."""

from __future__ import annotations

import argparse
import statistics
import time

from benchmarks import loader as loader_benchmark
from benchmarks import measure, synthetic
from benchmarks.measure import Table
from megas2s.data.loader import Loader
from megas2s.tokenizer.vocab import stand_in

LENGTH = 512
SECONDS = 1.0


def run(given: argparse.Namespace) -> list[Table]:
    """Every step asked for, in this process and with one worker; all in turns."""
    synthetic.corpus(given.work, stand_in(loader_benchmark.VOCABULARY))
    cases = [(step, name, workers) for step in given.steps for name in ("mlm", "denoising") for workers in (0, 1)]
    times: dict[tuple[int, str, int], list[float]] = {case: [] for case in cases}
    for _ in range(given.rounds + 1):
        for case in cases:
            times[case].append(_first_batch(*case, given))
    rows = [
        {
            "step": step,
            "objective": name,
            "workers": workers,
            "seconds": round(statistics.median(measured[1:]), 4),
            "most": round(max(measured[1:]), 4),
            "target": f"< {SECONDS:g} s",
        }
        for (step, name, workers), measured in times.items()
    ]
    return [
        Table("time to the first batch", rows),
        Table("peak memory", [{"GiB": round(measure.peak_bytes() / measure.GIB, 2)}]),
    ]


def _first_batch(step: int, name: str, workers: int, given: argparse.Namespace) -> float:
    """Seconds from opening the corpus to holding the first micro-batches of `step`."""
    started = time.perf_counter()
    data = loader_benchmark.data(name, work=given.work, length=LENGTH, rows=given.rows)
    steps = Loader(data.samples.batch, rows=given.rows, micro_batch=given.rows, workers=workers).steps(step)
    (batch,) = next(steps)
    seconds = time.perf_counter() - started
    if int(batch["sample"][0]) != step * given.rows:
        raise RuntimeError(f"step {step} begins with sample {int(batch['sample'][0])}, not {step * given.rows}")
    steps.close()
    return seconds
