import dataclasses
import math

import numpy as np
import pytest
import torch

from megas2s.analysis.geometry import alignment, drops_out, noised, pooled_with_dropout, uniformity
from megas2s.analysis.passes import pooled
from megas2s.tokenizer.vocab import stand_in


def test_equal_views_are_aligned_whatever_their_length():
    states = torch.randn(5, 8)
    assert alignment(states, states) == 0.0
    assert alignment(states, 3 * states) == pytest.approx(0.0, abs=1e-12)


def test_opposite_views_are_two_radii_apart():
    states = torch.randn(5, 8)
    assert alignment(states, -states) == pytest.approx(4.0)


def test_uniformity_of_points_is_that_of_the_definition():
    assert uniformity(torch.ones(4, 8)) == pytest.approx(0.0, abs=1e-6)
    right_angles = torch.eye(6)  # every pair is at a squared distance of 2
    assert uniformity(right_angles) == pytest.approx(-4.0)
    points = torch.randn(7, 5)
    unit = points / points.norm(dim=1, keepdim=True)
    pairs = [math.exp(-2 * float((unit[i] - unit[j]).square().sum())) for i in range(7) for j in range(i)]
    assert uniformity(points) == pytest.approx(math.log(sum(pairs) / len(pairs)), abs=1e-6)


def test_dropout_makes_two_views_and_the_same_ones_again(small, rows, read):
    model = small(dropout=0.3)
    batches = read(rows)
    first, second = (pooled_with_dropout(model, batches, seed=1, view=view) for view in (0, 1))
    assert alignment(first[-1], second[-1]) > 0
    assert torch.equal(first, pooled_with_dropout(model, batches, seed=1, view=0))
    assert not model.training
    state = torch.random.get_rng_state()
    pooled_with_dropout(model, batches, seed=1, view=0)
    assert torch.equal(state, torch.random.get_rng_state())


def test_without_dropout_the_views_are_one(small, rows, read):
    model = small(dropout=0.0)
    assert not drops_out(model.config)
    assert drops_out(dataclasses.replace(model.config, attention_dropout=0.1))
    assert torch.equal(pooled_with_dropout(model, read(rows), seed=1, view=0), pooled(model, read(rows)))


def test_noise_is_e2s2s_and_the_same_for_a_row_whatever_stands_beside_it():
    vocabulary = stand_in(1000)
    rows = [np.append(np.arange(400, 440), 2), np.append(np.arange(500, 560), 2)]
    views = noised(rows, vocabulary, seed=7)
    assert np.array_equal(noised(rows[1:], vocabulary, seed=7)[0], views[1])
    assert not np.array_equal(noised(rows, vocabulary, seed=8)[1], views[1])
    for row, view in zip(rows, views, strict=True):
        assert len(view) == len(row)
        assert view[-1] == 2
        foreign = ~np.isin(view, row)
        assert foreign.sum() <= round(0.15 * len(row))
        assert (view != row).mean() > 0.1
