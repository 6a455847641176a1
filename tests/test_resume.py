"""N steps = k steps, interrupted, N - k more: the same weights and the same loss log, bit for bit.

What each objective and each kind of stage adds is tried in this process, where an interruption costs no start. Runs
that are killed as a whole are in test_kill.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from megas2s.engine.local import LocalEngine
from megas2s.train import checkpoint


class Interrupted(Exception):
    """What stops a run in this process."""


MIXTURE = {
    "name": "mixture",
    "parts": [{"share": 0.8, "objective": {"name": "denoising"}}, {"share": 0.2, "objective": {"name": "clm"}}],
}
OBJECTIVES = {
    "mlm": {"name": "mlm"},
    "mlm_whole_word": {"name": "mlm", "whole_word": True},
    "delete": {"name": "denoising", "noise": "delete"},
    "mask": {"name": "denoising", "noise": "mask"},
    "bart": {"name": "denoising", "noise": "mask", "whole_word": True, "permute_sentences": True, "token_deletion": 0.1}
    | {"token_masking": 0.1, "rotation": 0.5},
    "span_corruption": {"name": "span_corruption", "mode": 0},
    "mass": {"name": "mass"},
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
    assert disturbed.bits("mlm") == straight.bits("mlm")


def test_bf16_goes_on_from_its_fp32_weights(train_here, interrupt, local_recipe, tmp_path):
    local_recipe["stages"] = [{**stage, "precision": "bf16"} for stage in local_recipe["stages"]]
    straight, disturbed = both(train_here, interrupt, local_recipe, tmp_path, 3, 1, 3, 1, 3)
    for stage in ("mlm", "seq2seq_frozen", "seq2seq"):
        assert disturbed.bits(stage) == straight.bits(stage)


def test_a_report_does_not_reach_back_over_an_interruption(train_here, interrupt, local_recipe, tmp_path):
    """A report sums the steps since the last one; those before a checkpoint are not there any more when it is read."""
    local_recipe["stages"] = [{**local_recipe["stages"][0], "steps": 8}]
    local_recipe |= {"checkpoints": {"every": 3}, "log": {**local_recipe["log"], "every": 4}}
    straight, disturbed = both(train_here, interrupt, local_recipe, tmp_path, 4)
    assert disturbed.bits("mlm") == straight.bits("mlm")


def test_a_frozen_stage_outlives_the_checkpoint_that_it_resumed_from(train_here, interrupt, local_recipe, tmp_path):
    """Frozen weights are read again whenever they are written, so what they are read from must stay."""
    first, second, _ = local_recipe["stages"]
    local_recipe |= {"stages": [first, {**second, "steps": 10}], "checkpoints": {"every": 2, "keep_last": 1}}
    straight, disturbed = both(train_here, interrupt, local_recipe, tmp_path, 5)
    assert disturbed.bits("seq2seq_frozen") == straight.bits("seq2seq_frozen")
    left = [
        [folder.name for folder in checkpoint.published(run.folder / "seq2seq_frozen")] for run in (straight, disturbed)
    ]
    assert left == [["step_00000008"]] * 2


def test_the_same_command_once_all_is_done_changes_nothing(train_here, local_recipe):
    before = train_here(local_recipe)
    kept = before.bits("seq2seq"), (before.folder / "run.json").read_bytes()
    after = train_here(local_recipe)
    assert (after.bits("seq2seq"), (after.folder / "run.json").read_bytes()) == kept
