"""Text as it is spoken: without capitals and punctuation, as a speech recogniser writes it (AlexaTM 20B, section 4.1).

    spoken("Dr. Smith's flat, no. 12: 3,5 % cheaper!", "en")     "dr smith's flat no 12 3,5 cheaper"

What counts as punctuation depends on the script: an apostrophe between letters belongs to the word, a Tibetan tsheg
parts syllables, a Chinese comma stands between words that no space parts. Digits stay, with the marks between them, or
are written out in words where `num2words` (an extra) knows the language.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable

from megas2s.errors import BadConfig

# Marks that belong to a word when letters are on both sides: apostrophes, Catalan l·l, Hebrew geresh and gershayim.
INSIDE_WORDS = {"'": "'", "’": "'", "ʼ": "'", "·": "·", "\u05f3": "\u05f3", "\u05f4": "\u05f4"}
KEPT = {
    "\u0f0b",
    "\u0e2f",
    "\u0eaf",
}  # the tsheg; Thai and Lao signs of abbreviation
DROPPED_LETTERS = {"\u0640"}  # the Arabic tatweel only lengthens a line
TURKIC = str.maketrans({"I": "ı", "İ": "i"})
TURKIC_LANGUAGES = ("tr", "az", "crh", "kk-latn")
SPACELESS = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9d\U00020000-\U0003ffff]"
)  # Thai, Lao, Myanmar, Khmer, Kana, Han: scripts that part no words by spaces
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
SPACES = re.compile(r"[^\S\n]+")

Speller = Callable[[str, str], str | None]  # (digits with their marks, language) -> words, None where it knows none


def spoken(text: str, language: str, *, spell: Speller | None = None) -> str:
    """The text as it is spoken, lines kept; numbers through `spell` where it is given."""
    if spell is not None:
        text = NUMBER.sub(lambda found: spell(found[0], language) or found[0], text)
    lowered = (text.translate(TURKIC) if language in TURKIC_LANGUAGES else text).lower()
    found = "".join(_sounding(lowered, index) for index in range(len(lowered)))
    return "\n".join(line.strip() for line in SPACES.sub(" ", found).split("\n"))


def _sounding(text: str, index: int) -> str:
    """What is left of one character: itself, a space, or nothing."""
    character = text[index]
    kind = unicodedata.category(character)
    if character in DROPPED_LETTERS:
        return ""
    if kind[0] not in "PS" or character in KEPT:
        return character
    before, after = text[index - 1 : index] if index else "", text[index + 1 : index + 2]
    if character in INSIDE_WORDS and before.isalpha() and after.isalpha():
        return INSIDE_WORDS[character]
    if character in ".,:" and before.isdecimal() and after.isdecimal():
        return character
    # Where nothing parts words, what stood between two of them leaves no gap.
    return "" if SPACELESS.match(before) and SPACELESS.match(after) else " "


def speller() -> Speller:
    """Numbers in words, by `num2words`; raises BadConfig where it is not installed."""
    try:
        from num2words import num2words
    except ImportError:
        raise BadConfig(
            "digits are spelled out by num2words, which is not installed: pip install megas2s[spoken]"
        ) from None

    @functools.lru_cache(maxsize=1 << 16)
    def spell(number: str, language: str) -> str | None:
        digits = _value(number, language)
        if digits is None:
            return None
        try:
            words: str = num2words(digits, lang=language.replace("-", "_"))
        except (NotImplementedError, OverflowError, ValueError, KeyError, IndexError):
            return None
        return words

    return spell


def _value(number: str, language: str) -> int | float | None:
    """A number from its digits and marks, where they can only be read in one way; None elsewhere (dates, versions)."""
    plain = "".join(str(unicodedata.digit(c)) if c.isdecimal() else c for c in number)
    if plain.isdecimal():
        return int(plain) if len(plain) <= 15 else None
    point, grouping = (".", ",") if language in POINTED else (",", ".")
    whole, *rest = plain.split(point)
    groups = whole.split(grouping)
    grouped = len(groups) == 1 or (len(groups[0]) <= 3 and all(len(group) == 3 for group in groups[1:]))
    if len(rest) > 1 or not grouped or (rest and grouping in rest[0]):
        return None
    joined = "".join(groups)
    return float(f"{joined}.{rest[0]}") if rest else int(joined)


# Languages that write a decimal point; the others write a comma.
POINTED = frozenset(["en", "zh", "ja", "ko", "he", "hi", "th", "bn", "ta", "te", "mr", "ur", "sw", "ms"])
