"""Answers beside references: from a run, from keys of other names, from parallel files; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megas2s.answers.reading import Keys, Row, groups, read, without_repeats
from megas2s.errors import BadData


@pytest.fixture
def write(tmp_path):
    """`write(name, lines)`: a file of text, or of JSON lines where the lines are records."""

    def file(name: str, lines: list) -> Path:
        texts = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
        (tmp_path / name).write_text("".join(text + "\n" for text in texts), encoding="utf-8")
        return tmp_path / name

    return file


def test_a_run_s_answers_have_their_keys(write):
    lines = [
        {"language": "de", "source": "x", "answer": "a", "reference": "b"},
        {"language": "en", "source": "y", "answer": "c", "reference": "d"},
    ]
    found = read(write("test.jsonl", lines))
    assert found.rows == [Row(1, "de", "a", "b", "x"), Row(2, "en", "c", "d", "y")]
    assert found.notes == ()
    assert groups(found.rows) == {"all": [0, 1], "de": [0], "en": [1]}
    assert groups(found.rows[:1]) == {"all": [0]}


def test_keys_may_have_other_names(write):
    path = write("test.jsonl", [{"out": "a", "tgt": "b", "src": "x", "lang": "en", "answer": 3}])
    assert read(path, keys=Keys("out", "tgt", "src", "lang")).rows == [Row(1, "en", "a", "b", "x")]


def test_line_n_of_parallel_files_belongs_together(write):
    answers, references = write("a.txt", ["eins", "", "drei"]), write("b.txt", ["one", "two", "three"])
    found = read(answers, references, write("c.txt", ["1", "2", "3\r"]))
    assert found.rows[1:] == [Row(2, "all", "", "two", "2"), Row(3, "all", "drei", "three", "3")]
    assert found.notes == ("1 of 3 answers are empty",)
    lines = write("a.jsonl", [{"language": "de", "answer": word} for word in ("eins", "zwei", "drei")])
    assert [row.reference for row in read(lines, references).rows] == ["one", "two", "three"]
    tasks = write("b.jsonl", [{"tgt": word} for word in ("I", "II", "III")])
    assert [row.reference for row in read(lines, tasks, keys=Keys(reference="tgt")).rows] == ["I", "II", "III"]


GOLD = """S He go to school .
A 1 2|||SVA|||goes|||REQUIRED|||-NONE-|||0
A 1 2|||SVA|||went|||REQUIRED|||-NONE-|||1

