"""Where a process stands among all processes of a run, as the launcher's environment says.

Apart from `dist.py` because it needs no torch: the door for errors asks it before anything heavy is imported.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

_RANK = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")
_WORLD = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS")
_HERE = ("LOCAL_WORLD_SIZE", "LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")
_LOCAL = ("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID")


class Place(NamedTuple):
    """Where a process stands among all processes of a run."""

    rank: int
    world_size: int
    local_rank: int


def place(environment: Mapping[str, str] = os.environ) -> Place:
    """This process's place, from the first launcher's variables found; a lone process is rank 0 of 1."""
    return Place(*(_first(environment, names, default) for names, default in ((_RANK, 0), (_WORLD, 1), (_LOCAL, 0))))


def on_this_host(environment: Mapping[str, str] = os.environ) -> int:
    """How many of the processes are on this host; 1 where the launcher does not say."""
    return _first(environment, _HERE, 1)


def _first(environment: Mapping[str, str], names: tuple[str, ...], default: int) -> int:
    return next((int(environment[name]) for name in names if name in environment), default)
