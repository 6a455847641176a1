"""Processes that make one corpus together: this one alone, or the ranks that mpirun has started.

    team.told(work)       rank 0 does it, all are given what comes of it, or the refusal it met
    team.together(work)   every rank does its share, all go on when the last is done, or are refused together

What is told travels as JSON. Whatever may be refused on one rank alone belongs into one of the two: ranks that wait for
one that has left would wait for ever.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from megas2s import errors
from megas2s.errors import Refusal
from megas2s.place import place

Done = TypeVar("Done")


class Team(Protocol):
    """Ranks that call the same in step. `with` it, a rank that ends by itself ends the others too."""

    rank: int
    size: int

    def __enter__(self) -> Team: ...

    def __exit__(self, *error: object) -> None: ...

    def told(self, work: Callable[[], Any]) -> Any:
        """What `work` gives on rank 0, plain JSON values, on every rank."""

    def together(self, work: Callable[[], Done]) -> Done:
        """What `work` gives on this rank; raises the refusal of the first rank that met one, on all."""


class Alone:
    """A team of one."""

    rank, size = 0, 1

    def __enter__(self) -> Alone:
        return self

    def __exit__(self, *error: object) -> None:
        """There are no others."""

    def told(self, work: Callable[[], Any]) -> Any:
        """What it gives."""
        return work()

    def together(self, work: Callable[[], Done]) -> Done:
        """What it gives."""
        return work()


class Ranks:
    """The ranks of an MPI launch."""

    def __init__(self) -> None:
        from mpi4py import MPI  # starts MPI: nothing that trains may import it, see dist.py

        self._world = MPI.COMM_WORLD
        self.rank, self.size = self._world.Get_rank(), self._world.Get_size()
        self._told_to_all: Refusal | None = None

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *error: object) -> None:
        cause = error[1]
        if not isinstance(cause, BaseException) or isinstance(cause, SystemExit) or cause is self._told_to_all:
            return
        if isinstance(cause, Refusal):
            print(f"error: {cause}", file=sys.stderr, flush=True)
        else:
            sys.excepthook(type(cause), cause, cause.__traceback__)
        self._world.Abort(cause.exit_code if isinstance(cause, Refusal) else 1)

    def told(self, work: Callable[[], Any]) -> Any:
        """Rank 0's answer."""
        answer = _attempt(work) if self.rank == 0 else None
        return self._heard(json.loads(self._world.bcast(json.dumps(answer))))

    def together(self, work: Callable[[], Done]) -> Done:
        """This rank's share."""
        own = _attempt(work)
        refused = {key: value for key, value in own.items() if key != "value"}  # what was made here stays here
        for answer in map(json.loads, self._world.allgather(json.dumps(refused))):
            self._heard(answer)
        made: Done = own["value"]
        return made

    def _heard(self, answer: dict[str, Any]) -> Any:
        """The answer; where it is a refusal, rank 0 tells the person and the others leave without a word."""
        try:
            return _opened(answer)
        except Refusal as refusal:
            if self.rank == 0:
                self._told_to_all = refusal
                raise
            raise SystemExit(refusal.exit_code) from None


def find_team() -> Team:
    """The ranks of the launcher that started this process, or it alone."""
    started = place().world_size
    if started == 1:
        return Alone()
    try:
        team = Ranks()
    except ImportError as error:
        raise errors.BadConfig(
            f"{started} processes were started together, which needs mpi4py and an MPI library ({error}); "
            "pip install mpi4py, or start one process with --workers"
        ) from None
    if team.size != started:  # each would take itself for the first rank and write the same corpus
        raise errors.BadConfig(
            f"{started} processes were started, MPI joined {team.size}; start with mpirun, or srun --mpi=pmix"
        )
    return team


def _attempt(work: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"value": work()}
    except Refusal as refusal:
        return {"refusal": type(refusal).__name__, "said": str(refusal)}


def _opened(answer: dict[str, Any]) -> Any:
    if "refusal" in answer:
        raise getattr(errors, answer["refusal"])(answer["said"])
    return answer.get("value")
