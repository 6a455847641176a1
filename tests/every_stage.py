"""Train every stage of a recipe in one process per rank: deepspeed --num_gpus 2 every_stage.py RECIPE

`launch/pretrain.py` begins each stage in a process made new, which costs seconds; models of tests leave little behind.
"""

import sys

import torch

from megas2s.pretrain import pretrain
from megas2s.recipe import load_recipe


def main() -> None:
    path, *_ = (word for word in sys.argv[1:] if not word.startswith("--local_rank"))
    torch.set_num_threads(1)
    recipe = load_recipe(path)
    while pretrain(recipe):
        pass


if __name__ == "__main__":
    main()
