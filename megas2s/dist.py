"""Which rank this is, and the few collective operations the rest of the code needs.

Ranks come from the environment that any launcher leaves (deepspeed, torchrun, mpirun, srun). Without a process
group every operation is that of a single rank, so callers never ask whether the run is distributed.
mpi4py is not imported: a process with MPI initialised cannot re-execute itself between stages.
"""

from __future__ import annotations

import torch
import torch.distributed as torch_dist
from torch.autograd.function import FunctionCtx, once_differentiable

from megas2s.place import Place as Place
from megas2s.place import place as place


def is_main() -> bool:
    """Whether this is rank 0, the one that speaks and writes what is written once."""
    return place().rank == 0


def device() -> torch.device:
    """The device of this rank: its own GPU, or the CPU."""
    return torch.device("cuda", place().local_rank) if torch.cuda.is_available() else torch.device("cpu")


def active() -> bool:
    """Whether a process group exists."""
    return torch_dist.is_available() and torch_dist.is_initialized()


def barrier() -> None:
    """Wait until every rank is here."""
    if active():
        torch_dist.barrier()


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """The element-wise sum over all ranks, on every rank; `values` itself is left alone."""
    if not active():
        return values
    total = values.clone()
    torch_dist.all_reduce(total)
    return total


def gather(values: torch.Tensor) -> torch.Tensor:
    """The rows of every rank, in order of rank: (B, ...) -> (ranks x B, ...), the same B on each.

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
        everyones = [torch.empty_like(values) for _ in range(place().world_size)]
        torch_dist.all_gather(everyones, values.contiguous())
        return torch.cat(everyones)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: torch.Tensor) -> torch.Tensor:
        summed = sum_over_ranks(gradient.contiguous())
        return summed.chunk(place().world_size)[place().rank]


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
