"""One job per run folder: a lock file that says which process holds it, and a way past one that a crash left."""

from __future__ import annotations

import atexit
import json
import os
import socket
from pathlib import Path
from typing import Any

import psutil

from megas2s import files
from megas2s.errors import BadConfig

LOCK = "lock.json"


def hold(run: Path) -> None:
    """Take the run folder for this process until it ends; raises BadConfig where another job has it.

    A process that re-executes itself keeps its process id and start time, and with them its lock.
    """
    with files.disk_trouble(run):
        run.mkdir(parents=True, exist_ok=True)
    path = run / LOCK
    mine = _identity(os.getpid())
    content = json.dumps(mine).encode()
    try:
        with files.disk_trouble(path), open(path, "xb") as file:
            file.write(content)
    except FileExistsError:
        holder = _holder(path)
        if holder is not None and holder != mine and _lives(holder):
            raise BadConfig(
                f"{run} is in use by process {holder['pid']} on {holder['host']}; wait for it, or choose another "
                f"run folder (remove {path} if that job is gone)"
            ) from None
        files.write_bytes(path, content)
    atexit.register(_release, path, mine)


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


def _lives(holder: dict[str, Any]) -> bool:
    """Whether the holder may still run. On another host nobody can tell from here, so it counts as alive."""
    if holder["host"] != socket.gethostname():
        return True
    try:
        return bool(_identity(holder["pid"])["started"] == holder["started"])
    except psutil.Error:
        return False
