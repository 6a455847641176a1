"""A rank that gets no further ends, and leaves behind where every rank stood.

    dog.enter("step", 7)        what this rank does from now on, until it enters something else

A thread beside the training looks once a second. Where a section takes longer than it may, the stacks of all threads
are written into the run folder, which is also how the other ranks are told: they write theirs, and all end with code 7.
Where not even that thread gets a turn (a call that never lets go of Python's lock), C code writes the stacks and ends
the process. A heartbeat file for each rank says, to whoever looks, what it does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import json
import math
import os
import socket
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import IO, NamedTuple

from megas2s import cli, dist
from megas2s.errors import LostRank
from megas2s.spec import spec

LOOK_SECONDS = 1.0
BEAT_SECONDS = 10.0  # between two heartbeats on the disk
GRACE_SECONDS = 5.0  # for the other ranks to write their stacks, and for a rank to end by itself
STDERR = 2  # the descriptor: a notebook or a test may have put something else in the place of sys.stderr
COLLECTIVE = ("torch/distributed/", "deepspeed/comm/")
PACKAGE = str(Path(__file__).resolve().parents[1])


@spec
class Watch:
    """Seconds that each section of training may take before the run is given up; 0: any time.

    `setup` is all before the first step, compilation and the trial step included. Above `patience`, after which a rank
    gives up waiting for the others, only what a rank does by itself is met.
    """

    setup: float = 7200.0
    step: float = 1200.0
    batch: float = 600.0  # without a batch from a loader process
    evaluate: float = 7200.0
    save: float = 7200.0
    straggler: float = 1.5  # times the median rank's own time in a step, from which a rank is named; 0: none is

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if not 0 <= getattr(self, field.name) < math.inf:
                raise ValueError(f"{field.name} must be at least 0 and finite, got {getattr(self, field.name)}")
        if 0 < self.straggler <= 1:
            raise ValueError(f"straggler must be above 1, or 0 for none, got {self.straggler}")


class _Place(NamedTuple):
    """What a rank does, and since when by its own clock."""

    section: str
    step: int
    since: float


class Watchdog:
    """Watches this process. `launch` is what all ranks of a launch, and no others, call it."""

    def __init__(self, run: Path, watch: Watch, *, launch: str) -> None:
        self._rank = dist.place().rank
        self._watch = watch
        self._hang = run / "hangs" / launch
        self._beat = run / "heartbeats" / f"rank_{self._rank:05d}.json"
        self._place = _Place("setup", 0, time.monotonic())
        self._closed = threading.Event()
        self._stacks: IO[str] | None = None
        with contextlib.suppress(OSError):  # a full disk is for those to tell whose files matter
            self._beat.parent.mkdir(parents=True, exist_ok=True)
        self.enter("setup")
        self._thread = threading.Thread(target=self._look, name="watchdog", daemon=True)
        self._thread.start()

    def enter(self, section: str, step: int = 0) -> None:
        """Begin a section; its time starts now."""
        self._place = _Place(section, step, time.monotonic())
        limit = getattr(self._watch, section)
        if limit:
            faulthandler.dump_traceback_later(limit + 4 * GRACE_SECONDS, exit=True, file=STDERR)
        else:
            faulthandler.cancel_dump_traceback_later()

    def close(self) -> None:
        """Watch no more."""
        self._closed.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        with contextlib.suppress(OSError):
            self._beat.unlink(missing_ok=True)
            self._beat.parent.rmdir()  # by the last rank; for the others it is not empty

    def _look(self) -> None:
        beaten = -math.inf
        while not self._closed.wait(LOOK_SECONDS):
            now, place = time.monotonic(), self._place
            limit = getattr(self._watch, place.section)
            if now - beaten >= BEAT_SECONDS:
                beaten = now
                self._show(place, now)
            if limit and now - place.since > limit:
                self._end(f"longer than watch.{place.section} allows ({limit:g} s)", place)
            if self._hang.is_dir():
                self._end("when another rank got no further", place)

    def _show(self, place: _Place, now: float) -> None:
        beat = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "section": place.section,
            "step": place.step,
            "seconds": round(now - place.since, 1),
            "at": round(time.time()),
        }
        beside = self._beat.with_suffix(".new")
        with contextlib.suppress(OSError):
            beside.write_text(json.dumps(beat) + "\n", encoding="utf-8")
            beside.replace(self._beat)

    def _end(self, why: str, place: _Place) -> None:
        """Leave stacks and a sentence, and end: nothing orderly can be hoped for of a rank that hangs."""
        took = time.monotonic() - place.since
        what = f"{place.section} {place.step}" if place.step else place.section
        where, waits = standing(sys._current_frames()[threading.main_thread().ident or 0])
        head = f"rank {self._rank} on {socket.gethostname()} was in {what} for {took:.0f} s, {why}, at {where}"
        head += ", waiting for the other ranks" if waits else ""
        with contextlib.suppress(OSError):
            self._hang.mkdir(parents=True, exist_ok=True)
            with open(self._hang / f"rank_{self._rank:05d}.txt", "w", encoding="utf-8") as file:
                file.write(f"{head}\n\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
        self._closed.wait(GRACE_SECONDS)
        sentence = f"{head}; the stacks of all ranks lie in {self._hang}; the same command continues from the last "
        sentence += f"checkpoint{_culprits(self._hang)}"
        with contextlib.suppress(OSError):
            cli.leave_in_log(sentence)
            print(f"error: {sentence}", file=sys.stderr, flush=True)
        os._exit(LostRank.exit_code)


def standing(frame: FrameType) -> tuple[str, bool]:
    """The innermost line of ours on a stack, and whether it waits in a collective operation."""
    waits, found = False, ""
    inner: FrameType | None = frame
    while inner is not None and not found:
        file = inner.f_code.co_filename
        waits = waits or any(part in file for part in COLLECTIVE)
        if file.startswith(PACKAGE):
            found = f"megas2s{file.removeprefix(PACKAGE)}:{inner.f_lineno} ({inner.f_code.co_name})"
        inner = inner.f_back
    return found or f"{frame.f_code.co_filename}:{frame.f_lineno}", waits


def _culprits(folder: Path) -> str:
    """Which ranks were not waiting for others, where some were."""
    with contextlib.suppress(OSError):
        heads = [path.read_text(encoding="utf-8").split("\n", 1)[0] for path in sorted(folder.glob("rank_*.txt"))]
        others = [head.split(" on ")[0] for head in heads if not head.endswith("waiting for the other ranks")]
        if 0 < len(others) < len(heads):
            return f" ({', '.join(others)} did not wait for others)"
    return ""
