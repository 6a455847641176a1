"""The files of a task: their records, and the examples that a method makes of them.

    train: cola/train.jsonl                         one set; its language is called "all"
    test: {en: pos/en.jsonl, de: pos/de.jsonl}      one set in several languages, told apart in all figures

Nothing is dropped or overlooked in silence: what is cut, unlabelled or unknown is in a split's notes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from megas2s import files
from megas2s.data.records import Record, read_records
from megas2s.errors import BadData
from megas2s.methods.base import Columns, Facts, Method
from megas2s.objectives.base import Example
from megas2s.spec import spec

ALONE = "all"  # the language of a set that has no name

Paths = str | dict[str, str]
SplitName = Literal["train", "dev", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "dev", "test")
T = TypeVar("T")


@spec
class Examples:
    """Files of examples, `.jsonl` or `.tsv`: one, or one for each language. Only `train` is needed to train.

    GLUE writes the test set of CoLA unlike the others, so it may have a header and columns of its own.
    """

    train: Paths
    dev: Paths | None = None
    test: Paths | None = None
    header: bool = True  # of a .tsv: whether its first line names the columns; without, they are "0", "1", ...
    columns: Columns = Columns()
    test_header: bool | None = None
    test_columns: Columns | None = None

    def __post_init__(self) -> None:
        if not self.named("train"):
            raise ValueError("data.train names no file")
        for split in SPLITS:
            if isinstance(paths := getattr(self, split), dict) and ALONE in paths:
                raise ValueError(
                    f"data.{split}: {ALONE!r} is what all languages together are called; name it otherwise"
                )
        if self.test is None and (self.test_header is not None or self.test_columns is not None):
            raise ValueError("test_header and test_columns are of data.test, which is not given; leave them out")

    def named(self, split: SplitName) -> dict[str, Path]:
        """Language -> file of a split."""
        paths = getattr(self, split) or {}
        return {name: Path(path) for name, path in ({ALONE: paths} if isinstance(paths, str) else paths).items()}

    def columns_of(self, split: SplitName) -> Columns:
        """What the records of a split call their text and label."""
        return self.columns if split != "test" or self.test_columns is None else self.test_columns

    def header_of(self, split: SplitName) -> bool:
        """Whether a split's tables name their columns."""
        return self.header if split != "test" or self.test_header is None else self.test_header

    @property
    def languages(self) -> tuple[str, ...]:
        """All that occur, those that are trained on first."""
        return tuple(dict.fromkeys(name for split in SPLITS for name in self.named(split)))

    def digests(self) -> dict[str, str]:
        """SHA-256 of each file, by split and language."""
        found = {}
        for split in SPLITS:
            for language, path in self.named(split).items():
                if not path.is_file():
                    raise BadData(f"data.{split}: there is no file {path}; give a .jsonl or .tsv file of examples")
                found[f"{split}.{language}"] = files.hash_file(path)
        return found


class Entry(NamedTuple):
    """A record, and where it comes from."""

    record: Record
    language: int  # its place among the languages
    where: str  # "cola/dev.tsv, line 7"


def read_split(data: Examples, split: SplitName) -> list[Entry]:
    """What the files of a split hold, one language after the other."""
    places = {language: place for place, language in enumerate(data.languages)}
    return [
        Entry(record, places[language], f"{path}, line {line}")
        for language, path in data.named(split).items()
        for line, record in read_records(path, header=data.header_of(split))
    ]


def labels_of(method: Method, entries: list[Entry], columns: Columns) -> tuple[str, ...]:
    """The classes or tags of training data, by name; empty where a method has none."""
    named = each(entries, lambda record: method.named(record, columns))
    return tuple(sorted({name for names in named for name in names}))


def each(entries: list[Entry], make: Callable[[Record], T]) -> list[T]:
    """What `make` gives for each record; where it raises BadData, the file and line are put in front."""
    found = []
    for entry in entries:
        try:
            found.append(make(entry.record))
        except BadData as error:
            raise BadData(f"{entry.where}: {error}") from None
    return found


@dataclasses.dataclass(frozen=True)
class Split:
    """Records of a split in their order, the language of each by its place, and what was made of them."""

    records: list[Record]
    languages: list[int]
    examples: list[Example]
    columns: Columns
    labelled: frozenset[int]  # languages; a test set may come without labels, as GLUE's do: answered and not scored
    notes: tuple[str, ...]  # what somebody who begins a run should know of it

    def __len__(self) -> int:
        return len(self.records)


def encode(method: Method, data: Examples, split: SplitName, entries: list[Entry], facts: Facts) -> Split:
    """The examples of a split; a record that cannot be one is named by its file and line."""
    columns, notes = data.columns_of(split), []
    places = {entry.language for entry in entries}
    labelled = {entry.language for entry in entries if split != "test" or columns.label in entry.record}
    for place in sorted(places - labelled):
        path = data.named(split)[data.languages[place]]
        notes.append(f"{split}: no record of {path} has a {columns.label!r}; they are answered and not scored")
    entries = [
        entry if entry.language in labelled else entry._replace(record=method.blanked(entry.record, columns, facts))
        for entry in entries
    ]
    examples = each(entries, lambda record: method.example(record, columns, facts))
    full = sum(len(example["input_ids"]) >= facts.length for example in examples)
    if full:
        notes.append(f"{split}: {full:,} of {len(examples):,} examples fill all {facts.length} tokens and may be cut")
    if unknown := sorted(set(labels_of(method, entries, columns)) - set(facts.labels)):
        notes.append(f"{split}: the training data has no {', '.join(unknown)}; such examples count as errors")
    records, languages = [entry.record for entry in entries], [entry.language for entry in entries]
    return Split(records, languages, examples, columns, frozenset(labelled), tuple(notes))
