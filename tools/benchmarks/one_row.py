"""Both sides of a pseudo-masked step: source, target and pseudo tokens in blocks, or under one square mask.

`square` is the same model with the same weights and losses. Its attention scores all pairs of the row's S + 2 T columns
and hides most of them, and its last layer has states for all columns; through the same fused kernel, or (`eager`) as
s2s-ft's own code did before it had blocks: scores, a mask added to them, softmax.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks import models, synthetic
from megas2s.engine.base import Batch, Precision
from megas2s.methods import PseudoMasked
from megas2s.methods.base import Task
from megas2s.models.attention import Attention
from megas2s.models.config import ModelConfig
from megas2s.models.output import ModelOutput
from megas2s.models.packed import pack
from megas2s.models.transformer import EncoderModel, build
from megas2s.tokenizer.vocab import stand_in


def pseudo_batch(config: ModelConfig, *, rows: int, source: int, target: int) -> Batch:
    """Full rows of random text, all that a pseudo-masked example has."""
    vocabulary = stand_in(config.vocab_size)
    count = rows * (source + 2 * target)
    ids = torch.from_numpy(synthetic.tokens(count, vocabulary, "one row")).long().view(rows, -1)
    first, second, pseudo = ids.split([source, target, target], dim=1)
    found = {"input_ids": first, "target_ids": second, "pseudo_ids": pseudo, "labels": second}
    return {name: tensor.contiguous() for name, tensor in found.items()} | {"language": torch.zeros(rows).long()}


def blocks(config: ModelConfig, make_batch: Callable[[], Batch], precision: Precision) -> Callable[[], float]:
    """One training step in blocks; returns the loss."""
    return models.engine(partial(build, config), _losses(), make_batch(), precision)[1]


def square(
    config: ModelConfig, make_batch: Callable[[], Batch], precision: Precision, *, eager: bool = False
) -> Callable[[], float]:
    """One training step under a square mask; returns the loss."""

    def construct() -> nn.Module:
        model = build(config)
        model.__class__ = Square
        if eager:
            for module in model.modules():
                if isinstance(module, Attention):
                    module.__class__ = Eager
        return model

    return models.engine(construct, _losses(), make_batch(), precision)[1]


def _losses() -> Task:
    return Task(PseudoMasked(label_smoothing=0.0), None)  # type: ignore[arg-type]  # facts are for reading text


class Square(EncoderModel):
    """The row under one mask."""

    def forward(self, batch: Mapping[str, Tensor]) -> ModelOutput:
        """All states; the pseudo tokens' are handed on."""
        row = pack(batch, self.config)
        length, first = row.ids.shape[1], sum(row.blocks.sizes[:-1])
        mask = torch.zeros(len(row.ids), 1, length, length, dtype=torch.bool, device=row.ids.device)
        start = 0
        for size, own in zip(row.blocks.sizes, row.blocks.masks, strict=True):
            mask[:, :, start : start + size, : start + size] = True if own is None else own
            start += size
        hidden = self.encoder.embedded(row.ids, row.positions, row.types)
        for layer in self.encoder.layers:
            hidden = layer(hidden, mask)
        return self.output(batch, self.encoder.ended(hidden)[:, first:])


class Eager(Attention):
    """Attention written out."""

    def attend(self, hidden: Tensor, keys: Tensor, values: Tensor, mask=None, *, causal: bool = False) -> Tensor:
        """See `Attention`."""
        queries = self._heads(self.q(hidden))
        scores = queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5
        scores = scores + (~mask).to(scores.dtype) * -10000.0
        return self.out((scores.softmax(dim=-1) @ values).transpose(1, 2).flatten(2))
