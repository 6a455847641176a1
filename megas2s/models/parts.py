"""One part of a model whose layers lie on several ranks, one after another: the model with everything else taken out.

    units     encoder.layers.0 ... encoder.layers.5   decoder.layers.0 ... decoder.layers.5   head
    spans     |------- 0 to 4 -------|-- 4 to 9 -----------------|--------- 9 to 13 ---------|

A unit is a layer, or what turns the last states into losses. What is below the first layer of a stack belongs to that
layer's unit, and the norm above the last one to its. A part keeps the canonical names of its parameters, so weights,
freezing and first values know nothing of parts. A matrix that several parts read is held by each of them (`held`):
embeddings that are tied, and the table of relative positions, which every layer of its stack reads.

    part = construct_part(config, span)                  # weights empty
    stream = forward(part, span, batch, stream)          # () -> (encoder states,) -> (memory, decoder states)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from megas2s.models.config import ModelConfig
from megas2s.models.parameters import aliases, canonical_parameters, parameter_shapes
from megas2s.models.stacks import Stack
from megas2s.models.transformer import EncoderModel, Network, construct, source_of

Stream = tuple[Tensor, ...]  # (encoder states (B, S, D),) and, once the decoder has begun, (memory, decoder states)
LAST = ("head.weight", "mlm.", "classes.", "text.")


class Span(NamedTuple):
    """The units of one part, from `first` up to and without `stop`."""

    first: int
    stop: int

    def __contains__(self, unit: object) -> bool:
        return isinstance(unit, int) and self.first <= unit < self.stop


class Cut(NamedTuple):
    """How a model is parted, and what of it stands still."""

    config: ModelConfig
    frozen: frozenset[str]  # canonical names
    spans: tuple[Span, ...]


def unit_count(config: ModelConfig) -> int:
    """The layers of both stacks, and the head."""
    return config.num_encoder_layers + config.num_decoder_layers + 1


def held(config: ModelConfig, span: Span) -> list[str]:
    """Canonical names of the parameters of a part, in the model's order."""
    roles = aliases(config)
    found = []
    for name in parameter_shapes(config):
        readers = set().union(*(_readers(config, role) for role in roles.get(name, (name,))))
        if any(unit in span for unit in readers):
            found.append(name)
    return found


def _readers(config: ModelConfig, role: str) -> set[int]:
    """The units that read a parameter."""
    head = unit_count(config) - 1
    if role.startswith(LAST):
        return {head}
    stack, kind, *rest = role.split(".")
    first, depth = 0, config.num_encoder_layers
    if stack == "decoder":
        first, depth = depth, config.num_decoder_layers
    if kind == "layers":
        return {first + int(rest[0])}
    if kind == "relative_bias":
        return set(range(first, first + depth))
    if kind == "norm":
        return {first + depth - 1}
    # The head for masked language modelling is tied to what the encoder embeds with.
    masked = {head} if role == "encoder.embed.weight" and config.has_masked_head else set()
    return {first} | masked


def moving_states(config: ModelConfig, frozen: Collection[str], border: int) -> tuple[bool, bool]:
    """Whether the encoder's and the decoder's states in front of a unit depend on anything that trains."""
    depth = config.num_encoder_layers
    trains = [
        span.stop > span.first and any(name not in frozen for name in held(config, span))
        for span in (Span(0, min(border, depth)), Span(depth, max(border, depth)))
    ]
    return trains[0], any(trains)


def construct_part(config: ModelConfig, span: Span) -> Network:
    """The model that `config` describes, its weights empty, without what other parts hold."""
    with torch.device("meta"):
        model = construct(config)
    names = {id(parameter): name for name, parameter in canonical_parameters(model).items()}
    kept = {name: nn.Parameter(torch.empty(parameter_shapes(config)[name])) for name in held(config, span)}
    for module in model.modules():
        for key, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[key] = kept.get(names[id(parameter)])
    stacks: list[tuple[Stack, int, int]] = [(model.encoder, 0, config.num_encoder_layers)]
    if not isinstance(model, EncoderModel):
        stacks.append((model.decoder, config.num_encoder_layers, config.num_decoder_layers))
    for stack, first, depth in stacks:
        for layer in range(depth):
            if first + layer not in span:
                del stack.layers._modules[str(layer)]  # the others keep their names
        stack.ends = first + depth - 1 in span
    return model


def forward(model: Network, span: Span, batch: Mapping[str, Tensor], stream: Stream) -> Stream:
    """The layers of a part over what the one before it sent; the first begins with the batch's ids.

    Every part is given the whole batch: masks, segments and positions are made where they are read, and only states
    travel.
    """
    depth = model.config.num_encoder_layers
    if span.first < depth:
        stream = (model.encode(**source_of(batch), hidden=stream[0] if stream else None),)
    if not isinstance(model, EncoderModel) and span.stop > depth and span.first < unit_count(model.config) - 1:
        memory, *begun = stream
        stream = (memory, model.decoded(batch, memory, hidden=begun[0] if begun else None))
    return stream
