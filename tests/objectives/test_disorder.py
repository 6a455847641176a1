"""E2S2's noise: rates that are honoured, labels that are true of the row, special tokens that stay."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megas2s.objectives.disorder import ORIGINAL, REPLACED, SHUFFLED, disorder, ngrams, others
from megas2s.objectives.noise import special_table
from megas2s.rng import generator

from .conftest import DOC, EOS, FIRST, MASK, make_vocabulary

EVERY = np.ones(128, dtype=bool)


def words(**changes):
    """A vocabulary in which every piece is a word."""
    return make_vocabulary(word_starts=EVERY, **changes)


def text(length: int, seed: int = 0) -> np.ndarray:
    return generator(seed, "text").integers(FIRST, 120, size=length)


def test_rates_are_honoured_where_there_is_room():
    row, vocabulary = text(4000), words()
    found = disorder(row, generator(1, "a"), vocabulary, shuffle=0.05, replace=0.15)
    assert (found.labels == REPLACED).sum() == 600
    starts = ngrams(row, np.ones(4000, dtype=bool), generator(1, "b"), vocabulary, count=200, size=3)
    assert len(starts) == 200
    # Of three tokens a random order leaves 1 where it lay on average, the rest is labelled.
    assert (found.labels == SHUFFLED).sum() == pytest.approx(400, rel=0.1)


@pytest.mark.parametrize("apart", [1, 3, 9, 200])
def test_rates_are_honoured_where_words_of_one_piece_are_rare(apart):
    """One word in `apart` has a single piece; the others fill the rest up, so that every language gets its noise."""
    starts = np.zeros(128, dtype=bool)
    starts[[100, 101]] = True
    row = np.full(600, 50)
    row[:: max(2, apart)] = 100
    row[1 :: max(2, apart)] = 101 if apart > 1 else 100
    vocabulary = make_vocabulary(word_starts=starts)
    chosen = np.array(ngrams(row, np.ones(600, dtype=bool), generator(1, "a"), vocabulary, count=120, size=3))
    assert len(chosen) == 120
    assert (np.diff(chosen) >= 3).all()
    assert chosen[-1] <= 597


@given(
    shuffle=st.floats(0, 0.33),
    replace=st.floats(0, 1),
    ngram=st.integers(2, 4),
    length=st.integers(1, 80),
    seed=st.integers(0, 1000),
)
def test_labels_are_true_of_the_row_and_special_tokens_stay(shuffle, replace, ngram, length, seed):
    vocabulary = make_vocabulary()
    row = text(length, seed)
    row[:: 1 + seed % 7] = (MASK, DOC, EOS, 126)[seed % 4]
    found = disorder(row, generator(seed, "noise"), vocabulary, shuffle=shuffle, replace=replace, ngram=ngram)
    special = special_table(vocabulary)[row]
    assert (found.tokens[special] == row[special]).all()
    assert (found.labels[special] == ORIGINAL).all()
    assert ((found.tokens == row) == (found.labels == ORIGINAL)).all()
    assert not special_table(vocabulary)[found.tokens[~special]].any()
    kept = found.labels != REPLACED
    assert (found.labels == REPLACED).sum() <= round(replace * length)
    if kept.all():
        assert sorted(found.tokens.tolist()) == sorted(row.tolist())


def test_nothing_happens_at_rates_of_zero():
    row = text(50)
    found = disorder(row, generator(0, "a"), words(), shuffle=0.0, replace=0.0)
    assert found.tokens.tolist() == row.tolist()
    assert not found.labels.any()


def test_middles_are_words_of_one_piece_and_ngrams_do_not_overlap():
    vocabulary = make_vocabulary()  # even ids open words
    row = text(3000)
    starts = np.array(ngrams(row, np.ones(3000, dtype=bool), generator(0, "a"), vocabulary, count=150, size=3))
    middles = starts + 1
    assert (row[middles] % 2 == 0).all()
    assert (row[middles + 1] % 2 == 0).all()
    assert (np.diff(starts) >= 3).all()
    assert len(starts) > 140
    thirds = np.histogram(starts, bins=3, range=(0, 3000))[0]
    assert thirds.min() > 40


def test_another_token_is_never_the_same_and_every_other_is_as_likely():
    vocabulary = words(ordinary=np.arange(10, 15, dtype=np.int32))
    drawn = others(np.full(8000, 12), generator(0, "a"), vocabulary)
    counts = np.bincount(drawn, minlength=15)[10:]
    assert counts[2] == 0
    assert all(abs(count - 2000) < 200 for count in counts[[0, 1, 3, 4]])
