"""A rank's share of the pieces: those that no other rank has taken, on as many processes as wanted.

Pieces are taken one by one, by making a file that nobody else has made, so a rank on a slow host takes fewer. What
a dead rank had taken is taken again in the next run, which begins by forgetting who had what.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

from megas2s import files
from megas2s.data.documents import read_blocks
from megas2s.data.parts import FOLDER, is_written, write_part
from megas2s.data.pieces import Piece
from megas2s.data.screen import Screen, Screening
from megas2s.data.tokenise import Encoder, Ids, Tokenised, tokenise_block
from megas2s.errors import Refusal
from megas2s.processes import end_with_parent, without_ctrl_c

CLAIMS = "claims"
REFUSED = "refused"  # a file that tells the other ranks to stop


class Job(NamedTuple):
    """What a process needs to make parts of pieces."""

    staging: Path
    pieces: Sequence[Piece]
    names: Sequence[str]
    load_encoder: Callable[[], Encoder]
    ids: Ids
    screening: Screening
    grams: Path | None  # runs of words of evaluation text
    block_size: int

    def open(self) -> Means:
        """What a process makes parts with."""
        return Means(self.load_encoder(), Screen(self.screening, self.grams))


class Means(NamedTuple):
    """What takes long to load."""

    encoder: Encoder
    screen: Screen


Told = Callable[[int, int, int, int], None]  # since the last call: pieces, bytes of input, documents, bytes of text


def prepare(staging: Path) -> str:
    """Begin a run: nobody has taken anything, nothing is refused yet; gives the name of a file among the claims.

    No other run, and no copy of the folder on another disk, has a file of that name: who sees it sees this run.
    """
    mark = f"run-{secrets.token_hex(8)}"
    with files.disk_trouble(staging):
        shutil.rmtree(staging / CLAIMS, ignore_errors=True)
        (staging / REFUSED).unlink(missing_ok=True)
        for folder in (CLAIMS, FOLDER):
            files.make_folder(staging / folder)
        (staging / CLAIMS / mark).touch()
    return mark


def tokenise_share(job: Job, *, workers: int, told: Told) -> None:
    """Make parts of the pieces that have none, as long as there are any; raises the Refusal of the first bad piece."""
    numbers = _taken(job)
    try:
        if workers == 1:
            means = job.open()
            for number in numbers:
                _make(job, number, means, told)
        else:
            _pooled(job, numbers, workers, told)
    except Refusal:
        with contextlib.suppress(OSError):  # on a full disk too the refusal is what is told
            (job.staging / REFUSED).touch()
        raise


def _taken(job: Job) -> Iterator[int]:
    """The numbers of pieces that this process may make, one at a time, as they are asked for."""
    for number, name in enumerate(job.names):
        if (job.staging / REFUSED).exists():
            return
        if is_written(job.staging, name):
            continue
        claim = job.staging / CLAIMS / name
        try:
            with files.disk_trouble(claim):
                os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            continue
        yield number


def _make(job: Job, number: int, means: Means, told: Told) -> tuple[int, int]:
    """One part; tells of each block, and of the piece when it is written."""
    piece, ids = job.pieces[number], job.ids
    read = 0  # bytes of the piece that have been told of

    def results() -> Iterator[tuple[str, str, Tokenised]]:
        nonlocal read
        before = 0
        for span in piece:
            for block in read_blocks(span, size=job.block_size):
                result = tokenise_block(block, means.encoder, ids, means.screen)
                here = before + min(max(0, block.position - span.start), span.bytes)
                told(0, here - read, result.documents, result.text_bytes)
                read = here
                yield span.file.inputs.split, span.file.inputs.source, result
            before += span.bytes

    found = write_part(job.staging, job.names[number], results())
    told(1, sum(span.bytes for span in piece) - read, 0, 0)
    return found


def _pooled(job: Job, numbers: Iterator[int], workers: int, told: Told) -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(job,)) as pool:
        running: dict[Future[tuple[int, int]], int] = {}
        try:
            while True:
                while len(running) < 2 * workers and (number := next(numbers, None)) is not None:
                    with without_ctrl_c():  # it may start a worker
                        running[pool.submit(_work, number)] = number
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    documents, text_bytes = future.result()
                    size = sum(span.bytes for span in job.pieces[running.pop(future)])
                    told(1, size, documents, text_bytes)
        except BrokenProcessPool:
            raise Refusal("a worker process was killed, perhaps for want of memory; take fewer --workers") from None
        except Refusal:
            raise _first_refusal(running) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _first_refusal(running: dict[Future[tuple[int, int]], int]) -> Refusal:
    """The refusal of the earliest bad piece among those begun, whichever was met first."""
    for future in running:
        future.cancel()
    wait(running)
    failed = {number: future.exception() for future, number in running.items() if not future.cancelled()}
    refusals = [(number, error) for number, error in sorted(failed.items()) if isinstance(error, Refusal)]
    return refusals[0][1]


_STATE: list[tuple[Job, Means | Refusal]] = []  # of a worker process: set once, when it starts


def _begin(job: Job) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    end_with_parent()
    try:
        _STATE.append((job, job.open()))
    except Refusal as refusal:  # raised here it would end the process without a word; the first piece says it
        _STATE.append((job, refusal))


def _work(number: int) -> tuple[int, int]:
    job, means = _STATE[0]
    if isinstance(means, Refusal):
        raise means
    return _make(job, number, means, lambda *_: None)
