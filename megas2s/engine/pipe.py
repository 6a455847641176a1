"""Layers on several ranks, one after another: DeepSpeed's pipeline engine behind the `Engine` contract.

DeepSpeed brings the schedule (one forward, one backward: Narayanan et al. 2019), the process groups, and ZeRO-1 among
the ranks that hold the same part. Its instructions for moving tensors are replaced by ours, for three reasons:

- Every rank is given the whole micro-batch, which is a function of a few integers, so masks, segments, positions and
  labels are made where they are read, and only states travel: floats of one dtype, whose shapes both sides know.
- A tensor whose whole past is frozen has no gradient; nothing is sent back for it, and no part behind it works.
- Micro-batches may differ in shape.

The encoder's states travel with the decoder's to the last part, since every decoder layer reads them. Objectives that
look at them (E2S2) are therefore computed there, with all other losses, by the code that the other engines run.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.distributed as torch_dist
from deepspeed.runtime.config import DeepSpeedConfig
from deepspeed.runtime.engine import DeepSpeedEngine
from deepspeed.runtime.pipe import p2p, schedule
from deepspeed.runtime.pipe.engine import PipelineEngine
from deepspeed.runtime.pipe.module import PipelineModule
from deepspeed.runtime.pipe.topology import PipeDataParallelTopology
from torch import Tensor, nn

from megas2s import dist
from megas2s.engine import zero_state
from megas2s.engine.base import (
    DTYPES,
    MOMENTS,
    Batch,
    Losses,
    Setup,
    StepResult,
    Sums,
    global_divisors,
    to_device,
    weighed,
)
from megas2s.engine.ds_config import compose, read_ds_config
from megas2s.engine.optim import adamw, parameter_groups, set_lr
from megas2s.engine.zero import join
from megas2s.models.init import fill
from megas2s.models.output import ModelOutput
from megas2s.models.parameters import canonical_parameters, parameter_shapes
from megas2s.models.parts import Span, Stream, forward, held
from megas2s.models.transformer import Network


class Piece(nn.Module):
    """A part of the model; the last one ends in the losses."""

    def __init__(self, model: Network, losses: Losses, span: Span, *, last: bool) -> None:
        super().__init__()
        self.model = model
        self.losses = losses
        self.span = span
        self.last = last
        self.part_weights: dict[str, float | None] = {}

    def forward(
        self, batch: Batch, inputs: Batch, stream: Stream, divisors: Mapping[str, Tensor] | None, step: int | None
    ) -> Any:
        """The stream to send on; in the last part the loss and its rows or, without divisors, `predictions`."""
        stream = forward(self.model, self.span, inputs, stream)
        if not self.last:
            return stream
        output = self.model.output(inputs, *stream)
        if divisors is None:
            return self.losses.predictions(_Computed(self.model, output), batch)
        loss, rows, self.part_weights = weighed(self.losses, output, batch, divisors, step)
        return loss, rows


class _Computed:
    """What an objective may ask of a model whose forward pass is done."""

    def __init__(self, model: Network, output: ModelOutput) -> None:
        self.logits = model.logits
        self._output = output

    def __call__(self, batch: Batch) -> ModelOutput:
        return self._output


class _Pieces(PipelineModule):
    """One piece a pipe stage, whose own parameters keep their canonical names under a prefix."""

    def __init__(self, piece: Piece, topology: PipeDataParallelTopology, place: dist.Place) -> None:
        stage = topology.get_coord(place.rank).pipe
        with contextlib.redirect_stdout(None):  # rank 0 would print seeds that nothing reads
            super().__init__(
                layers=[piece if index == stage else _elsewhere for index in range(topology.get_dim("pipe"))],
                topology=topology,
                partition_method="uniform",
            )
        self.piece = piece
        self.copies: list[tuple[nn.Parameter, Any]] = []  # what other parts hold too, and the group of its holders

    def forward(self, *inputs: Any) -> Any:
        """The piece's."""
        return self.piece(*inputs)

    def get_tied_weights_and_groups(self) -> list[tuple[nn.Parameter, Any]]:
        """Whose gradients DeepSpeed adds up before it averages and steps."""
        return self.copies


