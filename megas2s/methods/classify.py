"""One class, or one number, for a text or a pair of texts.

An encoder's text is read from its first state where rows open with a token for it (BERT, RoBERTa), from the mean of its
states where they do not; an encoder-decoder's from the decoder's last state (Lewis et al. 2020, section 3.1).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from megas2s.data.records import Record
from megas2s.errors import BadData, BadRecord
from megas2s.methods.base import Columns, Facts, Fixed, heads_apart, pair_of, source_of, states, value
from megas2s.metrics.scores import Scores, of_classes, of_numbers
from megas2s.models.config import ModelConfig
from megas2s.models.output import ModelOutput, Reader
from megas2s.objectives.base import Batch, Example, Part, measure
from megas2s.spec import spec


class Pooled(Fixed):
    """What both kinds share: a head over one state of a text."""

    name: str
    pool: Literal["first", "mean"] | None

    def texts(self, columns: Columns) -> Sequence[str]:
        """The text, and the one beside it."""
        return pair_of(columns)

    def unused(self, config: ModelConfig) -> tuple[str, ...]:
        """The heads on the vocabulary."""
        return heads_apart(config)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """One for each real row whose label can be learnt."""
        return {self.name: _real(batch).float()}

    def source(self, record: Record, columns: Columns, facts: Facts) -> Example:
        """What the model reads, and which states stand for the text."""
        found = source_of(record, columns, facts)
        size = len(found["input_ids"])
        pooled = np.zeros(size, dtype=np.int64)
        if facts.is_seq2seq:
            pooled[-1] = 1
        elif (self.pool or ("mean" if facts.vocabulary.begin is None else "first")) == "first":
            pooled[0] = 1
        else:
            pooled[:] = 1
        return {**found, "pooled": pooled}

    def shaped_for(self, config: ModelConfig, classes: int) -> ModelConfig:
        """The model with a head of so many scores."""
        if config.is_seq2seq and self.pool is not None:
            raise ValueError(f"pool: {self.pool} is an encoder's; an encoder-decoder is read from its last state")
        return dataclasses.replace(config.without_heads(), text_classes=classes)


def _real(batch: Batch) -> Tensor:
    real = batch["sample"] >= 0
    return real & (batch["class"] >= 0) if "class" in batch else real


def scores_of(output: ModelOutput, batch: Batch) -> Tensor:
    """The head's scores of each text, (B, classes) in float32."""
    assert output.text_scores is not None, "`shaped` asks for this head"
    weights = batch["pooled"].unsqueeze(1).to(states(output).dtype)  # (B, 1, S)
    pooled = (weights @ states(output)).squeeze(1) / weights.sum(-1).clamp(min=1.0)
    return output.text_scores(pooled).float()


@spec
class Classify(Pooled):
    """One of the classes that the training data has."""

    name: Literal["classify"] = "classify"
    pool: Literal["first", "mean"] | None = None

    def named(self, record: Record, columns: Columns) -> Sequence[str]:
        """Its class."""
        return (_class(record, columns),)

    def shaped(self, config: ModelConfig, labels: Sequence[str]) -> ModelConfig:
        """A score for each class."""
        if len(labels) < 2:
            raise BadData(f"the training data has one class, {labels[0]!r}; there is nothing to tell apart")
        return self.shaped_for(config, len(labels))

    def example(self, record: Record, columns: Columns, facts: Facts) -> Example:
        """The text and its class."""
        label = _class(record, columns)
        place = facts.labels.index(label) if label in facts.labels else -1
        return {**self.source(record, columns, facts), "class": np.array(place)}

    def loss(self, output: ModelOutput, batch: Batch) -> dict[str, Part]:
        """Cross-entropy, and the share of right answers."""
        scores, real = scores_of(output, batch), _real(batch)
        each = F.cross_entropy(scores, batch["class"].clamp(min=0), reduction="none").where(real, 0.0)
        right = (scores.argmax(-1) == batch["class"]) & real
        return {self.name: Part(each.sum(), 1.0, each.detach()), "accuracy": measure(right.float(), real.float())}

    def predictions(self, model: Reader, batch: Batch, facts: Facts) -> Tensor:
        """The number of the likeliest class, (B,)."""
        return scores_of(model(batch), batch).argmax(-1)

    def answers(self, predictions: np.ndarray, examples: Sequence[Example], facts: Facts) -> list[Any]:
        """The class, by name."""
        return [facts.labels[int(number)] for number in predictions]

    def blanked(self, record: Record, columns: Columns, facts: Facts) -> Record:
        """Of any class."""
        return {**record, columns.label: facts.labels[0]}

    def references(
        self, records: Sequence[Record], examples: Sequence[Example], columns: Columns, facts: Facts
    ) -> list[Any]:
        """The class, by name."""
        return [_class(record, columns) for record in records]

    def scores(self, answers: Sequence[Any], references: Sequence[Any]) -> Scores:
        """Accuracy, macro-F1 and Matthews' correlation."""
        return of_classes(answers, references)


@spec
class Regress(Pooled):
    """A number, by the squared error."""

    name: Literal["regress"] = "regress"
    pool: Literal["first", "mean"] | None = None

    def named(self, record: Record, columns: Columns) -> Sequence[str]:
        """None."""
        return ()

    def shaped(self, config: ModelConfig, labels: Sequence[str]) -> ModelConfig:
        """One score."""
        return self.shaped_for(config, 1)

    def example(self, record: Record, columns: Columns, facts: Facts) -> Example:
        """The text and its number."""
        return {**self.source(record, columns, facts), "numbers": np.array(_number(record, columns))}

    def loss(self, output: ModelOutput, batch: Batch) -> dict[str, Part]:
        """The squared error."""
        scores, real = scores_of(output, batch)[:, 0], _real(batch)
        each = (scores - batch["numbers"].float()).square().where(real, 0.0)
        return {self.name: Part(each.sum(), 1.0, each.detach())}

    def predictions(self, model: Reader, batch: Batch, facts: Facts) -> Tensor:
        """The number, (B,)."""
        return scores_of(model(batch), batch)[:, 0]

    def answers(self, predictions: np.ndarray, examples: Sequence[Example], facts: Facts) -> list[Any]:
        """The number."""
        return [float(number) for number in predictions]

    def blanked(self, record: Record, columns: Columns, facts: Facts) -> Record:
        """With any number."""
        return {**record, columns.label: 0.0}

    def references(
        self, records: Sequence[Record], examples: Sequence[Example], columns: Columns, facts: Facts
    ) -> list[Any]:
        """The number."""
        return [_number(record, columns) for record in records]

    def scores(self, answers: Sequence[Any], references: Sequence[Any]) -> Scores:
        """Pearson's and Spearman's correlation."""
        return of_numbers(answers, references)


def _class(record: Record, columns: Columns) -> str:
    """A class is called by its text: 1 in a JSON line and "1" in a table are one."""
    label = value(record, columns.label)
    if isinstance(label, bool) or not isinstance(label, str | int):
        said = f"{columns.label!r} of a record is {label!r}; a class is a text or a whole number"
        raise BadRecord(said, f"{columns.label!r} is no class")
    return str(label)


def _number(record: Record, columns: Columns) -> float:
    label = value(record, columns.label)
    try:
        number = float(label)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(label, bool) or not math.isfinite(number):
        said = f"{columns.label!r} of a record is {label!r}, and a finite number is needed"
        raise BadRecord(said, f"{columns.label!r} is no finite number")
    return number
