"""Documents come in from every format in a stable order, cleaned and counted."""

from __future__ import annotations

import csv
import itertools
import re
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megas2s.data.clean import clean
from megas2s.data.documents import input_files, read_blocks, read_documents
from megas2s.data.inputs import Inputs
from megas2s.data.languages import language_of_name
from megas2s.data.pieces import Span

from .document_files import TEXTS, a_csv, a_parquet, jsonl, jsonl_gz, jsonl_zst, lines, texts_of


@pytest.mark.parametrize("make", [jsonl, jsonl_gz, jsonl_zst, a_parquet, a_csv])
def test_every_format_gives_the_same_documents(tmp_path, make):
    documents = list(read_documents(Inputs(paths=(str(make(tmp_path)),), source="mine")))
    assert [document.text for document in documents] == TEXTS
    assert {(document.language, document.source) for document in documents} == {("en", "mine")}


def rows_of(number):
    return {"number": list(range(number)), "text": ["words of a row, " * (1 + row % 7) for row in range(number)]}


def large_parquet(folder):
    parquet.write_table(pa.table(rows_of(2000)), folder / "en.parquet", row_group_size=300)


def large_csv(folder):
    with open(folder / "en.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["number", "text"])
        writer.writerows(zip(*rows_of(2000).values(), strict=True))


@pytest.mark.parametrize("make", [large_parquet, large_csv])
def test_the_position_in_a_large_table_moves_with_its_rows(tmp_path, make):
    make(tmp_path)
    (file,) = input_files(Inputs(paths=(str(tmp_path),)))
    found = [(block.first / 2000, block.position / file.bytes) for block in read_blocks(Span(file), size=10_000)]
    assert len(found) > 5
    for (_, position), (rows, _) in itertools.pairwise(found):
        assert position == pytest.approx(rows, abs=0.05)
    assert 0.95 < found[-1][1] <= 1


def test_a_dataset_is_read_by_its_name_shard_by_shard(tmp_path):
    for number in range(3):
        parquet.write_table(pa.table({"text": [f"row {number}"], "lang": ["de"]}), tmp_path / f"train-{number}.parquet")
    inputs = Inputs(dataset=str(tmp_path), language_column="lang")
    assert len(input_files(inputs)) == 3
    documents = list(read_documents(inputs))
    assert [(document.text, document.language) for document in documents] == [(f"row {n}", "de") for n in range(3)]


@pytest.mark.parametrize(
    ("content", "documents", "expected"),
    [
        ("a\nb\n\n c \n", "lines", ["a", "b", " c "]),
        ("a\nb\n\nc\n \t\n\n\nd", "paragraphs", ["a\nb", "c", "d"]),
        ("\n\n a\r\nb\r\n\r\nc\r\n", "paragraphs", [" a\nb", "c"]),
        ("\ufeffa\u2028b\x85c\n", "lines", ["a\nb\nc"]),
        ("", "lines", []),
        ("\n\n", "paragraphs", []),
    ],
)
def test_txt_is_cut_into_lines_or_paragraphs(tmp_path, content, documents, expected):
    (tmp_path / "en.txt").write_bytes(content.encode())
    assert texts_of(paths=[str(tmp_path / "en.txt")], documents=documents) == expected


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\x00\x0b\x85"), max_size=30)),
    size=st.integers(1, 50),
)
def test_where_blocks_are_cut_changes_nothing(texts, size, tmp_path_factory):
    path = lines(tmp_path_factory.mktemp("blocks") / "en.jsonl", texts)
    (file,) = input_files(Inputs(paths=(str(path),)))
    blocks = list(read_blocks(Span(file), size=size))
    assert b"".join(block.content for block in blocks) == path.read_bytes()
    assert all(block.content.endswith(b"\n") for block in blocks)
    assert [block.first for block in blocks] == [
        1 + sum(block.content.count(b"\n") for block in blocks[:index]) for index in range(len(blocks))
    ]


