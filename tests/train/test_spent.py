"""Where the time of a run goes, from what it wrote down."""

from __future__ import annotations

import json

import pytest

from megas2s.train.spent import Spent, read, spent_of, summary

EVENTS = [
    {"launch": "mlm", "step": 0, "at": 100.0},
    {"steps": [1, 10], "seconds": 20.0, "waited": 2.0, "at": 130.0},
    {"save": 10, "seconds": 1.0, "at": 131.0},
    {"steps": [11, 20], "seconds": 20.0, "waited": 0.0, "at": 151.0},
    # killed; half a minute later it goes on from step 10
    {"launch": "mlm", "step": 10, "at": 181.0},
    {"steps": [11, 20], "seconds": 18.0, "waited": 1.0, "at": 209.0},
    {"evaluate": 20, "seconds": 4.0, "at": 213.0},
    {"launch": "seq2seq", "step": 0, "at": 214.0},
    {"steps": [1, 5], "seconds": 10.0, "waited": 0.0, "at": 227.0},
]


def test_every_second_is_counted_once():
    spent = spent_of(EVENTS)
    assert spent == Spent(
        trained=20 - 2 + 18 - 1 + 10,
        waited=2 + 1,
        lost=20,
        evaluated=4,
        saved=1,
        started=10 + 10 + 3,
        down=30 + 1,
        launches=3,
    )
    assert spent.total == EVENTS[-1]["at"] - EVENTS[0]["at"]
    assert spent.effective == pytest.approx(45 / 127)


def test_a_clock_that_jumps_back_takes_no_time_away():
    spent = spent_of([*EVENTS[:2], {"launch": "mlm", "step": 10, "at": 50.0}])
    assert spent.down == 0
    assert spent.trained == 18


def test_the_summary_says_what_share_stayed():
    text = summary("base", spent_of(EVENTS))
    assert text.startswith("# base\n\n35.4% of 2m07s in 3 launches was training that stayed.\n")
    assert "| training that was lost, and done again | 20s | 15.7% |" in text


def test_a_line_that_a_crash_cut_short_is_left_out(tmp_path):
    path = tmp_path / "time.jsonl"
    path.write_text(json.dumps(EVENTS[0]) + '\n{"steps": [1, ')
    assert read(path) == EVENTS[:1]
    assert read(tmp_path / "none") == []


def test_an_interrupted_run_writes_down_what_it_lost(disturb, local_recipe):
    local_recipe |= {"stages": [{**local_recipe["stages"][0], "steps": 8}], "checkpoints": {"every": 3}}
    local_recipe["log"] |= {"every": 1}
    straight, disturbed = disturb(local_recipe, 5)
    lost = spent_of(read(disturbed.folder / "time.jsonl"))
    assert spent_of(read(straight.folder / "time.jsonl")).lost == 0
    assert lost.lost > 0
    assert lost.launches == 2
    assert "in 2 launches was training that stayed" in (disturbed.folder / "summary.md").read_text()
