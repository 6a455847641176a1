"""How well a text was corrected: measures that look at what was to be corrected, too.

    source     He go to school .
    answer     He goes to the school .      edits: go -> goes, "" -> the
    reference  He goes to school .          edits: go -> goes          1 right, 1 too many, none missing

GLEU is that of Napoles et al. 2015 as revised in arXiv:1605.02592: BLEU's n-grams that answer and reference share, less
those that the answer shares with the source alone. (Another measure of that name, Wu et al. 2016, is of translation and
knows no source.) ERRANT (Bryant et al. 2017) finds edits, and its F0.5 is that of the spans corrected. Both take texts
in words parted by spaces, as sets of corrections are published.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from megas2s.errors import BadConfig
from megas2s.metrics.measure import Measure, Texts

ORDER = 4
BETA = 0.5
MODEL = "en_core_web_sm"

Edit = tuple[int, int, str]  # from and to which word of the source, and what stands there instead


def gleu(texts: Texts) -> Measure:
    """GLEU of one reference; of a segment alone, counts of 0 are 1, as in its authors' script."""
    assert texts.sources is not None, "`measured` refuses texts without sources"
    rows = [
        gleu_counts(answer.split(), reference.split(), source.split())
        for answer, reference, source in zip(texts.answers, texts.references, texts.sources, strict=True)
    ]
    statistics = np.asarray(rows, np.float64)
    segments = np.asarray([_gleu(np.maximum(row, 1)) for row in statistics])
    return Measure(statistics, _gleu, segments, "gleu|nrefs:1|order:4|tok:spaces|case:mixed")


def gleu_counts(answer: Sequence[str], reference: Sequence[str], source: Sequence[str]) -> list[int]:
    """Lengths of answer and reference; then by order what counts as right, and how many n-grams the answer has."""
    row = [len(answer), len(reference)]
    for size in range(1, ORDER + 1):
        ours, theirs, before = (_grams(text, size) for text in (answer, reference, source))
        only_before = Counter({gram: count for gram, count in before.items() if gram not in theirs})
        right = (ours & theirs).total() - (ours & only_before).total()
        row += [max(0, right), max(0, len(answer) + 1 - size)]
    return row


def errant(texts: Texts) -> Measure:
    """F0.5 of the corrected spans; 1 where nothing was to be corrected and nothing was."""
    assert texts.sources is not None, "`measured` refuses texts without sources"
    annotator, version = _annotator()
    rows = []
    for answer, reference, source in zip(texts.answers, texts.references, texts.sources, strict=True):
        parsed = annotator.parse(source)
        done, wanted = (edits(annotator, parsed, text) for text in (answer, reference))
        rows.append([len(done & wanted), len(done - wanted), len(wanted - done)])
    statistics = np.asarray(rows, np.float64)
    segments = np.asarray([f_half(row) for row in statistics])
    return Measure(statistics, f_half, segments, f"errant|f:0.5|spans|tok:spaces|{MODEL}|version:{version}")


def edits(annotator: Any, source: Any, text: str) -> set[Edit]:
    """What makes `text` of a parsed source; an edit that changes nothing is none."""
    found = annotator.merge(annotator.align(source, annotator.parse(text)))
    return {(edit.o_start, edit.o_end, edit.c_str) for edit in found if edit.o_str != edit.c_str}


def f_half(counts: np.ndarray) -> float:
    """F0.5 of edits that are right, too many and missing, (3,)."""
    share, found = precision(counts), recall(counts)
    if not share + found:
        return 0.0
    return (1 + BETA**2) * share * found / (BETA**2 * share + found)


def precision(counts: np.ndarray) -> float:
    """The share of an answer's edits that are right; 1 where none is too many."""
    right, extra, _ = counts
    return float(right / (right + extra)) if extra else 1.0


def recall(counts: np.ndarray) -> float:
    """The share of edits that were to be made and are; 1 where none is missing."""
    right, _, missing = counts
    return float(right / (right + missing)) if missing else 1.0


def _annotator() -> tuple[Any, str]:
    try:
        import errant as library
    except ImportError:
        raise BadConfig("errant is not installed, which finds the edits: pip install 'megas2s[correction]'") from None
    try:
        return library.load("en"), library.__version__
    except OSError:  # as spaCy says that it has no such model
        raise BadConfig(
            f"errant reads English with spaCy's model {MODEL}, which is not here: python -m spacy download {MODEL}"
        ) from None


def _grams(text: Sequence[str], size: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(text[start : start + size]) for start in range(len(text) + 1 - size))


def _gleu(sums: np.ndarray) -> float:
    if not sums.all():
        return 0.0
    of_answer, of_reference = sums[:2]
    precision = np.log(sums[2::2] / sums[3::2]).mean()
    return math.exp(min(0.0, 1 - of_reference / of_answer) + float(precision))
