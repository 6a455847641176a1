"""Where the time of a run goes: training that counts, training that was lost, and what is no training.

    {"launch": "mlm", "at": 100.0, "step": 0}                     a launch begins a stage, from a step
    {"steps": [1, 50], "at": 160.0, "seconds": 40.0, "waited": 1.0}
    {"save": 50, "at": 161.0, "seconds": 0.5}
    {"evaluate": 50, "at": 163.0, "seconds": 2.0}

Events are lines of `time.jsonl` in the run folder, written by rank 0 and never taken back: the losses that an
interrupted run has logged are those of one that was not, but its times are not. Steps that a later launch of the same
stage did again were lost. `at` is the clock of rank 0's host; where it jumps back, no time has passed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from megas2s import dist, files
from megas2s.errors import DiskTrouble
from megas2s.train.metrics import duration

EVENTS = "time.jsonl"
SUMMARY = "summary.md"

Event = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Spent:
    """Seconds of a run, by what they were spent on."""

    trained: float = 0.0  # steps whose result stayed, the wait for their batches left out
    waited: float = 0.0  # for batches of those
    lost: float = 0.0  # steps that a later launch did again
    evaluated: float = 0.0
    saved: float = 0.0  # in which saving held up the training
    started: float = 0.0  # from a launch to its first step, start-up and compilation
    down: float = 0.0  # between the last sign of one launch and the next
    launches: int = 0

    @property
    def total(self) -> float:
        """All of it."""
        parts = dataclasses.asdict(self)
        return float(sum(seconds for name, seconds in parts.items() if name != "launches"))

    @property
    def effective(self) -> float:
        """The share of all time in which steps were trained that stayed."""
        return self.trained / self.total if self.total else 0.0


class Clock:
    """Writes the events of one launch of a stage. On other ranks than 0 it keeps silent."""

    def __init__(self, run: Path, stage: str, step: int) -> None:
        self._run = run
        self._write({"launch": stage, "step": step})

    def steps(self, first: int, last: int, *, seconds: float, waited: float) -> None:
        """Steps `first` to `last` took so long, of which so long was waiting for batches."""
        self._write({"steps": [first, last], "seconds": round(seconds, 4), "waited": round(waited, 4)})

    def other(self, what: str, step: int, seconds: float) -> None:
        """`save` or `evaluate` held up the training after a step."""
        self._write({what: step, "seconds": round(seconds, 4)})

    def summarise(self) -> Spent:
        """What the whole run has spent by now, in `summary.md` too."""
        if not dist.is_main():
            return Spent()
        spent = Spent()
        with contextlib.suppress(DiskTrouble, OSError):
            spent = spent_of(read(self._run / EVENTS))
            files.write_text(self._run / SUMMARY, summary(self._run.name, spent))
        return spent

    def _write(self, event: dict[str, Any]) -> None:
        line = json.dumps({**event, "at": round(time.time(), 3)}) + "\n"
        # What only informs does not end a run whose disk is full; who writes what matters tells of that.
        with contextlib.suppress(OSError):
            if dist.is_main():
                with open(self._run / EVENTS, "a", encoding="utf-8") as file:
                    file.write(line)


def read(path: Path) -> list[Event]:
    """The events of a run; a line that a crash cut short is left out."""
    events = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return events


def spent_of(events: Iterable[Event]) -> Spent:
    """What events come to."""
    spent = dict.fromkeys((field.name for field in dataclasses.fields(Spent)), 0.0)
    stage, last, begun = "", 0.0, False
    kept: dict[str, list[tuple[int, int, float, float]]] = {}  # of each stage: first and last step, seconds, waited
    for event in events:
        since = max(0.0, event["at"] - last) if last else 0.0
        last, seconds = event["at"], event.get("seconds", 0.0)
        if "launch" in event:
            stage, begun = event["launch"], False
            spent["launches"] += 1
            spent["down"] += since
            kept[stage], lost = _cut(kept.get(stage, []), event["step"])
            spent["lost"] += lost
        else:
            if not begun:
                spent["started"] += max(0.0, since - seconds)
                begun = True
            if "steps" in event:
                kept.setdefault(stage, []).append((*event["steps"], seconds, event["waited"]))
            elif "save" in event:
                spent["saved"] += seconds
            else:
                spent["evaluated"] += seconds
    every = [row for rows in kept.values() for row in rows]
    spent["waited"] = sum(waited for *_, waited in every)
    spent["trained"] = sum(seconds for *_, seconds, _ in every) - spent["waited"]
    launches = int(spent.pop("launches"))
    return Spent(**spent, launches=launches)


def shares(spent: Spent) -> dict[str, float]:
    """What TensorBoard shows: the share of all time of each kind, and the number of launches."""
    parts = dataclasses.asdict(spent)
    launches = parts.pop("launches")
    return {**{name: seconds / (spent.total or 1.0) for name, seconds in parts.items()}, "launches": float(launches)}


def summary(run: str, spent: Spent) -> str:
    """The page that a person reads."""
    rows = {
        "training that stayed": spent.trained,
        "waiting for batches": spent.waited,
        "training that was lost, and done again": spent.lost,
        "evaluating": spent.evaluated,
        "held up by saving": spent.saved,
        "starting": spent.started,
        "down between launches": spent.down,
    }
    total = spent.total or 1.0
    lines = [f"| {name} | {duration(seconds)} | {seconds / total:.1%} |" for name, seconds in rows.items()]
    launches = f"{spent.launches} launch{'es' if spent.launches != 1 else ''}"
    return "\n".join(
        [
            f"# {run}",
            "",
            f"{spent.effective:.1%} of {duration(spent.total)} in {launches} was training that stayed.",
            "",
            "| time | | share |",
            "|---|---:|---:|",
            *lines,
            "",
        ]
    )


def _cut(rows: list[tuple[int, int, float, float]], step: int) -> tuple[list[tuple[int, int, float, float]], float]:
    """Steps up to `step`, and the seconds of those after it. A report never reaches over a checkpoint."""
    return [row for row in rows if row[1] <= step], sum(row[2] for row in rows if row[1] > step)
