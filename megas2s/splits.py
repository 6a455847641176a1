"""The sources of a task: their records, and the examples that a method makes of them.

    train: cola/train.jsonl                         one set; its language is called "all", unless a column says it
    test: {en: pos/en.jsonl, de: pos/de.jsonl}      one set in several languages, told apart in all figures

Each source is read once, and hashed as it is. Nothing is dropped or overlooked in silence: what is cut, left out,
unlabelled or unknown is in a split's notes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Generic, Literal, NamedTuple, TypeVar

from megas2s.data import lengths
from megas2s.data.lengths import Lengths
from megas2s.data.mixture import Sampling
from megas2s.data.records import Held, Record
from megas2s.data.skipped import Skipped, by_reason, said
from megas2s.data.sources import Parallel, Source, Sources, source_of
from megas2s.errors import BadConfig, BadData, BadRecord
from megas2s.methods import WRITERS
from megas2s.methods.base import UNBOUND, Columns, Facts, Method, encoded, value
from megas2s.methods.writing import tagged_language, with_tags
from megas2s.objectives.base import Example
from megas2s.spec import spec

ALONE = "all"  # the language of a set that has no name

SplitName = Literal["train", "dev", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "dev", "test")
S = TypeVar("S")
T = TypeVar("T")


@spec
class Examples:
    """Sources of examples (`data/sources.py`): one, or one for each language. Only `train` is needed to train.

    GLUE writes the test set of CoLA unlike the others, so it may have a header and columns of its own.
    """

    train: Sources
    dev: Sources | None = None
    test: Sources | None = None
    header: bool = True  # of a table: whether its first line names the columns; without, they are "0", "1", ...
    columns: Columns = Columns()
    test_header: bool | None = None
    test_columns: Columns | None = None
    alpha: float | None = None  # a language's share of training ~ (its examples) ** alpha; absent: as they come
    tags: Literal["source", "target", "both"] | None = None  # which rows open with the tag of their language
    skip_bad_lines: bool = False  # lines that are no examples are left out and counted, instead of refused

    def __post_init__(self) -> None:
        if not self.named("train"):
            raise ValueError("data.train names no file")
        for split in SPLITS:
            self._check(split)
        if self.test is None and (self.test_header is not None or self.test_columns is not None):
            raise ValueError("test_header and test_columns are of data.test, which is not given; leave them out")
        for name, splits in (("alpha", SPLITS[:1]), ("tags", SPLITS)):
            alone = [split for split in splits if ALONE in self.named(split) and not self.columns_of(split).language]
            if getattr(self, name) is not None and alone:
                raise ValueError(
                    f"data.{name} needs languages, and data.{alone[0]} has none: name a source for each, or the column "
                    "that says it as data.columns.language"
                )
        if self.alpha is not None:
            Sampling(alpha=self.alpha)

    def _check(self, split: SplitName) -> None:
        given, column = getattr(self, split), self.columns_of(split).language
        if isinstance(given, dict) and ALONE in given:
            raise ValueError(f"data.{split}: {ALONE!r} is what all languages together are called; name it otherwise")
        if isinstance(given, dict) and column is not None:
            raise ValueError(
                f"data.{split} names a source for each language, and columns.language {column!r} says it too; "
                "one of them must go"
            )
        for source in self.named(split).values():
            if split != "test" and isinstance(source, Parallel) and source.target is None:
                raise ValueError(f"data.{split}: {source.source} has no target, which only a test set may lack")

    def named(self, split: SplitName) -> dict[str, Source]:
        """Language -> source of a split."""
        given = getattr(self, split)
        given = given if isinstance(given, dict) else {} if given is None else {ALONE: given}
        return {name: source_of(source) for name, source in given.items()}

    def look(self) -> None:
        """Refuse files that are not there, before anything else is read."""
        for split in SPLITS:
            for path in (path for source in self.named(split).values() for path in source.files):
                if not path.is_file():
                    raise BadData(f"data.{split}: there is no file {path}; give a file of examples")

    def columns_of(self, split: SplitName) -> Columns:
        """What the records of a split call their text and label."""
        return self.columns if split != "test" or self.test_columns is None else self.test_columns

    def header_of(self, split: SplitName) -> bool:
        """Whether a split's tables name their columns."""
        return self.header if split != "test" or self.test_header is None else self.test_header


