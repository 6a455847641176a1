"""What `test_sums.py` runs: one bf16 step of 16 micro-batches under each engine that is named.

The first micro-batch's gradient is 1, the others' are 2^-9 each: in bf16 they vanish beside it one by one.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

from megas2s import cli, files
from megas2s.engine import Local, Zero, leave, make_engine
from megas2s.engine.base import Setup
from megas2s.engine.optim import AdamW
from megas2s.objectives.base import Part, Plain

MICRO_BATCHES = 16


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(4, 4, bias=False)

    def forward(self, batch):
        return self.line(batch["x"].to(self.line.weight.dtype))


class Sum(Plain):
    """A loss whose gradient is the input."""

    def counts(self, batch):
        return {"sum": torch.ones(1)}

    def loss(self, output, batch, step=None):
        return {"sum": Part(output.sum(), 1.0, output.detach().float().sum(1))}


def summed(spec: Local | Zero) -> dict[str, float]:
    setup = Setup(
        build=Line,
        initial=lambda name, rows=slice(None): torch.eye(4)[rows],
        losses=Sum(),
        optimizer=AdamW(grad_clip=0.0),
        precision="bf16",
        micro_batch=1,
        micro_batches=MICRO_BATCHES,
        languages=1,
        dropout_seed=lambda step, index, rank: 0,
    )
    engine = make_engine(spec, setup)
    language = torch.zeros(1, dtype=torch.int64)
    sizes = [1.0, *[2.0**-9] * (MICRO_BATCHES - 1)]
    batches = [{"x": torch.full((1, 4), size), "language": language} for size in sizes]
    engine.train_step(batches, step=0, lr=0.0)
    # Adam's first moment is (1 - beta1) times the gradient, which is the mean over the micro-batches.
    (moment,) = [value for name, value in engine.moments() if name.startswith("exp_avg.")]
    found = {"gradient": float(moment[0, 0]) / 0.1 * MICRO_BATCHES, "trainable": engine.trainable()}
    engine.close()
    return found


def main() -> None:
    out, *engines = sys.argv[1:]
    torch.set_num_threads(1)
    specs = {Path(engine).stem: Local() if engine == "local" else Zero(config=engine) for engine in engines}
    files.write_json(Path(out), {name: summed(spec) for name, spec in specs.items()})
    leave()


cli.run(main)
