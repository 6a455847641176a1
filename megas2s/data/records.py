"""Labelled examples from files: JSON lines, or tables of tab-separated values as GLUE has them; all in memory.

{"text": "They drank the pub dry.", "label": 1}          a record a line, keys as they are
sentence<TAB>label                                       a header names the columns
gj04<TAB>1<TAB><TAB>They drank the pub dry.              without one, columns are named by number: "0", "1", ...
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from megas2s.errors import BadData

Record = dict[str, Any]
Format = Literal["jsonl", "tsv"]


def read_records(path: Path, *, header: bool = True) -> list[tuple[int, Record]]:
    """The records of a `.jsonl` or `.tsv` file, `.gz` or not, by line; raises BadData with file and line."""
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind not in ("jsonl", "tsv"):
        raise BadData(f"{path} is neither .jsonl nor .tsv, with or without .gz; name it by what it holds")
    lines = read_lines(path)
    records = list(_json(lines, path) if kind == "jsonl" else _table(lines, path, header=header))
    if not records:
        raise BadData(f"{path} holds no example; give a file with some")
    return records


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, `.gz` or not, the last one empty where the file ends as it should."""
    try:
        content = path.read_bytes()
        plain = gzip.decompress(content) if path.suffix == ".gz" else content
        text = plain.decode("utf-8-sig")  # GLUE's MRPC begins with a byte order mark
    except UnicodeDecodeError as error:
        raise BadData(f"{path} is not UTF-8 ({error.reason}); repair or convert it") from None
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadData(f"{path} cannot be read ({reason}); give a file of examples") from None
    return text.split("\n")  # and at nothing else: Unicode's line separators may be inside a text


def _json(lines: Sequence[str], path: Path) -> Iterator[tuple[int, Record]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            json.dumps(record, ensure_ascii=False).encode()  # half of a character cannot be written again
        except UnicodeEncodeError:
            raise BadData(
                f"{path}, line {number}: half of a surrogate pair, which is no character; repair it"
            ) from None
        except (ValueError, RecursionError):  # also a number with too many digits
            record = None
        if not isinstance(record, dict):
            raise BadData(f'{path}, line {number}: not a JSON object; each line is one, like {{"text": ...}}')
        yield number, record


def _table(lines: Sequence[str], path: Path, *, header: bool) -> Iterator[tuple[int, Record]]:
    """GLUE's tables quote nothing: a quotation mark is text, and a line is a row."""
    names: list[str] | None = None
    for number, line in enumerate(lines, 1):
        if not line.strip("\r"):
            continue
        row = line.rstrip("\r").split("\t")
        if names is None:
            names = row if header else [str(column) for column in range(len(row))]
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise BadData(f"{path}, line {number}: two columns are called {twice[0]!r}; rename one")
            if header:
                continue
        if len(row) != len(names):
            raise BadData(f"{path}, line {number}: {len(row)} columns, the first line has {len(names)}; repair it")
        yield number, dict(zip(names, row, strict=True))
