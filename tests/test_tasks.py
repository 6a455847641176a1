"""Which example is sample n: a pure function of n, whatever the weights of the languages."""

from __future__ import annotations

from collections import Counter

import pytest

from megas2s.methods.base import Columns
from megas2s.splits import Split
from megas2s.tasks import order_of

LANGUAGES = ("en", "sw", "zh")
COUNTS = (900, 100, 9)


@pytest.fixture
def split() -> Split:
    languages = [place for place, count in enumerate(COUNTS) for _ in range(count)]
    languages = languages[::2] + languages[1::2]  # mixed, as in a file with a column
    records = [{"number": number} for number in range(len(languages))]
    return Split(records, languages, [], Columns(), frozenset(), (), {}, ())


def test_without_weights_every_epoch_reads_each_example_once(split):
    order = order_of(split, LANGUAGES, alpha=None, seed=1)
    epochs = [[order[n] for n in range(first, first + len(split))] for first in (0, len(split))]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(len(split)))
    assert epochs[0] != epochs[1]
    assert order.said(10) == []


def test_languages_come_by_their_shares_to_the_power_of_alpha(split):
    order = order_of(split, LANGUAGES, alpha=0.5, seed=1)
    drawn = [order[n] for n in range(43_000)]
    found = Counter(split.languages[place] for place in drawn)
    assert [found[place] / len(drawn) for place in range(3)] == pytest.approx([30 / 43, 10 / 43, 3 / 43], abs=0.001)
    assert order.said(43_000)[2] == "zh: 9 examples, 7.0% of the samples, each read 333.33 times"


def test_a_language_s_examples_are_read_equally_often(split):
    order = order_of(split, LANGUAGES, alpha=0.5, seed=1)
    read = Counter(order[n] for n in range(20 * order.mixture.quotas.block))
    for language in range(3):
        counts = [read[place] for place in range(len(split)) if split.languages[place] == language]
        assert max(counts) - min(counts) <= 1


def test_a_sample_depends_on_its_number_and_the_seed_alone(split):
    order = order_of(split, LANGUAGES, alpha=0.3, seed=1)
    forward = [order[n] for n in range(5000)]
    again = order_of(split, LANGUAGES, alpha=0.3, seed=1)
    assert [again[n] for n in reversed(range(5000))] == forward[::-1]
    other = order_of(split, LANGUAGES, alpha=0.3, seed=2)
    assert [other[n] for n in range(5000)] != forward


def test_an_alpha_of_one_reads_what_there_is_and_of_zero_all_languages_alike(split):
    for alpha, expected in ((1.0, [count / sum(COUNTS) for count in COUNTS]), (0.0, [1 / 3] * 3)):
        order = order_of(split, LANGUAGES, alpha=alpha, seed=1)
        found = Counter(split.languages[order[n]] for n in range(20_000))
        assert [found[place] / 20_000 for place in range(3)] == pytest.approx(expected, abs=0.001)
