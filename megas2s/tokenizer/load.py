"""A tokenizer in memory: text to ids as NumPy arrays, ids to text, and the Vocabulary.

    tokenizer = Tokenizer.load(Path("tokenizers/sample"))
    ids, offsets = tokenizer.encode_batch(["Grüße", "two words"])     # ids[offsets[i]:offsets[i + 1]] is text i

Two engines encode: SentencePiece (`spm.py`), for our own tokenizers and all that have such a model, and the
`tokenizers` library (`fast.py`) for the rest.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from megas2s.errors import BadData, BadRecord
from megas2s.tokenizer import folder as tokenizer_folder
from megas2s.tokenizer.fast import Fast
from megas2s.tokenizer.folder import Metadata, Stored
from megas2s.tokenizer.importing import import_tokenizer
from megas2s.tokenizer.spm import SentencePiece
from megas2s.tokenizer.vocab import Vocabulary

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


class Engine(Protocol):
    """What turns text into ids: SentencePiece or the `tokenizers` library."""

    pieces: list[str]  # as the model writes them
    surfaces: list[str]  # what each piece writes in a text
    special: np.ndarray  # bool (size,): pieces that are no text
    ordinary: np.ndarray  # bool (size,): pieces of text that a random replacement may draw

    def normalise(self, text: str) -> str:
        """What decoding gives back for `text`."""

    def encode_batch(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all texts, int32, and where each ends, int64; without special tokens."""

    def decode(self, ids: list[int]) -> str:
        """The text of ids that are no special tokens."""


ENGINES: dict[str, Callable[[Stored], Engine]] = {"sentencepiece": SentencePiece, "fast": Fast}


class Tokenizer:
    """Text to ids and back, without special tokens: no text ever produces one."""

    def __init__(self, stored: Stored, folder: Path) -> None:
        self.folder = folder
        self.metadata = stored.metadata
        self.fingerprint = stored.fingerprint
        self._engine = ENGINES[stored.metadata.kind](stored)
        vocabulary = _vocabulary(self._engine, stored.metadata, stored.fingerprint)
        self.vocabulary = dataclasses.replace(vocabulary, encode=self.encode)

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """The tokenizer in `folder`; what `importing` knows is imported, ids unchanged.

        Raises BadData where files are missing, altered, or of a kind that is not read here.
        """
        path = Path(folder)
        if path.name == tokenizer_folder.MODEL and (path.parent / tokenizer_folder.METADATA).is_file():
            path = path.parent
        if (path / tokenizer_folder.METADATA).is_file():
            return cls(tokenizer_folder.read(path), path)
        if not path.exists():
            raise BadData(f"there is no tokenizer at {path}; train one with tools/train_tokenizer.py")
        return cls(import_tokenizer(path), path)

    def __reduce__(self) -> tuple[Callable[[Path], Tokenizer], tuple[Path]]:
        return Tokenizer.load, (self.folder,)

    def normalise(self, text: str) -> str:
        """What decoding gives back for `text`; for imported models the text itself, their rule is inside the model."""
        return self._engine.normalise(text)

    def encode_batch(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all texts in one int32 array and int64 offsets (n + 1,); normalised here, no special tokens added."""
        ids, ends = self._engine.encode_batch(texts)
        return ids, np.concatenate([np.zeros(1, dtype=np.int64), ends])

    def encode(self, text: str) -> np.ndarray:
        """Ids of one text, int32."""
        return self.encode_batch([text])[0]

    def ids_of(self, pieces: Sequence[str]) -> np.ndarray:
        """The ids of pieces as the model writes them, int32; raises BadRecord for one that is none."""
        if unknown := [piece for piece in pieces if piece not in self._places]:
            said = f"{unknown[0]!r} is no piece of the tokenizer {self.folder}; give texts, or its own pieces"
            raise BadRecord(said, "a piece that the tokenizer has not")
        return np.array([self._places[piece] for piece in pieces], dtype=np.int32)

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        return {piece: place for place, piece in enumerate(self._engine.pieces)}

    def decode(self, ids: Sequence[int] | np.ndarray, *, specials: bool = False) -> str:
        """The text of `ids`. Special tokens vanish, or are written by name where `specials` is set."""
        numbers = np.asarray(ids, dtype=np.int64)
        special = self._engine.special[numbers]
        if not specials:
            return self._engine.decode(numbers[~special].tolist())
        shown = []
        start = 0
        for border in [*np.flatnonzero(special).tolist(), len(numbers)]:
            shown.append(self._engine.decode(numbers[start:border].tolist()))
            shown.append(self.piece(int(numbers[border])) if border < len(numbers) else "")
            start = border + 1
        return " ".join(part for part in shown if part)

    def piece(self, token: int) -> str:
        """How the model writes one id, for example "▁the" or "<0x0A>"."""
        return self._engine.pieces[token]


def opens_word(text: str) -> bool:
    """Whether what a piece writes begins a word: after a space or newline, or in a script written without spaces.

    In Chinese, Japanese, Thai, Lao, Khmer and Myanmar text every piece counts as a word: nothing in the text says more.
    """
    if text.startswith((" ", "\n")):
        return True
    return bool(text) and any(first <= ord(text[0]) <= last for first, last in SPACELESS)


def ends_sentence(text: str) -> bool:
    """Whether what a piece writes closes a sentence: a newline, or a full stop of some script with any quotes after it.

    A rough rule, for shuffling sentences: the dot of an abbreviation or a number counts too.
    """
    return text == "\n" or text.rstrip(CLOSING_QUOTES).endswith(SENTENCE_FINAL)


def _vocabulary(engine: Engine, metadata: Metadata, fingerprint: str) -> Vocabulary:
    starts = [opens_word(surface) for surface in engine.surfaces]
    return Vocabulary(
        size=metadata.size,
        pad=metadata.pad,
        eos=metadata.eos,
        unk=metadata.unk,
        bos=metadata.bos,
        begin=metadata.begin,
        mask=metadata.mask,
        doc=metadata.doc,
        clm=metadata.clm,
        languages=dict(metadata.languages),
        sentinels=tuple(metadata.sentinels),
        ordinary=np.flatnonzero(engine.ordinary).astype(np.int32),
        word_starts=np.array(starts, dtype=bool) | engine.special,
        sentence_ends=np.array([ends_sentence(surface) for surface in engine.surfaces], dtype=bool) & ~engine.special,
        fingerprint=fingerprint,
    )
