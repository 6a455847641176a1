"""One recipe in every engine and layout, and once with the layout changed on the way: losses beside one device's.

python docs/runs/scale/curves.py corpora/sample runs/scale      the corpus of launch/quickstart.sh
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
STEPS = 120
CHANGES = (40, 80)  # steps at which the last run goes on in another layout


def zero(stage: int) -> dict:
    """ZeRO in a recipe."""
    return {"name": "zero", "config": f"ds_configs/zero{stage}.json"}


def pipe(stages: int) -> dict:
    """A pipeline in a recipe."""
    return {"name": "pipe", "stages": stages}


LAYOUTS = {  # ranks and engine
    "ZeRO-0 on 2": (2, zero(0)),
    "ZeRO-1 on 2": (2, zero(1)),
    "ZeRO-2 on 2": (2, zero(2)),
    "ZeRO-3 on 2": (2, zero(3)),
    "ZeRO-3 on 4": (4, zero(3)),
    "pipeline of 2": (2, pipe(2)),
    "pipeline of 3": (3, pipe(3)),
    "pipeline of 4": (4, pipe(4)),
    "2 x 2": (4, pipe(2)),
}
CHANGING = [(2, zero(3)), (2, pipe(2)), (4, zero(1))]


def recipe(corpus: str, run: Path, engine: dict) -> dict:
    """The one recipe, for a run folder and an engine."""
    stage = {
        "name": "seq2seq",
        "objective": {"name": "denoising", "noise": "delete"},
        "decoder": {"tying": "tied"},
        "length": 128,
        "batch_tokens": 4096,
        "micro_batch": 4,
        "steps": STEPS,
        "schedule": {"lr": 3.0e-3, "warmup_steps": 20, "shape": "constant"},
        "optimizer": {"grad_clip": 0.5, "weight_decay": 0.01},
        "precision": "fp32",
        "engine": engine,
    }
    return {
        "run": str(run),
        "seed": 17,
        "corpus": corpus,
        "model": {"preset": "tiny", "dropout": 0.0},
        "workers": 0,
        "log": {"every": 1, "evaluate_every": 0, "heldout_rows": 0, "samples_every": 0, "tensorboard": False},
        "checkpoints": {"every": CHANGES[0], "keep_last": 3},
        "stages": [stage],
    }


def train(corpus: str, run: Path, ranks: int, engine: dict, *, until: int = STEPS) -> list[float]:
    """Losses step by step; `until` ends a run early, as an interruption would."""
    run.parent.mkdir(parents=True, exist_ok=True)
    path = run.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(recipe(corpus, run, engine), sort_keys=False))
    launcher = ["deepspeed", "--num_gpus", str(ranks)] if ranks > 1 else [sys.executable]
    script = ["launch/pretrain.py", str(path)] if until == STEPS else ["tests/until.py", str(path), str(until)]
    done = subprocess.run([*launcher, *script], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    log = run / "metrics.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    found = {line["step"]: line["loss"] for line in lines if line["kind"] == "train"}
    if max(found, default=0) < until:
        raise SystemExit(done.stdout.decode()[-3000:])
    return [found[step] for step in range(1, until + 1)]


def main() -> None:
    """Train, print the differences, plot."""
    corpus, runs = sys.argv[1], Path(sys.argv[2])
    alone = train(corpus, runs / "local", 1, {"name": "local"})
    curves = {
        name: train(corpus, runs / name.replace(" ", "_"), ranks, engine) for name, (ranks, engine) in LAYOUTS.items()
    }
    for (ranks, engine), until in zip(CHANGING, (*CHANGES, STEPS), strict=True):
        curve = train(corpus, runs / "changing", ranks, engine, until=until)
    curves["ZeRO-3 on 2, then a pipeline of 2, then ZeRO-1 on 4"] = curve
    apart = {
        name: [abs(one - other) / one for one, other in zip(alone, curve, strict=True)]
        for name, curve in curves.items()
    }
    for name, differences in apart.items():
        print(f"{name:55}{curves[name][-1]:.6f}  at most {max(differences):.1e} from one device")
    figure, (upper, lower) = plt.subplots(2, 1, figsize=(9, 8), sharex=True, height_ratios=[3, 2])
    steps = range(1, STEPS + 1)
    upper.plot(steps, alone, color="black", linewidth=4, alpha=0.25, label="one device")
    for name, curve in curves.items():
        upper.plot(steps, curve, linewidth=1, label=name)
        lower.semilogy(steps, [max(each, 1e-9) for each in apart[name]], linewidth=1)
    for step in CHANGES:
        lower.axvline(step, color="grey", linestyle=":", linewidth=1)
    upper.set_ylabel("training loss, nats a token")
    upper.legend(fontsize=8)
    lower.set_ylabel("relative difference from one device")
    lower.set_xlabel("step (dotted: where the last run goes on in another layout)")
    figure.tight_layout()
    figure.savefig(HERE / "curves.png", dpi=120)


if __name__ == "__main__":
    main()
