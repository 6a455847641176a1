"""Noise: exact counts, uniform places, and rows that keep what was not noised."""

from __future__ import annotations

import itertools
from collections import Counter
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megas2s.objectives.noise import (
    Spans,
    draw_spans,
    framed,
    permute_sentences,
    span_counts,
    spans_as_masks,
    special_table,
    teacher_forced,
    without_spans,
)

from .conftest import DOC, EOS, make_vocabulary


def spans_of(*pairs):
    """Spans (start, length); their slots follow."""
    starts, lengths = (np.array(values) for values in zip(*pairs, strict=True))
    return Spans(starts, lengths, starts - np.concatenate(([0], lengths.cumsum()[:-1])) + np.arange(len(starts)))


def test_spans_vanish_or_leave_a_mask_each():
    tokens = np.arange(10, 18)
    spans = spans_of((2, 3), (6, 1))
    assert without_spans(tokens, spans).tolist() == [10, 11, 15, 17]
    assert spans_as_masks(tokens, spans, 4).tolist() == [10, 11, 4, 15, 4, 17]


def test_an_empty_span_inserts_a_mask_and_deletes_nothing():
    tokens = np.arange(10, 14)
    spans = spans_of((0, 0), (2, 1), (3, 0))
    assert without_spans(tokens, spans).tolist() == [10, 11, 13]
    assert spans_as_masks(tokens, spans, 4).tolist() == [4, 10, 11, 4, 4, 13]


@given(tokens=st.integers(4, 300), density=st.floats(0.05, 0.9), mean=st.floats(0.5, 8), seed=st.integers(0, 10**9))
def test_rows_have_the_lengths_known_before_the_draw_and_keep_their_order(tokens, density, mean, seed):
    noised, count = span_counts(tokens, density, mean)
    if not noised:
        return
    window = np.arange(100, 100 + tokens)
    spans = draw_spans(np.random.default_rng(seed), tokens, noised, count)
    kept = without_spans(window, spans)
    assert len(kept) == tokens - noised
    assert (np.diff(kept) > 0).all()
    masked = spans_as_masks(window, spans, 4)
    assert len(masked) == tokens - noised + count
    assert masked[masked != 4].tolist() == kept.tolist()
    covered = np.concatenate([np.arange(start, start + length) for start, length in zip(*spans[:2], strict=True)])
    assert sorted([*covered, *(kept - 100)]) == list(range(tokens))  # no overlap, nothing outside


def test_places_and_lengths_follow_their_stated_distributions():
    tokens, noised, count, draws = 6, 3, 2, 24_000
    rng = np.random.default_rng(0)
    drawn = [draw_spans(rng, tokens, noised, count) for _ in range(draws)]
    places = Counter(tuple(spans.slots.tolist()) for spans in drawn)
    lengths = Counter(tuple(spans.lengths.tolist()) for spans in drawn)
    every_place = list(itertools.combinations(range(tokens - noised + count), count))
    assert [places[place] for place in every_place] == pytest.approx([draws / 10] * 10, rel=0.1)
    binomial = {(0, 3): 1 / 8, (1, 2): 3 / 8, (2, 1): 3 / 8, (3, 0): 1 / 8}
    assert {pair: lengths[pair] / draws for pair in binomial} == pytest.approx(binomial, rel=0.1)


def test_lengths_have_the_mean_and_spread_of_poisson_spans():
    rng = np.random.default_rng(1)
    noised, count = span_counts(2000, 0.15, 3.0)
    lengths = np.concatenate([draw_spans(rng, 2000, noised, count).lengths for _ in range(200)])
    assert (noised, count) == (300, 100)
    assert lengths.mean() == 3.0
    assert lengths.var() == pytest.approx(3.0, rel=0.05)
    assert (lengths == 0).mean() == pytest.approx(np.exp(-3), rel=0.1)


def test_sentences_move_inside_their_document_only(vocabulary):
    first, second = [[30, 31, 20], [32, 33, 34, 21], [36, 22]], [[40, 41, 20], [42, 43]]
    tokens = np.array([*chain(*first), DOC, *chain(*second)])
    seen = set()
    for seed in range(60):
        row = permute_sentences(tokens, np.random.default_rng(seed), vocabulary).tolist()
        seen.add(tuple(row))
        assert row[9] == DOC
    orders = [
        (*chain(*a), DOC, *chain(*b)) for a in itertools.permutations(first) for b in itertools.permutations(second)
    ]
    assert seen == set(orders)


def test_documents_of_a_tokenizer_without_a_separator_of_its_own_end_in_the_end_of_text():
    vocabulary = make_vocabulary(doc=None)
    tokens = np.array([30, 20, 31, 21, EOS, 40, 20, 41])
    rows = {tuple(permute_sentences(tokens, np.random.default_rng(s), vocabulary).tolist()) for s in range(40)}
    assert rows == {(*a, EOS, *b) for a in ((30, 20, 31, 21), (31, 21, 30, 20)) for b in ((40, 20, 41), (41, 40, 20))}


def test_neighbouring_documents_and_a_closing_separator_stay_in_place(vocabulary):
    tokens = np.array([DOC, 30, 20, 31, DOC, DOC])
    rows = {tuple(permute_sentences(tokens, np.random.default_rng(s), vocabulary).tolist()) for s in range(20)}
    assert rows == {(DOC, 30, 20, 31, DOC, DOC), (DOC, 31, 30, 20, DOC, DOC)}


def test_the_decoder_reads_its_labels_one_later_from_the_end_token():
    labels = framed(np.array([7, 8, 9], dtype=np.uint16), make_vocabulary())
    assert labels.tolist() == [7, 8, 9, 2]
    assert labels.dtype == np.int64
    assert teacher_forced(labels, 2).tolist() == [2, 7, 8, 9]


def test_every_special_token_is_known_as_one(vocabulary):
    assert np.flatnonzero(special_table(vocabulary)).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 126, 127]
