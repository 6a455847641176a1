"""How long a rank computes by itself, where it waits for no other."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch


class Stopwatch:
    """Adds up the time of some blocks of code, on a GPU that of their kernels. Reading it waits for those."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._seconds = 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The time of what is done within counts."""
        if self._on_gpu:
            begins, ends = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            begins.record()
            yield
            ends.record()
            self._events.append((begins, ends))
        else:
            began = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - began

    def seconds(self) -> float:
        """All blocks together."""
        for _, ends in self._events[-1:]:
            ends.synchronize()
        return self._seconds + float(sum(begins.elapsed_time(ends) for begins, ends in self._events)) / 1e3
