"""A shard is one Arrow file, one flat view, and is believed only when all of it agrees with its entry."""

from __future__ import annotations

import dataclasses
import os
import resource
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megas2s.data import shards
from megas2s.data.shards import Shard, ShardMeta, verify_shard, write_shard
from megas2s.errors import BadData

META = ShardMeta(language="en", source="text", fingerprint="abc", separator=5)
DOCUMENTS = [[7, 8, 5], [5], [900, 5]]
WIDE = np.dtype(np.uint32)
NARROW = np.dtype(np.uint16)


def write(path, documents=DOCUMENTS, *, dtype=NARROW, meta=META):
    return write_shard(
        path, np.array([len(d) for d in documents]), (np.array(d) for d in documents), dtype=dtype, meta=meta
    )


@pytest.fixture
def entry(tmp_path):
    return write(tmp_path / "en" / "text-00000.arrow")


@settings(max_examples=30, deadline=None)
@given(
    documents=st.lists(st.lists(st.integers(0, 65535), max_size=9).map(lambda ids: [*ids, 5]), min_size=1),
    wide=st.booleans(),
)
def test_what_is_written_is_read(documents, wide, tmp_path_factory):
    entry = write(tmp_path_factory.mktemp("shard") / "a.arrow", documents, dtype=WIDE if wide else NARROW)
    shard = Shard.open(entry)
    assert shard.tokens.tolist() == [token for document in documents for token in document]
    assert shard.document_offsets.tolist() == np.cumsum([0, *map(len, documents)]).tolist()
    assert shard.tokens.dtype == (WIDE if wide else NARROW)
    verify_shard(entry)


def test_pieces_may_be_cut_anywhere(tmp_path, entry):
    flat = np.array([token for document in DOCUMENTS for token in document])
    other = write_shard(tmp_path / "b.arrow", np.array([3, 1, 2]), (flat[:1], flat[1:]), dtype=NARROW, meta=META)
    assert other.sha256 == entry.sha256


def test_the_ids_are_a_read_only_view_of_the_file(entry):
    tokens = Shard.open(entry).tokens
    assert not tokens.flags.writeable
    assert not tokens.flags.owndata


def test_others_read_a_shard_as_an_ordinary_arrow_file(entry):
    table = pa.ipc.open_file(entry.path).read_all()
    assert table.column("tokens").to_pylist() == DOCUMENTS
    assert table.schema.field("tokens").type.value_type == pa.uint16()
    assert table.schema.metadata[b"language"] == b"en"
    table.validate(full=True)


def test_hugging_face_datasets_reads_a_shard(entry):
    import datasets

    rows = datasets.load_dataset("arrow", data_files=str(entry.path), split="train", streaming=True)
    assert [row["tokens"] for row in rows] == DOCUMENTS


def test_a_truncated_shard_is_refused_by_name(entry):
    entry.path.write_bytes(entry.path.read_bytes()[:-40])
    with pytest.raises(BadData, match=r"text-00000\.arrow is truncated or altered"):
        Shard.open(entry)


def test_a_missing_shard_is_refused_by_name(entry):
    entry.path.unlink()
    with pytest.raises(BadData, match=r"text-00000\.arrow is missing"):
        Shard.open(entry)


def test_no_altered_byte_passes_verification_and_none_crashes_the_reader(entry):
    content = entry.path.read_bytes()
    for place in range(0, len(content), 3):
        entry.path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        with pytest.raises(BadData, match=r"truncated or altered|format|not a shard|tokenizer"):
            verify_shard(entry)
    entry.path.write_bytes(content)
    verify_shard(entry)


def test_another_tokenizer_is_refused(entry):
    with pytest.raises(BadData, match=r"written with tokenizer abc, its corpus\.json names tokenizer def"):
        Shard.open(dataclasses.replace(entry, fingerprint="def"))


def test_another_language_is_refused(entry):
    with pytest.raises(BadData, match="its language is 'en'"):
        Shard.open(dataclasses.replace(entry, language="de"))


@pytest.mark.parametrize("kind", [pa.list_(pa.uint16()), pa.large_list(pa.int64()), pa.large_list(pa.float32())])
def test_columns_that_are_not_ours_are_refused(tmp_path, kind):
    path = tmp_path / "a.arrow"
    schema = pa.schema([pa.field("tokens", kind)], metadata={"format": shards.FORMAT, "language": "en"})
    with pa.ipc.new_file(str(path), schema) as writer:
        writer.write_table(pa.table({"tokens": [[1, 5]]}, schema=schema))
    with pytest.raises(BadData, match="is not a shard"):
        Shard.open(shards.entry_of(path, 1, 2, META))


def test_extension_types_are_refused(tmp_path):
    path = tmp_path / "a.arrow"
    item = pa.field("item", pa.uint16(), nullable=False)
    field = pa.field("tokens", pa.large_list(item), nullable=False, metadata={"ARROW:extension:name": "evil.type"})
    schema = pa.schema([field], metadata={"format": shards.FORMAT})
    with pa.ipc.new_file(str(path), schema) as writer:
        writer.write_table(pa.table({"tokens": [[1, 5]]}, schema=schema))
    with pytest.raises(BadData, match="is not a shard"):
        Shard.open(shards.entry_of(path, 1, 2, META))


def test_a_compressed_arrow_file_is_refused(tmp_path, entry):
    table = pa.ipc.open_file(entry.path).read_all()
    path = tmp_path / "compressed.arrow"
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(str(path), table.schema, options=options) as writer:
        writer.write_table(pa.concat_tables([table] * 500).combine_chunks())
    with pytest.raises(BadData, match="compressed"):
        Shard.open(shards.entry_of(path, 1500, 3000, META))


def test_a_wrong_count_of_ids_leaves_no_shard(tmp_path):
    with pytest.raises(ValueError, match="2 ids for documents of 3"):
        write_shard(tmp_path / "a.arrow", np.array([3]), [np.array([1, 5])], dtype=NARROW, meta=META)
    assert not (tmp_path / "a.arrow").exists()


def test_writing_a_shard_takes_no_memory_of_its_size(tmp_path):
    program = """
import resource, sys, numpy as np
from pathlib import Path
from megas2s.data.shards import ShardMeta, write_shard
meta = ShardMeta(language="en", source="text", fingerprint="abc", separator=5)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
piece = np.full(1000, 5, np.uint16)
def write(documents):
    lengths = np.full(documents, 1000)
    write_shard(Path(sys.argv[1]), lengths, (piece for _ in lengths), dtype=np.dtype(np.uint16), meta=meta)
write(10)
before = peak()
write(32_000)
print(peak() - before)
"""
    result = subprocess.run([sys.executable, "-c", program, tmp_path / "a.arrow"], capture_output=True, text=True)
    assert int(result.stdout) < 20, result.stderr  # MB, for a shard of 64


def test_shards_beyond_the_limit_of_open_files_can_be_read(tmp_path):
    entries = [write(tmp_path / "en" / f"text-{number:05d}.arrow") for number in range(200)]
    opened = len(os.listdir("/proc/self/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 50, hard))
    try:
        shards = [Shard.open(entry) for entry in entries]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert all(shard.tokens.tolist() == [7, 8, 5, 5, 900, 5] for shard in shards)
