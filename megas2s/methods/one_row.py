"""s2s-ft: an encoder that learns to write, with nothing added to it (Bao et al. 2021, arXiv 2110.13640).

    method          source           target          learnt from
    causal          [CLS] x          [SEP] y         what follows each token of the target; the end is [SEP]
    masked          [CLS] x [SEP]    y [SEP]         some tokens of the target that are masked
    pseudo_masked   [CLS] x [SEP]    y [SEP]         a pseudo token for each one of the target, at its position

[CLS] is what opens the tokenizer's rows, where it has such a token, [SEP] what ends them. Who sees whom is
`models.packed`'s. What is drawn is drawn anew whenever an example is read: a token stays with `keep_prob`, becomes any
with `random_prob`, else the mask. A language's tag before x or y is never drawn anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from megas2s.data.records import Record
from megas2s.decoding.rules import Rules
from megas2s.errors import BadConfig, BadRecord
from megas2s.labels import IGNORED
from megas2s.methods.base import Columns, Facts, row_of
from megas2s.methods.writing import Writing, check_smoothing, forced, target_of
from megas2s.models.config import ModelConfig
from megas2s.models.output import ModelOutput
from megas2s.objectives.base import Batch, Example, Part
from megas2s.objectives.noise import special_table
from megas2s.spec import spec
from megas2s.tokenizer.vocab import Vocabulary


@spec
class OneRow(Writing):
    """What the three have in common. Shares are of tokens; `target_mask_prob` is 0.4 to 0.8 in the published runs."""

    target_mask_prob: float = 0.5
    source_mask_prob: float = 0.0  # of the source, special tokens apart
    keep_prob: float = 0.1
    random_prob: float = 0.1
    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        for name in ("target_mask_prob", "source_mask_prob", "keep_prob", "random_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        if self.keep_prob + self.random_prob > 1:
            raise ValueError(f"keep_prob {self.keep_prob} and random_prob {self.random_prob} add up to more than 1")
        check_smoothing(self.label_smoothing)

    def shaped(self, config: ModelConfig, labels: Sequence[str]) -> ModelConfig:
        """The encoder with its head for masked language modelling."""
        if config.is_seq2seq:
            raise ValueError(
                f"method {self.name} teaches an encoder to write, and these weights have a decoder; use "
                "method: {name: seq2seq}, or part: encoder"
            )
        return config.without_heads()

    def check(self, vocabulary: Vocabulary) -> None:
        """Refuse a tokenizer without the token that stands for what is to be guessed."""
        if vocabulary.mask is None:
            raise BadConfig(
                f"method {self.name} needs a mask token, and the tokenizer has none; teach the encoder-decoder with "
                "method: {name: seq2seq}, or take an encoder that was pretrained with masks"
            )

    def example(self, record: Record, columns: Columns, facts: Facts) -> Example:
        """Source, target and labels, each cut to its length, nothing drawn yet."""
        labels = target_of(record, columns, facts)
        return {
            "input_ids": self.source(record, columns, facts),
            "target_ids": labels,
            "labels": labels,
            **forced(facts),
        }

    def source(self, record: Record, columns: Columns, facts: Facts) -> np.ndarray:
        """The row that the model reads: [CLS] x [SEP], of a pair of texts [CLS] x [SEP] z [SEP]."""
        return row_of(record, columns, facts)[0]

    def corrupt(self, example: Example, rng: np.random.Generator, facts: Facts, *, source: bool) -> Example:
        """What is learnt from an example this time; `source`: whether that is noised too."""
        found = self.noised(example, rng, facts)
        if not source or not self.source_mask_prob:
            return found
        row = example["input_ids"]
        text = ~special_table(facts.vocabulary)[row]
        chosen = text & (rng.random(len(row)) < self.source_mask_prob)
        return {**found, "input_ids": np.where(chosen, self.draw(row, rng, facts), row)}

    def noised(self, example: Example, rng: np.random.Generator, facts: Facts) -> Example:
        """The example with a target that says less than the labels."""
        raise NotImplementedError

    def draw(self, tokens: np.ndarray, rng: np.random.Generator, facts: Facts) -> np.ndarray:
        """For each token itself, any token of text, or the mask: (N,)."""
        vocabulary = facts.vocabulary
        assert vocabulary.mask is not None, "`check` asks for a mask"
        fate = rng.random(len(tokens))
        anything = rng.choice(vocabulary.ordinary, len(tokens)).astype(tokens.dtype)
        drawn = np.where(fate < self.keep_prob + self.random_prob, anything, vocabulary.mask)
        return np.where(fate < self.keep_prob, tokens, drawn)

    def loss(self, output: ModelOutput, batch: Batch) -> dict[str, Part]:
        """Of the labels, at the states of the last block."""
        assert output.encoder_vocabulary_loss is not None, "an encoder has this head"
        return self.parts(output.encoder_vocabulary_loss, output.encoder_hidden, batch["labels"])


@spec
class Causal(OneRow):
    """Read each token, predict the next one; tokens that are read, the first apart, are noised."""

    name: Literal["causal"] = "causal"

    def source(self, record: Record, columns: Columns, facts: Facts) -> np.ndarray:
        """[CLS] x: the end of the source opens the target."""
        row = row_of(record, columns, facts._replace(length=facts.length + 1))[0][:-1]
        if not len(row):
            raise BadRecord(
                "a record has an empty source; method causal needs one, unless the tokenizer opens rows",
                f"{columns.text!r} is empty",
            )
        return row

    def rules(self, facts: Facts) -> Rules:
        """[SEP] is read first, whatever a decoder would read."""
        return super().rules(facts)._replace(start=facts.vocabulary.eos)

    def example(self, record: Record, columns: Columns, facts: Facts) -> Example:
        """The target one later, after [SEP]."""
        found = dict(super().example(record, columns, facts))
        found["target_ids"] = np.concatenate([[facts.vocabulary.eos], found["labels"][:-1]])
        return found

    def noised(self, example: Example, rng: np.random.Generator, facts: Facts) -> Example:
        """Each token that is read, the first apart, is drawn anew with `target_mask_prob`."""
        row = example["target_ids"]
        chosen = rng.random(len(row)) < self.target_mask_prob
        chosen[: _free(row, 1, facts)] = False
        return {**example, "target_ids": np.where(chosen, self.draw(row, rng, facts), row)}


class Guessing(OneRow):
    """Those that are taught to fill masks, and write by filling one at a time."""

    def rules(self, facts: Facts) -> Rules:
        """With the mask that is to be filled."""
        return super().rules(facts)._replace(mask=facts.vocabulary.mask)


@spec
class Masked(Guessing):
    """Fill masks among the target's tokens: a share of them, as many as are said at most and one at least."""

    name: Literal["masked"] = "masked"
    max_masked: int | None = None  # tokens of a target; absent: no bound

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_masked is not None and self.max_masked < 1:
            raise ValueError(f"max_masked must be at least 1, got {self.max_masked}")

    def noised(self, example: Example, rng: np.random.Generator, facts: Facts) -> Example:
        """Exactly that many tokens are drawn anew, and they alone carry loss."""
        row = example["target_ids"]
        first = _free(row, 0, facts)
        count = max(1, int(self.target_mask_prob * (len(row) - first)))
        chosen = first + rng.permutation(len(row) - first)[: min(count, self.max_masked or count)]
        mark = np.zeros(len(row), dtype=bool)
        mark[chosen] = True
        target = np.where(mark, self.draw(row, rng, facts), row)
        return {**example, "target_ids": target, "labels": np.where(mark, example["labels"], IGNORED)}


