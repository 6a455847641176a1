"""Where tokenised documents wait until all input is read: for each piece of input, a part.

    .staging/parts/<name>.docs    one RECORD a document, group after group
    .staging/parts/<name>.ids     token ids, flat, in the same order
    .staging/parts/<name>.signs   a signature each, in the same order, where near-duplicates are looked for
    .staging/parts/<name>.json    how many of which group; written last, so a part without it does not count

A part's name is that of its piece. Processes on any number of hosts write parts without knowing of each other; a run
that was interrupted finds the parts that are there. `Parts` reads them in the order of the input, group by group.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from megas2s import files
from megas2s.data.signatures import NUMBERS
from megas2s.data.tokenise import RECORD, Tokenised
from megas2s.errors import BadData

FOLDER = "parts"
SUFFIXES = (".docs", ".ids", ".signs")
HELD = 1 << 24  # bytes of a part in memory, at most about
READ_DOCUMENTS = 1 << 16
READ_SIGNATURES = 1 << 14  # pairs compared at once, 16 MB
READ_IDS = 1 << 20


class Group(NamedTuple):
    """What becomes one row of shards."""

    split: str
    language: str
    source: str


class Extent(NamedTuple):
    """The documents of one group in one part, and the ordinal of the part's first document."""

    part: str
    first_document: int
    documents: int
    first_id: int
    ids: int
    ordinal: int


def is_written(staging: Path, name: str) -> bool:
    """Whether a part is there, whole."""
    return (staging / FOLDER / f"{name}.json").is_file()


def write_part(staging: Path, name: str, results: Iterable[tuple[str, str, Tokenised]]) -> tuple[int, int]:
    """Write what the blocks of a piece have become, each with its split and source; gives documents and bytes of text.

    At most some HELD bytes of it are in memory, however long the piece is.
    """
    dropped: Counter[tuple[str, str]] = Counter()
    documents = text_bytes = 0
    path = staging / FOLDER / name
    with _Gathered(path) as gathered:
        for split, source, result in results:
            for language, found in result.records.items():
                found["ordinal"] += np.uint64(documents)
                group = Group(split, language, source)
                gathered.take(group, ".docs", found)
                gathered.take(group, ".ids", result.tokens[language])
                if language in result.signatures:
                    gathered.take(group, ".signs", result.signatures[language])
            documents += result.documents
            text_bytes += result.text_bytes
            dropped += result.dropped
        with files.disk_trouble(path):
            for suffix in SUFFIXES:
                gathered.write(suffix)
            files.sync_folder(path.parent)
    groups = [[*group, gathered.count(group, ".docs"), gathered.count(group, ".ids")] for group in gathered.groups()]
    facts = {"documents": documents, "groups": groups, "dropped": [[*key, n] for key, n in sorted(dropped.items())]}
    files.write_json(path.with_name(f"{name}.json"), facts)
    return documents, text_bytes


class _Gathered:
    """What a part will hold, by group and suffix: in memory and, as soon as that is much, in files of a folder beside.

    A piece that cannot be cut, a compressed file or a shard of a dataset, may be of any size.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._spilled = path.with_name(f"{files.TEMPORARY}{path.name}")
        self._held: dict[tuple[Group, str], list[np.ndarray]] = {}
        self._bytes = 0
        self._counts: Counter[tuple[Group, str]] = Counter()
        self._numbers: dict[tuple[Group, str], int] = {}  # under which numbers they lie in the folder

    def __enter__(self) -> _Gathered:
        shutil.rmtree(self._spilled, ignore_errors=True)  # of a run that was killed
        return self

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self._spilled, ignore_errors=True)

    def take(self, group: Group, suffix: str, array: np.ndarray) -> None:
        """Add to what a group has."""
        self._held.setdefault((group, suffix), []).append(array)
        self._counts[group, suffix] += len(array)
        self._bytes += array.nbytes
        if self._bytes > HELD:
            with files.disk_trouble(self._path):
                self._spill()

    def groups(self) -> list[Group]:
        """All groups, in the order in which they are written."""
        return sorted({group for group, _ in self._counts})

    def count(self, group: Group, suffix: str) -> int:
        """How many records, ids or signatures a group has."""
        return self._counts[group, suffix]

    def write(self, suffix: str) -> None:
        """Write the part's file of that suffix, group after group, whole or not at all."""
        final = self._path.with_name(f"{self._path.name}{suffix}")
        beside = final.with_name(f"{files.TEMPORARY}{final.name}")
        with open(beside, "wb") as file:
            for group in self.groups():
                if (group, suffix) in self._numbers:
                    with open(self._place(group, suffix), "rb") as spilled:
                        shutil.copyfileobj(spilled, file, files.CHUNK)
                file.writelines(array.data for array in self._held.get((group, suffix), ()))
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, final)

    def _spill(self) -> None:
        self._spilled.mkdir(exist_ok=True)
        for (group, suffix), arrays in self._held.items():
            self._numbers.setdefault((group, suffix), len(self._numbers))
            with open(self._place(group, suffix), "ab") as file:
                file.writelines(array.data for array in arrays)
        self._held, self._bytes = {}, 0

    def _place(self, group: Group, suffix: str) -> Path:
        return self._spilled / f"{self._numbers[group, suffix]}{suffix}"


