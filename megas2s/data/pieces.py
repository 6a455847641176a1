"""What one process tokenises at a time: a run of input of about one size, so that all processes have work to the end.

    a.txt (100 MB)   b.jsonl   c.txt.gz   d.parquet
    |--0--|--1--|--2--|-----3------|------4-------|

Plain .txt and .jsonl files are cut at byte positions: a span holds the documents that begin at or after its start and
before its stop, so neighbours agree without asking. Other files are spans as a whole, and small ones share a piece.
How input is cut changes nothing in the corpus; a piece's name says what is in it and how it is read, so that what has
been made of it is known again in a later run. Files are known by their name, their size and a sample of their bytes:
an edit that leaves the size, the head and the tail of a long file alone goes unnoticed.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from megas2s.data.inputs import InputFile, Inputs
from megas2s.errors import BadData
from megas2s.spec import plain

SMALLEST, USUAL, LARGEST = 1 << 20, 1 << 24, 1 << 28
SAMPLE = 1 << 16  # bytes at the head and at the tail of a file by which it is known again
READERS = 16
FEW, MANY = 32, 4096  # pieces of a small input, and of a large one


class Span(NamedTuple):
    """Documents of one file: those that begin in [start, stop), or from start on where stop is None. Bytes."""

    file: InputFile
    start: int = 0
    stop: int | None = None

    @property
    def bytes(self) -> int:
        """On disk; 0 where that is not known."""
        return (self.file.bytes if self.stop is None else self.stop) - self.start


Piece = tuple[Span, ...]


def sampled(files: Sequence[InputFile]) -> list[InputFile]:
    """The files with a sample of each, those of a dataset without; raises BadData where one cannot be opened."""
    with ThreadPoolExecutor(READERS) as pool:  # a file system far away answers many as quickly as one
        samples = list(pool.map(_sample, files))
    return [dataclasses.replace(file, sample=sample) for file, sample in zip(files, samples, strict=True)]


def piece_bytes(total: int) -> int:
    """The size of pieces for so much input: few enough to be listed, enough to keep all busy and a restart cheap."""
    return min(max(total // MANY, min(max(total // FEW, SMALLEST), USUAL)), LARGEST)


def cut(files: Sequence[InputFile], size: int) -> list[Piece]:
    """All input in order, in pieces of about `size` bytes."""
    pieces: list[Piece] = []
    held: list[Span] = []
    for span in _spans(files, size):
        if held and (sum(each.bytes for each in held) + span.bytes > size or span.file.format == "dataset"):
            pieces.append(tuple(held))
            held = []
        held.append(span)
    return [*pieces, tuple(held)] if held else pieces


def digest_of(files: Sequence[InputFile]) -> str:
    """A hash of all input: equal digests, equal files read in the same way."""
    return _hash([_facts(Span(file)) for file in files])


def name_of(piece: Piece) -> str:
    """A name for the piece's content: equal names, equal input read in the same way."""
    return _hash([_facts(span) for span in piece])[:24]


def _sample(file: InputFile) -> str:
    if file.format == "dataset":
        return ""
    try:
        with open(file.name, "rb") as content:
            head = content.read(SAMPLE)
            content.seek(max(content.tell(), file.bytes - SAMPLE))
            tail = content.read(SAMPLE)
    except OSError as error:
        raise BadData(f"{file.name} cannot be read: {error.strerror}; see to it, or leave it out") from None
    return hashlib.sha256(head + tail).hexdigest()


def _hash(facts: Sequence[object]) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _facts(span: Span) -> tuple[object, ...]:
    file = span.file
    return (file.name, file.bytes, file.sample, file.language, file.shard, _reading(file.inputs), span.start, span.stop)


def _spans(files: Sequence[InputFile], size: int) -> Iterator[Span]:
    for file in files:
        if file.format in ("txt", "jsonl") and not file.compression and file.bytes > size:
            starts = list(range(0, file.bytes, size))
            yield from (Span(file, start, stop) for start, stop in zip(starts, [*starts[1:], None], strict=True))
        else:
            yield Span(file)


@functools.cache
def _reading(inputs: Inputs) -> tuple[tuple[str, Any], ...]:
    """How files are read, without the list of which."""
    facts: dict[str, Any] = plain(Inputs, inputs)
    return tuple(sorted((key, value) for key, value in facts.items() if key != "paths"))
