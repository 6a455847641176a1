"""Programs of real ranks, started with DeepSpeed's launcher on this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 500


def launch(program: str, arguments: Sequence[str], ranks: int) -> None:
    """Run a program of this folder on so many ranks; raises with what they said where one fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    runner = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", str(ranks), "--master_port", port]
    ended = subprocess.run(
        [*runner, str(Path(__file__).with_name(program)), *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )
    if ended.returncode:
        raise RuntimeError(ended.stdout[-4000:])
