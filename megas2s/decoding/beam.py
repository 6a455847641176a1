"""Beam search with two ways to score, each with its own rule for when it ends.

    power   score / length ** penalty           transformers' (5.23): the K best that have ended are kept, and nothing
                                                is looked for that, by a heuristic, cannot get among them
    gnmt    score / ((5 + length) / 6) ** penalty    Wu et al. 2016, equation 14, as s2s-ft has it: every end that was
                                                ever among the K best is a candidate, until all K have ended

Both keep K rows for each source side by side. Scores are sums of log-probabilities, lengths count the end.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from megas2s.decoding.rules import Rules, best_next
from megas2s.decoding.search import GoesOn, Written, here
from megas2s.decoding.traces import Trace, candidates, divisor
from megas2s.models.output import Steps, Writer
from megas2s.objectives.base import Batch

LOST = -1.0e9  # what is no candidate, and still is before minus infinity


class Power(NamedTuple):
    """transformers' scoring."""

    beams: int
    penalty: float = 1.0
    early: bool | Literal["never"] = False  # True: K ends are enough; "never": only what cannot be better ends it
    best: int = 1  # rows that are returned


class Gnmt(NamedTuple):
    """s2s-ft's scoring."""

    beams: int
    penalty: float = 0.0
    best: int = 1


