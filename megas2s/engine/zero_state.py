"""Where DeepSpeed keeps fp32 weights and Adam moments, behind three functions: prepare, read, write.

DeepSpeed flattens parameters and scatters them over ranks in a way that differs per ZeRO stage and precision. Here
every parameter is read as one full fp32 tensor on every rank, and written from the rows that a rank asks for, so that a
checkpoint is a set of named tensors whatever wrote it.

    ZeRO-0, fp32            torch's optimizer on the model's own parameters
    ZeRO-0, bf16 or fp16    lists of fp32 copies beside the model's parameters
    ZeRO-1, ZeRO-2          a slice of one flat fp32 tensor per group and rank; `_hp_mapping` knows which
    ZeRO-3                  a slice of each parameter per rank; `ds_id` marks such a parameter
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from deepspeed.ops.adam import DeepSpeedCPUAdam
from deepspeed.runtime.zero import GatheredParameters
from deepspeed.runtime.zero.partition_parameters import PartitionedParamStatus
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from torch import Tensor, nn

from megas2s import dist
from megas2s.engine.base import MOMENTS
from megas2s.models.parameters import ALL, Values

COUNTED_UP = 2.0**-26  # below half the distance from 1 to the next smaller float32
Rows = Callable[[slice], Tensor]  # of one parameter
VALUE = "value"  # the fp32 weight itself, beside the optimizer's own keys


def basic_optimizer(engine: Any) -> Any:
    """The torch (or CPU Adam) optimizer inside DeepSpeed's wrapper."""
    return engine.basic_optimizer


def prepare(engine: Any, moments: tuple[str, ...], step: float) -> None:
    """Give every group the Adam state that its first step would have made, with `step` steps counted."""
    optimizer = basic_optimizer(engine)
    for flat in _optimizer_tensors(engine):
        counted: Any = step
        if isinstance(optimizer, torch.optim.AdamW):
            fused = optimizer.defaults.get("fused")
            counted = torch.tensor(float(step), device=flat.device if fused else "cpu")
        else:
            counted = int(step)  # CPU Adam counts in a Python integer
        optimizer.state[flat] = {"step": counted, **{kind: torch.zeros_like(flat) for kind in moments}}
    if isinstance(optimizer, DeepSpeedCPUAdam):
        _count_up(optimizer, int(step))
    link(engine)


def link(engine: Any) -> None:
    """Let ZeRO-1 and ZeRO-2 parameters find their moments, whose tensors exist only once a step has been made."""
    wrapper = engine.optimizer
    if hasattr(wrapper, "_lazy_init_hp_params_optimizer_state"):
        wrapper._hp_optimizer_states_linked = False  # the tensors may be new ones since it was last done
        wrapper._lazy_init_hp_params_optimizer_state()


def optimizer_step(engine: Any) -> float:
    """Steps that Adam has counted; 0 before the first."""
    states = basic_optimizer(engine).state
    counted = [float(state["step"]) for state in states.values() if "step" in state]
    return counted[0] if counted else 0.0


def read(engine: Any, parameter: nn.Parameter, kind: str = VALUE) -> Tensor:
    """The full fp32 tensor of one trainable parameter; collective."""
    full: Tensor
    if hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping"):
        full = safe_get_full_fp32_param(parameter) if kind == VALUE else safe_get_full_optimizer_state(parameter, kind)
    else:
        master = _masters(engine)[id(parameter)]
        full = master.detach() if kind == VALUE else basic_optimizer(engine).state[master][kind]
    return full


def write(engine: Any, parameter: nn.Parameter, value: Rows, kind: str = VALUE) -> None:
    """Set one trainable parameter's fp32 tensor; every rank reads what it keeps of it."""
    device = dist.device()
    if hasattr(parameter, "ds_id"):
        own = _own_slice(parameter, value).to(device)
        if kind == VALUE:
            safe_set_local_fp32_param(parameter, own)
        else:
            safe_set_local_optimizer_state(parameter, own, kind)
    elif hasattr(parameter, "_hp_mapping"):
        full = value(ALL).to(device)
        if kind == VALUE:
            safe_set_full_fp32_param(parameter, full)
        else:
            safe_set_full_optimizer_state(parameter, full, kind)
    else:
        master = _masters(engine)[id(parameter)]
        target = master if kind == VALUE else basic_optimizer(engine).state[master][kind]
        target.data.copy_(value(ALL))


