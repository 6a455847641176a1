"""A block of raw input to clean documents. Pure and light: worker processes run this.

Invalid text is refused with file and line, or dropped and counted where the inputs say so. Documents that are empty,
or become empty without their control characters, are dropped and counted.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa

from megas2s.data.clean import clean
from megas2s.data.inputs import InputFile, Inputs
from megas2s.data.languages import language_code
from megas2s.errors import BadData

EMPTY = "empty"
INVALID = "invalid UTF-8"
CONTROL = "control characters"  # counted in characters; the document stays
DUPLICATE, NEAR_DUPLICATE, BEYOND_QUOTA = "duplicate", "near duplicate", "beyond the quota"
UNKNOWN = "und"  # ISO 639 for a document whose language cannot be known, because it cannot be read

_JSON = json.JSONDecoder(strict=False)  # raw control characters inside a string are dropped later, and counted


class Document(NamedTuple):
    """One text and where it belongs."""

    text: str
    language: str
    source: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
    """A run of whole documents of one file, not yet decoded."""

    file: InputFile
    first: int  # number of the first line, or row, of the block, from 1, not counting those in `before`
    before: int = 0  # bytes at the file's front whose lines nobody has counted
    content: bytes  # lines; or an Arrow stream with binary columns `text` and, where it is read, `language`
    position: int  # bytes of the file on disk that have been read so far, for the progress display

    def place(self, index: int) -> str:
        """How to name line or row `index` of the block to a person."""
        return place(self.file, self.before, self.first + index)


def place(file: InputFile, before: int, number: int) -> str:
    """A line or row by its number behind the first `before` bytes, whose lines are counted now that somebody asks."""
    if before:
        with open(file.name, "rb") as raw:
            while before and (chunk := raw.read(min(before, 1 << 20))):
                number += chunk.count(b"\n")
                before -= len(chunk)
    return f"{file.name}, {'line' if file.format in ('txt', 'jsonl') else 'row'} {number}"


class _Raw(NamedTuple):
    number: int  # line or row in the block
    text: bytes | str | None
    language: str


def decode(block: Block, dropped: Counter[tuple[str, str]]) -> Iterator[Document]:
    """The documents of a block, in order; `dropped` counts by (language, reason) what is left out."""
    inputs = block.file.inputs
    for number, raw, language in _RAW[block.file.format](block):
        text = _text(raw)
        cleaned = None if text is None else clean(text)
        if cleaned is None:
            if inputs.invalid_utf8 == "refuse":
                raise BadData(f"{block.place(number)}: invalid UTF-8; repair it, or use --invalid-utf8 drop")
            dropped[language, INVALID] += 1
            continue
        if cleaned.removed:
            dropped[language, CONTROL] += cleaned.removed
        if not cleaned.text.strip():
            dropped[language, EMPTY] += 1
            continue
        yield Document(cleaned.text, language, inputs.source)


def _text(raw: bytes | str | None) -> str | None:
    """`raw` as text, None where it is not valid; a null in a column is an empty document."""
    if raw is None or isinstance(raw, str):
        return raw or ""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


def _lines(block: Block) -> Iterator[_Raw]:
    language = block.file.language or UNKNOWN
    for index, line in enumerate(_split(block)):
        yield _Raw(index, line.removesuffix(b"\r"), language)


def _paragraphs(block: Block) -> Iterator[_Raw]:
    language = block.file.language or UNKNOWN
    lines: list[bytes] = []
    for index, line in enumerate([*_split(block), b""]):
        if line.strip(b" \t\r"):
            lines.append(line)
        elif lines:  # several blank lines part documents as one does
            paragraph = b"\n".join(lines)
            first = index - len(lines)
            _refuse_long(paragraph, block, first)
            yield _Raw(first, paragraph.removesuffix(b"\r"), language)
            lines = []


def _txt(block: Block) -> Iterator[_Raw]:
    return (_lines if block.file.inputs.documents == "lines" else _paragraphs)(block)


def _jsonl(block: Block) -> Iterator[_Raw]:
    inputs = block.file.inputs
    for index, line in enumerate(_split(block)):
        try:
            decoded = line.decode()
        except UnicodeDecodeError:
            yield _Raw(index, line, block.file.language or UNKNOWN)
            continue
        if not decoded.strip():
            continue
        row = _object(decoded, block, index)
        if inputs.text_column not in row:
            fields = ", ".join(map(repr, row)) or "none"
            raise BadData(
                f"{block.place(index)}: no field {inputs.text_column!r} (found {fields}); name it with --text-column"
            )
        text = row[inputs.text_column]
        if not isinstance(text, str | None):
            raise BadData(f"{block.place(index)}: field {inputs.text_column!r} holds {type(text).__name__}, not text")
        yield _Raw(index, text, block.file.language or _language(row.get(str(inputs.language_column)), block, index))


def _object(line: str, block: Block, index: int) -> dict[str, object]:
    try:
        row = _JSON.decode(line)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "too deep or too large a value"
        raise BadData(f"{block.place(index)}: malformed JSON ({reason}); every line must be one object") from None
    if not isinstance(row, dict):
        raise BadData(f"{block.place(index)}: expected a JSON object, found {type(row).__name__}")
    return row


def _rows(block: Block) -> Iterator[_Raw]:
    table = pa.ipc.open_stream(block.content).read_all()
    texts = table.column("text").to_pylist()
    codes = table.column("language").to_pylist() if block.file.language is None else None
    for index, text in enumerate(texts):
        _refuse_long(text or b"", block, index)
        language = str(block.file.language) if codes is None else _language(_text(codes[index]), block, index)
        yield _Raw(index, text, language)


def _language(value: object, block: Block, index: int) -> str:
    if not isinstance(value, str) or not value:
        found = "none" if value is None or value == "" else f"{value!r}"
        raise BadData(f"{block.place(index)}: no language in {block.file.inputs.language_column!r}, found {found}")
    return language_code(value, where=block.place(index))


def _split(block: Block) -> list[bytes]:
    """Lines without their ends; only a newline parts lines, as U+0085 and others may stand inside a document."""
    lines = block.content.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    for index, line in enumerate(lines):
        _refuse_long(line, block, index)
    return lines


def _refuse_long(content: bytes, block: Block, index: int) -> None:
    if len(content) > block.file.inputs.longest_document:
        raise too_long(block.place(index), block.file.inputs)


def too_long(place: str, inputs: Inputs) -> BadData:
    """The refusal of a document that would take more memory than allowed."""
    return BadData(
        f"{place}: a document of more than {inputs.longest_document} bytes; part it, or raise --longest-document"
    )


_RAW = {"txt": _txt, "jsonl": _jsonl, "parquet": _rows, "csv": _rows, "dataset": _rows}
