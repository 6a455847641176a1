"""A mixture of objectives: exact shares by number, one window size, each loss on its own rows."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from megas2s.errors import BadConfig
from megas2s.labels import IGNORED
from megas2s.objectives import Objective, ObjectiveMixture
from megas2s.objectives.base import Shape
from megas2s.rng import generator
from megas2s.spec import parse, plain

from .conftest import CLM_TOKEN, make_vocabulary

ALEXATM = {
    "name": "mixture",
    "parts": [
        {"share": 0.8, "objective": {"name": "denoising", "noise": "delete"}},
        {"share": 0.2, "objective": {"name": "clm"}},
    ],
}


@pytest.fixture
def alexatm() -> ObjectiveMixture:
    return parse(Objective, ALEXATM, source="recipe")


def test_shares_are_exact(alexatm, make_tokens, shape):
    tokens = make_tokens(60)
    examples = [alexatm.corrupt(tokens, generator(0, n), shape, n) for n in range(4 * 1024)]
    seen = Counter(int(example["component"]) for example in examples)
    assert abs(seen[1] - 0.2 * len(examples)) < 1


def test_the_number_alone_says_which_objective(alexatm, make_tokens, shape):
    tokens = make_tokens(60)
    for n in range(40):
        example, again = (alexatm.corrupt(tokens, generator(seed), shape, n) for seed in (1, 2))
        assert example["component"] == again["component"]
        assert (example["input_ids"][0] == CLM_TOKEN) == (example["component"] == 1)


def test_windows_are_the_smallest_and_rows_the_longest_among_the_parts(alexatm, shape):
    denoising, clm = (part.objective for part in alexatm.parts)
    tokens = alexatm.window_size(shape)
    assert tokens == min(denoising.window_size(shape), clm.window_size(shape)) == 63
    assert alexatm.row_lengths(tokens, shape) == (
        max(denoising.row_lengths(63, shape).source, clm.row_lengths(63, shape).source),
        denoising.row_lengths(63, shape).target,
        False,
    )


@pytest.mark.parametrize("modes", [(0, 2), (0, None, 2), (1, 0, 2), (None, 0)])
def test_a_token_that_opens_sources_in_one_denoiser_is_no_span_s_in_another(modes, make_tokens):
    """The last one has a span alone, so that its own mode is no bound to it; the others take all the rest."""
    sentinels = tuple(range(100, 128))
    shape = Shape(make_vocabulary(sentinels=sentinels, ordinary=np.arange(8, 90, dtype=np.int32)), 96, 96)
    many = {"name": "span_corruption", "noise_density": 0.5, "mean_span_length": 1.0}
    parts = [{"share": 1, "objective": {**many, "mode": mode}} for mode in modes]
    parts[-1]["objective"] |= {"placement": "end"}
    mixture = parse(Objective, {"name": "mixture", "parts": parts}, source="recipe")
    for_spans = list(sentinels[: -modes[-1] - 1])
    tokens = mixture.window_size(shape)
    for number in range(12):
        example = mixture.corrupt(make_tokens(tokens, seed=number) % 80 + 8, generator(0, number), shape, number)
        component = int(example["component"])
        source = example["input_ids"].tolist()
        assert modes[component] is None or source.pop(0) == sentinels[-1 - modes[component]]
        expected = for_spans if component < len(modes) - 1 else [sentinels[0]]
        assert [token for token in source if token in sentinels] == expected
        assert [token for token in example["labels"].tolist() if token in sentinels] == expected


def test_one_part_alone_keeps_its_full_rows(shape):
    alone = parse(Objective, {**ALEXATM, "parts": ALEXATM["parts"][:1]}, source="recipe")
    assert alone.row_lengths(63, shape).full


def test_each_objective_loses_on_its_own_rows(alexatm, make_output):
    output, _ = make_output(3, 5, 3)
    labels = torch.tensor([[30, 31, 2], [32, 2, IGNORED], [33, 34, 2]])
    batch = {"labels": labels, "component": torch.tensor([0, 1, 0])}
    parts = alexatm.loss(output, batch)
    each = alexatm.parts[0].objective.loss(output, {"labels": labels})["denoising"].row_totals
    assert parts["denoising"].row_totals.tolist() == pytest.approx([float(each[0]), 0, float(each[2])])
    assert parts["clm"].row_totals.tolist() == pytest.approx([0, float(each[1]), 0])
    assert parts["clm"].total.item() == pytest.approx(float(each[1]))
    assert [parts[name].weight for name in ("denoising", "clm")] == pytest.approx([0.8, 0.2])
    counts = alexatm.counts(batch)
    assert counts["denoising"].tolist() == [3, 0, 3]
    assert counts["clm"].tolist() == [0, 2, 0]


def test_an_objective_without_rows_still_gives_a_part_with_a_graph(alexatm, make_output):
    output, _ = make_output(1, 5, 3)
    part = alexatm.loss(output, {"labels": torch.tensor([[30, 31, 2]]), "component": torch.tensor([0])})["clm"]
    assert part.total.item() == 0
    assert part.total.requires_grad


def test_two_parts_of_one_kind_get_names_of_their_own():
    parts = [ALEXATM["parts"][0], {"share": 1, "objective": {"name": "denoising", "noise": "mask"}}]
    assert parse(Objective, {"name": "mixture", "parts": parts}, source="r").part_names == (
        "denoising_0",
        "denoising_1",
    )


def test_a_mixture_survives_being_written_and_read(alexatm):
    assert parse(Objective, plain(Objective, alexatm), source="again") == alexatm


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ([], "at least one part"),
        ([{"share": 0, "objective": {"name": "clm"}}], "share must be above 0"),
        ([{"share": float("inf"), "objective": {"name": "clm"}}], "share must be above 0 and finite"),
        ([{"share": 1, "objective": {"name": "mlm"}}], "'mlm'"),
        ([{"share": 1, "objective": {"name": "clm", "min_prefx": 0.1}}], "did you mean 'min_prefix'"),
    ],
)
def test_bad_mixtures_are_refused(parts, sentence):
    with pytest.raises(BadConfig, match=sentence):
        parse(Objective, {"name": "mixture", "parts": parts}, source="recipe")
