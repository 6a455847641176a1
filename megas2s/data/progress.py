"""How far reading text is, and how that is shown to a person: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import sys
import time
from typing import NamedTuple

from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar


class Progress(NamedTuple):
    """How far work on input files is."""

    phase: str  # "read", "tokenise" or "write shards"
    file: str
    files: int  # done
    files_total: int
    position: int  # bytes of input read from disk, or ids written: the unit of `total`
    total: int  # 0 where it is not known
    documents: int  # since this start
    text_bytes: int  # since this start
    unit: str = "files"  # what `files` and `files_total` count


class Display:
    """A bar on a terminal; elsewhere a line every ten seconds."""

    SECONDS = 10.0

    def __init__(self, *, shown: bool = True) -> None:
        self._shown = shown
        self._started = self._last = time.monotonic()
        self._first = 0  # position of this start, which the ETA must not count as work done
        self._phase = ""
        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}")
        self._bar = Bar(*columns) if shown and sys.stdout.isatty() else None

    def __enter__(self) -> Display:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, progress: Progress) -> None:
        """Called after every block."""
        if not self._shown:
            return
        now = time.monotonic()
        if progress.phase != self._phase:
            self._phase, self._started, self._first = progress.phase, now, progress.position
            if self._bar is not None:
                self._task = self._bar.add_task(progress.phase, total=progress.total or None, said="")
        said = describe(progress, seconds=now - self._started, first=self._first)
        if self._bar is not None:
            self._bar.update(self._task, completed=progress.position, said=said)
        elif now - self._last >= self.SECONDS:
            self._last = now
            print(f"{progress.phase}: {said}", flush=True)


def describe(progress: Progress, *, seconds: float, first: int) -> str:
    """Files, rates and time left, in words; `first` is where this start began."""
    done = progress.position - first
    said = [f"{progress.files}/{progress.files_total} {progress.unit}"]
    if progress.documents and seconds > 0:
        said += [f"{progress.documents / seconds:,.0f} documents/s", f"{progress.text_bytes / seconds / 1e6:.1f} MB/s"]
    if progress.total and done > 0:
        left = seconds * (progress.total - progress.position) / done
        said.append(f"{progress.position / progress.total:.0%}")
        said.append(f"ETA {left // 3600:.0f}:{left % 3600 // 60:02.0f}:{left % 60:02.0f}")
    return ", ".join(said)
