"""N steps = k steps, killed, N - k more: the same weights and the same loss log, bit for bit.

The runs here are launched as people launch them and end by SIGKILL, launcher and ranks at once, wherever they are when
the log shows a step. What each objective adds is tried in this process, where an interruption costs no start.
"""

from __future__ import annotations

import os
import re
import shutil
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

from megas2s.engine.local import LocalEngine
from megas2s.models.weights import open_weights
from megas2s.train import checkpoint

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 120  # until a launch has shown the step it is to be killed at

pytestmark = pytest.mark.timeout(900)  # twelve starts of two ranks, on a machine that may be busy


class Interrupted(Exception):
    """What stops a run in this process."""


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


def assert_same(straight, disturbed, stage: str) -> None:
    assert disturbed.hashes(stage) == straight.hashes(stage)
    assert disturbed.log(stage) == straight.log(stage)


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
    assert_same(*killed_locally, stage)


ZERO = {
    "zero0": {"objective": {"name": "mlm"}, "precision": "fp32"},
    "zero1": {
        "init": "zero0",
        "decoder": {"tying": "tied_to_decoder"},
        "freeze": ["encoder.*"],
        "objective": {"name": "denoising"},
        "precision": "bf16",
    },
    "zero2": {"init": "zero1", "objective": {"name": "denoising", "noise": "mask"}, "precision": "fp32"},
    "zero3": {"init": "zero2", "objective": {"name": "denoising"}, "precision": "bf16"},
}


@pytest.fixture(scope="module")
def killed_on_two_ranks(tmp_path_factory, make_recipe, rank_command, ranks, finished):
    """A stage for each ZeRO stage, on two ranks: an undisturbed run, and one killed in the middle of each."""
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
            for name, changes in ZERO.items()
        ]
        runs.append(finished(folder / "run"))
        recipes.append(written(data, folder))
    straight, killed = runs
    done = ranks(2, "launch/pretrain.py", recipes[0])
    assert done.returncode == 0, done.stdout[-4000:]
    for stage in ZERO:
        command = rank_command(2, "launch/pretrain.py", recipes[1])
        launch_and_kill(command, logged(killed, stage, 6), killed.folder.parent / "output.txt")
        assert not published(killed, stage)()
        assert checkpoint.published(killed.folder / stage)
    done = ranks(2, "launch/pretrain.py", recipes[1])
    assert done.returncode == 0, done.stdout[-4000:]
    return straight, killed


@pytest.mark.slow
@pytest.mark.ranks
@pytest.mark.parametrize("stage", ZERO)
def test_two_ranks_killed_under_each_zero_stage_end_with_the_same_bits(killed_on_two_ranks, stage: str):
    assert_same(*killed_on_two_ranks, stage)


@pytest.mark.slow
@pytest.mark.ranks
def test_a_checkpoint_of_two_ranks_under_zero3_in_bf16_becomes_a_hugging_face_model(
    killed_on_two_ranks, script, tmp_path
):
    _, killed = killed_on_two_ranks
    folder = checkpoint.published(killed.folder / "zero3")[-1]
    done = script("tools/convert_to_hf.py", folder, tmp_path / "out")
    assert done.returncode == 0, done.stdout
    assert "MBartForConditionalGeneration, float32\n" in done.stdout
    assert "reloaded with transformers: logits differ from ours by at most" in done.stdout
    exported = load_file(tmp_path / "out" / "model.safetensors").values()
    reader = open_weights(folder / "weights")
    lost = [name for name in reader.names if not any(torch.equal(reader.tensor(name), tensor) for tensor in exported)]
    assert lost == [name for name in reader.names if "positions" in name]  # two rows are added to these


HOSTS = """
import os
import sys

from megas2s import cli, dist, files
from megas2s.engine import leave
from megas2s.pretrain import pretrain
from megas2s.recipe import load_recipe
from megas2s.train import agree

verify = files.verify

def telling(folder, **choices):
    print(f"rank {dist.place().rank} hashes {folder}", flush=True)
    return verify(folder, **choices)

def main():
    recipe, *folders = (word for word in sys.argv[1:] if not word.startswith("--local_rank"))
    os.chdir(folders[dist.place().rank])
    agree.SECONDS, files.verify = 0.0, telling
    pretrain(load_recipe(recipe))
    leave()
    assert not dist.active()

cli.run(main)
"""


@pytest.fixture
def interrupted_run(local_recipe, script, tmp_path) -> Path:
    """A folder with `alpha/run`, whose only stage is at step 2 of 4, and the recipe that two ranks go on with."""
    (tmp_path / "hosts.py").write_text(HOSTS, encoding="utf-8")
    local_recipe["stages"] = local_recipe["stages"][:1]
    done = script("launch/pretrain.py", written({**local_recipe, "run": str(tmp_path / "alpha" / "run")}, tmp_path))
    assert done.returncode == 0, done.stdout
    shutil.rmtree(tmp_path / "alpha" / "run" / "mlm" / "weights")
    local_recipe["stages"][0]["engine"] = {"name": "zero", "config": str(ROOT / "ds_configs" / "zero1.json")}
    written({**local_recipe, "run": "run"}, tmp_path)
    return tmp_path


def on_hosts(ranks, folder: Path, *hosts: str) -> subprocess.CompletedProcess:
    """Go on with `run` on two ranks, each in its own working directory."""
    places = [folder / host for host in hosts]
    return ranks(2, folder / "hosts.py", folder / "recipe.yaml", *places, env={"PYTHONPATH": str(ROOT)})


