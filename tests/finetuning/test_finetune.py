"""Fine-tuning from weights to answers: what is planted is learnt, interruptions change nothing, engines agree."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import yaml

from megas2s import files, finetuning, tuning
from megas2s.errors import BadCheckpoint, BadConfig, BadData
from megas2s.models.weights import open_weights
from megas2s.spec import parse

from .task import MEASURES, METHODS, STEPS, examples

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted((ROOT / "launch" / "finetuning").glob("*.yaml"))


@pytest.mark.parametrize("kind", METHODS)
def test_what_is_planted_is_learnt_and_the_test_set_answered(kind: str, recipe, tune_here, tmp_path):
    steps = STEPS.get(kind, 120)
    left = tune_here(recipe(kind, steps=steps))
    results = files.read_json(tmp_path / "run" / "results.json")
    measure = MEASURES.get(METHODS[kind][0]["name"], "accuracy")
    assert results["dev"]["all"][measure] > 0.9
    assert results["test"]["all"][measure] > 0.9
    lines = (tmp_path / "run" / "answers" / "test.jsonl").read_text().splitlines()
    assert len(lines) == 14
    line = json.loads(lines[0])
    assert list(line) == ["language", *(["source"] if "tag" not in kind else []), "answer", "reference"]
    assert line.get("source") in (None, examples(1, 200)[0]["text"])
    stage = METHODS[kind][0]["name"]
    last = [line for line in left.log(stage) if line["kind"] == "heldout"][-1]
    assert last["step"] == steps
    assert last[f"measure/{measure}"] == pytest.approx(results["dev"]["all"][measure])


@pytest.mark.parametrize("kind", METHODS)
def test_it_goes_on_where_it_was_to_the_bit(kind: str, recipe, tune_here, disturb):
    data = recipe(kind, steps=8, dropout=0.1, checkpoints={"every": 3})
    straight, disturbed = disturb(data, 2, 5, by=tune_here)
    stage = METHODS[kind][0]["name"]
    assert disturbed.bits(stage) == straight.bits(stage)
    results = [files.read_json(run.folder / "results.json") for run in (straight, disturbed)]
    assert results[0] == results[1]


def test_the_same_command_once_all_is_done_changes_nothing(recipe, tune_here, tmp_path):
    before = tune_here(recipe("classify", steps=4))
    kept = before.bits("classify"), (tmp_path / "run" / "results.json").read_bytes()
    after = tune_here(recipe("classify", steps=4))
    assert (after.bits("classify"), (tmp_path / "run" / "results.json").read_bytes()) == kept
    (tmp_path / "run" / "results.json").unlink()
    tune_here(recipe("classify", steps=4))
    assert (tmp_path / "run" / "results.json").read_bytes() == kept[1]


def test_another_recipe_does_not_go_on_with_a_finished_run(recipe, tune_here):
    tune_here(recipe("classify", steps=4))
    with pytest.raises(BadCheckpoint, match="length"):
        tune_here(recipe("classify", steps=4, length=30))


def test_one_language_is_learnt_and_all_are_tried(recipe, tune_here, tmp_path):
    data = recipe("tag", steps=4)
    train, dev, test = (data["data"][split] for split in ("train", "dev", "test"))
    data["data"] |= {"train": {"en": train}, "dev": {"en": dev}, "test": {"en": test, "de": dev}}
    tune_here(data)
    results = files.read_json(tmp_path / "run" / "results.json")
    assert results["test"].keys() == {"all", "en", "de"}
    assert results["dev"].keys() == {"all", "en"}
    assert results["test"]["de"] == results["dev"]["en"]  # the same examples under another name


def test_an_encoder_is_taken_out_of_an_encoder_decoder(recipe, tune_here):
    left = tune_here(recipe("classify by a decoder", part="encoder", steps=2))
    assert not left.config("classify").is_seq2seq
    assert "text.out.weight" in left.weights("classify")


def test_frozen_layers_stand_and_renewed_ones_begin_anew(recipe, tune_here):
    data = recipe("classify", steps=2, freeze=["encoder.*"], reinitialise=["encoder.layers.0.ffn.*"])
    left = tune_here(data).weights("classify")
    reader = open_weights(Path(data["init"]))
    before = {name: reader.tensor(name) for name in reader.names}
    same = {name for name in before if name in left and torch.equal(before[name], left[name])}
    encoder = {name for name in before if name.startswith("encoder.")}
    renewed = {"encoder.layers.0.ffn.up.weight", "encoder.layers.0.ffn.down.weight"}
    assert encoder - same == renewed
    assert {name for name in before if name.startswith("mlm.")} <= same


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"epochs": 1}, BadConfig, "state either epochs or steps"),
        ({"steps": None}, BadConfig, "state either epochs or steps"),
        ({"steps": None, "epochs": float("inf")}, BadConfig, "epochs must be above 0 and finite"),
        ({"dropout": 2}, BadConfig, r"dropout must lie in \[0, 1\), got 2"),
        ({"target_length": 8}, BadConfig, "target_length is of what is written, and method classify writes nothing"),
        ({"data": {"train": {"all": "a", "en": "b"}}}, BadConfig, "'all' is what all languages together are called"),
        ({"rows": 0}, BadConfig, "rows must be above 0"),
        ({"length": 64}, BadConfig, "length: rows of 64 tokens exceed the model's 32 positions"),
        ({"length": 2}, BadConfig, "length 2 leaves no room for text"),
        ({"method": {"name": "seq2seq"}}, BadConfig, "these weights are an encoder's"),
        ({"reinitialise": ["decoder.*"]}, BadConfig, r"reinitialise: 'decoder\.\*' matches no parameter"),
        ({"freeze": ["decodr.*"]}, BadConfig, "matches no parameter"),
        ({"init": "nowhere"}, BadConfig, "there is no folder nowhere"),
        ({"data": {"train": "nowhere.jsonl"}}, BadData, r"data.train: there is no file nowhere.jsonl"),
        ({"data": {"train": {}}}, BadConfig, r"data.train names no file"),
    ],
)
def test_what_cannot_be_is_refused_before_a_model_is_built(changes, error, said, recipe):
    with pytest.raises(error, match=said):
        tuning.dry_run(parse(finetuning.Finetuning, recipe("classify") | changes, source="recipe"))


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_an_example_that_is_none_is_named_by_file_and_line(split: str, recipe, tmp_path):
    data = recipe("classify")
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "a", "label": 1}\n\n{"text": "b", "label": 0.5}\n')
    data["data"][split] = str(bad)
    with pytest.raises(BadData, match=r"bad.jsonl, line 3: 'label' of a record is 0.5; a class is a text or a whole"):
        tuning.dry_run(parse(finetuning.Finetuning, data, source="recipe"))


def test_a_label_that_is_new_counts_as_an_error_and_a_test_set_may_have_none(recipe, tune_here, tmp_path, capfd):
    data = recipe("classify", steps=2)
    (tmp_path / "new.jsonl").write_text('{"text": "a", "label": 9}\n' * 4)
    (tmp_path / "bare.jsonl").write_text('{"text": "the house is red and"}\n' * 3)
    data["data"] |= {"dev": str(tmp_path / "new.jsonl"), "test": str(tmp_path / "bare.jsonl")}
    tune_here(data)
    results = files.read_json(tmp_path / "run" / "results.json")
    assert results["dev"]["all"]["accuracy"] == 0.0
    assert results["test"] == {}
    said = "".join(capfd.readouterr())
    assert "dev: the training data has no 9; such examples count as errors" in said
    assert "bare.jsonl has a 'label'; they are answered and not scored" in said
    lines = [json.loads(line) for line in (tmp_path / "run" / "answers" / "test.jsonl").read_text().splitlines()]
    assert len(lines) == 3
    assert all(line.keys() == {"language", "source", "answer"} for line in lines)


def test_a_head_for_other_labels_begins_anew_and_for_the_same_goes_on(recipe, tune_here, tmp_path):
    first = tune_here(recipe("classify", steps=2))
    still = {"schedule": {"lr": 1e-12}, "steps": 1}
    again = recipe("classify", init=str(first.folder / "classify"), **still) | {"run": str(tmp_path / "again")}
    other = again | {"run": str(tmp_path / "other"), "data": dict(again["data"])}
    renamed = [json.dumps(record | {"label": f"c{record['label']}"}) + "\n" for record in examples(8)]
    (tmp_path / "renamed.jsonl").write_text("".join(renamed))
    other["data"] |= dict.fromkeys(("train", "dev", "test"), str(tmp_path / "renamed.jsonl"))
    before = first.weights("classify")["text.out.weight"]
    assert torch.allclose(tune_here(again).weights("classify")["text.out.weight"], before, atol=1e-6)
    assert not torch.allclose(tune_here(other).weights("classify")["text.out.weight"], before, atol=1e-3)


def test_a_head_that_nobody_trained_is_not_exported_as_one(recipe, tune_here):
    taken = tune_here(recipe("classify by a decoder", part="encoder", steps=1))
    assert open_weights(taken.folder / "classify" / "weights").metadata["mlm_head"] == "random"


def test_rows_that_do_not_divide_are_refused(recipe):
    data = parse(finetuning.Finetuning, recipe("classify", micro_batch=3), source="recipe")
    with pytest.raises(BadConfig, match="16 rows do not divide into micro-batches of 3 on 1 ranks"):
        data.rows_of_a_pass(1)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_recipe_is_read_and_written_back(path: Path):
    found = finetuning.load(path, [])
    assert parse(finetuning.Finetuning, yaml.safe_load(finetuning.dump(found)), source="dumped") == found


def test_the_script_says_what_it_would_do(recipe, script, tmp_path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe("classify")))
    done = script("launch/finetune.py", tmp_path / "recipe.yaml", "--dry-run")
    assert done.returncode == 0, done.stdout
    assert "classify, 60 steps of 16 rows" in done.stdout
    assert "examples: 64 to train, 10 to dev, 14 to test; 2 labels: 0, 1" in done.stdout
    assert "none is cut to 32" in done.stdout
    assert re.search(r"\d+-\d+ +#{40}  \d+\n", done.stdout), "bars"
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.ranks
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("classify", "zero1"),
        ("classify", "zero3"),
        ("seq2seq", "zero1"),
        ("seq2seq", "zero3"),
        ("seq2seq", "pipeline"),
        ("pseudo_masked", "zero1"),
        ("causal", "zero3"),
        ("pseudo_masked", "zero3"),
    ],
)
def test_two_ranks_learn_and_answer_what_one_does(kind: str, config: str, recipe, tune_here, ranks, finished, tmp_path):
    data = recipe(kind, steps=10, optimizer={"layer_decay": 0.8}, best={"by": "loss"})
    alone = tune_here(data)
    knobs = files.read_json(ROOT / "ds_configs" / f"{config}.json")
    knobs["zero_optimization"]["stage3_param_persistence_threshold"] = 0  # so that ZeRO-3 scatters small tensors too
    files.write_json(tmp_path / f"{config}.json", knobs)
    engine = {"name": "pipe" if config == "pipeline" else "zero", "config": str(tmp_path / f"{config}.json")}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(data | {"run": str(tmp_path / "two"), "engine": engine}))
    done = ranks(2, "launch/finetune.py", tmp_path / "two.yaml", timeout=200)
    assert done.returncode == 0, done.stdout[-3000:]
    shared = finished(tmp_path / "two")
    stage = METHODS[kind][0]["name"]
    assert shared.losses(stage) == pytest.approx(alone.losses(stage), rel=1e-4)
    results = [files.read_json(run.folder / "results.json") for run in (alone, shared)]
    assert results[0] == results[1]


def test_a_pipeline_takes_no_other_method(recipe, tmp_path, script):
    data = recipe("classify", engine={"name": "pipe", "config": str(ROOT / "ds_configs" / "pipeline.json")})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(data))
    done = script("launch/finetune.py", tmp_path / "recipe.yaml", "--dry-run")
    assert done.returncode == 2
    assert "engine 'pipe' fine-tunes with method: {name: seq2seq} alone, found classify" in done.stdout


def test_more_parts_than_layers_are_refused_before_anything_is_launched(recipe, tmp_path, script):
    engine = {"name": "pipe", "stages": 64, "config": str(ROOT / "ds_configs" / "pipeline.json")}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe("seq2seq", engine=engine)))
    done = script("launch/finetune.py", tmp_path / "recipe.yaml", "--dry-run")
    assert done.returncode == 2
    assert "64 pipe stages for " in done.stdout
    assert not (tmp_path / "run").exists()