@settings(max_examples=60, deadline=None)
@given(
    paragraphs=st.lists(st.text("ab\r\t ", min_size=1, max_size=9).filter(str.strip), max_size=9),
    gaps=st.lists(st.sampled_from(["\n\n", "\n \n", "\r\n\r\n", "\n\t\n\n"]), min_size=9, max_size=9),
    size=st.integers(1, 20),
)
def test_where_paragraphs_are_cut_changes_nothing(paragraphs, gaps, size, tmp_path_factory):
    path = tmp_path_factory.mktemp("blocks") / "en.txt"
    path.write_bytes("".join(p + gap for p, gap in zip(paragraphs, gaps, strict=False)).encode())
    inputs = Inputs(paths=(str(path),), documents="paragraphs")
    whole = [document.text for document in read_documents(inputs)]
    cut = []
    for block in read_blocks(Span(input_files(inputs)[0]), size=size):
        part = path.with_name("fr.txt")
        part.write_bytes(block.content)
        cut += texts_of(paths=[str(part)], documents="paragraphs")
    assert cut == whole
    assert len(whole) == len(paragraphs)


@given(st.text())
def test_cleaning_leaves_no_control_characters_and_all_else(text):
    cleaned = clean(text)
    if any("\ud800" <= character <= "\udfff" for character in text):
        assert cleaned is None
        return
    assert cleaned is not None
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff]", cleaned.text)
    assert clean(cleaned.text) == (cleaned.text, 0)
    assert text.replace("\r\n", "\n").count("\n") <= cleaned.text.count("\n")


def test_what_is_dropped_is_counted_by_language_and_reason(tmp_path):
    path = tmp_path / "en.jsonl"
    path.write_bytes(
        b'{"text": "a\\u0000b\\u0007"}\n{"text": " \\u0001\\n"}\n{"text": null}\n'
        b'{"text": "\xff"}\n{"text": "\\ud800"}\n\n{"text": "c"}\n'
    )
    dropped: Counter[tuple[str, str]] = Counter()
    assert texts_of(dropped, paths=[str(path)], invalid_utf8="drop") == ["ab", "c"]
    assert dropped == {("en", "control characters"): 3, ("en", "empty"): 2, ("en", "invalid UTF-8"): 2}


def test_files_are_listed_in_one_order_held_out_first_each_once(tmp_path):
    for name in ("b/de/2.txt", "b/de/1.txt", "b/fr.txt", "b/.hidden/en.txt", "b/README.md", "a/en.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    train = Inputs(paths=(f"{tmp_path}/b", f"{tmp_path}/b/*/1.txt"))
    heldout = Inputs(paths=(f"{tmp_path}/a/*.txt",), split="heldout")
    listed = input_files([train, heldout])
    assert [file.name.removeprefix(f"{tmp_path}/") for file in listed] == [
        "a/en.txt",
        "b/de/1.txt",
        "b/de/2.txt",
        "b/fr.txt",
    ]
    assert [file.language for file in listed] == ["en", "de", "de", "fr"]


def test_names_that_look_like_patterns_are_read_as_they_are(tmp_path):
    path = tmp_path / "a[1]*.parquet"
    parquet.write_table(pa.table({"text": ["a"]}), path)
    parquet.write_table(pa.table({"text": ["b"]}), tmp_path / "a1.parquet")
    assert texts_of(paths=[str(path)], language="en") == ["a"]


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("en", "en"),
        ("en-00017", "en"),
        ("en.train.03-of-10", "en"),
        ("wiki.en", "en"),
        ("zh_Hans", "zh_Hans"),
        ("ceb_Latn", "ceb_Latn"),
        ("en_XX", "en_XX"),
        ("lang=pt", "pt"),
        ("new", None),
        ("web-001", None),
        ("data", None),
        ("part-00001", None),
        ("en-de", None),
        ("notes-to-self", None),
        ("xx", None),
    ],
)
def test_a_name_states_a_language_only_when_it_surely_does(name, language):
    assert language_of_name(name) == language


def test_documents_of_one_file_may_be_of_many_languages(tmp_path):
    path = tmp_path / "all.jsonl"
    path.write_text('{"text": "a", "lang": "EN"}\n{"text": "b", "lang": "zh_Hans"}\n')
    documents = read_documents(Inputs(paths=(str(path),), language_column="lang"))
    assert [(document.text, document.language) for document in documents] == [("a", "en"), ("b", "zh_Hans")]
