"""What a recipe may name as the source of its examples, and what is read of each."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from megas2s.data.sources import Dataset, File, Parallel, Sources, source_of
from megas2s.errors import BadConfig, BadData
from megas2s.spec import parse, plain

ROWS = [{"src": "a", "tgt": ["x", "y"]}, {"src": "b", "tgt": None}]
NAMES = ("text", "label")


def records(source) -> list[dict]:
    return [record for _, record in source.read(header=True, names=NAMES).rows]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset of two splits, one of them in two files."""
    for name, rows in (("train-0", ROWS[:1]), ("train-1", ROWS[1:]), ("validation-0", ROWS[:1])):
        parquet.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), tmp_path / f"{name}.parquet")
    return tmp_path


SCHEMA = pa.schema({"src": pa.string(), "tgt": pa.list_(pa.string())})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a.jsonl", "a.jsonl"),
        ({"source": "a.en", "target": "a.de"}, Parallel(source="a.en", target="a.de")),
        ({"source": "a.en"}, Parallel(source="a.en")),
        (
            {"dataset": "glue", "config": "cola", "split": "train"},
            Dataset(dataset="glue", config="cola", split="train"),
        ),
        ({"en": "a.en", "de": "a.de"}, {"en": "a.en", "de": "a.de"}),
        (
            {"en": {"source": "a.en", "target": "b.en"}, "de": "a.tsv"},
            {"en": Parallel(source="a.en", target="b.en"), "de": "a.tsv"},
        ),
    ],
)
def test_a_recipe_s_sources_are_told_apart_and_written_back(given, expected):
    found = parse(Sources, given, source="data")
    assert found == expected
    assert parse(Sources, plain(Sources, found), source="data") == expected


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"source": "a.en", "traget": "a.de"}, r"traget: unknown key; did you mean 'target'\?"),
        ({"target": "a.de"}, "source: this key is required and absent"),
        ({"dataset": "glue"}, "split: this key is required and absent"),
        ({"dataset": "glue", "split": "train", "trust_remote_code": True}, "trust_remote_code: unknown key"),
        ({"en": {"de": "a"}}, "input should be a valid string, found {'de': 'a'}"),
        (["a.jsonl"], "input should be a valid string"),
    ],
)
def test_what_is_none_is_refused_in_one_sentence(given, said):
    with pytest.raises(BadConfig, match=said) as refused:
        parse(Sources, given, source="data")
    assert len(str(refused.value).splitlines()) == 1


def test_a_dataset_is_read_from_its_folder_in_order_with_all_its_columns(folder):
    found = Dataset(dataset=str(folder), split="train")
    assert records(found) == [ROWS[0], {"src": "b"}]
    assert found.name == f"dataset {folder}, split train"
    assert [number for number, _ in found.read(header=True, names=NAMES).rows] == [1, 2]


def test_json_lines_in_a_folder_are_a_dataset_too(tmp_path):
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert records(Dataset(dataset=str(tmp_path), split="train")) == [ROWS[0], {"src": "b"}]


def test_the_hash_of_a_dataset_is_of_its_rows_and_of_nothing_else(folder, tmp_path):
    def digest(split: str) -> str:
        return Dataset(dataset=str(folder), split=split).read(header=True, names=NAMES).digest

    before = digest("train")
    os.utime(folder / "train-0.parquet", (0, 0))
    assert digest("train") == before
    assert digest("validation") != before
    parquet.write_table(pa.Table.from_pylist(ROWS[1:] * 2, schema=SCHEMA), folder / "train-1.parquet")
    assert digest("train") != before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"split": "nowhere"}, "cannot be read: .*nowhere"),
        ({"dataset": "nobody/nothing"}, "dataset nobody/nothing cannot be read"),
    ],
)
def test_a_dataset_that_is_not_there_is_refused_in_a_sentence(changes, said, folder):
    source = Dataset(**{"dataset": str(folder), "split": "train", **changes})
    with pytest.raises(BadData, match=said):
        source.read(header=True, names=NAMES)


def test_files_are_known_before_they_are_read():
    assert source_of("a.tsv") == File(Path("a.tsv"))
    assert source_of("a.tsv").files == (Path("a.tsv"),)
    assert Parallel(source="a", target="b").files == (Path("a"), Path("b"))
    assert (source_of("a.parquet").unit, source_of("a.csv").unit, Parallel(source="a").unit) == ("row", "line", "line")
