"""A block of text to arrays of token ids: decoded, cleaned, normalised, hashed and encoded. Pure; workers run this."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from megas2s.data.decode import EMPTY, Block, decode

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

    tokens: dict[str, np.ndarray]  # language -> ids of its documents, each with its separator
    records: dict[str, np.ndarray]  # language -> RECORD of each document; ordinals count from the block's first
    documents: int
    text_bytes: int
    dropped: Counter[tuple[str, str]]


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
    return Tokenised(tokens, records, documents, size, dropped)


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
