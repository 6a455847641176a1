"""Who makes a corpus together: this process alone, or the ranks of a launcher that MPI has joined."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from megas2s.data import team
from megas2s.data.team import Alone, find_team
from megas2s.errors import BadConfig, BadData


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """An MPI of one rank that was told of four, and what it was aborted with."""
    aborted: list[int] = []
    world = SimpleNamespace(
        Get_rank=lambda: 0,
        Get_size=lambda: 1,
        Abort=aborted.append,
        allgather=lambda said: [said],
        bcast=lambda said: said,
        aborted=aborted,
    )
    monkeypatch.setitem(sys.modules, "mpi4py", SimpleNamespace(MPI=SimpleNamespace(COMM_WORLD=world)))
    monkeypatch.setenv("WORLD_SIZE", "4")
    return world


def test_a_lone_process_needs_no_mpi(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert isinstance(find_team(), Alone)


def test_processes_that_mpi_has_not_joined_are_refused(world):
    said = "4 processes were started, MPI joined 1; start with mpirun, or srun --mpi=pmix"
    with pytest.raises(BadConfig, match=said):
        find_team()


def test_a_refusal_that_the_others_do_not_know_of_ends_them(world, capsys):
    with pytest.raises(BadData), team.Ranks():
        raise BadData("only here")
    assert world.aborted == [3]
    assert capsys.readouterr().err == "error: only here\n"


def test_a_refusal_that_all_were_told_is_said_once(world):
    def refuse():
        raise BadData("everywhere")

    for together in ("told", "together"):
        with pytest.raises(BadData, match="everywhere"), team.Ranks() as ranks:
            getattr(ranks, together)(refuse)
    assert world.aborted == []


def test_what_a_rank_makes_stays_with_it(world):
    made = object()
    assert team.Ranks().together(lambda: made) is made
    assert team.Ranks().told(lambda: {"a": [1]}) == {"a": [1]}
