"""What a recipe may choose beside its method: the best weights, adapters, longer tables, words of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from megas2s import files
from megas2s.errors import BadCheckpoint, BadConfig
from megas2s.models.parameters import parameter_shapes
from megas2s.models.weights import open_weights
from megas2s.tokenizer.load import Tokenizer

from .task import METHODS


def test_the_best_weights_are_kept_and_training_ends_when_they_stay_the_best(recipe, tune_here, disturb):
    """Of several that are as good the first; whether the run was interrupted or not."""
    log = {"every": 5, "evaluate_every": 5, "tensorboard": False}
    changes = {"best": {"by": "accuracy", "patience": 3}, "checkpoints": {"every": 4, "keep_last": 1}}
    straight, disturbed = disturb(recipe("classify", steps=200, log=log, **changes), 7, 12, by=tune_here)
    for run in (straight, disturbed):
        found = {line["step"]: line["measure/accuracy"] for line in run.log("classify") if line["kind"] == "heldout"}
        best, last = max(found, key=found.get), max(found)
        assert found[best] == 1.0
        assert last == best + 15
        assert files.read_manifest(run.folder / "classify" / "weights")["step"] == best
        assert files.read_json(run.folder / "results.json")["steps"] == best
    assert disturbed.bits("classify") == straight.bits("classify")


def test_best_weights_of_another_recipe_are_refused(recipe, tune_here, tmp_path):
    """They lie in the folder of a run that was killed before its first checkpoint."""
    data = recipe("classify", steps=10, best={"by": "accuracy"}, log={"evaluate_every": 5, "tensorboard": False})
    folder = tune_here(data).folder / "classify"
    shutil.copytree(folder / "weights", folder / "best", dirs_exist_ok=True)
    for left in ("weights", "checkpoints"):
        shutil.rmtree(folder / left, ignore_errors=True)
    with pytest.raises(BadCheckpoint, match=r"best belongs to another recipe: schedule\.lr was 0.005 and is now 0.001"):
        tune_here({**data, "schedule": {"lr": 1e-3, "warmup_steps": 5}})


def test_adapters_beside_a_head_that_is_made_up_leave_it_free(recipe, tune_here):
    """An encoder out of an encoder-decoder has no head of its own; one that stood still would write noise."""
    data = recipe("seq2seq", steps=2, lora={"rank": 2}, part="encoder", length=20, method={"name": "masked"})
    after = open_weights(tune_here(data).folder / "masked" / "weights")
    assert "mlm_head" not in after.metadata
    before = parameter_shapes(after.config)
    assert {"mlm.dense.weight", "mlm.bias"} <= before.keys()
    assert not torch.equal(after.tensor("mlm.bias"), torch.zeros_like(after.tensor("mlm.bias")))


def test_the_best_is_by_a_score_that_there_is(recipe, tune_here):
    with pytest.raises(BadConfig, match=r"best\.by: no score is called 'chrf'; did you mean 'macro_f1'"):
        tune_here(recipe("classify", best={"by": "chrf"}))
    with pytest.raises(BadConfig, match="best: there is nothing to choose by"):
        tune_here(recipe("classify", best={}, log={"evaluate_every": 0}))


@pytest.mark.parametrize("kind", ["pseudo_masked", "classify"])
def test_adapters_train_beside_weights_that_stand_still(kind, recipe, tune_here, disturb, tmp_path):
    data = recipe(kind, steps=6, lora={"rank": 4, "targets": ["q", "v", "up"]}, checkpoints={"every": 2})
    straight, disturbed = disturb(data, 3, by=tune_here)
    stage = METHODS[kind][0]["name"]
    assert disturbed.bits(stage) == straight.bits(stage)
    before, after = open_weights(Path(data["init"])), open_weights(straight.folder / stage / "weights")
    assert after.config.lora_rank == 0
    moved = {name for name in before.names if not torch.equal(before.tensor(name), after.tensor(name))}
    assert moved == {f"encoder.layers.0.{name}.weight" for name in ("self_attention.q", "self_attention.v", "ffn.up")}


def test_a_table_of_positions_grows_to_hold_source_and_target(recipe, tune_here):
    data = recipe("causal", steps=4, target_length=16, max_positions=48, optimizer={"weight_decay": 0.0})
    before = open_weights(Path(data["init"]))
    with pytest.raises(BadConfig, match="are one row of 48 tokens, which exceeds the model's 40 positions"):
        tune_here({**data, "max_positions": None})
    after = open_weights(tune_here(data).folder / "causal" / "weights")
    assert after.config.max_positions == 48
    table = before.tensor("encoder.positions.weight")
    assert torch.equal(after.tensor("encoder.positions.weight", slice(46, 48)), table[6:8]), "never read, never moved"
    with pytest.raises(BadConfig, match="max_positions 20 is less than the 40"):
        tune_here({**data, "max_positions": 20})


def test_new_words_have_rows_of_their_own(recipe, tune_here):
    data = recipe("causal", steps=2, new_tokens=["[X_SEP]", " house"], optimizer={"weight_decay": 0.0})
    before, run = open_weights(Path(data["init"])), tune_here(data)
    after = open_weights(run.folder / "causal" / "weights")
    size = before.config.vocab_size
    assert after.config.vocab_size == size + 2
    assert Tokenizer.load(run.folder / "tokenizer").encode("the house [X_SEP]").tolist()[-1] == size
    assert size + 1 in Tokenizer.load(run.folder / "tokenizer").encode("the house is")
    mean, learnt = before.tensor("encoder.embed.weight").mean(dim=0), after.tensor("encoder.embed.weight")[size + 1]
    assert not torch.allclose(learnt, mean, atol=1e-4)
    with pytest.raises(BadConfig, match="new_tokens: ' house' is a token already"):
        tune_here({**data, "new_tokens": [" house", " house"]})
