"""Labelled examples from files, all in memory: JSON lines, tables, and two texts side by side.

{"text": "They drank the pub dry.", "label": 1}          .jsonl: a record a line, keys as they are
sentence<TAB>label                                       .tsv: a header names the columns, nothing is quoted (GLUE)
gj04<TAB>1<TAB><TAB>They drank the pub dry.              without one, columns are named by number: "0", "1", ...
"They drank, and left.",1                                .csv: quoted where it must be (RFC 4180), a header as above
                                                         .parquet: a record a row; what is null, a record lacks

A line that is no record is an error by itself, told apart from its neighbours: who reads decides what to do about it.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as parquet

from megas2s.errors import BadData, BadRecord

Record = dict[str, Any]
Row = tuple[int, Record | BadRecord]  # its number, from 1
Cells = tuple[int, list[str] | BadRecord]  # no cells: a blank line

NOT_UTF8 = BadRecord("not UTF-8; repair or convert it", "not UTF-8")


class Held(NamedTuple):
    """What a file holds, and the SHA-256 of its bytes as they lie on the disk."""

    rows: list[Row]
    digest: str


def read_file(path: Path, *, header: bool = True) -> Held:
    """The rows of a file by the end of its name, `.gz` or not; raises BadData where it cannot be read at all."""
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind not in FORMATS or path.name.endswith(".parquet.gz"):
        raise BadData(
            f"{path} is neither .jsonl, .tsv nor .csv, with or without .gz, nor .parquet; name it by what it holds"
        )
    content, digest = _content(path)
    rows = list(FORMATS[kind](content, path, header))
    if not rows:
        raise BadData(f"{path} holds no example; give a file with some")
    return Held(rows, digest)


def read_pairs(source: Path, target: Path | None, *, names: tuple[str, str]) -> Held:
    """Line n of one text as the first of `names`, line n of the other, where there is one, as the second."""
    content, digest = _content(source)
    texts = _lines(content)
    if not texts:
        raise BadData(f"{source} holds no example; give a file with some")
    if target is None:
        return Held([(number, _checked({names[0]: text})) for number, text in enumerate(texts, 1)], digest)
    content, other = _content(target)
    written = _lines(content)
    if len(texts) != len(written):
        raise BadData(
            f"{source} has {len(texts):,} lines and {target} {len(written):,}; line n of the one belongs to line n of "
            "the other: repair or make them anew"
        )
    pairs = enumerate(zip(texts, written, strict=True), 1)
    rows = [(number, _checked(dict(zip(names, pair, strict=True)))) for number, pair in pairs]
    return Held(rows, hashlib.sha256(f"{digest} {other}".encode()).hexdigest())


def read_records(path: Path, *, header: bool = True) -> list[tuple[int, Record]]:
    """The records of a file by their number; raises BadData with file and line where one is none."""
    found = []
    for number, record in read_file(path, header=header).rows:
        if isinstance(record, BadRecord):
            raise BadData(f"{path}, {unit(path)} {number}: {record}")
        found.append((number, record))
    return found


def read_texts(path: Path) -> list[tuple[int, str]]:
    """The lines of a text by their number, blank ones too; raises BadData with file and line where one is not UTF-8."""
    found = []
    for number, record in read_pairs(path, None, names=("text", "text")).rows:
        if isinstance(record, BadRecord):
            raise BadData(f"{path}, line {number}: {record}")
        found.append((number, str(record["text"])))
    return found


def unit(path: Path) -> str:
    """What a file is counted in."""
    return "row" if path.suffix == ".parquet" else "line"


def of_table(table: pa.Table, name: str) -> Iterator[Record | BadRecord]:
    """The rows of an Arrow table; `name` says whose it is."""
    _refuse_twins(table.column_names, name)
    try:
        found = table.to_pylist()
    except UnicodeDecodeError:  # Arrow lets any bytes be text; one row says less than all, and is wrong by itself
        for place in range(table.num_rows):
            try:
                found = table.slice(place, 1).to_pylist()
            except UnicodeDecodeError:
                yield NOT_UTF8
            else:
                yield _without_nulls(found[0])
        return
    yield from map(_without_nulls, found)


def _without_nulls(row: Record) -> Record:
    return {name: value for name, value in row.items() if value is not None}


def _content(path: Path) -> tuple[bytes, str]:
    """What a file holds, unpacked, and the hash of what lies on the disk."""
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content, hashlib.sha256(content).hexdigest()
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadData(f"{path} cannot be read ({reason}); give a file of examples") from None


def _decoded(content: bytes) -> str:
    """As text, without the byte order mark that GLUE's MRPC begins with; bytes that are no UTF-8 stay recognisable."""
    return content.decode("utf-8-sig", "surrogateescape")


