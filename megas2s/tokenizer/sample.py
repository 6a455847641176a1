"""A language-balanced sample of lines from a stream of any length, in one pass and bounded memory.

A language with n characters gets the share n^alpha / sum of m^alpha of the sample, as in training. Each line draws
an address-seeded u in [0, 1) and is used floor(rate) times, once more where u < rate - floor(rate), with

    rate(language) = sample size x share / n

so that its expected number of copies is the rate. Once more text has passed than the sample holds, no rate ever rises
again (the sum grows, n^(alpha - 1) falls), so a line once dropped would have been dropped at the end too: the sample is
the one that two passes would give. Small languages may have rates above one; lines are then repeated, as in training.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from megas2s.rng import address_hash

MOST_COPIES = 20  # a language of a few sentences would otherwise teach the tokenizer those sentences by heart
_SCALE = 2.0**-53


class BalancedSample:
    """Lines of text by language; `lines()` gives the sample. Holds at most about twice `characters`."""

    def __init__(self, *, characters: int, alpha: float, seed: int) -> None:
        self.characters = characters
        self.alpha = alpha
        self.seed = seed
        self.seen: dict[str, int] = {}  # characters per language, of the whole stream
        self._count: dict[str, int] = {}  # lines per language
        self._held: dict[str, list[tuple[float, str]]] = {}
        self._held_characters = 0

    def add(self, language: str, line: str) -> None:
        """Offer one line."""
        number = self._count.get(language, 0)
        self._count[language] = number + 1
        self.seen[language] = self.seen.get(language, 0) + len(line)
        draw = (address_hash(self.seed, "tokenizer", language, number) >> 75) * _SCALE
        self._held.setdefault(language, []).append((draw, line))
        self._held_characters += len(line)
        if self._held_characters > 2 * self.characters:
            self._drop()

    def rates(self) -> dict[str, float]:
        """Expected copies of each line, by language, for the text seen so far."""
        size = min(self.characters, sum(self.seen.values()))
        sizes = {language: math.exp(self.alpha * math.log(n)) for language, n in self.seen.items()}
        total = sum(sizes.values())
        return {
            language: min(float(MOST_COPIES), size * sizes[language] / total / n) for language, n in self.seen.items()
        }

    def lines(self) -> Iterator[tuple[str, str]]:
        """(language, line) of the sample, language by language in alphabetical order."""
        rates = self.rates()
        for language in sorted(self._held):
            for draw, line in self._held[language]:
                for _ in range(_copies(rates[language], draw)):
                    yield language, line

    def _drop(self) -> None:
        rates = self.rates()
        for language, held in self._held.items():
            self._held[language] = [entry for entry in held if _copies(rates[language], entry[0])]
        self._held_characters = sum(len(line) for held in self._held.values() for _, line in held)


def _copies(rate: float, draw: float) -> int:
    """How often a line is used: a whole number whose mean over `draw`, uniform in [0, 1), is `rate`."""
    return math.floor(rate) + (draw < rate % 1.0)
