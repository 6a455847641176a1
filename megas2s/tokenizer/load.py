"""A tokenizer in memory: text to ids as NumPy arrays, ids to text, and the Vocabulary.

    tokenizer = Tokenizer.load(Path("tokenizers/sample"))
    ids, offsets = tokenizer.encode_batch(["Grüße", "two words"])     # ids[offsets[i]:offsets[i + 1]] is text i

SentencePiece encodes, into buffers that NumPy reads without a Python object per token: on one core about seven times
as fast as the `tokenizers` library, whose ids are the same (`export.py` says why).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from sentencepiece import SentencePieceProcessor
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from megas2s.errors import BadData
from megas2s.tokenizer import folder as tokenizer_folder
from megas2s.tokenizer.folder import Metadata, Stored
from megas2s.tokenizer.importing import import_model
from megas2s.tokenizer.text import SPACE, close_lines, cut, normalise, open_lines
from megas2s.tokenizer.vocab import Vocabulary

PART = 4096  # characters encoded at once; see SCORE_GRID in train.py
NEWLINE = "<0x0A>"

APART = (ModelProto.SentencePiece.CONTROL, ModelProto.SentencePiece.UNKNOWN)  # pieces that are no text

# First and last code points of scripts written without spaces between words, with their punctuation.
SPACELESS = [
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x312F),  # Han radicals, punctuation, Hiragana, Katakana, Bopomofo
    (0x31A0, 0x9FFF),  # Han and more Katakana; Hangul lies outside
    (0xF900, 0xFAFF),  # Han, compatibility
    (0xFF00, 0xFF9F),  # full-width punctuation, half-width Katakana
    (0x20000, 0x3FFFF),  # Han, extensions
]

SENTENCE_FINAL = tuple(".!?…。．！？｡।॥؟۔።։။។")
CLOSING_QUOTES = "\"')]”’»›」』）"


class Tokenizer:
    """Text to ids and back, without special tokens: no text ever produces one."""

    def __init__(self, stored: Stored, folder: Path) -> None:
        self.folder = folder
        self.metadata = stored.metadata
        self.fingerprint = stored.fingerprint
        self._processor = SentencePieceProcessor(model_proto=stored.model)
        proto = ModelProto.FromString(stored.model)
        self._pieces: list[str] = [piece.piece for piece in proto.pieces]
        self._specials = np.array([piece.type in APART for piece in proto.pieces])
        self.vocabulary = _vocabulary(proto, stored.metadata, stored.fingerprint)

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """The tokenizer in `folder`; a `.model` file or a transformers folder with one is imported, ids unchanged.

        Raises BadData where files are missing, altered, or of a kind that is not read here.
        """
        path = Path(folder)
        if path.name == tokenizer_folder.MODEL and (path.parent / tokenizer_folder.METADATA).is_file():
            path = path.parent
        if (path / tokenizer_folder.METADATA).is_file():
            return cls(tokenizer_folder.read(path), path)
        if not path.exists():
            raise BadData(f"there is no tokenizer at {path}; train one with tools/train_tokenizer.py")
        return cls(import_model(path), path)

    def __reduce__(self) -> tuple[Callable[[Path], Tokenizer], tuple[Path]]:
        return Tokenizer.load, (self.folder,)

    def normalise(self, text: str) -> str:
        """What decoding gives back for `text`; for imported models the text itself, their rule is inside the model."""
        return normalise(text, self.metadata.normalization)

    def encode_batch(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all texts in one int32 array and int64 offsets (n + 1,); normalised here, no special tokens added."""
        prepared = [self._prepare(text) for text in texts]
        parts, counts = prepared, None
        if self.metadata.opens_lines and any(len(text) > PART for text in prepared):
            pieces = [cut(text, PART) for text in prepared]
            counts = np.array([len(each) for each in pieces])
            parts = [part for each in pieces for part in each]
        arrays = self._processor.encode(parts, return_type="numpy", num_threads=1)
        ends = np.cumsum(np.fromiter(map(len, arrays), dtype=np.int64, count=len(arrays)))
        if counts is not None:
            ends = ends[np.cumsum(counts) - 1]
        ids = np.concatenate(arrays) if arrays else np.empty(0, dtype=np.int32)
        return ids, np.concatenate([np.zeros(1, dtype=np.int64), ends])

    def encode(self, text: str) -> np.ndarray:
        """Ids of one text, int32."""
        return self.encode_batch([text])[0]

    def decode(self, ids: Sequence[int] | np.ndarray, *, specials: bool = False) -> str:
        """The text of `ids`. Special tokens vanish, or are written by name where `specials` is set."""
        numbers = np.asarray(ids, dtype=np.int64)
        if not specials:
            return self._text(numbers)
        shown = []
        borders = np.flatnonzero(self._specials[numbers])
        start = 0
        for border in [*borders.tolist(), len(numbers)]:
            shown.append(self._text(numbers[start:border]))
            shown.append(self._pieces[numbers[border]] if border < len(numbers) else "")
            start = border + 1
        return " ".join(part for part in shown if part)

    def piece(self, token: int) -> str:
        """How the model writes one id, for example "▁the" or "<0x0A>"."""
        return self._pieces[token]

    def _prepare(self, text: str) -> str:
        text = self.normalise(text)
        return open_lines(text) if self.metadata.opens_lines else text

    def _text(self, ids: np.ndarray) -> str:
        text: str = self._processor.decode(ids.tolist())
        return close_lines(text) if self.metadata.opens_lines else text


def opens_word(piece: str) -> bool:
    """Whether a piece of text begins a word: after a space or newline, or in a script written without spaces.

    In Chinese, Japanese, Thai, Lao, Khmer and Myanmar text every piece counts as a word: nothing in the text says more.
    """
    if piece.startswith(SPACE) or piece == NEWLINE:
        return True
    return bool(piece) and any(first <= ord(piece[0]) <= last for first, last in SPACELESS)


def ends_sentence(piece: str) -> bool:
    """Whether a piece closes a sentence: a newline, or a full stop of some script with any quotes after it.

    A rough rule, for shuffling sentences: the dot of an abbreviation or a number counts too.
    """
    return piece == NEWLINE or piece.rstrip(CLOSING_QUOTES).endswith(SENTENCE_FINAL)


def _vocabulary(proto: ModelProto, metadata: Metadata, fingerprint: str) -> Vocabulary:
    """Ordinary ids are the pieces of text: random replacements never draw a lone byte or a special token."""
    ordinary = [number for number, piece in enumerate(proto.pieces) if piece.type == piece.NORMAL]
    starts = [piece.type in APART or opens_word(piece.piece) for piece in proto.pieces]
    return Vocabulary(
        size=metadata.size,
        pad=metadata.pad,
        eos=metadata.eos,
        unk=metadata.unk,
        bos=metadata.bos,
        mask=metadata.mask,
        doc=metadata.doc,
        clm=metadata.clm,
        languages=dict(metadata.languages),
        sentinels=tuple(metadata.sentinels),
        ordinary=np.array(ordinary, dtype=np.int32),
        word_starts=np.array(starts, dtype=bool),
        sentence_ends=np.array([ends_sentence(piece.piece) for piece in proto.pieces], dtype=bool),
        fingerprint=fingerprint,
    )
