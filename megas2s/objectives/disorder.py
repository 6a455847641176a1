"""E2S2's noise for the encoder to find: words in another order, and tokens that do not belong.

    source         the cat sat on the mat
    shuffled       the sat cat on the mat            labels  0 1 1 0 0 0
    replaced       the sat cat on blue mat           labels  0 1 1 0 2 0

Zhong et al. 2022 (arXiv 2205.14912), after StructBERT (Wang et al. 2020). The rates are honoured: the released code
reads neither of its own, and its guard against special tokens is always open. Here special tokens, masks and sentinels
are never moved and never overwritten, and a label says what a token is in the row that the model reads: one that a
shuffle leaves where it was is as it was.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from megas2s.objectives.noise import special_table
from megas2s.tokenizer.vocab import Vocabulary

ORIGINAL, SHUFFLED, REPLACED = 0, 1, 2


class Disordered(NamedTuple):
    """A row and, for each of its tokens, what happened to it."""

    tokens: np.ndarray  # (S,) int64
    labels: np.ndarray  # (S,) int64: ORIGINAL, SHUFFLED or REPLACED


def disorder(
    tokens: np.ndarray,
    rng: np.random.Generator,
    vocabulary: Vocabulary,
    *,
    shuffle: float,
    replace: float,
    ngram: int = 3,
) -> Disordered:
    """Shuffle round(shuffle * S) n-grams, then replace round(replace * S) other tokens; fewer where there are fewer."""
    row = tokens.astype(np.int64)
    free = ~special_table(vocabulary)[row]
    for start in ngrams(row, free, rng, vocabulary, count=round(shuffle * len(row)), size=ngram):
        part = slice(start, start + ngram)
        row[part] = row[part][rng.permutation(ngram)]
    labels = np.where(row == tokens, ORIGINAL, SHUFFLED)
    places = np.flatnonzero(free & (labels == ORIGINAL))
    places = rng.permutation(places)[: round(replace * len(row))]
    row[places] = others(row[places], rng, vocabulary)
    labels[places] = REPLACED
    return Disordered(row, labels)


def ngrams(
    row: np.ndarray, free: np.ndarray, rng: np.random.Generator, vocabulary: Vocabulary, *, count: int, size: int
) -> list[int]:
    """Where `count` n-grams of free tokens begin that do not overlap, ascending, spread over the row.

    The token in the middle of each is a word of one piece as far as there are enough; where a language has too few for
    the rate, any free n-grams fill it up, so that every language gets as much noise. Fewer are found only where the
    row is too full: about four fifths of its tokens can be in n-grams that do not overlap and lie where they like.
    """
    words = np.append(vocabulary.word_starts[row], True)
    whole = words[:-1] & words[1:] & free
    runs = np.convolve(free, np.ones(size, dtype=np.int64))[size - 1 : len(row)]  # free tokens from each place on
    starts = np.flatnonzero(runs == size)
    chosen = _spread(starts[whole[starts + size // 2]], rng, count=count, size=size)
    return chosen if len(chosen) == count else _filled_up(chosen, starts, rng, count=count, size=size)


def _filled_up(chosen: list[int], starts: np.ndarray, rng: np.random.Generator, *, count: int, size: int) -> list[int]:
    """The n-grams chosen and, in random order, others that do not overlap with them, up to `count` where there are."""
    free = np.ones(starts.max(initial=0) + 2 * size, dtype=bool)  # whether one may begin at a place, `size` to its left
    found: list[int] = []
    for start in (*chosen, *rng.permutation(starts).tolist()):
        if len(found) < count and free[start + size]:
            found.append(start)
            free[start + 1 : start + 2 * size] = False
    return sorted(found)


def _spread(starts: np.ndarray, rng: np.random.Generator, *, count: int, size: int) -> list[int]:
    """The possible starts are dealt out, in order, to `count` groups, and one of each group is drawn."""
    chosen: list[int] = []
    for group in np.array_split(starts, count) if count else []:
        possible = group[group >= chosen[-1] + size] if chosen else group
        if len(possible):
            chosen.append(int(possible[rng.integers(len(possible))]))
    return chosen


def others(tokens: np.ndarray, rng: np.random.Generator, vocabulary: Vocabulary) -> np.ndarray:
    """For each token another one of text, all others equally likely."""
    last = len(vocabulary.ordinary) - 1
    drawn = vocabulary.ordinary[rng.integers(last, size=len(tokens))]
    return np.where(drawn == tokens, vocabulary.ordinary[last], drawn)