def load_values(engine: Any, parameters: Mapping[str, nn.Parameter], values: Values) -> None:
    """Set the fp32 tensors of all trainable parameters from the values that low-precision ones were rounded from."""
    for name, parameter in parameters.items():
        if parameter.requires_grad:
            write(engine, parameter, partial(values, name))


def load_moments(engine: Any, parameters: Mapping[str, nn.Parameter], moments: Values | None, step: float) -> None:
    """Put Adam where `moments`, by `kind.name`, and its own step left it; None stands for zeros."""
    prepare(engine, MOMENTS, step)
    for name, parameter in parameters.items():
        if parameter.requires_grad and moments is not None:
            for kind in MOMENTS:
                write(engine, parameter, partial(moments, f"{kind}.{name}"), kind)


@torch.no_grad()
def begin(parameter: Any, value: Rows) -> None:
    """Set a parameter before DeepSpeed has an engine; under ZeRO-3 every rank reads and keeps its slice alone."""
    if not hasattr(parameter, "ds_id"):
        parameter.copy_(value(ALL))
    elif parameter.ds_tensor.status == PartitionedParamStatus.AVAILABLE and parameter.ds_secondary_tensor is None:
        parameter.ds_tensor.copy_(_own_slice(parameter, value))
    else:  # on a disk, or kept twice (ZeRO++): DeepSpeed puts it where it belongs
        with GatheredParameters([parameter], modifier_rank=0):
            if dist.is_main():
                parameter.copy_(value(ALL))


def _own_slice(parameter: Any, value: Rows) -> Tensor:
    """This rank's slice of a ZeRO-3 parameter, flat, padded with zeros as DeepSpeed pads it."""
    size, shape = parameter.ds_tensor.ds_numel, parameter.ds_shape
    width = math.prod(shape[1:])
    start = min(dist.place().rank * size, parameter.ds_numel)
    stop = min(start + size, parameter.ds_numel)
    first, last = start // width, -(-stop // width)
    flat = value(slice(first, last)).flatten()[start - first * width : stop - first * width]
    return torch.nn.functional.pad(flat, (0, size - flat.numel()))


def _optimizer_tensors(engine: Any) -> list[Tensor]:
    """The tensors that the inner optimizer keeps state for."""
    wrapper = engine.optimizer
    flat_zero3 = getattr(wrapper, "fp32_partitioned_groups_flat", None)
    if flat_zero3 is not None:  # the inner optimizer's own groups are empty between steps
        return list(flat_zero3)
    return [tensor for group in basic_optimizer(engine).param_groups for tensor in group["params"]]


def _count_up(optimizer: DeepSpeedCPUAdam, step: int) -> None:
    """Let CPU Adam's compiled half count from 1 to `step`, as it did in the run that is resumed.

    It keeps beta^t as a product in float32 that grows step by step; begun anew it would take pow(beta, t), and the
    first update would differ in its last bit. Where 1 - beta^t has become 1, the difference is nothing.
    """
    beta1, beta2 = optimizer.param_groups[0]["betas"]
    if max(beta1, beta2) ** step < COUNTED_UP:
        return
    nothing = [torch.zeros(1) for _ in range(4)]
    for number in range(1, step + 1):
        optimizer.ds_opt_adam.adam_update(
            optimizer.opt_id, number, 0.0, beta1, beta2, optimizer.param_groups[0]["eps"], 0.0, True, *nothing
        )


def _masters(engine: Any) -> dict[int, Tensor]:
    """ZeRO-0: the fp32 tensor that the optimizer updates for each parameter, by the parameter's identity."""
    wrapper = engine.optimizer
    low = getattr(wrapper, "fp16_groups", None)
    if low is None:
        tensors = [tensor for group in basic_optimizer(engine).param_groups for tensor in group["params"]]
        return {id(tensor): tensor for tensor in tensors}
    pairs = zip(low, wrapper.fp32_groups, strict=True)
    return {id(short): long for shorts, longs in pairs for short, long in zip(shorts, longs, strict=True)}
