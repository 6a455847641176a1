"""The built-in sample corpus: enough languages, scripts and sentences, and free to use."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "launch" / "sample_corpus"
TEXTS = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.txt"))}
END = re.compile(r"[.!?؟।][\"”’»)]*\s+|[。！？][」』”]*")  # an abbreviated or decimal number ends nothing


def script(text: str) -> str:
    """That of most letters: LATIN, CJK, ..."""
    letters = (unicodedata.name(character).split()[0] for character in text if character.isalpha())
    return Counter(letters).most_common(1)[0][0]


def sentences(text: str) -> set[str]:
    """Its different sentences, of five letters or more."""
    parts = (part for line in text.splitlines() for part in END.split(line))
    return {part for part in parts if sum(character.isalpha() for character in part) >= 5}


def test_it_has_twelve_languages_in_six_scripts():
    assert len(TEXTS) >= 12
    scripts = {language: script(text) for language, text in TEXTS.items()}
    assert len(set(scripts.values())) >= 6, scripts


@pytest.mark.parametrize("language", TEXTS)
def test_each_language_has_a_hundred_different_sentences(language: str):
    assert len(sentences(TEXTS[language])) >= 100


def test_it_is_free_to_use():
    told = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert "CC0 1.0" in told
    assert sorted(TEXTS) == sorted(re.search(r"\(([a-z ]+)\)", told)[1].split())
