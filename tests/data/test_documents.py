"""Documents come in from every format in a stable order, cleaned and counted; bad ones are refused by file and line."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import re
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from megas2s.data.clean import clean
from megas2s.data.documents import input_files, read_blocks, read_documents
from megas2s.data.inputs import Inputs
from megas2s.data.languages import language_of_name
from megas2s.errors import BadConfig, BadData
from megas2s.spec import parse

TEXTS = ["one\nand two", "naïve „drei“", "四番目", "007", "NA", "null", 'a "quoted", thing']


def lines(path, texts, **more):
    path.write_text("".join(json.dumps({"text": text, **more}) + "\n" for text in texts))
    return path


def texts_of(dropped=None, **settings):
    return [document.text for document in read_documents(parse(Inputs, settings, source="test"), dropped=dropped)]


def jsonl(folder):
    return lines(folder / "en.jsonl", TEXTS)


def jsonl_gz(folder):
    path = folder / "en.jsonl.gz"
    path.write_bytes(gzip.compress(jsonl(folder).read_bytes()))
    return path


def jsonl_zst(folder):
    path = folder / "en.jsonl.zst"
    content = jsonl(folder).read_bytes()
    frames = [zstandard.compress(content[:30]), zstandard.compress(content[30:])]
    path.write_bytes(b"".join(frames))
    return path


def a_parquet(folder):
    path = folder / "en.parquet"
    parquet.write_table(pa.table({"number": list(range(len(TEXTS))), "text": TEXTS}), path)
    return path


def a_csv(folder):
    path = folder / "en.csv"
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([("text", "number"), *((text, index) for index, text in enumerate(TEXTS))])
    return path


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
    found = [(block.first / 2000, block.position / file.bytes) for block in read_blocks(file, size=10_000)]
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
    blocks = list(read_blocks(file, size=size))
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
    for block in read_blocks(input_files(inputs)[0], size=size):
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
        list(read_blocks(file, size=100))


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


def test_a_file_read_in_two_ways_is_refused(tmp_path):
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(BadConfig, match="named twice"):
        input_files(Inputs(paths=(f"en={tmp_path}/x.txt", f"de={tmp_path}/x.txt")))


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
