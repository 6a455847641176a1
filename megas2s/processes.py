"""Processes that this one starts."""

from __future__ import annotations

import multiprocessing
import os
import threading


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
