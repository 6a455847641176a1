"""23: a rank that hangs ends the run in time, and every rank leaves behind where it stood."""

from __future__ import annotations

import time

import pytest

from megas2s import files

DISTURBED = "tests/faults/disturbed.py"


@pytest.mark.slow
@pytest.mark.ranks
@pytest.mark.timeout(300)
def test_a_hanging_rank_ends_the_run_with_the_stacks_of_all_ranks(ranks, recipe_data, write_recipe, tmp_path):
    recipe_data |= {"watch": {"step": 5}, "patience": 120.0, "stages": recipe_data["stages"][:1]}
    recipe = write_recipe(recipe_data)
    began = time.monotonic()
    done = ranks(2, DISTURBED, "hang", "launch/pretrain.py", recipe, timeout=150)
    assert time.monotonic() - began < 100  # not what the other rank would have waited
    assert done.returncode != 0
    (hang,) = (tmp_path / "run" / "hangs").iterdir()
    stacks = [(hang / f"rank_0000{rank}.txt").read_text() for rank in range(2)]
    assert stacks[0].splitlines()[0].endswith("waiting for the other ranks")
    assert not stacks[1].splitlines()[0].endswith("waiting for the other ranks")
    assert "rank 1 on " in stacks[1]
    assert "in step 3 for" in stacks[0].splitlines()[0]
    assert all("Thread 0x" in text for text in stacks)
    assert "(rank 1 did not wait for others)" in done.stdout
    assert "the same command continues from the last checkpoint" in done.stdout


def test_a_heartbeat_says_where_a_rank_is_and_goes_with_it(train_here, local_recipe, monkeypatch, tmp_path):
    from megas2s.train import watchdog

    seen = []
    monkeypatch.setattr(watchdog, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(watchdog, "BEAT_SECONDS", 0.0)
    beat = tmp_path / "run" / "heartbeats" / "rank_00000.json"
    original = watchdog.Watchdog.enter

    def enter(dog, section, step=0):
        if beat.exists():
            seen.append(files.read_json(beat)["section"])
        original(dog, section, step)

    monkeypatch.setattr(watchdog.Watchdog, "enter", enter)
    train_here(local_recipe)
    assert {"setup", "step"} <= set(seen)
    assert not beat.exists()
