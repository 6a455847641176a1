"""What the benchmarks share: arms that run in turns, each in its own process, and tables with their environment.

    with arms({"ours": partial(make_ours, config), "theirs": partial(make_theirs, config)}) as both:
        runs = interleaved(both, rounds=5)             # warm-up, then A B A B ...
    ratio(runs, "theirs", "ours")                      # median over rounds, and how far they differ

`make` is called in the arm's process and returns what is timed. A process of its own gives each arm its own peak of
memory and its own allocator; while one arm runs the others wait for a message.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from rich.console import Console
from rich.table import Table as RichTable

from megas2s import files
from megas2s.errors import Refusal
from megas2s.train import record

GIB = 1 << 30
Make = Callable[[], Callable[[], float]]  # called once in the arm's process; what it returns is timed, its value kept


class Run(NamedTuple):
    """One timed call: its time, what it returned, and what its process has used."""

    seconds: float
    value: float
    peak: int  # bytes, so far
    cpu_seconds: float = 0.0  # of all its threads, without child processes; waiting for a busy core is not in it


class Ratio(NamedTuple):
    """A ratio over rounds: its median, least and most, and that of each side's best round.

    The last one is the least disturbed on a machine that others use too.
    """

    ratio: float
    least: float
    most: float
    best: float


class Table(NamedTuple):
    """Rows with equal keys; the keys are the columns."""

    title: str
    rows: Sequence[Mapping[str, object]]


class Arm(Protocol):
    """One side of a comparison."""

    def run(self) -> Run:
        """Time it once."""

    def close(self) -> None:
        """End it."""


class InProcess:
    """An arm in a process of its own."""

    def __init__(self, name: str, make: Make) -> None:
        context = multiprocessing.get_context("spawn")
        self._name = name
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(make, theirs))
        self._process.start()
        theirs.close()

    def run(self) -> Run:
        """Ask the process for one run."""
        try:
            with contextlib.suppress(ConnectionError):  # it may have ended; then it has left a traceback
                self._pipe.send("run")
            answer = self._pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            raise Refusal(
                f"the process of {self._name!r} died (exit code {self._process.exitcode}), perhaps for want of memory; "
                "make the benchmark smaller"
            ) from None
        if isinstance(answer, str):
            raise RuntimeError(f"{self._name}:\n{answer}")
        run: Run = answer
        return run

    def close(self) -> None:
        """Let the process end."""
        self._pipe.close()
        self._process.join()


class Here:
    """An arm in this process."""

    def __init__(self, name: str, make: Make) -> None:
        self._make = make
        self._timed: Callable[[], float] | None = None

    def run(self) -> Run:
        """Make it where that has not been done, and time it."""
        if self._timed is None:
            self._timed = self._make()
        return _time(self._timed)

    def close(self) -> None:
        """Drop it."""
        self._timed = None


@contextlib.contextmanager
def arms(makes: Mapping[str, Make], *, one_process: bool = False) -> Iterator[dict[str, Arm]]:
    """The arms by name; they end with the block."""
    kind = Here if one_process else InProcess
    started: dict[str, Arm] = {}
    try:
        for name, make in makes.items():
            started[name] = kind(name, make)
        yield started
    finally:
        for arm in started.values():
            arm.close()


def interleaved(arms: Mapping[str, Arm], *, rounds: int) -> dict[str, list[Run]]:
    """A first run of each, then `rounds` of each in turns: every list has rounds + 1 runs, the first a warm-up."""
    runs: dict[str, list[Run]] = {name: [] for name in arms}
    for _ in range(rounds + 1):
        for name, arm in arms.items():
            runs[name].append(arm.run())
    return runs


def cpu_seconds(runs: Sequence[Run]) -> float:
    """Median CPU seconds without the warm-up: what one thread's work costs, also where others keep the cores busy."""
    return statistics.median(run.cpu_seconds for run in runs[1:])


def ratio(runs: Mapping[str, Sequence[Run]], over: str, under: str) -> Ratio:
    """Seconds of `over` by seconds of `under`, round by round: above 1 where `under` is the faster one."""
    numerators, divisors = ([run.seconds for run in runs[name][1:]] for name in (over, under))
    values = [one / other for one, other in zip(numerators, divisors, strict=True)]
    found = statistics.median(values), min(values), max(values), min(numerators) / min(divisors)
    return Ratio(*(round(value, 2) for value in found))


def seconds(runs: Sequence[Run]) -> float:
    """Median seconds without the warm-up."""
    return statistics.median(run.seconds for run in runs[1:])


def peak_gib(runs: Sequence[Run], *, one_process: bool) -> float | None:
    """Peak memory of an arm; None where arms share a process."""
    return None if one_process else round(runs[-1].peak / GIB, 2)


def peak_bytes() -> int:
    """Peak memory of this process: allocated on its GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    # Not getrusage: its figure survives exec, so a child would report its parent's.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM"))


def show(table: Table) -> None:
    """Print a table as wide as it is."""
    print(table.title)
    shown = RichTable(box=None, pad_edge=False)
    for index, name in enumerate(table.rows[0]):
        shown.add_column(name, justify="left" if index == 0 else "right", no_wrap=True)
    for row in table.rows:
        shown.add_row(*("" if value is None else str(value) for value in row.values()))
    Console(width=240).print(shown)
    print(flush=True)


def write_json(path: Path, given: argparse.Namespace, tables: Sequence[Table]) -> None:
    """The tables with what made them."""
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(given).items()}
    found = {"settings": settings, "environment": environment(), "tables": [table._asdict() for table in tables]}
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, json.dumps(found, indent=2, default=str) + "\n")


def environment() -> dict[str, object]:
    """Machine, versions and code: `record.describe` without the process's variables."""
    found = record.describe(seed=0, hosts=())
    kept = ("started", "git", "python", "platform", "packages", "device", "threads")
    return {name: found[name] for name in kept} | {"cpu": _cpu(), "load": [round(load, 1) for load in os.getloadavg()]}


def _cpu() -> str:
    """The processor's name, its number of cores, and whether it multiplies bf16 matrices in hardware."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    bf16 = [name for name in ("amx_bf16", "avx512_bf16") if name in facts.get("flags", "").split()]
    return f"{facts.get('model name', platform.processor())} x {os.cpu_count()} {' '.join(bf16)}".strip()


def _time(timed: Callable[[], float]) -> Run:
    started, started_cpu = time.perf_counter(), time.process_time()
    value = timed()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Run(time.perf_counter() - started, value, peak_bytes(), time.process_time() - started_cpu)


def _serve(make: Make, pipe: Connection) -> None:
    """The arm's process: until the pipe closes, answer each message with a Run, or with a traceback."""
    try:
        timed = make()
        while True:
            try:
                pipe.recv()
            except EOFError:
                return
            pipe.send(_time(timed))
    except BaseException:
        with contextlib.suppress(OSError):
            pipe.send(traceback.format_exc())