def _elsewhere(stream: Stream) -> Stream:
    return stream


class _Conveyor(PipelineEngine):
    """DeepSpeed's pipeline engine with instructions of our own for what is computed and what travels."""

    def prepare(self, batches: Sequence[Batch], run: Callable[[int, Stream], Any], shapes: Callable[..., Any]) -> None:
        """What the instructions of one schedule read: `run(index, stream)`, and the streams' shapes at both borders."""
        self._batches, self._run, self._shapes = batches, run, shapes
        self._received = self._forwarded = 0
        self.results: list[Any] = []

    def _load(self, buffer_id: int) -> None:
        """Every rank has its batches already."""

    def _receive(self, buffer_id: int) -> None:
        stream = self._shapes(self._received, before=True)
        self._received += 1
        for tensor in stream:
            p2p.recv(tensor, self.prev_stage)
        self.pipe_buffers["inputs"][buffer_id] = stream

    def _compute(self, buffer_id: int) -> None:
        stream = () if self.is_first_stage() else self.pipe_buffers["inputs"][buffer_id]
        outputs = self._run(self._forwarded, stream)
        self._forwarded += 1
        self.pipe_buffers["outputs"][buffer_id] = outputs
        if self.is_last_stage():
            self.results.append(outputs)

    def _send(self, buffer_id: int) -> None:
        for tensor in self.pipe_buffers["outputs"][buffer_id]:
            p2p.send(tensor.detach().contiguous(), self.next_stage)

    def _receive_gradients(self, buffer_id: int) -> None:
        moving = [tensor for tensor in self.pipe_buffers["outputs"][buffer_id] if tensor.requires_grad]
        gradients = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in moving]
        for gradient in gradients:
            p2p.recv(gradient, self.next_stage)
        self.pipe_buffers["labels"][buffer_id] = (moving, gradients)

    def _backward(self, buffer_id: int) -> None:
        if self.is_last_stage():
            loss = self.pipe_buffers["outputs"][buffer_id][0]
            # DeepSpeed averages gradients over ranks; the divisors already are global.
            DeepSpeedEngine.backward(self, loss * self.grid.data_parallel_size, scale_wrt_gas=False)
        else:
            moving, gradients = self.pipe_buffers["labels"][buffer_id]
            if self.using_bf16_optimizer:
                self.optimizer.clear_lp_grads()
            self._running_engine_backward = True  # else DeepSpeed's hooks take this for a loss of the user's own
            try:
                if moving:
                    torch.autograd.backward(moving, gradients)
            finally:
                self._running_engine_backward = False
            if self.using_bf16_optimizer:
                self.optimizer.update_hp_grads(clear_lp_grads=False)
        self.pipe_buffers["outputs"][buffer_id] = self.pipe_buffers["labels"][buffer_id] = None

    def _send_gradients(self, buffer_id: int) -> None:
        for tensor in self.pipe_buffers["inputs"][buffer_id]:
            if tensor.requires_grad:
                gradient = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
                p2p.send(gradient.contiguous(), self.prev_stage)
        self.pipe_buffers["inputs"][buffer_id] = None

    _INSTRUCTION_MAP: ClassVar = {
        **PipelineEngine._INSTRUCTION_MAP,
        schedule.LoadMicroBatch: _load,
        schedule.ForwardPass: _compute,
        schedule.BackwardPass: _backward,
        schedule.SendActivation: _send,
        schedule.RecvActivation: _receive,
        schedule.SendGrad: _send_gradients,
        schedule.RecvGrad: _receive_gradients,
    }


class PipeEngine:
    """A pipeline of `stages` parts times data parallel, for one stage of a recipe."""

    def __init__(self, setup: Setup, config_path: str, stages: int) -> None:
        knobs = read_ds_config(config_path, precision=setup.precision)
        join()
        self._setup = setup
        self._config = setup.config
        self._place = dist.place()
        self._data = dist.data_place()
        self._device = dist.device()
        self._dtype = DTYPES[setup.precision]
        topology = PipeDataParallelTopology(num_pp=stages, num_dp=self._data.world_size)
        stage = topology.get_coord(self._place.rank).pipe
        self._spans = setup.spans
        self._span = self._spans[stage]
        self._holders = {
            name: [index for index, span in enumerate(self._spans) if name in held(self._config, span)]
            for name in parameter_shapes(self._config)
        }
        model = setup.build(self._span)
        fill(model, setup.initial)
        self._piece = Piece(model, setup.losses, self._span, last=stage == stages - 1)
        self._pieces = _Pieces(self._piece, topology, self._place)
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
        groups = parameter_groups(self._parameters.items(), setup.optimizer)
        with contextlib.redirect_stdout(None):
            self._engine = _Conveyor(
                args=None,
                model=self._pieces,
                optimizer=adamw(groups, setup.optimizer),
                mpu=mpu,
                config=config,
                config_class=DeepSpeedConfig(config, mpu),
            )
        self._stage, self._stages = stage, stages
        self._group = self._engine.grid.get_pipe_parallel_group()
        self._last = self._engine.grid.stage_to_global(stages - 1)
        self._weights: dict[str, float | None] = {}
        if setup.precision != "fp32":
            self._restore_masters()

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
                        self._pieces.copies.append((own[name], groups[key]))
                    own[name].ds_pipe_replicated = stage != holders[0]  # type: ignore[attr-defined]

    def part_weights(self) -> dict[str, float | None]:
        """Parts and weights of the last forward pass."""
        return self._weights

    def train_step(self, batches: Sequence[Batch], *, step: int, lr: float) -> StepResult:
        """One optimizer step over the micro-batches of this rank's row of parts."""
        batches = [to_device(batch, self._device) for batch in batches]
        divisors = global_divisors(self._setup.losses, batches)
        set_lr(self._engine.optimizer, lr)
        self._engine.module.train()
        inputs = [self._setup.losses.inputs(batch) for batch in batches]

        def run(index: int, stream: Stream) -> Any:
            torch.manual_seed(self._setup.dropout_seed(step, index, self._place.rank))
            return DeepSpeedEngine.forward(self._engine, batches[index], inputs[index], stream, divisors, step)

        self._engine.prepare(batches, run, self._shapes(inputs, gradients=True))
        self._engine._exec_schedule(self._engine._train_schedule())
        sums = self._told(batches, [rows for _, rows in self._engine.results] if self._piece.last else [])
        norm = self._engine.get_global_grad_norm()
        return StepResult(sums, float(norm) if norm is not None else float("nan"), skipped=False)

    @torch.no_grad()
    def evaluate(self, batches: Sequence[Batch]) -> Tensor:
        """`Sums` of the rows of this rank's row of parts."""
        batches = [to_device(batch, self._device) for batch in batches]
        ones = [{part: torch.ones((), device=self._device) for part in self._setup.losses.counts(b)} for b in batches]
        found = self._infer(batches, ones)
        return self._told(batches, [rows for _, rows in found])

    @torch.no_grad()
    def predict(self, batch: Batch) -> Tensor:
        """What the objective takes from the model, on every rank."""
        batch = to_device(batch, self._device)
        (found,) = self._infer([batch], [None]) or [None]
        return self._from_last(found)

    def values(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter in fp32, one at a time, on every rank; frozen ones as they were loaded, on rank 0 alone."""
        for name in parameter_shapes(self._config):
            if name in self._setup.frozen:
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
            if name not in self._setup.frozen:
                for kind in MOMENTS:
                    yield f"{kind}.{name}", self._read(name, kind)

    def trainable(self) -> int:
        """The numbers that Adam updates, each counted once."""
        shapes = parameter_shapes(self._config)
        return sum(math.prod(shape) for name, shape in shapes.items() if name not in self._setup.frozen)

    def counters(self) -> dict[str, float]:
        """Adam's step."""
        return {"optimizer_step": zero_state.optimizer_step(self._engine)}

    def load_moments(self, moments: Callable[[str, str], Tensor] | None, counters: Mapping[str, float]) -> None:
        """Continue Adam from saved values; each rank reads what it holds."""
        zero_state.prepare(self._engine, MOMENTS, counters["optimizer_step"])
        for name, parameter in self._parameters.items():
            if parameter.requires_grad and moments is not None:
                for kind in MOMENTS:
                    zero_state.write(self._engine, parameter, moments(kind, name).to(self._device), kind)

    def close(self) -> None:
        """Take DeepSpeed's hooks off the model and free its buffers."""
        self._engine.destroy()

    def _restore_masters(self) -> None:
        for name, parameter in self._parameters.items():
            if parameter.requires_grad:
                zero_state.write(self._engine, parameter, self._setup.initial(name).to(self._device))

    def _shapes(self, inputs: Sequence[Batch], *, gradients: bool) -> Callable[..., Stream]:
        """Empty tensors for the stream that arrives with a micro-batch."""
        border, depth = self._span.first, self._config.num_encoder_layers
        moving = self._moving(border) if gradients else (False, False)

        def shapes(index: int, *, before: bool) -> Stream:
            names = ["input_ids", *(["decoder_input_ids"] if border > depth and self._config.is_seq2seq else [])]
            sizes = [(*inputs[index][name].shape, self._config.hidden_size) for name in names]
            return tuple(
                torch.empty(size, dtype=self._dtype, device=self._device, requires_grad=moves)
                for size, moves in zip(sizes, moving, strict=False)
            )

        return shapes

    def _moving(self, border: int) -> tuple[bool, bool]:
        """Whether the encoder's and the decoder's states at a border depend on anything that trains."""
        depth = self._config.num_encoder_layers
        trains = [
            any(name not in self._setup.frozen for name in held(self._config, span))
            if span.stop > span.first
            else False
            for span in (Span(0, min(border, depth)), Span(depth, max(border, depth)))
        ]
        return trains[0], trains[0] or trains[1]

    def _infer(self, batches: Sequence[Batch], divisors: Sequence[Mapping[str, Tensor] | None]) -> list[Any]:
        self._engine.module.eval()
        # What is shown of a model is its answer to the batch itself, not to an objective's views of it.
        inputs = [
            batch if ones is None else self._setup.losses.inputs(batch)
            for batch, ones in zip(batches, divisors, strict=True)
        ]

        def run(index: int, stream: Stream) -> Any:
            return self._pieces(batches[index], inputs[index], stream, divisors[index], None)

        self._engine.prepare(batches, run, self._shapes(inputs, gradients=False))
        self._engine._exec_schedule(self._engine._inference_schedule(len(batches)))
        return self._engine.results

    def _told(self, batches: Sequence[Batch], rows: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """The last part's `Sums`, and the weights of its losses, on every rank of the row."""
        sums = Sums(self._setup.languages, self._device)
        for batch, found in zip(batches, rows, strict=False):
            sums.add(batch, found)
        told = dist.told(json.dumps(self._piece.part_weights), source=self._last, group=self._group)
        self._weights = json.loads(told)
        return self._from_last(sums.tensor() if self._piece.last else None)

    def _from_last(self, values: Tensor | None) -> Tensor:
        return dist.broadcast(values, source=self._last, group=self._group)

    def _read(self, name: str, kind: str) -> Tensor:
        """A full fp32 tensor, from its first holder to every rank of the row."""
        owner = self._engine.grid.stage_to_global(self._holders[name][0])
        value = zero_state.read(self._engine, self._parameters[name], kind) if name in self._parameters else None
        return dist.broadcast(value if owner == self._place.rank else None, source=owner, group=self._group)
