"""From raw text to a corpus: read, tokenise, choose, write shards, and last `corpus.json`.

    input --cut--> pieces --every process--> .staging/parts
    parts --rank 0--> plans --every rank--> train/ heldout/ --rank 0--> corpus.json

Processes are those of one machine, or also the ranks of an mpirun on many (`team.py`). Started again after any
interruption, it goes on with the pieces that have no part yet; the corpus is the same byte for byte, whatever the
number of processes, ranks and interruptions. While shards are written the ids lie on the disk twice.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from megas2s.data.choice import Choices as Choices
from megas2s.data.corpus import Corpus
from megas2s.data.documents import BLOCK, bytes_to_read, input_files
from megas2s.data.inputs import Inputs
from megas2s.data.making import CorpusTokenizer as CorpusTokenizer
from megas2s.data.making import Making
from megas2s.data.parts import is_written
from megas2s.data.progress import Progress
from megas2s.data.share import tokenise_share
from megas2s.data.team import Alone, Team


def preprocess(
    inputs: Sequence[Inputs],
    folder: Path,
    *,
    tokenizer: CorpusTokenizer,
    choices: Choices,
    workers: int | None = None,
    team: Team | None = None,
    allow_empty_languages: bool = False,
    report: Callable[[Progress], None] = lambda _: None,
    block_size: int = BLOCK,
    piece_size: int | None = None,
) -> Corpus:
    """Make the corpus at `folder`, or go on making it, or find it complete; raises a Refusal where it cannot be.

    Every rank of a `team` calls it alike, with the same files before it.
    """
    team = team or Alone()
    making = team.together(lambda: Making(folder, input_files(inputs), tokenizer, choices, allow_empty_languages))
    with contextlib.ExitStack() as lock:
        begun = team.told(lambda: making.begin(lock, piece_size))
        team.together(lambda: making.check_same(begun))
        if begun["complete"]:
            return Corpus.open(folder)
        making.cut(begun["piece_bytes"])
        told = _Telling(report, making, team.size)
        if not begun["planned"]:
            processes = _workers(workers, len(making.pieces), alone=team.size == 1)
            team.together(lambda: tokenise_share(making.job(block_size), workers=processes, told=told.pieces))
            team.told(making.plan)
        team.together(lambda: making.write(team.rank, team.size, workers or _cores(), told.ids))
        team.told(making.finish)
    return Corpus.open(folder)


class _Telling:
    """Progress of this process' share, as it is shown."""

    def __init__(self, report: Callable[[Progress], None], making: Making, ranks: int) -> None:
        self._report = report
        self._files = making.files
        self._done, self._pieces = making.done(), len(making.pieces)
        self._total = bytes_to_read(making.files) // ranks
        self._position = self._documents = self._text_bytes = self._written = 0
        if ranks == 1:
            there = zip(making.pieces, making.names, strict=True)
            self._position = sum(
                span.bytes for piece, name in there if is_written(making.staging, name) for span in piece
            )

    def pieces(self, done: int, read: int, documents: int, text_bytes: int) -> None:
        """Tell of input that has been tokenised."""
        self._done += done
        self._position += read
        self._documents += documents
        self._text_bytes += text_bytes
        counts = (self._done, self._pieces, self._position, self._total, self._documents, self._text_bytes)
        self._report(Progress("tokenise", "", *counts, unit="pieces"))

    def ids(self, written: int, total: int) -> None:
        """Tell of a shard that has been written."""
        self._written += written
        self._report(Progress("write shards", "", self._pieces, self._pieces, self._written, total, 0, 0, "pieces"))


def _workers(wanted: int | None, pieces: int, *, alone: bool) -> int:
    """No more processes than there are pieces; of several ranks each is a process already."""
    return max(1, min(wanted or (_cores() if alone else 1), pieces))


def _cores() -> int:
    return len(os.sched_getaffinity(0))
