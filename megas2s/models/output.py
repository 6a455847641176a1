"""What a forward pass hands to an objective: hidden states and the heads that read them, never full logits.

`Reader` and `Writer` are what is asked of a model for its answers: `models.transformer` has it whole, and an engine
that has spread a model over ranks gives the same answers on every one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor


class TokenLoss(NamedTuple):
    """What N labels cost against the vocabulary, in nats: cross-entropy, or with smoothing what is minimised then."""

    total: Tensor  # scalar with a graph
    each: Tensor  # (N,) float32 without a graph; 0 where the label is ignored
    nll: Tensor  # (N,) likewise, without smoothing


class VocabularyLoss(Protocol):
    """A head, with the labels it is to predict."""

    def __call__(self, hidden: Tensor, labels: Tensor, *, smoothing: float = 0.0) -> TokenLoss:
        """The loss of `labels` (N,) at `hidden` (N, D); `models.loss` defines smoothing."""


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
    """Writing one token at a time, R rows at once."""

    def step(self, ids: Tensor) -> Tensor:
        """The states that the next token is read from, once `ids` (R, 1) are read: (R, 1, D)."""

    def reorder(self, rows: Tensor) -> None:
        """Row r goes on from what row `rows[r]`, of the same source, has been given; (R,)."""


class Reader(Protocol):
    """A model that is asked and not trained."""

    def __call__(self, batch: Mapping[str, Tensor]) -> ModelOutput:
        """The last states of a batch."""

    def most_likely(self, hidden: Tensor) -> Tensor:
        """The token with the best score at a few positions: (..., D) -> (...) int64."""


@runtime_checkable
class Writer(Reader, Protocol):
    """A model that is asked to write."""

    def begin(self, batch: Mapping[str, Tensor], *, length: int, copies: int = 1, mask: int | None = None) -> Steps:
        """For writing up to `length` tokens for each source of a batch, `copies` rows of them side by side.

        `mask` is the id that a model fills which was taught to; without one, each token is read from the one before.
        """

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the whole vocabulary at a few positions: (..., D) -> (..., V)."""
