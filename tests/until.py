"""Train a recipe until it has published the checkpoint of a step, then leave.

    deepspeed --num_gpus 2 until.py RECIPE STEP

So a test has a run that was stopped at a known step, whatever trains it.
"""

import sys

import torch

from megas2s import dist
from megas2s.engine import leave
from megas2s.pretrain import pretrain
from megas2s.recipe import load_recipe
from megas2s.train import loop


class Reached(Exception):
    """The step is there."""


def main() -> None:
    path, stop = (word for word in sys.argv[1:] if not word.startswith("--local_rank"))
    torch.set_num_threads(1)
    save = loop.save

    def save_and_stop(run, state, **more) -> None:
        save(run, state, **more)
        if state.step == int(stop):
            raise Reached

    loop.save = save_and_stop
    try:
        pretrain(load_recipe(path))
    except Reached:
        if dist.active():
            leave()


if __name__ == "__main__":
    main()