S All is well .
"""


def test_gold_edits_bring_the_sources_and_the_first_annotator_s_references(write):
    found = read(write("a.txt", ["He goes to school .", "All are well ."]), write("b.m2", [GOLD]))
    first, second = found.rows
    assert first[:5] == (1, "all", "He goes to school .", "He goes to school .", "He go to school .")
    assert second[:5] == (2, "all", "All are well .", "All is well .", "All is well .")
    assert [len(row.gold.annotators) for row in found.rows] == [2, 1]
    assert found.notes == (
        "1 of 2 sentences have several annotators; m2 knows them all, other metrics and pages the first of each",
    )
    lines = [{"src": "?", "out": text, "lang": "en"} for text in ("He go .", "All is well .")]
    keys = Keys("out", "ref", "src", "lang")
    assert read(write("a.jsonl", lines), write("b.m2", [GOLD]), keys=keys).rows[0][:5] == (
        *(1, "en", "He go ."),
        *("He goes to school .", "He go to school ."),
    )


def test_gold_edits_that_overlap_are_told_of(write):
    more = "S a b c\nA 0 2|||X|||x|||REQUIRED|||-NONE-|||0\nA 1 3|||X|||y|||REQUIRED|||-NONE-|||0"
    found = read(write("a.txt", ["x c"]), write("b.m2", [more]))
    assert found.rows[0].reference == "x c"
    assert found.notes == ("1 gold edits overlap others; references are without them, m2 counts them all",)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["a"], r"a.txt has 1 lines and .*b.m2 has 2 sentences; .* and .*b.m2, line 5 belongs to none"),
        (["a", "b", "c"], r"a.txt has 3 lines and .*b.m2 has 2 sentences; .* and .*a.txt, line 3 belongs to none"),
    ],
)
def test_sentences_of_gold_edits_are_as_many_as_answers(write, texts, said):
    with pytest.raises(BadData, match=said):
        read(write("a.txt", texts), write("b.m2", [GOLD]))


def test_languages_without_references_are_left_out_and_said(write):
    lines = [{"language": "de", "answer": "a"}, {"language": "en", "answer": "b", "reference": "c"}]
    found = read(write("test.jsonl", lines))
    assert [row.language for row in found.rows] == ["en"]
    assert found.notes == ("1 answers in de have no 'reference' and are left out",)


def test_sentences_between_separators_become_lines(write):
    found = read(write("a.txt", ["One. [X_SEP] Two. [X_SEP]"]), write("b.txt", ["One. <S_SEP> Two."]))
    assert (found.rows[0].answer, found.rows[0].reference) == ("One.\nTwo.", "One.\nTwo.")


def test_lines_that_repeat_too_much_are_left_out(write):
    text = "the cat sat down\nThe cat sat up\nthe dog sat there too\ncat"
    assert without_repeats(text, 0.7) == "the cat sat down\nthe dog sat there too"  # 3/4, 2/5 and 1/1 were said before
    assert without_repeats(text, 1.0) == text
    answers, references = write("a.txt", ["a b [X_SEP] b a"]), write("b.txt", ["a b [X_SEP] b a"])
    row = read(answers, references, repeats=0.7).rows[0]
    assert (row.answer, row.reference) == ("a b", "a b\nb a")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([{"answer": "a"}], "line 1: no 'reference'; say --reference-key where it is called otherwise, or give a file"),
        ([{"answer": "a", "reference": "b"}, {"answer": "a"}], "line 2: no 'reference'; it has 'answer'"),
        ([{"reference": "b"}], "line 1: no 'answer'; it has 'reference'"),
        ([{"answer": ["O"], "reference": "b"}], "line 1: 'answer' is a list and no text; classes, numbers and tags"),
        ([{"answer": "a", "reference": 3}], "line 1: 'reference' is a number and no text"),
        ([{"answer": "a", "reference": None}], "line 1: 'reference' is null and no text"),
        ([{"answer": "a", "reference": "b"}, {"answer": "a", "reference": "b", "source": "c"}], "line 1: no 'source'"),
        ([{"answer": "a", "reference": "b", "language": 1}], "line 1: 'language' is a number"),
        (
            [{"answer": "a", "reference": "b", "language": x} for x in ("en", "all")],
            "line 2: 'language' is 'all', which",
        ),
        (["{"], "line 1: not a JSON object"),
        ([], "holds no example"),
    ],
)
def test_a_bad_line_is_named(write, lines, said):
    with pytest.raises(BadData, match=rf"test.jsonl.*{said}"):
        read(write("test.jsonl", lines))


def test_a_key_that_was_named_must_be_there(write):
    path = write("test.jsonl", [{"answer": "a", "reference": "b"}])
    for keys in (Keys(source="src"), Keys(language="src"), Keys(answer="src")):
        with pytest.raises(BadData, match=r"test.jsonl, line 1: no 'src'; it has 'answer', 'reference'"):
            read(path, keys=keys)


def test_files_of_unlike_lengths_empty_ones_and_absent_ones_are_named(write, tmp_path):
    answers = write("a.txt", ["one", "two"])
    with pytest.raises(BadData, match=r"a.txt has 2 lines and .*b.txt has 1; line n of one belongs to line n"):
        read(answers, write("b.txt", ["one"]))
    with pytest.raises(BadData, match=r"c.txt holds no text"):
        read(answers, write("c.txt", ["", " "]))
    with pytest.raises(BadData, match=r"d.txt cannot be read \(No such file"):
        read(answers, tmp_path / "d.txt")
    (tmp_path / "e.txt").write_bytes(b"\xff\xfe\n")
    with pytest.raises(BadData, match=r"e.txt, line 1: not UTF-8"):
        read(tmp_path / "e.txt", answers)
