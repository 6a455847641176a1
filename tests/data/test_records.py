"""Examples from JSON lines and from GLUE's tables; what cannot be read is named by file and line."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from megas2s.data.records import Record, read_records
from megas2s.errors import BadData


def records(path: Path, *, header: bool = True) -> list[Record]:
    return [record for _, record in read_records(path, header=header)]


def test_json_lines_keep_their_keys_and_kinds(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "é", "label": 1}\n\n{"text": "b", "label": 0}\n', encoding="utf-8")
    assert read_records(path) == [(1, {"text": "é", "label": 1}), (3, {"text": "b", "label": 0})]
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_records(packed) == read_records(path)


def test_a_table_with_a_header_names_its_columns_and_quotes_nothing(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('sentence\tlabel\nhe said "no\t1\n', encoding="utf-8")
    assert records(path) == [{"sentence": 'he said "no', "label": "1"}]


@pytest.mark.parametrize("name", ["a.tsv", "a.jsonl"])
def test_a_byte_order_mark_is_no_part_of_a_name(name: str, tmp_path):
    text = "text\tlabel\na\tb\n" if name.endswith("tsv") else '{"text": "a", "label": "b"}\n'
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    assert records(tmp_path / name) == [{"text": "a", "label": "b"}]


def test_a_table_without_one_numbers_them(tmp_path):
    path = tmp_path / "cola.tsv"
    path.write_text("gj04\t1\t\tThey drank.\n", encoding="utf-8")
    assert records(path, header=False) == [{"0": "gj04", "1": "1", "2": "", "3": "They drank."}]


def test_separators_of_unicode_long_cells_and_blank_lines_are_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a\u2028b\u0085c"}\r\n', encoding="utf-8")
    assert records(tmp_path / "a.jsonl") == [{"text": "a\u2028b\u0085c"}]
    (tmp_path / "a.tsv").write_text(f"text\tlabel\r\na\u2028b\t1\r\n{'x' * 200_000}\t0\r\n\r\n", encoding="utf-8")
    assert [len(record["text"]) for record in records(tmp_path / "a.tsv")] == [3, 200_000]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"text": "a"}\n[1]\n', r"a.jsonl, line 2: not a JSON object"),
        ("a.jsonl", b'{"text": \n', "line 1: not a JSON object"),
        ("a.jsonl", b"\n\n", "holds no example"),
        ("a.jsonl", b'{"text": "\xff"}\n', "is not UTF-8"),
        ("a.tsv", b"a\tb\n1\n", r"line 2: 1 columns, the first line has 2"),
        ("a.tsv", b"a\tb\ta\n1\t2\t3\n", "line 1: two columns are called 'a'; rename one"),
        ("a.csv", b"a,b\n", r"is neither .jsonl nor .tsv"),
        ("a.jsonl.gz", b"no gzip", "cannot be read"),
        ("a.jsonl", b'{"label": ' + b"9" * 5000 + b"}\n", "line 1: not a JSON object"),
        ("a.jsonl", b'{"text": "\\ud83d"}\n', "line 1: half of a surrogate pair"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(name: str, content: bytes, said: str, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadData, match=said):
        read_records(path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(BadData, match="No such file"):
        read_records(tmp_path / "none.jsonl")
