"""What the page compares, as four tables: python table.py, from the folder of the runs.

Costs first: of each stage, and of each way to a pair of models, beside the pair trained apart. Then what encoders and
encoder-decoders are worth on the tasks.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tables import SEEDS, Values, reports, score, table

RUNS = Path("runs/recipes")
TASKS = "runs/recipes/tasks/{task}_{{arm}}_{{seed}}"
STAGES = (("two_stage", "mlm"), ("two_stage", "seq2seq_frozen"), ("two_stage", "seq2seq"), ("frozen", "seq2seq"))
STAGES += (("scratch", "seq2seq"), ("scratch", "mlm"))
PAIRS = {  # the stages that both models of a pair cost
    "apart: a + b": (("two_stage", "mlm"), ("scratch", "seq2seq")),
    "extracted: d + b": (("scratch", "seq2seq"), ("scratch", "mlm")),
    "frozen: a + g": (("two_stage", "mlm"), ("frozen", "seq2seq")),
    "two stages: a + h": (("two_stage", "mlm"), ("two_stage", "seq2seq_frozen"), ("two_stage", "seq2seq")),
}
ENCODERS = ("a", "c", "d", "h_encoder")
WRITERS = {"b": ("scratch", "seq2seq"), "g": ("frozen", "seq2seq"), "h": ("two_stage", "seq2seq")}
TAGGED, SORTED = ("en", "de", "es", "fr", "hi", "ja"), ("en", "fr", "sw")


def spent(run: str, stage: str, seed: int) -> float:
    """TFLOP of a stage by the ledger."""
    flop = before = 0.0
    for line in reports(RUNS / f"{run}_{seed}", stage, "train"):
        flop += (line["tokens"] - before) / line["tokens_per_second"] * line["tflops"]
        before = line["tokens"]
    return flop


def cost(stages: Sequence[tuple[str, str]]) -> float:
    """TFLOP of some stages together, means over seeds."""
    return sum(statistics.mean(spent(run, stage, seed) for seed in SEEDS) for run, stage in stages)


def cost_tables() -> None:
    """Of stages, and of pairs."""
    print("| run | stage | TFLOP |\n|---|---|---:|")
    for run, stage in STAGES:
        print(f"| {run} | {stage} | {cost([(run, stage)]):.1f} |")
    apart = cost(PAIRS["apart: a + b"])
    print("\n| pair | TFLOP | saved |\n|---|---:|---:|")
    for name, stages in PAIRS.items():
        print(f"| {name} | {cost(stages):.1f} | {1 - cost(stages) / apart:.1%} |")


def heldout(arm: str) -> list[float]:
    """The held-out loss of denoising at the end of an encoder-decoder's training."""
    run, stage = WRITERS[arm]
    return [reports(RUNS / f"{run}_{seed}", stage, "heldout")[-1]["loss"] for seed in SEEDS]


def main() -> None:
    """All four."""
    cost_tables()
    print()
    columns: dict[str, Values] = {
        f"pos {language}": score(TASKS.format(task="pos"), "test", language, "accuracy") for language in TAGGED
    }
    for language in SORTED:
        columns[f"topic {language}"] = score(TASKS.format(task="topic"), "test", language, "accuracy")
    table(columns, ENCODERS)
    print()
    table(columns, ENCODERS[1:], against="a")
    print()
    translate = TASKS.format(task="translate")
    table({"held-out loss": heldout, "translate chrf": score(translate, "test", "all", "chrf")}, tuple(WRITERS))


main()
