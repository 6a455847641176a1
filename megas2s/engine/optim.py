"""AdamW as every engine runs it: one set of hyperparameters, one rule for what decays.

Biases and layer norms (all one-dimensional parameters) do not decay; the embedding tables do (AlexaTM 20B,
arXiv 2208.01448, section 3). Frozen parameters are in no group, so they have neither state nor decay.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from megas2s.spec import spec


@spec
class AdamW:
    """Decoupled weight decay (Loshchilov & Hutter 2019). `grad_clip` bounds the global gradient norm; 0: no bound."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01
    grad_clip: float = 1.0

    def __post_init__(self) -> None:
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        if self.eps <= 0:
            raise ValueError(f"eps must be positive, got {self.eps}")
        for name in ("weight_decay", "grad_clip"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


def parameter_groups(parameters: Iterable[tuple[str, nn.Parameter]], spec: AdamW) -> list[dict[str, Any]]:
    """Trainable parameters in at most two groups, with and without decay; an empty group is left out."""
    decaying: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for _, parameter in parameters:
        if parameter.requires_grad:
            # A ZeRO-3 parameter has an empty local shape; `ds_shape` keeps the real one.
            (decaying if len(getattr(parameter, "ds_shape", parameter.shape)) > 1 else plain).append(parameter)
    groups = [{"params": decaying, "weight_decay": spec.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def adamw(groups: list[dict[str, Any]], spec: AdamW) -> torch.optim.AdamW:
    """torch's AdamW in one fused pass over memory. The learning rate is set before every step (`set_lr`)."""
    return torch.optim.AdamW(groups, lr=0.0, betas=(spec.beta1, spec.beta2), eps=spec.eps, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Use `lr` for the next step in every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr
