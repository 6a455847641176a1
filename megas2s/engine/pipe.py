"""Layers on several ranks, one after another: DeepSpeed's pipeline behind the `Engine` contract.

The encoder's states travel with the decoder's to the last part, since every decoder layer reads them. Objectives that
look at them (E2S2) are therefore computed there, with all other losses, by the code that the other engines run.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as torch_dist
from deepspeed.runtime.config import DeepSpeedConfig
from deepspeed.runtime.engine import DeepSpeedEngine
from deepspeed.runtime.pipe.topology import PipeDataParallelTopology
from torch import Tensor

from megas2s import dist
from megas2s.engine import zero_state
from megas2s.engine.base import DTYPES, MOMENTS, Batch, Setup, StepResult, Sums, global_divisors, to_device
from megas2s.engine.conveyor import Conveyor, Copy, Piece, Pieces, measure_whole
from megas2s.engine.ds_config import check_pipeline, compose
from megas2s.engine.optim import adamw, parameter_groups, rms_scales, set_lr
from megas2s.engine.profile import profiled
from megas2s.engine.spread import Spread
from megas2s.engine.zero import join
from megas2s.models.init import fill
from megas2s.models.parameters import Values, canonical_parameters, parameter_shapes
from megas2s.models.parts import Stream, held, moving_states


class PipeEngine:
    """A pipeline of as many parts as `setup.cut` has, times data parallel, for one stage of a recipe."""

    def __init__(self, setup: Setup, config_path: str) -> None:
        knobs = check_pipeline(config_path, precision=setup.precision)
        assert setup.cut is not None, "a pipeline has parts"
        join()
        self._setup = setup
        self._config, self._frozen, self._spans = setup.cut
        stages = len(self._spans)
        self._place = dist.place()
        self._data = dist.data_place()
        self._device = dist.device()
        self._dtype = DTYPES[setup.precision]
        topology = PipeDataParallelTopology(num_pp=stages, num_dp=self._data.world_size)
        stage = topology.get_coord(self._place.rank).pipe
        self._span = self._spans[stage]
        self._holders = {
            name: [index for index, span in enumerate(self._spans) if name in held(self._config, span)]
            for name in parameter_shapes(self._config)
        }
        model = setup.build(self._span)
        fill(model, setup.initial)
        self._piece = Piece(model, setup.losses, self._span, last=stage == stages - 1)
        self._pieces = Pieces(self._piece, topology, self._place)
        self._share(stage, topology)
        self._parameters = canonical_parameters(model)
        config = compose(
            knobs,
            precision=setup.precision,
            grad_clip=setup.optimizer.grad_clip,
            micro_batch=setup.micro_batch,
            micro_batches=setup.micro_batches,
            world_size=self._data.world_size,
        )
        mpu = self._pieces.mpu()
        groups = parameter_groups(self._parameters.items(), setup.optimizer, setup.depths)
        with contextlib.redirect_stdout(None):
            self._engine = Conveyor(
                args=None,
                model=self._pieces,
                optimizer=adamw(groups, setup.optimizer),
                mpu=mpu,
                config=config,
                config_class=DeepSpeedConfig(config, mpu),
            )
        self._group = self._engine.grid.get_pipe_parallel_group()
        measure_whole(self._engine.optimizer, self._group)
        self._row = [self._engine.grid.stage_to_global(number) for number in range(stages)]  # ranks, part by part
        self._weights: dict[str, float | None] = {}
        self._spread = Spread(model, self._spans, stage, self._row, self._group, self._dtype)
        if setup.precision != "fp32":
            zero_state.load_values(self._engine, self._parameters, setup.initial)

    def _share(self, stage: int, topology: PipeDataParallelTopology) -> None:
        """Groups of the ranks that hold the same parameter; the first holder counts it in norms."""
        groups: dict[tuple[tuple[int, ...], int], Any] = {}
        own = canonical_parameters(self._piece.model)
        for name, holders in self._holders.items():
            for data in range(self._data.world_size) if len(holders) > 1 else ():
                key = (tuple(holders), data)
                if key not in groups:
                    ranks = [topology.get_rank(pipe=index, data=data) for index in holders]
                    groups[key] = torch_dist.new_group(ranks)
                if stage in holders and data == self._data.rank:
                    if own[name].requires_grad:
                        owner = topology.get_rank(pipe=holders[0], data=data)
                        self._pieces.copies.append(Copy(own[name], groups[key], owner))
                    own[name].ds_pipe_replicated = stage != holders[0]  # type: ignore[attr-defined]

    def part_weights(self) -> dict[str, float | None]:
        """Parts and weights of the last forward pass."""
        return self._weights

    def train_step(self, batches: Sequence[Batch], *, step: int, lr: float) -> StepResult:
        """One optimizer step over the micro-batches of this rank's row of parts."""
        batches = [to_device(batch, self._device) for batch in batches]
        divisors = global_divisors(self._setup.losses, batches)
        scales = rms_scales(self._parameters.values()) if self._setup.optimizer.scale_by_rms else None
        set_lr(self._engine.optimizer, lr, scales)
        self._engine.module.train()
        inputs = [self._setup.losses.inputs(batch) for batch in batches]

        def run(index: int, stream: Stream) -> Any:
            torch.manual_seed(self._setup.dropout_seed(step, index, self._place.rank))
            return DeepSpeedEngine.forward(self._engine, batches[index], inputs[index], stream, divisors, step)

        self._engine.prepare(batches, run, self._shapes(inputs, gradients=True))
        part = f"-part{self._row.index(self._place.rank)}"
        writes = self._data.rank == 0
        with profiled(self._setup.profile, step, self._piece, writes=writes, part=part):
            self._engine._exec_schedule(self._engine._train_schedule())
        sums = self._told(batches, [rows for _, rows in self._engine.results] if self._piece.last else [])
        norm = self._engine.get_global_grad_norm()
        skipped = bool(getattr(self._engine.optimizer, "overflow", False))
        return StepResult(sums, float(norm) if norm is not None else float("nan"), skipped)

    @torch.no_grad()
    def evaluate(self, batches: Sequence[Batch]) -> Tensor:
        """`Sums` of the rows of this rank's row of parts."""
        batches = [to_device(batch, self._device) for batch in batches]
        inputs = [self._setup.losses.inputs(batch) for batch in batches]
        ones = [{part: torch.ones((), device=self._device) for part in self._setup.losses.counts(b)} for b in batches]
        self._engine.module.eval()

        def run(index: int, stream: Stream) -> Any:
            return self._pieces(batches[index], inputs[index], stream, ones[index], None)

        self._engine.prepare(batches, run, self._shapes(inputs, gradients=False))
        self._engine._exec_schedule(self._engine._inference_schedule(len(batches)))
        return self._told(batches, [rows for _, rows in self._engine.results])

    @torch.no_grad()
    def predict(self, batch: Batch) -> Tensor:
        """What the objective takes from the model; every rank of the row asks, and is told, the same."""
        self._engine.module.eval()
        return self._setup.losses.predictions(self._spread, to_device(batch, self._device))

    def values(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter in fp32, one at a time, on every rank; frozen ones as they were loaded, on rank 0 alone."""
        for name in parameter_shapes(self._config):
            if name in self._frozen:
                if self._place.rank == 0:
                    yield name, self._setup.initial(name)
            else:
                yield name, self._read(name, zero_state.VALUE)

    def moments(self) -> Iterator[tuple[str, Tensor]]:
        """Adam's two moments of every trainable parameter, one at a time, on every rank."""
        if zero_state.optimizer_step(self._engine) == 0:
            return
        zero_state.link(self._engine)
        for name in parameter_shapes(self._config):
            if name not in self._frozen:
                for kind in MOMENTS:
                    yield f"{kind}.{name}", self._read(name, kind)

    def trainable(self) -> int:
        """The numbers that Adam updates, each counted once."""
        shapes = parameter_shapes(self._config)
        return sum(math.prod(shape) for name, shape in shapes.items() if name not in self._frozen)

    def counters(self) -> dict[str, float]:
        """Adam's step."""
        return {"optimizer_step": zero_state.optimizer_step(self._engine)}

    def load_moments(self, moments: Values | None, counters: Mapping[str, float]) -> None:
        """Continue Adam from saved values; each rank reads what it holds."""
        zero_state.load_moments(self._engine, self._parameters, moments, counters["optimizer_step"])

    def close(self) -> None:
        """Take DeepSpeed's hooks off the model and free its buffers."""
        self._engine.destroy()

    def _shapes(self, inputs: Sequence[Batch], *, gradients: bool) -> Callable[..., Stream]:
        """Empty tensors for the stream that arrives with a micro-batch."""
        border, depth = self._span.first, self._config.num_encoder_layers
        moving = moving_states(self._config, self._frozen, border) if gradients else (False, False)

        def shapes(index: int, *, before: bool) -> Stream:
            names = ["input_ids", *(["decoder_input_ids"] if border > depth and self._config.is_seq2seq else [])]
            sizes = [(*inputs[index][name].shape, self._config.hidden_size) for name in names]
            return tuple(
                torch.empty(size, dtype=self._dtype, device=self._device, requires_grad=moves)
                for size, moves in zip(sizes, moving, strict=False)
            )

        return shapes

    def _told(self, batches: Sequence[Batch], rows: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """The last part's `Sums`, and the weights of its losses, on every rank of the row."""
        sums = Sums(self._setup.languages, self._device)
        for batch, found in zip(batches, rows, strict=False):
            sums.add(batch, found)
        told = dist.told(json.dumps(self._piece.part_weights), source=self._row[-1], group=self._group)
        self._weights = json.loads(told)
        return dist.broadcast(sums.tensor() if self._piece.last else None, source=self._row[-1], group=self._group)

    def _read(self, name: str, kind: str) -> Tensor:
        """A full fp32 tensor, from its first holder to every rank of the row."""
        owner = self._row[self._holders[name][0]]
        value = zero_state.read(self._engine, self._parameters[name], kind) if name in self._parameters else None
        return dist.broadcast(value if owner == self._place.rank else None, source=owner, group=self._group)
