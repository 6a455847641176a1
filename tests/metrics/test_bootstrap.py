"""Intervals: what statistics say of a proportion, the same from sums as from texts, and the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU

from megas2s.metrics.bootstrap import interval, resampled
from megas2s.metrics.corpus import bleu
from megas2s.metrics.measure import Texts, mean
from megas2s.rng import generator


def test_the_interval_of_a_proportion_is_that_of_its_normal_distribution():
    share = mean([1.0] * 120 + [0.0] * 280, "")
    low, high = interval(share, np.arange(400), seed=1)
    width = 1.96 * (0.3 * 0.7 / 400) ** 0.5
    assert low == pytest.approx(0.3 - width, abs=0.006)
    assert high == pytest.approx(0.3 + width, abs=0.006)


def test_a_resampled_corpus_has_the_score_of_the_texts_drawn():
    references = [f"the number {n} is one of {n % 7} and of {n % 3} others" for n in range(30)]
    answers = [line.replace("one", "some") if n % 4 else line for n, line in enumerate(references)]
    measure = bleu(Texts(answers, references))
    found = [measure.score(row) for row in resampled(measure.statistics, seed=7, resamples=20)]
    rng = generator(7, "bootstrap")
    for score in found:
        draw = rng.integers(30, size=30)
        drawn = [[texts[place] for place in draw] for texts in (answers, references)]
        assert score == pytest.approx(BLEU().corpus_score(drawn[0], [drawn[1]]).score)
    assert len({round(score, 6) for score in found}) > 5


def test_the_same_seed_draws_the_same_corpora_for_every_measure_and_another_draws_others():
    values = np.arange(50.0)
    first, second = mean(list(values), ""), mean(list(2 * values), "")
    at_seed = [interval(first, np.arange(50), seed=seed) for seed in (0, 0, 1)]
    assert at_seed[0] == at_seed[1] != at_seed[2]
    assert interval(second, np.arange(50), seed=0) == pytest.approx([2 * bound for bound in at_seed[0]])


def test_only_the_rows_asked_for_are_drawn():
    measure = mean([0.0] * 10 + [1.0] * 5, "")
    assert interval(measure, np.arange(10, 15), seed=0) == (1.0, 1.0)
