"""What happens to a text before SentencePiece sees it, and after: the part of a tokenizer that is not its model.

normalise   Unicode NFC or NFKC; U+2581 becomes a space, because SentencePiece writes spaces as U+2581;
            lone surrogates, which no file can hold, become U+FFFD. Nothing else changes: runs of spaces,
            tabs and newlines stay. A second call changes nothing.
open_lines  every line opens with a space, as SentencePiece opens every text with one, so that a word has
            the same piece at the start of a line as anywhere else; "a\\nb" is encoded as "▁a <0x0A> ▁b".
close_lines the exact inverse, after decoding.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

Normalization = Literal["nfc", "nfkc", "model"]  # "model": an imported model's own rule, applied inside SentencePiece

SPACE = "▁"  # U+2581, how SentencePiece writes a space
_LINE_START = re.compile("\n(?=[^\n])")
_SURROGATE = re.compile("[\ud800-\udfff]")


def normalise(text: str, normalization: Normalization) -> str:
    """The text that decoding gives back; see the head of this module."""
    if normalization == "nfc":
        text = unicodedata.normalize("NFC", text)
    elif normalization == "nfkc":
        text = unicodedata.normalize("NFKC", text)
    if normalization != "model":
        text = text.replace(SPACE, " ")
    try:
        text.encode()
    except UnicodeEncodeError:
        text = _SURROGATE.sub("\ufffd", text)
    return text


def open_lines(text: str) -> str:
    """A space after every newline that does not end the text or stand before another newline."""
    return _LINE_START.sub("\n ", text)


def close_lines(text: str) -> str:
    """Take back what `open_lines` put in."""
    return text.replace("\n ", "\n")


def cut(text: str, longest: int) -> list[str]:
    """`text` in parts of about `longest` characters, each parted from the next by one space, which is dropped.

    SentencePiece puts that space back at the head of every part, and no piece reaches across a space, so the
    parts together have the ids of the whole. A stretch without spaces is not cut.
    """
    parts = []
    start = 0
    while len(text) - start > longest:
        at = text.rfind(" ", start + 1, start + longest)
        if at < 0:
            at = text.find(" ", start + longest)
        if at < 0 or at + 1 >= len(text):  # an empty last part would lose its space
            break
        parts.append(text[start:at])
        start = at + 1
    return [*parts, text[start:]]
