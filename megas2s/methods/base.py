"""What a method of fine-tuning is: how a record becomes an example, what is minimised, and what the model answers.

    facts = Facts(tokenizer, length=128, target_length=64, decoder_start="eos", is_seq2seq=False, labels=("0", "1"))
    example = method.example(record, columns, facts)        # NumPy, once per record
    losses = method.loss(model(batch), batch)               # torch, in the engine
    answers = method.answers(predictions, examples, facts)  # what people and metrics read

A method is its own configuration: a frozen `@spec` with a `name`. It trains through the loop and the engines that
pretraining has, so it says of a batch what an objective says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from megas2s.data.records import Record
from megas2s.errors import BadRecord
from megas2s.metrics.scores import Scores
from megas2s.models.config import FirstToken, ModelConfig
from megas2s.models.output import ModelOutput, Reader
from megas2s.models.parameters import aliases
from megas2s.objectives.base import Batch, Example, Part, first_token
from megas2s.objectives.noise import teacher_forced
from megas2s.spec import nearest, spec
from megas2s.tokenizer.load import Tokenizer
from megas2s.tokenizer.vocab import Vocabulary

UNBOUND = 1 << 30  # tokens; no row is as long


@spec
class Columns:
    """Which keys of a record are its text, a second text beside it, and its label: a class, a number, tags, a text.

    `language` is the key of its language, where no file of its own says that.
    """

    text: str = "text"
    pair: str | None = None
    label: str = "label"
    language: str | None = None
    ends_between: int = 1  # ends of text between the two texts of a pair; RoBERTa, XLM-R and BART have 2

    def __post_init__(self) -> None:
        if self.ends_between < 1:
            raise ValueError(f"ends_between must be at least 1, got {self.ends_between}")

    @property
    def between(self) -> int:
        """Tokens between the texts of a record."""
        return 0 if self.pair is None else self.ends_between


class Facts(NamedTuple):
    """What a method may know of the model and of all records; of those of one language also its tag."""

    tokenizer: Tokenizer
    length: int  # longest source, special tokens included
    target_length: int
    decoder_start: FirstToken
    is_seq2seq: bool
    labels: tuple[str, ...]  # the classes or tags, in the order of the head's scores
    typed: bool = False  # whether the encoder has a table that tells the texts of a pair apart
    source_tag: int | None = None  # the id that stands before each source: its language's tag
    target_tag: int | None = None  # and before what is written

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokenizer's ids."""
        return self.tokenizer.vocabulary

    @property
    def opening(self) -> list[int]:
        """What stands before the text of a source."""
        return [token for token in (self.vocabulary.begin, self.source_tag) if token is not None]

    @property
    def start(self) -> int:
        """The id that a decoder reads first."""
        return first_token(self.vocabulary, self.decoder_start)