class Beams:
    """K rows for each of B sources, and what the model says of the next token of each."""

    def __init__(self, model: Writer, batch: Batch, rules: Rules, beams: int) -> None:
        source = batch["input_ids"]
        self._model, self._rules = model, rules
        self.sources, self.beams = len(source), beams
        self._steps: Steps = model.begin(batch, length=rules.length, copies=beams, mask=rules.mask)
        self._first = torch.arange(self.sources, device=source.device)[:, None] * beams
        self.tokens = torch.full((self.sources, beams, rules.length), rules.pad, device=source.device)
        self._ids = torch.full((self.sources * beams, 1), rules.start, device=source.device)

    def ask(self, place: int, count: int) -> tuple[Tensor, Tensor]:
        """The `count` best tokens of each row at a place: log-probabilities and ids, (B, K, count) each."""
        logits = self._model.logits(self._steps.step(self._ids)[:, 0])
        written = self.tokens[:, :, :place].flatten(0, 1)
        scores, ids = best_next(logits, written, self._rules, self.beams, count)
        return scores.view(self.sources, self.beams, -1), ids.view(self.sources, self.beams, -1)

    def grow(self, scores: Tensor, place: int, *, each: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """The `count` best rows of each source that are one token longer, from rows with `scores` (B, K).

        Their scores and what each was before (B, count), and their tokens (B, count, length); of each row the `each`
        best tokens are looked at.
        """
        found, ids = self.ask(place, each)
        width = found.shape[-1]
        total, chosen = (found + scores[:, :, None]).flatten(1).topk(min(count, self.beams * width), dim=1)
        parents = chosen // width
        tokens = _take(self.tokens, parents)
        tokens[:, :, place] = ids.flatten(1).gather(1, chosen)
        return total, parents, tokens

    def go_on(self, tokens: Tensor, parents: Tensor, place: int) -> None:
        """With these rows (B, K, length), which were `parents` (B, K) before they had the token of `place`."""
        rows = (self._first + parents).flatten()
        if not torch.equal(rows, torch.arange(len(rows), device=rows.device)):
            self._steps.reorder(rows)
        self.tokens = tokens
        self._ids = tokens[:, :, place].reshape(-1, 1)


@torch.no_grad()
def power(model: Writer, batch: Batch, rules: Rules, how: Power, *, goes_on: GoesOn = here) -> Written:
    """What transformers' `generate` writes with `num_beams`, `length_penalty` and `early_stopping`."""
    beams = Beams(model, batch, rules, how.beams)
    scores = torch.full(beams.tokens.shape[:2], LOST, device=beams.tokens.device)
    scores[:, 0] = 0.0  # all rows of a source are the same before the first token
    ends = _Ends(beams.tokens, how, rules)
    for place in range(rules.length):
        total, parents, tokens = beams.grow(scores, place, each=2 * how.beams, count=2 * how.beams)
        over = (tokens[:, :, place] == rules.eos) | (place + 1 == rules.length)
        ends.add(tokens, total, over, place + 1)
        scores, running = (total + LOST * over).topk(how.beams, dim=1)
        beams.go_on(_take(tokens, running), parents.gather(1, running), place)
        if not goes_on(ends.open_to(scores, place + 1) & ~over.all()):
            break
    return Written(ends.tokens[:, : how.best], ends.scores[:, : how.best])


class _Ends:
    """The K best rows of each source that have ended."""

    def __init__(self, tokens: Tensor, how: Power, rules: Rules) -> None:
        self._how, self._longest = how, rules.length
        self.tokens = tokens.clone()
        self.scores = torch.full(tokens.shape[:2], LOST, device=tokens.device)
        self._done = torch.zeros_like(self.scores, dtype=torch.bool)
        self._improves = torch.ones_like(self._done[:, :1])

    def add(self, tokens: Tensor, total: Tensor, over: Tensor, length: int) -> None:
        """Rows (B, 2 K) of so many tokens that are `over`; only the K best of a step may end."""
        just = over.clone()
        just[:, self._how.beams :] = False
        full = self._done.all(dim=1, keepdim=True) & (self._how.early is True)
        barred = full.float() + (~self._improves).float() + (~just).float()
        scores = torch.cat([self.scores, total / length**self._how.penalty + LOST * barred], dim=1)
        self.scores, kept = scores.topk(self._how.beams, dim=1)
        self.tokens = _take(torch.cat([self.tokens, tokens], dim=1), kept)
        self._done = torch.cat([self._done, just], dim=1).gather(1, kept)

    def open_to(self, running: Tensor, length: int) -> Tensor:
        """Which sources may yet get a better end from rows with scores `running` (B, K): (B,)."""
        longest = self._longest if self._how.early == "never" and self._how.penalty > 0 else length
        possible = running[:, :1] / longest**self._how.penalty
        worst = torch.where(self._done, self.scores.min(dim=1, keepdim=True).values, LOST)
        self._improves = self._improves & (possible > worst).any(dim=1, keepdim=True)
        enough = self._done.all() & (self._how.early is True)
        return self._improves[:, 0] & ~enough


@torch.no_grad()
def gnmt(
    model: Writer, batch: Batch, rules: Rules, how: Gnmt, *, goes_on: GoesOn = here, whole: bool = False
) -> tuple[Written, list[Trace]]:
    """What s2s-ft writes, and how it came to be: a trace for each source.

    It ends once nothing that may still come can be better than what is there; with `whole` only when all rows have
    ended, so that a trace can be scored anew.
    """
    beams = Beams(model, batch, rules, how.beams)
    scores = torch.full(beams.tokens.shape[:2], -math.inf, device=beams.tokens.device)
    scores[:, 0] = 0.0
    frames: list[tuple[Tensor, Tensor, Tensor]] = []
    ended = torch.full((beams.sources, how.best), -math.inf, device=scores.device)  # scores of the best ends
    for place in range(rules.length):
        scores, parents, tokens = beams.grow(scores, place, each=how.beams, count=how.beams)
        frames.append((scores, tokens[:, :, place], parents))
        over = tokens[:, :, place] == rules.eos
        beams.go_on(tokens, parents, place)
        just = torch.where(over, scores / divisor(place + 1, how.penalty), -math.inf)
        ended = torch.cat([ended, just], dim=1).topk(how.best, dim=1).values
        scores = scores.masked_fill(over, -math.inf)  # what has ended has no children
        possible = scores.amax(dim=1) / divisor(rules.length, how.penalty)
        alive = scores.isfinite().any(dim=1)
        if not goes_on(alive if whole else alive & (possible > ended[:, -1])):
            break
    stacked = [torch.stack(parts, dim=1).cpu().numpy() for parts in zip(*frames, strict=True)]
    traces = [Trace(*(part[row] for part in stacked)) for row in range(beams.sources)]
    return _best(traces, rules, how, beams.tokens), traces


def _best(traces: list[Trace], rules: Rules, how: Gnmt, like: Tensor) -> Written:
    ids = torch.full((len(traces), how.best, rules.length), rules.pad)
    scores = torch.full((len(traces), how.best), -math.inf)
    for row, trace in enumerate(traces):
        for place, found in enumerate(candidates(trace, eos=rules.eos, penalty=how.penalty, best=how.best)):
            ids[row, place, : len(found.ids)] = torch.from_numpy(found.ids)
            scores[row, place] = found.score
    return Written(ids.to(like.device), scores.to(like.device))


def _take(rows: Tensor, which: Tensor) -> Tensor:
    """Rows of each source: (B, K, length), (B, n) -> (B, n, length)."""
    return rows.gather(1, which[:, :, None].expand(-1, -1, rows.shape[2]))
