"""Blocks of text to arrays of token ids, on as many processes as wanted, in the order they came in.

The parent only reads and writes; workers decode, clean, normalise, hash and encode. A worker takes one block at a time
and at most two a worker are under way, so memory is bounded by blocks and workers, whatever the input's size, and a
slow disk holds back the reader. Results come back in order, so nothing depends on the number of workers.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple, Protocol

import numpy as np

from megas2s.data.decode import EMPTY, Block, decode
from megas2s.errors import Refusal
from megas2s.processes import end_with_parent

HASH_BYTES = 16
RECORD = np.dtype(  # what is kept of a document beside its ids
    [("high", "<u8"), ("low", "<u8"), ("ordinal", "<u8"), ("tokens", "<u4"), ("characters", "<u4")]
)


class Encoder(Protocol):
    """What is needed of a tokenizer."""

    def normalise(self, text: str) -> str:
        """The text as the tokenizer sees it; equal results are duplicates."""

    def encode_batch(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """All texts' ids in one array, and where each text begins and ends (n + 1,)."""


class Ids(NamedTuple):
    """How ids are stored."""

    separator: int  # ends every document
    dtype: np.dtype[np.unsignedinteger]


class Tokenised(NamedTuple):
    """What a block has become."""

    block: Block | None  # without its content; None at the end of a file
    tokens: dict[str, np.ndarray]  # language -> ids of its documents, each with its separator
    records: dict[str, np.ndarray]  # language -> RECORD of each document; ordinals count from the block's first
    documents: int
    text_bytes: int
    dropped: Counter[tuple[str, str]]


END_OF_FILE = Tokenised(None, {}, {}, 0, 0, Counter())


def tokenise(
    blocks: Iterable[Block | None], load_encoder: Callable[[], Encoder], ids: Ids, *, workers: int
) -> Iterator[Tokenised]:
    """Every block tokenised, in order; None, the end of a file, comes out as END_OF_FILE.

    With one worker the work is done in this process. A Refusal, met while reading or by a worker, is raised after
    the results of all blocks before it.
    """
    if workers == 1:
        encoder = load_encoder()
        for block in blocks:
            yield END_OF_FILE if block is None else tokenise_block(block, encoder, ids)
        return
    with ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(load_encoder, ids)
    ) as pool:
        try:
            yield from _in_order(blocks, pool, 2 * workers)
        except BrokenProcessPool:
            raise Refusal("a worker process was killed, perhaps for want of memory; take fewer --workers") from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def tokenise_block(block: Block, encoder: Encoder, ids: Ids) -> Tokenised:
    """Decode, clean and encode one block."""
    dropped: Counter[tuple[str, str]] = Counter()
    texts: dict[str, list[str]] = {}
    ordinals: dict[str, list[int]] = {}
    documents = 0
    for document in decode(block, dropped):
        texts.setdefault(document.language, []).append(encoder.normalise(document.text))
        ordinals.setdefault(document.language, []).append(documents)
        documents += 1
    tokens, records = {}, {}
    size = 0
    for language, normalised in texts.items():
        encoded = [text.encode() for text in normalised]
        size += sum(map(len, encoded))
        flat, offsets = encoder.encode_batch(normalised)
        made = _records(encoded, normalised, ordinals[language], offsets)
        made = made[made["tokens"] > 1]  # a text of which the tokenizer leaves nothing
        if len(made) < len(normalised):
            dropped[language, EMPTY] += len(normalised) - len(made)
        if len(made):
            records[language] = made
            tokens[language] = _with_separators(flat, offsets, ids)
    return Tokenised(_without_content(block), tokens, records, documents, size, dropped)


def _records(encoded: list[bytes], texts: list[str], ordinals: list[int], offsets: np.ndarray) -> np.ndarray:
    records = np.empty(len(encoded), RECORD)
    digests = b"".join(hashlib.blake2b(text, digest_size=HASH_BYTES).digest() for text in encoded)
    halves = np.frombuffer(digests, "<u8").reshape(-1, 2)
    records["high"], records["low"] = halves[:, 0], halves[:, 1]
    records["ordinal"] = ordinals
    records["tokens"] = np.diff(offsets) + 1
    records["characters"] = [len(text) for text in texts]
    return records


def _with_separators(flat: np.ndarray, offsets: np.ndarray, ids: Ids) -> np.ndarray:
    ends = offsets[1:][np.diff(offsets) > 0]
    if flat.max(initial=0) > np.iinfo(ids.dtype).max:
        raise ValueError(f"token id {flat.max()} does not fit {ids.dtype}")
    return np.insert(flat, ends, ids.separator).astype(ids.dtype)


def _without_content(block: Block) -> Block:
    return Block(file=block.file, first=block.first, content=b"", position=block.position)


def _in_order(blocks: Iterable[Block | None], pool: ProcessPoolExecutor, most: int) -> Iterator[Tokenised]:
    """Submit ahead of the oldest result by at most `most` blocks."""
    source = iter(blocks)
    pending: deque[Future[Tokenised]] = deque()
    open_blocks = 0
    exhausted = False
    while pending or not exhausted:
        while not exhausted and open_blocks < most:
            future: Future[Tokenised] = Future()
            try:
                block = next(source)
            except StopIteration:
                exhausted = True
                break
            except Refusal as refusal:  # told when its turn comes, after what lies before it is safe
                exhausted = True
                future.set_exception(refusal)
            else:
                if block is None:
                    future.set_result(END_OF_FILE)
                else:
                    future = pool.submit(_work, block)
                    open_blocks += 1
            pending.append(future)
        if pending:
            result = pending.popleft().result()
            open_blocks -= result.block is not None
            yield result


_STATE: list[tuple[Encoder, Ids]] = []  # of a worker process: set once, when it starts


def _begin(load_encoder: Callable[[], Encoder], ids: Ids) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    end_with_parent()
    _STATE.append((load_encoder(), ids))


def _work(block: Block) -> Tokenised:
    encoder, ids = _STATE[0]
    return tokenise_block(block, encoder, ids)
