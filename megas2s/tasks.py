"""A task's examples in memory: where they come from, the sample of a number, batches to be answered, and the answers.

    train: cola/train.jsonl                         one set; its language is called "all"
    test: {en: pos/en.jsonl, de: pos/de.jsonl}      one set in several languages, told apart in all figures

Rows are padded to the longest of their micro-batch: texts of a task differ in length by far more than windows do.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from megas2s import dist, files
from megas2s.data.heldout import HeldOutRow, padded_batch
from megas2s.data.loader import Batch, Columns, sample_numbers
from megas2s.data.records import Record, read_records
from megas2s.engine.base import Engine, to_device
from megas2s.errors import BadConfig, BadData
from megas2s.methods import base
from megas2s.methods.base import Facts, Method, Task
from megas2s.objectives.base import Example
from megas2s.rng import Permutation
from megas2s.spec import spec
from megas2s.train.metrics import Scalars

log = logging.getLogger(__name__)

ALONE = "all"  # the language of a set that has no name
WIDTH = 8  # columns are a multiple of this many

Paths = str | dict[str, str]


@spec
class Examples:
    """Files of examples, `.jsonl` or `.tsv`: one, or one for each language. Only `train` is needed to train."""

    train: Paths
    dev: Paths | None = None
    test: Paths | None = None
    header: bool = True  # of a .tsv: whether its first line names the columns; without, they are "0", "1", ...
    columns: base.Columns = base.Columns()

    def __post_init__(self) -> None:
        if not self.named("train"):
            raise ValueError("data.train names no file")
        for split in ("train", "dev", "test"):
            if isinstance(paths := getattr(self, split), dict) and ALONE in paths:
                raise ValueError(
                    f"data.{split}: {ALONE!r} is what all languages together are called; name it otherwise"
                )

    def named(self, split: str) -> dict[str, Path]:
        """Language -> file of a split."""
        paths = getattr(self, split) or {}
        return {name: Path(path) for name, path in ({ALONE: paths} if isinstance(paths, str) else paths).items()}

    @property
    def languages(self) -> tuple[str, ...]:
        """All that occur, those that are trained on first."""
        return tuple(dict.fromkeys(name for split in ("train", "dev", "test") for name in self.named(split)))

    def digests(self) -> dict[str, str]:
        """SHA-256 of each file, by split and language."""
        found = {}
        for split in ("train", "dev", "test"):
            for language, path in self.named(split).items():
                if not path.is_file():
                    raise BadData(f"data.{split}: there is no file {path}; give a .jsonl or .tsv file of examples")
                found[f"{split}.{language}"] = files.hash_file(path)
        return found


@dataclasses.dataclass(frozen=True)
class Split:
    """Records of a split in their order, the language of each by its place, and what was made of them."""

    records: list[Record]
    languages: list[int]
    examples: list[Example]
    labelled: bool = True  # a test set may come without labels, as GLUE's do: it is answered and not scored

    def __len__(self) -> int:
        return len(self.records)


def read_split(data: Examples, split: str) -> tuple[list[Record], list[int]]:
    """The records of a split and the place of the language of each."""
    records: list[Record] = []
    places: list[int] = []
    for language, path in data.named(split).items():
        found = read_records(path, header=data.header)
        records += found
        places += [data.languages.index(language)] * len(found)
    return records, places


def encode(method: Method, data: Examples, split: str, records: list[Record], places: list[int], facts: Facts) -> Split:
    """The examples of a split; a record that cannot be one is named by its file and number."""
    examples: list[Example] = []
    labelled = split != "test" or any(data.columns.label in record for record in records)
    if not labelled:
        records = [{**record, data.columns.label: method.blank(record, data.columns, facts)} for record in records]
    for index, record in enumerate(records):
        try:
            examples.append(method.example(record, data.columns, facts))
        except BadData as error:
            language = data.languages[places[index]]
            number = index - places.index(places[index]) + 1
            raise BadData(f"{data.named(split)[language]}, example {number}: {error}") from None
    full = sum(len(example["input_ids"]) >= facts.length for example in examples)
    if full:
        log.info("%s: %s of %s examples fill all %d tokens and may be cut", split, full, len(examples), facts.length)
    if unknown := method.unknown(records, data.columns, facts):
        log.info("%s: the training data has no %s; such examples count as errors", split, ", ".join(unknown))
    return Split(records, places, examples, labelled)


@dataclasses.dataclass(frozen=True)
class Samples:
    """Sample n of training: every epoch reads each example once, in an order of its own."""

    split: Split
    facts: Facts
    seed: int

    def batch(self, numbers: Sequence[int]) -> Batch:
        """The samples of these numbers as one batch, with `language` and `sample`, (B,) each."""
        size = len(self.split)
        batch = self.of_places([_order(size, self.seed, number // size)[number % size] for number in numbers])
        return {**batch, "sample": torch.tensor(list(numbers))}

    def of_places(self, places: Sequence[int]) -> Batch:
        """The examples at these places of the split as one batch."""
        rows = [HeldOutRow(self.split.examples[place], self.split.languages[place]) for place in places]
        return padded_batch(rows, list(places), _columns(rows, self.facts))


@functools.lru_cache(maxsize=4)
def _order(size: int, seed: int, epoch: int) -> Permutation:
    return Permutation(size, seed, "finetune", epoch)


def batches_of(split: Split, facts: Facts, *, micro_batch: int, rows: int | None = None) -> list[Batch]:
    """This rank's batches of a split, or of its first `rows` of each language, long rows beside long ones.

    `sample` is the place in the split, -1 in the rows that fill the last batches up, which have no label.
    """
    place = dist.place()
    chosen = _first(split.languages, rows)
    chosen.sort(key=lambda index: len(split.examples[index]["input_ids"]))
    round_size = micro_batch * place.world_size
    padded = -(-len(chosen) // round_size) * round_size
    shares = sample_numbers(0, rows=padded, micro_batch=micro_batch, rank=place.rank, world_size=place.world_size)
    found = []
    for share in shares:
        numbers = [chosen[min(number, len(chosen) - 1)] for number in share]
        taken = [HeldOutRow(split.examples[number], split.languages[number]) for number in numbers]
        samples = [number if n < len(chosen) else -1 for n, number in zip(share, numbers, strict=True)]
        found.append(padded_batch(taken, samples, _columns(taken, facts)))
    return found


def _first(languages: Sequence[int], rows: int | None) -> list[int]:
    if rows is None:
        return list(range(len(languages)))
    seen: dict[int, int] = {}
    chosen = []
    for index, language in enumerate(languages):
        seen[language] = seen.get(language, 0) + 1
        if seen[language] <= rows:
            chosen.append(index)
    return chosen


def _columns(rows: Sequence[HeldOutRow], facts: Facts) -> Columns:
    source = max(len(row.example["input_ids"]) for row in rows)
    target = max(len(row.example["decoder_input_ids"]) for row in rows) if facts.is_seq2seq else 0
    wide, high = min(_rounded(source), facts.length), min(_rounded(target), max(facts.length, facts.target_length))
    return Columns(source=wide, target=high, full=False, pad=facts.vocabulary.pad)


def _rounded(width: int) -> int:
    return -(-width // WIDTH) * WIDTH


def answer(engine: Engine, task: Task, split: Split, batches: Sequence[Batch]) -> dict[int, Any]:
    """The model's answers to this rank's and all others' batches, by place in the split; collective."""
    found: dict[int, np.ndarray] = {}
    for batch in batches:
        predicted = dist.gather(engine.predict(batch)).cpu().numpy()
        numbers = dist.gather(to_device(batch, dist.device())["sample"]).tolist()
        found.update({number: row for number, row in zip(numbers, predicted, strict=True) if number >= 0})
    places = sorted(found)
    examples = [split.examples[place] for place in places]
    answers = task.method.answers(np.stack([found[place] for place in places]), examples, task.facts)
    return dict(zip(places, answers, strict=True))


def measured(task: Task, data: Examples, split: Split, answers: dict[int, Any]) -> dict[str, Scalars]:
    """Scores of answers for each language, and under "all" of them together."""
    places = sorted(answers)
    records = [split.records[place] for place in places]
    references = task.method.references(records, [split.examples[place] for place in places], data.columns)
    groups: dict[str, list[int]] = {ALONE: list(range(len(places)))}
    for index, place in enumerate(places if len(data.languages) > 1 else ()):
        groups.setdefault(data.languages[split.languages[place]], []).append(index)
    return {
        name: task.method.scores([answers[places[index]] for index in group], [references[index] for index in group])
        for name, group in groups.items()
    }


def check_lengths(method: Method, facts: Facts, positions: float) -> None:
    """Refuse rows that a model has no positions for, and rows without room for text."""
    lengths = {"length": facts.length}
    if method.name == "seq2seq":
        lengths["target_length"] = facts.target_length
    for name, length in lengths.items():
        if length > positions:
            raise BadConfig(f"{name}: rows of {length} tokens exceed the model's {positions:g} positions; shorten it")
        if length < facts.vocabulary.ends + 2:
            raise BadConfig(f"{name} {length} leaves no room for text; lengthen it")
