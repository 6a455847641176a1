"""Denoising: the source lacks some spans, the target is the whole window.

    tokens              thank you for inviting me to your party
    input_ids, delete   thank you me to party </s>                      AlexaTM 20B, section 3: no mask token
    input_ids, mask     thank you <mask> me to <mask> party </s>        BART, Lewis et al. 2020: text infilling
    labels              thank you for inviting me to your party </s>

A [DOC] is noised like any token. Rows have the same lengths whatever is drawn: see `noise.py`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from torch import Tensor

from megas2s.models.output import ModelOutput
from megas2s.objectives.base import Batch, Example, Part, RowLengths, Shape
from megas2s.objectives.losses import label_counts, vocabulary_part
from megas2s.objectives.noise import (
    draw_spans,
    framed,
    permute_sentences,
    span_counts,
    spans_as_masks,
    teacher_forced,
    without_spans,
)
from megas2s.spec import spec


@spec
class Denoising:
    """Restore a window from which round(noise_density * R) tokens were taken in spans of Poisson lengths."""

    name: Literal["denoising"] = "denoising"
    noise: Literal["delete", "mask"] = "delete"  # spans vanish, or each leaves one <mask>, empty spans too
    noise_density: float = 0.15
    mean_span_length: float = 3.0
    permute_sentences: bool = False  # shuffle the source's sentences within each document first

    def __post_init__(self) -> None:
        if not 0 < self.noise_density < 1:
            raise ValueError(f"noise_density must lie in (0, 1), got {self.noise_density}")
        if not self.mean_span_length > 0:
            raise ValueError(f"mean_span_length must be above 0, got {self.mean_span_length}")

    @property
    def architecture(self) -> Literal["seq2seq"]:
        """An encoder-decoder."""
        return "seq2seq"

    def window_size(self, shape: Shape) -> int:
        """The most tokens whose whole fits the target and whose rest, with masks, fits the source."""
        if self.noise == "mask" and shape.vocabulary.mask is None:
            raise ValueError("objective denoising with noise: mask needs a <mask> token, which the tokenizer lacks")
        ends = shape.vocabulary.ends
        for tokens in range(shape.target_length - ends, 0, -1):
            noised, _ = span_counts(tokens, self.noise_density, self.mean_span_length)
            if noised and self._source_tokens(tokens) + ends <= shape.source_length:
                return tokens
        raise ValueError(
            f"objective denoising takes no token out of windows that fit a source of {shape.source_length} and a "
            f"target of {shape.target_length}; lengthen them"
        )

    def row_lengths(self, tokens: int, shape: Shape) -> RowLengths:
        """Every row is full."""
        ends = shape.vocabulary.ends
        return RowLengths(source=self._source_tokens(tokens) + ends, target=tokens + ends, full=True)

    def corrupt(self, tokens: np.ndarray, rng: np.random.Generator, shape: Shape, number: int) -> Example:
        """Take the spans out of the source; the target keeps every token."""
        vocabulary = shape.vocabulary
        source = permute_sentences(tokens, rng, vocabulary) if self.permute_sentences else tokens
        spans = draw_spans(rng, len(tokens), *span_counts(len(tokens), self.noise_density, self.mean_span_length))
        if self.noise == "delete":
            source = without_spans(source, spans)
        else:
            assert vocabulary.mask is not None, "window_size refuses this"
            source = spans_as_masks(source, spans, vocabulary.mask)
        labels = framed(tokens, vocabulary)
        return {
            "input_ids": framed(source, vocabulary),
            "decoder_input_ids": teacher_forced(labels, shape.start),
            "labels": labels,
        }

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """The target tokens of each row, `</s>` included."""
        return {self.name: label_counts(batch["labels"])}

    def loss(self, output: ModelOutput, batch: Batch) -> dict[str, Part]:
        """Cross-entropy of the target."""
        assert output.decoder_hidden is not None, "denoising trains an encoder-decoder"
        assert output.decoder_vocabulary_loss is not None, "an encoder-decoder has a head"
        part = vocabulary_part(output.decoder_vocabulary_loss, output.decoder_hidden, batch["labels"])
        return {self.name: part}

    def _source_tokens(self, tokens: int) -> int:
        noised, spans = span_counts(tokens, self.noise_density, self.mean_span_length)
        return tokens - noised + (spans if self.noise == "mask" else 0)
