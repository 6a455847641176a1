"""Examples from JSON lines, tables and texts side by side; what cannot be read is named by file and line."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from megas2s.data.records import Record, read_file, read_pairs, read_records
from megas2s.errors import BadData, BadRecord


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
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', "a.jsonl, line 2: not UTF-8"),
        ("a.tsv", b"a\tb\n\xff\t1\n", "a.tsv, line 2: not UTF-8"),
        ("a.tsv", b"a\t\xff\n1\t2\n", "a.tsv, line 1: not UTF-8"),
        ("a.tsv", b"a\tb\n1\n", r"line 2: 1 columns, the first line has 2"),
        ("a.tsv", b"a\tb\ta\n1\t2\t3\n", "line 1: two columns are called 'a'; rename one"),
        ("a.csv", b'a,b\n"1\n",2\n1\n', r"a.csv, line 4: 1 columns, the first line has 2"),
        ("a.csv", b'a,b\n"1,2\n3,4\n', r"a.csv, line 2: not CSV \(unexpected end of data\)"),
        ("a.csv", b'a,b\n"1"x,2\n', r"a.csv, line 2: not CSV"),
        ("a.csv", b"a,b\n\xff,1\n", "a.csv, line 2: not UTF-8"),
        ("a.csv", b"a,b\n", "holds no example"),
        ("a.parquet", b"PAR1 no more", "a.parquet cannot be read"),
        ("a.txt", b"a\n", r"is neither .jsonl, .tsv nor .csv"),
        ("a.parquet.gz", b"a\n", r"is neither .jsonl, .tsv nor .csv"),
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


def test_a_csv_quotes_what_holds_commas_quotes_and_lines_and_is_told_by_its_lines(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('src,tgt\n"a, ""b""\nc",d\n\ne,007\n', encoding="utf-8-sig", newline="")
    assert read_records(path) == [(2, {"src": 'a, "b"\nc', "tgt": "d"}), (5, {"src": "e", "tgt": "007"})]
    assert records(path, header=False)[0] == {"0": "src", "1": "tgt"}
    packed = tmp_path / "b.csv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_records(packed) == read_records(path)
    path.write_text(f"a,b\n{'x' * 200_000},1\n")
    assert len(records(path)[0]["a"]) == 200_000


def test_parquet_keeps_kinds_and_lacks_what_is_null(tmp_path):
    path = tmp_path / "a.parquet"
    rows = [{"src": "a", "tokens": ["x", "y"], "label": 3}, {"src": "b", "tokens": [], "label": None}]
    parquet.write_table(pa.Table.from_pylist(rows), path)
    assert read_records(path) == [(1, rows[0]), (2, {"src": "b", "tokens": []})]


def test_a_row_of_parquet_that_is_no_text_is_told_by_its_number(tmp_path):
    column = pa.array([b"a", b"\xff", b"c"], pa.binary()).view(pa.string())
    parquet.write_table(pa.table({"src": column}), tmp_path / "a.parquet")
    with pytest.raises(BadData, match=r"a.parquet, row 2: not UTF-8"):
        read_records(tmp_path / "a.parquet")


def test_two_columns_of_parquet_with_one_name_are_refused(tmp_path):
    parquet.write_table(pa.table([[1], [2]], names=["a", "a"]), tmp_path / "a.parquet")
    with pytest.raises(BadData, match=r"a.parquet: two columns are called 'a'"):
        read_records(tmp_path / "a.parquet")


def test_two_texts_are_pairs_of_lines(tmp_path):
    (tmp_path / "a.en").write_bytes("one\u2028\r\n\nthree".encode())
    (tmp_path / "a.de").write_bytes(b"eins\n\ndrei\n")
    names = ("src", "tgt")
    held = read_pairs(tmp_path / "a.en", tmp_path / "a.de", names=names)
    assert held.rows == [
        (1, {"src": "one\u2028", "tgt": "eins"}),
        (2, {"src": "", "tgt": ""}),
        (3, {"src": "three", "tgt": "drei"}),
    ]
    alone = read_pairs(tmp_path / "a.en", None, names=names)
    assert [record for _, record in alone.rows] == [{"src": "one\u2028"}, {"src": ""}, {"src": "three"}]
    (tmp_path / "a.de").write_bytes(b"eins\n\ndrei\nvier")
    with pytest.raises(BadData, match=r"a.en has 3 lines and .*a.de 4; line n of the one belongs to line n"):
        read_pairs(tmp_path / "a.en", tmp_path / "a.de", names=names)


def test_a_hash_is_of_what_lies_on_the_disk_and_a_pair_s_of_both_texts(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "a"}\n'))
    assert read_file(path).digest == hashlib.sha256(path.read_bytes()).hexdigest()
    for name, content in (("a", "x\n"), ("b", "y\n"), ("c", "z\n")):
        (tmp_path / name).write_text(content)
    pairs = [("a", "b"), ("a", "c"), ("c", "b"), ("b", "a")]
    found = {read_pairs(tmp_path / one, tmp_path / other, names=("s", "t")).digest for one, other in pairs}
    assert len(found) == len(pairs)


def test_a_line_that_is_no_record_leaves_its_neighbours_as_they_are(tmp_path):
    broken = {
        "a.jsonl": b'{"text": "a"}\nno\n{"text": "\xff"}\n{"text": "b"}\n',
        "a.tsv": b"text\tn\na\t1\nno\n\xff\t1\nb\t2\n",
        "a.csv": b'text,n\na,1\n"no"!\n\xff,1\nb,2\n',
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        rows = [record for _, record in read_file(tmp_path / name).rows]
        assert [isinstance(row, BadRecord) for row in rows] == [False, True, True, False], name
        assert (rows[0]["text"], rows[3]["text"], rows[2].reason) == ("a", "b", "not UTF-8")