def _lines(content: bytes) -> list[str]:
    """Lines, parted at newlines and at nothing else: Unicode's line separators may be inside a text."""
    lines = [line.rstrip("\r") for line in _decoded(content).split("\n")]
    return lines[:-1] if not lines[-1] else lines


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _checked(record: dict[str, str]) -> Record | BadRecord:
    return record if all(map(_is_utf8, record.values())) else NOT_UTF8


def _json(content: bytes, path: Path, header: bool) -> Iterator[Row]:
    for number, line in enumerate(_lines(content), 1):
        if line.strip():
            yield number, _object(line)


def _object(line: str) -> Record | BadRecord:
    if not _is_utf8(line):
        return NOT_UTF8
    try:
        record = json.loads(line)
        json.dumps(record, ensure_ascii=False).encode()  # half of a character cannot be written again
    except UnicodeEncodeError:
        return BadRecord("half of a surrogate pair, which is no character; repair it", "half of a surrogate pair")
    except (ValueError, RecursionError):  # also a number with too many digits
        record = None
    if isinstance(record, dict):
        return record
    return BadRecord('not a JSON object; each line is one, like {"text": ...}', "not a JSON object")


def _tsv(content: bytes, path: Path, header: bool) -> Iterator[Row]:
    """GLUE's tables quote nothing: a quotation mark is text, and a line is a row."""
    lines = enumerate(_lines(content), 1)
    return _table(((number, line.split("\t") if line else []) for number, line in lines), path, header)


def _csv(content: bytes, path: Path, header: bool) -> Iterator[Row]:
    return _table(_quoted(_decoded(content)), path, header)


def _quoted(text: str) -> Iterator[Cells]:
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        number = reader.line_num + 1
        try:
            yield number, next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, BadRecord(f"not CSV ({error}); repair it", "not CSV")


def _table(rows: Iterable[Cells], path: Path, header: bool) -> Iterator[Row]:
    names: list[str] | None = None
    for number, row in rows:
        if not row:
            continue
        if isinstance(row, list) and not _is_utf8("".join(row)):
            row = NOT_UTF8
        if isinstance(row, BadRecord):
            if names is None:
                raise BadData(f"{path}, line {number}: {row}")
            yield number, row
            continue
        if names is None:
            names = row if header else [str(column) for column in range(len(row))]
            _refuse_twins(names, f"{path}, line {number}")
            if header:
                continue
        if len(row) == len(names):
            yield number, dict(zip(names, row, strict=True))
        else:
            said = f"{len(row)} columns, the first line has {len(names)}; repair it"
            yield number, BadRecord(said, "another number of columns than the first line")


def _refuse_twins(names: list[str], where: str) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadData(f"{where}: two columns are called {twice[0]!r}; rename one")


def _parquet(content: bytes, path: Path, header: bool) -> Iterator[Row]:
    try:
        table = parquet.ParquetFile(pa.BufferReader(content)).read()
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadData(f"{path} cannot be read ({reason}); give a file of examples") from None
    return enumerate(of_table(table, str(path)), 1)


Format = Callable[[bytes, Path, bool], Iterator[Row]]
FORMATS: dict[str, Format] = {"jsonl": _json, "tsv": _tsv, "csv": _csv, "parquet": _parquet}