@spec
class PseudoMasked(Guessing):
    """Fill a pseudo token for each one of the target. With `span_length` above 1 spans of them are filled at once.

    A span is one token, or with `span_prob` 2 to `span_length`: partially autoregressive (Bao et al. 2020, UniLM 2).
    """

    name: Literal["pseudo_masked"] = "pseudo_masked"
    span_length: int = 1
    span_prob: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.span_length < 1:
            raise ValueError(f"span_length must be at least 1, got {self.span_length}")
        if not 0 <= self.span_prob <= 1:
            raise ValueError(f"span_prob must lie in [0, 1], got {self.span_prob}")

    def noised(self, example: Example, rng: np.random.Generator, facts: Facts) -> Example:
        """Pseudo tokens are drawn from the target's; a share of those becomes what their pseudo tokens are."""
        row = example["target_ids"]
        pseudo = self.draw(row, rng, facts)
        chosen = rng.random(len(row)) < self.target_mask_prob
        chosen[: _free(row, 0, facts)] = False
        found: Mapping[str, np.ndarray] = {"target_ids": np.where(chosen, pseudo, row), "pseudo_ids": pseudo}
        spans = {"target_spans": self._spans(len(row), rng)} if self.span_length > 1 else {}
        return {**example, **found, **spans}

    def _spans(self, length: int, rng: np.random.Generator) -> np.ndarray:
        """The number of the span that each token is in: (T,) ascending from 0."""
        sizes: list[int] = []
        while sum(sizes) < length:
            longer = rng.random() < self.span_prob
            sizes.append(int(rng.integers(2, self.span_length + 1)) if longer else 1)
        return np.repeat(np.arange(len(sizes)), sizes)[:length]


def _free(row: np.ndarray, place: int, facts: Facts) -> int:
    """The first place of a row that may be noised: `place`, or the next one where a language's tag stands there."""
    tagged = len(row) > place and int(row[place]) in facts.vocabulary.languages.values()
    return place + tagged


def blocks_of(method: object) -> int:
    """Blocks as long as a target in a row that a method teaches by: the pseudo tokens' beside the target's own."""
    return 2 if isinstance(method, PseudoMasked) else 1
