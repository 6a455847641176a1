"""One set of findings, told three ways."""

from __future__ import annotations

import json

import numpy as np
import pytest

from megas2s.analysis import plots
from megas2s.analysis.attention import Entropy
from megas2s.analysis.findings import Findings, Geometry
from megas2s.analysis.neurons import Activity
from megas2s.analysis.probing import Probed
from megas2s.analysis.report import columns, plain, table
from megas2s.analysis.tasks import Task

TASKS = {"bigrams": Task([""] * 4, np.array([0, 1, 1, 1]), np.array([True, False, False, True]), ["a", "b"])}
FOUND = Findings(
    neurons={"encoder": [Activity(0.25, 0.0), Activity(0.5, 0.125)], "decoder": [Activity(0.75, 0.0)]},
    attention={
        "encoder_self_attention": [Entropy((1.0, 2.0), (0.5, 0.7)), Entropy((0.0, 1.0), (0.0, 0.4))],
        "decoder_self_attention": [Entropy((1.5, 1.5), (0.9, 0.9))],
        "decoder_cross_attention": [Entropy((0.1, 0.3), (0.1, 0.2))],
    },
    probes={"bigrams": Probed([0.51, 0.62, 0.73], [0.01, 0.01, 0.02], [True, True, False])},
    geometry=Geometry([-1.0, -2.0, -3.0], {"noise": [0.1, 0.2, 0.3], "dropout": [0.4, 0.5, 0.6]}),
)


def test_json_keeps_every_head_and_the_baseline():
    values = json.loads(json.dumps(plain(FOUND, TASKS)))
    assert values["neurons"]["encoder"][1] == {"rate": 0.5, "never": 0.125}
    first = values["attention"]["encoder_self_attention"][0]
    assert first == {"nats": 1.5, "share": 0.6, "heads": {"nats": [1.0, 2.0], "share": [0.5, 0.7]}}
    assert values["probes"]["bigrams"]["majority"] == 0.5
    assert (values["probes"]["bigrams"]["trained"], values["probes"]["bigrams"]["tested"]) == (2, 2)
    assert values["probes"]["bigrams"]["converged"] == [True, True, False]
    assert values["geometry"]["alignment"]["dropout"] == [0.4, 0.5, 0.6]


def test_what_was_not_asked_for_is_absent():
    assert plain(Findings(), {}) == {}
    assert columns(Findings()) == {}
    assert list(table(Findings(), {})) == []


def test_layers_and_heights_share_one_count():
    found = columns(FOUND)
    assert found["encoder/active"] == [None, 0.25, 0.5]
    assert found["probe/bigrams"] == [0.51, 0.62, 0.73]
    assert found["decoder/cross_attention_share"] == [None, pytest.approx(0.15)]


def test_the_table_has_a_row_for_every_height_of_each_stack():
    lines = [line.split() for line in table(FOUND, TASKS)]
    heads = [line[0] for line in lines]
    assert heads == ["encoder", "embeddings", "layer", "layer", "majority", "decoder", "layer", "the"]
    assert lines[1] == ["embeddings", "-", "-", "-", "-", "0.510", "-1.000", "0.100", "0.400"]
    assert lines[3] == ["layer", "2", "0.500", "0.125", "0.500", "0.200", "0.730", "-3.000", "0.300", "0.600"]
    assert lines[4] == ["majority", "0.500"]
    assert lines[6] == ["layer", "1", "0.750", "0.000", "1.500", "0.900", "0.200", "0.150"]
    widths = {len(line) for line in list(table(FOUND, TASKS))[:-1]}
    assert len(widths) == 2, "the columns of a stack are in line"


def test_a_probe_that_did_not_converge_is_told():
    assert list(table(FOUND, TASKS))[-1] == "the probe bigrams had not converged after 1000 iterations at layer 2"


def test_drawings_show_what_was_found(tmp_path):
    written = plots.draw(FOUND, TASKS, "a model", tmp_path)
    assert [path.stem for path in written] == ["neurons", "attention", "probes", "geometry"]
    (axes,) = plots.neurons(FOUND).axes
    drawn = {tuple(line.get_ydata()) for line in axes.get_lines()}
    assert drawn == {(0.25, 0.5), (1.0, 0.875), (0.75,), (1.0,)}
    panels = plots.attention(FOUND).axes
    assert len(panels) == 3
    heads, mean = panels[0].get_lines()
    assert sorted(heads.get_ydata()) == [0.0, 0.4, 0.5, 0.7]
    assert list(mean.get_ydata()) == [pytest.approx(0.6), pytest.approx(0.2)]
    (panel,) = plots.probes(FOUND, TASKS).axes
    curves = [list(line.get_ydata()) for line in panel.get_lines()]
    assert curves[0] == [0.51, 0.62, 0.73]
    assert [0.5, 0.5] in curves
    uniform, aligned, plane = plots.geometry(FOUND).axes
    assert list(uniform.get_lines()[0].get_ydata()) == [-1.0, -2.0, -3.0]
    assert len(aligned.get_lines()) == len(plane.get_lines()) == 2
