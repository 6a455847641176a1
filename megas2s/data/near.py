"""Near-duplicates among any number of documents: MinHash signatures, bands, every pair checked (the extra `near`).

Signatures (`signatures.py`) are cut into bands; documents with an equal band (a hash of it, sorted bucket by bucket on
the disk) are compared with the first and with the one before among them. All but the first of each family of documents
that are alike are marked.

Memory: one bucket, at most about 100 MB, and some 50 bytes for each pair found alike; none for a document that is like
no other. `tools/bench.py near` measures it: 45 MB for two million documents, of which a hundred thousand are alike. A
band that very many documents have is one bucket all the same: boilerplate that a hundred million share takes 16 bytes
for each of them, and several times that while it is sorted.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from megas2s.data.dedup import BUCKET, MOST_BUCKETS, Marks
from megas2s.data.parts import Parts
from megas2s.data.signatures import NUMBERS, library
from megas2s.files import disk_trouble

_ENTRY = np.dtype([("band", "<u8"), ("row", "<u8")])


def bands(likeness: float) -> tuple[int, int]:
    """How many bands, and of how many numbers, so that pairs as alike as that are found and few others looked at."""
    # A pair looked at in vain costs a comparison, one that is missed stays in the corpus: the latter weighs more.
    index = library().MinHashLSH(threshold=likeness, num_perm=NUMBERS, weights=(0.1, 0.9))
    return int(index.b), int(index.r)


def mark_near(parts: Parts, *, likeness: float, gone: Marks | None, folder: Path) -> Marks:
    """Mark every document that is like an earlier one, or like one that is; those in `gone` are not looked at.

    Earlier is: of a split, language and source that sorts before, or before it in the input.
    """
    folder.mkdir(parents=True, exist_ok=True)
    marks = Marks(folder / "alike", parts.documents)
    signatures = parts.signatures()
    number, size = bands(likeness)
    pairs = [np.empty((0, 2), np.int64)]
    for band in range(number):
        columns = slice(band * size, (band + 1) * size)
        for bucket in _buckets(parts, columns, gone, folder):
            found = _candidates(bucket)
            alike = signatures.alike(found[:, 0], found[:, 1]) >= likeness
            pairs.append(found[alike])
        pairs = [np.unique(np.concatenate(pairs), axis=0)]
    marks.set(signatures.ordinals(_later(pairs[0])))
    return marks


def _buckets(parts: Parts, columns: slice, gone: Marks | None, folder: Path) -> Iterator[np.ndarray]:
    """A band of every document that is left, as entries of a hash and a row; equal hashes in one bucket."""
    buckets = max(1, min(MOST_BUCKETS, -(-parts.documents // BUCKET)))
    paths = [folder / f"band-{number:04d}" for number in range(buckets)]
    for path in paths:
        path.unlink(missing_ok=True)
    with disk_trouble(folder):
        for first, ordinals, signatures in parts.signed():
            entries = np.empty(len(ordinals), _ENTRY)
            entries["band"] = _hash(signatures[:, columns])
            entries["row"] = np.arange(first, first + len(ordinals))
            if gone is not None:
                entries = entries[~gone[ordinals.astype(np.int64)]]
            number = entries["band"] % np.uint64(buckets)
            for bucket in np.unique(number):
                with open(paths[int(bucket)], "ab") as file:
                    file.write(entries[number == bucket].tobytes())
    for path in paths:
        if path.exists():
            yield np.fromfile(path, _ENTRY)
            path.unlink()


def _hash(numbers: np.ndarray) -> np.ndarray:
    """(documents, n) of uint32 to (documents,) of uint64."""
    found = np.zeros(len(numbers), np.uint64)
    for column in numbers.T.astype(np.uint64):
        found = (found ^ column) * np.uint64(0x9E3779B97F4A7C15)
        found ^= found >> np.uint64(29)
    return found


def _candidates(entries: np.ndarray) -> np.ndarray:
    """Rows (pairs, 2) of an equal band: each with the first that has it, and with the one before; the earlier first."""
    ordered = entries[np.lexsort((entries["row"], entries["band"]))]
    rows = ordered["row"].astype(np.int64)
    new = np.ones(len(ordered), bool)
    new[1:] = ordered["band"][1:] != ordered["band"][:-1]
    firsts = rows[new][np.cumsum(new) - 1]
    again = np.flatnonzero(~new)
    pairs = np.concatenate([np.stack([firsts[again], rows[again]], 1), np.stack([rows[again - 1], rows[again]], 1)])
    found: np.ndarray = np.unique(pairs, axis=0)
    return found


def _later(pairs: np.ndarray) -> np.ndarray:
    """All rows but the first of each family; pairs (n, 2) link what belongs to one."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows, places = np.unique(pairs, return_inverse=True)
    if not len(rows):
        return rows
    links = places.reshape(-1, 2)
    graph = coo_array((np.ones(len(links), np.int8), (links[:, 0], links[:, 1])), shape=(len(rows), len(rows)))
    families = connected_components(graph, directed=False)[1]
    first = np.zeros(len(rows), bool)
    first[np.unique(families, return_index=True)[1]] = True  # rows are sorted, so the index is of the smallest
    later: np.ndarray = rows[~first]
    return later
