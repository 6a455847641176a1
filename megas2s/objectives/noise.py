"""Noise with exact counts: how many tokens, which spans, and what a row looks like without them. NumPy only.

    tokens                thank you for inviting me to your party     R = 8, n = 3 noised in K = 2 spans
    spans                           ---------------      -----
    without_spans         thank you me to party                       R - n
    spans_as_masks        thank you <mask> me to <mask> party         R - n + K

Span lengths are Multinomial(n; 1/K ... 1/K): K Poisson lengths given their sum, zeros included. Places are uniform
over all ways to put K spans, in order and not overlapping, among the R - n tokens that stay; two may touch. The
lengths of the rows are therefore known before anything is drawn.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from megas2s.tokenizer.vocab import Vocabulary


class Spans(NamedTuple):
    """K spans in order: where they start in the window, their lengths, and their slots among the tokens that stay."""

    starts: np.ndarray  # (K,)
    lengths: np.ndarray  # (K,), zeros allowed
    slots: np.ndarray  # (K,) ascending places in a row of R - n + K entries, one per token that stays and per span


def span_counts(tokens: int, density: float, mean_length: float) -> tuple[int, int]:
    """(n, K): how many of `tokens` are noised, in how many spans."""
    noised = round(density * tokens)
    return noised, max(1, round(noised / mean_length)) if noised else 0


def draw_spans(rng: np.random.Generator, tokens: int, noised: int, spans: int) -> Spans:
    """Lengths and places of `spans` spans that cover `noised` of `tokens` tokens."""
    lengths = np.bincount((rng.random(noised) * spans).astype(np.int64), minlength=spans)  # each token joins a span
    slots = rng.random(tokens - noised + spans).argpartition(spans - 1)[:spans]
    slots.sort()
    starts = slots - np.arange(spans)
    starts[1:] += lengths[:-1].cumsum()
    return Spans(starts, lengths, slots)


def draw_spans_of_tokens(
    rng: np.random.Generator, tokens: np.ndarray, vocabulary: Vocabulary, density: float, mean_length: float
) -> Spans | None:
    """`draw_spans` for round(density * R) of R tokens; None where that is none."""
    noised, spans = span_counts(len(tokens), density, mean_length)
    return draw_spans(rng, len(tokens), noised, spans) if noised else None


def draw_word_spans(
    rng: np.random.Generator, tokens: np.ndarray, vocabulary: Vocabulary, density: float, mean_length: float
) -> Spans | None:
    """`draw_spans` of words, density and lengths counted in words; a special token is a word of its own."""
    first = word_places(tokens, vocabulary)
    noised, count = span_counts(len(first), density, mean_length)
    if not noised:
        return None
    words = draw_spans(rng, len(first), noised, count)
    borders = np.append(first, len(tokens))
    starts, ends = borders[words.starts], borders[words.starts + words.lengths]
    lengths = ends - starts
    return Spans(starts, lengths, starts - lengths.cumsum() + lengths + np.arange(count))


def word_places(tokens: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """Where words begin in a window, its first token and special tokens included; (words,) ascending."""
    special = special_table(vocabulary)[tokens]
    starts = vocabulary.word_starts[tokens] | special
    starts[1:] |= special[:-1]
    starts[0] = True
    return np.flatnonzero(starts)


def without_spans(tokens: np.ndarray, spans: Spans) -> np.ndarray:
    """The tokens that stay."""
    ends = spans.lengths.cumsum()
    gone = (spans.starts - ends + spans.lengths).repeat(spans.lengths) + np.arange(ends[-1])
    stays = np.ones(len(tokens), dtype=bool)
    stays[gone] = False
    return tokens[stays]


def spans_as_masks(tokens: np.ndarray, spans: Spans, mask: int) -> np.ndarray:
    """The tokens that stay, with one `mask` where each span was, also where its length is 0."""
    kept = without_spans(tokens, spans)
    is_token = np.ones(len(kept) + len(spans.slots), dtype=bool)
    is_token[spans.slots] = False
    row = np.full(len(is_token), mask, dtype=kept.dtype)
    row[is_token] = kept
    return row


def permute_sentences(tokens: np.ndarray, rng: np.random.Generator, vocabulary: Vocabulary) -> np.ndarray:
    """The sentences of each document in random order; documents stay in place, their separator at their end.

    A sentence ends after a piece that closes one (`Vocabulary.sentence_ends`) or before a separator.
    """
    is_doc = tokens == vocabulary.separator
    ends = vocabulary.sentence_ends[tokens] | is_doc
    starts = np.concatenate(([True], ends[:-1] | is_doc[1:]))
    sentence = np.cumsum(starts) - 1  # of each token
    keys = rng.random(int(sentence[-1]) + 1)
    keys[sentence[is_doc]] = 2.0  # after every sentence of its document
    document = np.concatenate(([0], np.cumsum(is_doc)[:-1]))
    return tokens[np.lexsort((np.arange(len(tokens)), keys[sentence], document))]


def framed(tokens: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """A row, int64: what opens rows where the tokenizer has such a token, `tokens`, and the end."""
    first = vocabulary.ends - 1
    row = np.empty(len(tokens) + vocabulary.ends, dtype=np.int64)
    if vocabulary.begin is not None:
        row[0] = vocabulary.begin
    row[first:-1] = tokens
    row[-1] = vocabulary.eos
    return row


def teacher_forced(labels: np.ndarray, start: int) -> np.ndarray:
    """What the decoder reads while it predicts `labels`: the same, one later, after `start`."""
    row = np.empty_like(labels)
    row[0] = start
    row[1:] = labels[:-1]
    return row


@functools.lru_cache(maxsize=8)
def special_table(vocabulary: Vocabulary) -> np.ndarray:
    """bool (size,): the ids that stand for no text."""
    v = vocabulary
    ids = [v.pad, v.eos, v.unk, v.bos, v.begin, v.mask, v.doc, v.clm, *v.languages.values(), *v.sentinels]
    table = np.zeros(v.size, dtype=bool)
    table[[token for token in ids if token is not None]] = True
    return table
