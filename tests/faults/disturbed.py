"""A launch with a fault in it: python tests/faults/disturbed.py FAULT SCRIPT [arguments of the script]

The script runs as it is; one method that it will call has been replaced. Faults strike at one step of one rank, of the
first launch of a run: the launch that comes after finds a file in the run folder and goes undisturbed.
"""

from __future__ import annotations

import os
import runpy
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RANK, STEP = 1, 2


def hang() -> None:
    """Rank 1 never comes back from its third step."""
    _before_step(lambda: time.sleep(1e6), only=STEP)


def straggle() -> None:
    """Rank 1 is late at every step, as one whose disk is slow."""
    _before_step(lambda: time.sleep(0.3), only=None)


def _before_step(fault, *, only: int | None) -> None:
    from megas2s.engine.zero import ZeroEngine
    from megas2s.train.loop import _Window

    state = {"step": 0}
    begin, step_of = _Window.begin_step, ZeroEngine.train_step

    def begin_step(window) -> None:
        if int(os.environ["RANK"]) == RANK and only in (None, state["step"]):
            fault()
        begin(window)

    def train_step(engine, batches, *, step, lr):
        state["step"] = step + 1
        return step_of(engine, batches, step=step, lr=lr)

    _Window.begin_step, ZeroEngine.train_step = begin_step, train_step


def main() -> None:
    """Put the fault in and hand over."""
    launcher = [word for word in sys.argv[1:] if word.startswith("--local_rank")]
    words = [word for word in sys.argv[1:] if word not in launcher]
    fault, script, *rest = words
    sys.argv = [script, *launcher, *rest]
    sys.path.insert(0, str(ROOT))
    globals()[fault]()
    runpy.run_path(str(ROOT / script), run_name="__main__")


main()
