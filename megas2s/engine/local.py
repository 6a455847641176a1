"""Plain PyTorch on one device: the reference that the other engines are tested against.

In bf16 the model computes in bfloat16, and the optimizer keeps fp32 master weights and sums micro-batches in fp32, as
DeepSpeed does with most of the shipped files; fp16 would need a loss scale and is refused.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from megas2s import dist
from megas2s.engine import base
from megas2s.engine.base import (
    DTYPES,
    MOMENTS,
    Batch,
    Setup,
    StepResult,
    Sums,
    TrainedModel,
    global_divisors,
    to_device,
)
from megas2s.engine.optim import adamw, parameter_groups, rms_scales, set_lr
from megas2s.errors import BadConfig
from megas2s.models.init import fill
from megas2s.models.parameters import Values


class LocalEngine:
    """One process, one device."""

    def __init__(self, setup: Setup) -> None:
        if dist.place().world_size > 1:
            raise BadConfig(
                f"engine 'local' runs one rank, found {dist.place().world_size}; use engine: {{name: zero}}"
            )
        self._setup = setup
        self._device = dist.device()
        model = setup.build()
        fill(model, setup.initial)
        self._model = model.to(self._device)
        self._trained = TrainedModel(self._model, setup.losses)
        self._masters = _fp32_masters(self._model, DTYPES[setup.precision])
        for name, parameter in self._model.named_parameters():
            if setup.precision != "fp32" and parameter.requires_grad:
                add_up = functools.partial(_add_up, self._masters[name])
                parameter.register_post_accumulate_grad_hook(add_up)  # type: ignore[no-untyped-call]
        groups = parameter_groups(self._masters.items(), setup.optimizer, setup.depths)
        self._optimizer = adamw(groups, setup.optimizer)

    def part_weights(self) -> dict[str, float | None]:
        """Parts and weights of the last forward pass."""
        return self._trained.part_weights

    def train_step(self, batches: Sequence[Batch], *, step: int, lr: float) -> StepResult:
        """One optimizer step over the micro-batches."""
        self._trained.train()
        batches = [to_device(batch, self._device) for batch in batches]
        divisors = global_divisors(self._setup.losses, batches)
        sums = Sums(self._setup.languages, self._device)
        for index, batch in enumerate(batches):
            torch.manual_seed(self._setup.dropout_seed(step, index, 0))
            loss, rows = self._trained(batch, divisors, step)
            loss.backward()
            sums.add(batch, rows)
        grad_norm = self._update(lr)
        return StepResult(sums.tensor(), grad_norm, skipped=False)

    def evaluate(self, batches: Sequence[Batch]) -> Tensor:
        """`Sums` without dropout and gradients."""
        return base.evaluate(self._trained, self._setup, batches, self._device)

    def predict(self, batch: Batch) -> Tensor:
        """What the objective takes from the model."""
        return base.predict(self._trained, batch, self._device)

    def values(self) -> Iterator[tuple[str, Tensor]]:
        """Parameters in fp32; the frozen ones as they were loaded."""
        for name, _ in self._model.named_parameters():
            if name in self._masters:
                yield name, self._masters[name].detach()
            else:
                yield name, self._setup.initial(name)

    def moments(self) -> Iterator[tuple[str, Tensor]]:
        """AdamW's two moments of every trainable parameter."""
        for name, master in self._masters.items():
            for kind in MOMENTS:
                if kind in (held := self._optimizer.state.get(master, {})):
                    yield f"{kind}.{name}", held[kind]

    def trainable(self) -> int:
        """The numbers that AdamW updates."""
        return sum(master.numel() for master in self._masters.values())

    def counters(self) -> dict[str, float]:
        """AdamW's step."""
        held = next(iter(self._optimizer.state.values()), None)
        return {"optimizer_step": float(held["step"]) if held else 0.0}

    def load_moments(self, moments: Values | None, counters: Mapping[str, float]) -> None:
        """Continue AdamW from saved moments, or begin again."""
        for name, master in self._masters.items():
            restored = {
                kind: torch.zeros_like(master) if moments is None else moments(f"{kind}.{name}").to(self._device)
                for kind in MOMENTS
            }
            step_device = self._device if self._device.type == "cuda" else torch.device("cpu")
            step = torch.tensor(counters["optimizer_step"], dtype=torch.float32, device=step_device)
            self._optimizer.state[master] = {"step": step, **restored}

    def close(self) -> None:
        """Nothing is held beyond the process's own memory."""

    def _update(self, lr: float) -> float:
        """Clip and step on the fp32 masters, then round them back into the model; returns the norm before clipping."""
        clip = self._setup.optimizer.grad_clip
        norm = torch.nn.utils.clip_grad_norm_(self._masters.values(), clip if clip > 0 else float("inf"))
        live = dict(self._model.named_parameters())
        scales = rms_scales(live.values()) if self._setup.optimizer.scale_by_rms else None
        set_lr(self._optimizer, lr, scales)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, master in self._masters.items():
                if master is not live[name]:
                    live[name].copy_(master)
        return float(norm)


def _add_up(master: nn.Parameter, parameter: Tensor) -> None:
    """Move a micro-batch's gradient to the fp32 sum as soon as it is there."""
    assert parameter.grad is not None
    master.grad = parameter.grad.float() if master.grad is None else master.grad.add_(parameter.grad)
    parameter.grad = None


def _fp32_masters(model: nn.Module, dtype: torch.dtype) -> dict[str, nn.Parameter]:
    """The trainable parameters as the optimizer sees them; casts the model to `dtype`."""
    if dtype == torch.float32:
        return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    masters = {
        name: nn.Parameter(parameter.detach().clone())
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    model.to(dtype)
    return masters
