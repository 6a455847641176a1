"""A shard: the token ids of many documents of one language in one Arrow IPC file, read as one flat memory map.

    column  tokens   large_list<uint16 | uint32>, one row a document, each row ending in the separator

A shard is ONE record batch, uncompressed, so the ids of all its documents lie in one buffer and `Shard.tokens` is
one NumPy view on the page cache, whatever the shard's size. The batch is bounded by the caller (SHARD_TOKENS,
SHARD_DOCUMENTS) but never held in memory: `write_shard` lets pyarrow lay out the file around a buffer of zeros, which
costs no memory, and then streams the ids into their place. The file is an ordinary Arrow file for everyone else.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from megas2s.errors import BadData
from megas2s.files import TEMPORARY, disk_trouble, hash_file, make_folder, sync_folder

FORMAT = "megas2s-shard-1"
COLUMN = "tokens"
SHARD_TOKENS = 1 << 26  # 128 MB of uint16
SHARD_DOCUMENTS = 1 << 20  # 8 MB of offsets, the only part of a shard that is held in memory while it is written
TYPES = {np.dtype(np.uint16): pa.uint16(), np.dtype(np.uint32): pa.uint32()}
_EXTENSION = b"ARROW:extension:name"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """What `corpus.json` says of one shard."""

    path: Path
    language: str
    source: str
    documents: int
    tokens: int
    bytes: int
    sha256: str
    fingerprint: str  # of the tokenizer that made the ids


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardMeta:
    """What a shard's Arrow schema says of itself."""

    language: str
    source: str
    fingerprint: str
    separator: int


class Shard(NamedTuple):
    """An open shard. Both arrays are read-only views on a memory map that holds no file descriptor."""

    entry: ShardEntry
    tokens: np.ndarray  # uint16 or uint32 (tokens,)
    document_offsets: np.ndarray  # int64 (documents + 1,): document d is tokens[offsets[d]:offsets[d + 1]]
    separator: int  # the id that ends every document

    @classmethod
    def open(cls, entry: ShardEntry) -> Shard:
        """Map a shard after checking its size, layout, language and tokenizer; raises BadData naming the file."""
        check_size(entry)
        try:
            with pa.memory_map(str(entry.path)) as file:
                whole = file.read_buffer()
                reader = pa.ipc.open_file(pa.BufferReader(whole))
                meta = _meta(reader.schema, entry.path)
                _require(reader.num_record_batches == 1, entry, f"it has {reader.num_record_batches} record batches")
                batch = reader.get_batch(0)
                _require(batch.num_rows == entry.documents, entry, f"it has {batch.num_rows} documents")
                rows = batch.column(0)
                dtype = np.dtype(rows.type.value_type.to_pandas_dtype())
                _, offsets, _, values = rows.buffers()
                places = [
                    _place(offsets, whole, 8 * (entry.documents + 1), entry),
                    _place(values, whole, dtype.itemsize * entry.tokens, entry),
                ]
                del rows, batch, reader, offsets, values
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:  # what damaged metadata can turn into
            raise _altered(entry, f"Arrow cannot read it ({' '.join(str(error).split())})") from None
        _require(meta.language == entry.language, entry, f"its language is {meta.language!r}")
        if meta.fingerprint != entry.fingerprint:
            raise BadData(
                f"{entry.path} was written with tokenizer {meta.fingerprint}, its corpus.json names tokenizer "
                f"{entry.fingerprint}; preprocess the text again with one tokenizer"
            )
        document_offsets = _view(whole, np.dtype(np.int64), places[0], entry.documents + 1)
        first, last = int(document_offsets[0]), int(document_offsets[-1])
        _require((first, last) == (0, entry.tokens), entry, f"its documents span tokens {first} to {last}")
        return cls(entry, _view(whole, dtype, places[1], entry.tokens), document_offsets, meta.separator)


def write_shard(
    path: Path,
    lengths: np.ndarray,
    pieces: Iterable[np.ndarray],
    *,
    dtype: np.dtype[np.unsignedinteger],
    meta: ShardMeta,
) -> ShardEntry:
    """Write one shard, whole or not at all: `lengths` are the documents' token counts, `pieces` their ids in order.

    A piece may hold any run of ids, cut anywhere; memory used is that of the lengths and of one piece.
    """
    if len(lengths) == 0 or lengths.min() < 1:
        raise ValueError("a shard holds at least one document, and every document at least its separator")
    beside = path.with_name(f"{TEMPORARY}{path.name}")
    with disk_trouble(path):
        make_folder(path.parent)
        start = _lay_out(beside, lengths, dtype, meta)
        with open(beside, "r+b") as file:
            file.seek(start)
            written = 0
            for piece in pieces:
                written += len(piece)
                file.write(np.ascontiguousarray(piece, dtype).data)
            if written != int(lengths.sum()):
                raise ValueError(f"{path}: {written} ids for documents of {int(lengths.sum())}")
            file.flush()
            os.fsync(file.fileno())
        entry = entry_of(beside, len(lengths), written, meta)
        os.replace(beside, path)
        sync_folder(path.parent)
    return dataclasses.replace(entry, path=path)


