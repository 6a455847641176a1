"""Input is cut into pieces that hold every document once, wherever the cuts fall."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megas2s.data.decode import decode
from megas2s.data.documents import input_files, read_blocks, read_documents
from megas2s.data.inputs import Inputs
from megas2s.data.pieces import LARGEST, SAMPLE, SMALLEST, cut, name_of, piece_bytes, sampled
from megas2s.errors import BadData

CHARACTERS = st.characters(codec="utf-8", exclude_characters="\n\r\x00\x0b\x85")


def read(inputs: Inputs, size: int, block: int = 64) -> list[str]:
    spans = [span for piece in cut(input_files(inputs), size) for span in piece]
    return [found.text for span in spans for each in read_blocks(span, size=block) for found in decode(each, Counter())]


@settings(max_examples=100, deadline=None)
@given(
    texts=st.lists(st.text(CHARACTERS, max_size=12), min_size=1, max_size=9), size=st.integers(1, 40), end=st.booleans()
)
def test_lines_are_in_one_piece_each(texts, size, end, tmp_path_factory):
    path = tmp_path_factory.mktemp("lines") / "en.txt"
    path.write_text("\n".join([*texts, "last"]) + "\n" * end, encoding="utf-8")
    inputs = Inputs(paths=(str(path),))
    assert read(inputs, size) == [document.text for document in read_documents(inputs)]


@settings(max_examples=100, deadline=None)
@given(
    paragraphs=st.lists(st.text("ab\r\t \n", min_size=1, max_size=9).filter(str.strip), min_size=1, max_size=9),
    gaps=st.lists(st.sampled_from(["\n\n", "\n \n", "\r\n\r\n", "\n\t\n\n"]), min_size=9, max_size=9),
    size=st.integers(1, 30),
)
def test_paragraphs_are_in_one_piece_each(paragraphs, gaps, size, tmp_path_factory):
    path = tmp_path_factory.mktemp("paragraphs") / "en.txt"
    path.write_bytes("".join(p + gap for p, gap in zip(paragraphs, gaps, strict=False)).encode())
    inputs = Inputs(paths=(str(path),), documents="paragraphs")
    assert read(inputs, size) == [document.text for document in read_documents(inputs)]


def test_small_files_share_a_piece_and_large_ones_have_many(tmp_path):
    for name, count in (("a/en", 10), ("b/en", 20), ("c/en", 400)):
        path = tmp_path / f"{name}.txt"
        path.parent.mkdir()
        path.write_bytes(b"line\n" * count)
    pieces = cut(input_files(Inputs(paths=(str(tmp_path),))), 1000)
    spans = [[(span.file.name[-8:], span.start, span.stop) for span in piece] for piece in pieces]
    assert spans == [
        [("a/en.txt", 0, None), ("b/en.txt", 0, None)],
        [("c/en.txt", 0, 1000)],
        [("c/en.txt", 1000, None)],
    ]
    assert len({name_of(piece) for piece in pieces}) == 3


@pytest.mark.parametrize("size", [10, SAMPLE, SAMPLE + 7, 5 * SAMPLE])
def test_a_file_is_known_by_its_head_and_tail(tmp_path, size):
    path = tmp_path / "en.txt"

    def name():
        (piece,) = cut(sampled(input_files(Inputs(paths=(str(path),)))), 1 << 30)
        return name_of(piece)

    names = set()
    for place in (None, 0, size - 1, min(size, SAMPLE) - 1):
        content = bytearray(b"a" * size)
        if place is not None:
            content[place] = ord("b")
        path.write_bytes(content)
        names.add(name())
    assert len(names) == (4 if size > SAMPLE else 3)  # in a short file the last two places are one


def test_a_mistake_far_into_a_file_is_named_by_its_line(tmp_path):
    path = tmp_path / "en.txt"
    path.write_bytes(b"line\n" * 1000 + b"\xff\n" + b"line\n" * 1000)
    inputs = Inputs(paths=(str(path),))
    with pytest.raises(BadData, match=r"en\.txt, line 1001: invalid UTF-8"):
        read(inputs, 700)
    short = Inputs(paths=(str(path),), longest_document=3)
    with pytest.raises(BadData, match=r"en\.txt, line \d+: a document of more than 3 bytes"):
        read(short, 700)


@pytest.mark.parametrize(
    ("total", "pieces"),
    [(0, 0), (10**6, 1), (10**8, 32), (10**10, 597), (10**11, 4096), (10**12, 4096), (10**13, 37_253)],
)
def test_pieces_are_many_enough_to_share_and_few_enough_to_list(total, pieces):
    size = piece_bytes(total)
    assert SMALLEST <= size <= LARGEST
    assert -(-total // size) == pytest.approx(pieces, abs=1)
