"""Continuation: one document, a prefix of 20 to 80 %, the rest as target, rows that always fit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megas2s.errors import BadConfig
from megas2s.objectives.base import Shape
from megas2s.objectives.clm import CLM
from megas2s.rng import generator
from megas2s.spec import parse

from .conftest import CLM_TOKEN, DOC, EOS, make_vocabulary


def corrupt(objective, tokens, shape, seed=0):
    return objective.corrupt(tokens, generator(seed, "test"), shape, 0)


def test_prefix_and_rest_are_the_document(make_tokens, shape):
    tokens = make_tokens(60)
    example = corrupt(CLM(), tokens, shape)
    source, labels = example["input_ids"], example["labels"]
    assert (source[0], source[-1], labels[-1]) == (CLM_TOKEN, EOS, EOS)
    assert [*source[1:-1], *labels[:-1]] == tokens.tolist()
    assert example["decoder_input_ids"].tolist() == [EOS, *labels[:-1]]


def test_prefixes_are_uniform_between_their_bounds(make_tokens, shape):
    tokens = make_tokens(60)
    cuts = [len(corrupt(CLM(), tokens, shape, seed)["input_ids"]) - 2 for seed in range(3000)]
    assert (min(cuts), max(cuts)) == (12, 48)
    quarters = np.histogram(cuts, bins=[12, 21, 30, 39, 49])[0]
    assert quarters / 3000 == pytest.approx([0.25] * 4, abs=0.04)


def test_of_several_documents_the_longest_is_continued(make_tokens, shape):
    tokens = make_tokens(60, docs=[10, 45])
    example = corrupt(CLM(), tokens, shape)
    assert [*example["input_ids"][1:-1], *example["labels"][:-1]] == tokens[11:45].tolist()


@pytest.mark.parametrize(("tokens", "source", "labels"), [([DOC, DOC], [], []), ([DOC, 30, DOC], [30], [])])
def test_windows_of_separators_still_make_a_row(tokens, source, labels, shape):
    example = corrupt(CLM(), np.array(tokens), shape)
    assert example["input_ids"].tolist() == [CLM_TOKEN, *source, EOS]
    assert example["labels"].tolist() == [*labels, EOS]


@given(
    source=st.integers(5, 300),
    target=st.integers(5, 300),
    low=st.floats(0.01, 0.5),
    more=st.floats(0, 0.49),
    docs=st.sets(st.integers(0, 600), max_size=5),
    seed=st.integers(0, 1000),
)
def test_windows_are_the_longest_for_which_every_draw_fits(source, target, low, more, docs, seed):
    objective = CLM(min_prefix=low, max_prefix=low + more)
    shape = Shape(make_vocabulary(), source, target)
    tokens = objective.window_size(shape)
    lengths = objective.row_lengths(tokens, shape)
    assert lengths.source <= source
    assert lengths.target <= target
    longer = objective.row_lengths(tokens + 1, shape)
    assert longer.source > source or longer.target > target
    window = np.full(tokens, 30)
    window[[place for place in docs if place < tokens]] = DOC
    example = corrupt(objective, window, shape, seed)
    assert len(example["input_ids"]) <= lengths.source
    assert len(example["labels"]) <= lengths.target


def test_rows_are_not_full(shape):
    assert not CLM().row_lengths(60, shape).full


def test_a_vocabulary_without_the_token_is_refused():
    with pytest.raises(ValueError, match=r"clm needs a \[CLM\] token"):
        CLM().window_size(Shape(make_vocabulary(clm=None), 64, 64))


def test_rows_without_room_are_refused(vocabulary):
    with pytest.raises(ValueError, match="clm needs room"):
        CLM().window_size(Shape(vocabulary, 2, 2))


def test_bounds_in_the_wrong_order_are_refused():
    with pytest.raises(BadConfig, match="min_prefix <= max_prefix"):
        parse(CLM, {"min_prefix": 0.9, "max_prefix": 0.3}, source="recipe")
