"""What DeepSpeed compiles on first use, and the marks that a killed compilation leaves behind.

torch marks the folder of an extension that is being compiled by a file `lock`, and whoever finds one waits for its end
without limit and without a word (torch 2.13, `torch.utils.file_baton`). The mark of a process that was killed is never
taken away: every later run on that host would hang before its first step.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from pathlib import Path

import psutil
from torch.utils.cpp_extension import get_default_build_root

from megas2s.errors import BadConfig

# Where no other host can be the one that compiles.
OF_ONE_HOST = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "overlay", "tmpfs", "apfs", "hfs"}
LONGEST = 1800.0  # seconds that a compilation takes; DeepSpeed's asynchronous I/O takes ten minutes on a slow core


def extensions_folder() -> Path:
    """Where torch keeps what it compiles."""
    return Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())


def drop_dead_locks(folder: Path) -> list[Path]:
    """Take away the marks of compilations that nobody does any more; those taken away.

    A process that compiles has its mark open, and so has one that looks whether there is something to compile: ranks
    that start together make and drop marks all the time. A mark that goes, or is another file, while processes are
    asked for it is alive. On a file system that other hosts may share, where processes cannot be seen, a mark is left.

    Raises:
        BadConfig: such a mark is older than any compilation takes, and a run would wait for it.
    """
    if not _locks(folder) or not os.access(folder, os.W_OK):
        return []
    with open(folder / ".megas2s", "w") as own:  # ranks look one after the other: what one sees dead, no other renews
        fcntl.flock(own, fcntl.LOCK_EX)
        dead = [lock for lock in _locks(folder) if _is_dead(lock)]
        for lock in dead:
            print(f"{lock}: left by a compilation that was killed; taken away", file=sys.stderr, flush=True)
            lock.unlink(missing_ok=True)
    return dead


def _locks(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*/lock"), *folder.glob("*/*/lock")])


def _is_dead(lock: Path) -> bool:
    seen = _stat(lock)
    if seen is None or seen.st_uid != os.getuid() or _held(lock) or not _same(seen, _stat(lock)):
        return False
    if _file_system(lock) in OF_ONE_HOST:
        return True
    age = time.time() - seen.st_mtime
    if age > LONGEST:
        raise BadConfig(
            f"{lock} says that an extension is being compiled, on another host perhaps, for {age / 60:.0f} minutes; "
            "where no host compiles any more, remove it"
        )
    return False


def _stat(lock: Path) -> os.stat_result | None:
    try:
        return lock.stat()
    except FileNotFoundError:  # its compilation has just ended
        return None


def _same(one: os.stat_result, other: os.stat_result | None) -> bool:
    # A file system gives a number to another file as soon as it is free: the time tells them apart.
    return other is not None and (one.st_ino, one.st_ctime_ns) == (other.st_ino, other.st_ctime_ns)


def _held(lock: Path) -> bool:
    """Whether a process of this host has it open, of those that this user may look into."""
    path = os.path.realpath(lock)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if any(file.path == path for file in process.open_files()):
                return True
    return False


def _file_system(path: Path) -> str:
    real = os.path.realpath(path)
    mounts = [
        entry for entry in psutil.disk_partitions(all=True) if f"{real}/".startswith(entry.mountpoint.rstrip("/") + "/")
    ]
    return max(mounts, key=lambda entry: len(entry.mountpoint)).fstype if mounts else ""
