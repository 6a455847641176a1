"""Decoding one position at a time: what attention needs of earlier positions is kept, not computed again.

    cache = Cache(model.decoder, memory, attention_mask, length=64)
    hidden = cache.step(ids)               # (B, 1) -> (B, 1, D), the same as the whole decoder's at that position

The model's own modules do the work, in the order in which its layers do it. A decoder whose first layers lie elsewhere
is given their states instead of ids.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from megas2s.models.attention import padding_mask
from megas2s.models.layers import DecoderLayer

if TYPE_CHECKING:
    from megas2s.models.transformer import Decoder


class Cache:
    """Keys and values of a batch of rows: those of the source once, those of the target as they come."""

    def __init__(self, decoder: Decoder, memory: Tensor, attention_mask: Tensor | None, *, length: int) -> None:
        self._decoder = decoder
        self._source_mask = None if attention_mask is None else padding_mask(attention_mask)
        self._layers: list[DecoderLayer] = list(decoder.layers)  # type: ignore[arg-type]
        self._source = [layer.cross_attention.keys_values(memory) for layer in self._layers]
        keys = self._source[0][0]
        shape = (len(self._layers), 2, keys.shape[0], keys.shape[1], length, keys.shape[3])
        self._target = keys.new_zeros(shape)  # (layers, 2, B, H, T, width of a head)
        self._bias = self._relative_bias(length, memory)
        self._length = 0

    def step(self, ids: Tensor, hidden: Tensor | None = None) -> Tensor:
        """The decoder's states at the next position, which reads `ids` (B, 1), or `hidden` (B, 1, D): (B, 1, D)."""
        place, self._length = self._length, self._length + 1
        hidden = self._decoder.embedded(ids, None, first=place) if hidden is None else hidden
        mask = None if self._bias is None else self._bias[:, :, place : place + 1, : place + 1]
        for index, layer in enumerate(self._layers):
            hidden = self._layer(index, layer, hidden, place, mask)
        return self._decoder.ended(hidden)

    def _layer(self, index: int, layer: DecoderLayer, hidden: Tensor, place: int, mask: Tensor | None) -> Tensor:
        kept = self._target[index]

        def own(states: Tensor) -> Tensor:
            keys, values = layer.self_attention.keys_values(states)
            kept[0, :, :, place : place + 1], kept[1, :, :, place : place + 1] = keys, values
            seen = slice(place + 1)
            return layer.self_attention.attend(states, kept[0, :, :, seen], kept[1, :, :, seen], mask)

        def source(states: Tensor) -> Tensor:
            return layer.cross_attention.attend(states, *self._source[index], self._source_mask)

        hidden = layer.add(hidden, layer.self_attention_norm, own)
        hidden = layer.add(hidden, layer.cross_attention_norm, source)
        return layer.add(hidden, layer.ffn_norm, layer.ffn)

    def _relative_bias(self, length: int, like: Tensor) -> Tensor | None:
        """What relative positions add to the scores, all positions at once; a row of it serves each step."""
        whole = torch.empty(1, length, 0, device=like.device, dtype=like.dtype)
        return self._decoder.self_mask(whole, None)
