"""A vocabulary as numbers: which id plays which part. Ids come from the tokenizer, never from constants.

`Vocabulary` holds no text and no SentencePiece model, so that loader workers can carry it about; `load.py`
makes one from a tokenizer folder.
"""

from __future__ import annotations

import dataclasses

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

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """The narrowest integer that holds every id; shards are stored in it."""
        return np.dtype(np.uint16 if self.size <= 1 << 16 else np.uint32)
