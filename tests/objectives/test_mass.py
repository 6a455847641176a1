"""MASS: one hidden span, predicted; its tokens masked, replaced or kept as the shares say."""

from __future__ import annotations

import numpy as np
import pytest

from megas2s.objectives.base import Shape
from megas2s.objectives.mass import MASS
from megas2s.rng import generator

from .conftest import EOS, FIRST, MASK, make_vocabulary


def corrupt(objective, tokens, shape, seed=0):
    return objective.corrupt(np.asarray(tokens), generator(seed, "test"), shape, 0)


def test_the_target_is_the_span_that_the_source_hides(shape):
    window = list(range(10, 70))
    starts = set()
    for seed in range(40):
        example = corrupt(MASS(keep=0.0, random=0.0), window, shape, seed)
        source, span = example["input_ids"].tolist(), example["labels"].tolist()
        assert len(span) == 31
        assert (source[-1], span[-1]) == (EOS, EOS)
        start = source.index(MASK)
        assert source[start : start + 30] == [MASK] * 30
        assert source[:start] + span[:-1] + source[start + 30 : -1] == window
        starts.add(start)
    assert {min(starts) < 5, max(starts) > 25} == {True}


def test_shares_of_the_span_are_masked_replaced_and_kept():
    shape = Shape(make_vocabulary(), 20_001, 20_001)
    window = np.full(20_000, FIRST)
    source = corrupt(MASS(), window, shape)["input_ids"][:-1]
    masked, same = (source == MASK).sum() / 10_000, (source == FIRST).sum() - 10_000
    assert masked == pytest.approx(0.8, abs=0.02)
    assert same / 10_000 == pytest.approx(0.1 + 0.1 / 112, abs=0.02)


@pytest.mark.parametrize(("source", "target", "tokens"), [(64, 64, 63), (64, 20, 38)])
def test_the_window_is_the_longest_whose_rows_fit(source, target, tokens):
    shape = Shape(make_vocabulary(), source, target)
    assert MASS().window_size(shape) == tokens
    lengths = MASS().row_lengths(tokens, shape)
    assert lengths.full
    example = corrupt(MASS(), np.arange(tokens) % 60 + 10, shape)
    assert (len(example["input_ids"]), len(example["labels"])) == lengths[:2]


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="needs a <mask> token"):
        MASS().window_size(Shape(make_vocabulary(mask=None), 64, 64))
    with pytest.raises(ValueError, match="hides no token"):
        MASS().window_size(Shape(make_vocabulary(), 2, 1))
    with pytest.raises(ValueError, match="keep and random"):
        MASS(keep=0.6, random=0.6)