class Place(NamedTuple):
    """Where a record comes from."""

    source: Source
    number: int

    @property
    def where(self) -> str:
        """As people are told: "cola/dev.tsv, line 7"."""
        return f"{self.source.name}, {self.source.unit} {self.number}"


class Entry(NamedTuple):
    """A record, its language, and where it comes from."""

    record: Record
    language: str
    place: Place


class Reading(NamedTuple):
    """What the sources of a task hold."""

    entries: dict[SplitName, list[Entry]]
    skipped: dict[SplitName, list[Skipped]]
    labels: tuple[str, ...]  # the classes or tags of training data, by name; empty where a method has none
    digests: dict[str, str]  # SHA-256 of each source, by split and language

    @property
    def languages(self) -> tuple[str, ...]:
        """All that occur, by first use, those that are trained on first."""
        return tuple(dict.fromkeys(entry.language for found in self.entries.values() for entry in found))


def read(method: Method, data: Examples) -> Reading:
    """Every source, once; what is no record, or has no label where one is learnt, is refused or left out."""
    entries: dict[SplitName, list[Entry]] = {}
    skipped: dict[SplitName, list[Skipped]] = {}
    digests: dict[str, str] = {}
    for split in SPLITS:
        for language, source in data.named(split).items():
            held = _held(data, split, source)
            digests[f"{split}.{language}"] = held.digest
            column = data.columns_of(split).language
            places = [Place(source, number) for number, _ in held.rows]
            spoken = functools.partial(_spoken, column=column, language=language)
            tried = _each(places, [row for _, row in held.rows], spoken, skip=data.skip_bad_lines)
            found = zip(tried.made, tried.kept, strict=True)
            entries.setdefault(split, []).extend(Entry(*made, places[place]) for made, place in found)
            skipped.setdefault(split, []).extend(tried.skipped)
    train, columns = entries["train"], data.columns_of("train")
    records = [entry.record for entry in train]
    named = _each(
        [entry.place for entry in train],
        records,
        lambda record: method.named(record, columns),
        skip=data.skip_bad_lines,
    )
    entries["train"] = [train[place] for place in named.kept]
    skipped["train"] += named.skipped
    return Reading(entries, skipped, tuple(sorted({label for names in named.made for label in names})), digests)


def _held(data: Examples, split: SplitName, source: Source) -> Held:
    columns = data.columns_of(split)
    return source.read(header=data.header_of(split), names=(columns.text, columns.label))


def _spoken(row: Record | BadRecord, *, column: str | None, language: str) -> tuple[Record, str]:
    """A record and its language."""
    if isinstance(row, BadRecord):
        raise row
    if column is None:
        return row, language
    said = value(row, column)
    if not isinstance(said, str) or not said or said == ALONE:
        raise BadRecord(f"{column!r} of a record is {said!r}, and names no language", f"{column!r} names no language")
    return row, said


class Tried(NamedTuple, Generic[T]):
    """What was made of some items, and of which."""

    made: list[T]
    kept: list[int]  # their places
    skipped: list[Skipped]


def _each(places: Sequence[Place], items: Sequence[S], make: Callable[[S], T], *, skip: bool) -> Tried[T]:
    """What `make` gives for each item; where it raises BadRecord, the item is refused by its file and line, or skipped.

    Raises BadData where nothing is left.
    """
    tried: Tried[T] = Tried([], [], [])
    for number, (place, item) in enumerate(zip(places, items, strict=True)):
        try:
            tried.made.append(make(item))
            tried.kept.append(number)
        except BadRecord as error:
            if not skip:
                raise BadData(f"{place.where}: {error}") from None
            tried.skipped.append(Skipped(place.source.name, place.source.unit, place.number, error.reason))
    if not tried.made:
        raise BadData(f"no example is left: {'; '.join(map(said, by_reason(tried.skipped)))}")
    return tried


