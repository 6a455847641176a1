"""How many of a layer's feed-forward neurons are active, layer by layer.

A neuron is active at a position where its activation function gives more than 0.

    relu            the usual meaning: all others give exactly 0
    gelu, silu      the sign is that of their input, so active means a positive input, as under relu; a neuron that is
                    not active still passes on a little (at least -0.17 for gelu, -0.28 for silu)
    gated           what the activation gives for the gate is what counts: it opens or closes the neuron, whose value
                    then has the sign of the second map and says nothing of it

So one rule serves all families and shares are comparable between them. E2S2 reports "neuron activation" (Zhong et al.
2022, arXiv 2205.14912), and how it counts could not be found; this is our reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from megas2s.analysis.passes import Call, Pass, Place, Stack, layers, watch
from megas2s.models.layers import FeedForward
from megas2s.models.transformer import Model


class Activity(NamedTuple):
    """Of one layer, over real positions."""

    rate: float  # share of pairs of neuron and position that are active
    never: float  # share of neurons that are active nowhere


def activity(model: Model, batches: Sequence[Pass], stacks: Sequence[Stack]) -> dict[Stack, list[Activity]]:
    """The activity of every layer of `stacks`, bottom first."""
    feeds: dict[Place, FeedForward] = {
        Place(stack, number, "ffn"): _feed_forward(layer)
        for stack in stacks
        for number, layer in enumerate(layers(model, stack), start=1)
    }
    counts = {place: torch.zeros(model.config.ffn_size, dtype=torch.int64) for place in feeds}
    seen = dict.fromkeys(feeds, 0)

    def see(place: Place, call: Call) -> None:
        counts[place] += active(feeds[place], call.output)[call.real].sum(0).cpu()
        seen[place] += int(call.real.sum())

    watch(model, batches, {place: before_activation(feed) for place, feed in feeds.items()}, see)
    found: dict[Stack, list[Activity]] = {stack: [] for stack in stacks}
    for place, count in counts.items():
        rate = float(count.double().mean()) / seen[place]
        found[place.stack].append(Activity(rate, float((count == 0).double().mean())))
    return found


def before_activation(feed: FeedForward) -> nn.Module:
    """The map whose output the activation reads."""
    return feed.up if feed.gate is None else feed.gate


def active(feed: FeedForward, output: Tensor) -> Tensor:
    """Which neurons are active, given the output of `before_activation`: (..., F) bool."""
    return feed.activation(output) > 0


def _feed_forward(layer: nn.Module) -> FeedForward:
    feed = layer.ffn
    assert isinstance(feed, FeedForward)
    return feed
