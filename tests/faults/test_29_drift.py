"""29: a run goes on with the recipe, data and code that it began with; what else may change is known by name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest

from megas2s.errors import BadCheckpoint
from megas2s.train import binding, checkpoint

Change = Callable[[dict], object]


@pytest.fixture
def interrupted(train_here, interrupt, local_recipe) -> dict:
    """The recipe of a run that was interrupted behind its second step."""
    local_recipe |= {"stages": [local_recipe["stages"][0]], "checkpoints": {"every": 2}}
    interrupt(3)
    with pytest.raises(Exception, match=r"^$"):  # Interrupted says nothing
        train_here(local_recipe)
    assert checkpoint.newest(Path(local_recipe["run"]) / "mlm").state.step == 2
    return copy.deepcopy(local_recipe)


CHANGES: dict[str, tuple[Change, str]] = {
    "the rate": (lambda r: r["stages"][0]["schedule"].update(lr=2e-3), "stage.schedule.lr was 0.001 and is now 0.002"),
    "the batch": (lambda r: r["stages"][0].update(batch_tokens=1024), "stage.batch_tokens was 512 and is now 1024"),
    "the length of the plan": (lambda r: r["stages"][0].update(steps=6), "stage.steps was 4 and is now 6"),
    "the seed": (lambda r: r.update(seed=18), "seed was 17 and is now 18"),
    "the shape": (lambda r: r["model"].update(ffn_size=128), "model.ffn_size was 64 and is now 128"),
    "dropout": (lambda r: r["model"].update(dropout=0.3), "model.dropout was"),
    "the mixture": (lambda r: r.update(sampling={"alpha": 0.1}), "sampling.alpha was"),
    "the objective": (
        lambda r: r["stages"][0]["objective"].update(mask_probability=0.4),
        "stage.objective.mask_probability was 0.15 and is now 0.4",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_of(what: str, interrupted: dict, train_here):
    change, said = CHANGES[what]
    change(interrupted)
    with pytest.raises(BadCheckpoint, match="belongs to another recipe") as refused:
        train_here(interrupted)
    assert said in str(refused.value)
    assert f"--allow-change {said.split()[0]}" in str(refused.value)


def test_several_changes_are_told_together_one_to_a_line(interrupted, train_here):
    interrupted["stages"][0]["schedule"]["lr"] = 2e-3
    interrupted["seed"] = 18
    with pytest.raises(BadCheckpoint) as refused:
        train_here(interrupted)
    first, *changed, advice = str(refused.value).splitlines()
    assert first.endswith("step_00000002 belongs to another recipe:")
    assert changed == ["seed was 17 and is now 18", "stage.schedule.lr was 0.001 and is now 0.002"]
    assert advice == (
        "put them back, allow them (--allow-change seed --allow-change stage.schedule.lr), or choose another run folder"
    )


def test_an_allowed_change_goes_on_and_belongs_to_the_run_from_then_on(interrupted, train_here):
    interrupted["stages"][0]["schedule"]["lr"] = 2e-3
    interrupted["stages"][0]["steps"] = 6
    run = train_here(interrupted, allowed=["stage.schedule.*", "stage.steps"])
    assert [line["step"] for line in run.log("mlm") if line["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    train_here(interrupted)  # complete, and nothing is refused any more


def test_what_does_not_fit_the_weights_cannot_be_allowed(interrupted, train_here):
    interrupted["model"]["ffn_size"] = 128
    with pytest.raises(BadCheckpoint, match="has the shape") as refused:
        train_here(interrupted, allowed=["model.*"])
    assert "Traceback" not in str(refused.value)


def test_another_version_of_the_code_is_a_change_like_others(interrupted, train_here, monkeypatch):
    monkeypatch.setattr(binding.record, "version", lambda package: "9.9")
    with pytest.raises(BadCheckpoint, match=r"code was megas2s [\d.]+ and is now megas2s 9\.9; .*--allow-change code"):
        train_here(interrupted)


FREE: dict[str, Change] = {
    "workers": lambda r: r.update(workers=1),
    "patience": lambda r: r.update(patience=60.0),
    "watch": lambda r: r.update(watch={"step": 100.0}),
    "log": lambda r: r["log"].update(every=3),
    "checkpoints": lambda r: r["checkpoints"].update(every=3),
    "micro_batch": lambda r: r["stages"][0].update(micro_batch=4),
    "activation_checkpointing": lambda r: r["stages"][0].update(activation_checkpointing=True),
    "verify_corpus": lambda r: r.update(verify_corpus=False),
}


@pytest.mark.parametrize("what", FREE)
def test_free_to_change_is(what: str, interrupted: dict, train_here):
    FREE[what](interrupted)
    run = train_here(interrupted)
    assert run.log("mlm")[-1]["step"] == 4


def test_other_code_of_the_same_version_is_said(interrupted, train_here, monkeypatch, capsys):
    from megas2s import session

    monkeypatch.setattr(session.record, "git_revision", lambda: "0" * 40)
    train_here(interrupted)
    assert f"and goes on with that at {'0' * 40}" in capsys.readouterr().out
