"""What a forward pass hands to an objective: hidden states and the heads that read them, never full logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

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
