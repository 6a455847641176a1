"""Processes that this one starts."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def without_ctrl_c() -> Iterator[None]:
    """Children that are started inside never hear Ctrl-C, which reaches the whole group: it is the parent's to answer.

    So from their first instruction on: one that still imports would print its stack. The parent hears it at the end.
    A child that is spawned needs a queue made before, as pools have one: Python's resource tracker, which starts with
    the first queue or spawned child, lets the signal through when it starts.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """Called by a child: it ends as soon as its parent is gone, however that ended.

    A killed parent closes no pipe that a child does not hold open itself; without this, children outlive it.
    """
    threading.Thread(target=_wait, daemon=True).start()


def _wait() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
