"""`.txt` and `.jsonl`, plain or compressed, as blocks of whole lines. Memory: one block, or one document if longer.

Not read through `datasets`: its JSON and text readers name no line when one is bad, and take a file's schema from its
first megabyte, so that a column first met later ends the run. A block is cut here and decoded by a worker.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

import zstandard

from megas2s.data.decode import Block, place, too_long
from megas2s.data.inputs import InputFile
from megas2s.data.pieces import Span
from megas2s.errors import BadData

_NEWLINE = b"\n"
_BOM = b"\xef\xbb\xbf"
_LAST_BLANK = re.compile(rb"\n[ \t\r]*\n")
_READ = 1 << 16  # compressed bytes taken at once: what they unpack to is held in memory
_SUSPICIOUS = 1000  # an archive that unpacks to more than this many times its size ...
_SUSPICIOUS_BYTES = 1 << 30  # ... and to more than this is taken for an attack


def read_lines(span: Span, *, size: int) -> Iterator[Block]:
    """Blocks of about `size` bytes, cut between documents; raises BadData naming file and line."""
    file = span.file
    paragraphs = file.format == "txt" and file.inputs.documents == "paragraphs"
    border = _last_blank if paragraphs else _last_newline
    line = 1
    held = b""
    scanned_for = size
    with _opened(file) as raw:
        stop = None if span.stop is None else _first_start(raw, span.stop, paragraphs)
        before = _first_start(raw, span.start, paragraphs)
        raw.seek(before)
        chunks = _UNPACK[file.compression](raw, size, file) if stop is None else _until(raw, stop, size)
        for chunk in chunks if before else _from_start(chunks):
            held += chunk
            if len(held) < scanned_for:
                continue
            cut = border(held)
            _refuse_long(held, cut, line, file, before)
            if cut:
                yield Block(file=file, first=line, before=before, content=held[:cut], position=raw.tell())
                line += held.count(_NEWLINE, 0, cut)
                held = held[cut:]
            scanned_for = max(size, 2 * len(held))  # a document longer than a block is not searched at every chunk
        _refuse_long(held, border(held), line, file, before)
        if held:
            yield Block(file=file, first=line, before=before, content=held, position=raw.tell())


def _first_start(raw: BinaryIO, position: int, paragraphs: bool) -> int:
    """Where the first document begins that begins at or after `position`; the file's end where none does."""
    if position == 0:
        return 0
    raw.seek(position - 1)
    _pass_line(raw)  # the newline in front of `position` itself, if a line begins there
    while paragraphs and not _pass_line(raw):
        pass
    return raw.tell()


def _pass_line(raw: BinaryIO) -> bool:
    """Go behind the next newline; says whether nothing but blanks came before it, or nothing at all."""
    blank = True
    while chunk := raw.read(_READ):
        found = chunk.find(_NEWLINE)
        blank = blank and not chunk[: found if found >= 0 else None].strip(b" \t\r")
        if found >= 0:
            raw.seek(found + 1 - len(chunk), 1)
            return blank
    return True


def _until(raw: BinaryIO, stop: int, size: int) -> Iterator[bytes]:
    while chunk := raw.read(min(size, stop - raw.tell())):
        yield chunk


def _last_newline(content: bytes) -> int:
    return content.rfind(b"\n") + 1


def _last_blank(content: bytes) -> int:
    """The end of the last blank line; most are empty, and those are found without a regular expression."""
    quick = max(content.rfind(b"\n\n") + 2, content.rfind(b"\n\r\n") + 3)
    if quick > 2:
        return quick
    return max((found.end() for found in _LAST_BLANK.finditer(content)), default=0)


def _refuse_long(held: bytes, cut: int, line: int, file: InputFile, before: int) -> None:
    """Refuse the unfinished document behind `cut` once it takes too much memory; decoding checks the finished ones."""
    if len(held) - cut > file.inputs.longest_document:
        raise too_long(place(file, before, line + held.count(_NEWLINE, 0, cut)), file.inputs)


def _from_start(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Without the byte order mark that some editors put first."""
    first = b""
    for chunk in chunks:
        first += chunk
        if len(first) >= len(_BOM):
            break
    yield first.removeprefix(_BOM)
    yield from chunks


def _opened(file: InputFile) -> BinaryIO:
    try:
        return open(file.name, "rb")
    except OSError as error:
        raise BadData(f"{file.name} cannot be read: {error.strerror}") from None


def _plain(raw: BinaryIO, size: int, file: InputFile) -> Iterator[bytes]:
    while chunk := raw.read(size):
        yield chunk


def _gzip(raw: BinaryIO, size: int, file: InputFile) -> Iterator[bytes]:
    unpacked = 0
    try:
        with gzip.open(raw) as stream:
            while chunk := stream.read(size):
                unpacked += len(chunk)
                _refuse_bomb(unpacked, raw.tell(), file)
                yield chunk
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadData(f"{file.name} is damaged or cut off: {error}; restore it from a copy") from None


def _zstd(raw: BinaryIO, size: int, file: InputFile) -> Iterator[bytes]:
    """Frame by frame: zstandard's own stream reader takes a file that is cut off for one that ends."""
    unpacked = 0
    frame = None
    try:
        while chunk := raw.read(_READ):
            while chunk:
                frame = frame or zstandard.ZstdDecompressor().decompressobj()
                content = frame.decompress(chunk)
                unpacked += len(content)
                _refuse_bomb(unpacked, raw.tell(), file)
                yield content
                chunk = frame.unused_data
                frame = None if frame.eof else frame
    except zstandard.ZstdError as error:
        raise BadData(f"{file.name} is damaged: {error}; restore it from a copy") from None
    if frame is not None:
        raise BadData(f"{file.name} is cut off inside a zstd frame; restore it from a copy")


def _refuse_bomb(unpacked: int, packed: int, file: InputFile) -> None:
    if unpacked > max(_SUSPICIOUS_BYTES, _SUSPICIOUS * packed):
        raise BadData(
            f"{file.name} unpacks to more than {_SUSPICIOUS} times its size; unpack it by hand if it is sound"
        )


_UNPACK: dict[str, Callable[[BinaryIO, int, InputFile], Iterator[bytes]]] = {"": _plain, "gz": _gzip, "zst": _zstd}
