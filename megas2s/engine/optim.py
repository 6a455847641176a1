"""AdamW as every engine runs it: one set of hyperparameters, one rule for what decays.

Biases and layer norms (all one-dimensional parameters) do not decay; the embedding tables do (AlexaTM 20B,
arXiv 2208.01448, section 3). Frozen parameters are in no group, so they have neither state nor decay.

`layer_decay` below 1 lets lower layers learn more slowly (Howard and Ruder 2018; Clark et al. 2020, ELECTRA): each one
at this share of the rate of the layer above it, embeddings below all. Every share is a group.

`scale_by_rms` makes AdamW's steps relative to the size of what they change, as Adafactor's are (Shazeer and Stern 2018,
section 8; nanoT5, Nawrot 2023): the step of each tensor is multiplied by the root mean square of its weights, at least
0.001. Then each tensor is a group, whose learning rate is scaled; decay is by the learning rate itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from megas2s import dist
from megas2s.spec import spec

SMALLEST_SCALE = 1e-3
BELOW = ("embed", "positions", "relative_bias", "types", "embed_norm", "projection")  # of a stack, under its layers


class Depths(NamedTuple):
    """Layers of the whole model's stacks."""

    encoder: int
    decoder: int = 0


UNSAID = Depths(0)  # where all layers learn alike


@spec
class AdamW:
    """Decoupled weight decay (Loshchilov & Hutter 2019). `grad_clip` bounds the global gradient norm; 0: no bound."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    scale_by_rms: bool = False
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must lie in (0, 1], got {self.layer_decay}")
        if self.eps <= 0:
            raise ValueError(f"eps must be positive, got {self.eps}")
        for name in ("weight_decay", "grad_clip"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


def parameter_groups(
    parameters: Iterable[tuple[str, nn.Parameter]], spec: AdamW, depths: Depths
) -> list[dict[str, Any]]:
    """Trainable parameters with and without decay, a group for each and each share of the learning rate.

    Each in a group of its own, in their order, where steps are scaled.
    """
    assert spec.layer_decay == 1 or depths.encoder, "shares of layers need their number"
    trained = [(name, parameter) for name, parameter in parameters if parameter.requires_grad]
    groups: dict[tuple[object, ...], list[nn.Parameter]] = {}
    shares: dict[tuple[object, ...], float] = {}
    for name, parameter in trained:
        share = rate_share(name, spec.layer_decay, depths)
        key = (name,) if spec.scale_by_rms else (-share, not _decays(parameter))
        groups.setdefault(key, []).append(parameter)
        shares[key] = share
    order = list(groups) if spec.scale_by_rms else sorted(groups)
    return [{"params": groups[key], "share": shares[key], **_decay(spec, groups[key])} for key in order]


def rate_share(name: str, decay: float, depths: Depths) -> float:
    """The share of the learning rate that a parameter has: 1 in the last layer of its stack and in heads."""
    stack, kind, *rest = name.split(".")
    depth = depths.decoder if stack == "decoder" else depths.encoder
    if kind == "layers":
        return float(decay ** (depth - 1 - int(rest[0])))
    return float(decay**depth) if kind in BELOW or stack == "shared" else 1.0


def _decay(spec: AdamW, group: list[nn.Parameter]) -> dict[str, float]:
    decay = spec.weight_decay if _decays(group[0]) else 0.0
    return {"weight_decay": decay, "decay": decay}  # what is asked for stays beside what a scaled rate makes of it


def _decays(parameter: nn.Parameter) -> bool:
    """A ZeRO-3 parameter has an empty local shape; `ds_shape` keeps the real one."""
    return len(getattr(parameter, "ds_shape", parameter.shape)) > 1


def adamw(groups: list[dict[str, Any]], spec: AdamW) -> torch.optim.AdamW:
    """torch's AdamW in one fused pass over memory. The learning rate is set before every step (`set_lr`)."""
    return torch.optim.AdamW(groups, lr=0.0, betas=(spec.beta1, spec.beta2), eps=spec.eps, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float, scales: Sequence[float] | None = None) -> None:
    """Use `lr` for the next step in every group, its share of it, times its own scale where there are `scales`."""
    groups = optimizer.param_groups
    for group, scale in zip(groups, scales or [1.0] * len(groups), strict=True):
        group["lr"] = lr * scale * group["share"]
        if scales:
            group["weight_decay"] = group["decay"] / scale  # AdamW decays by the product of both


def rms_scales(parameters: Iterable[nn.Parameter]) -> list[float]:
    """max(0.001, root mean square) of the weights that each trainable parameter computes with; one wait for a GPU.

    Collective where ZeRO-3 scatters them: a rank adds up the slices that it holds.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    scattered = any(hasattr(parameter, "ds_tensor") for parameter in trained)
    norms = torch.stack([torch.linalg.vector_norm(_own(p), dtype=torch.float32) for p in trained])
    squares = dist.sum_over_ranks(norms.square()) if scattered else norms.square()
    sizes = [getattr(parameter, "ds_numel", parameter.numel()) for parameter in trained]
    return [max(SMALLEST_SCALE, (square / size) ** 0.5) for square, size in zip(squares.tolist(), sizes, strict=True)]


def _own(parameter: nn.Parameter) -> Tensor:
    """The part of a parameter that this rank holds, without what fills up its slice."""
    if not hasattr(parameter, "ds_tensor"):
        return parameter.detach()
    scattered: Any = parameter
    first = dist.place().rank * scattered.ds_tensor.ds_numel
    held: Tensor = scattered.ds_tensor.detach()[: max(0, scattered.ds_numel - first)]
    return held.to(dist.device())
