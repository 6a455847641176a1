"""What an objective is: how a window becomes an example, and how a model's output becomes losses.

    shape = Shape(vocabulary, source_length=512, target_length=512)
    tokens = windows[i]                                   # objective.window_size(shape) raw tokens
    example = objective.corrupt(tokens, rng, shape, n)    # NumPy, in a loader worker
    output = model(objective.inputs(batch))               # torch, in the engine
    losses = objective.loss(output, batch, step)

An objective is its own configuration: a frozen `@spec` with a `name`. It knows neither loader nor engine.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from megas2s.models.config import FirstToken, ModelConfig
from megas2s.models.output import ModelOutput, Reader
from megas2s.tokenizer.vocab import Vocabulary

Example = dict[str, np.ndarray]  # one row per field, without the batch axis
Batch = dict[str, Tensor]  # the same fields with a leading batch axis B


class Shape(NamedTuple):
    """The room an objective has: a vocabulary and the longest rows, special tokens included."""

    vocabulary: Vocabulary
    source_length: int
    target_length: int
    decoder_start: FirstToken = "eos"

    @property
    def start(self) -> int:
        """The id that a decoder reads first."""
        return first_token(self.vocabulary, self.decoder_start)


def first_token(vocabulary: Vocabulary, decoder_start: FirstToken) -> int:
    """The id that a decoder reads first."""
    return vocabulary.pad if decoder_start == "pad" else vocabulary.eos


class RowLengths(NamedTuple):
    """The columns of a batch. `full` says that every row fills them, so that no attention mask is needed."""

    source: int
    target: int  # 0 where there is no decoder
    full: bool


class Part(NamedTuple):
    """One named term of a loss: the weighted sum over terms of sum / (global count) is what is minimised."""

    total: Tensor  # scalar with a graph: the sum of this term over the batch
    weight: float | None  # None: a measure for people, which is not minimised
    row_totals: Tensor  # (B,) without a graph: the same sum row by row, for the losses per language
    row_counts: Tensor | None = None  # (B,) of a measure: by what its rows are divided; of a term `counts` says it


def measure(row_totals: Tensor, row_counts: Tensor) -> Part:
    """A ratio that is logged and not minimised: the sum of `row_totals` (B,) over that of `row_counts` (B,)."""
    return Part(row_totals.new_zeros(()), None, row_totals.float(), row_counts.float())


class Plain:
    """What most objectives have in common: one view of a window, no head of their own, no wish about a batch."""

    @property
    def architecture(self) -> Literal["encoder", "seq2seq"]:
        """What kind of model it trains."""
        raise NotImplementedError

    @property
    def views(self) -> int:
        """One row a window."""
        return 1

    def shaped(self, config: ModelConfig) -> ModelConfig:
        """The recipe's model, or its encoder."""
        return config.encoder_only() if self.architecture == "encoder" else config.without_heads()

    def check_layout(self, micro_batch: int, world_size: int) -> None:
        """Rows know nothing of each other."""

    def inputs(self, batch: Batch) -> Batch:
        """The batch itself."""
        return batch

    def predictions(self, model: Reader, batch: Batch) -> Tensor:
        """The most likely token at every label: (B, K), one row of logits at a time.

        Each row gathers the head under ZeRO-3, so ranks with unlike numbers of rows would wait for each other forever.
        """
        output: ModelOutput = model(batch)
        if "masked_positions" in batch:
            places = batch["masked_positions"].unsqueeze(-1).expand(-1, -1, output.encoder_hidden.shape[-1])
            hidden = output.encoder_hidden.gather(1, places)
        else:
            assert output.decoder_hidden is not None, "a model without masked positions has a decoder"
            hidden = output.decoder_hidden
        return torch.stack([model.most_likely(row) for row in hidden])


class Objective(Protocol):
    """The contract between an objective, the loader and the engines."""

    @property
    def name(self) -> str:
        """The tag that names this objective in a recipe."""

    @property
    def architecture(self) -> Literal["encoder", "seq2seq"]:
        """What kind of model it trains."""

    @property
    def views(self) -> int:
        """Rows that the model reads for each window."""

    def shaped(self, config: ModelConfig) -> ModelConfig:
        """The model that it trains, with the heads that it needs, given the recipe's encoder-decoder."""

    def check_layout(self, micro_batch: int, world_size: int) -> None:
        """Raise ValueError where rows belong together that micro-batches of so many rows on so many ranks split."""

    def window_size(self, shape: Shape) -> int:
        """Raw tokens R per window: the most for which source and target, special tokens included, fit `shape`.

        Raises ValueError where the vocabulary lacks a token that the objective needs, or nothing fits.
        """

    def row_lengths(self, tokens: int, shape: Shape) -> RowLengths:
        """The columns that examples of `tokens` raw tokens need."""

    def corrupt(self, tokens: np.ndarray, rng: np.random.Generator, shape: Shape, number: int) -> Example:
        """One example from `tokens` (R,) integers, the sample of that number. All randomness comes from `rng`; the
        number is for what is dealt out in exact shares. Fields, int64, unpadded:

        encoder objectives: `input_ids` (S,), `masked_positions` (k,), `labels` (k,)
        seq2seq objectives: `input_ids` (S,), `decoder_input_ids` (T,), `labels` (T,)
        """

    def inputs(self, batch: Batch) -> Batch:
        """What the model reads of a batch: V views of B rows as V x B rows."""

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Per part, how many items each row contributes: (B,) float; known before the forward pass."""

    def loss(self, output: ModelOutput, batch: Batch, step: int | None = None) -> dict[str, Part]:
        """The parts of the loss for one micro-batch: those of `counts`, and measures, the same names every time.

        Weights may depend on `step`; without one they are those that a schedule leads to.
        """

    def predictions(self, model: Reader, batch: Batch) -> Tensor:
        """What is shown of the model's answers, (B, ...): its most likely token at every label."""
