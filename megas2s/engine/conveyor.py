"""DeepSpeed's pipeline engine with what travels, and what is computed, replaced by ours.

DeepSpeed brings the schedule (one forward, one backward: Narayanan et al. 2019), the process groups, and ZeRO-1 among
the ranks that hold the same part. Its instructions for moving tensors are replaced for three reasons:

- Every rank is given the whole micro-batch, which is a function of a few integers, so masks, segments, positions and
  labels are made where they are read, and only states travel: floats of one dtype, whose shapes both sides know.
- A tensor whose whole past is frozen has no gradient; nothing is sent back for it, and no part behind it works.
- Micro-batches may differ in shape.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
import torch.distributed as torch_dist
from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
from deepspeed.runtime.engine import DeepSpeedEngine
from deepspeed.runtime.pipe import p2p, schedule
from deepspeed.runtime.pipe.engine import PipelineEngine
from deepspeed.runtime.pipe.module import PipelineModule
from deepspeed.runtime.pipe.topology import PipeDataParallelTopology
from torch import Tensor, nn

from megas2s import dist
from megas2s.engine.base import Batch, Losses, weighed
from megas2s.models.parts import Span, Stream, forward
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
        self, batch: Batch, inputs: Batch, stream: Stream, divisors: Mapping[str, Tensor], step: int | None
    ) -> Any:
        """The stream to send on; in the last part the loss and its rows."""
        stream = forward(self.model, self.span, inputs, stream)
        if not self.last:
            return stream
        output = self.model.output(inputs, *stream)
        loss, rows, self.part_weights = weighed(self.losses, output, batch, divisors, step)
        return loss, rows


class Copy(NamedTuple):
    """A parameter that other parts hold too."""

    parameter: nn.Parameter
    group: Any  # of its holders
    owner: int  # the rank whose copy counts: the first holder's


class Pieces(PipelineModule):  # type: ignore[misc]  # DeepSpeed has no types
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
        self.copies: list[Copy] = []

    def forward(self, *inputs: Any) -> Any:
        """The piece's."""
        return self.piece(*inputs)

    def get_tied_weights_and_groups(self) -> list[tuple[nn.Parameter, Any]]:
        """Whose gradients DeepSpeed adds up before it averages and steps."""
        return [(copy.parameter, copy.group) for copy in self.copies]


def _elsewhere(stream: Stream) -> Stream:
    return stream


def measure_whole(optimizer: Any, group: Any) -> None:
    """Let DeepSpeed's optimizer measure one gradient norm over the parts of `group`, whatever each of them holds.

    DeepSpeed 0.19.8 adds up over the parts once for each group of parameters, and waits for ever where one part has
    more groups than another; in bf16 it cannot measure a part in which nothing counts, the copy of a tied matrix alone.
    """
    if isinstance(optimizer, BF16_Optimizer):
        counted = optimizer.get_grads_for_norm

        def counted_or_zero(for_clipping: bool = False) -> Any:
            if for_clipping:
                return counted(for_clipping=True)
            gradients, of_experts = counted()
            return gradients or [torch.zeros(1, device=dist.device())], of_experts

        optimizer.get_grads_for_norm = counted_or_zero
    else:
        of_the_part, parts = optimizer.scaled_global_norm, optimizer.model_parallel_group

        def of_the_whole(norm_type: int = 2) -> Tensor:
            # Without the group while it measures; over it the parts agree before that whether a gradient is no number.
            optimizer.model_parallel_group = None
            try:
                norm = of_the_part(norm_type)
            finally:
                optimizer.model_parallel_group = parts
            squares = torch.where(norm < 0, torch.inf, norm.square())  # DeepSpeed says -1 where it is no number
            torch_dist.all_reduce(squares, group=group)
            whole: Tensor = squares.sqrt()
            return whole

        optimizer.scaled_global_norm = of_the_whole


class Conveyor(PipelineEngine):  # type: ignore[misc]
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

    def _step(self, **_: Any) -> None:
        """Step, then take over the owner's copy of what several parts hold.

        Each part averages its own flat buffer over the data ranks, and where a number lies in it decides in which order
        it is summed: from three ranks on the copies would part by a rounding, step after step.
        """
        self._exec_optimizer_step()
        for copy in self.module.copies:
            torch_dist.broadcast(copy.parameter.data, copy.owner, group=copy.group)

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
        schedule.OptimizerStep: _step,
    }
