"""A run is continued by its own recipe, from a whole checkpoint, by one job at a time."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from .conftest import PRETRAIN, ROOT, content, flip_byte, refused, weights


@pytest.mark.parametrize("left", ["checkpoints", "weights"])
def test_a_run_of_another_recipe_is_refused_and_left_as_it_was(script, recipe, complete, interrupted, left):
    if left == "weights":
        shutil.copytree(complete / "mlm" / "weights", interrupted / "mlm" / "weights")
    before = content(interrupted)
    result = script(PRETRAIN, recipe, f"run={interrupted}", "stages.mlm.schedule.lr=2e-3")
    refused(
        result,
        4,
        "belongs to another recipe: stage.schedule.lr was 0.001 and is now 0.002; put it back, allow it (",
    )
    assert content(interrupted) == before


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(script, recipe, complete, interrupted):
    damaged = interrupted / "mlm" / "checkpoints" / "step_00000004"
    flip_byte(damaged / "optimizer" / "model-00001.safetensors")
    result = script(PRETRAIN, recipe, f"run={interrupted}")
    assert result.returncode == 0, result.stdout
    assert (
        f"passing over a damaged checkpoint: {damaged}/optimizer/model-00001.safetensors does not match its SHA-256"
        in (result.stdout)
    )
    assert "stage mlm (mlm), 6 steps, from step 2" in result.stdout
    assert weights(interrupted) == weights(complete)


def test_when_every_checkpoint_is_damaged_training_does_not_begin_anew(script, recipe, interrupted):
    for folder in (interrupted / "mlm" / "checkpoints").iterdir():
        flip_byte(folder / "weights" / "model-00001.safetensors")
    before = content(interrupted)
    result = script(PRETRAIN, recipe, f"run={interrupted}")
    refused(result, 4, f"every checkpoint in {interrupted}/mlm/checkpoints is damaged: ", "restore it from a copy")
    assert content(interrupted) == before


@pytest.mark.slow
def test_a_run_folder_in_use_is_refused_and_the_job_in_it_goes_on(script, recipe, tmp_path):
    run = tmp_path / "run"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, PRETRAIN, str(recipe), f"run={run}", "stages.mlm.steps=100000"]
    first = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        while not (run / "metrics.jsonl").is_file():
            assert first.poll() is None, first.communicate()
            time.sleep(0.05)
        result = script(PRETRAIN, recipe, f"run={run}", "stages.mlm.steps=100000")
        refused(result, 2, f"{run} is in use by process {first.pid} on ", "wait for it, or choose another run folder")
        assert first.poll() is None
        first.send_signal(signal.SIGINT)
        _, said = first.communicate(timeout=60)
        assert (first.returncode, said) == (130, "interrupted; the same command continues\n")
    finally:
        first.kill()
        first.wait()
    assert not (run / "lock.json").exists()
