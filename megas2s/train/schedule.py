"""The learning rate as a pure function of the step. Step 0 is the first optimizer step."""

from __future__ import annotations

import math
from typing import Literal

from megas2s.spec import spec


@spec
class Schedule:
    """Linear warm-up over `warmup_steps` to `lr`, then `shape` down to `final_lr` when the stage ends.

    inverse_sqrt decays with the square root of the step (Vaswani et al. 2017) and never falls below `final_lr`;
    polynomial is the share of steps left to the `power`, of which linear is the first.
    """

    lr: float
    warmup_steps: int = 0
    shape: Literal["linear", "polynomial", "cosine", "inverse_sqrt", "constant"] = "linear"
    power: float = 1.0
    final_lr: float = 0.0

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr must be positive, got {self.lr}")
        if not 0 <= self.final_lr <= self.lr:
            raise ValueError(f"final_lr must lie between 0 and lr {self.lr}, got {self.final_lr}")
        if not self.power > 0:
            raise ValueError(f"power must be above 0, got {self.power}")
        if self.power != 1.0 and self.shape != "polynomial":
            raise ValueError(f"power belongs to shape: polynomial, and the shape is {self.shape}; leave it out")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps must not be negative, got {self.warmup_steps}")

    def at(self, step: int, *, steps: int) -> float:
        """The learning rate of `step` in a stage of `steps`."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        return self.final_lr + (self.lr - self.final_lr) * self._share(step, steps)

    def _share(self, step: int, steps: int) -> float:
        if self.shape == "constant":
            return 1.0
        if self.shape == "inverse_sqrt":
            return math.sqrt(max(1, self.warmup_steps) / (step + 1))
        progress = min(1.0, (step - self.warmup_steps) / max(1, steps - self.warmup_steps))
        if self.shape == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * progress))
        return float((1.0 - progress) ** self.power)
