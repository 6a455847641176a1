"""Ranks that see different things are refused by name; rank 0's word counts, and a slow file system is waited for."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from megas2s import dist
from megas2s.errors import BadCheckpoint
from megas2s.train import agree

FACTS = ["the run folder in use by process 7 on alpha", "runs/a/checkpoints/step_00000004 (0123456789ab)"]


@pytest.fixture
def second_rank(monkeypatch) -> None:
    """This process is rank 1 on beta; rank 0 is on alpha and sees FACTS."""

    def gather(text: str, *, longest: int = 256) -> list[str]:
        assert len(text.encode()) <= longest
        return ["alpha", "beta"] if text == "beta" else ["\n".join(FACTS), text]

    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(dist, "gather_texts", gather)
    monkeypatch.setattr(socket, "gethostname", lambda: "beta")
    monkeypatch.setattr(agree, "SECONDS", 0.0)


def one_after_the_other(*views: list[str]) -> Callable[[], list[str]]:
    """Views of a file system, the last one for good."""
    left: Iterator[list[str]] = iter(views)
    return lambda: next(left, views[-1])


@pytest.mark.usefixtures("second_rank")
def test_what_rank_0_says_is_what_every_rank_hears():
    assert agree.told("something else") == "\n".join(FACTS)


def test_a_rank_alone_hears_itself_and_sees_what_it_sees():
    assert agree.told("text") == "text"
    agree.check_same(lambda: FACTS)


@pytest.mark.usefixtures("second_rank")
def test_ranks_that_see_the_same_go_on():
    agree.check_same(lambda: FACTS)


@pytest.mark.usefixtures("second_rank")
@pytest.mark.parametrize("number", [0, 1])
def test_the_first_difference_is_told_with_rank_and_host(number: int):
    mine = [*FACTS]
    mine[number] = "nothing there"
    with pytest.raises(BadCheckpoint) as refusal:
        agree.check_same(lambda: mine)
    assert str(refusal.value) == (
        f"rank 1 on beta sees nothing there, rank 0 on alpha sees {FACTS[number]}; "
        "all hosts must have the same versions and share the run folder, the recipe and the corpus"
    )


@pytest.mark.usefixtures("second_rank")
def test_what_a_shared_file_system_shows_late_is_waited_for(monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr(agree, "SECONDS", 60.0)
    monkeypatch.setattr(agree.time, "sleep", waits.append)
    late = [FACTS[0], "nothing at runs/a/checkpoints/step_00000004"]
    agree.check_same(one_after_the_other(late, late, late, FACTS))
    assert len(waits) == 2
