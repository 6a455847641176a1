"""Many languages in one set, weighed and tagged; how long rows are, and what is left out."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from megas2s import files, finetuning, tuning
from megas2s.errors import BadCheckpoint
from megas2s.spec import parse

from .task import METHODS, WRITERS, examples


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
