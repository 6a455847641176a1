"""METEOR by hand, where WordNet knows no word, and what is said where there is no WordNet."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import NamedTuple

import nltk
import pytest
from nltk.corpus import wordnet

from megas2s.errors import BadConfig
from megas2s.metrics.measure import Texts
from megas2s.metrics.meteor import meteor


def test_words_and_stems_are_matched_and_chunks_cost(monkeypatch):
    monkeypatch.setitem(vars(wordnet), "ensure_loaded", lambda: None)
    monkeypatch.setitem(vars(wordnet), "synsets", lambda word: [])
    found = meteor(Texts(["The cat sat", "sat the cat", "no"], ["the cats sat down", "the cat sat", "yes"]))
    one_chunk = (1 - 0.5 * (1 / 3) ** 3) * (0.75 / (0.9 + 0.1 * 0.75))
    two_chunks = 1 - 0.5 * (2 / 3) ** 3
    assert found.segments.tolist() == pytest.approx([one_chunk, two_chunks, 0.0])
    assert found.signature == f"meteor|alpha:0.9|beta:3|gamma:0.5|case:lc|wordnet|nltk:{nltk.__version__}"


class Synset(NamedTuple):
    """A set of synonyms, as far as METEOR looks into one."""

    words: tuple[str, ...]

    def lemmas(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name=lambda word=word: word) for word in self.words]


def test_synonyms_are_matched_where_they_are_their_own_stems(monkeypatch):
    synsets = {word: [Synset(("big", "great", "large"))] for word in ("big", "great", "large")}
    monkeypatch.setitem(vars(wordnet), "ensure_loaded", lambda: None)
    monkeypatch.setitem(vars(wordnet), "synsets", lambda word: synsets.get(word, []))
    answers = ["the great dog sleeps", "the old dog sleeps", "the large dog sleeps"]
    found = meteor(Texts(answers, ["the big dog"] * 3))
    # All 3 words of the reference and 3 of the answer's 4, in one chunk.
    synonym = (1 - 0.5 * (1 / 3) ** 3) * (3 / 4 * 1) / (0.9 * 3 / 4 + 0.1 * 1)
    # "the" and "dog" alone: 2 of 3 and 2 of 4, in two chunks of a word each.
    none = (1 - 0.5 * (2 / 2) ** 3) * (2 / 4 * 2 / 3) / (0.9 * 2 / 4 + 0.1 * 2 / 3)
    assert found.segments.tolist() == pytest.approx([synonym, none, none])  # of "large", "larg" is looked up


def test_it_says_what_it_lacks(monkeypatch):
    monkeypatch.setattr(nltk.data, "path", [])
    with pytest.raises(BadConfig, match=r"WordNet, which is not here: python -m nltk.downloader wordnet"):
        meteor(Texts(["a"], ["a"]))
    monkeypatch.setitem(sys.modules, "nltk", None)
    with pytest.raises(BadConfig, match=r"pip install 'megas2s\[english\]'"):
        meteor(Texts(["a"], ["a"]))
