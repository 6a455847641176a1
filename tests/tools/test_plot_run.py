"""Plots of a run show what its log says."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def plot_run():
    described = importlib.util.spec_from_file_location("plot_run", ROOT / "tools" / "plot_run.py")
    module = importlib.util.module_from_spec(described)
    described.loader.exec_module(module)
    return module


@pytest.fixture
def run(tmp_path) -> Path:
    folder = tmp_path / "one"
    folder.mkdir()
    lines = []
    for stage, first in (("mlm", 4.0), ("seq2seq", 3.0)):
        for step in (1, 2):
            loss = {"loss": first - step, "loss/mlm/en": first - step, "loss/mlm/sw": first}
            lines.append(
                {"stage": stage, "kind": "train", "step": step, "tokens": step * 1e6, "tokens_per_second": 2.0} | loss
            )
            lines.append({"stage": stage, "kind": "heldout", "step": step} | loss)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_stages_follow_each_other_on_one_axis_of_tokens(plot_run, run):
    mlm, seq2seq = plot_run.read_run(run, alone=True)
    assert mlm.series("heldout", "loss") == ([1.0, 2.0], [3.0, 2.0])
    assert seq2seq.series("train", "loss") == ([3.0, 4.0], [2.0, 1.0])
    assert seq2seq.series("heldout", "loss/mlm/sw") == ([3.0, 4.0], [3.0, 3.0])
    assert [stage.label for stage in plot_run.read_run(run, alone=False)] == ["one: mlm", "one: seq2seq"]


def test_every_curve_is_drawn(plot_run, run):
    stages = plot_run.read_run(run, alone=True)
    (axes,) = plot_run._losses(stages).axes
    drawn = {tuple(line.get_ydata()) for line in axes.get_lines()}
    assert drawn == {(3.0, 2.0), (2.0, 1.0)}
    panels = [axes for axes in plot_run._languages(stages).axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in panels] == ["en", "sw"]
    assert [tuple(line.get_ydata()) for line in panels[1].get_lines()] == [(4.0, 4.0), (3.0, 3.0)]


def test_a_loss_that_is_no_number_leaves_a_gap(plot_run, run):
    log = run / "metrics.jsonl"
    log.write_text(log.read_text().replace('"loss": 2.0', '"loss": "nan"'))
    (mlm, _) = stages = plot_run.read_run(run, alone=True)
    tokens, values = mlm.series("heldout", "loss")
    assert (tokens, values[0], math.isnan(values[1])) == ([1.0, 2.0], 3.0, True)
    (axes,) = plot_run._losses(stages).axes
    assert axes.get_ylim()[0] == pytest.approx(1.0, abs=0.2)  # an axis of numbers, not of words


def test_the_tool_writes_three_images(script, run, tmp_path):
    result = script("tools/plot_run.py", run, "--out", tmp_path / "plots")
    assert result.returncode == 0, result.stdout
    for name in ("losses", "languages", "throughput"):
        assert (tmp_path / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_without_a_log_and_a_damaged_log_are_refused(script, run, tmp_path):
    result = script("tools/plot_run.py", tmp_path / "none")
    assert result.returncode == 3
    assert "name the folder of a run that has taken a step" in result.stdout
    with open(run / "metrics.jsonl", "a") as log:
        log.write('{"stage": "ml')
    result = script("tools/plot_run.py", run)
    assert result.returncode == 3
    assert "metrics.jsonl, line 9: not a line of metrics" in result.stdout