def entry_of(path: Path, documents: int, tokens: int, meta: ShardMeta) -> ShardEntry:
    """The entry of a shard that is already on disk; reads it once to hash it."""
    return ShardEntry(
        path=path,
        language=meta.language,
        source=meta.source,
        documents=documents,
        tokens=tokens,
        bytes=path.stat().st_size,
        sha256=hash_file(path),
        fingerprint=meta.fingerprint,
    )


def check_size(entry: ShardEntry) -> os.stat_result:
    """What the file system says of a shard; raises BadData where the file is not as long as it was written."""
    try:
        found = entry.path.stat()
    except FileNotFoundError:
        raise BadData(f"{entry.path} is missing; restore it from a copy or preprocess again") from None
    _require(found.st_size == entry.bytes, entry, f"it has {found.st_size} bytes")
    return found


def verify_shard(entry: ShardEntry) -> None:
    """Check every byte of a shard: its SHA-256, its offsets, and that each document ends in the separator."""
    shard = Shard.open(entry)
    if hash_file(entry.path) != entry.sha256:
        raise _altered(entry, "its SHA-256 is another")
    _require(bool((np.diff(shard.document_offsets) > 0).all()), entry, "its document offsets do not rise")
    ends = shard.tokens[shard.document_offsets[1:] - 1]
    _require(bool((ends == shard.separator).all()), entry, "not every document ends in the separator")


def _lay_out(path: Path, lengths: np.ndarray, dtype: np.dtype[np.unsignedinteger], meta: ShardMeta) -> int:
    """Write the Arrow file with zeros for ids; returns the position of the first id."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    count = int(offsets[-1])
    # Untouched zeros: pyarrow reads the kernel's one zero page, so a shard of any size costs no resident memory.
    values = pa.Array.from_buffers(TYPES[dtype], count, [None, pa.py_buffer(np.zeros(count, dtype))], null_count=0)
    rows = pa.LargeListArray.from_arrays(pa.array(offsets), values)
    facts = {"format": FORMAT, **{key: str(value) for key, value in dataclasses.asdict(meta).items()}}
    field = pa.field(COLUMN, pa.large_list(pa.field("item", TYPES[dtype], nullable=False)), nullable=False)
    schema = pa.schema([field], metadata=facts)
    with open(path, "wb") as file, pa.ipc.new_file(file, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays([rows.cast(field.type)], schema=schema))
    with pa.memory_map(str(path)) as source:
        whole = source.read_buffer()
        placed = pa.ipc.open_file(pa.BufferReader(whole)).get_batch(0).column(0).buffers()[3]
        return int(placed.address - whole.address)


def _meta(schema: pa.Schema, path: Path) -> ShardMeta:
    """The facts in a schema, after refusing any column that is not ours (extension types run foreign code)."""
    facts = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    if facts.get("format") != FORMAT:
        raise BadData(f"{path} has format {facts.get('format')!r}, this version reads {FORMAT!r}; preprocess again")
    known = [pa.large_list(pa.field("item", kind, nullable=False)) for kind in TYPES.values()]
    plain = len(schema) == 1 and schema[0].name == COLUMN and schema[0].type in known
    if not plain or _EXTENSION in (schema[0].metadata or {}):
        raise BadData(f"{path} is not a shard: its columns are {schema.names} of {schema.types}; preprocess again")
    return ShardMeta(
        language=facts["language"],
        source=facts["source"],
        fingerprint=facts["fingerprint"],
        separator=int(facts["separator"]),
    )


def _place(part: pa.Buffer, whole: pa.Buffer, size: int, entry: ShardEntry) -> int:
    """Where in the file a buffer of `size` bytes lies; a compressed one would lie elsewhere in memory."""
    start = int(part.address - whole.address)
    _require(start >= 0 and start + part.size <= whole.size, entry, "its buffers are compressed")
    _require(part.size >= size, entry, f"a buffer has {part.size} bytes instead of {size}")
    return start


def _view(whole: pa.Buffer, dtype: np.dtype[np.generic], start: int, count: int) -> np.ndarray:
    """Numbers in the mapped file, which stays mapped as long as they are held, and holds no file descriptor."""
    return np.frombuffer(whole, dtype, count, start)


def _require(holds: bool, entry: ShardEntry, found: str) -> None:
    if not holds:
        raise _altered(entry, found)


def _altered(entry: ShardEntry, found: str) -> BadData:
    expected = f"{entry.bytes} bytes, {entry.documents} documents and {entry.tokens} tokens of {entry.language!r}"
    return BadData(
        f"{entry.path} is truncated or altered: {found}, corpus.json says {expected}; "
        "restore it from a copy or preprocess again"
    )
