"""What is done to documents between reading and encoding: screened by language and by evaluation text, signed, spoken.

A `Screening` says what is wanted and is part of what makes a corpus what it is; a `Screen` does it, in a worker.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from megas2s.data.contamination import Contamination
from megas2s.data.identify import Identifier
from megas2s.data.signatures import Signer
from megas2s.data.spoken import speller, spoken
from megas2s.spec import spec

OTHER_LANGUAGE, CONTAMINATED = "other language", "evaluation text"
DIGITS = ("kept", "spelled")


@spec
class Screening:
    """Which documents are dropped for what they say, and in which form the others are encoded."""

    near_duplicates: float = 0.0  # drop what shares so much of its runs of five words with an earlier one; 0: nothing
    evaluation: tuple[str, ...] = ()  # files and folders: drop what has 13 words in a row with a text of theirs
    identify: float = 0.0  # drop what is in another language than it should be, with this probability; 0: nothing
    language_model: str | None = None  # a fastText file that knows languages; None: the compressed one of 176
    spoken: float = 0.0  # share of documents without capitals and punctuation, the others written
    spoken_digits: str = "kept"

    def __post_init__(self) -> None:
        for name in ("near_duplicates", "identify", "spoken"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], found {getattr(self, name)}")
        if self.spoken_digits not in DIGITS:
            raise ValueError(f"spoken_digits must be one of {', '.join(DIGITS)}, found {self.spoken_digits!r}")
        if self.language_model is not None and not self.identify:
            raise ValueError("language_model is given without identify, so nothing asks it; give identify, 0.8 perhaps")
        if self.spoken_digits == "spelled" and not self.spoken:
            raise ValueError("spoken_digits is spelled, but no document is spoken; give spoken, a share of documents")


class Screen:
    """The means for one screening, opened once a process; raises BadConfig where an extra that it needs is missing."""

    def __init__(self, wanted: Screening, grams: Path | None) -> None:
        self._wanted = wanted
        self._identifier = Identifier(wanted.language_model) if wanted.identify else None
        self._contamination = Contamination(grams) if grams is not None else None
        self._signer: Callable[[str], np.ndarray] | None = Signer() if wanted.near_duplicates else None
        self._spell = speller() if wanted.spoken and wanted.spoken_digits == "spelled" else None

    def reason(self, text: str, language: str) -> str | None:
        """Why a document is dropped, None where it is not."""
        if self._identifier is not None and self._identifier.contradicts(text, language, self._wanted.identify):
            return OTHER_LANGUAGE
        if self._contamination is not None and self._contamination.taints(text):
            return CONTAMINATED
        return None

    def signature(self, text: str) -> np.ndarray | None:
        """(128,) of uint32, None where near-duplicates stay."""
        return None if self._signer is None else self._signer(text)

    def view(self, text: str, language: str, low: int) -> str:
        """The text in the form that is encoded; `low`, half of its hash, decides, so equal texts have one form."""
        if (low & 0xFFFFFFFF) >= self._wanted.spoken * 2**32:
            return text
        return spoken(text, language, spell=self._spell)
