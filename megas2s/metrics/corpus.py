"""BLEU and chrF by sacreBLEU, between 0 and 100, with the signature that goes with every figure that is published.

The statistics of segments are sacreBLEU's own, those that its significance tests resample. They are no public part of
it, so `tests/metrics/test_corpus.py` holds their sums to its `corpus_score`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from megas2s.metrics.measure import Measure, Texts

TOKENIZERS = ("13a", "intl", "zh", "char", "none")  # sacreBLEU's others need a download or another package


def bleu(texts: Texts, *, tokenizer: str = "13a") -> Measure:
    """BLEU; that of a corpus without any run of four words is 0, that of a segment alone stops at its longest runs."""
    from sacrebleu.metrics.bleu import BLEU

    whole = BLEU(tokenize=tokenizer, force=True)
    return _measure(whole, BLEU(tokenize=tokenizer, effective_order=True), texts)


def chrf(texts: Texts, *, words: int = 0) -> Measure:
    """chrF (Popović 2015) of up to six characters; chrF++ with runs of up to two words beside them."""
    from sacrebleu.metrics.chrf import CHRF

    metric = CHRF(word_order=words)
    return _measure(metric, metric, texts)


def _measure(whole: Any, single: Any, texts: Texts) -> Measure:
    statistics = np.asarray(whole._extract_corpus_statistics(list(texts.answers), [list(texts.references)]), np.int64)
    segments = np.asarray([_score(single)(row) for row in statistics])
    signature = str(whole.get_signature().format())
    return Measure(statistics.astype(np.float64), _score(whole), segments, signature, top=100.0)


def _score(metric: Any) -> Callable[[np.ndarray], float]:
    return lambda sums: float(metric._compute_score_from_stats([int(value) for value in sums]).score)
