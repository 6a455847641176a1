"""One token after another: the likeliest, or one drawn by its probability.

    written = greedy(model, batch, rules)
    written = sample(model, batch, rules, Sampling(temperature=0.7, top_p=0.9), seed=7, numbers=[0, 1])

What a row draws depends on the seed, its number and the place alone, so it is the same in a batch and by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from megas2s import dist
from megas2s.decoding.rules import Rules, best_next
from megas2s.models.output import Writer
from megas2s.objectives.base import Batch
from megas2s.rng import generator

GoesOn = Callable[[Tensor], bool]


class Written(NamedTuple):
    """What was written for each source, n best or drawn rows side by side."""

    ids: Tensor  # (B, n, length), `pad` after each row's end
    scores: Tensor  # (B, n) log-probabilities, of a beam search with its penalty for length


def here(going: Tensor) -> bool:
    """Whether any row goes on."""
    return bool(going.any())


def everywhere(going: Tensor) -> bool:
    """Whether any row of any rank goes on; collective.

    Under ZeRO-3 a rank that stopped would leave the others waiting for its share of the weights.
    """
    return bool(dist.sum_over_ranks(going.sum()))


@torch.no_grad()
def greedy(model: Writer, batch: Batch, rules: Rules, *, goes_on: GoesOn = here) -> Written:
    """At each place the likeliest token, until a row ends or there is no room left."""

    def likeliest(logits: Tensor, written: Tensor) -> tuple[Tensor, Tensor]:
        scores, ids = best_next(logits, written, rules, 1, 1)
        return scores[:, 0], ids[:, 0]

    return _written(model, batch, rules, likeliest, copies=1, goes_on=goes_on)


class Sampling(NamedTuple):
    """How tokens are drawn."""

    temperature: float = 1.0  # scores are divided by it
    top_k: int = 0  # only so many of the likeliest; 0: all
    top_p: float = 1.0  # only the likeliest that together have this much (Holtzman et al. 2020)
    copies: int = 1  # rows for each source


@torch.no_grad()
def sample(
    model: Writer,
    batch: Batch,
    rules: Rules,
    sampling: Sampling,
    *,
    seed: int,
    numbers: Sequence[int],
    goes_on: GoesOn = here,
) -> Written:
    """At each place a token drawn by its probability; `numbers` say which source of a file each row of a batch is."""
    draws = [
        generator(seed, "sample", number, copy).random(rules.length, dtype="float32")
        for number in numbers
        for copy in range(sampling.copies)
    ]
    chances = torch.stack([torch.from_numpy(row) for row in draws])

    def drawn(logits: Tensor, written: Tensor) -> tuple[Tensor, Tensor]:
        scores = logits.float()
        whole = scores.logsumexp(dim=-1)
        rules.forbid(scores, written)
        place = written.shape[1]
        ids = draw(scores, sampling, chances[:, place].to(scores.device))
        found = scores.gather(1, ids[:, None])[:, 0] - whole
        must = rules.forced(place, sampling.copies)
        if must is not None:
            must = must.to(ids.device).expand(len(ids))
            ids, found = torch.where(must >= 0, must, ids), torch.where(must >= 0, 0.0, found)
        return found, ids

    return _written(model, batch, rules, drawn, copies=sampling.copies, goes_on=goes_on)


def draw(scores: Tensor, sampling: Sampling, chances: Tensor) -> Tensor:
    """A token of each row by `scores` (R, V), at the place that `chances` (R,) in [0, 1) point to: (R,)."""
    ordered, ids = (scores / sampling.temperature).sort(dim=-1, descending=True, stable=True)
    if sampling.top_k:
        ordered[:, sampling.top_k :] = -math.inf
    shares = ordered.softmax(dim=-1, dtype=torch.float64)
    reached = shares.cumsum(dim=-1)
    shares = shares.masked_fill(reached - shares >= sampling.top_p, 0.0)  # the one that reaches it is the last
    reached = shares.cumsum(dim=-1)
    wanted = chances.double()[:, None] * reached[:, -1:]
    chosen = (reached <= wanted).sum(dim=-1, keepdim=True).clamp(max=scores.shape[1] - 1)
    return ids.gather(1, chosen)[:, 0]


def _written(
    model: Writer,
    batch: Batch,
    rules: Rules,
    choose: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    *,
    copies: int,
    goes_on: GoesOn,
) -> Written:
    steps = model.begin(batch, length=rules.length, copies=copies, mask=rules.mask)
    rows, device = len(batch["input_ids"]) * copies, batch["input_ids"].device
    written = torch.full((rows, rules.length), rules.pad, device=device)
    scores = torch.zeros(rows, device=device)
    going = torch.ones(rows, dtype=torch.bool, device=device)
    ids = torch.full((rows, 1), rules.start, device=device)
    for place in range(rules.length):
        found, best = choose(model.logits(steps.step(ids)[:, 0]), written[:, :place])
        written[:, place] = torch.where(going, best, rules.pad)
        scores += torch.where(going, found, 0.0)
        going = going & (best != rules.eos)
        ids = written[:, place : place + 1]
        if not goes_on(going):
            break
    return Written(written.view(-1, copies, rules.length), scores.view(-1, copies))
