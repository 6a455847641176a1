"""Text made fit for a tokenizer: line ends unified, control characters removed. Nothing else is touched.

Unicode normalisation belongs to the tokenizer, which must do it again when the model is used.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# Lone surrogates are no text at all: JSON can spell them, no encoding can hold them.
_SURROGATE = re.compile("[\ud800-\udfff]")
# C0 and C1 but tab and newline; the byte order mark; the two code points that are no characters.
_CONTROL = re.compile("[\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f\ufeff\ufffe\uffff]")
_LINE_END = re.compile("\r\n|[\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_SUSPECT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


class Cleaned(NamedTuple):
    """A text without control characters, and how many there were."""

    text: str
    removed: int


def clean(text: str) -> Cleaned | None:
    """`text` with every line end as a newline and without control characters; None if it holds lone surrogates."""
    if _SUSPECT.search(text) is None:
        return Cleaned(text, 0)
    if _SURROGATE.search(text) is not None:
        return None
    return Cleaned(*_CONTROL.subn("", _LINE_END.sub("\n", text)))
