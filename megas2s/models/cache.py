"""Writing one token at a time: what attention needs of earlier positions is kept, not computed again.

    steps = Cache(model.decoder, memory, attention_mask, length=64)         an encoder-decoder
    steps = RowCache(model.encoder, batch, length=64, typed=False)          an encoder that writes (models.packed)
    hidden = steps.step(ids)               # (R, 1) -> (R, 1, D), what the whole pass has at that position
    steps.reorder(rows)                    # row r goes on from what rows[r] has been given

Keys and values of a source are kept once, however many rows are written for it (`copies`, of a beam search: R = B x
copies, the rows of a source side by side). The model's own modules do the work, in the order in which its layers do it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from megas2s.models.attention import KeysValues, padding_mask
from megas2s.models.layers import DecoderLayer, EncoderLayer
from megas2s.models.stacks import Decoder, Encoder, Stack, check_positions


class Kept:
    """Keys and values of what is being written, of each layer: (layers, 2, R, H, length, width of a head)."""

    def __init__(self, layers: int, like: Tensor, rows: int, length: int) -> None:
        self._values = like.new_zeros((layers, 2, rows, like.shape[1], length, like.shape[3]))
        self.length = 0  # positions that are there to stay

    def add(self, layer: int, new: KeysValues) -> KeysValues:
        """Those of all positions so far and of the new ones, (R, H, n, width of a head) each."""
        kept, stop = self._values[layer], self.length + new[0].shape[2]
        for place, values in enumerate(new):
            kept[place, :, :, self.length : stop] = values
        return kept[0, :, :, :stop], kept[1, :, :, :stop]

    def reorder(self, rows: Tensor) -> None:
        """Each row takes over what another one has been given."""
        written = self._values[..., : self.length, :]
        written.copy_(written[:, :, rows])


class Cache:
    """A decoder's: keys and values of the source, and those of the target as they come."""

    def __init__(
        self, decoder: Decoder, memory: Tensor, attention_mask: Tensor | None, *, length: int, copies: int = 1
    ) -> None:
        _check(decoder, length)
        self._decoder = decoder
        self._source_mask = None if attention_mask is None else padding_mask(attention_mask)
        self._layers: list[DecoderLayer] = list(decoder.layers)  # type: ignore[arg-type]
        self._source = [layer.cross_attention.keys_values(memory) for layer in self._layers]
        self._copies = copies
        self._kept = Kept(len(self._layers), self._source[0][0], len(memory) * copies, length)
        self._bias = _bias_of_all(decoder, length, memory)

    def step(self, ids: Tensor, hidden: Tensor | None = None) -> Tensor:
        """The decoder's states at the next position, which reads `ids` (R, 1), or `hidden` (R, 1, D): (R, 1, D).

        A decoder whose first layers lie elsewhere is given their states.
        """
        place = self._kept.length
        hidden = self._decoder.embedded(ids, ids.new_full((1, 1), place)) if hidden is None else hidden
        mask = None if self._bias is None else self._bias[:, :, place : place + 1, : place + 1]
        for index, layer in enumerate(self._layers):
            hidden = self._layer(index, layer, hidden, mask)
        self._kept.length += 1
        return self._decoder.ended(hidden)

    def reorder(self, rows: Tensor) -> None:
        """Row r goes on from what row `rows[r]`, of the same source, has been given; (R,)."""
        self._kept.reorder(rows)

    def _layer(self, index: int, layer: DecoderLayer, hidden: Tensor, mask: Tensor | None) -> Tensor:
        def own(states: Tensor) -> Tensor:
            keys, values = self._kept.add(index, layer.self_attention.keys_values(states))
            return layer.self_attention.attend(states, keys, values, mask)

        def source(states: Tensor) -> Tensor:
            together = states.view(-1, self._copies, states.shape[-1])  # rows of one source ask at once
            return layer.cross_attention.attend(together, *self._source[index], self._source_mask).view_as(states)

        hidden = layer.add(hidden, layer.self_attention_norm, own)
        hidden = layer.add(hidden, layer.cross_attention_norm, source)
        return layer.add(hidden, layer.ffn_norm, layer.ffn)


