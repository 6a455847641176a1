"""How often a corpus uses each token: what a model must beat before it has learnt anything beyond frequencies."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from megas2s.data.corpus import Corpus, Split
from megas2s.data.mixture import WHOLE, Sampling
from megas2s.data.shards import Shard

CHUNK = 1 << 24  # tokens counted at a time: np.bincount makes an int64 copy of what it counts


def unigrams(corpus: Corpus, split: Split, vocab_size: int) -> dict[str, np.ndarray]:
    """By language, how often each id occurs in the documents of a split: int64 (vocab_size,).

    The ids that end documents are left out: no objective predicts them from frequency.
    """
    counts: dict[str, np.ndarray] = {}
    for entry in corpus.shards(split):
        own = counts.setdefault(entry.language, np.zeros(vocab_size, dtype=np.int64))
        tokens = Shard.open(entry).tokens
        for start in range(0, len(tokens), CHUNK):
            own += np.bincount(tokens[start : start + CHUNK], minlength=vocab_size)
    for own in counts.values():
        own[corpus.separator] = 0
    return dict(sorted(counts.items()))


def shares(corpus: Corpus, sampling: Sampling) -> dict[str, float]:
    """How much of training each language is, by `sampling`; they sum to 1."""
    units: dict[tuple[str, str], int] = {}
    for entry in corpus.shards("train"):
        unit = (entry.language, entry.source)
        units[unit] = units.get(unit, 0) + entry.tokens
    found: dict[str, float] = {}
    for (language, _), share in zip(units, sampling.shares(units), strict=True):
        found[language] = found.get(language, 0.0) + share / WHOLE
    return found


def entropy(weights: np.ndarray) -> float:
    """Entropy in nats of a distribution, given as non-negative weights (V,): -sum p ln p."""
    probabilities = weights[weights > 0] / weights.sum()
    return float(-(probabilities * np.log(probabilities)).sum())


def mixed(counts: Mapping[str, np.ndarray], share: Mapping[str, float]) -> np.ndarray:
    """The distribution of tokens when each language is read by its share: float64 (V,), summing to 1."""
    whole: np.ndarray = sum(share[language] * own / own.sum() for language, own in counts.items())
    return whole
