"""Where attention looks: the entropy of its probabilities, head by head.

    uniform over n positions    ln n nats, a share of 1
    one position alone          0 nats, a share of 0

The model's own pass runs through fused kernels that return no probabilities, so they are computed beside it, from what
each attention is given: its projections, the mask and the relative bias. Positions that a mask hides are not counted;
the maximum of a query is the logarithm of the positions that it may see.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from megas2s.analysis.passes import Call, Pass, Place, Stack, layers, watch
from megas2s.models.attention import Attention, causal_mask
from megas2s.models.transformer import Model

PARTS: dict[Stack, tuple[str, ...]] = {"encoder": ("self_attention",), "decoder": ("self_attention", "cross_attention")}


class Entropy(NamedTuple):
    """Of the attentions of one layer: means over real queries."""

    nats: tuple[float, ...]  # by head
    share: tuple[float, ...]  # of the maximum, by head, over queries that see more than one position


def entropies(model: Model, batches: Sequence[Pass], stacks: Sequence[Stack]) -> dict[str, list[Entropy]]:
    """By stack and kind, `encoder_self_attention` for one, the entropy of every layer, bottom first."""
    attentions = {
        Place(stack, number, part): getattr(layer, part)
        for stack in stacks
        for part in PARTS[stack]
        for number, layer in enumerate(layers(model, stack), start=1)
    }
    sums = {place: torch.zeros(4, model.config.num_heads, dtype=torch.float64) for place in attentions}

    def see(place: Place, call: Call) -> None:
        masked = scores(attentions[place], *call.inputs, **call.options)
        sums[place] += _sums(masked, call.real).cpu()

    watch(model, batches, attentions, see)
    found: dict[str, list[Entropy]] = {}
    for place, (nats, queries, share, free) in sums.items():
        entropy = Entropy(tuple((nats / queries).tolist()), tuple((share / free).tolist()))
        found.setdefault(f"{place.stack}_{place.part}", []).append(entropy)
    return found


def scores(
    attention: Attention, hidden: Tensor, memory: Tensor, mask: Tensor | None = None, *, causal: bool = False
) -> Tensor:
    """What the softmax reads, given the inputs of `Attention.forward`: (B, H, T, S) float32, -inf where hidden."""
    keys, _ = attention.keys_values(memory)
    queries = attention.q(hidden).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
    scale = queries.shape[-1] ** -0.5 if attention.scale is None else attention.scale
    found: Tensor = (queries @ keys.transpose(-1, -2)).float() * scale
    if causal:
        mask = causal_mask(hidden.shape[1], hidden.device)
    if mask is None:
        return found
    return found.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else found + mask


def entropy(probabilities: Tensor) -> Tensor:
    """-sum p ln p over the last axis, in nats."""
    nats: Tensor = torch.special.entr(probabilities).sum(-1)
    return nats


def _sums(masked: Tensor, real: Tensor) -> Tensor:
    """By head, over real queries: entropy, their number, share of the maximum, the number that have one: (4, H)."""
    nats = entropy(masked.softmax(-1)).transpose(1, 2)[real].double()  # (N, H)
    visible = torch.isfinite(masked).sum(-1).transpose(1, 2)[real].double()
    free = visible > 1
    share = torch.where(free, nats / visible.clamp(min=2).log(), 0.0)
    return torch.stack([nats.sum(0), torch.full_like(nats[0], len(nats)), share.sum(0), free.double().sum(0)])
