"""Greedy decoding: at each position the most likely token, until a row ends or there is no room left."""

from __future__ import annotations

import torch
from torch import Tensor

from megas2s import dist
from megas2s.models.output import Writer
from megas2s.models.transformer import SOURCE
from megas2s.objectives.base import Batch


@torch.no_grad()
def greedy(model: Writer, batch: Batch, *, start: int, eos: int, pad: int, length: int) -> Tensor:
    """What the model writes for the sources of a batch: (B, length) ids, `pad` after each row's end.

    Collective where there are several ranks: all go on until the last row of the last one has ended, for under ZeRO-3
    a rank that stopped would leave the others waiting for its share of the weights.
    """
    memory = model.encode(**{name: batch[name] for name in SOURCE if name in batch})
    cache = model.cache(memory, batch.get("attention_mask"), length=length)
    ids = torch.full((len(memory), 1), start, device=memory.device)
    written = torch.full((len(memory), length), pad, device=memory.device)
    going = torch.ones(len(memory), dtype=torch.bool, device=memory.device)
    for place in range(length):
        best = model.most_likely(cache.step(ids)[:, 0])
        written[:, place] = torch.where(going, best, pad)
        going = going & (best != eos)
        ids = written[:, place : place + 1]
        if not int(dist.sum_over_ranks(going.sum())):
            break
    return written
