"""Files of examples: whose columns they have, which are scored, and what is said of them before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megas2s.errors import BadConfig, BadData
from megas2s.methods.base import Columns, Facts
from megas2s.methods.classify import Classify
from megas2s.methods.tag import Tag
from megas2s.spec import parse
from megas2s.splits import Examples, encode, labels_of, read_split
from megas2s.tokenizer.load import Tokenizer


def write(path: Path, *records: dict) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


@pytest.fixture
def facts(corpus_folder: Path) -> Facts:
    return Facts(Tokenizer.load(corpus_folder / "tokenizer"), 8, 8, "eos", False, ("0", "1"))


def test_glue_s_cola_has_a_test_set_of_another_shape(facts, tmp_path):
    (tmp_path / "train.tsv").write_text("gj04\t1\t\tThey drank.\ngj04\t0\t*\tThem drank.\n")
    (tmp_path / "test.tsv").write_text("index\tsentence\n0\tBill coughed.\n")
    data = parse(
        Examples,
        {
            "train": str(tmp_path / "train.tsv"),
            "test": str(tmp_path / "test.tsv"),
            "header": False,
            "columns": {"text": "3", "label": "1"},
            "test_header": True,
            "test_columns": {"text": "sentence"},
        },
        source="data",
    )
    train, test = read_split(data, "train"), read_split(data, "test")
    assert labels_of(Classify(), train, data.columns_of("train")) == ("0", "1")
    assert [example["class"] for example in encode(Classify(), data, "train", train, facts).examples] == [1, 0]
    found = encode(Classify(), data, "test", test, facts._replace(length=32))
    assert found.labelled == frozenset()
    assert found.notes == (f"test: no record of {data.test} has a 'label'; they are answered and not scored",)


def test_columns_of_a_test_set_that_is_not_there_are_refused():
    with pytest.raises(BadConfig, match=r"test_header and test_columns are of data\.test, which is not given"):
        parse(Examples, {"train": "a.tsv", "test_header": True}, source="data")


def test_languages_without_labels_are_answered_beside_those_that_have_some(facts, tmp_path):
    data = Examples(
        train=write(tmp_path / "train.jsonl", {"text": "a", "label": 0}),
        test={
            "en": write(tmp_path / "en.jsonl", {"text": "a", "label": 0}, {"text": "b", "label": 7}),
            "sw": write(tmp_path / "sw.jsonl", {"text": "a"}),
        },
    )
    found = encode(Classify(), data, "test", read_split(data, "test"), facts)
    assert {data.languages[place] for place in found.labelled} == {"en"}
    assert found.notes == (
        f"test: no record of {tmp_path / 'sw.jsonl'} has a 'label'; they are answered and not scored",
        "test: the training data has no 7; such examples count as errors",
    )


def test_half_a_file_of_labels_is_a_mistake(facts, tmp_path):
    data = Examples(train="x.jsonl", test=write(tmp_path / "a.jsonl", {"text": "a", "label": 0}, {"text": "b"}))
    with pytest.raises(BadData, match=r"a.jsonl, line 2: a record has no 'label'"):
        encode(Classify(), data, "test", read_split(data, "test"), facts)


def test_what_may_be_cut_is_said(facts, tmp_path):
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
    data = Examples(
        train=write(tmp_path / "a.jsonl", {"text": words, "label": ["0"] * 8}, {"text": ["one"], "label": ["1"]})
    )
    found = encode(Tag(), data, "train", read_split(data, "train"), facts)
    assert found.notes == ("train: 1 of 2 examples fill all 8 tokens and may be cut",)


def test_a_mistake_in_a_label_is_named_by_its_line(tmp_path):
    path = write(tmp_path / "a.jsonl", {"text": "a", "label": 0}, {"text": "b", "lable": 1})
    data = Examples(train=path)
    with pytest.raises(BadData, match=r"a.jsonl, line 2: a record has no 'label'; did you mean 'lable'"):
        labels_of(Classify(), read_split(data, "train"), Columns())
