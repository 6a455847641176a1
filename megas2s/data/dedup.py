"""Exact duplicates among any number of documents, by 128-bit hashes, in bounded memory.

Records are parted by their hash into buckets on disk, each small enough to be sorted in memory. Within a bucket the
document that came first stays and the others are marked, one bit a document, in a file. The result depends on the
documents' order of input and on nothing else.

A text that occurs a million times must not fill one bucket: only the first of each hash in a batch is sent on.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from megas2s.files import disk_trouble

BUCKET = 1 << 20  # records sorted at once, about 100 MB with the sort's own memory
BATCH = 1 << 18
MOST_BUCKETS = 4096
_KEY = np.dtype([("high", "<u8"), ("low", "<u8"), ("ordinal", "<u8")])


class Marks:
    """One bit a document, in a file: whether it is a duplicate of an earlier one."""

    def __init__(self, path: Path, documents: int) -> None:
        size = max(1, -(-documents // 8))
        with disk_trouble(path), open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)  # a map of a file with holes dies of SIGBUS on a full disk
        self._bits = np.memmap(path, np.uint8, "r+", shape=(size,))

    def set(self, ordinals: np.ndarray) -> None:
        """Mark these documents."""
        np.bitwise_or.at(self._bits, ordinals >> 3, np.uint8(1) << (ordinals & 7).astype(np.uint8))

    def __getitem__(self, ordinals: np.ndarray) -> np.ndarray:
        bits: np.ndarray = self._bits[ordinals >> 3] >> (ordinals & 7).astype(np.uint8) & 1
        return bits.astype(bool)


def mark_duplicates(records: Iterable[np.ndarray], *, documents: int, folder: Path) -> Marks:
    """Mark every document whose hash an earlier one has; `folder` takes the buckets and the marks."""
    folder.mkdir(parents=True, exist_ok=True)
    marks = Marks(folder / "duplicates", documents)
    buckets = min(MOST_BUCKETS, -(-documents // BUCKET))
    paths = [folder / f"bucket-{number:04d}" for number in range(buckets)]
    for path in paths:
        path.unlink(missing_ok=True)
    with disk_trouble(folder):
        for batch in _batches(records):
            keys = _first_of_each(batch, marks)
            number = (keys["high"] % np.uint64(max(1, buckets))).astype(np.int64)
            order = np.argsort(number, kind="stable")
            borders = np.searchsorted(number[order], np.arange(buckets + 1))
            for path, start, end in zip(paths, borders[:-1], borders[1:], strict=True):
                if start < end:
                    with open(path, "ab") as file:
                        file.write(keys[order[start:end]].data)
    for path in paths:
        if path.exists():
            _first_of_each(np.fromfile(path, _KEY), marks)
            path.unlink()
    return marks


def _batches(records: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Keys of the records, many small arrays joined to few of about BATCH."""
    held: list[np.ndarray] = []
    for part in records:
        keys = np.empty(len(part), _KEY)
        for name in ("high", "low", "ordinal"):
            keys[name] = part[name]
        held.append(keys)
        if sum(map(len, held)) >= BATCH:
            yield np.concatenate(held)
            held = []
    if held:
        yield np.concatenate(held)


def _first_of_each(keys: np.ndarray, marks: Marks) -> np.ndarray:
    """The earliest record of each hash; the others are marked."""
    ordered = keys[np.lexsort((keys["ordinal"], keys["low"], keys["high"]))]
    again = np.zeros(len(ordered), bool)
    again[1:] = (ordered["high"][1:] == ordered["high"][:-1]) & (ordered["low"][1:] == ordered["low"][:-1])
    marks.set(ordered["ordinal"][again].astype(np.int64))
    return ordered[~again]
