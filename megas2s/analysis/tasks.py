"""Probing tasks that need no other data than sentences: what can be read off a representation by a linear map?

    length      how many words, in six bins that hold about as many sentences each
    content     which one of k words of middle frequency is in the sentence
    bigrams     whether two neighbouring words have changed places
    order       whether two words further apart have

After SentEval (Conneau et al. 2018, arXiv 1805.01070: SentLen, WC, BShift), which E2S2 probes its encoders with
(Zhong et al. 2022); its other tasks need parsers. The words that change places are neither the first nor carry
punctuation, which would tell by themselves. A sentence is in one of training and test alone, by its hash, and enters a
task once, changed or not.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from megas2s.analysis.sentences import Words, is_plain, words
from megas2s.errors import BadData
from megas2s.rng import address_hash, generator

LENGTH_BINS = 6
CONTENT_WORDS = 20
CONTENT_AT_LEAST = 10  # sentences that a word is in
CONTENT_AT_MOST = 0.05  # share of sentences that a word is in
TEST_SHARE = 4  # one sentence in so many is tested on
FEWEST_TESTED = 10

Fits = Callable[[str], bool]


class Task(NamedTuple):
    """Texts, what is to be said of each, and which ones are kept for the test."""

    texts: list[str]
    labels: np.ndarray  # (N,) int64
    test: np.ndarray  # (N,) bool
    classes: list[str]

    @property
    def majority(self) -> float:
        """The accuracy of always saying what is most frequent in training, on the test."""
        most = np.bincount(self.labels[~self.test]).argmax()
        return float((self.labels[self.test] == most).mean())


def length(sentences: Sequence[str], *, fits: Fits, seed: int) -> Task:
    """How many words, in bins."""
    counts = np.array([len(words(text).words) for text in sentences])
    edges = np.unique(np.quantile(counts, np.linspace(0, 1, LENGTH_BINS + 1)[1:-1]).astype(np.int64))
    borders = [int(counts.min()), *(edges + 1).tolist(), int(counts.max()) + 1]
    classes = [f"{low}-{high - 1} words" for low, high in itertools.pairwise(borders)]
    return _task("length", list(sentences), np.digitize(counts, edges + 1), classes, seed)


def content(sentences: Sequence[str], *, fits: Fits, seed: int) -> Task:
    """Which word of a few is in the sentence, exactly one of them once.

    They are the most frequent words that are in at most CONTENT_AT_MOST of the sentences.
    """
    plain = [[word.lower() for word in words(text).words if is_plain(word)] for text in sentences]
    within = Counter(word for row in plain for word in set(row))
    middle = [(count, word) for word, count in within.items() if count >= CONTENT_AT_LEAST]
    middle = [(count, word) for count, word in middle if count <= CONTENT_AT_MOST * len(sentences)]
    chosen = [word for _, word in sorted(middle, key=lambda found: (-found[0], found[1]))[:CONTENT_WORDS]]
    if len(chosen) < 2:
        raise BadData(
            f"the probe content needs words that are in {CONTENT_AT_LEAST} sentences and in at most "
            f"{CONTENT_AT_MOST:.0%} of them; of {len(sentences)} sentences there are {len(chosen)} such words; "
            "give more text, or leave the probe out with --probes"
        )
    number = {word: place for place, word in enumerate(chosen)}
    held = [[number[word] for word in row if word in number] for row in plain]
    texts = [text for text, found in zip(sentences, held, strict=True) if len(found) == 1]
    labels = np.array([found[0] for found in held if len(found) == 1], dtype=np.int64)
    return _task("content", texts, labels, chosen, seed)


def bigrams(sentences: Sequence[str], *, fits: Fits, seed: int) -> Task:
    """Whether two neighbouring words have changed places."""
    return _exchanges("bigrams", sentences, fits, seed, nearest=1, furthest=1)


def order(sentences: Sequence[str], *, fits: Fits, seed: int) -> Task:
    """Whether two words that are no neighbours have changed places."""
    return _exchanges("order", sentences, fits, seed, nearest=2, furthest=None)


TASKS: Mapping[str, Callable[..., Task]] = {"length": length, "content": content, "bigrams": bigrams, "order": order}


def in_test(sentence: str, *, seed: int) -> bool:
    """Whether a sentence is kept for the test, in every task alike."""
    return address_hash(seed, "probe", "test", sentence) % TEST_SHARE == 0


def pairs(sentence: Words, *, nearest: int, furthest: int | None) -> list[tuple[int, int]]:
    """The pairs of different plain words, the first word left out, that lie so many words apart."""
    places = [place for place, word in enumerate(sentence.words) if place and is_plain(word)]
    return [
        (one, other)
        for one in places
        for other in places
        if one + nearest <= other <= (other if furthest is None else one + furthest)
        and sentence.words[one].lower() != sentence.words[other].lower()
    ]


def _exchanges(
    name: str, sentences: Sequence[str], fits: Fits, seed: int, *, nearest: int, furthest: int | None
) -> Task:
    texts: list[str] = []
    changed: list[int] = []
    origins: list[str] = []
    for text in sentences:
        parts = words(text)
        possible = pairs(parts, nearest=nearest, furthest=furthest)
        rng = generator(seed, "probe", name, text)
        if not possible:
            continue
        exchanged = parts.exchanged(*possible[int(rng.integers(len(possible)))])
        if not fits(exchanged):  # other words in a row may be other tokens
            continue
        changed.append(int(rng.integers(2)))
        texts.append(exchanged if changed[-1] else text)
        origins.append(text)
    return _task(name, texts, np.array(changed, dtype=np.int64), ["as it was", "exchanged"], seed, origins=origins)


def _task(
    name: str,
    texts: list[str],
    labels: np.ndarray,
    classes: list[str],
    seed: int,
    *,
    origins: Sequence[str] | None = None,
) -> Task:
    test = np.array([in_test(text, seed=seed) for text in origins or texts], dtype=bool)
    if test.sum() < FEWEST_TESTED or len(np.unique(labels[~test])) < 2:
        raise BadData(
            f"the probe {name} has {len(texts)} sentences of {len(np.unique(labels))} classes, {int(test.sum())} of "
            f"them in its test, and needs {FEWEST_TESTED} there and two classes in training; give more text, or leave "
            "the probe out with --probes"
        )
    return Task(texts, labels, test, classes)
