"""SentencePiece as a tokenizer's engine: into buffers that NumPy reads without a Python object per token.

On one core about seven times as fast as the `tokenizers` library, whose ids are the same (`export.py` says why).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sentencepiece import SentencePieceProcessor
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from megas2s.tokenizer.folder import Stored
from megas2s.tokenizer.text import SPACE, close_lines, cut, normalise, open_lines

PART = 4096  # characters encoded at once; see SCORE_GRID in train.py
APART = (ModelProto.SentencePiece.CONTROL, ModelProto.SentencePiece.UNKNOWN)  # pieces that are no text
NEWLINE = "<0x0A>"


class SentencePiece:
    """The engine of our own tokenizers and of imported `.model` files."""

    def __init__(self, stored: Stored) -> None:
        self._metadata = stored.metadata
        self._processor = SentencePieceProcessor(model_proto=stored.model)
        pieces = ModelProto.FromString(stored.model).pieces
        self.pieces: list[str] = [piece.piece for piece in pieces]
        self.special = np.array([piece.type in APART for piece in pieces])
        self.ordinary = np.array([piece.type == piece.NORMAL for piece in pieces])  # neither lone bytes nor special
        self.surfaces = ["\n" if name == NEWLINE else name.replace(SPACE, " ") for name in self.pieces]

    def normalise(self, text: str) -> str:
        """What decoding gives back; for imported models the text itself, their rule is inside the model."""
        return normalise(text, self._metadata.normalization)

    def encode_batch(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all texts, int32, and where each ends, int64."""
        opens = self._metadata.opens_lines
        prepared = [self.normalise(text) for text in texts]
        parts = prepared = [open_lines(text) for text in prepared] if opens else prepared
        counts = None
        if opens and any(len(text) > PART for text in prepared):
            pieces = [cut(text, PART) for text in prepared]
            counts = np.array([len(each) for each in pieces])
            parts = [part for each in pieces for part in each]
        arrays = self._processor.encode(parts, return_type="numpy", num_threads=1)
        ends = np.cumsum(np.fromiter(map(len, arrays), dtype=np.int64, count=len(arrays)))
        if counts is not None:
            ends = ends[np.cumsum(counts) - 1]
        return np.concatenate(arrays) if arrays else np.empty(0, dtype=np.int32), ends

    def decode(self, ids: list[int]) -> str:
        """The text of ids that are no special tokens."""
        text: str = self._processor.decode(ids)
        return close_lines(text) if self._metadata.opens_lines else text
