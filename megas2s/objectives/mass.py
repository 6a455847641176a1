"""MASS: hide one contiguous span behind masks and predict it.

    tokens       thank you for inviting me to your party     R = 8, span_share 0.5: n = 4
    input_ids    thank you <mask> <mask> <mask> <mask> your party </s>
    labels       for inviting me to </s>

Song et al. 2019, section 3: half of a sentence, from a uniform place. 80 % of its tokens become masks in the source,
10 % random tokens, 10 % stay.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from megas2s.objectives.base import Example, RowLengths, Shape
from megas2s.objectives.noise import framed, teacher_forced
from megas2s.objectives.teacher_forced import TeacherForced
from megas2s.spec import spec


@spec
class MASS(TeacherForced):
    """Predict a span of round(span_share * R) tokens."""

    name: Literal["mass"] = "mass"
    span_share: float = 0.5
    keep: float = 0.1  # share of the span's tokens that stay visible
    random: float = 0.1  # share that is replaced by a random token of text

    def __post_init__(self) -> None:
        if not 0 < self.span_share <= 1:
            raise ValueError(f"span_share must lie in (0, 1], got {self.span_share}")
        if not (self.keep >= 0 and self.random >= 0 and self.keep + self.random <= 1):
            raise ValueError(f"keep and random must be shares of 1 together, got {self.keep} and {self.random}")

    def window_size(self, shape: Shape) -> int:
        """Every column of the source but those around the text, if the span fits the target."""
        if shape.vocabulary.mask is None:
            raise ValueError("objective mass needs a <mask> token, which the tokenizer lacks")
        for tokens in range(shape.source_length - shape.vocabulary.ends, 0, -1):
            if self.span(tokens) and self.row_lengths(tokens, shape).target <= shape.target_length:
                return tokens
        raise ValueError(
            f"objective mass hides no token of windows that fit a source of {shape.source_length} and a target of "
            f"{shape.target_length}; lengthen them"
        )

    def row_lengths(self, tokens: int, shape: Shape) -> RowLengths:
        """Every row is full."""
        ends = shape.vocabulary.ends
        return RowLengths(source=tokens + ends, target=self.span(tokens) + ends, full=True)

    def span(self, tokens: int) -> int:
        """n, the length of the span."""
        return round(self.span_share * tokens)

    def corrupt(self, tokens: np.ndarray, rng: np.random.Generator, shape: Shape, number: int) -> Example:
        """Hide the span in the source; the target is the span."""
        vocabulary = shape.vocabulary
        assert vocabulary.mask is not None, "window_size refuses this"
        length = self.span(len(tokens))
        start = int(rng.integers(len(tokens) - length + 1))
        inside = slice(start, start + length)
        source = tokens.astype(np.int64)
        fate = rng.random(length)
        replaced = vocabulary.ordinary[rng.integers(len(vocabulary.ordinary), size=length)]
        hidden = np.where(fate < self.keep + self.random, replaced, vocabulary.mask)
        source[inside] = np.where(fate < self.keep, source[inside], hidden)
        labels = framed(tokens[inside], vocabulary)
        return {
            "input_ids": framed(source, vocabulary),
            "decoder_input_ids": teacher_forced(labels, shape.start),
            "labels": labels,
        }
