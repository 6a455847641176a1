"""Where tokenised documents wait until all input is read: for each piece of input, a part.

    .staging/parts/<name>.docs    one RECORD a document, group after group
    .staging/parts/<name>.ids     token ids, flat, in the same order
    .staging/parts/<name>.json    how many of which group; written last, so a part without it does not count

A part's name is that of its piece. Processes on any number of hosts write parts without knowing of each other; a run
that was interrupted finds the parts that are there. `Parts` reads them in the order of the input, group by group.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from megas2s import files
from megas2s.data.tokenise import RECORD, Tokenised
from megas2s.errors import BadData

FOLDER = "parts"
READ_DOCUMENTS = 1 << 16
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

    All of it is held in memory until then.
    """
    records: dict[Group, list[np.ndarray]] = {}
    tokens: dict[Group, list[np.ndarray]] = {}
    dropped: Counter[tuple[str, str]] = Counter()
    documents = text_bytes = 0
    for split, source, result in results:
        for language, found in result.records.items():
            found["ordinal"] += np.uint64(documents)
            group = Group(split, language, source)
            records.setdefault(group, []).append(found)
            tokens.setdefault(group, []).append(result.tokens[language])
        documents += result.documents
        text_bytes += result.text_bytes
        dropped += result.dropped
    path = staging / FOLDER / name
    groups = sorted(records)
    with files.disk_trouble(path):
        for suffix, held in ((".docs", records), (".ids", tokens)):
            with open(f"{path}{suffix}", "wb") as file:
                file.writelines(array.data for group in groups for array in held[group])
                file.flush()
                os.fsync(file.fileno())
        files.sync_folder(path.parent)
    counted = [[*group, sum(map(len, records[group])), sum(map(len, tokens[group]))] for group in groups]
    facts = {"documents": documents, "groups": counted, "dropped": [[*key, n] for key, n in sorted(dropped.items())]}
    files.write_json(path.with_name(f"{name}.json"), facts)
    return documents, text_bytes


class Parts:
    """All parts of a corpus, in the order of its input."""

    def __init__(self, staging: Path, names: Sequence[str], dtype: np.dtype[np.unsignedinteger]) -> None:
        self.folder = staging / FOLDER
        self.dtype = dtype
        self.documents = 0
        self.dropped: Counter[tuple[str, str]] = Counter()
        self.groups: dict[Group, list[Extent]] = {}
        for name in names:
            self._take(name)

    def records(self, group: Group) -> Iterator[np.ndarray]:
        """The records of a group, some at a time."""
        for extent in self.groups[group]:
            with open(self.folder / f"{extent.part}.docs", "rb") as file:
                file.seek(extent.first_document * RECORD.itemsize)
                for done in range(0, extent.documents, READ_DOCUMENTS):
                    found = self._read(file, RECORD, min(READ_DOCUMENTS, extent.documents - done))
                    found["ordinal"] += np.uint64(extent.ordinal)
                    yield found

    def ids(self, group: Group, spans: Iterable[tuple[int, int]]) -> Iterator[np.ndarray]:
        """The ids of a group in [start, stop) of each span, counted over all parts; spans in rising order."""
        extents = self.groups[group]
        ends = np.cumsum([extent.ids for extent in extents])
        for start, stop in spans:
            while start < stop:
                number = int(np.searchsorted(ends, start, side="right"))
                extent, end = extents[number], int(ends[number])
                with open(self.folder / f"{extent.part}.ids", "rb") as file:
                    file.seek((extent.first_id + start - (end - extent.ids)) * self.dtype.itemsize)
                    for position in range(start, min(stop, end), READ_IDS):
                        yield self._read(file, self.dtype, min(READ_IDS, min(stop, end) - position))
                start = end

    def _read(self, file: BinaryIO, dtype: np.dtype[Any], count: int) -> np.ndarray:
        found: np.ndarray = np.fromfile(file, dtype, count)
        if len(found) < count:
            raise BadData(
                f"{file.name} has lost bytes since it was written; remove {self.folder.parent} and start again"
            )
        return found

    def _take(self, name: str) -> None:
        path = self.folder / f"{name}.json"
        try:
            facts = files.read_json(path)
        except ValueError:
            raise BadData(f"{path} is damaged; remove it and start again") from None
        first_document = first_id = 0
        for *group, documents, ids in facts["groups"]:
            extent = Extent(name, first_document, documents, first_id, ids, self.documents)
            self.groups.setdefault(Group(*group), []).append(extent)
            first_document, first_id = first_document + documents, first_id + ids
        self.documents += facts["documents"]
        self.dropped += Counter({(language, reason): count for language, reason, count in facts["dropped"]})
