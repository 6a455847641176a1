"""Text as it is spoken: without capitals and punctuation, as a speech recogniser writes it (AlexaTM 20B, section 4.1).

    spoken("Dr. Smith's flat, no. 12: 3,5 % cheaper!", "en")     "dr smith's flat no 12 3,5 cheaper"

What counts as punctuation depends on the script: an apostrophe between letters belongs to the word, a Tibetan tsheg
parts syllables, a Chinese comma stands between words that no space parts. Digits stay, with the marks between them, or
are written out in words where `num2words` (an extra) knows the language and no letter is beside them (MP3, 5km, 20th).
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable

from megas2s.data.identify import TWO_LETTERS
from megas2s.data.words import SPACELESS, punctuation
from megas2s.errors import BadConfig

# Marks that belong to a word when letters are on both sides: apostrophes, Catalan l·l, Hebrew geresh and gershayim.
INSIDE_WORDS = {"'": "'", "’": "'", "ʼ": "'", "·": "·", "\u05f3": "\u05f3", "\u05f4": "\u05f4"}
KEPT = "\u0f0b\u0e2f\u0eaf"  # the tsheg; Thai and Lao signs of abbreviation
TATWEEL = "\u0640"  # an Arabic letter that only lengthens a line
TURKIC = str.maketrans({"I": "ı", "İ": "i"})
TURKIC_LANGUAGES = ("tr", "az", "crh")
POINTED = frozenset(
    ["en", "zh", "ja", "ko", "he", "hi", "th", "bn", "ta", "te", "mr", "ur", "sw", "ms"]
)  # 3.5, not 3,5
MOST_DIGITS = 15  # longer ones are no amounts; a float holds as many

_SPACED = "[ \u00a0\u202f]"  # between groups of three digits, where the point is a comma
_NUMBER = re.compile(rf"\d{{1,3}}(?:{_SPACED}\d{{3}})+(?:,\d+)?(?!\d)|\d+(?:[.,]\d+)*")
_SPACES = re.compile(r"[^\S\n]+")
_SPACELESS = re.compile(f"[{SPACELESS}]")

Speller = Callable[[str, str], str | None]  # (digits with their marks, language) -> words, None where it knows none


def spoken(text: str, language: str, *, spell: Speller | None = None) -> str:
    """The text as it is spoken, lines kept; numbers through `spell` where it is given."""
    head = language.replace("-", "_").split("_")[0]
    head = TWO_LETTERS.get(head, head)
    if spell is not None:
        text = _NUMBER.sub(lambda found: (not _in_name(found) and spell(found[0], head)) or found[0], text)
    lowered = (text.translate(TURKIC) if head in TURKIC_LANGUAGES else text).lower()
    sounding = _marks().sub(_sounding, lowered)
    return "\n".join(line.strip() for line in _SPACES.sub(" ", sounding).split("\n"))


@functools.cache
def _marks() -> re.Pattern[str]:
    return re.compile(f"(?![{KEPT}])[{punctuation()}{TATWEEL}]")


def _sounding(found: re.Match[str]) -> str:
    """What is left of one mark: itself, a space, or nothing."""
    mark = found[0]
    if mark == TATWEEL:
        return ""
    before, after = _beside(found)
    if mark in INSIDE_WORDS and _in_word(before) and _in_word(after):
        return INSIDE_WORDS[mark]
    if mark in ".,:" and before.isdecimal() and after.isdecimal():
        return mark
    # Where nothing parts words, what stood beside one leaves no gap.
    return "" if _SPACELESS.match(before) or _SPACELESS.match(after) else " "


def _beside(found: re.Match[str]) -> tuple[str, str]:
    """The characters before and after what was found; empty at the ends of the text."""
    text = found.string
    return text[max(0, found.start() - 1) : found.start()], text[found.end() : found.end() + 1]


def _in_name(number: re.Match[str]) -> bool:
    """Whether a letter is directly beside a number, in a script that parts words by spaces: MP3, H2O, 5km, 1990s."""
    before, after = _beside(number)
    return any(_in_word(beside) and not _SPACELESS.match(beside) for beside in (before, after))


def _in_word(character: str) -> bool:
    return character.isalpha() or (character != "" and unicodedata.category(character)[0] == "M")


def speller() -> Speller:
    """Numbers in words, by `num2words`; raises BadConfig where it is not installed."""
    try:
        from num2words import CONVERTER_CLASSES, num2words
    except ImportError:
        raise BadConfig(
            "digits are spelled out by num2words, which is not installed: pip install 'megas2s[spoken]'"
        ) from None

    @functools.lru_cache(maxsize=1 << 16)
    def spell(number: str, language: str) -> str | None:
        # Of a code that it does not know num2words takes the first two letters: Filipino would be Finnish.
        value = _value(number, language) if language in CONVERTER_CLASSES else None
        if value is None:
            return None
        try:
            words: str = num2words(value, lang=language)
        except (NotImplementedError, OverflowError, ValueError, KeyError, IndexError, TypeError):
            return None  # it has no name for so large a number
        return words

    return spell


def _value(number: str, language: str) -> int | float | None:
    """A number from its digits and marks, where they can only be read in one way; None elsewhere (dates, versions)."""
    plain = "".join(str(unicodedata.digit(c)) if c.isdecimal() else c for c in number)
    if len(plain) > MOST_DIGITS or re.match(r"0\d", plain):
        return None
    if plain.isdecimal():
        return int(plain)
    point, grouping = (".", ",") if language in POINTED else (",", ".")
    if point == ",":
        plain = re.sub(_SPACED, ".", plain)
    whole, *rest = plain.split(point)
    groups = whole.split(grouping)
    grouped = len(groups) == 1 or (len(groups[0]) <= 3 and all(len(group) == 3 for group in groups[1:]))
    if len(rest) > 1 or not grouped or (rest and grouping in rest[0]):
        return None
    joined = "".join(groups)
    return float(f"{joined}.{rest[0]}") if rest else int(joined)
