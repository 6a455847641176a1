"""GLEU by hand; ERRANT's edits by errant itself, with an English that knows no parts of speech."""

from __future__ import annotations

import math
import sys
from functools import partial

import errant as library
import numpy as np
import pytest
import spacy

from megas2s.errors import BadConfig
from megas2s.metrics.correction import errant, f_half, gleu, gleu_counts
from megas2s.metrics.measure import Texts
from megas2s.metrics.texts import measured

SOURCE, REFERENCE, ANSWER = "He go to school .", "He goes to school .", "He goes to the school ."


def test_gleu_counts_what_answer_and_reference_share_less_what_should_have_been_changed():
    counts = gleu_counts(ANSWER.split(), REFERENCE.split(), SOURCE.split())
    assert counts == [6, 5, 5, 6, 3, 5, 1, 4, 0, 3]
    unchanged = gleu_counts(SOURCE.split(), REFERENCE.split(), SOURCE.split())
    assert unchanged == [5, 5, 4 - 1, 5, 2 - 2, 4, 0, 3, 0, 2]  # "go", "He go" and "go to" were to be changed


def test_gleu_of_a_sentence_takes_nothing_for_one_and_a_corpus_adds_up():
    found = gleu(Texts([ANSWER, REFERENCE], [REFERENCE, REFERENCE], [SOURCE, SOURCE]))
    assert found.segments[0] == pytest.approx((5 / 6 * 3 / 5 * 1 / 4 * 1 / 3) ** 0.25)
    assert found.segments[1] == pytest.approx(1.0)
    assert found.corpus == pytest.approx((10 / 11 * 7 / 9 * 4 / 7 * 2 / 5) ** 0.25)


def test_gleu_punishes_what_is_too_short():
    short, reference = "a b c d", "a b c d e"
    assert gleu(Texts([short], [reference], [short])).corpus == pytest.approx(math.exp(1 - 5 / 4))
    assert gleu(Texts([""], [reference], [short])).corpus == 0.0


@pytest.fixture
def english(monkeypatch):
    """errant without the model that it downloads: its alignment and its merging, no parts of speech."""
    monkeypatch.setattr(library, "load", partial(library.load, nlp=spacy.blank("en")))


def test_errant_compares_edits(english):
    sources = [SOURCE, SOURCE, "All is well .", SOURCE]
    references = [REFERENCE, REFERENCE, "All is well .", REFERENCE]
    found = errant(Texts([ANSWER, REFERENCE, "All is well .", SOURCE], references, sources))
    assert found.statistics.tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert found.segments.tolist() == pytest.approx([1.25 * 0.5 / (0.25 * 0.5 + 1), 1.0, 1.0, 0.0])
    assert found.corpus == pytest.approx(2 / 3)  # two right, one too many, one missing
    assert found.signature == f"errant|f:0.5|spans|tok:spaces|en_core_web_sm|version:{library.__version__}"


def test_f_half_weighs_precision_more():
    assert f_half(np.array([1, 0, 1])) == pytest.approx(1.25 * 0.5 / (0.25 + 0.5))
    assert f_half(np.array([1, 1, 0])) == pytest.approx(1.25 * 0.5 / (0.125 + 1))
    assert f_half(np.array([0, 2, 3])) == 0.0


def test_errant_says_what_it_lacks(monkeypatch):
    texts = Texts([ANSWER], [REFERENCE], [SOURCE])

    def absent(*name, **more):
        raise OSError("no such model")

    monkeypatch.setattr(spacy, "load", absent)
    with pytest.raises(BadConfig, match="which is not here: python -m spacy download en_core_web_sm"):
        errant(texts)
    monkeypatch.setitem(sys.modules, "errant", None)
    with pytest.raises(BadConfig, match=r"errant is not installed.*pip install 'megas2s\[correction\]'"):
        errant(texts)


@pytest.mark.parametrize("name", ["gleu", "errant"])
def test_a_correction_is_not_judged_without_what_was_corrected(name):
    with pytest.raises(BadConfig, match=f"{name} compares with what was to be corrected; give sources"):
        measured(name, Texts([ANSWER], [REFERENCE]))
