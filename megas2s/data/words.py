"""Words and runs of words of a text in any script, as 64-bit hashes: by these texts are compared.

    words("Où est-il ? 東京です。")   ["où", "est", "il", "東", "京", "で", "す"]

Case, punctuation and how Unicode composes a letter (NFKC) say nothing here. In scripts that part no words by spaces
every letter counts as a word.
"""

from __future__ import annotations

import functools
import hashlib
import re
import sys
import unicodedata
from collections.abc import Sequence

import numpy as np

SPACELESS = (  # Thai, Lao, Myanmar, Khmer, Kana, Han
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9d\U00020000-\U0003ffff"
)
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd: multiplying by it modulo 2**64 loses nothing
_MIXERS = ((np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB)))


def ranges(codes: Sequence[int]) -> str:
    """Code points in rising order as what stands in a regular expression's []: runs of neighbours as ranges."""
    starts = [code for code, before in zip(codes, [-2, *codes], strict=False) if code != before + 1]
    ends = [code for code, after in zip(codes, [*codes[1:], sys.maxunicode + 2], strict=True) if code != after - 1]
    return "".join(f"\\U{start:08x}-\\U{end:08x}" for start, end in zip(starts, ends, strict=True))


@functools.cache
def punctuation() -> str:
    """Punctuation and symbols of all scripts (Unicode categories P and S), as what stands in a regular expression's [].

    Runs of neighbours are given as ranges.
    """
    return ranges([code for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code))[0] in "PS"])


@functools.cache
def _word() -> re.Pattern[str]:
    marks = "[\u0300-\u036f\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece\u102b-\u103e\u17b4-\u17d3]"
    return re.compile(rf"(?![{punctuation()}])[{SPACELESS}]{marks}*|[^\s{punctuation()}{SPACELESS}]+")


def words(text: str) -> list[str]:
    """The words of a text, composed alike and case folded."""
    return _word().findall(unicodedata.normalize("NFKC", text).casefold())


def grams(text: str, size: int) -> np.ndarray:
    """Hashes of all runs of `size` words, (words - size + 1,) of uint64; none of a shorter text."""
    return _runs(_hashes(text), size)


def shingles(text: str, size: int) -> np.ndarray:
    """The different runs of `size` words, sorted; of a shorter text the one run of all its words."""
    hashes = _hashes(text)
    found: np.ndarray = np.unique(_runs(hashes, min(size, max(1, len(hashes)))))
    return found


def _hashes(text: str) -> np.ndarray:
    return np.fromiter(map(_hash, words(text)), np.uint64)


@functools.lru_cache(maxsize=1 << 18)
def _hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


def _runs(hashes: np.ndarray, size: int) -> np.ndarray:
    """One hash a run: a polynomial in the words' hashes, modulo 2**64, mixed so that its low bits are as good."""
    count = len(hashes) - size + 1
    if count < 1:
        return np.empty(0, np.uint64)
    found = np.zeros(count, np.uint64)
    for offset in range(size):
        found = found * _BASE + hashes[offset : offset + count]
    for shift, factor in _MIXERS:  # the finaliser of SplitMix64
        found = (found ^ (found >> shift)) * factor
    return found ^ (found >> np.uint64(31))
