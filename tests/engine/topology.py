"""Canonical state in and out of engines: load a checkpoint, save it again, train on, save, load and save once more.

    python topology.py FROM INTO fp32 local           deepspeed --num_gpus 2 topology.py FROM INTO fp32 zero1,pipe2 ...

For each layout INTO/LAYOUT has `same`, which is FROM again, `trained`, `again`, which is `trained` through a new
engine, and the losses of the steps between in `losses.json`. Where FROM does not exist it is trained first.
"""

import gc
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from program import CONFIG, batches, held, setup, spec_of, starting_weights

from megas2s import dist, files
from megas2s.engine import join, make_engine, pipe_stages
from megas2s.train import checkpoint
from megas2s.train.state import TrainState

STEPS, LR = 4, 1e-3
FROZEN = ("encoder.layers.0.*",)


class Run:
    """One layout in one precision."""

    def __init__(self, layout: str, precision: str) -> None:
        self.spec = spec_of(layout)
        self.precision = precision

    def engine(self, folder: Path | None):
        """An engine where `folder` left one, or at the beginning."""
        if folder is None:
            return make_engine(self.spec, setup(self.spec, self.precision, FROZEN, held(starting_weights())))
        saved = checkpoint.read(folder)
        engine = make_engine(self.spec, setup(self.spec, self.precision, FROZEN, saved.weights.tensor))
        engine.load_moments(saved.optimizer.tensor, saved.counters)
        return engine

    def train(self, engine, first: int) -> list[float]:
        losses = []
        for step in range(first, first + STEPS):
            sums = dist.sum_over_ranks(engine.train_step(batches(step), step=step, lr=LR).sums)[0].sum(0)
            losses.append(float(sums[0] / sums[1]))
        return losses


def save(engine, folder: Path, step: int) -> None:
    """Publish a checkpoint under the name of `folder`, whatever the step."""
    checkpoint.save(folder, engine, TrainState(step=step), CONFIG, {}, binding={})


def through(run: Run, start: Path, into: Path) -> None:
    engine = run.engine(start)
    save(engine, into / "same" / "checkpoints" / "step", STEPS)
    losses = run.train(engine, STEPS)
    save(engine, into / "trained" / "checkpoints" / "step", 2 * STEPS)
    engine.close()
    engine = run.engine(into / "trained" / "checkpoints" / "step")
    save(engine, into / "again" / "checkpoints" / "step", 2 * STEPS)
    engine.close()
    gc.collect()
    if dist.is_main():
        files.write_json(into / "losses.json", losses)


def main(arguments: Sequence[str]) -> None:
    start, into, precision, layouts = arguments
    torch.set_num_threads(1)
    if not Path(start).exists():
        run = Run("local", precision)
        engine = run.engine(None)
        run.train(engine, 0)
        save(engine, Path(start), STEPS)
        engine.close()
    for layout in layouts.split(","):
        run = Run(layout, precision)
        if pipe_stages(run.spec) > 1:
            join()
        if dist.active():
            dist.lay_out(pipe_stages(run.spec))
        through(run, Path(start), Path(into) / Path(layout).stem)


if __name__ == "__main__":
    main([word for word in sys.argv[1:] if not word.startswith("--local_rank")])