class RowCache:
    """An encoder's that writes: keys and values of the source, and those of what follows it in the row."""

    def __init__(
        self, encoder: Encoder, batch: Mapping[str, Tensor], *, length: int, copies: int = 1, typed: bool
    ) -> None:
        ids, real = batch["input_ids"], batch.get("attention_mask")
        _check(encoder, ids.shape[1] + length)
        self._encoder = encoder
        self._layers: list[EncoderLayer] = list(encoder.layers)  # type: ignore[arg-type]
        self._type = ids.new_ones((1, 1)) if typed else None
        self._source: list[KeysValues] = []
        self._read(ids, None if real is None else padding_mask(real))
        rows = len(ids) * copies
        ends = ids.new_full((len(ids), 1), ids.shape[1]) if real is None else real.sum(dim=1, keepdim=True)
        self._ends = ends.repeat_interleave(copies, dim=0)
        self._places = torch.arange(ids.shape[1], device=ids.device)
        seen = torch.ones_like(ids, dtype=torch.bool) if real is None else real.bool()
        self._seen = seen.repeat_interleave(copies, dim=0)[:, None, None, :]
        self._kept = Kept(len(self._layers), self._source[0][0], rows, length + 1)  # and one that does not stay

    def _read(self, ids: Tensor, mask: Tensor | None) -> None:
        """The layers over the source; of the last one nothing but keys and values is needed."""
        hidden = self._encoder.embedded(ids)
        bias = self._encoder.self_mask(hidden, mask)
        for layer in self._layers:
            attention = layer.self_attention
            self._source.append(attention.keys_values(layer.self_attention_norm(hidden) if layer.pre else hidden))
            if len(self._source) < len(self._layers):
                hidden = layer(hidden, bias)

    def step(self, ids: Tensor, *, kept: int | None = None) -> Tensor:
        """States at the next n positions, which read `ids` (R, n): (R, n, D). The first `kept` of them stay, or all."""
        first, count = self._kept.length, ids.shape[1]
        places = torch.arange(first + count, device=ids.device)
        positions = self._ends + places[first:]
        hidden = self._encoder.embedded(ids, positions, self._type)
        mask = self._mask(positions, places, hidden)
        for index, layer in enumerate(self._layers):
            hidden = self._layer(index, layer, hidden, mask)
        self._kept.length += count if kept is None else kept
        return self._encoder.ended(hidden)

    def reorder(self, rows: Tensor) -> None:
        """Row r goes on from what row `rows[r]`, of the same source, has been given; (R,)."""
        self._kept.reorder(rows)

    def _mask(self, positions: Tensor, places: Tensor, hidden: Tensor) -> Tensor:
        """Who sees whom among the new positions (R, n) and all so far: (R, 1 or H, n, S + t), boolean or a bias."""
        count = positions.shape[1]
        before = places[None, :] <= places[-count:, None]  # (n, t)
        rows = len(self._ends)
        seen = torch.cat([self._seen.expand(-1, 1, count, -1), before.expand(rows, 1, -1, -1)], dim=-1)
        if self._encoder.relative_bias is None:
            return seen
        keys = torch.cat([self._places.expand(rows, -1), self._ends + places], dim=1)
        bias: Tensor = self._encoder.relative_bias(positions, keys, seen, hidden.dtype)
        return bias

    def _layer(self, index: int, layer: EncoderLayer, hidden: Tensor, mask: Tensor) -> Tensor:
        def attended(states: Tensor) -> Tensor:
            own = self._kept.add(index, layer.self_attention.keys_values(states))
            return layer.self_attention.attend_both(states, self._source[index], own, mask)

        hidden = layer.add(hidden, layer.self_attention_norm, attended)
        return layer.add(hidden, layer.ffn_norm, layer.ffn)


class Guesses:
    """A row cache of a model that was taught to fill masks: the next token is what it says of a mask there.

    The mask's keys and values do not stay; those of the token that was chosen come with the next step.
    """

    def __init__(self, cache: RowCache, mask: int) -> None:
        self._cache = cache
        self._mask = mask
        self._begun = False

    def step(self, ids: Tensor) -> Tensor:
        """As others, but what is read first is no token: `ids` of the first step are passed by."""
        masks = torch.full_like(ids, self._mask)
        read = torch.cat([ids, masks], dim=1) if self._begun else masks
        self._begun = True
        return self._cache.step(read, kept=read.shape[1] - 1)[:, -1:]

    def reorder(self, rows: Tensor) -> None:
        """See `RowCache`."""
        self._cache.reorder(rows)


def _check(stack: Stack, length: int) -> None:
    if stack.positions is not None:
        check_positions(length, stack.max_positions)


def _bias_of_all(decoder: Decoder, length: int, like: Tensor) -> Tensor | None:
    """What relative positions add to the scores, all positions at once; a row of it serves each step."""
    if decoder.relative_bias is None:
        return None
    index = torch.arange(length, device=like.device)[None]
    bias: Tensor = decoder.relative_bias(index, index, None, like.dtype)
    return bias
