"""The reconstruction loss of several models on one held-out set under one noise: python heldout.py RECIPE WEIGHTS...

RECIPE is one of plain denoising, whose objective and corpus are used for all, whatever the models were trained on.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from megas2s.data.heldout import heldout_batches, heldout_rows
from megas2s.data.windows import units
from megas2s.engine.base import to_device
from megas2s.models.loading import filled
from megas2s.models.weights import open_weights
from megas2s.prepare import open_corpus, prepare
from megas2s.recipe import load_recipe
from megas2s.train.assemble import Corruption


@torch.no_grad()
def main() -> None:
    """One line for each folder of weights."""
    path, *folders = sys.argv[1:]
    recipe = load_recipe(path)
    corpus, tokenizer = open_corpus(recipe)
    stage = recipe.stages[0]
    prepared = prepare(recipe, stage, corpus, tokenizer.vocabulary, world_size=1)
    rows = heldout_rows(
        units(corpus.shards("heldout"), prepared.data.window),
        Corruption(stage.objective, prepared.data.shape),
        languages=corpus.languages,
        rows_per_language=recipe.log.heldout_rows,
        seed=recipe.seed,
    )
    batches = heldout_batches(rows, prepared.data.loader_columns, micro_batch=prepared.micro_batch)
    for folder in folders:
        reader = open_weights(Path(folder))
        model = filled(reader.config.without_heads(), reader.tensor)
        total = count = 0.0
        for batch in (to_device(batch, torch.device("cpu")) for batch in batches):
            (part,) = stage.objective.loss(model(batch), batch).values()
            total += float(part.total)
            count += float(sum(counted.sum() for counted in stage.objective.counts(batch).values()))
        print(f"{folder}\t{total / count:.4f}")


main()
