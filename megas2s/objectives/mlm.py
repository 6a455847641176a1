"""Masked language modelling: hide some tokens of a window and predict exactly those.

    tokens             the cat sat on the mat            R = 6, mask_probability 0.33: k = 2
    input_ids          the <mask> sat on the mat </s>
    masked_positions   1 4
    labels             cat the                           the second one was kept as it is

Devlin et al. 2019 (80 % masked, 10 % random, 10 % kept, drawn for each position); RoBERTa's fresh masks; exactly k
positions per row, so that the projection onto the vocabulary runs on (B, k) and not on (B, S).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from torch import Tensor

from megas2s.labels import IGNORED
from megas2s.models.output import ModelOutput
from megas2s.objectives.base import Batch, Example, Part, Plain, RowLengths, Shape
from megas2s.objectives.losses import at_positions, label_counts, vocabulary_part
from megas2s.objectives.noise import framed, special_table, word_places
from megas2s.spec import spec
from megas2s.tokenizer.vocab import Vocabulary


@spec
class MLM(Plain):
    """Predict round(mask_probability * R) tokens of each window; special tokens are never among them."""

    name: Literal["mlm"] = "mlm"
    mask_probability: float = 0.15
    keep: float = 0.1  # share of the predicted tokens that stay visible
    random: float = 0.1  # share that is replaced by a random token of text
    whole_word: bool = False  # mask whole words, by the tokenizer's word starts

    def __post_init__(self) -> None:
        if not 0 < self.mask_probability < 1:
            raise ValueError(f"mask_probability must lie in (0, 1), got {self.mask_probability}")
        if not (self.keep >= 0 and self.random >= 0 and self.keep + self.random <= 1):
            raise ValueError(f"keep and random must be shares of 1 together, got {self.keep} and {self.random}")

    @property
    def architecture(self) -> Literal["encoder"]:
        """An encoder with a head on the vocabulary."""
        return "encoder"

    def window_size(self, shape: Shape) -> int:
        """Every column but those of the tokens around the text."""
        if shape.vocabulary.mask is None:
            raise ValueError("objective mlm needs a <mask> token, which the tokenizer lacks")
        tokens = shape.source_length - shape.vocabulary.ends
        if self.predicted(tokens) < 1:
            raise ValueError(f"objective mlm predicts no token of rows of {shape.source_length}; lengthen them")
        return tokens

    def row_lengths(self, tokens: int, shape: Shape) -> RowLengths:
        """Every row is full."""
        return RowLengths(source=tokens + shape.vocabulary.ends, target=0, full=True)

    def predicted(self, tokens: int) -> int:
        """k, the label slots of a window of so many tokens."""
        return round(self.mask_probability * tokens)

    def corrupt(self, tokens: np.ndarray, rng: np.random.Generator, shape: Shape, number: int) -> Example:
        """Mask, replace or keep the chosen tokens. Where too few can be chosen the last label slots are ignored."""
        vocabulary = shape.vocabulary
        slots = self.predicted(len(tokens))
        choose = _choose_words if self.whole_word else _choose_tokens
        chosen = choose(tokens, slots, rng, vocabulary) + (vocabulary.ends - 1)
        row = framed(tokens, vocabulary)
        labels = row[chosen]
        fate = rng.random(len(chosen))
        row[chosen[fate >= self.keep + self.random]] = vocabulary.mask
        replaced = (fate < self.random).nonzero()[0]
        if len(replaced):  # uniform below `random`: the same draw says by which token
            which = (fate[replaced] * (len(vocabulary.ordinary) / self.random)).astype(np.int64)
            row[chosen[replaced]] = vocabulary.ordinary.take(which, mode="clip")
        if len(chosen) < slots:
            missing = slots - len(chosen)
            labels = np.append(labels, np.full(missing, IGNORED))
            chosen = np.append(chosen, np.zeros(missing, dtype=np.int64))
        return {"input_ids": row, "masked_positions": chosen, "labels": labels}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """The predicted tokens of each row."""
        return {self.name: label_counts(batch["labels"])}

    def loss(self, output: ModelOutput, batch: Batch, step: int | None = None) -> dict[str, Part]:
        """Cross-entropy at the predicted positions."""
        assert output.encoder_vocabulary_loss is not None, "mlm trains an encoder with its head"
        hidden = at_positions(output.encoder_hidden, batch["masked_positions"])
        return {self.name: vocabulary_part(output.encoder_vocabulary_loss, hidden, batch["labels"])}


def _choose_tokens(tokens: np.ndarray, count: int, rng: np.random.Generator, vocabulary: Vocabulary) -> np.ndarray:
    """`count` places of text in ascending order, all sets equally likely; fewer where the window has fewer."""
    special = special_table(vocabulary).take(tokens)
    keys = rng.random(len(tokens))
    if specials := int(np.count_nonzero(special)):
        keys[special] = 1.0  # beyond every other
        count = min(count, len(tokens) - specials)
    chosen = keys.argpartition(count)[:count] if count < len(tokens) else np.arange(count)
    chosen.sort()
    return chosen


def _choose_words(tokens: np.ndarray, count: int, rng: np.random.Generator, vocabulary: Vocabulary) -> np.ndarray:
    """The places of random words, up to `count` tokens: words come in random order, one that does not fit is passed by.

    A special token is no word and ends the one before it.
    """
    special = special_table(vocabulary)[tokens]
    first = word_places(tokens, vocabulary)
    lengths = np.diff(first, append=len(tokens))
    words = np.flatnonzero(~special[first])
    taken, room = [], count
    for word in rng.permutation(words).tolist():
        if lengths[word] <= room:
            taken.append(word)
            room -= int(lengths[word])
            if not room:
                break
    mark = np.zeros(len(first), dtype=bool)
    mark[taken] = True
    return np.flatnonzero(np.repeat(mark, lengths))
