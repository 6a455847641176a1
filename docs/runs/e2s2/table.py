"""Means and deviations over seeds of everything the page compares: python table.py HELDOUT, from the runs' folder.

HELDOUT is what `heldout.py` printed for all arms and seeds: a folder of weights and its loss, parted by a tab.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

ARMS, SEEDS = ("plain", "denoise", "contrast", "both"), (17, 18, 19)
TASKS = {
    "cola": ("classify", ["accuracy", "matthews"]),
    "sts": ("regress", ["pearson", "spearman"]),
    "pos": ("tag", ["accuracy"]),
    "translate": ("seq2seq", ["chrf"]),
}


def cell(values: list[float], digits: int) -> str:
    """Mean and deviation of a sample."""
    if len(values) < 2:
        return f"{values[0]:.{digits}f}" if values else "-"
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def scores(arm: str, task: str, language: str, name: str) -> list[float]:
    """A score on the test set, seed by seed."""
    paths = [Path(f"runs/e2s2_tasks/{task}_{arm}_{seed}/results.json") for seed in SEEDS]
    return [json.loads(path.read_text())["test"][language][name] for path in paths if path.is_file()]


def main() -> None:
    """One row an arm."""
    losses = dict(line.split("\t") for line in Path(sys.argv[1]).read_text().splitlines())
    columns = ["held-out loss", *(f"{task} {name}" for task, (_, names) in TASKS.items() for name in names)]
    languages = ["en", "de", "es", "fr", "hi", "ja"]
    print("| | " + " | ".join([*columns, *(f"pos {language}" for language in languages)]) + " |")
    print("|---|" + "---:|" * (len(columns) + len(languages)))
    for arm in ARMS:
        folders = [f"runs/e2s2/{arm}_{seed}/continued/weights" for seed in SEEDS]
        row = [cell([float(losses[folder]) for folder in folders if folder in losses], 4)]
        for task, (_, names) in TASKS.items():
            row += [cell(scores(arm, task, "all", name), 3) for name in names]
        row += [cell(scores(arm, "pos", language, "accuracy"), 3) for language in languages]
        print(f"| {arm} | " + " | ".join(row) + " |")


main()
