"""How good answers are, by the libraries that others report with: scikit-learn, SciPy, seqeval, sacreBLEU.

Each function takes answers and references of the same length and gives named numbers. Shares and ROUGE are between 0
and 1, correlations between -1 and 1; BLEU and chrF are between 0 and 100, as sacreBLEU has them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from megas2s.metrics.measure import Texts
from megas2s.metrics.texts import STANDARD, measured

Scores = dict[str, float]


def of_classes(answers: Sequence[str], references: Sequence[str]) -> Scores:
    """Accuracy, macro-F1 over the classes that occur, and Matthews' correlation (CoLA's measure)."""
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    return {
        "accuracy": float(accuracy_score(references, answers)),
        "macro_f1": float(f1_score(references, answers, average="macro", zero_division=0.0)),
        "matthews": float(matthews_corrcoef(references, answers)),
    }


def of_numbers(answers: Sequence[float], references: Sequence[float]) -> Scores:
    """Pearson's and Spearman's correlation; 0 where either side is constant, which correlates with nothing."""
    from scipy.stats import pearsonr, spearmanr

    if np.ptp(answers) == 0 or np.ptp(references) == 0:
        return {"pearson": 0.0, "spearman": 0.0}
    pearson, spearman = pearsonr(answers, references), spearmanr(answers, references)
    return {"pearson": float(pearson.statistic), "spearman": float(spearman.statistic)}


def of_tags(answers: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> Scores:
    """Accuracy over tokens, and F1 over spans where the references mark their beginnings (B-PER, I-PER, O)."""
    pairs = [(a, b) for row, truth in zip(answers, references, strict=True) for a, b in zip(row, truth, strict=True)]
    scores = {"accuracy": sum(a == b for a, b in pairs) / max(1, len(pairs))}
    if any(truth.startswith("B-") for _, truth in pairs):
        from seqeval.metrics import f1_score

        scores["span_f1"] = float(f1_score(list(map(list, references)), list(map(list, answers)), zero_division=0))
    return scores


def of_texts(answers: Sequence[str], references: Sequence[str]) -> Scores:
    """ROUGE-1, 2 and L, BLEU and chrF of the corpus, and the share of answers that equal their reference."""
    texts = Texts(answers, references)
    return {name: measured(name, texts).corpus for name in STANDARD}