@pytest.mark.slow
@pytest.mark.ranks
def test_rank_0_alone_hashes_the_checkpoint_that_all_ranks_go_on_from(ranks, interrupted_run):
    done = on_hosts(ranks, interrupted_run, "alpha", "alpha")
    assert done.returncode == 0, done.stdout[-4000:]
    assert "stage mlm (mlm), 4 steps, from step 2" in done.stdout
    assert "from step 2" in read(interrupted_run / "alpha" / "run" / "logs" / "rank_1.log")
    hashed = {line for line in done.stdout.splitlines() if " hashes " in line}
    assert hashed == {"rank 0 hashes run/mlm/checkpoints/step_00000002"}


@pytest.mark.slow
@pytest.mark.ranks
def test_hosts_that_do_not_share_the_run_folder_are_refused_before_anything_trains(ranks, interrupted_run):
    shutil.copytree(interrupted_run / "alpha", interrupted_run / "beta")
    done = on_hosts(ranks, interrupted_run, "alpha", "beta")
    (error,) = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert done.returncode == 4, done.stdout[-4000:]
    assert re.fullmatch(
        r"error: rank 1 on \S+ sees the run folder run in use by nobody, rank 0 on \S+ sees the run folder run in use "
        "by process \\d+ on \\S+; all hosts must share the run folder, the recipe and the corpus",
        error,
    )
    assert not checkpoint.is_complete(interrupted_run / "alpha" / "run" / "mlm")


MIXTURE = {
    "name": "mixture",
    "parts": [{"share": 0.8, "objective": {"name": "denoising"}}, {"share": 0.2, "objective": {"name": "clm"}}],
}
OBJECTIVES = {
    "mlm": {"name": "mlm"},
    "mlm_whole_word": {"name": "mlm", "whole_word": True},
    "delete": {"name": "denoising", "noise": "delete"},
    "mask": {"name": "denoising", "noise": "mask"},
    "permute_sentences": {"name": "denoising", "noise": "mask", "permute_sentences": True},
    "clm": {"name": "clm"},
    "mixture": MIXTURE,
}


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make the local engine raise when it is to take a step; the trial step, at a learning rate of 0, passes."""
    original = LocalEngine.train_step

    def at(stop: int) -> None:
        def train_step(engine, batches, *, step, lr):
            if step == stop and lr:
                monkeypatch.setattr(LocalEngine, "train_step", original)
                raise Interrupted
            return original(engine, batches, step=step, lr=lr)

        monkeypatch.setattr(LocalEngine, "train_step", train_step)

    return at


def both(train_here, interrupt, data: dict, tmp_path: Path, *stops: int):
    """The recipe run straight through, and interrupted before each of `stops`."""
    straight = train_here({**data, "run": str(tmp_path / "straight")})
    disturbed = {**data, "run": str(tmp_path / "disturbed")}
    for stop in stops:
        interrupt(stop)
        with pytest.raises(Interrupted):
            train_here(disturbed)
    return straight, train_here(disturbed)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_each_objective_goes_on_where_it_was_with_dropout(objective, train_here, interrupt, local_recipe, tmp_path):
    stage = {**local_recipe["stages"][0], "objective": OBJECTIVES[objective], "steps": 8}
    if not objective.startswith("mlm"):
        stage["decoder"] = {"tying": "tied"}
    local_recipe["model"]["dropout"] = 0.2
    local_recipe |= {"stages": [stage], "checkpoints": {"every": 3}}
    straight, disturbed = both(train_here, interrupt, local_recipe, tmp_path, 2, 5)
    assert_same(straight, disturbed, "mlm")


def test_bf16_goes_on_from_its_fp32_weights(train_here, interrupt, local_recipe, tmp_path):
    local_recipe["stages"] = [{**stage, "precision": "bf16"} for stage in local_recipe["stages"]]
    straight, disturbed = both(train_here, interrupt, local_recipe, tmp_path, 3, 1, 3, 1, 3)
    for stage in STAGES:
        assert_same(straight, disturbed, stage)


def test_a_report_does_not_reach_back_over_an_interruption(train_here, interrupt, local_recipe, tmp_path):
    """A report sums the steps since the last one; those before a checkpoint are not there any more when it is read."""
    local_recipe["stages"] = [{**local_recipe["stages"][0], "steps": 8}]
    local_recipe |= {"checkpoints": {"every": 3}, "log": {**local_recipe["log"], "every": 4}}
    straight, disturbed = both(train_here, interrupt, local_recipe, tmp_path, 4)
    assert_same(straight, disturbed, "mlm")


def test_a_frozen_stage_outlives_the_checkpoint_that_it_resumed_from(train_here, interrupt, local_recipe, tmp_path):
    """Frozen weights are read again whenever they are written, so what they are read from must stay."""
    first, second, _ = local_recipe["stages"]
    local_recipe |= {"stages": [first, {**second, "steps": 10}], "checkpoints": {"every": 2, "keep_last": 1}}
    straight, disturbed = both(train_here, interrupt, local_recipe, tmp_path, 5)
    assert_same(straight, disturbed, "seq2seq_frozen")
    left = [
        [folder.name for folder in checkpoint.published(run.folder / "seq2seq_frozen")] for run in (straight, disturbed)
    ]
    assert left == [["step_00000008"]] * 2


def test_the_same_command_once_all_is_done_changes_nothing(train_here, local_recipe):
    before = train_here(local_recipe)
    kept = before.hashes("seq2seq"), before.log("seq2seq"), (before.folder / "run.json").read_bytes()
    after = train_here(local_recipe)
    assert (after.hashes("seq2seq"), after.log("seq2seq"), (after.folder / "run.json").read_bytes()) == kept
