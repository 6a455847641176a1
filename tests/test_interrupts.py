"""Ctrl-C ends a script with one sentence, at once, and the same command continues.

Preprocessing's is in tests/tools/test_preprocess.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from megas2s import files
from megas2s.train import checkpoint

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "launch" / "sample_corpus"
INTERRUPTED = "interrupted; the same command continues\n"


def interrupted(reached, *command: object) -> tuple[int, str, str]:
    """Start a script, press Ctrl-C once `reached(process)` has returned; exit code, output and complaint."""
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        reached(process)
        os.killpg(process.pid, signal.SIGINT)
        printed, complaint = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    return process.returncode, printed, complaint


@pytest.mark.slow
def test_ctrl_c_ends_pretraining_with_a_sentence_and_the_same_command_continues(recipe_data, write_recipe):
    stage = {**recipe_data["stages"][0], "engine": {"name": "local"}, "steps": 100_000}
    recipe_data |= {"stages": [stage], "workers": 1, "checkpoints": {"every": 1, "keep_last": 2}}
    recipe, run = write_recipe(recipe_data), Path(recipe_data["run"])

    def third_checkpoint(process):
        while not checkpoint.step_folder(run / "mlm", 3).exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)

    code, _, complaint = interrupted(third_checkpoint, "launch/pretrain.py", recipe)
    assert (code, complaint) == (130, INTERRUPTED)
    assert not (run / "lock.json").exists()
    assert not (run / "mlm" / "weights").exists()
    for folder in checkpoint.published(run / "mlm"):
        files.verify(folder)
    reached = checkpoint.newest(run / "mlm").state.step

    stop = ["run=" + str(run), "checkpoints.every=1000"]  # the plan stays; what is left is not waited for
    code, printed, complaint = interrupted(line_with(f"mlm {reached + 1}/"), "launch/pretrain.py", recipe, *stop)
    assert (code, complaint) == (130, INTERRUPTED)
    assert f"100000 steps, from step {reached}" in printed


def line_with(words: str):
    """Wait for a line of output with some words; what was read is put back in front of the rest."""

    def reached(process):
        lines = []
        for line in process.stdout:
            lines.append(line)
            if words in line:
                break
        else:
            pytest.fail(f"{words!r} was not printed: {lines} {process.stderr.read()}")
        rest = process.communicate
        process.communicate = lambda **known: _after(lines, *rest(**known))

    return reached


def _after(lines, printed, complaint):
    return "".join(lines) + printed, complaint


@pytest.mark.slow
def test_ctrl_c_ends_tokenizer_training_at_once_and_leaves_nothing(script, tmp_path):
    command = ["tools/train_tokenizer.py", "--input", SAMPLE, "--output", tmp_path / "new", "--vocab-size", 4096]

    children = []

    def training(process):
        while not children:
            assert process.poll() is None, process.communicate()
            children.extend(psutil.Process(process.pid).children())
            time.sleep(0.005)

    assert interrupted(training, *command) == (130, "14 input files, 0.2 MB\n", INTERRUPTED)
    assert not psutil.wait_procs(children, timeout=10)[1]
    assert not list(tmp_path.iterdir())
    done = script(*command)
    assert done.returncode == 0, done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
