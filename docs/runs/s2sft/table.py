"""What the page compares, as three tables: python table.py, from the folder of the runs.

The three methods from a pretrained encoder and from random weights; what being pretrained is worth; and headlines in
languages that were in training, and in those that were not.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tables import Values, score, table

METHODS, STARTS = ("causal", "masked", "pseudo_masked"), ("pretrained", "random")
ARMS = [f"{method}_{start}" for start in STARTS for method in METHODS]
BEST = "pseudo_masked_pretrained"  # by the paper
RUNS = "runs/s2sft/{task}_{{arm}}_{{seed}}"


def columns_of(task: str, language: str = "all") -> dict[str, Values]:
    """ROUGE-L and chrF on a test set."""
    where = task if language == "all" else f"{task} {language}"
    names = {"ROUGE-L": "rougeL", "chrF": "chrf"}
    return {f"{where} {said}": score(RUNS.format(task=task), "test", language, key) for said, key in names.items()}


def main() -> None:
    """All three."""
    columns: dict[str, Values] = {}
    for task in ("qg", "headline", "translate"):
        columns |= columns_of(task)
    table(columns, ARMS, places=2)
    print()
    table(columns, [arm for arm in ARMS if arm != BEST], against=BEST, places=2)
    print()
    for task in ("headline", "zero_shot"):
        spoken: dict[str, Values] = {}
        for language in ("en", "fr", "sw"):
            spoken |= columns_of(task, language)
        table(spoken, [BEST], places=2)


main()
