"""One job per run folder: a lock file that says which process holds it, and a way past one that a crash left.

Of a process on this host the system knows whether it runs. One on another host shows it by touching its lock.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from megas2s import files
from megas2s.errors import BadConfig

log = logging.getLogger(__name__)

LOCK = "lock.json"
TOUCH_SECONDS = 30.0  # between two touches
WATCH_SECONDS = 180.0  # without a touch, after which a job on another host is gone; NFS shows a touch a minute late
OLD_SECONDS = 600.0  # a lock that old is not watched; clocks of hosts differ by less


def hold(run: Path) -> None:
    """Take the run folder for this process until it ends; raises BadConfig where another job has it.

    A process that re-executes itself keeps its process id and start time, and with them its lock.
    """
    with files.disk_trouble(run):
        files.make_folder(run)
    path = run / LOCK
    mine = _identity(os.getpid())
    content = json.dumps(mine).encode()
    try:
        with files.disk_trouble(path), open(path, "xb") as file:
            file.write(content)
    except FileExistsError:
        holder = _holder(path)
        if holder is not None and holder != mine and _lives(holder, path):
            raise BadConfig(
                f"{run} is in use by process {holder['pid']} on {holder['host']}; wait for it, or choose another "
                f"run folder (remove {path} if that job is gone)"
            ) from None
        if holder is not None and holder != mine:
            log.warning("process %s on %s has left %s behind; taking it over", holder["pid"], holder["host"], path)
        files.write_bytes(path, content)
    atexit.register(_release, path, mine)
    if not any(thread.name == str(path) for thread in threading.enumerate()):
        threading.Thread(target=_touch, args=(path, mine), name=str(path), daemon=True).start()


def held_by(run: Path) -> str:
    """Who has the run folder, as seen from here."""
    holder = _holder(run / LOCK)
    return "nobody" if holder is None else f"process {holder['pid']} on {holder['host']}"


def _release(path: Path, mine: dict[str, Any]) -> None:
    if _holder(path) == mine:
        path.unlink(missing_ok=True)


def _identity(pid: int) -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": pid, "started": psutil.Process(pid).create_time()}


def _holder(path: Path) -> dict[str, Any] | None:
    try:
        holder: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return holder if {"host", "pid", "started"} <= holder.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _lives(holder: dict[str, Any], path: Path) -> bool:
    if holder["host"] != socket.gethostname():
        return _is_touched(path)
    try:
        return bool(_identity(holder["pid"])["started"] == holder["started"])
    except psutil.Error:
        return False


def _is_touched(path: Path) -> bool:
    """Watch a lock of another host for a sign of life."""
    try:
        last = path.stat().st_mtime
        if time.time() - last > OLD_SECONDS:
            return False
        log.warning("%s is of another host; watching it for %.0f s for a sign of life", path, WATCH_SECONDS)
        give_up = time.monotonic() + WATCH_SECONDS
        while time.monotonic() < give_up:
            time.sleep(min(1.0, WATCH_SECONDS))
            if path.stat().st_mtime != last:
                return True
    except FileNotFoundError:  # released meanwhile
        pass
    return False


def _touch(path: Path, mine: dict[str, Any]) -> None:
    """Show life until the process ends; end it where another job has taken the folder over, as after a long pause."""
    while True:
        time.sleep(TOUCH_SECONDS)
        holder = _holder(path)
        if holder == mine:
            with contextlib.suppress(OSError):
                os.utime(path)
        elif holder is not None:
            log.error("process %s on %s has taken over %s; ending here", holder["pid"], holder["host"], path.parent)
            os.kill(os.getpid(), signal.SIGINT)
            return
