"""What methods that write a text have in common: columns, answers, scores, and a loss on the vocabulary."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from megas2s.data.records import Record
from megas2s.decoding.rules import Rules
from megas2s.decoding.search import everywhere, greedy
from megas2s.errors import BadConfig, BadRecord
from megas2s.methods.base import Columns, Facts, pair_of, tokens_of, value
from megas2s.metrics.scores import Scores, of_texts
from megas2s.models.config import ModelConfig
from megas2s.models.output import Reader, VocabularyLoss, Writer
from megas2s.objectives.base import Batch, Example, Part, measure
from megas2s.objectives.losses import label_counts
from megas2s.spec import nearest, plain

FORCED = "forced_ids"  # of an example: what its answer begins with, (P,)
BLANK: list[int] = []  # what a record of a test set has for a text that nobody knows


class Writing:
    """Answers are texts, written greedily; references are the texts of the data, whole."""

    name: str
    label_smoothing: float

    def texts(self, columns: Columns) -> Sequence[str]:
        """What is read and what is written."""
        return (*pair_of(columns), columns.label)

    def named(self, record: Record, columns: Columns) -> Sequence[str]:
        """No classes."""
        return ()

    def example(self, record: Record, columns: Columns, facts: Facts) -> Example:
        """One record, unpadded: `input_ids`, and what is to be written."""
        raise NotImplementedError

    def unused(self, config: ModelConfig) -> tuple[str, ...]:
        """Nothing stands still."""
        return ()

    def rules(self, facts: Facts) -> Rules:
        """How the model writes: what it reads first, what ends a text, how long it may be."""
        vocabulary = facts.vocabulary
        return Rules(start=facts.start, eos=vocabulary.eos, pad=vocabulary.pad, length=facts.target_length)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """The tokens of each row that carry loss."""
        return {self.name: label_counts(batch["labels"])}

    def parts(self, loss: VocabularyLoss, hidden: Tensor, labels: Tensor) -> dict[str, Part]:
        """What `labels` (B, N) cost at states (B, N, D); with smoothed labels also what they cost without, as nll."""
        found = loss(hidden.flatten(0, 1), labels.flatten(), smoothing=self.label_smoothing)
        parts = {self.name: Part(found.total, 1.0, found.each.view(labels.shape).sum(dim=1))}
        if self.label_smoothing:
            parts["nll"] = measure(found.nll.view(labels.shape).sum(dim=1), label_counts(labels))
        return parts

    def predictions(self, model: Reader, batch: Batch, facts: Facts) -> Tensor:
        """What the model writes, (B, target_length)."""
        assert isinstance(model, Writer), "`shaped` refuses a model that does not write"
        rules = self.rules(facts)._replace(prefix=batch.get(FORCED))
        return greedy(model, batch, rules, goes_on=everywhere).ids[:, 0]

    def answers(self, predictions: np.ndarray, examples: Sequence[Example], facts: Facts) -> list[Any]:
        """The text, without special tokens."""
        return [facts.tokenizer.decode(row) for row in predictions]

    def blanked(self, record: Record, columns: Columns, facts: Facts) -> Record:
        """With nothing to be written."""
        return {**record, columns.label: BLANK}

    def references(
        self, records: Sequence[Record], examples: Sequence[Example], columns: Columns, facts: Facts
    ) -> list[Any]:
        """The text as it is in the data, whole."""
        given = [value(record, columns.label) for record in records]
        return [
            text if isinstance(text, str) else facts.tokenizer.decode(tokens_of(record, columns.label, facts.tokenizer))
            for record, text in zip(records, given, strict=True)
        ]

    def scores(self, answers: Sequence[Any], references: Sequence[Any]) -> Scores:
        """ROUGE, BLEU, chrF and exact match."""
        return of_texts(answers, references)


def target_of(record: Record, columns: Columns, facts: Facts) -> np.ndarray:
    """What is to be written, int64: the language's tag, tokens, cut to the length that there is, and the end."""
    tokens = tokens_of(record, columns.label, facts.tokenizer)
    if not len(tokens) and record[columns.label] is not BLANK:
        said = f"{columns.label!r} of a record is empty: there is nothing to learn to write; leave it out"
        raise BadRecord(said, f"{columns.label!r} is empty")
    tag = [] if facts.target_tag is None else [facts.target_tag]
    kept = tokens[: facts.target_length - 1 - len(tag)].tolist()
    return np.array([*tag, *kept, facts.vocabulary.eos], dtype=np.int64)


def forced(facts: Facts) -> Example:
    """The field of an example whose answer begins with its language's tag: decoding puts that there."""
    return {} if facts.target_tag is None else {FORCED: np.array([facts.target_tag])}


def tag_of(facts: Facts, language: str) -> int:
    """The id of a language's tag; BadConfig where it has none."""
    known = facts.vocabulary.languages
    if language not in known:
        hint = nearest(language, known) if known else "it has none"
        raise BadConfig(f"the tokenizer has no tag for the language {language!r}; {hint}")
    return known[language]


def tagged_language(record: Record, column: str, facts: Facts) -> str:
    """The language that a record says in `column`; raises BadRecord where the tokenizer has no tag for it."""
    language = str(value(record, column))
    try:
        tag_of(facts, language)
    except BadConfig as error:
        raise BadRecord(f"{column!r} of a record: {error}", f"{column!r} names a language without a tag") from None
    return language


def with_tags(facts: Facts, tags: str, language: str) -> Facts:
    """The facts for texts of a language, whose tag opens `source`, `target` or `both`; BadConfig where it has none."""
    tag = tag_of(facts, language)
    source, target = (tag if tags in (side, "both") else None for side in ("source", "target"))
    return facts._replace(source_tag=source, target_tag=target)


def described(method: object, columns: Columns, facts: Facts) -> dict[str, str]:
    """What is written beside weights, so that they can be decoded: the method, the columns and the longest rows."""
    return {
        "method": json.dumps(plain(type(method), method)),
        "columns": json.dumps(plain(Columns, columns)),
        "length": str(facts.length),
        "target_length": str(facts.target_length),
    }


def check_smoothing(amount: float) -> None:
    """Refuse labels that are not right any more."""
    if not 0 <= amount < 1:
        raise ValueError(f"label_smoothing must lie in [0, 1), got {amount}")
