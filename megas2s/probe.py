"""What this host is, as far as a launch depends on it. The values travel as JSON from each host to the doctor."""

from __future__ import annotations

import contextlib
import hashlib
import platform
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch

from megas2s import files
from megas2s.data.corpus import Corpus, check_sizes
from megas2s.errors import Refusal
from megas2s.recipe import Recipe, dump_recipe
from megas2s.train.record import git_revision, version

PACKAGES = ("torch", "deepspeed", "transformers", "megas2s")
SHARED_MEMORY = Path("/dev/shm")
REACHED = "reached"
NO_DRIVER = "none"
UNREADABLE = "unreadable: "
ROOT = Path(__file__).resolve().parents[1]
CODE = ("megas2s/**/*.py", "launch/*.py", "ds_configs/*.json")  # what a run consists of, beside its recipe and corpus
CONNECT_SECONDS = 5.0


def probe(recipe: Recipe, *, first: str, port: int) -> dict[str, Any]:
    """What this host is. `first` is the host of rank 0, where something listens on `port`."""
    run = Path(recipe.run)
    return {
        "name": socket.gethostname(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "revision": git_revision(),
        "code": code_digest(ROOT),
        "gpus": _gpus(),
        "driver": _driver(),
        "compiler": [name for name in ("g++", "ninja") if shutil.which(name)],
        "disk": shutil.disk_usage(next(folder for folder in (run, *run.absolute().parents) if folder.exists())).free,
        "shared_memory": shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else 0,
        "interface": _interface(first),
        "reaches": _reaches(first, port),
        "recipe": hashlib.sha256(dump_recipe(recipe).encode()).hexdigest()[:12],
        "corpus": _corpus(recipe),
    }


@contextlib.contextmanager
def listening(port: int) -> Iterator[None]:
    """Answer on a port until the block ends, as rank 0 will; OSError where it is taken."""
    with socket.create_server(("", port), backlog=128):
        yield


def code_digest(root: Path) -> str:
    """A hash of the project's files as they lie here: a revision says nothing of what was changed since."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in CODE for path in root.glob(pattern)):
        digest.update(f"{path.relative_to(root)} {files.hash_file(path)}\n".encode())
    return digest.hexdigest()[:12]


def _gpus() -> list[str]:
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _driver() -> str:
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    if shutil.which(asked[0]) is None:
        return NO_DRIVER
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    found = done.stdout.split() if done.returncode == 0 else []  # it complains on stdout
    return found[0] if found else NO_DRIVER


def _interface(first: str) -> str:
    """The network interface that leads to a host; empty where none does."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe_:
        try:
            probe_.connect((first, 9))  # sends nothing: it only asks for the way
        except OSError:
            return ""
        address = probe_.getsockname()[0]
    names = [name for name, found in psutil.net_if_addrs().items() if address in [entry.address for entry in found]]
    return f"{names[0]} {address}" if names else ""


def _reaches(first: str, port: int) -> str:
    try:
        with socket.create_connection((first, port), CONNECT_SECONDS):
            return REACHED
    except OSError as error:
        return f"port {port} of {first}: {error.strerror or error}"


def _corpus(recipe: Recipe) -> str:
    """What is in the corpus, if all of its shards have the size that they were written with."""
    try:
        corpus = Corpus.open(Path(recipe.corpus))
        check_sizes(corpus)
    except (Refusal, OSError) as trouble:
        return f"{UNREADABLE}{trouble}"
    return corpus.digest[:12]
