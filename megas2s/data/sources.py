"""Where the examples of a split come from.

cola/train.jsonl                               a file: .jsonl, .tsv, .csv (with or without .gz), or .parquet
{source: a.en, target: a.de}                   two texts: line n of the one belongs to line n of the other
{dataset: GEM/wiki_lingua, split: train}       a Hugging Face dataset, by its name on the hub or its folder
{en: pos/en.jsonl, de: pos/de.jsonl}           one of these for each language
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NamedTuple, Protocol

from pydantic import Discriminator, Tag

from megas2s.data.records import Held, Row, of_table, read_file, read_pairs, unit
from megas2s.errors import BadData, BadRecord
from megas2s.spec import spec


class Source(Protocol):
    """What can be asked of each kind."""

    @property
    def name(self) -> str:
        """How people are told of it."""

    @property
    def unit(self) -> str:
        """What it is counted in."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that must be there."""

    def read(self, *, header: bool, names: tuple[str, str]) -> Held:
        """All rows; `header` is of tables, `names` is what texts side by side are called."""


class File(NamedTuple):
    """One file."""

    path: Path

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    @property
    def unit(self) -> str:
        """A line or a row."""
        return unit(self.path)

    @property
    def files(self) -> tuple[Path, ...]:
        """Itself."""
        return (self.path,)

    def read(self, *, header: bool, names: tuple[str, str]) -> Held:
        """By the end of its name."""
        return read_file(self.path, header=header)


@spec
class Parallel:
    """Two texts side by side; a test set may come without the second."""

    source: str
    target: str | None = None

    @property
    def name(self) -> str:
        """The path of the first."""
        return self.source

    @property
    def unit(self) -> str:
        """A line."""
        return "line"

    @property
    def files(self) -> tuple[Path, ...]:
        """Both."""
        return tuple(Path(path) for path in (self.source, self.target) if path is not None)

    def read(self, *, header: bool, names: tuple[str, str]) -> Held:
        """Pairs of lines, under the two names."""
        return read_pairs(Path(self.source), None if self.target is None else Path(self.target), names=names)


@spec
class Dataset:
    """One split of a Hugging Face dataset. Code that comes with one is never run."""

    dataset: str  # a name of the hub, or a folder
    split: str
    config: str | None = None
    revision: str | None = None

    @property
    def name(self) -> str:
        """Dataset, configuration and split."""
        return f"dataset {self.dataset}{f' ({self.config})' if self.config else ''}, split {self.split}"

    @property
    def unit(self) -> str:
        """A row."""
        return "row"

    @property
    def files(self) -> tuple[Path, ...]:
        """Of them `datasets` knows."""
        return ()

    def read(self, *, header: bool, names: tuple[str, str]) -> Held:
        """All rows; the hash is of what they say, wherever and in whatever files they lie."""
        from megas2s.data.tables import dataset_tables  # half a second, and only where one is named

        rows: list[Row] = []
        digest = hashlib.sha256()
        for table in dataset_tables(self.dataset, self.config, self.split, self.revision):
            for record in of_table(table, self.name):
                said = record.reason if isinstance(record, BadRecord) else record
                digest.update(json.dumps(said, default=str).encode() + b"\n")
                rows.append((len(rows) + 1, record))
        if not rows:
            raise BadData(f"{self.name} holds no example; name one with some")
        return Held(rows, digest.hexdigest())


def _kind(value: object) -> str:
    """Which kind a recipe means: no language is called source, target or dataset."""
    if not isinstance(value, Mapping):
        return type(value).__name__ if isinstance(value, Parallel | Dataset) else "file"
    if value.keys() & {"source", "target"}:
        return "Parallel"
    return "Dataset" if "dataset" in value else "languages"


def _kind_of_one(value: object) -> str:
    return kind if (kind := _kind(value)) != "languages" else "file"  # which it is not, and is told so


_File = Annotated[str, Tag("file")]
_Parallel = Annotated[Parallel, Tag("Parallel")]
_Dataset = Annotated[Dataset, Tag("Dataset")]
One = Annotated[_File | _Parallel | _Dataset, Discriminator(_kind_of_one)]
Languages = Annotated[dict[str, One], Tag("languages")]
Sources = Annotated[_File | _Parallel | _Dataset | Languages, Discriminator(_kind)]


def source_of(given: str | Parallel | Dataset) -> Source:
    """What a recipe names, as what can be read."""
    return File(Path(given)) if isinstance(given, str) else given
