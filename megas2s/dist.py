"""Which rank this is, and the few collective operations the rest of the code needs.

Ranks come from the environment that any launcher leaves (deepspeed, torchrun, mpirun, srun). Without a process
group every operation is that of a single rank, so callers never ask whether the run is distributed.
mpi4py is not imported: a process with MPI initialised cannot re-execute itself between stages.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.distributed as torch_dist

_RANK = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")
_WORLD = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS")
_LOCAL = ("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID")


class Place(NamedTuple):
    """Where a process stands among all processes of a run."""

    rank: int
    world_size: int
    local_rank: int


def place(environment: Mapping[str, str] = os.environ) -> Place:
    """This process's place, from the first launcher's variables found; a lone process is rank 0 of 1."""

    def first(names: tuple[str, ...], default: int) -> int:
        return next((int(environment[name]) for name in names if name in environment), default)

    return Place(first(_RANK, 0), first(_WORLD, 1), first(_LOCAL, 0))


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


def max_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """The element-wise maximum over all ranks, on every rank."""
    if not active():
        return values
    most = values.clone()
    torch_dist.all_reduce(most, op=torch_dist.ReduceOp.MAX)
    return most


def everyone(flag: bool) -> bool:
    """True on every rank when `flag` is true on every rank."""
    failures = sum_over_ranks(torch.tensor([0 if flag else 1], device=device()))
    return int(failures.item()) == 0
