"""The run record: what ran, where and from which code, so that a run can be explained and repeated.

Secrets stay out: the value of a variable whose name speaks of tokens, keys, secrets or passwords is never kept.
"""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import logging
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from megas2s import dist, files

PACKAGES = ("torch", "deepspeed", "transformers", "datasets", "sentencepiece", "pyarrow", "numpy", "safetensors")
ALIKE = ("torch", "deepspeed")  # ranks of unlike versions may wait for each other without end
ABSENT = "absent"
SECRET = re.compile(r"TOKEN|KEY|SECRET|PASS|_PWD$|_PAT$|CREDENTIAL|AUTH|COOKIE", re.IGNORECASE)
ADDRESS_WITH_LOGIN = re.compile(r"(\w+://)[^/\s]+@")  # up to the last @: a password may hold one


def redacted(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without secrets: their values, and logins inside addresses, are replaced by `(redacted)`."""
    return {
        name: "(redacted)" if SECRET.search(name) else ADDRESS_WITH_LOGIN.sub(r"\1(redacted)@", value)
        for name, value in sorted(environment.items())
    }


def describe(seed: int, hosts: Sequence[str]) -> dict[str, Any]:
    """Versions, hosts, devices, seed, code and environment of this launch, as plain JSON values."""
    device = dist.device()
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "seed": seed,
        "git": git_revision(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in PACKAGES},
        "hosts": list(hosts),  # of each rank
        "ranks": dist.place().world_size,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu x {os.cpu_count()}",
        "threads": torch.get_num_threads(),
        "environment": redacted(os.environ),
    }


def append(run: Path, seed: int, hosts: Sequence[str]) -> None:
    """Add this launch to `run.json`, the list of all launches of a run; rank 0 writes. `hosts` has each rank's."""
    if not dist.is_main():
        return
    path = run / "run.json"
    launches = files.read_record(path) if path.exists() else []
    files.write_json(path, [*launches, describe(seed, hosts)])


def version(package: str) -> str:
    """The version of an installed package, or ABSENT."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ABSENT


def versions() -> str:
    """What every rank must run alike, as a phrase."""
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in ALIKE)])


@functools.cache
def git_revision() -> str:
    """The commit of the code, with `-dirty` where files differ from it; `unknown` outside a checkout.

    Asked for once: it is that of the code this process has loaded.
    """
    here = Path(__file__).resolve().parent
    try:
        revision = _git(here, "rev-parse", "HEAD")
        return f"{revision}-dirty" if _git(here, "status", "--porcelain", "--untracked-files=no") else revision
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def log_to(run: Path) -> None:
    """Send log lines of every rank to its own file, and those of rank 0 to the console too."""
    place = dist.place()
    path = run / "logs" / f"rank_{place.rank}.log"
    with files.disk_trouble(path):
        files.make_folder(path.parent)
        handlers: list[logging.Handler] = [_LogFile(path, encoding="utf-8")]
    handlers[0].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    if place.rank == 0:
        console = logging.StreamHandler(sys.stdout)
        console.setFormatter(logging.Formatter("%(message)s"))
        handlers.append(console)
    root = logging.getLogger("megas2s")
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(logging.INFO)
    root.propagate = False


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """Called where a line cannot be written; logging itself would print a traceback and go on."""
        with files.disk_trouble(Path(self.baseFilename)):
            raise


def _git(folder: Path, *arguments: str) -> str:
    result = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    return result.stdout.strip()
