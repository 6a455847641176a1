"""Denoising: the source lacks some spans, the target is the whole window.

    tokens              thank you for inviting me to your party
    input_ids, delete   thank you me to party </s>                      AlexaTM 20B, section 3: no mask token
    input_ids, mask     thank you <mask> me to <mask> party </s>        BART, Lewis et al. 2020: text infilling
    labels              thank you for inviting me to your party </s>

BART's other transformations (section 2.2 there) can come first or instead: sentences in another order, single tokens
deleted or masked; and last, the window rotated to begin at a random token.

What separates documents is noised like any token, as in BART's code; what frames a row never is. Rows have the same
lengths whatever is drawn (see `noise.py`), unless spans are of whole words: then rows are padded.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from megas2s.objectives.base import Example, RowLengths, Shape
from megas2s.objectives.noise import (
    draw_spans_of_tokens,
    draw_word_spans,
    framed,
    permute_sentences,
    span_counts,
    spans_as_masks,
    teacher_forced,
    without_spans,
)
from megas2s.objectives.teacher_forced import TeacherForced
from megas2s.spec import spec
from megas2s.tokenizer.vocab import Vocabulary


@spec
class Denoising(TeacherForced):
    """Restore a window from which round(noise_density * R) tokens were taken in spans of Poisson lengths."""

    name: Literal["denoising"] = "denoising"
    noise: Literal["delete", "mask"] = "delete"  # spans vanish, or each leaves one <mask>, empty spans too
    noise_density: float = 0.15
    mean_span_length: float = 3.0
    whole_word: bool = False  # spans of whole words, their lengths counted in words (fairseq's BART)
    permute_sentences: bool = False  # shuffle the source's sentences within each document first
    token_deletion: float = 0.0  # share of single tokens that vanish
    token_masking: float = 0.0  # share of the rest that become <mask>
    rotation: float = 0.0  # chance that the source is rotated

    def __post_init__(self) -> None:
        if not self.token_deletion and not self.token_masking and not 0 < self.noise_density < 1:
            raise ValueError(f"noise_density must lie in (0, 1), got {self.noise_density}")
        for name in ("noise_density", "token_deletion", "token_masking"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        if not 0 <= self.rotation <= 1:
            raise ValueError(f"rotation must lie in [0, 1], got {self.rotation}")
        if not self.mean_span_length > 0:
            raise ValueError(f"mean_span_length must be above 0, got {self.mean_span_length}")
        if self.whole_word and self.mean_span_length < 1:
            raise ValueError(
                f"whole_word counts lengths in words: mean_span_length must be at least 1, got {self.mean_span_length}"
            )

    def window_size(self, shape: Shape) -> int:
        """The most tokens whose whole fits the target and whose rest, with masks, fits the source."""
        if shape.vocabulary.mask is None and (self.noise == "mask" or self.token_masking):
            wish = "noise: mask" if self.noise == "mask" else "token_masking"
            raise ValueError(f"objective denoising with {wish} needs a <mask> token, which the tokenizer lacks")
        for tokens in range(shape.target_length - shape.vocabulary.ends, 0, -1):
            if self._is_noised(tokens) and self.row_lengths(tokens, shape).source <= shape.source_length:
                return tokens
        raise ValueError(
            f"objective denoising takes no token out of windows that fit a source of {shape.source_length} and a "
            f"target of {shape.target_length}; lengthen them"
        )

    def row_lengths(self, tokens: int, shape: Shape) -> RowLengths:
        """Every row is full, but where whole words are taken: then at least as many tokens go as masks come."""
        ends = shape.vocabulary.ends
        rest = tokens - self._deleted(tokens)
        if self.whole_word:
            return RowLengths(source=rest + ends, target=tokens + ends, full=False)
        noised, spans = span_counts(rest, self.noise_density, self.mean_span_length)
        source = rest - noised + (spans if self.noise == "mask" else 0)
        return RowLengths(source=source + ends, target=tokens + ends, full=True)

    def corrupt(self, tokens: np.ndarray, rng: np.random.Generator, shape: Shape, number: int) -> Example:
        """Noise the source; the target keeps every token."""
        labels = framed(tokens, shape.vocabulary)
        return {
            "input_ids": framed(self.source(tokens, rng, shape.vocabulary), shape.vocabulary),
            "decoder_input_ids": teacher_forced(labels, shape.start),
            "labels": labels,
        }

    def source(self, tokens: np.ndarray, rng: np.random.Generator, vocabulary: Vocabulary) -> np.ndarray:
        """The noised tokens, without those around a row."""
        source = permute_sentences(tokens, rng, vocabulary) if self.permute_sentences else tokens
        if count := self._deleted(len(source)):
            source = np.delete(source, _some(rng, len(source), count))
        if count := round(self.token_masking * len(source)):
            source = source.astype(np.int64)
            source[_some(rng, len(source), count)] = vocabulary.mask
        draw = draw_word_spans if self.whole_word else draw_spans_of_tokens
        spans = draw(rng, source, vocabulary, self.noise_density, self.mean_span_length)
        if spans is not None and self.noise == "delete":
            source = without_spans(source, spans)
        elif spans is not None:
            assert vocabulary.mask is not None, "window_size refuses this"
            source = spans_as_masks(source, spans, vocabulary.mask)
        if self.rotation and rng.random() < self.rotation:
            source = np.roll(source, -int(rng.integers(len(source))))
        return source

    def _deleted(self, tokens: int) -> int:
        """Single tokens that vanish; one stays, however short a window is."""
        return min(round(self.token_deletion * tokens), tokens - 1)

    def _is_noised(self, tokens: int) -> bool:
        shares = (self.noise_density, self.token_deletion, self.token_masking)
        return any(round(share * tokens) for share in shares)


def _some(rng: np.random.Generator, total: int, count: int) -> np.ndarray:
    """`count` different places below `total`, all sets equally likely."""
    return rng.random(total).argpartition(count - 1)[:count]
