"""Which parameters stand still: shell-style patterns over canonical names and roles.

    freeze: ["encoder.*"]        the encoder's layers, norms and positions, and the matrix it embeds with

A parameter is frozen wherever it is used: with tied embeddings the pattern above freezes the decoder's embedding and
the head too. Frozen modules stay in evaluation mode, so their dropout is off, and since nothing in a frozen encoder
asks for a gradient, autograd stores none of its activations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal, NamedTuple

from torch import nn

from megas2s.models.config import ModelConfig
from megas2s.models.parameters import aliases, canonical_parameters, parameter_shapes
from megas2s.spec import nearest

if TYPE_CHECKING:
    from megas2s.models.transformer import Model

Part = Literal["encoder", "decoder", "embeddings", "head"]

INPUTS = ("embed", "positions", "relative_bias", "types", "embed_norm", "projection")  # below all layers of a stack


class PartCount(NamedTuple):
    """Parameters of one part of a model."""

    trainable: int
    frozen: int


def frozen_names(config: ModelConfig, patterns: Sequence[str]) -> set[str]:
    """Canonical names of what `patterns` freeze; ValueError where a pattern means nothing or the choice is unsound."""
    roles = aliases(config)
    names = list(parameter_shapes(config))
    frozen: set[str] = set()
    for pattern in patterns:
        matched = {n for n in names if any(fnmatchcase(called, pattern) for called in (n, *roles.get(n, ())))}
        if not matched:
            raise ValueError(f"freeze: {pattern!r} matches no parameter; {nearest(pattern, _short_patterns(config))}")
        frozen |= matched
    _refuse_unsound(config, frozen)
    return frozen


def freeze(model: Model, patterns: Sequence[str]) -> set[str]:
    """Freeze what `patterns` match and let everything else train; returns the frozen names."""
    frozen = frozen_names(model.config, patterns)
    for name, parameter in canonical_parameters(model).items():
        parameter.requires_grad_(name not in frozen)
    moving = parameter_shapes(model.config).keys() - frozen
    for stack in ("encoder", "decoder"):
        if hasattr(model, stack):
            getattr(model, stack).trains_elsewhere = any(name.startswith(f"{stack}.") for name in moving)
    model.train(model.training)
    return frozen


def quiet_frozen(model: nn.Module) -> None:
    """Put every module without a trainable parameter into evaluation mode.

    Of a model in parts, a stack trains where any part of it does.
    """
    for module in model.modules():
        parameters = list(module.parameters())
        trains = any(parameter.requires_grad for parameter in parameters) or getattr(module, "trains_elsewhere", False)
        if parameters and not trains:
            for inner in module.modules():
                inner.training = False


def count_by_part(config: ModelConfig, frozen: set[str]) -> dict[Part, PartCount]:
    """Trainable and frozen parameters of each part; a matrix with several roles counts once, as an embedding."""
    counts: dict[Part, PartCount] = {}
    for name, shape in parameter_shapes(config).items():
        part = part_of(name)
        trainable, standing = counts.get(part, PartCount(0, 0))
        size = math.prod(shape)
        counts[part] = (
            PartCount(trainable, standing + size) if name in frozen else PartCount(trainable + size, standing)
        )
    return counts


def part_of(name: str) -> Part:
    """The part of the model that a canonical name belongs to."""
    if name == "shared.weight" or name.endswith((".embed.weight", ".positions.weight", ".types.weight")):
        return "embeddings"
    if name.startswith(("head.", "mlm.", "classes.", "text.")):
        return "head"
    return "encoder" if name.startswith("encoder.") else "decoder"


def _refuse_unsound(config: ModelConfig, frozen: set[str]) -> None:
    names = list(parameter_shapes(config))
    if len(frozen) == len(names):
        raise ValueError("freeze: the patterns freeze every parameter, nothing is left to train; freeze fewer")
    roles = aliases(config)
    for stack in ("encoder", "decoder") if config.is_seq2seq else ("encoder",):
        if any(name.startswith(f"{stack}.layers.") and name not in frozen for name in names):
            continue
        inputs = tuple(f"{stack}.{part}." for part in INPUTS)
        loose = [n for n in names if n not in frozen and any(r.startswith(inputs) for r in roles.get(n, (n,)))]
        if loose:
            raise ValueError(
                f"freeze: all layers of the {stack} are frozen but {', '.join(loose)} would train, so the input of "
                f"frozen layers would drift; freeze {stack + '.*'!r}, or let layers of the {stack} train"
            )


def _short_patterns(config: ModelConfig) -> set[str]:
    """The patterns that people write: `encoder.*`, `encoder.layers.*`, `head.*`."""
    called = {role for name in parameter_shapes(config) for role in (name, *aliases(config).get(name, ()))}
    return {".".join(role.split(".")[:depth]) + ".*" for role in called for depth in (1, 2) if role.count(".") >= depth}
