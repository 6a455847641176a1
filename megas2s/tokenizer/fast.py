"""A `tokenizer.json` as a tokenizer's engine: byte-level BPE (RoBERTa, BART), WordPiece (BERT, ELECTRA), Unigram.

The `tokenizers` library encodes. It is told to read special tokens that are written out in a text as the text they are,
so that no text ever produces one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from megas2s.tokenizer.folder import Stored
from megas2s.tokenizer.text import SPACE

NOWHERE = "\U0010fffe"  # a code point that no text has
UNUSED = re.compile(r"[\[<]unused[_ ]?\d+[\]>]|<0x[0-9A-F]{2}>|madeupword\d+")  # rows without a meaning, and lone bytes
CONTINUES = "##"  # how WordPiece writes a piece inside a word


class Fast:
    """The engine of imported tokenizers that are no SentencePiece model."""

    def __init__(self, stored: Stored) -> None:
        whole = Tokenizer.from_str(stored.model.decode())
        described: dict[str, Any] = json.loads(stored.model)
        kind = type(whole.model).__name__  # BPE, WordPiece, Unigram
        size, metadata = stored.metadata.size, stored.metadata
        self.pieces = [whole.id_to_token(number) or f"[unused_{number}]" for number in range(size)]
        special = {added["content"] for added in described.get("added_tokens", []) if added.get("special")}
        special |= {self.pieces[number] for number in metadata.sentinels}  # mT5's are pieces like any other
        self._tokenizer = _deaf_unigram(described, special) if kind == "Unigram" else whole
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokenizer.encode_special_tokens = True
        self.special = np.zeros(size, dtype=bool)
        roles = [metadata.pad, metadata.eos, metadata.unk, metadata.bos, metadata.mask, metadata.doc, metadata.clm]
        self.special[[number for number in roles if number is not None]] = True
        self.special |= np.array([piece in special for piece in self.pieces])
        meaningful = [UNUSED.fullmatch(piece) is None for piece in self.pieces]
        self.ordinary = ~self.special & np.array(meaningful)
        self.surfaces = surfaces(self.pieces, kind)

    def normalise(self, text: str) -> str:
        """The text itself: the model's rule is inside it."""
        return text

    def encode_batch(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all texts, int32, and where each ends, int64."""
        found = [one.ids for one in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]
        ends = np.cumsum(np.fromiter(map(len, found), dtype=np.int64, count=len(found)))
        return np.array([number for ids in found for number in ids], dtype=np.int32), ends

    def decode(self, ids: list[int]) -> str:
        """The text of ids that are no special tokens; WordPiece does not give back every space."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False)
        return text


def _deaf_unigram(described: dict[str, Any], special: set[str]) -> Tokenizer:
    """The same tokenizer without ears for special tokens: a Unigram model would match them in text like any piece."""
    model, plain = described["model"], [added for added in described["added_tokens"] if added["content"] not in special]
    renamed = [
        [f"{NOWHERE}{n}" if piece in special else piece, score] for n, (piece, score) in enumerate(model["vocab"])
    ]
    return Tokenizer.from_str(json.dumps({**described, "model": {**model, "vocab": renamed}, "added_tokens": plain}))


def surfaces(pieces: Sequence[str], kind: str) -> list[str]:
    """What each piece writes, a space before it where it opens a word; bytes that are no text become U+FFFD."""
    if kind == "WordPiece":
        return [piece.removeprefix(CONTINUES) if piece.startswith(CONTINUES) else f" {piece}" for piece in pieces]
    if kind == "Unigram":
        return [piece.replace(SPACE, " ") for piece in pieces]
    table = byte_letters()
    return [
        bytes(table[letter] for letter in piece).decode(errors="replace") if set(piece) <= table.keys() else piece
        for piece in pieces
    ]


def byte_letters() -> dict[str, int]:
    """Letter -> byte, as byte-level BPE writes bytes (Radford et al. 2019): printable ones as themselves."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}
