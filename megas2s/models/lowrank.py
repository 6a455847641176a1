"""Low-rank adapters (Hu et al. 2022, LoRA): a linear map that stands still, and beside it a narrow one that learns.

    y = W x + b + (alpha / r) B A x          A (r, inputs) begins at random, B (outputs, r) at zero

Weights with adapters are read as the model that they make, W + (alpha / r) B A, by everybody but the run that trains
them: an exported folder, the next stage and decoding know nothing of adapters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megas2s.models.config import LORA_ALPHA, LOW_RANK_TARGETS, ModelConfig
from megas2s.models.parameters import parameter_shapes
from megas2s.spec import nearest, spec

ADAPTER = ("lora_a", "lora_b")
HEADS = ("classes.", "text.")  # of a task


@spec
class LowRank:
    """Adapters on the maps called `targets`: q, k, v, out of attention, up, gate, down of the feed-forward."""

    rank: int = 8
    alpha: float = LORA_ALPHA
    targets: tuple[str, ...] = ("q", "v")
    train: tuple[str, ...] = ()  # patterns of parameters that train too

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, got {self.rank}")
        if not self.targets:
            raise ValueError("targets name no map; without adapters leave lora out")
        if unknown := [target for target in self.targets if target not in LOW_RANK_TARGETS]:
            raise ValueError(f"targets: no map is called {unknown[0]!r}; {nearest(unknown[0], LOW_RANK_TARGETS)}")

    def shaped(self, config: ModelConfig) -> ModelConfig:
        """The model with adapters."""
        return dataclasses.replace(config, lora_rank=self.rank, lora_alpha=self.alpha, lora_targets=self.targets)

    def frozen(self, config: ModelConfig, *, anew: Sequence[str] = ()) -> list[str]:
        """Canonical names of what stands still: all but adapters, heads that begin at random, and what `train` names.

        Beside a task's head those are what begins with one of `anew`. ValueError where a pattern means nothing.
        """
        names = list(parameter_shapes(config))
        for pattern in self.train:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ValueError(f"lora.train: {pattern!r} matches no parameter")
        return [name for name in names if not self._trains(name, (*HEADS, *anew))]

    def _trains(self, name: str, heads: tuple[str, ...]) -> bool:
        adapter = name.endswith(ADAPTER) or name.startswith(heads)
        return adapter or any(fnmatchcase(name, pattern) for pattern in self.train)


class Linear(nn.Linear):
    """A linear map."""

    def reset_parameters(self) -> None:
        """Leave the values to `init`, which goes by name."""


class AdaptedLinear(Linear):
    """A linear map with an adapter."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool, rank: int, scale: float) -> None:
        super().__init__(inputs, outputs, bias=bias)
        self.lora_a = nn.Parameter(torch.empty(rank, inputs))
        self.lora_b = nn.Parameter(torch.zeros(outputs, rank))
        self.scale = scale

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        return super().forward(hidden) + F.linear(F.linear(hidden, self.lora_a), self.lora_b) * self.scale


def linear(config: ModelConfig, name: str, inputs: int, outputs: int) -> Linear:
    """The map of a layer that is called `name`, with an adapter where the model has one there."""
    if name not in config.lora_targets:
        return Linear(inputs, outputs, bias=config.biases)
    scale = config.lora_alpha / config.lora_rank
    return AdaptedLinear(inputs, outputs, bias=config.biases, rank=config.lora_rank, scale=scale)


def without_adapters(config: ModelConfig) -> ModelConfig:
    """The model that one with adapters makes."""
    return dataclasses.replace(config, lora_rank=0, lora_alpha=LORA_ALPHA, lora_targets=())


def adapted(names: Collection[str], name: str) -> tuple[str, str] | None:
    """The adapter of the map whose weight is `name`, where it has one."""
    base, _, leaf = name.rpartition(".")
    found = (f"{base}.lora_a", f"{base}.lora_b")
    return found if leaf == "weight" and found[0] in names else None
