"""What the page compares, as three tables: python table.py HELDOUT, from the folder of the runs.

HELDOUT is what `heldout.py` printed: for each arm and seed a folder of weights and its loss, parted by a tab. The first
table has means and deviations over seeds; the second those of the difference from plain denoising with the same seed;
the third what the encoder has learned, as the runs themselves have logged it.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

START = "runs/spine/seq2seq_from_scratch/seq2seq/weights"  # continued by all arms, and an arm of its own
ARMS, SEEDS = ("start", "plain", "denoise", "contrast", "both"), (17, 18, 19)
SCORES = [  # task, test set, score
    ("cola", "all", "matthews"),
    ("sts", "all", "pearson"),
    ("sts", "all", "spearman"),
    ("translate", "all", "chrf"),
    *(("pos", language, "accuracy") for language in ("en", "de", "es", "fr", "hi", "ja")),
]

LEARNED = {  # of the last held-out report; "" where an arm has no such part
    "L_de": "loss/denoise",
    "accuracy": "measure/denoise_accuracy",
    **{f"F1 {kind}": f"measure/denoise_f1_{kind}" for kind in ("original", "shuffled", "replaced")},
    "contrast": "loss/contrast",
    "nearest is its own": "measure/contrast_accuracy",
}

Values = Callable[[str], Sequence[float]]  # an arm's, seed by seed


def cell(values: Sequence[float], *, sign: str = "") -> str:
    """Mean and deviation of a sample; a lone value is one that has no seed."""
    if not values:
        return ""
    if len(set(values)) == 1:
        return f"{values[0]:{sign}.3f}"
    return f"{statistics.mean(values):{sign}.3f} ± {statistics.stdev(values):.3f}"


def score(task: str, test: str, name: str) -> Values:
    """A score on a test set."""

    def of(arm: str) -> list[float]:
        paths = [Path(f"runs/e2s2_tasks/{task}_{arm}_{seed}/results.json") for seed in SEEDS]
        return [json.loads(path.read_text())["test"][test][name] for path in paths]

    return of


def losses(path: str) -> Values:
    """The held-out loss under plain denoising."""
    found = dict(line.split("\t") for line in Path(path).read_text().splitlines())

    def of(arm: str) -> list[float]:
        folders = [START if arm == "start" else f"runs/e2s2/{arm}_{seed}/continued/weights" for seed in SEEDS]
        return [float(found[folder]) for folder in folders]

    return of


def learned(name: str) -> Values:
    """What a run says of its held-out rows at its end."""

    def of(arm: str) -> list[float]:
        texts = [Path(f"runs/e2s2/{arm}_{seed}/metrics.jsonl").read_text().splitlines() for seed in SEEDS]
        ends = [[line for line in map(json.loads, text) if line["kind"] == "heldout"][-1] for text in texts]
        return [end[name] for end in ends if name in end]

    return of


def table(columns: dict[str, Values], arms: Sequence[str], *, against: str | None = None) -> None:
    """One row an arm."""
    print("| | " + " | ".join(columns) + " |")
    print("|---|" + "---:|" * len(columns))
    for arm in arms:
        cells = []
        for values in columns.values():
            own = values(arm)
            if against is not None:
                own = [value - other for value, other in zip(own, values(against), strict=True)]
            cells.append(cell(own, sign="+" if against is not None else ""))
        print(f"| {arm} | " + " | ".join(cells) + " |")


def main() -> None:
    """All three."""
    columns = {"held-out loss": losses(sys.argv[1])}
    for task, test, name in SCORES:
        columns[f"{task} {test}" if task == "pos" else f"{task} {name}"] = score(task, test, name)
    table(columns, ARMS)
    print()
    table(columns, [arm for arm in ARMS if arm != "plain"], against="plain")
    print()
    table({column: learned(name) for column, name in LEARNED.items()}, ["denoise", "contrast", "both"])


main()
