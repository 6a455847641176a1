"""What differs between an answer and its reference."""

from __future__ import annotations

import pytest

from megas2s.answers.differences import differences


def shown(answer: str, reference: str) -> tuple[str, str]:
    """Both texts with what differs in brackets."""
    sides = differences(answer, reference)
    return tuple("".join(f"[{part.text}]" if part.differs else part.text for part in side) for side in sides)


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("the cat sat down", "the black cat sat", ("the cat sat [down]", "the [black] cat sat")),
        ("A big dog barked.", "A cat barked.", ("A [big dog] barked.", "A [cat] barked.")),
        ("ไปที่บ้าน", "ไปร้าน", ("ไป[ที่บ้]าน", "ไป[ร้]าน")),
        ("我很好。", "我不好。", ("我[很]好。", "我[不]好。")),
        ("same", "same", ("same", "same")),
        ("", "all new", ("", "[all new]")),
        ("Case", "case", ("[Case]", "[case]")),
        ("a\nb", "a  b", ("a\nb", "a  b")),
    ],
)
def test_words_that_the_other_side_lacks_are_marked(answer, reference, expected):
    assert shown(answer, reference) == expected


def test_the_parts_make_up_their_text():
    answer, reference = "Une  fois,\n«deux» fois !", "deux fois\t– trois"
    sides = differences(answer, reference)
    assert ["".join(part.text for part in side) for side in sides] == [answer, reference]
