"""What a step of each arm costs beside plain denoising, on a machine that does nothing else: python cost.py [ROUNDS]

The arms take turns, so that whatever slows the machine for a while slows them all. Of a run of 40 steps the first ten,
which warm up, are left out. Prints seconds per step and the ratio to plain: means and deviations over the rounds.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ARMS = ("plain", "denoise", "contrast", "both")
BRIEF = ["stages.continued.steps=40", "log.every=10", "log.evaluate_every=0", "log.tensorboard=false"]
BRIEF += ["checkpoints.every=0", "trial_step=false", "verify_corpus=false"]
HERE = Path(__file__).resolve().parent


def seconds(arm: str, folder: Path) -> float:
    """A step's duration: the median of the reports after the first."""
    command = [sys.executable, "launch/pretrain.py", str(HERE / f"{arm}.yaml"), f"run={folder}", *BRIEF]
    subprocess.run(command, check=True, capture_output=True)
    lines = map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    first, *reports = [line for line in lines if line["kind"] == "train"]
    return first["tokens"] / first["step"] / statistics.median(line["tokens_per_second"] for line in reports)


def main() -> None:
    """One line an arm."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    found: dict[str, list[float]] = {arm: [] for arm in ARMS}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            for arm in ARMS:
                found[arm].append(seconds(arm, Path(folder) / f"{arm}_{number}"))
    for arm in ARMS:
        ratios = [one / plain for one, plain in zip(found[arm], found["plain"], strict=True)]
        times, shares = (f"{statistics.mean(v):.3f} ± {statistics.stdev(v):.3f}" for v in (found[arm], ratios))
        print(f"{arm}\t{times} s\t{shares}")


main()
