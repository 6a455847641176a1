"""T5 span corruption: replace random spans by sentinels and predict the spans.

    tokens       thank you for inviting me to your party
    input_ids    thank you <0> me to your <1> </s>
    labels       <0> for inviting <1> party </s>

Raffel et al. 2020, section 3.1.4: spans and what lies between them are uniform among all ways to cut n and R - n tokens
into K pieces of at least one, and a window begins with a piece that stays. Windows are longer than rows, such that
source and target fill theirs: 568 tokens make rows of 512 and 114.

The denoisers of UL2 (Tay et al. 2023, section 3.1) are values of this one, several of them a `mixture`:

    R    noise_density 0.15, mean_span_length 3 or 8
    X    noise_density 0.5, or mean_span_length 32 and more
    S    placement: end, one span that ends the window

`mode` puts a token before the source that says which one it is: a sentinel counted from the last. No span takes it, in
no denoiser of a mixture.
"""

from __future__ import annotations

import functools
import logging
from typing import Literal

import numpy as np

from megas2s.objectives.base import Example, RowLengths, Shape
from megas2s.objectives.noise import framed, span_counts, teacher_forced
from megas2s.objectives.teacher_forced import TeacherForced
from megas2s.spec import spec

log = logging.getLogger(__name__)


@spec
class SpanCorruption(TeacherForced):
    """Predict round(noise_density * R) tokens of a window, in spans of `mean_span_length` on average."""

    name: Literal["span_corruption"] = "span_corruption"
    noise_density: float = 0.15
    mean_span_length: float = 3.0  # without meaning where the placement is `end`
    placement: Literal["spread", "end"] = "spread"
    mode: int | None = None  # which sentinel opens the source, from the last: 0, 1, 2

    def __post_init__(self) -> None:
        if not 0 < self.noise_density < 1:
            raise ValueError(f"noise_density must lie in (0, 1), got {self.noise_density}")
        if not self.mean_span_length >= 1:
            raise ValueError(f"mean_span_length must be at least 1, got {self.mean_span_length}")
        if self.mode is not None and self.mode < 0:
            raise ValueError(f"mode must not be negative, got {self.mode}")

    @property
    def modes(self) -> int:
        """How many of the last sentinels open sources, as far as one denoiser knows."""
        return 0 if self.mode is None else self.mode + 1

    def window_size(self, shape: Shape, *, modes: int = 0) -> int:
        """The most tokens whose source and target fit, and whose spans the tokenizer has sentinels for.

        `modes` of the last sentinels open sources in the mixture around this denoiser.
        """
        sentinels = max(0, len(shape.vocabulary.sentinels) - max(modes, self.modes))
        longest = int(min(shape.source_length / (1 - self.noise_density), shape.target_length / self.noise_density)) + 2
        needed = fitting = 0
        for tokens in range(longest, 1, -1):
            noised, spans = self.spans(tokens)
            source, target, _ = self.row_lengths(tokens, shape)
            if source > shape.source_length or target > shape.target_length or not 0 < noised < tokens:
                continue
            if spans <= sentinels:
                if fitting:
                    _announce(tokens, fitting, sentinels)
                return tokens
            needed, fitting = spans, max(fitting, tokens)
        if needed:
            raise ValueError(
                f"objective span_corruption needs {needed} sentinels for the shortest windows, and the tokenizer has "
                f"{sentinels} for spans; bring a tokenizer with more"
            )
        raise ValueError(
            f"objective span_corruption takes no token out of windows that fit a source of {shape.source_length} and "
            f"a target of {shape.target_length}; lengthen them"
        )

    def row_lengths(self, tokens: int, shape: Shape) -> RowLengths:
        """Every row is full."""
        noised, spans = self.spans(tokens)
        ends, mode = shape.vocabulary.ends, int(self.mode is not None)
        return RowLengths(source=mode + tokens - noised + spans + ends, target=noised + spans + ends, full=True)

    def spans(self, tokens: int) -> tuple[int, int]:
        """(n, K): how many of `tokens` are predicted, in how many spans; both parts have room for K pieces."""
        noised, spans = span_counts(tokens, self.noise_density, self.mean_span_length)
        return noised, 1 if self.placement == "end" else min(spans, noised, tokens - noised)

    def corrupt(self, tokens: np.ndarray, rng: np.random.Generator, shape: Shape, number: int) -> Example:
        """Cut the window into pieces that stay and spans that go, in turns."""
        vocabulary = shape.vocabulary
        noised, spans = self.spans(len(tokens))
        stays = pieces(rng, len(tokens) - noised, spans)
        goes = pieces(rng, noised, spans)
        lengths = np.stack([stays, goes], axis=1).ravel()
        kind = np.repeat(np.tile([False, True], spans), lengths)  # whether a token belongs to a span
        sentinels = np.array(vocabulary.sentinels[:spans], dtype=np.int64)
        source = np.insert(tokens[~kind].astype(np.int64), stays.cumsum(), sentinels)
        target = np.insert(tokens[kind].astype(np.int64), goes.cumsum() - goes, sentinels)
        if self.mode is not None:
            source = np.concatenate(([vocabulary.sentinels[-1 - self.mode]], source))
        labels = framed(target, vocabulary)
        return {
            "input_ids": framed(source, vocabulary),
            "decoder_input_ids": teacher_forced(labels, shape.start),
            "labels": labels,
        }


@functools.cache  # every rank and every tool asks for the window more than once
def _announce(tokens: int, fitting: int, sentinels: int) -> None:
    log.info(
        "span_corruption: %d sentinels for spans allow windows of %d tokens, rows have room for %d; a tokenizer with "
        "more sentinels fills them", sentinels, tokens, fitting,
    )  # fmt: skip


def pieces(rng: np.random.Generator, total: int, count: int) -> np.ndarray:
    """Lengths of `count` pieces of at least 1 that add up to `total`, all ways equally likely."""
    cuts = rng.random(total - 1).argpartition(count - 1)[: count - 1] if count < total else np.arange(total - 1)
    cuts.sort()
    return np.diff(cuts + 1, prepend=0, append=total)