@dataclasses.dataclass(frozen=True)
class Split:
    """Records of a split in their order, the language of each by its place, and what was made of them."""

    records: list[Record]
    languages: list[int]
    examples: list[Example]
    columns: Columns
    labelled: frozenset[int]  # languages; a test set may come without labels, as GLUE's do: answered and not scored
    notes: tuple[str, ...]  # what somebody who begins a run should know of it
    lengths: dict[str, Lengths]  # of sources, and of targets where they are written
    skipped: tuple[Skipped, ...]

    def __len__(self) -> int:
        return len(self.records)


def encode(method: Method, data: Examples, split: SplitName, reading: Reading, facts: Facts) -> Split:
    """The examples of a split; a record that cannot be one is refused by its file and line, or left out."""
    columns, entries = data.columns_of(split), reading.entries[split]
    labelled = {entry.language for entry in entries if split != "test" or columns.label in entry.record}
    notes = _unlabelled(data, split, [entry for entry in entries if entry.language not in labelled])
    entries = [
        entry if entry.language in labelled else entry._replace(record=method.blanked(entry.record, columns, facts))
        for entry in entries
    ]
    own = functools.cache(functools.partial(tagged, facts, method, data))
    ready = encoded([entry.record for entry in entries], method.texts(columns), facts.tokenizer)
    tried = _each(
        [entry.place for entry in entries],
        list(zip(ready, (entry.language for entry in entries), strict=True)),
        lambda item: _whole(method, _with_tag(item[0], data, columns, facts), columns, own(item[1])),
        skip=data.skip_bad_lines,
    )
    entries = [entries[place] for place in tried.kept]
    if split != "train":
        found = {label for entry in entries for label in method.named(entry.record, columns)}
        if unknown := sorted(found - set(facts.labels)):
            notes.append(f"{split}: the training data has no {', '.join(unknown)}; such examples count as errors")
    sizes = {"sources": lengths.measured([row.source for row in tried.made], facts.length)}
    written = [row.target for row, entry in zip(tried.made, entries, strict=True) if entry.language in labelled]
    if method.name in WRITERS and written:
        sizes["targets"] = lengths.measured(written, facts.target_length)
    places = {language: place for place, language in enumerate(reading.languages)}
    return Split(
        records=[entry.record for entry in entries],
        languages=[places[entry.language] for entry in entries],
        examples=[row.example for row in tried.made],
        columns=columns,
        labelled=frozenset(places[language] for language in labelled),
        notes=tuple(notes),
        lengths=sizes,
        skipped=(*reading.skipped[split], *tried.skipped),
    )


def _unlabelled(data: Examples, split: SplitName, entries: Sequence[Entry]) -> list[str]:
    """A note for each source, or language of one, that has no labels."""
    column, label = data.columns_of(split).language, data.columns_of(split).label
    names = sorted({(entry.place.source.name, entry.language) for entry in entries})
    return [
        f"{split}: no record{f' in {language}' if column else ''} of {name} has a {label!r}; "
        "they are answered and not scored"
        for name, language in names
    ]


def tagged(facts: Facts, method: Method, data: Examples, language: str) -> Facts:
    """The facts for the records of one language; raises BadConfig where it has no tag and should have one."""
    if data.tags is None:
        return facts
    if method.name not in WRITERS:
        raise BadConfig(f"data.tags are for methods that write ({', '.join(WRITERS)}), found {method.name}")
    try:
        return with_tags(facts, data.tags, language)
    except BadConfig as error:
        raise BadConfig(f"data.tags: {error}") from None


def _with_tag(record: Record, data: Examples, columns: Columns, facts: Facts) -> Record:
    """The record, unless it names a language whose tag it should have and the tokenizer has not: BadRecord."""
    if data.tags is not None and columns.language is not None:
        tagged_language(record, columns.language, facts)
    return record


class _Row(NamedTuple):
    """An example, and how long its rows were before they were cut."""

    example: Example
    source: int
    target: int


def _whole(method: Method, record: Record, columns: Columns, facts: Facts) -> _Row:
    """Nothing is encoded again where a row has to be cut, words that carry tags apart."""
    whole = method.example(record, columns, facts._replace(length=UNBOUND, target_length=UNBOUND))
    source = len(whole["input_ids"])
    target = len(whole["labels"]) if method.name in WRITERS else 0
    fits = source <= facts.length and target <= facts.target_length
    return _Row(whole if fits else method.example(record, columns, facts), source, target)
