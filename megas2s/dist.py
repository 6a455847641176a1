"""Which rank this is, and the few collective operations the rest of the code needs.

Ranks come from the environment that any launcher leaves (deepspeed, torchrun, mpirun, srun). Without a process
group every operation is that of a single rank, so callers never ask whether the run is distributed.
mpi4py is not imported: a process with MPI initialised cannot re-execute itself between stages.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.distributed as torch_dist
from torch.autograd.function import FunctionCtx, once_differentiable

from megas2s.place import Place as Place
from megas2s.place import on_this_host as on_this_host
from megas2s.place import place as place

# In what gloo says of a rank that does not answer: its own file, or this alone where another transfer gave up first.
GLOO = ("/gloo/", "Application timeout caused pair closure")


@dataclasses.dataclass
class _Layout:
    """How the engine that runs spreads a model. One process runs one engine's stage, like one process group."""

    pipe_stages: int = 1
    data_group: torch_dist.ProcessGroup | None = None  # the ranks that hold what this one holds; None stands for all


_layout = _Layout()


def lay_out(pipe_stages: int) -> None:
    """From now on so many ranks hold a model together: rank = pipe stage x data ranks + data rank.

    Collective, and after the process group is joined.
    """
    here = place()
    _layout.pipe_stages, _layout.data_group = pipe_stages, None
    ranks = data_place().world_size
    if pipe_stages > 1:
        groups = [torch_dist.new_group(range(first, first + ranks)) for first in range(0, here.world_size, ranks)]
        _layout.data_group = groups[here.rank // ranks]


def data_place() -> Place:
    """This rank's place among those that read different samples."""
    here = place()
    ranks = here.world_size // _layout.pipe_stages
    return Place(here.rank % ranks, ranks, here.local_rank)


def is_main() -> bool:
    """Whether this is rank 0, the one that speaks and writes what is written once."""
    return place().rank == 0


def device() -> torch.device:
    """The device of this rank: its own GPU, or the CPU."""
    return torch.device("cuda", place().local_rank) if torch.cuda.is_available() else torch.device("cpu")


def active() -> bool:
    """Whether a process group exists."""
    return torch_dist.is_available() and torch_dist.is_initialized()


def lost_rank(error: BaseException) -> bool:
    """Whether an error says that other ranks do not answer, in the words of torch's backends."""
    by_gloo = isinstance(error, RuntimeError) and any(words in str(error) for words in GLOO)
    return isinstance(error, torch_dist.DistError) or by_gloo


def barrier() -> None:
    """Wait until every rank is here."""
    if active():
        torch_dist.barrier()


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """The element-wise sum over all ranks that read different samples; `values` itself is left alone."""
    if not active():
        return values
    total = values.clone()
    torch_dist.all_reduce(total, group=_layout.data_group)
    return total


def broadcast(values: torch.Tensor | None, *, source: int, group: torch_dist.ProcessGroup) -> torch.Tensor:
    """A tensor of one rank on all ranks of a group; the others pass None."""
    dtypes = [torch.float32, torch.float64, torch.bfloat16, torch.int64]
    facts = torch.zeros(10, dtype=torch.int64, device=device())
    if values is not None:
        shape = [dtypes.index(values.dtype), values.dim(), *values.shape]
        facts[: len(shape)] = torch.tensor(shape)
    torch_dist.broadcast(facts, source, group=group)
    kind, dimensions, *shape = facts.tolist()
    if values is None:
        values = torch.empty(shape[:dimensions], dtype=dtypes[kind], device=device())
    values = values.contiguous()
    torch_dist.broadcast(values, source, group=group)
    return values


def told(text: str, *, source: int, group: torch_dist.ProcessGroup) -> str:
    """The text of one rank on all ranks of a group. No pickle travels."""
    own = torch.tensor(list(text.encode()), device=device()) if place().rank == source else None
    return bytes(broadcast(own, source=source, group=group).tolist()).decode()


def gather(values: torch.Tensor) -> torch.Tensor:
    """The rows of every rank that reads samples of its own, in order: (B, ...) -> (ranks x B, ...), B alike on each.

    The gradient of a rank's rows is the sum of what all ranks ask of them, so losses that ranks compute of the gathered
    rows add up like those of one rank. Collective, the backward pass too.
    """
    if not active():
        return values
    gathered: torch.Tensor = _Gather.apply(values)  # type: ignore[no-untyped-call]
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, values: torch.Tensor) -> torch.Tensor:
        everyones = [torch.empty_like(values) for _ in range(data_place().world_size)]
        torch_dist.all_gather(everyones, values.contiguous(), group=_layout.data_group)
        return torch.cat(everyones)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: torch.Tensor) -> torch.Tensor:
        summed = sum_over_ranks(gradient.contiguous())
        return summed.chunk(data_place().world_size)[data_place().rank]


def gather_texts(text: str, *, longest: int = 256) -> list[str]:
    """The text of every rank, in order of rank; cut to `longest` bytes. No pickle travels."""
    if not active():
        return [text]
    own = torch.zeros(longest, dtype=torch.uint8, device=device())
    encoded = text.encode()[:longest]
    own[: len(encoded)] = torch.tensor(list(encoded), dtype=torch.uint8)
    everyones = [torch.empty_like(own) for _ in range(place().world_size)]
    torch_dist.all_gather(everyones, own)
    return [bytes(values.tolist()).rstrip(b"\0").decode(errors="replace") for values in everyones]
