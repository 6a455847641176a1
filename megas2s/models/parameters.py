"""The canonical names of a model's parameters: the only names that cross the border of this room.

    shared.weight                                    the embedding matrix, where encoder and decoder have one
    encoder.embed.weight  decoder.embed.weight  head.weight
    encoder.layers.3.self_attention.q.weight

A matrix with several uses has one name and several roles: `aliases` lists them. Everything here follows from the
configuration alone; no model is built.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor, nn

from megas2s.models.config import ModelConfig

Shape = tuple[int, ...]
ALL = slice(None)  # rows


class Values(Protocol):
    """Tensors by name, each read or drawn when it is asked for, whole or some rows of its first axis."""

    def __call__(self, name: str, rows: slice = ALL) -> Tensor:
        """The tensor of a name, or `rows` of it, (stop - start, ...)."""


class SomeValues(Protocol):
    """As `Values`, of some names only."""

    def __call__(self, name: str, rows: slice = ALL) -> Tensor | None:
        """None for a name that is not among them."""


def canonical_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Canonical name -> parameter, each parameter once, in the order of `parameter_shapes`."""
    return dict(model.named_parameters(remove_duplicate=True))


def aliases(config: ModelConfig) -> dict[str, tuple[str, ...]]:
    """Canonical name of each vocabulary matrix -> the roles it plays; other parameters have their own name alone."""
    if not config.is_seq2seq:
        return {"encoder.embed.weight": ("encoder.embed.weight", "head.weight")}
    if config.tying == "tied":
        return {"shared.weight": ("encoder.embed.weight", "decoder.embed.weight", "head.weight")}
    if config.tying == "untied_head":
        return {"shared.weight": ("encoder.embed.weight", "decoder.embed.weight"), "head.weight": ("head.weight",)}
    if config.tying == "tied_to_decoder":
        return {
            "encoder.embed.weight": ("encoder.embed.weight",),
            "decoder.embed.weight": ("decoder.embed.weight", "head.weight"),
        }
    return {role: (role,) for role in ("encoder.embed.weight", "decoder.embed.weight", "head.weight")}


def owners(config: ModelConfig) -> dict[str, str]:
    """The inverse of `aliases`: role -> canonical name of the matrix that plays it."""
    return {role: name for name, roles in aliases(config).items() for role in roles}


def parameter_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Canonical name -> shape, in the order in which the model holds its parameters."""
    return dict(_walk(config))


def _walk(config: ModelConfig) -> Iterator[tuple[str, Shape]]:
    table = (config.vocab_size, config.embedding_width)
    if "shared.weight" in aliases(config):
        yield "shared.weight", table
    yield from _stack(config, "encoder", config.num_encoder_layers)
    if config.is_seq2seq:
        yield from _stack(config, "decoder", config.num_decoder_layers)
        if "head.weight" in aliases(config):
            yield "head.weight", table
    if config.has_masked_head:
        yield "mlm.bias", (config.vocab_size,)
        yield from _linear("mlm.dense", config.embedding_width, config.hidden_size)
        yield from _norm(config, "mlm.norm", config.embedding_width)
    if config.token_classes:
        yield from _linear("classes", config.token_classes, config.hidden_size)
    if config.text_classes:
        yield from _linear("text.dense", config.hidden_size, config.hidden_size)
        yield from _linear("text.out", config.text_classes, config.hidden_size)


def _stack(config: ModelConfig, stack: str, depth: int) -> Iterator[tuple[str, Shape]]:
    width = config.embedding_width
    if f"{stack}.embed.weight" in aliases(config):
        yield f"{stack}.embed.weight", (config.vocab_size, width)
    if config.has_learned_positions:
        yield f"{stack}.positions.weight", (config.max_positions, width)
    if config.has_relative_positions:
        yield f"{stack}.relative_bias.weight", (config.relative_buckets, config.num_heads)
    if config.segment_types and stack == "encoder":
        yield f"{stack}.types.weight", (config.segment_types, width)
    if config.embed_norm:
        yield from _norm(config, f"{stack}.embed_norm", width)
    if config.embedding_size is not None:
        yield from _linear(f"{stack}.projection", config.hidden_size, width)
    for index in range(depth):
        yield from _layer(config, f"{stack}.layers.{index}", crosses=stack == "decoder")
    if config.norm_position == "pre":
        yield from _norm(config, f"{stack}.norm", config.hidden_size)


def _layer(config: ModelConfig, layer: str, *, crosses: bool) -> Iterator[tuple[str, Shape]]:
    width, inner = config.hidden_size, config.num_heads * config.head_width
    for attention in ("self_attention", "cross_attention") if crosses else ("self_attention",):
        for projection in ("q", "k", "v"):
            yield from _map(config, f"{layer}.{attention}.{projection}", inner, width)
        yield from _map(config, f"{layer}.{attention}.out", width, inner)
        yield from _norm(config, f"{layer}.{attention}_norm", width)
    for projection in ("gate", "up") if config.gated else ("up",):
        yield from _map(config, f"{layer}.ffn.{projection}", config.ffn_size, width)
    yield from _map(config, f"{layer}.ffn.down", width, config.ffn_size)
    yield from _norm(config, f"{layer}.ffn_norm", width)


def _map(config: ModelConfig, name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Shape]]:
    """A map of a layer, and its adapter where it has one."""
    yield from _linear(name, outputs, inputs, bias=config.biases)
    if name.rpartition(".")[2] in config.lora_targets:
        yield f"{name}.lora_a", (config.lora_rank, inputs)
        yield f"{name}.lora_b", (outputs, config.lora_rank)


def _linear(name: str, outputs: int, inputs: int, *, bias: bool = True) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outputs, inputs)
    if bias:
        yield f"{name}.bias", (outputs,)


def _norm(config: ModelConfig, name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (width,)
    if config.norm == "layer":
        yield f"{name}.bias", (width,)
