"""A tokenizer with an id for every byte, in a module of its own so that worker processes can import it."""

from __future__ import annotations

import os
import unicodedata

import numpy as np

FIRST = 10


class Bytes:
    def normalise(self, text):
        return unicodedata.normalize("NFC", text).strip(" ")

    def encode_batch(self, texts):
        encoded = [text.encode() for text in texts]
        offsets = np.cumsum([0, *map(len, encoded)])
        return np.frombuffer(b"".join(encoded), np.uint8).astype(np.int32) + FIRST, offsets


class Deadly(Bytes):
    """Ends the process that uses it, as the kernel does when memory runs out."""

    def encode_batch(self, texts):
        os._exit(9)
