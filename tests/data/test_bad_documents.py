"""What cannot be read as documents is refused by file and line, row or name."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import zstandard

from megas2s.data.documents import input_files, read_blocks
from megas2s.data.inputs import Inputs
from megas2s.data.pieces import Span
from megas2s.errors import BadConfig, BadData
from megas2s.spec import parse

from .document_files import a_parquet, jsonl_gz, jsonl_zst, lines, texts_of


def refusal(path, content, **settings):
    path.write_bytes(content)
    with pytest.raises(BadData) as caught:
        texts_of(paths=[str(path)], **settings)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"text": "a"}\n{"text": "\xff"}\n', "line 2: invalid UTF-8"),
        (b'{"text": "a"}\n{"text": "\\udfff"}\n', "line 2: invalid UTF-8"),
        (b'{"body": "a"}\n', "line 1: no field 'text' (found 'body'); name it with --text-column"),
        (b'{"text": "a"}\n\n{"text": "a"\n', "line 3: malformed JSON"),
        (b'["text"]\n', "line 1: expected a JSON object, found list"),
        (b'{"text": 7}\n', "line 1: field 'text' holds int, not text"),
        (b'{"text": ' + b"[" * 100_000 + b"\n", "line 1: malformed JSON"),
        (b'{"text": "' + b"a" * 300 + b'"}\n', "line 1: a document of more than 200 bytes"),
    ],
)
def test_bad_json_lines_are_refused_by_file_and_line(tmp_path, content, said):
    path = tmp_path / "en.jsonl"
    longest = 200 if b"a" * 300 in content else 1 << 24
    assert refusal(path, content, longest_document=longest).startswith(f"{path}, {said}")


@pytest.mark.parametrize(("documents", "line"), [("lines", 3), ("paragraphs", 2)])
def test_bad_text_is_refused_by_file_and_line(tmp_path, documents, line):
    said = refusal(tmp_path / "en.txt", b"\na\n\xff\n", documents=documents)
    assert said.startswith(f"{tmp_path / 'en.txt'}, line {line}: invalid UTF-8")


def test_a_document_longer_than_allowed_is_refused_before_it_is_read_whole(tmp_path):
    path = tmp_path / "en.txt"
    path.write_bytes(b"short\n" + b"x" * 5000)
    (file,) = input_files(Inputs(paths=(str(path),), longest_document=1000))
    with pytest.raises(BadData, match=r"en\.txt, line 2: a document of more than 1000 bytes"):
        list(read_blocks(Span(file), size=100))


def test_rows_without_text_are_refused(tmp_path):
    parquet.write_table(pa.table({"body": ["a"]}), tmp_path / "en.parquet")
    with pytest.raises(BadData, match=r"en\.parquet: no column 'text' \(found 'body'\)"):
        texts_of(paths=[str(tmp_path / "en.parquet")])
    parquet.write_table(pa.table({"text": [1]}), tmp_path / "en.parquet")
    with pytest.raises(BadData, match=r"en\.parquet: column 'text' holds int64, not text"):
        texts_of(paths=[str(tmp_path / "en.parquet")])


def invalid_parquet(folder):
    column = pa.array([b"a", b"\xff"], pa.binary())
    parquet.write_table(pa.table({"text": column}), folder / "en.parquet")
    return folder / "en.parquet"


def invalid_csv(folder):
    (folder / "en.csv").write_bytes(b"\xef\xbb\xbftext,n\na,1\n\xff,2\n")
    return folder / "en.csv"


@pytest.mark.parametrize("make", [invalid_parquet, invalid_csv])
def test_invalid_text_in_a_table_is_refused_by_row(tmp_path, make):
    path = str(make(tmp_path))
    with pytest.raises(BadData, match=r"en\.(parquet|csv), row 2: invalid UTF-8"):
        texts_of(paths=[path])
    assert texts_of(paths=[path], invalid_utf8="drop") == ["a"]


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "no column 'text'"), (b'text,n\na,1\n"b,2\n', "cannot be read"), (b"text,n\na,b,c\n", "cannot be read")],
)
def test_a_csv_that_is_none_is_refused_by_name(tmp_path, content, said):
    (tmp_path / "en.csv").write_bytes(content)
    with pytest.raises(BadData, match=rf"en\.csv:? {said}"):
        texts_of(paths=[str(tmp_path / "en.csv")])


@pytest.mark.parametrize(
    ("make", "damage"),
    [
        (jsonl_gz, lambda content: content[:-9]),
        (jsonl_gz, lambda content: content[:20] + bytes(9) + content[29:]),
        (jsonl_zst, lambda content: content[:-9]),
        (jsonl_zst, lambda content: bytes(9) + content[9:]),
        (a_parquet, lambda content: content[:-9]),
        (a_parquet, lambda content: content[:100] + bytes(200) + content[300:]),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path, make, damage):
    path = make(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BadData, match=path.name):
        texts_of(paths=[str(path)])


def test_a_file_that_unpacks_to_far_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("megas2s.data.lines._SUSPICIOUS_BYTES", 1 << 20)
    path = tmp_path / "en.txt.zst"
    path.write_bytes(zstandard.compress(b"a\n" * (1 << 22)))
    with pytest.raises(BadData, match="unpacks to more than 1000 times its size"):
        texts_of(paths=[str(path)])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"paths": ["{}/nothing.txt"]}, "there is no file or folder .*nothing.txt; a Hugging Face dataset is named"),
        ({"paths": ["{}/*.xml"]}, "matches no readable file"),
        ({"paths": ["{}/empty"]}, "holds no readable file"),
        ({"paths": ["{}/notes.md"]}, "is of no known format; known are .txt"),
        ({"paths": ["{}/data.txt"]}, "its name and folder state no language; give --lang"),
        ({"paths": ["{}/data.txt"], "language": "English"}, "unknown language 'English'"),
        ({"paths": ["{}/data.txt"], "language": "../x"}, "unknown language '../x'"),
        ({"paths": ["{}/rows.jsonl"], "language_column": "lang"}, "line 1: unknown language 'klingon'"),
        ({"paths": ["{}/rows.jsonl"], "language_column": "code"}, "line 1: no language in 'code', found none"),
        ({"dataset": "{}/empty", "language": "en"}, "dataset .*empty cannot be read"),
    ],
)
def test_inputs_that_cannot_be_read_are_refused(tmp_path, given, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.md").write_text("a")
    (tmp_path / "data.txt").write_text("a")
    lines(tmp_path / "rows.jsonl", ["a"], lang="klingon")
    filled = {
        key: [path.format(tmp_path) for path in value] if key == "paths" else value.format(tmp_path)
        for key, value in given.items()
    }
    with pytest.raises(BadData, match=said):
        texts_of(**filled)


def test_settings_that_contradict_are_refused():
    for settings_, said in [
        ({}, "no input"),
        ({"paths": ["a"], "language": "en", "language_column": "lang"}, "both given"),
        ({"paths": ["a"], "source": "../x"}, "source must be"),
    ]:
        with pytest.raises(BadConfig, match=said):
            parse(Inputs, settings_, source="test")


def test_a_file_read_in_two_ways_is_refused(tmp_path):
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(BadConfig, match="named twice"):
        input_files(Inputs(paths=(f"en={tmp_path}/x.txt", f"de={tmp_path}/x.txt")))
