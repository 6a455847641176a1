"""A run killed wherever it is, and started again, ends with the same weights and the same loss log, bit for bit.

The runs here are launched as people launch them and end by SIGKILL, launcher and ranks at once, when the log shows a
step.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file

from megas2s.models.weights import open_weights
from megas2s.train import checkpoint

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 120  # until a launch has shown the step it is to be killed at

pytestmark = pytest.mark.timeout(900)  # twelve starts of two ranks, on a machine that may be busy


def family(process: subprocess.Popen) -> list[psutil.Process]:
    """The living processes that a launch has started: its descendants, and whatever is in its session."""
    found = {}
    for candidate in psutil.process_iter():
        try:
            ancestors = [parent.pid for parent in candidate.parents()]
            belongs = (
                candidate.pid == process.pid or process.pid in ancestors or os.getsid(candidate.pid) == process.pid
            )
            if belongs and candidate.status() != psutil.STATUS_ZOMBIE:
                found[candidate.pid] = candidate
        except (psutil.Error, ProcessLookupError):
            continue
    return list(found.values())


def kill(process: subprocess.Popen) -> None:
    """SIGKILL to every process of a launch, until none is left."""
    for _ in range(100):
        members = family(process)
        for member in members:
            try:
                os.kill(member.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.poll()
        if not members:
            break
        time.sleep(0.02)
    assert not family(process)


def launch_and_kill(command: Sequence[str], reached: Callable[[], bool], output: Path) -> None:
    """Launch, wait for `reached`, kill; nothing of the launch survives."""
    with open(output, "wb") as sink:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            give_up = time.monotonic() + SECONDS
            while not reached():
                text = output.read_text(errors="replace")[-4000:]
                assert process.poll() is None, f"it ended before it could be killed:\n{text}"
                assert time.monotonic() < give_up, f"not there after {SECONDS} s:\n{text}"
                time.sleep(0.002)
        finally:
            kill(process)


def logged(run, stage: str, step: int) -> Callable[[], bool]:
    """Whether a step of a stage, or a later one, is in the log by now."""
    return lambda: f'"stage": "{stage}", "kind": "train", "step": {step},' in read(run.folder / "metrics.jsonl")


def published(run, stage: str) -> Callable[[], bool]:
    """Whether the weights that complete a stage have their name."""
    return lambda: checkpoint.is_complete(run.folder / stage)


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def written(data: dict, folder: Path) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


STAGES = ("mlm", "seq2seq_frozen", "seq2seq")


@pytest.fixture(scope="module")
def killed_locally(tmp_path_factory, make_recipe, script, finished):
    """An undisturbed run, and one killed in the middle of stage 1, once stage 1 is published, and in stage 2."""
    runs, commands = [], []
    for name in ("straight", "killed"):
        folder = tmp_path_factory.mktemp(name)
        data = make_recipe(folder / "run")
        data["log"] |= {"every": 3, "evaluate_every": 20}
        data["checkpoints"] = {"every": 8, "keep_last": 1}
        for stage in data["stages"]:
            stage |= {"engine": {"name": "local"}, "steps": 60}
        runs.append(finished(folder / "run"))
        commands.append(["launch/pretrain.py", str(written(data, folder))])
    straight, killed = runs
    done = script(*commands[0], timeout=SECONDS)
    assert done.returncode == 0, done.stdout
    again = [sys.executable, *commands[1]]
    output = killed.folder.parent / "output.txt"
    launch_and_kill(again, logged(killed, "mlm", 21), output)
    assert not published(killed, "mlm")()
    launch_and_kill(again, published(killed, "mlm"), output)
    launch_and_kill(again, logged(killed, "seq2seq_frozen", 21), output)
    assert not published(killed, "seq2seq_frozen")()
    done = script(*commands[1], timeout=SECONDS)
    assert done.returncode == 0, done.stdout
    assert "stage seq2seq_frozen (denoising), 60 steps, from step" in done.stdout
    return straight, killed


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_run_killed_within_stages_and_between_them_ends_with_the_same_bits(killed_locally, stage: str):
    straight, killed = killed_locally
    assert killed.bits(stage) == straight.bits(stage)


PIPE = {"name": "pipe", "stages": 2, "config": str(ROOT / "ds_configs" / "pipeline.json")}
DISTRIBUTED = {
    "zero0": {"objective": {"name": "mlm"}, "precision": "fp32"},
    "zero1": {
        "init": "zero0",
        "decoder": {"tying": "tied_to_decoder"},
        "freeze": ["encoder.*"],
        "objective": {"name": "e2s2", "views": 1, "contrast": None},
        "precision": "bf16",
    },
    "zero2": {"init": "zero1", "objective": {"name": "denoising", "noise": "mask"}, "precision": "fp32"},
    # A group of the contrast is gathered over both ranks.
    "zero3": {"init": "zero2", "objective": {"name": "e2s2", "contrast": {"group": 4}}, "precision": "bf16"},
    "pipe": {
        "init": "zero3",
        "objective": {"name": "e2s2", "contrast": {"group": 2}},
        "precision": "bf16",
        "engine": PIPE,
    },
}


@pytest.fixture(scope="module")
def killed_on_two_ranks(tmp_path_factory, make_recipe, rank_command, ranks, finished):
    """A stage for each ZeRO stage and a pipeline, on two ranks: an undisturbed run, and one killed amid each stage."""
    runs, recipes = [], []
    for name in ("straight", "killed"):
        folder = tmp_path_factory.mktemp(name)
        data = make_recipe(folder / "run")
        data["log"] |= {"every": 1, "evaluate_every": 10, "tensorboard": False}
        data["checkpoints"] = {"every": 4, "keep_last": 1}
        data["stages"] = [
            {
                **data["stages"][0],
                "name": name,
                "steps": 24,
                "engine": {"name": "zero", "config": str(ROOT / "ds_configs" / f"{name}.json")},
                **changes,
            }
            for name, changes in DISTRIBUTED.items()
        ]
        runs.append(finished(folder / "run"))
        recipes.append(written(data, folder))
    straight, killed = runs
    done = ranks(2, "launch/pretrain.py", recipes[0])
    assert done.returncode == 0, done.stdout[-4000:]
    for stage in DISTRIBUTED:
        command = rank_command(2, "launch/pretrain.py", recipes[1])
        launch_and_kill(command, logged(killed, stage, 6), killed.folder.parent / "output.txt")
        assert not published(killed, stage)()
        assert checkpoint.published(killed.folder / stage)
    done = ranks(2, "launch/pretrain.py", recipes[1])
    assert done.returncode == 0, done.stdout[-4000:]
    return straight, killed


@pytest.mark.slow
@pytest.mark.ranks
@pytest.mark.parametrize("stage", DISTRIBUTED)
def test_two_ranks_killed_under_each_engine_end_with_the_same_bits(killed_on_two_ranks, stage: str):
    straight, killed = killed_on_two_ranks
    assert killed.bits(stage) == straight.bits(stage)


@pytest.mark.slow
@pytest.mark.ranks
@pytest.mark.parametrize("stage", ["zero3", "pipe"])
def test_a_checkpoint_of_two_ranks_in_bf16_becomes_a_hugging_face_model(killed_on_two_ranks, script, tmp_path, stage):
    _, killed = killed_on_two_ranks
    folder = checkpoint.published(killed.folder / stage)[-1]
    done = script("tools/convert_to_hf.py", folder, tmp_path / "out")
    assert done.returncode == 0, done.stdout
    assert "MBartForConditionalGeneration, float32\n" in done.stdout
    assert "reloaded with transformers: logits differ from ours by at most" in done.stdout
    exported = load_file(tmp_path / "out" / "model.safetensors").values()
    reader = open_weights(folder / "weights")
    lost = [name for name in reader.names if not any(torch.equal(reader.tensor(name), tensor) for tensor in exported)]
    # Two rows are added to tables of positions; an objective's own head stays behind.
    assert lost == [name for name in reader.names if "positions" in name or name.startswith("classes.")]
