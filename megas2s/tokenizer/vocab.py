"""A vocabulary as numbers: which id plays which part. Ids come from the tokenizer, never from constants.

`Vocabulary` holds no text, so that loader workers can carry it about, and of the tokenizer no more than the way to it;
`load.py` makes one from a tokenizer folder.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Vocabulary:
    """The ids that objectives and models need. A part that a tokenizer does not have is None (or empty)."""

    size: int  # rows of the embedding table, a multiple of 128 for our own tokenizers
    pad: int
    eos: int
    unk: int
    bos: int | None
    mask: int | None
    doc: int | None  # [DOC], the end of a document inside a window
    clm: int | None  # [CLM], opens the source of a continuation task
    languages: dict[str, int]  # language code -> id of its tag
    sentinels: tuple[int, ...]  # first sentinel first
    ordinary: np.ndarray  # int32 (N,): ids that text can produce; random replacements are drawn from these
    word_starts: np.ndarray  # bool (size,): whether the piece opens a word
    sentence_ends: np.ndarray  # bool (size,): whether the piece closes a sentence
    fingerprint: str  # of the tokenizer: same fingerprint, same ids for the same text
    begin: int | None = None  # what opens each row before its text; most imported tokenizers have one, ours do not
    encode: Callable[[str], np.ndarray] | None = None  # text to ids (N,), for the few words that an objective writes

    @property
    def ends(self) -> int:
        """Special tokens around the text of a row."""
        return 1 if self.begin is None else 2

    @property
    def separator(self) -> int:
        """What ends a document inside a window: [DOC], or the end of a text where a tokenizer has no such token."""
        return self.eos if self.doc is None else self.doc

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """The narrowest integer that holds every id; shards are stored in it."""
        return np.dtype(np.uint16 if self.size <= 1 << 16 else np.uint32)


def stand_in(size: int) -> Vocabulary:
    """A vocabulary of which only the size matters, as in plans and benchmarks; its ids lie where our tokenizers' do."""
    sentinels = range(size - 100, size)
    ids = np.arange(size)
    return Vocabulary(
        size=size,
        pad=1,
        eos=2,
        unk=3,
        bos=0,
        mask=4,
        doc=5,
        clm=6,
        languages={"en": 7},
        sentinels=tuple(sentinels),
        ordinary=ids[min(300, sentinels.start // 2) : sentinels.start].astype(np.int32),
        word_starts=ids % 2 == 0,
        sentence_ends=ids % 20 == 0,
        fingerprint=f"stand-in-{size}",
        encode=functools.partial(_one_id_a_word, sentinels.start - 1),
    )


def _one_id_a_word(token: int, text: str) -> np.ndarray:
    return np.full(len(text.split()), token, dtype=np.int32)
