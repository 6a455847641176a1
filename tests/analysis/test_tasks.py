from collections import Counter

import numpy as np
import pytest

from megas2s.analysis.sentences import words
from megas2s.analysis.tasks import CONTENT_WORDS, TASKS, bigrams, content, in_test, length, order, pairs
from megas2s.errors import BadData

NOUNS = "keeper letter evening harbour window lantern garden river baker street bridge horse winter teacher village"
NOUNS = [
    *NOUNS.split(),
    "kitchen",
    "doctor",
    "island",
    "summer",
    "pocket",
    "candle",
    "market",
    "valley",
    "farmer",
    "boat",
]


@pytest.fixture(scope="module")
def sentences():
    """Sentences of 6 to 14 words with one of 25 nouns each, and function words that are everywhere."""
    rng = np.random.default_rng(0)
    fill = ["the", "old", "and", "quiet", "was", "not", "far", "from", "here", "today", "again", "while"]
    found = set()
    while len(found) < 400:
        drawn = list(rng.permutation(fill)[: int(rng.integers(4, 13))])
        drawn.insert(int(rng.integers(1, len(drawn))), NOUNS[len(found) % 25])
        found.add(" ".join(["Then", *drawn]) + ".")
    return sorted(found)


def make(name, sentences, seed=0, fits=lambda text: True):
    return TASKS[name](sentences, fits=fits, seed=seed)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_the_same_for_the_same_seed_and_no_sentence_is_in_both_parts(sentences, name):
    one, again, other = make(name, sentences), make(name, sentences), make(name, sentences, seed=1)
    assert one.texts == again.texts
    assert np.array_equal(one.labels, again.labels)
    assert not np.array_equal(one.test, other.test)
    assert 0.15 < one.test.mean() < 0.35
    assert len(set(one.texts)) == len(one.texts) == len(one.labels) == len(one.test)
    assert not {text for text, test in zip(one.texts, one.test, strict=True) if test} & {
        text for text, test in zip(one.texts, one.test, strict=True) if not test
    }


def test_a_sentence_is_on_one_side_in_every_task_also_where_its_words_are_exchanged(sentences):
    sides = {tuple(sorted(words(text).words)): in_test(text, seed=0) for text in sentences}
    by_words = Counter(tuple(sorted(words(text).words)) for text in sentences)
    for name in TASKS:
        task = make(name, sentences)
        for text, test in zip(task.texts, task.test, strict=True):
            key = tuple(sorted(words(text).words))
            assert by_words[key] > 1 or sides[key] == test


def test_lengths_are_in_bins_that_hold_about_as_many_each(sentences):
    task = length(sentences, fits=None, seed=0)
    assert 4 <= len(task.classes) <= 6
    for text, label in zip(task.texts, task.labels, strict=True):
        low, high = task.classes[label].removesuffix(" words").split("-")
        assert int(low) <= len(words(text).words) <= int(high)
    assert np.bincount(task.labels).max() < 0.4 * len(sentences)


def test_content_words_are_of_middle_frequency_and_each_sentence_has_exactly_one(sentences):
    more = [f"Some say that it was a {noun} and {noun} was near {number}." for number, noun in enumerate(NOUNS)]
    rare = [f"Nobody ever saw my {noun} by day at {number}." for noun in ("moth", "owl") for number in range(18)]
    task = content([*sentences, *more, *rare, "Nobody saw the moth and owl by day."], fits=None, seed=0)
    assert set(task.classes) >= {"moth", "owl"}
    assert "the" not in task.classes
    assert len(task.classes) <= CONTENT_WORDS
    for text, label in zip(task.texts, task.labels, strict=True):
        plain = [word.lower().rstrip(".") for word in words(text).words]
        assert sum(plain.count(word) for word in task.classes) == 1
        assert task.classes[label] in plain
    assert "Nobody saw the moth and owl by day." not in task.texts


@pytest.mark.parametrize(("name", "near", "far"), [("bigrams", 1, 1), ("order", 2, 99)])
def test_about_half_of_the_sentences_have_two_inner_words_exchanged(sentences, name, near, far):
    task = make(name, sentences)
    known = {text: words(text).words for text in sentences}
    assert 0.4 < task.labels.mean() < 0.6
    for text, label in zip(task.texts, task.labels, strict=True):
        if not label:
            assert text in known
            continue
        now = words(text).words
        origins = [before for before in known.values() if sorted(before) == sorted(now)]
        changes = [
            [place for place, pair in enumerate(zip(now, before, strict=True)) if len({*pair}) > 1]
            for before in origins
        ]
        moved = min(changes, key=len)
        assert len(moved) == 2
        assert near <= moved[1] - moved[0] <= far
        assert 0 not in moved
        assert len(now) - 1 not in moved  # it carries the full stop


def test_words_with_punctuation_and_equal_words_are_no_pair():
    sentence = words("He said the, the The end here now.")
    assert pairs(sentence, nearest=1, furthest=1) == [(4, 5), (5, 6)]


def test_a_sentence_that_would_no_longer_fit_is_left_out(sentences):
    known = set(sentences)
    task = make("bigrams", sentences, fits=lambda text: text in known or text < "Then n")
    assert 100 < len(task.texts) < len(sentences)


def test_the_majority_is_that_of_training_on_the_test(sentences):
    task = bigrams(sentences, fits=lambda text: True, seed=0)
    most = np.bincount(task.labels[~task.test]).argmax()
    assert task.majority == (task.labels[task.test] == most).mean()


def test_too_little_text_for_a_probe_is_refused_by_its_name(sentences):
    with pytest.raises(BadData, match=r"the probe content needs words .* there are 0 such words"):
        content(sentences[:60], fits=None, seed=0)
    with pytest.raises(BadData, match=r"the probe order has 8 sentences .*; give more text, or leave the probe out"):
        order(sentences[:8], fits=lambda text: True, seed=0)
