"""Fine-tuning from weights to answers: what is planted is learnt, interruptions change nothing, engines agree."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
import yaml

from megas2s import files, finetuning, tuning
from megas2s.errors import BadCheckpoint, BadConfig, BadData
from megas2s.models.parameters import parameter_shapes
from megas2s.models.weights import open_weights
from megas2s.spec import parse
from megas2s.tokenizer.load import Tokenizer

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = sorted((ROOT / "launch" / "finetuning").glob("*.yaml"))
SIZES = {"hidden_size": 32, "num_heads": 4, "ffn_size": 64, "num_encoder_layers": 1, "max_positions": 32}
COLOURS = ("red", "blue")
NOUNS = ("house", "tree", "river", "street", "stone", "garden", "window", "morning")
GERMAN = {"red": "rot", "blue": "blau blau"}  # answers end at different places


WRITERS = ("seq2seq", "causal", "masked", "pseudo_masked")
STEPS = {"causal": 200, "masked": 600, "pseudo_masked": 400}  # noise, and of masked few labels a step, take longer
MEASURES = {"regress": "pearson", "tag": "span_f1", **dict.fromkeys(WRITERS, "exact_match")}


def examples(count: int, first: int = 0) -> list[dict]:
    """A sentence with a colour, which is its class, its number, one of its tags and, in German, its translation."""
    found = []
    for number in range(first, first + count):
        colour, noun, other = COLOURS[number % 2], NOUNS[number % 7], NOUNS[number * 3 % 8]
        words = ["the", noun, "is", colour, "and", "the", other, "not"]
        tags = ["B-COLOUR" if word == colour else "O" for word in words]
        record = {
            "text": " ".join(words),
            "label": number % 2,
            "score": 2.0 * (number % 2),
            "words": words,
            "tags": tags,
        }
        found.append({**record, "answer": GERMAN[colour]})
    return found


METHODS = {
    "classify": ({"name": "classify"}, {}, {}),
    "regress": ({"name": "regress"}, {"label": "score"}, {}),
    "tag": ({"name": "tag"}, {"text": "words", "label": "tags"}, {}),
    "seq2seq": ({"name": "seq2seq"}, {"label": "answer"}, {"num_decoder_layers": 1}),
    "causal": ({"name": "causal"}, {"label": "answer"}, {"max_positions": 40}),
    "masked": ({"name": "masked"}, {"label": "answer"}, {"max_positions": 40}),
    "pseudo_masked": ({"name": "pseudo_masked"}, {"label": "answer"}, {"max_positions": 40}),
    "classify by a decoder": ({"name": "classify"}, {}, {"num_decoder_layers": 1}),
    "regress by a decoder": ({"name": "regress"}, {"label": "score"}, {"num_decoder_layers": 1}),
    "tag by a decoder": ({"name": "tag"}, {"text": "words", "label": "tags"}, {"num_decoder_layers": 1}),
}


@pytest.fixture(scope="module")
def make(random_weights, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict]:
    """`make(kind, run)`: a recipe as plain data."""
    folder = tmp_path_factory.mktemp("task")
    for name, records in (("train", examples(64)), ("dev", examples(10, 100)), ("test", examples(14, 200))):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    weights = {
        name: random_weights(folder / name, **{**SIZES, **more}, dropout=0.0) for name, (_, _, more) in METHODS.items()
    }

    def recipe(kind: str, run: Path, **changes) -> dict:
        method, columns, _ = METHODS[kind]
        paths = {split: str(folder / f"{split}.jsonl") for split in ("train", "dev", "test")}
        return {
            "run": str(run),
            "init": str(weights[kind]),
            "tokenizer": str(changes.pop("tokenizer")),
            "method": method,
            "data": {**paths, "columns": columns},
            "length": 32,
            **({"target_length": 8} if kind in WRITERS else {}),
            "rows": 16,
            "steps": 60,
            "schedule": {"lr": 5e-3, "warmup_steps": 5},
            "precision": "fp32",
            "engine": {"name": "local"},
            "log": {"every": 20, "evaluate_every": 30, "tensorboard": False},
            **changes,
        }

    return recipe


@pytest.fixture
def recipe(make, corpus_folder, tmp_path):
    return lambda kind, **changes: make(kind, tmp_path / "run", tokenizer=corpus_folder / "tokenizer", **changes)


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


@pytest.fixture
def spoken(recipe, tmp_path):
    """`spoken(kind)`: the task in two languages, one of them rare, told by a column of one table."""

    def make(kind: str, **changes) -> dict:
        data = recipe(kind, **changes)
        for split, count in (("train", 40), ("dev", 10), ("test", 10)):
            rows = [{**row, "lang": "sw" if n % 5 == 4 else "en"} for n, row in enumerate(examples(count))]
            parquet.write_table(pa.Table.from_pylist(rows), tmp_path / f"{split}.parquet")
            data["data"][split] = str(tmp_path / f"{split}.parquet")
        data["data"]["columns"] = {**data["data"]["columns"], "language": "lang"}
        data["data"]["alpha"] = 0.5
        return data

    return make


@pytest.mark.parametrize("kind", ["classify", "pseudo_masked", "seq2seq"])
def test_weighed_languages_go_on_to_the_bit(kind: str, spoken, tune_here, disturb):
    data = spoken(kind, steps=8, dropout=0.1, checkpoints={"every": 3})
    if kind in WRITERS:
        data["data"]["tags"] = "both"
    straight, disturbed = disturb(data, 2, 5, by=tune_here)
    stage = METHODS[kind][0]["name"]
    assert disturbed.bits(stage) == straight.bits(stage)
    results = [files.read_json(run.folder / "results.json") for run in (straight, disturbed)]
    assert results[0] == results[1]
    assert results[0]["test"].keys() == {"all", "en", "sw"}


def test_a_run_says_how_languages_are_weighed_and_epochs_count_all_examples(spoken):
    data = spoken("classify", epochs=4, steps=None)
    said = tuning.dry_run(parse(finetuning.Finetuning, data, source="recipe"))
    assert "classify, 10 steps of 16 rows" in said
    assert "en: 32 examples, 66.7% of the samples, each read 3.33 times" in said
    assert "sw: 8 examples, 33.3% of the samples, each read 6.67 times" in said


def test_a_run_with_other_weights_or_examples_does_not_go_on(spoken, tune_here, tmp_path):
    data = spoken("classify", steps=2)
    tune_here(data)
    with pytest.raises(BadCheckpoint, match=r"data\.alpha"):
        tune_here({**data, "data": {**data["data"], "alpha": 0.6}})
    table = parquet.read_table(tmp_path / "train.parquet")
    parquet.write_table(table.slice(1), tmp_path / "train.parquet")
    with pytest.raises(BadCheckpoint, match=r"data\.train\.all"):
        tune_here(data)


def test_a_run_keeps_how_long_its_rows_are_and_what_it_left_out(recipe, tune_here, tmp_path, capfd):
    data = recipe("pseudo_masked", steps=1)
    rows = [*map(json.dumps, examples(20)), "no record", json.dumps({"text": "a"})]
    (tmp_path / "bad.jsonl").write_text("\n".join(rows))
    data["data"] |= {"train": str(tmp_path / "bad.jsonl"), "skip_bad_lines": True}
    tune_here(data)
    said = "".join(capfd.readouterr())
    lengths = files.read_json(tmp_path / "run" / "lengths.json")
    assert {name: [*sides] for name, sides in lengths.items()} == {
        name: ["sources", "targets"] for name in ("train", "dev", "test")
    }
    found = lengths["train"]["targets"]
    assert f"train targets: {found['shortest']} to {found['longest']} tokens" in said
    assert sum(bar["rows"] for bar in found["bars"]) == found["rows"] == 20
    assert "20 to train" in said
    skipped = files.read_json(tmp_path / "run" / "skipped.json")
    assert [(one["reason"], one["rows"], one["first"]) for one in skipped["train"]] == [
        ("not a JSON object", 1, 21),
        ("a record has no 'answer'", 1, 22),
    ]
    assert skipped["dev"] == []
    assert "train: 1 line of" in said
    assert "not a JSON object (first: line 21)" in said


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
