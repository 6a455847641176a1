"""What a forward pass hands to an objective: hidden states and the heads that read them, never full logits.

`Reader` and `Writer` are what is asked of a model for its answers: `models.transformer` has it whole, and an engine
that has spread a model over ranks gives the same answers on every one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor


class TokenLoss(NamedTuple):
    """Cross-entropy of N positions against the vocabulary, in nats."""

    total: Tensor  # scalar with a graph
    each: Tensor  # (N,) float32 without a graph; 0 where the label is ignored


VocabularyLoss = Callable[[Tensor, Tensor], TokenLoss]  # ((N, D) hidden, (N,) labels) -> TokenLoss
Scores = Callable[[Tensor], Tensor]  # (..., D) hidden -> (..., classes)


class ModelOutput(NamedTuple):
    """The last hidden states of each stack, and the projection onto the vocabulary that belongs to each."""

    encoder_hidden: Tensor  # (B, S, D)
    decoder_hidden: Tensor | None  # (B, T, D)
    encoder_vocabulary_loss: VocabularyLoss | None  # the MLM head; an encoder-decoder has one if an objective asks
    decoder_vocabulary_loss: VocabularyLoss | None
    encoder_logits: Scores | None = None  # the MLM head's scores of the whole vocabulary, for few positions
    token_scores: Scores | None = None  # the head of `token_classes`
    text_scores: Scores | None = None  # the head of `text_classes`


class Steps(Protocol):
    """Decoding one position at a time."""

    def step(self, ids: Tensor) -> Tensor:
        """The decoder's states at the next position, which reads `ids` (B, 1): (B, 1, D)."""


class Reader(Protocol):
    """A model that is asked and not trained."""

    def __call__(self, batch: Mapping[str, Tensor]) -> ModelOutput:
        """The last states of a batch."""

    def most_likely(self, hidden: Tensor) -> Tensor:
        """The token with the best score at a few positions: (..., D) -> (...) int64."""


@runtime_checkable
class Writer(Reader, Protocol):
    """An encoder-decoder that is asked."""

    def encode(
        self,
        input_ids: Tensor,
        *,
        attention_mask: Tensor | None = None,
        segment_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> Tensor:
        """The encoder's states: (B, S) -> (B, S, D)."""

    def cache(self, memory: Tensor, attention_mask: Tensor | None, *, length: int) -> Steps:
        """For writing up to `length` tokens one at a time; memory (B, S, D) and mask (B, S) are the source's."""
