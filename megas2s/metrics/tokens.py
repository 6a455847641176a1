"""Words of a text in any script, as ROUGE counts them, and the pieces that two texts are compared by.

    words("Où est-il en 2024 ?")        où  est  il  en  2024
    words("ไปที่ร้าน")                    ไ  ป  ที่  ร้  า  น
    words("हिन्दी में")                   हिन्दी  में

A word is a run of letters, marks and digits (Unicode's categories L, M, Nd and Nl) that begins with no mark; everything
else parts words and says nothing. Thai, Lao, Khmer, Myanmar, Han, Hiragana and Katakana are written without spaces:
there each letter, with the marks on it, is a word. Case says nothing, nor does the way in which Unicode composes a
letter (NFC), nor the joiners U+200C and U+200D, which only shape letters.

Google's `rouge-score` keeps a-z and 0-9 alone. Where a text has no other letters or digits, the words are the same.
"""

from __future__ import annotations

import functools
import re
import sys
import unicodedata
from collections.abc import Iterable

from megas2s.data.words import SPACELESS, ranges

CACHED = 1 << 15  # texts whose words are kept: each of ROUGE's scores asks for them
_ALONE = re.compile(f"[{SPACELESS}]")


@functools.lru_cache(maxsize=CACHED)
def words(text: str) -> tuple[str, ...]:
    """The words of a text, in lower case."""
    plain = unicodedata.normalize("NFC", text.lower()).replace("\u200c", "").replace("\u200d", "")
    return tuple(_word().findall(plain))


def pieces(text: str) -> list[str]:
    """A text in pieces that make it up: words as they are written, single other characters, runs of spaces."""
    return _piece().findall(text)


def is_unspaced(texts: Iterable[str]) -> bool:
    """Whether most words of these texts are of scripts that are written without spaces."""
    found = [bool(_ALONE.match(word)) for text in texts for word in words(text)]
    return sum(found) > len(found) / 2


@functools.cache
def _word_pattern() -> str:
    categories = [unicodedata.category(chr(code)) for code in range(sys.maxunicode + 1)]
    firsts = [code for code, category in enumerate(categories) if category[0] == "L" or category in ("Nd", "Nl")]
    marks = ranges([code for code, category in enumerate(categories) if category[0] == "M"])
    single = ranges([code for code in firsts if _ALONE.match(chr(code))])
    spaced = ranges([code for code in firsts if not _ALONE.match(chr(code))])
    return f"[{single}][{marks}]*|[{spaced}][{spaced}{marks}]*"


@functools.cache
def _word() -> re.Pattern[str]:
    return re.compile(_word_pattern())


@functools.cache
def _piece() -> re.Pattern[str]:
    return re.compile(rf"{_word_pattern()}|\s+|.")
