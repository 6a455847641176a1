"""Gold edits from .m2 files, and what is refused there with file and line."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from megas2s.errors import BadData
from megas2s.metrics.gold import Annotated, GoldEdit, corrected, is_m2, read_gold

REST = "REQUIRED|||-NONE-|||"
FILE = f"""S He go to school the .
A 1 2|||SVA|||goes|||{REST}0
A 4 5|||ArtOrDet|||-NONE-|||{REST}0
A 3 3|||ArtOrDet|||the||a big|||{REST}1
A -1 -1|||noop|||-NONE-|||{REST}2

S All is well .


S
A 0 0|||M|||Yes .|||{REST}0
S a b
A 0 1|||U||||||{REST}10
A 1 2|||R|||c||-NONE-|||{REST}9
"""


@pytest.fixture
def write(tmp_path):
    def file(text: str, name: str = "gold.m2") -> Path:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return file


def test_sentences_have_their_annotators_in_order(write):
    found = read_gold(write(FILE))
    assert [line for line, _ in found] == [1, 7, 10, 12]
    assert [sentence for _, sentence in found] == [
        Annotated(
            ("He", "go", "to", "school", "the", "."),
            (
                (GoldEdit(1, 2, (("goes",),)), GoldEdit(4, 5, ((),))),
                (GoldEdit(3, 3, (("the",), ("a", "big"))),),
                (),
            ),
        ),
        Annotated(("All", "is", "well", "."), ((),)),
        Annotated((), ((GoldEdit(0, 0, (("Yes", "."),)),),)),
        Annotated(("a", "b"), ((GoldEdit(1, 2, (("c",), ())),), (GoldEdit(0, 1, ((),)),))),
    ]


def test_windows_lines_and_gzip_say_the_same(write, tmp_path):
    (tmp_path / "gold.m2.gz").write_bytes(gzip.compress(FILE.replace("\n", "\r\n").encode("utf-8-sig")))
    assert is_m2(tmp_path / "gold.m2.gz")
    assert read_gold(tmp_path / "gold.m2.gz") == read_gold(write(FILE))
    assert not is_m2(tmp_path / "gold.txt")


def test_a_corrected_text_is_the_first_annotator_s():
    edits = (
        GoldEdit(2, 3, (("C",),)),
        GoldEdit(0, 0, (("x",), ("y",))),
        GoldEdit(1, 3, ((),)),
        GoldEdit(4, 4, (("z",),)),
    )
    assert corrected(Annotated(tuple("abcd"), (edits, ()))) == ("x a d z", 1)  # b and c go, so C would overlap
    assert corrected(Annotated(tuple("ab"), ((),))) == ("a b", 0)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("A 1 2|||SVA|||goes", "an edit has 6 fields parted by |||, found 3; write A START END|||TYPE"),
        (f"A 1|||SVA|||goes|||{REST}0", "START and END are two numbers, found '1'"),
        (f"A one two|||SVA|||goes|||{REST}0", "START and END are two numbers, found 'one two'"),
        (f"A 1 3|||SVA|||goes|||{REST}0", "words 1 to 3 are no part of the sentence, which has 2; repair the span"),
        (f"A 2 1|||SVA|||goes|||{REST}0", "words 2 to 1 are no part of the sentence"),
        (f"A -1 1|||SVA|||goes|||{REST}0", "words -1 to 1 are no part of the sentence"),
        (f"A 1 2|||SVA|||goes|||{REST}me", "an annotator is a number from 0, found 'me'"),
        (f"A 1 2|||SVA|||goes|||||{REST}0", "'||' at the end of the corrections"),
        ("T 1 2", "neither 'S SENTENCE' nor 'A START END"),
        ("Somebody goes .", "it begins with 'Somebody goes .'"),
    ],
)
def test_a_line_that_is_wrong_is_named(write, line, said):
    path = write(f"S a\n\nS a b\n{line}\n")
    with pytest.raises(BadData) as refused:
        read_gold(path)
    assert str(refused.value).startswith(f"{path}, line 4: ")
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"\nA 1 2|||SVA|||goes|||{REST}0\nS a b\n", r"line 2: an edit before any sentence; a line with S comes first"),
        ("\n\n", "holds no sentence; a line that begins with S is one"),
        ("", "holds no example"),
    ],
)
def test_a_file_without_sentences_is_refused(write, text, said):
    with pytest.raises(BadData, match=said):
        read_gold(write(text))


def test_bytes_that_are_no_text_are_named(tmp_path):
    (tmp_path / "gold.m2").write_bytes(b"S a b\n\nS \xff\n")
    with pytest.raises(BadData, match=r"gold\.m2, line 3: not UTF-8"):
        read_gold(tmp_path / "gold.m2")
