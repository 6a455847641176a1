"""A block of text to arrays of token ids: decoded, normalised, screened, hashed and encoded. Pure; workers run this."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from megas2s.data.decode import EMPTY, Block, decode
from megas2s.data.screen import Screen

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
    signatures: dict[str, np.ndarray]  # language -> (documents, 128) where near-duplicates are looked for
    documents: int
    text_bytes: int
    dropped: Counter[tuple[str, str]]


def tokenise_block(block: Block, encoder: Encoder, ids: Ids, screen: Screen) -> Tokenised:
    """Decode, clean, screen and encode one block."""
    dropped: Counter[tuple[str, str]] = Counter()
    texts: dict[str, list[str]] = {}
    ordinals: dict[str, list[int]] = {}
    documents = 0
    size = 0
    for document in decode(block, dropped):
        text = encoder.normalise(document.text)
        size += len(text.encode())
        reason = screen.reason(text, document.language)
        if reason is None:
            texts.setdefault(document.language, []).append(text)
            ordinals.setdefault(document.language, []).append(documents)
        else:
            dropped[document.language, reason] += 1
        documents += 1
    tokens, records, signatures = {}, {}, {}
    for language, normalised in texts.items():
        high, low = _hashes(normalised)
        views = [screen.view(text, language, int(half)) for text, half in zip(normalised, low, strict=True)]
        flat, offsets = encoder.encode_batch(
            [text if view is text else encoder.normalise(view) for text, view in zip(normalised, views, strict=True)]
        )
        lengths = np.diff(offsets)
        left = np.flatnonzero(lengths)  # the tokenizer may leave nothing of a text
        if len(left) < len(normalised):
            dropped[language, EMPTY] += len(normalised) - len(left)
        if not len(left):
            continue
        made = np.empty(len(left), RECORD)
        made["high"], made["low"] = high[left], low[left]
        made["ordinal"] = np.array(ordinals[language])[left]
        made["tokens"] = lengths[left] + 1
        made["characters"] = [len(views[index]) for index in left]
        records[language] = made
        tokens[language] = _with_separators(flat, offsets, ids)
        signs = [sign for index in left if (sign := screen.signature(normalised[index])) is not None]
        if signs:
            signatures[language] = np.stack(signs)
    return Tokenised(tokens, records, signatures, documents, size, dropped)


def _hashes(texts: Sequence[str]) -> np.ndarray:
    """Both halves of each text's hash: (2, texts)."""
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=HASH_BYTES).digest() for text in texts)
    return np.frombuffer(digests, "<u8").reshape(-1, 2).T


def _with_separators(flat: np.ndarray, offsets: np.ndarray, ids: Ids) -> np.ndarray:
    ends = offsets[1:][np.diff(offsets) > 0]
    if flat.max(initial=0) > np.iinfo(ids.dtype).max:
        raise ValueError(f"token id {flat.max()} does not fit {ids.dtype}")
    return np.insert(flat, ends, ids.separator).astype(ids.dtype)
