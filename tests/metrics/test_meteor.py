"""METEOR by hand, where WordNet knows no word, and what is said where there is no WordNet."""

from __future__ import annotations

import sys

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


def test_it_says_what_it_lacks(monkeypatch):
    monkeypatch.setattr(nltk.data, "path", [])
    with pytest.raises(BadConfig, match=r"WordNet, which is not here: python -m nltk.downloader wordnet"):
        meteor(Texts(["a"], ["a"]))
    monkeypatch.setitem(sys.modules, "nltk", None)
    with pytest.raises(BadConfig, match=r"pip install 'megas2s\[english\]'"):
        meteor(Texts(["a"], ["a"]))
