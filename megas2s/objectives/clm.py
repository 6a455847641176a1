"""Continuation: read the beginning of a document, write the rest.

    document            thank you for inviting me to your party
    input_ids           [CLM] thank you for </s>
    labels              inviting me to your party </s>

AlexaTM 20B, section 3: the prefix is 20 to 80 % of a single document, uniformly. Of a window that holds pieces of
several documents the longest is used, without its [DOC]. Rows are padded: pieces and prefixes differ in length.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from megas2s.objectives.base import Example, RowLengths, Shape
from megas2s.objectives.noise import framed, teacher_forced
from megas2s.objectives.teacher_forced import TeacherForced
from megas2s.spec import spec


@spec
class CLM(TeacherForced):
    """Continue a document after a prefix whose share of it is drawn between min_prefix and max_prefix."""

    name: Literal["clm"] = "clm"
    min_prefix: float = 0.2
    max_prefix: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.min_prefix <= self.max_prefix < 1:
            raise ValueError(f"0 < min_prefix <= max_prefix < 1 must hold, got {self.min_prefix}, {self.max_prefix}")

    def window_size(self, shape: Shape) -> int:
        """The most tokens for which the longest prefix fits the source and the longest rest the target."""
        if shape.vocabulary.clm is None:
            raise ValueError("objective clm needs a [CLM] token, which the tokenizer lacks")
        longest = int(min(shape.source_length / self.max_prefix, shape.target_length / (1 - self.min_prefix))) + 1
        for tokens in range(longest, 1, -1):
            source, target, _ = self.row_lengths(tokens, shape)
            if source <= shape.source_length and target <= shape.target_length:
                return tokens
        raise ValueError(
            f"objective clm needs room for more than a source of {shape.source_length} and a target of "
            f"{shape.target_length}; lengthen them"
        )

    def row_lengths(self, tokens: int, shape: Shape) -> RowLengths:
        """Room for the longest prefix and, apart from it, for the longest rest."""
        ends = shape.vocabulary.ends
        return RowLengths(
            source=1 + _prefix(self.max_prefix, tokens) + ends,
            target=tokens - _prefix(self.min_prefix, tokens) + ends,
            full=False,
        )

    def corrupt(self, tokens: np.ndarray, rng: np.random.Generator, shape: Shape, number: int) -> Example:
        """Cut the longest document piece in two."""
        vocabulary = shape.vocabulary
        assert vocabulary.clm is not None, "window_size refuses this"
        piece = _longest_piece(tokens, vocabulary.doc)
        cut = _prefix(rng.uniform(self.min_prefix, self.max_prefix), len(piece))
        labels = framed(piece[cut:], vocabulary)
        return {
            "input_ids": framed(np.concatenate(([vocabulary.clm], piece[:cut])), vocabulary),
            "decoder_input_ids": teacher_forced(labels, shape.start),
            "labels": labels,
        }


def _prefix(share: float, tokens: int) -> int:
    """Tokens in a prefix: a rounded share, at least one where there is one."""
    return min(max(1, round(share * tokens)), tokens)


def _longest_piece(tokens: np.ndarray, doc: int | None) -> np.ndarray:
    """The longest run without a [DOC]; the first of equals."""
    ends = np.flatnonzero(tokens == doc) if doc is not None else np.empty(0, dtype=np.int64)
    if not len(ends):
        return tokens
    starts = np.concatenate(([0], ends + 1))
    lengths = np.append(ends, len(tokens)) - starts
    longest = int(lengths.argmax())
    return tokens[starts[longest] : starts[longest] + lengths[longest]]
