"""Where a process stands among all processes of a run, as the launcher's environment says.

Apart from `dist.py` because it needs no torch: the door for errors asks it before anything heavy is imported.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

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
