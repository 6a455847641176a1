"""Ranks that are threads of this process, for what they do together."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from megas2s.data.team import _attempt, _opened
from megas2s.errors import Refusal

from .byte_corpus import make


class Threads:
    """Ranks that are threads of this process."""

    def __init__(self, rank: int, size: int, shared: dict, barrier: threading.Barrier) -> None:
        self.rank, self.size = rank, size
        self._shared, self._barrier = shared, barrier

    def told(self, work):
        if self.rank == 0:
            self._shared["told"] = _attempt(work)
        self._barrier.wait()
        answer = self._shared["told"]
        self._barrier.wait()
        return _opened(answer)

    def together(self, work):
        own = _attempt(work)
        self._shared[self.rank] = own
        self._barrier.wait()
        answers = [self._shared[rank] for rank in range(self.size)]
        self._barrier.wait()
        for answer in answers:
            _opened(answer)
        return own["value"]


def by_ranks(size, make_one):
    """What `make_one(rank, team)` gives, or the refusal, which must be one and the same on so many ranks."""
    shared, barrier = {}, threading.Barrier(size, timeout=60)

    def one(rank):
        try:
            return make_one(rank, Threads(rank, size, shared, barrier))
        except Refusal as refusal:
            return f"{type(refusal).__name__}: {refusal}"

    with ThreadPoolExecutor(size) as pool:
        found = list(pool.map(one, range(size)))
    assert len({str(each) for each in found}) == 1, found
    return found[0]


def make_by_ranks(size, inputs, folder, **settings):
    """The corpus, or the refusal that every rank met, of so many ranks."""
    return by_ranks(size, lambda rank, team: make(inputs, folder, team=team, **settings))
