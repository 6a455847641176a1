"""What may be written next: lengths, n-grams that are not to return, tokens that rows begin and end with.

    rules = Rules(start=2, eos=2, pad=1, length=64, min_length=10, ngram=3)
    rules.forbid(logits, written)        # in place: what may not come next scores minus infinity
    rules.forced(place)                  # or what must come

Lengths count what is written, the end included, and not what is read before it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Rules(NamedTuple):
    """What holds for all rows of a batch; R rows are B sources times copies."""

    start: int  # what is read before the first token; a model that fills masks passes it by
    eos: int
    pad: int
    length: int  # most tokens
    mask: int | None = None  # what a model fills that was taught to
    min_length: int = 0  # tokens that come before the end may
    ngram: int = 0  # no n-gram of this size comes twice in a row; 0: any may
    ignored: tuple[int, ...] = ()  # n-grams with one of these may
    from_start: bool = False  # whether `start` is part of n-grams, as transformers has it
    prefix: Tensor | None = None  # (B, P) that each row begins with, -1 where it is free
    ends: bool = False  # whether a row that fills its length ends in `eos` all the same

    def forced(self, place: int, copies: int) -> Tensor | None:
        """What must come at a place, (R,), -1 in rows that are free; None where all are."""
        if self.prefix is not None and place < self.prefix.shape[1]:
            return self.prefix[:, place].repeat_interleave(copies)
        return torch.tensor([self.eos]) if self.ends and place == self.length - 1 else None

    def forbid(self, scores: Tensor, written: Tensor) -> None:
        """Take away what may not follow `written` (R, t) from `scores` (R, V)."""
        if self.ngram:
            _forbid_ngrams(scores, self._read(written), self.ngram, self.ignored)
        if written.shape[1] < self.min_length:
            scores[:, self.eos] = -math.inf

    def _read(self, written: Tensor) -> Tensor:
        if not self.from_start:
            return written
        return torch.cat([written.new_full((len(written), 1), self.start), written], dim=1)


def _forbid_ngrams(scores: Tensor, written: Tensor, size: int, ignored: tuple[int, ...]) -> None:
    """No token that would complete an n-gram which `written` (R, t) has already."""
    if written.shape[1] < size:
        return
    ngrams = written.unfold(1, size, 1)  # (R, t - n + 1, n)
    tail = written[:, written.shape[1] - size + 1 :]
    same = (ngrams[:, :, :-1] == tail[:, None]).all(-1)
    if ignored:
        exempt = torch.isin(ngrams, torch.tensor(ignored, device=written.device)).any(-1)
        same &= ~exempt
    row, place = same.nonzero(as_tuple=True)
    scores[row, ngrams[row, place, -1]] = -math.inf


def best_next(logits: Tensor, written: Tensor, rules: Rules, copies: int, count: int) -> tuple[Tensor, Tensor]:
    """The `count` best tokens to follow `written` (R, t), best first: log-probabilities and ids, (R, count) each.

    Probabilities are the model's own, over the whole vocabulary: rules take tokens away and share nothing out. What is
    forced costs nothing. `logits` are written over.
    """
    scores = logits.float()
    whole = scores.logsumexp(dim=-1, keepdim=True)
    rules.forbid(scores, written)
    found, ids = scores.topk(min(count, scores.shape[1]), dim=-1)
    found = found - whole
    must = rules.forced(written.shape[1], copies)
    if must is not None:
        must = must.to(ids.device).expand(len(ids))
        bound = must >= 0
        found[bound] = -math.inf
        found[bound, 0] = 0.0
        ids[bound, 0] = must[bound]
    return found, ids
