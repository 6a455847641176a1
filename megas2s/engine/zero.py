"""DeepSpeed ZeRO-0 to ZeRO-3 behind the `Engine` contract, with host and NVMe offload by configuration.

The trainable set is fixed when DeepSpeed is initialised, so a stage that freezes or unfreezes builds a new engine.
Weights are loaded before that, and the fp32 masters are then set from the same fp32 tensors: DeepSpeed derives its
masters from the rounded bf16 parameters, which would lose the low bits at every hand-off and every resume.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import socket
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.ops.adam import DeepSpeedCPUAdam
from deepspeed.runtime import bf16_optimizer
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from torch import Tensor, nn
from torch.distributed import distributed_c10d

from megas2s import dist
from megas2s.engine import base, zero_state
from megas2s.engine.base import (
    MOMENTS,
    Batch,
    Setup,
    StepResult,
    Sums,
    TrainedModel,
    global_divisors,
    to_device,
)
from megas2s.engine.compiled import drop_dead_locks, extensions_folder
from megas2s.engine.ds_config import compose, offloads_optimizer, read_ds_config, zero_stage
from megas2s.engine.optim import adamw, parameter_groups, rms_scales, set_lr
from megas2s.engine.profile import profiled
from megas2s.engine.stopwatch import Stopwatch
from megas2s.errors import BadConfig
from megas2s.models.parameters import Values
from megas2s.models.transformer import Network
from megas2s.spec import parse

PATIENCE = 1800.0  # seconds until a rank that does not answer is given up
SHARED_MEMORY = Path("/dev/shm")

# DeepSpeed calls collectives by names that newer torch deprecates, once per rank and launch.
warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")


def join(patience: float | None = None) -> None:
    """Join the process group that the launcher describes; a process without a launcher is a group of one."""
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if dist.active():
        return
    rank, world_size, local_rank = dist.place()
    if "MASTER_ADDR" not in os.environ and dist.on_this_host() < world_size:
        raise BadConfig(
            f"{world_size} ranks but no MASTER_ADDR: export MASTER_ADDR (a host that all ranks reach) and MASTER_PORT"
        )
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29500" if world_size > 1 else str(_free_port()))
    timeout = datetime.timedelta(seconds=PATIENCE if patience is None else patience)
    # DeepSpeed makes groups of its own, which take torch's default, whatever that of the first group is.
    for name in ("default_pg_timeout", "default_pg_nccl_timeout"):
        setattr(distributed_c10d, name, timeout)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(local_rank))
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
    drop_dead_locks(extensions_folder())
    try:
        deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False, timeout=timeout)
    except torch.distributed.DistNetworkError as error:
        if "EADDRINUSE" not in str(error):
            raise
        raise BadConfig(
            f"port {os.environ['MASTER_PORT']} of {os.environ['MASTER_ADDR']} is in use, by another run perhaps; take "
            "another one (deepspeed --master_port N, or export MASTER_PORT)"
        ) from None
    _forget_shared_memory()


def _forget_shared_memory() -> None:
    """Unlink the buffers through which DeepSpeed adds up on CPUs; mapped by every rank, they live until the last ends.

    DeepSpeed 0.19.8 leaves them: 69 MB of memory a rank after each job, and a later one on the same port may meet them.
    """
    if SHARED_MEMORY.is_dir() and not torch.cuda.is_available():
        torch.distributed.barrier()
        address = f"{os.environ['MASTER_ADDR']}_{os.environ['MASTER_PORT']}"
        for buffer in SHARED_MEMORY.glob(f"deepspeed_allreduce_buffer_{os.getuid()}_{address}_*"):
            buffer.unlink(missing_ok=True)


class ZeroEngine:
    """A DeepSpeed engine for one stage of a recipe."""

    def __init__(self, setup: Setup, config_path: str) -> None:
        knobs = read_ds_config(config_path, precision=setup.precision)
        # DeepSpeed's own check, whose complaint would else be a traceback of every rank.
        parse(DeepSpeedZeroConfig, knobs.get("zero_optimization", {}), source=f"{config_path}: zero_optimization")
        if setup.precision == "fp16" and not get_accelerator().is_fp16_supported():
            raise BadConfig("precision: fp16 is not supported by this device; take bf16 or fp32")
        if (
            setup.optimizer.scale_by_rms
            and knobs.get("zero_optimization", {}).get("offload_param", {}).get("device") == "nvme"
        ):
            raise BadConfig(
                f"optimizer.scale_by_rms reads every weight at every step, and {config_path} keeps them on a disk "
                "(offload_param nvme); leave one of the two out"
            )
        join()
        self._setup = setup
        self._place = dist.place()
        self._device = dist.device()
        self._stage = zero_stage(knobs)
        # DeepSpeed clips plain fp32 without reporting the norm, so there we do both ourselves.
        self._clips_itself = self._stage > 0 or setup.precision != "fp32"
        clip = setup.optimizer.grad_clip
        config = compose(
            knobs,
            precision=setup.precision,
            grad_clip=clip if self._clips_itself else 0.0,
            micro_batch=setup.micro_batch,
            micro_batches=setup.micro_batches,
            world_size=self._place.world_size,
        )
        self._trained = trained = TrainedModel(self._build(config), setup.losses)
        self._parameters = dict(trained.model.named_parameters())
        optimizer = _optimizer(self._parameters, setup, offloads_optimizer(knobs))
        with _no_memory_reports():
            self._engine, *_ = deepspeed.initialize(model=trained, optimizer=optimizer, config=config)
        self._parameters = dict(self._engine.module.model.named_parameters())
        if setup.precision != "fp32":
            zero_state.load_values(self._engine, self._parameters, setup.initial)
        if zero_state.optimizer_step(self._engine):  # ZeRO-0's low-precision wrapper makes an empty step when built
            self.load_moments(None, {"optimizer_step": 0.0})

    def part_weights(self) -> dict[str, float | None]:
        """Parts and weights of the last forward pass."""
        return self._trained.part_weights

    def train_step(self, batches: Sequence[Batch], *, step: int, lr: float) -> StepResult:
        """One optimizer step over this rank's micro-batches."""
        self._engine.train()
        batches = [to_device(batch, self._device) for batch in batches]
        divisors = global_divisors(self._setup.losses, batches)
        sums = Sums(self._setup.languages, self._device)
        scales = rms_scales(self._parameters.values()) if self._setup.optimizer.scale_by_rms else None
        set_lr(self._engine.optimizer, lr, scales)
        own = Stopwatch(self._device)
        with profiled(self._setup.profile, step, self._engine.module, writes=self._place.rank == 0):
            for index, batch in enumerate(batches):
                torch.manual_seed(self._setup.dropout_seed(step, index, self._place.rank))
                with own.running() if self._stage < 3 else contextlib.nullcontext():
                    loss, rows = self._engine(batch, divisors, step)
                # DeepSpeed averages gradients over ranks; the divisors already are global.
                self._engine.backward(loss * self._place.world_size, scale_wrt_gas=False)
                if index == len(batches) - 1:
                    norm = None if self._clips_itself else self._clip()
                self._engine.step()
                sums.add(batch, rows)
        skipped = bool(getattr(self._engine.optimizer, "overflow", False))
        measured = self._engine.get_global_grad_norm() if norm is None else norm
        norm = float(measured) if measured is not None else float("nan")
        return StepResult(sums.tensor(), norm, skipped, own.seconds())

    def evaluate(self, batches: Sequence[Batch]) -> Tensor:
        """`Sums` of this rank's rows; every rank must pass the same number of batches."""
        return base.evaluate(self._engine, self._setup, batches, self._device)

    def predict(self, batch: Batch) -> Tensor:
        """What the objective takes from the model; every rank passes a batch of its own."""
        return base.predict(self._engine, batch, self._device)

    def values(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter in fp32, gathered one at a time onto every rank; the frozen ones as they were loaded.

        Those are read again from the disk, so by rank 0 alone; other ranks leave them out.
        """
        for name, parameter in self._parameters.items():
            if parameter.requires_grad:
                yield name, zero_state.read(self._engine, parameter)
            elif self._place.rank == 0:
                yield name, self._setup.initial(name)

    def moments(self) -> Iterator[tuple[str, Tensor]]:
        """Adam's two moments of every trainable parameter, gathered one at a time onto every rank."""
        if zero_state.optimizer_step(self._engine) == 0:
            return
        zero_state.link(self._engine)
        for name, parameter in self._parameters.items():
            if parameter.requires_grad:
                for kind in MOMENTS:
                    yield f"{kind}.{name}", zero_state.read(self._engine, parameter, kind)

    def trainable(self) -> int:
        """The numbers that Adam updates; a ZeRO-3 parameter is scattered and knows its full size."""
        trained = [parameter for parameter in self._parameters.values() if parameter.requires_grad]
        return sum(int(getattr(parameter, "ds_numel", parameter.numel())) for parameter in trained)

    def counters(self) -> dict[str, float]:
        """Adam's step and, in fp16, the state of the loss scale."""
        counters = {"optimizer_step": zero_state.optimizer_step(self._engine)}
        scaler = getattr(self._engine.optimizer, "loss_scaler", None) if self._setup.precision == "fp16" else None
        return counters | {name: float(getattr(scaler, name)) for name in _scale_names(scaler)}

    def load_moments(self, moments: Values | None, counters: Mapping[str, float]) -> None:
        """Continue Adam, and in fp16 the loss scale, from saved values."""
        zero_state.load_moments(self._engine, self._parameters, moments, counters["optimizer_step"])
        scaler = getattr(self._engine.optimizer, "loss_scaler", None) if self._setup.precision == "fp16" else None
        for name in _scale_names(scaler):
            if name in counters:
                setattr(scaler, name, type(getattr(scaler, name))(counters[name]))

    def close(self) -> None:
        """Take DeepSpeed's hooks off the model and free its buffers."""
        self._engine.destroy()

    def _build(self, config: dict[str, Any]) -> Network:
        """The model with its starting weights; under ZeRO-3 no rank ever holds all of it."""
        if self._stage < 3:
            model = self._setup.build()
        else:
            # The dtype comes from `config`: DeepSpeed 0.19.8 ignores one given by name where fp16 is not supported.
            with deepspeed.zero.Init(config_dict_or_path=config):
                model = self._setup.build()
        for name, parameter in model.named_parameters():
            zero_state.begin(parameter, partial(self._setup.initial, name))
        return model

    def _clip(self) -> float:
        """Clip the averaged fp32 gradients of ZeRO-0, equal on every rank, by their norm; returns the norm."""
        clip = self._setup.optimizer.grad_clip
        trainable = [parameter for parameter in self._parameters.values() if parameter.requires_grad]
        return float(nn.utils.clip_grad_norm_(trainable, clip if clip > 0 else float("inf")))


def _optimizer(parameters: Mapping[str, nn.Parameter], setup: Setup, offload: bool) -> torch.optim.Optimizer:
    groups = parameter_groups(parameters.items(), setup.optimizer, setup.depths)
    if not groups:
        raise BadConfig("every parameter of this stage is frozen, so there is nothing to train; shorten `freeze`")
    if not offload:
        return adamw(groups, setup.optimizer)
    betas = (setup.optimizer.beta1, setup.optimizer.beta2)
    cpu_adam: torch.optim.Optimizer = DeepSpeedCPUAdam(
        groups, lr=0.0, betas=betas, eps=setup.optimizer.eps, adamw_mode=True
    )
    return cpu_adam


@contextlib.contextmanager
def _no_memory_reports() -> Iterator[None]:
    """Keep DeepSpeed's bf16 optimizer from collecting garbage several times for each group, to report memory unseen.

    With a group for each tensor (`scale_by_rms`) that is minutes before the first step.
    """
    original = bf16_optimizer.see_memory_usage
    bf16_optimizer.see_memory_usage = lambda *_, **__: None
    try:
        yield
    finally:
        bf16_optimizer.see_memory_usage = original


def _scale_names(scaler: Any) -> list[str]:
    names = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
    return [name for name in names if hasattr(scaler, name)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
