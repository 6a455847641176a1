"""N steps = k steps, interrupted, N - k more: the same weights and the same loss log, bit for bit.

What each objective and each kind of stage adds is tried in this process, where an interruption costs no start. Runs
that are killed as a whole are in test_kill.py.
"""

from __future__ import annotations

import pytest

from megas2s.train import checkpoint

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
    "e2s2": {"name": "e2s2", "denoise": {"warm_in_steps": 5}, "contrast": {"group": 2, "warm_in_steps": 5}},
    "e2s2_token": {"name": "e2s2", "base": {"name": "span_corruption"}, "denoise": {"target": "token"}}
    | {"contrast": {"group": 2, "representation": "prompt"}},
    "e2s2_one_view": {"name": "e2s2", "views": 1, "contrast": None},
}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_each_objective_goes_on_where_it_was_with_dropout(objective, disturb, local_recipe):
    stage = {**local_recipe["stages"][0], "objective": OBJECTIVES[objective], "steps": 8}
    if not objective.startswith("mlm"):
        stage["decoder"] = {"tying": "tied"}
    local_recipe["model"]["dropout"] = 0.2
    local_recipe |= {"stages": [stage], "checkpoints": {"every": 3}}
    straight, disturbed = disturb(local_recipe, 2, 5)
    assert disturbed.bits("mlm") == straight.bits("mlm")


def test_bf16_goes_on_from_its_fp32_weights(disturb, local_recipe):
    local_recipe["stages"] = [{**stage, "precision": "bf16"} for stage in local_recipe["stages"]]
    straight, disturbed = disturb(local_recipe, 3, 1, 3, 1, 3)
    for stage in ("mlm", "seq2seq_frozen", "seq2seq"):
        assert disturbed.bits(stage) == straight.bits(stage)


def test_a_report_does_not_reach_back_over_an_interruption(disturb, local_recipe):
    """A report sums the steps since the last one; those before a checkpoint are not there any more when it is read."""
    local_recipe["stages"] = [{**local_recipe["stages"][0], "steps": 8}]
    local_recipe |= {"checkpoints": {"every": 3}, "log": {**local_recipe["log"], "every": 4}}
    straight, disturbed = disturb(local_recipe, 4)
    assert disturbed.bits("mlm") == straight.bits("mlm")


def test_a_frozen_stage_outlives_the_checkpoint_that_it_resumed_from(disturb, local_recipe):
    """Frozen weights are read again whenever they are written, so what they are read from must stay."""
    first, second, _ = local_recipe["stages"]
    local_recipe |= {"stages": [first, {**second, "steps": 10}], "checkpoints": {"every": 2, "keep_last": 1}}
    straight, disturbed = disturb(local_recipe, 5)
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
