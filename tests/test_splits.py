"""Files of examples: whose columns they have, which are scored, and what is said of them before anything is trained."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from megas2s.data.skipped import by_reason
from megas2s.errors import BadConfig, BadData
from megas2s.methods.base import Columns, Facts, Method
from megas2s.methods.classify import Classify
from megas2s.methods.one_row import PseudoMasked
from megas2s.methods.tag import Tag, encode_words
from megas2s.spec import parse
from megas2s.splits import Examples, Split, SplitName, encode, read
from megas2s.tokenizer.load import Tokenizer


def write(path: Path, *records: dict) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def split_of(method: Method, data: Examples, split: SplitName, facts: Facts) -> Split:
    return encode(method, data, split, read(method, data), facts)


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
    assert read(Classify(), data).labels == ("0", "1")
    assert [example["class"] for example in split_of(Classify(), data, "train", facts).examples] == [1, 0]
    found = split_of(Classify(), data, "test", facts)
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
    found = split_of(Classify(), data, "test", facts)
    assert {read(Classify(), data).languages[place] for place in found.labelled} == {"en"}
    assert found.notes == (
        f"test: no record of {tmp_path / 'sw.jsonl'} has a 'label'; they are answered and not scored",
        "test: the training data has no 7; such examples count as errors",
    )


def test_half_a_file_of_labels_is_a_mistake(facts, tmp_path):
    train = write(tmp_path / "train.jsonl", {"text": "a", "label": 0})
    data = Examples(train=train, test=write(tmp_path / "a.jsonl", {"text": "a", "label": 0}, {"text": "b"}))
    with pytest.raises(BadData, match=r"a.jsonl, line 2: a record has no 'label'"):
        split_of(Classify(), data, "test", facts)


def test_what_is_cut_is_measured_before_it_is(facts, tmp_path):
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
    data = Examples(
        train=write(tmp_path / "a.jsonl", {"text": words, "label": ["0"] * 8}, {"text": ["one"], "label": ["1"]})
    )
    found = split_of(Tag(), data, "train", facts)
    pieces = [len(np.concatenate(encode_words(given, facts.tokenizer))) for given in (words, ["one"])]
    sources = found.lengths["sources"]
    assert (sources.longest, sources.shortest) == (pieces[0] + 1, pieces[1] + 1)
    assert (sources.cut, sources.most_lost) == (1, pieces[0] + 1 - 8)
    assert [len(example["input_ids"]) for example in found.examples] == [8, pieces[1] + 1]


def test_a_mistake_in_a_label_is_named_by_its_line(tmp_path):
    path = write(tmp_path / "a.jsonl", {"text": "a", "label": 0}, {"text": "b", "lable": 1})
    data = Examples(train=path)
    with pytest.raises(BadData, match=r"a.jsonl, line 2: a record has no 'label'; did you mean 'lable'"):
        read(Classify(), data)


SPOKEN = Columns(text="src", label="tgt", language="lang")


def spoken(*languages: str) -> list[dict]:
    return [{"src": f"one {n}", "tgt": f"two {n}", "lang": name} for n, name in enumerate(languages)]


def test_a_column_may_say_the_language_and_those_trained_on_come_first(facts, tmp_path):
    data = Examples(
        train=write(tmp_path / "train.jsonl", *spoken("sw", "en", "sw")),
        dev=write(tmp_path / "dev.jsonl", *spoken("ar", "en")),
        columns=SPOKEN,
    )
    reading = read(PseudoMasked(), data)
    assert reading.languages == ("sw", "en", "ar")
    assert reading.digests.keys() == {"train.all", "dev.all"}
    assert split_of(PseudoMasked(), data, "train", facts).languages == [0, 1, 0]
    assert split_of(PseudoMasked(), data, "dev", facts).languages == [2, 1]


@pytest.mark.parametrize("value", [None, "", 5, "all"])
def test_a_record_without_a_language_is_refused_by_its_line(value, tmp_path):
    records = [*spoken("en"), {**spoken("en")[0], "lang": value}]
    data = Examples(train=write(tmp_path / "a.jsonl", *records), columns=SPOKEN)
    with pytest.raises(BadData, match=r"a.jsonl, line 2: 'lang' of a record is .*, and names no language"):
        read(PseudoMasked(), data)


def test_a_language_without_labels_is_named_where_a_column_says_it(facts, tmp_path):
    bare = [{key: value for key, value in record.items() if key != "tgt"} for record in spoken("sw", "sw")]
    data = Examples(
        train=write(tmp_path / "a.jsonl", *spoken("en")),
        test=write(tmp_path / "b.jsonl", *spoken("en"), *bare),
        columns=SPOKEN,
    )
    found = split_of(PseudoMasked(), data, "test", facts)
    assert found.notes == (
        f"test: no record in sw of {tmp_path / 'b.jsonl'} has a 'tgt'; they are answered and not scored",
    )
    assert found.labelled == {0}
    assert found.lengths["targets"].rows == 1, "nobody knows how long the others are"


@pytest.mark.parametrize("kind", ["csv", "parquet", "pairs", "dataset"])
def test_every_source_gives_the_same_examples(kind: str, facts, tmp_path):
    rows = [{"src": f'a "{n}", b', "tgt": f"c\u2028{n}"} for n in range(3)]
    expected = split_of(
        PseudoMasked(),
        Examples(train=write(tmp_path / "a.jsonl", *rows), columns=Columns(text="src", label="tgt")),
        "train",
        facts,
    )
    if kind == "csv":
        with open(tmp_path / "a.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["tgt", "src"])
            writer.writeheader()
            writer.writerows(rows)
        given: object = str(tmp_path / "a.csv")
    elif kind == "parquet":
        parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
        given = str(tmp_path / "a.parquet")
    elif kind == "pairs":
        for name in ("src", "tgt"):
            (tmp_path / name).write_text("".join(row[name] + "\n" for row in rows), encoding="utf-8")
        given = {"source": str(tmp_path / "src"), "target": str(tmp_path / "tgt")}
    else:
        (tmp_path / "set").mkdir()
        write(tmp_path / "set" / "train.jsonl", *rows)
        given = {"dataset": str(tmp_path / "set"), "split": "train"}
    data = parse(Examples, {"train": given, "columns": {"text": "src", "label": "tgt"}}, source="data")
    found = split_of(PseudoMasked(), data, "train", facts)
    for one, other in zip(found.examples, expected.examples, strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in one)
    assert found.records == expected.records


def test_texts_encoded_at_once_are_those_encoded_one_by_one(facts, tmp_path):
    piece = facts.tokenizer.piece(300)
    rows = [{"src": "one two", "tgt": "three"}, {"src": [piece], "tgt": [300, 301]}, {"src": "", "tgt": "four " * 9}]
    columns = Columns(text="src", label="tgt")
    data = Examples(train=write(tmp_path / "a.jsonl", *rows), columns=columns)
    found = split_of(PseudoMasked(), data, "train", facts)
    for row, example in zip(rows, found.examples, strict=True):
        alone = PseudoMasked().example(row, columns, facts)
        assert all(np.array_equal(alone[name], example[name]) for name in alone)
    whole = len(facts.tokenizer.encode("four " * 9)) + 1
    assert (found.lengths["targets"].cut, found.lengths["targets"].most_lost) == (1, whole - 8)


@pytest.mark.parametrize("side", ["source", "target", "both"])
def test_a_row_opens_with_the_tag_of_its_language(side, facts, tmp_path):
    data = Examples(train=write(tmp_path / "a.jsonl", *spoken("sw", "en")), columns=SPOKEN, tags=side)
    bare = Examples(train=data.train, columns=SPOKEN)
    tags = [facts.vocabulary.languages[name] for name in ("sw", "en")]
    pairs = zip(*(split_of(PseudoMasked(), each, "train", facts).examples for each in (data, bare)), tags, strict=True)
    for tagged, plain, tag in pairs:
        for name, mine in (("input_ids", "source"), ("target_ids", "target"), ("labels", "target")):
            opening = [tag] if side in (mine, "both") else []
            assert tagged[name].tolist() == [*opening, *plain[name].tolist()]
        assert ("forced_ids" in tagged) == (side != "source")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"train": {"en": "a"}, "columns": {"language": "lang"}}, "data.train names a source for each language, and"),
        ({"train": "a", "alpha": 0.5}, "data.alpha needs languages, and data.train has none"),
        ({"train": {"en": "a"}, "dev": "b", "tags": "both"}, "data.tags needs languages, and data.dev has none"),
        ({"train": {"en": "a", "de": "b"}, "alpha": 1.5}, r"alpha must lie in \[0, 1\], got 1.5"),
        ({"train": {"source": "a.en"}}, "data.train: a.en has no target, which only a test set may lack"),
        ({"train": {"en": {"source": "a"}}}, "data.train: a has no target"),
        ({"train": "a", "dev": {"all": "b"}}, "data.dev: 'all' is what all languages together are called"),
    ],
)
def test_what_cannot_be_together_is_refused(given, said):
    with pytest.raises(BadConfig, match=said):
        parse(Examples, given, source="data")


@pytest.mark.parametrize(
    ("method", "language", "said"),
    [
        (PseudoMasked(), "xx", "the tokenizer has no tag for the language 'xx'; known: ar, en, sw, zh"),
        (Classify(), "en", "data.tags are for methods that write"),
    ],
)
def test_a_tag_that_is_not_there_is_refused(method, language, said, facts, tmp_path):
    data = Examples(train=write(tmp_path / "a.jsonl", *spoken(language)), columns=SPOKEN, tags="both")
    with pytest.raises((BadConfig, BadData), match=said):
        split_of(method, data, "train", facts)


def test_a_language_without_a_tag_is_refused_by_its_line_or_left_out(facts, tmp_path):
    path = write(tmp_path / "a.jsonl", *spoken("en"), *spoken("xx"))
    with pytest.raises(
        BadData, match=rf"{path}, line 2: 'lang' of a record: the tokenizer has no tag for the language 'xx'"
    ):
        split_of(PseudoMasked(), Examples(train=path, columns=SPOKEN, tags="both"), "train", facts)
    data = Examples(train=path, columns=SPOKEN, tags="both", skip_bad_lines=True)
    (skipped,) = split_of(PseudoMasked(), data, "train", facts).skipped
    assert (skipped.number, skipped.reason) == (2, "'lang' names a language without a tag")


MIXED = (
    {"src": "one", "tgt": "two", "lang": "en"},
    {"src": "one", "tgt": ""},
    {"src": "one", "tgt": "", "lang": "en"},
    {"tgt": "two", "lang": "en"},
    {"src": [1 << 30], "tgt": "two", "lang": "en"},
    {"src": [1 << 29], "tgt": "two", "lang": "en"},
    {"src": "three", "tgt": "four", "lang": "sw"},
)


def test_bad_lines_are_left_out_counted_and_told_by_reason_where_that_is_asked_for(facts, tmp_path):
    path = write(tmp_path / "a.jsonl", *MIXED)
    with open(path, "a") as file:
        file.write("no record\n")
    data = Examples(train=path, columns=SPOKEN, skip_bad_lines=True)
    found = split_of(PseudoMasked(), data, "train", facts)
    assert [record["src"] for record in found.records] == ["one", "three"]
    assert found.languages == [0, 1]
    assert {reason.reason: reason.numbers for reason in by_reason(found.skipped)} == {
        "'src' has an id beyond the vocabulary": [5, 6],
        "a record has no 'lang'": [2],
        "'tgt' is empty": [3],
        "a record has no 'src'": [4],
        "not a JSON object": [8],
    }
    with pytest.raises(BadData, match=r"a.jsonl, line 2: a record has no 'lang'"):
        read(PseudoMasked(), Examples(train=path, columns=SPOKEN))


def test_a_file_of_which_nothing_is_left_is_refused(facts, tmp_path):
    columns = Columns(text="src", label="tgt")
    data = Examples(train=write(tmp_path / "a.jsonl", *MIXED[1:4]), columns=columns, skip_bad_lines=True)
    with pytest.raises(BadData, match=r"no example is left: 2 lines of .*a.jsonl left out: 'tgt' is empty"):
        split_of(PseudoMasked(), data, "train", facts)


def test_training_without_a_label_is_left_out_and_its_class_not_learnt(facts, tmp_path):
    rows = [{"text": "a", "label": 0}, {"text": "b", "label": 0.5}, {"label": 7}, {"text": "d", "label": 1}]
    data = Examples(train=write(tmp_path / "a.jsonl", *rows), skip_bad_lines=True)
    found = split_of(Classify(), data, "train", facts)
    assert [example["class"] for example in found.examples] == [0, 1]
    assert [one.reason for one in found.skipped] == ["'label' is no class", "a record has no 'text'"]
