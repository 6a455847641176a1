"""What the page compares, as three tables: python table.py HELDOUT, from the folder of the runs.

HELDOUT is what `heldout.py` printed: for each arm and seed a folder of weights and its loss, parted by a tab. The first
table has means and deviations over seeds; the second those of the difference from plain denoising with the same seed;
the third what the encoder has learned, as the runs themselves have logged it.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tables import SEEDS, Values, reports, score, table

START = "runs/spine/seq2seq_from_scratch/seq2seq/weights"  # continued by all arms, and an arm of its own
ARMS = ("start", "plain", "denoise", "contrast", "both")
TASKS = "runs/e2s2_tasks/{task}_{{arm}}_{{seed}}"
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
        ends = [reports(Path(f"runs/e2s2/{arm}_{seed}"), "continued", "heldout")[-1] for seed in SEEDS]
        return [end[name] for end in ends if name in end]

    return of


def main() -> None:
    """All three."""
    columns = {"held-out loss": losses(sys.argv[1])}
    for task, test, name in SCORES:
        column = f"{task} {test}" if task == "pos" else f"{task} {name}"
        columns[column] = score(TASKS.format(task=task), "test", test, name)
    table(columns, ARMS)
    print()
    table(columns, [arm for arm in ARMS if arm != "plain"], against="plain")
    print()
    table({column: learned(name) for column, name in LEARNED.items()}, ["denoise", "contrast", "both"])


main()
