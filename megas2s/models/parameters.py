"""The canonical names of a model's parameters: the only names that cross the border of this room.

    shared.weight                                    the embedding matrix, where all its uses are one
    encoder.embed.weight  decoder.embed.weight  head.weight
    encoder.layers.3.self_attention.q.weight

A matrix with several uses has one name and several roles: `aliases` lists them. Everything here follows from the
configuration alone; no model is built.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from megas2s.models.config import ModelConfig

Shape = tuple[int, ...]


def canonical_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Canonical name -> parameter, each parameter once, in the order of `parameter_shapes`."""
    return dict(model.named_parameters(remove_duplicate=True))


def aliases(config: ModelConfig) -> dict[str, tuple[str, ...]]:
    """Canonical name of each vocabulary matrix -> the roles it plays; other parameters have their own name alone."""
    if not config.is_seq2seq:
        return {"encoder.embed.weight": ("encoder.embed.weight", "head.weight")}
    if config.tying == "tied":
        return {"shared.weight": ("encoder.embed.weight", "decoder.embed.weight", "head.weight")}
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
    table = (config.vocab_size, config.hidden_size)
    if "shared.weight" in aliases(config):
        yield "shared.weight", table
    yield from _stack(config, "encoder", config.num_encoder_layers)
    if config.is_seq2seq:
        yield from _stack(config, "decoder", config.num_decoder_layers)
        if "head.weight" in aliases(config):
            yield "head.weight", table
    else:
        yield "mlm.bias", (config.vocab_size,)
        yield from _linear("mlm.dense", config.hidden_size, config.hidden_size)
        yield from _norm("mlm.norm", config.hidden_size)


def _stack(config: ModelConfig, stack: str, depth: int) -> Iterator[tuple[str, Shape]]:
    width = config.hidden_size
    if f"{stack}.embed.weight" in aliases(config):
        yield f"{stack}.embed.weight", (config.vocab_size, width)
    yield f"{stack}.positions.weight", (config.max_positions, width)
    yield from _norm(f"{stack}.embed_norm", width)
    attentions = ("self_attention", "cross_attention") if stack == "decoder" else ("self_attention",)
    for index in range(depth):
        layer = f"{stack}.layers.{index}"
        for attention in attentions:
            for projection in ("q", "k", "v", "out"):
                yield from _linear(f"{layer}.{attention}.{projection}", width, width)
            yield from _norm(f"{layer}.{attention}_norm", width)
        yield from _linear(f"{layer}.ffn.up", config.ffn_size, width)
        yield from _linear(f"{layer}.ffn.down", width, config.ffn_size)
        yield from _norm(f"{layer}.ffn_norm", width)
    yield from _norm(f"{stack}.norm", width)


def _linear(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def _norm(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)
