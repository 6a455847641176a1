"""A model that is spread over the parts of a pipeline, asked as if it were whole.

Every rank of a row asks the same, in step, and is given the same answer: the states go through the parts that hold the
layers, and the one that ends them tells all. So code that reads or writes with a model knows nothing of parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as torch_dist
from torch import Tensor

from megas2s import dist
from megas2s.models.cache import Cache
from megas2s.models.output import ModelOutput
from megas2s.models.parts import Span
from megas2s.models.transformer import EncoderModel, Network, source_of


class Spread:
    """`models.output.Writer` over a pipeline, whose parts lie on `ranks`, the members of `group`.

    Without gradients; the caller sets evaluation mode.
    """

    def __init__(
        self, part: Network, spans: Sequence[Span], stage: int, ranks: Sequence[int], group: Any, dtype: torch.dtype
    ) -> None:
        self._part = part
        self._spans = spans
        self._stage = stage
        self._ranks = ranks
        self._group = group
        self._dtype = dtype
        depth = part.config.num_encoder_layers
        self._encoding = _parts(spans, 0, depth)
        self._decoding = _parts(spans, depth, depth + part.config.num_decoder_layers)

    def __call__(self, batch: Mapping[str, Tensor]) -> ModelOutput:
        """The last states, and none of the heads."""
        memory = self.encode(**source_of(batch))
        if not self._decoding:
            return ModelOutput(memory, None, None, None)
        ids = batch["decoder_input_ids"]

        def decoded(hidden: Tensor | None) -> Tensor:
            assert not isinstance(self._part, EncoderModel), "an encoder has no parts that decode"
            return self._part.decoded(batch, memory, hidden=hidden)

        return ModelOutput(memory, self._through(self._decoding, decoded, tuple(ids.shape)), None, None)

    def encode(self, input_ids: Tensor, **fields: Tensor) -> Tensor:
        """The encoder's states: (B, S) -> (B, S, D)."""

        def encoded(hidden: Tensor | None) -> Tensor:
            return self._part.encode(input_ids, **fields, hidden=hidden)

        return self._through(self._encoding, encoded, tuple(input_ids.shape))

    def begin(
        self, batch: Mapping[str, Tensor], *, length: int, copies: int = 1, mask: int | None = None
    ) -> SpreadCache:
        """For writing one token at a time."""
        assert mask is None, "a decoder reads tokens"
        memory, own = self.encode(**source_of(batch)), None
        if self._stage in self._decoding:
            assert not isinstance(self._part, EncoderModel), "an encoder has no parts that decode"
            own = self._part.cache(memory, batch.get("attention_mask"), length=length, copies=copies)
        return SpreadCache(self, own)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the whole vocabulary: (..., D) -> (..., V)."""
        last = len(self._spans) - 1
        return self._told(last, self._part.logits(hidden) if self._stage == last else None)

    def most_likely(self, hidden: Tensor) -> Tensor:
        """The token with the best score: (..., D) -> (...) int64."""
        last = len(self._spans) - 1
        return self._told(last, self._part.most_likely(hidden) if self._stage == last else None)

    def step(self, cache: Cache | None, ids: Tensor) -> Tensor:
        """One position through the decoder's parts."""

        def stepped(hidden: Tensor | None) -> Tensor:
            assert cache is not None, "a part that decodes has a cache"
            return cache.step(ids, hidden)

        return self._through(self._decoding, stepped, tuple(ids.shape))

    def _through(self, parts: Sequence[int], run: Any, shape: tuple[int, ...]) -> Tensor:
        """States (*shape, D) through the parts that hold a stack, the first of which begins with None."""
        hidden = None
        if self._stage in parts:
            if self._stage != parts[0]:
                width = self._part.config.hidden_size
                hidden = torch.empty((*shape, width), dtype=self._dtype, device=dist.device())
                torch_dist.recv(hidden, self._ranks[self._stage - 1])
            hidden = run(hidden).contiguous()
            if self._stage != parts[-1]:
                torch_dist.send(hidden, self._ranks[self._stage + 1])
        return self._told(parts[-1], hidden)

    def _told(self, stage: int, values: Tensor | None) -> Tensor:
        return dist.broadcast(values if stage == self._stage else None, source=self._ranks[stage], group=self._group)


class SpreadCache:
    """Keys and values, each part's where its layers are."""

    def __init__(self, model: Spread, own: Cache | None) -> None:
        self._model = model
        self._own = own

    def step(self, ids: Tensor) -> Tensor:
        """The decoder's states at the next position: (R, 1) -> (R, 1, D)."""
        return self._model.step(self._own, ids)

    def reorder(self, rows: Tensor) -> None:
        """Every part keeps its own layers' rows."""
        if self._own is not None:
            self._own.reorder(rows)


def _parts(spans: Sequence[Span], first: int, stop: int) -> list[int]:
    """The numbers of the parts that hold any of these units."""
    return [number for number, span in enumerate(spans) if span.first < stop and span.stop > first]