class Signatures:
    """The signatures of all documents, by their row: the number of a document among those of all groups, sorted."""

    def __init__(self, folder: Path, extents: Sequence[Extent]) -> None:
        self._folder = folder
        self._extents = extents
        self._ends = np.cumsum([extent.documents for extent in extents])

    def alike(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """The share of equal numbers in the signatures of pairs of rows, (pairs,)."""
        found = np.empty(len(left))
        for start in range(0, len(left), READ_SIGNATURES):
            some = slice(start, start + READ_SIGNATURES)
            found[some] = (self._read(left[some]) == self._read(right[some])).mean(1)
        return found

    def ordinals(self, rows: np.ndarray) -> np.ndarray:
        """The ordinals of rows, which rise."""
        found = np.empty(len(rows), np.int64)
        for chosen, extent, inside in self._parted(rows):
            records = np.memmap(self._folder / f"{extent.part}.docs", RECORD, "r")
            found[chosen] = records["ordinal"][extent.first_document + inside].astype(np.int64) + extent.ordinal
        return found

    def _read(self, rows: np.ndarray) -> np.ndarray:
        found = np.empty((len(rows), NUMBERS), np.uint32)
        for chosen, extent, inside in self._parted(rows):
            path = self._folder / f"{extent.part}.signs"
            signatures = np.memmap(path, np.uint32, "r").reshape(-1, NUMBERS)
            found[chosen] = signatures[extent.first_document + inside]
        return found

    def _parted(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, Extent, np.ndarray]]:
        """Which of the rows lie in an extent, and where in it."""
        numbers = np.searchsorted(self._ends, rows, side="right")
        for number in np.unique(numbers).tolist():
            chosen = np.flatnonzero(numbers == number)
            extent = self._extents[number]
            yield chosen, extent, rows[chosen] - (int(self._ends[number]) - extent.documents)


class Parts:
    """All parts of a corpus, in the order of its input."""

    def __init__(self, staging: Path, names: Sequence[str], dtype: np.dtype[np.unsignedinteger]) -> None:
        self.folder = staging / FOLDER
        self._corpus = staging.parent
        self.dtype = dtype
        self.documents = 0
        self.dropped: Counter[tuple[str, str]] = Counter()
        self.groups: dict[Group, list[Extent]] = {}
        for name in names:
            self._take(name)

    def records(self, group: Group) -> Iterator[np.ndarray]:
        """The records of a group, some at a time."""
        for extent in self.groups[group]:
            yield from self._records(extent)

    def signatures(self) -> Signatures:
        """All signatures, to be looked up; only where the corpus is made with them."""
        return Signatures(self.folder, [extent for group in sorted(self.groups) for extent in self.groups[group]])

    def signed(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """All documents in the order of their rows, some at a time: the first row, ordinals, signatures (n, 128)."""
        row = 0
        for group in sorted(self.groups):
            for extent in self.groups[group]:
                with self._opened(extent, ".signs") as file:
                    file.seek(extent.first_document * NUMBERS * 4)
                    for ordinals in (records["ordinal"] for records in self._records(extent)):
                        numbers = self._read(file, np.dtype(np.uint32), len(ordinals) * NUMBERS)
                        yield row, ordinals, numbers.reshape(-1, NUMBERS)
                        row += len(ordinals)

    def ids(self, group: Group, spans: Iterable[tuple[int, int]]) -> Iterator[np.ndarray]:
        """The ids of a group in [start, stop) of each span, counted over all parts; spans in rising order."""
        extents = self.groups[group]
        ends = np.cumsum([extent.ids for extent in extents])
        for start, stop in spans:
            while start < stop:
                number = int(np.searchsorted(ends, start, side="right"))
                extent, end = extents[number], int(ends[number])
                with self._opened(extent, ".ids") as file:
                    file.seek((extent.first_id + start - (end - extent.ids)) * self.dtype.itemsize)
                    for position in range(start, min(stop, end), READ_IDS):
                        yield self._read(file, self.dtype, min(READ_IDS, min(stop, end) - position))
                start = end

    def _records(self, extent: Extent) -> Iterator[np.ndarray]:
        with self._opened(extent, ".docs") as file:
            file.seek(extent.first_document * RECORD.itemsize)
            for done in range(0, extent.documents, READ_DOCUMENTS):
                found = self._read(file, RECORD, min(READ_DOCUMENTS, extent.documents - done))
                found["ordinal"] += np.uint64(extent.ordinal)
                yield found

    def _opened(self, extent: Extent, suffix: str) -> BinaryIO:
        path = self.folder / f"{extent.part}{suffix}"
        try:
            return open(path, "rb")
        except FileNotFoundError:
            raise BadData(f"{path} is missing or damaged; remove {self._corpus} and start again") from None

    def _read(self, file: BinaryIO, dtype: np.dtype[Any], count: int) -> np.ndarray:
        found: np.ndarray = np.fromfile(file, dtype, count)
        if len(found) < count:
            raise BadData(f"{file.name} has lost bytes since it was written; remove {self._corpus} and start again")
        return found

    def _take(self, name: str) -> None:
        path = self.folder / f"{name}.json"
        try:
            facts = files.read_json(path)
        except (FileNotFoundError, ValueError):
            raise BadData(f"{path} is missing or damaged; remove {self._corpus} and start again") from None
        first_document = first_id = 0
        for *group, documents, ids in facts["groups"]:
            extent = Extent(name, first_document, documents, first_id, ids, self.documents)
            self.groups.setdefault(Group(*group), []).append(extent)
            first_document, first_id = first_document + documents, first_id + ids
        self.documents += facts["documents"]
        self.dropped += Counter({(language, reason): count for language, reason, count in facts["dropped"]})
