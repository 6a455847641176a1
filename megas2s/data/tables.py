"""Parquet, CSV and Hugging Face datasets as blocks of rows, through `datasets` in streaming mode.

`datasets` runs no code that comes with the data (since version 4), and only the columns that are needed are read. Text
travels as Arrow binary, so that invalid UTF-8 is met by the same rule as in a text file, and not by an exception.
"""

from __future__ import annotations

import csv
import glob
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.compute as compute
import pyarrow.parquet as parquet

from megas2s.data.decode import Block
from megas2s.data.inputs import InputFile, Inputs
from megas2s.errors import BadData

ROWS = 64  # read at once: rows times the longest document bounds the memory

datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # its errors come back as ours, with file and reason


def count_shards(inputs: Inputs) -> int:
    """How many shards a dataset has: each is a work unit of its own."""
    try:
        return int(_dataset(inputs).num_shards)
    except Exception as error:
        raise _unreadable(f"dataset {inputs.dataset}", error) from error


def dataset_tables(name: str, config: str | None, split: str, revision: str | None) -> Iterator[pa.Table]:
    """All rows and columns of one split of a dataset, a table at a time, in order; raises BadData.

    A folder is read where it lies. What the hub has goes through its cache, so that later runs need no network.
    """
    try:
        found = datasets.load_dataset(name, config, split=split, revision=revision, streaming=Path(name).is_dir())
        for read in found.with_format("arrow").iter(batch_size=1000):
            yield read if isinstance(read, pa.Table) else pa.Table.from_batches([read])
    except Exception as error:
        raise _unreadable(f"dataset {name}", error) from error


def read_tables(file: InputFile, *, size: int) -> Iterator[Block]:
    """Blocks of about `size` bytes of text; raises BadData naming the file and what is wrong with it."""
    inputs = file.inputs
    columns = {"text": inputs.text_column}
    if file.language is None:
        columns["language"] = str(inputs.language_column)
    held: list[pa.Table] = []
    first, rows, position = 1, 0, 0.0
    for table, taken in _tables(file, list(columns.values())):
        held.append(_plain(table, columns, file))
        rows += table.num_rows
        position = min(position + taken, file.bytes)
        if sum(part.nbytes for part in held) >= size:
            yield _block(held, first, file, int(position))
            first, held = rows + 1, []
    if held:
        yield _block(held, first, file, int(position))


def _tables(file: InputFile, columns: list[str]) -> Iterator[tuple[pa.Table, float]]:
    """Rows as they are read, and about how many bytes of the file they take, which `datasets` does not tell."""
    try:
        stream = _OPEN[file.format](file, columns)
        bytes_of = _BYTES[file.format](file)
        for read in stream.with_format("arrow").iter(batch_size=ROWS):
            table = read if isinstance(read, pa.Table) else pa.Table.from_batches([read])
            yield table, bytes_of(table)
    except BadData:
        raise
    except Exception as error:  # pyarrow, pandas, fsspec and the hub's client each have their own
        raise _unreadable(file.name, error) from error


def _parquet(file: InputFile, columns: list[str]) -> datasets.IterableDataset:
    _require(parquet.read_schema(file.name).names, columns, file)
    return datasets.load_dataset(
        "parquet",
        data_files=_exactly(file.name),
        split="train",
        streaming=True,
        columns=list(dict.fromkeys(columns)),
        batch_size=ROWS,
    )


def _csv(file: InputFile, columns: list[str]) -> datasets.IterableDataset:
    """Every column as text: a document `007`, `NA` or `null` stays what it is.

    Read as Latin-1, which gives each byte a character and back: pandas would stop at invalid UTF-8 without a row.
    """
    csv.field_size_limit(file.inputs.longest_document)
    with open(file.name, encoding="latin-1", newline="") as stream:
        rows = csv.reader(stream)
        header = next(rows, [])
        first = next(rows, header)
    if len(first) > len(header):  # pandas would take the first column for an index and shift the others
        raise BadData(f"{file.name} cannot be read: row 1 has {len(first)} fields, its header {len(header)}")
    names = [name.encode("latin-1").decode("utf-8-sig", "replace") for name in header]
    _require(names, columns, file)
    return datasets.load_dataset(
        "csv",
        data_files=_exactly(file.name),
        split="train",
        streaming=True,
        features=datasets.Features({name: datasets.Value("string") for name in names}),
        names=names,
        header=0,
        na_filter=False,
        keep_default_na=False,
        chunksize=ROWS,
        encoding="latin-1",
    )


def _hub(file: InputFile, columns: list[str]) -> datasets.IterableDataset:
    stream = _dataset(file.inputs)
    if stream.column_names is not None:
        _require(stream.column_names, columns, file)
    return stream.shard(num_shards=stream.num_shards, index=file.shard)


def _parquet_bytes(file: InputFile) -> Callable[[pa.Table], float]:
    """Rows count alike: a file knows how many it has."""
    each = file.bytes / max(1, parquet.read_metadata(file.name).num_rows)
    return lambda table: each * table.num_rows


def _csv_bytes(file: InputFile) -> Callable[[pa.Table], float]:
    """A character of Latin-1 is a byte, and each field is followed by one; quotes are not counted."""
    return lambda table: (
        sum(compute.sum(compute.utf8_length(column)).as_py() or 0 for column in table.columns)
        + (table.num_rows * table.num_columns)
    )


def _hub_bytes(file: InputFile) -> Callable[[pa.Table], float]:
    return lambda table: 0.0


def _dataset(inputs: Inputs) -> datasets.IterableDataset:
    return datasets.load_dataset(
        inputs.dataset,
        inputs.dataset_config,
        split=inputs.dataset_split,
        revision=inputs.dataset_revision,
        streaming=True,
    )


def _plain(table: pa.Table, columns: dict[str, str], file: InputFile) -> pa.Table:
    """The needed columns under our names, as binary."""
    _require(table.column_names, list(columns.values()), file)
    chosen = {}
    for name, column in columns.items():
        values = table.column(column)
        if not any(test(values.type) for test in _TEXTUAL):
            raise BadData(f"{file.name}: column {column!r} holds {values.type}, not text; name another")
        if file.format == "csv":
            encoded = [None if value is None else value.encode("latin-1") for value in values.to_pylist()]
            chosen[name] = pa.array(encoded, pa.large_binary())
        else:
            chosen[name] = values.cast(pa.large_binary())
    return pa.table(chosen)


def _block(parts: list[pa.Table], first: int, file: InputFile, position: int) -> Block:
    table = pa.concat_tables(parts).combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return Block(file=file, first=first, content=sink.getvalue().to_pybytes(), position=position)


def _require(found: list[str], columns: list[str], file: InputFile) -> None:
    for column in columns:
        if column not in found:
            raise BadData(f"{file.name}: no column {column!r} (found {', '.join(map(repr, found)) or 'none'})")


def _exactly(name: str) -> str:
    """A pattern that matches this file only; `datasets` takes every name for a pattern."""
    return glob.escape(str(Path(name).absolute()))


def _unreadable(name: str, error: Exception) -> BadData:
    reason = " ".join(str(error).split()) or type(error).__name__
    return BadData(f"{name} cannot be read: {reason[:300]}")


_OPEN = {"parquet": _parquet, "csv": _csv, "dataset": _hub}
_BYTES = {"parquet": _parquet_bytes, "csv": _csv_bytes, "dataset": _hub_bytes}
_TEXTUAL = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_null,
)
