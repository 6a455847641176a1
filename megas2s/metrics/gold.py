"""Gold edits of sentences to be corrected, as .m2 files have them.

    S He go to school the .
    A 1 2|||SVA|||goes|||REQUIRED|||-NONE-|||0           the words from 1 up to 2 become "goes"
    A 4 5|||ArtOrDet|||-NONE-|||REQUIRED|||-NONE-|||0    word 4 is left out; an empty correction says so, too
    A 3 3|||ArtOrDet|||the||a|||REQUIRED|||-NONE-|||1    of another annotator: either word is put before word 3
    A -1 -1|||noop|||-NONE-|||REQUIRED|||-NONE-|||2      a third one changes nothing

Words are parted by spaces and counted from 0. Types, whether an edit is required, and comments say nothing here. A
sentence without edits has one annotator, who changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from megas2s.data.records import read_texts
from megas2s.errors import BadData

NOTHING, NOOP, NOWHERE = "-NONE-", "noop", (-1, -1)
FORM = "A START END|||TYPE|||CORRECTION|||REQUIRED|||COMMENT|||ANNOTATOR"

Words = tuple[str, ...]


class GoldEdit(NamedTuple):
    """Words `start` up to `end` of the source, none where they are equal, become one of the corrections."""

    start: int
    end: int
    corrections: tuple[Words, ...]


class Annotated(NamedTuple):
    """A sentence and the edits of each of its annotators, of which there is at least one."""

    words: Words
    annotators: tuple[tuple[GoldEdit, ...], ...]


def is_m2(path: Path) -> bool:
    """Whether a file is named as one of gold edits, .gz or not."""
    return path.name.removesuffix(".gz").endswith(".m2")


def read_gold(path: Path) -> list[tuple[int, Annotated]]:
    """The sentences of an .m2 file by their lines; raises BadData with file and line where one is neither S nor A."""
    found = [_sentence(path, lines) for lines in _blocks(path)]
    if not found:
        raise BadData(f"{path} holds no sentence; a line that begins with S is one")
    return found


def corrected(sentence: Annotated) -> tuple[str, int]:
    """The sentence with the first annotator's first corrections, and how many overlap others and are left out."""
    text: list[str] = []
    reached, overlapping = 0, 0
    for start, end, corrections in sorted(sentence.annotators[0], key=lambda edit: edit[:2]):
        if start < reached:
            overlapping += 1
            continue
        text += [*sentence.words[reached:start], *corrections[0]]
        reached = end
    return " ".join([*text, *sentence.words[reached:]]), overlapping


def _blocks(path: Path) -> Iterator[list[tuple[int, str]]]:
    """The lines of each sentence with their numbers, that with S first."""
    block: list[tuple[int, str]] = []
    for number, line in read_texts(path):
        kind = line.partition(" ")[0]
        if not line.strip():
            continue
        if kind not in ("S", "A"):
            raise BadData(f"{path}, line {number}: neither 'S SENTENCE' nor '{FORM}'; it begins with {line[:20]!r}")
        if kind == "A" and not block:
            raise BadData(f"{path}, line {number}: an edit before any sentence; a line with S comes first")
        if kind == "S" and block:
            yield block
            block = []
        block.append((number, line))
    if block:
        yield block


def _sentence(path: Path, lines: Sequence[tuple[int, str]]) -> tuple[int, Annotated]:
    number, text = lines[0]
    words = tuple(text.split()[1:])
    annotators: dict[int, list[GoldEdit]] = {}
    for place, line in lines[1:]:
        try:
            annotator, edit = _edit(line, len(words))
        except ValueError as error:
            raise BadData(f"{path}, line {place}: {error}") from None
        annotators.setdefault(annotator, [])
        if edit is not None:
            annotators[annotator].append(edit)
    return number, Annotated(words, tuple(tuple(annotators[name]) for name in sorted(annotators)) or ((),))


def _edit(line: str, count: int) -> tuple[int, GoldEdit | None]:
    """Annotator and edit of a line, for a sentence of `count` words; None for noop. Raises ValueError."""
    fields = [field.strip() for field in line[1:].split("|||")]
    if len(fields) != 6:
        raise ValueError(f"an edit has 6 fields parted by |||, found {len(fields)}; write {FORM}")
    span, kind, correction, required, _, annotator = fields
    if required.startswith("|"):
        raise ValueError(f"'||' at the end of the corrections; write one that leaves words out as {NOTHING}")
    if not annotator.isdecimal():
        raise ValueError(f"an annotator is a number from 0, found {annotator!r}")
    try:
        start, end = map(int, span.split())
    except ValueError:
        raise ValueError(f"START and END are two numbers, found {span!r}; write {FORM}") from None
    if kind == NOOP or (start, end) == NOWHERE:
        return int(annotator), None
    if not 0 <= start <= end <= count:
        raise ValueError(f"words {start} to {end} are no part of the sentence, which has {count:,}; repair the span")
    texts = (text.strip() for text in correction.split("||"))
    return int(annotator), GoldEdit(start, end, tuple(() if text == NOTHING else tuple(text.split()) for text in texts))