class Method(Protocol):
    """The contract between a method, the program that fine-tunes, and the engines."""

    @property
    def name(self) -> str:
        """The tag that names this method in a recipe."""

    def texts(self, columns: Columns) -> Sequence[str]:
        """The keys whose texts are encoded as they are, so that those of many records may be at once."""

    def named(self, record: Record, columns: Columns) -> Sequence[str]:
        """The classes or tags that a record is labelled with; empty where the method has none."""

    def shaped(self, config: ModelConfig, labels: Sequence[str]) -> ModelConfig:
        """The model with the head that the method needs, given the names that the training data has.

        ValueError where it cannot train such a model, BadData where there is nothing to learn.
        """

    def unused(self, config: ModelConfig) -> tuple[str, ...]:
        """Patterns of parameters that no example reaches: they stand still."""

    def example(self, record: Record, columns: Columns, facts: Facts) -> Example:
        """One record, unpadded; BadRecord where it lacks something."""

    def corrupt(self, example: Example, rng: np.random.Generator, facts: Facts, *, source: bool) -> Example:
        """What is read of an example this time, by its own randomness; what the model is given too where `source`."""

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Per part, how many items each row contributes: (B,)."""

    def loss(self, output: ModelOutput, batch: Batch) -> dict[str, Part]:
        """The parts of the loss, and measures."""

    def predictions(self, model: Reader, batch: Batch, facts: Facts) -> Tensor:
        """What the model says, one width for every batch: (B, ...)."""

    def answers(self, predictions: np.ndarray, examples: Sequence[Example], facts: Facts) -> list[Any]:
        """The same as people read it, row by row."""

    def blanked(self, record: Record, columns: Columns, facts: Facts) -> Record:
        """A record of a test set that has no label with one that nobody looks at."""

    def references(
        self, records: Sequence[Record], examples: Sequence[Example], columns: Columns, facts: Facts
    ) -> list[Any]:
        """What the answers should be."""

    def scores(self, answers: Sequence[Any], references: Sequence[Any]) -> Scores:
        """How good they are."""


class Fixed:
    """Of methods that draw nothing."""

    def corrupt(self, example: Example, rng: np.random.Generator, facts: Facts, *, source: bool) -> Example:
        """The example itself."""
        return example


@dataclasses.dataclass(frozen=True)
class Task:
    """A method bound to its facts, as an engine calls it."""

    method: Method
    facts: Facts

    def counts(self, batch: Batch) -> Mapping[str, Tensor]:
        """Per part, the items each row contributes."""
        return self.method.counts(batch)

    def inputs(self, batch: Batch) -> Batch:
        """The batch itself."""
        return batch

    def loss(self, output: ModelOutput, batch: Batch, step: int | None = None) -> Mapping[str, Part]:
        """The parts of the loss, the same at every step."""
        return self.method.loss(output, batch)

    def predictions(self, model: Reader, batch: Batch) -> Tensor:
        """What the model says of each row."""
        return self.method.predictions(model, batch, self.facts)


def value(record: Record, key: str) -> Any:
    """What a record has under a key; BadRecord names the nearest one where it has none."""
    if key not in record:
        said = f"a record has no {key!r}"
        raise BadRecord(f"{said}; {nearest(key, record)}: name the keys under data.columns", said)
    return record[key]


def tokens_of(record: Record, key: str, tokenizer: Tokenizer) -> np.ndarray:
    """The ids of a text of a record (N,) int32, given as a text, as pieces of the tokenizer, or as ids.

    They are there already where `encoded` has been over the record.
    """
    given = value(record, key)
    if isinstance(given, np.ndarray):
        return given
    if isinstance(given, str):
        return tokenizer.encode(given)
    if isinstance(given, list) and all(isinstance(piece, str) for piece in given):
        return tokenizer.ids_of(given)
    if isinstance(given, list) and all(isinstance(token, int) and not isinstance(token, bool) for token in given):
        beyond = [token for token in given if not 0 <= token < tokenizer.vocabulary.size]
        if beyond:
            said = f"{key!r} of a record has the id {beyond[0]}, and ids end at {tokenizer.vocabulary.size - 1}"
            raise BadRecord(said, f"{key!r} has an id beyond the vocabulary")
        return np.array(given, dtype=np.int32)
    shown = str(given)[:40]
    raise BadRecord(
        f"{key!r} of a record is {type(given).__name__} {shown!r}; give a text, a list of pieces, or of ids",
        f"{key!r} is neither a text nor a list of pieces or ids",
    )


def encoded(records: Sequence[Record], keys: Sequence[str], tokenizer: Tokenizer) -> list[Record]:
    """The records with the ids of their texts under `keys`, all encoded at once; what is no text stays as it is."""
    places = [(place, key) for place, record in enumerate(records) for key in keys if isinstance(record.get(key), str)]
    ids, offsets = tokenizer.encode_batch([records[place][key] for place, key in places])
    found = [dict(record) for record in records]
    for (place, key), start, end in zip(places, offsets[:-1], offsets[1:], strict=True):
        found[place][key] = ids[start:end]
    return found


def joined(texts: Sequence[np.ndarray], facts: Facts, *, ends_between: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """One row of one or two texts and the number of the text each token is of, (S,) int64 each: begin a eos b eos.

    A language's tag comes behind what begins a row. Where they do not fit, the longer one is cut first.
    """
    vocabulary = facts.vocabulary
    opening = facts.opening
    room = facts.length - len(opening) - 1 - ends_between * (len(texts) - 1)
    kept = _cut([len(text) for text in texts], room)
    parts: list[np.ndarray] = []
    for number, (text, size) in enumerate(zip(texts, kept, strict=True)):
        ends = [vocabulary.eos] * (1 if number == len(texts) - 1 else ends_between)
        row = [*(opening if number == 0 else []), *text[:size].tolist(), *ends]
        parts.append(np.array(row, dtype=np.int64))
    types = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return np.concatenate(parts), types


def _cut(lengths: Sequence[int], room: int) -> list[int]:
    """How much of each text stays: the longer one gives way first."""
    kept = list(lengths)
    while sum(kept) > room:
        longest = kept.index(max(kept))
        rest = sum(kept) - kept[longest]
        second = max((size for index, size in enumerate(kept) if index != longest), default=0)
        kept[longest] = max(room - rest, min(second, kept[longest] - 1)) if rest < room else kept[longest] - 1
    return kept


def pair_of(columns: Columns) -> list[str]:
    """The keys of a text and, where there is one, of the text beside it."""
    return [columns.text] if columns.pair is None else [columns.text, columns.pair]


def row_of(record: Record, columns: Columns, facts: Facts) -> tuple[np.ndarray, np.ndarray]:
    """The text of a record, or its pair of texts, as `joined` gives it."""
    texts = [tokens_of(record, key, facts.tokenizer) for key in pair_of(columns)]
    return joined(texts, facts, ends_between=columns.ends_between)


def source_of(record: Record, columns: Columns, facts: Facts) -> Example:
    """What the model reads of a record: the row, and for an encoder-decoder the same once more for its decoder."""
    row, types = row_of(record, columns, facts)
    return rows_of(row, facts, types=types if facts.typed else None)


def rows_of(row: np.ndarray, facts: Facts, *, types: np.ndarray | None = None) -> Example:
    """The fields that a model reads of a row (BART feeds a text to be classified to both of its stacks)."""
    found = {"input_ids": row}
    if types is not None:
        found["token_type_ids"] = types
    if facts.is_seq2seq:
        found["decoder_input_ids"] = teacher_forced(row, facts.start)
    return found


def states(output: ModelOutput) -> Tensor:
    """The states that a classifier reads, (B, S, D): the decoder's where there is one (Lewis et al. 2020)."""
    return output.encoder_hidden if output.decoder_hidden is None else output.decoder_hidden


def heads_apart(config: ModelConfig) -> tuple[str, ...]:
    """The vocabulary's heads where they have weights of their own, which a classifier does not use."""
    masked = ("mlm.*",) if config.has_masked_head else ()
    return (*masked, "head.weight") if "head.weight" in aliases(config) else masked
