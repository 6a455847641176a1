"""Some weights of a model as random as they once were, all others untouched: how much of a task is in a layer?

    reinitialise: ["encoder.layers.3"]      one layer
    reinitialise: ["decoder.*"]             the decoder, but for a matrix that it shares with the encoder

Patterns are shell-style over canonical names, and a pattern that names a module means all below it. Unlike freezing
they do not go by roles: a matrix that both stacks read is called `shared.weight` and is drawn anew only by that name,
for the encoder would be another function after `decoder.*`. First values come from the distribution that the model's
configuration states; they depend on the seed and the shape alone, so that a layer is the same in every experiment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase

from torch import Tensor

from megas2s.models.config import ModelConfig
from megas2s.models.init import first_values
from megas2s.models.parameters import parameter_shapes
from megas2s.rng import torch_seed
from megas2s.spec import nearest


def reinitialised_names(config: ModelConfig, patterns: Sequence[str]) -> set[str]:
    """Canonical names of what `patterns` draw anew; ValueError where a pattern means nothing."""
    names = list(parameter_shapes(config))
    chosen: set[str] = set()
    for pattern in patterns:
        matched = {name for name in names if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")}
        if not matched:
            modules = {".".join(name.split(".")[:depth]) for name in names for depth in (1, 3)}
            raise ValueError(f"reinitialise: {pattern!r} matches no parameter; {nearest(pattern, modules)}")
        chosen |= matched
    return chosen


def reinitialised(
    config: ModelConfig, value: Callable[[str], Tensor], names: set[str], *, seed: int
) -> Iterator[tuple[str, Tensor]]:
    """Every canonical tensor in turn: those of `names` fresh in the dtype that they had, the rest from `value`."""
    fresh = first_values(config, torch_seed(seed, "reinitialise"))
    for name in parameter_shapes(config):
        kept = value(name)
        yield name, fresh(name).to(kept.dtype) if name in names else kept
