"""The two stacks: embeddings, a list of layers, a last norm.

What is absent in a kind of model is None. A stack knows tensors alone: which fields of a batch they come from is the
models' to say (`transformer.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from megas2s.models.attention import Blocks, Mask, Tail
from megas2s.models.config import ModelConfig
from megas2s.models.layers import DecoderLayer, EncoderLayer, Table, drop, norm
from megas2s.models.lowrank import Linear
from megas2s.models.positions import RelativeBias


class Stack(nn.Module):
    """What encoder and decoder share: embeddings, a list of layers, a last norm. Absent parts are None."""

    def __init__(
        self, config: ModelConfig, layers: Sequence[nn.Module], *, embedding: nn.Parameter | None, causal: bool
    ) -> None:
        super().__init__()
        width = config.embedding_width
        learned, relative = config.has_learned_positions, config.has_relative_positions
        self.embed = Table(config.vocab_size, width, weight=embedding)
        self.positions = Table(config.max_positions, width) if learned else None
        self.relative_bias = RelativeBias(config, causal=causal) if relative else None
        typed = config.segment_types and not causal  # types tell the texts of a source apart
        self.types = Table(config.segment_types, width) if typed else None
        self.embed_norm = norm(config, width=width, dropout=config.dropout) if config.embed_norm else None
        narrow = config.embedding_size is not None
        self.projection = Linear(width, config.hidden_size) if narrow else None
        self.layers = nn.ModuleList(layers)
        self.norm = norm(config, dropout=config.output_dropout) if config.norm_position == "pre" else None
        self.scale = config.hidden_size**0.5 if config.scale_embedding else None
        self.dropout = config.dropout
        self.max_positions = config.max_positions
        self.ends = True  # whether the last layer is here; a part of a model may lack it
        self.checkpointed = False  # recompute each layer in the backward pass instead of storing its activations

    def embedded(self, ids: Tensor, positions: Tensor | None = None, types: Tensor | None = None) -> Tensor:
        """Token, position and type, normed: (B, S) -> (B, S, D). Without `positions` (B, S) they count from 0."""
        hidden = self.embed(ids)
        if self.scale is not None:
            hidden = hidden * self.scale
        if self.types is not None:
            hidden = hidden + self.types(ids.new_zeros(1, 1) if types is None else types)
        if self.positions is not None:
            if positions is None:
                check_positions(ids.shape[1], self.max_positions)
                positions = torch.arange(ids.shape[1], device=ids.device)
            hidden = hidden + self.positions(positions)
        hidden = drop(hidden, self.dropout, self.training) if self.embed_norm is None else self.embed_norm(hidden)
        states: Tensor = hidden if self.projection is None else self.projection(hidden)
        return states

    def self_mask(self, hidden: Tensor, mask: Mask, positions: Tensor | None = None) -> Mask:
        """What the layers' self-attention reads: `mask`, or with relative positions the bias with `mask` in it.

        Blocks need `positions` (B, S): what lies side by side in them may be far apart.
        """
        bias = self.relative_bias
        if bias is None:
            return mask
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        if isinstance(mask, Blocks):
            assert positions is not None, "blocks come with positions"
            masks = mask.each(lambda asking, seen, own: bias(positions[:, asking], positions[:, seen], own, dtype))
            return mask._replace(masks=tuple(masks))
        index = torch.arange(hidden.shape[1], device=hidden.device)[None]
        whole: Tensor = bias(index, index, mask, dtype)
        return whole

    def ended(self, hidden: Tensor) -> Tensor:
        """The stream after the layers (B, S, D), normed where they are the last ones and none has done it."""
        return self.norm(hidden) if self.ends and self.norm is not None else hidden

    def run(self, layer: nn.Module, hidden: Tensor, *rest: Mask | Tail) -> Tensor:
        """One layer, recomputed in the backward pass where that is asked for and there is one."""
        if self.checkpointed and torch.is_grad_enabled() and _has_backward(layer, hidden, *rest):
            hidden = checkpoint(layer, hidden, *rest, use_reentrant=False)
        else:
            hidden = layer(hidden, *rest)
        return hidden


class Encoder(Stack):
    """Bidirectional layers over the source."""

    def __init__(self, config: ModelConfig, *, embedding: nn.Parameter | None = None) -> None:
        layers = [EncoderLayer(config) for _ in range(config.num_encoder_layers)]
        super().__init__(config, layers, embedding=embedding, causal=False)

    def forward(
        self,
        ids: Tensor,
        mask: Mask = None,
        positions: Tensor | None = None,
        types: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> Tensor:
        """(B, S) ids, a boolean mask that broadcasts to (B, H, S, S), (B, S) positions and types -> (B, S, D).

        Given `hidden` (B, S, D), the states of layers that lie elsewhere, it goes on from there. Of `Blocks` the last
        one is answered, (B, its size, D): nobody reads what the others would have in the last layer.
        """
        hidden = self.embedded(ids, positions, types) if hidden is None else hidden
        own = self.self_mask(hidden, mask, positions)
        last = own.tail() if isinstance(own, Blocks) else own
        for place, layer in enumerate(self.layers, 1):
            hidden = self.run(layer, hidden, last if place == len(self.layers) else own)
        return self.ended(hidden)


class Decoder(Stack):
    """Causal layers over the target that read the encoder's states."""

    def __init__(self, config: ModelConfig, *, embedding: nn.Parameter | None = None) -> None:
        layers = [DecoderLayer(config) for _ in range(config.num_decoder_layers)]
        super().__init__(config, layers, embedding=embedding, causal=True)

    def forward(
        self,
        ids: Tensor,
        memory: Tensor,
        self_mask: Tensor | None = None,
        cross_mask: Tensor | None = None,
        positions: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> Tensor:
        """(B, T) ids, (B, S, D) memory -> (B, T, D); see `DecoderLayer` for the masks, `Encoder` for `hidden`."""
        hidden = self.embedded(ids, positions) if hidden is None else hidden
        own = self.self_mask(hidden, self_mask)
        for layer in self.layers:
            hidden = self.run(layer, hidden, memory, own, cross_mask)
        return self.ended(hidden)


def check_positions(count: int, most: float) -> None:
    """Refuse rows that are longer than a table of positions."""
    if count > most:
        raise ValueError(f"a row of {count} tokens exceeds the model's {most} positions")


def _has_backward(layer: nn.Module, *inputs: Mask | Tail) -> bool:
    tensors: list[Tensor | None] = []
    for each in inputs:
        tensors += each.masks if isinstance(each, Blocks) else [each.mask] if isinstance(each, Tail) else [each]
    moving = any(tensor is not None and tensor.requires_grad for tensor in tensors)
    return moving or any(parameter.requires_grad for parameter in layer.parameters())
