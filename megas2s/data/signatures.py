"""MinHash signatures of texts: 128 numbers of 32 bits, 512 bytes a document, by `datasketch` (the extra `near`).

Two texts are as alike as the share of their runs of five words that they have in common (Jaccard), and the share of
equal numbers in their signatures estimates it.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from megas2s.data.words import shingles
from megas2s.errors import BadConfig

NUMBERS = 128
WORDS = 5
SCHEME = "affine32"  # datasketch 2's arithmetic, named so that a newer release cannot change a corpus
_LOW = np.uint64(0xFFFFFFFF)


class Signer:
    """Makes signatures; raises BadConfig where `datasketch` is not installed."""

    def __init__(self) -> None:
        self._empty = library().MinHash(NUMBERS, hashfunc=int, scheme=SCHEME)

    def __call__(self, text: str) -> np.ndarray:
        """The signature of a text, (128,) of uint32."""
        found = self._empty.copy()
        found.update_batch((shingles(text, WORDS) & _LOW).tolist() or [zlib.crc32(text.encode())])
        return np.asarray(found.hashvalues, np.uint32)


def library() -> Any:
    """The module `datasketch`, or a sentence."""
    try:
        import datasketch
    except ImportError:
        raise BadConfig(
            "near-duplicates are found with datasketch, which is not installed: pip install 'megas2s[near]'"
        ) from None
    return datasketch
