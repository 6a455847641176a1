"""Scores of texts by name."""

from __future__ import annotations

import pytest

from megas2s.errors import BadConfig
from megas2s.metrics.m2 import SCORES
from megas2s.metrics.measure import Texts
from megas2s.metrics.texts import MEASURES, STANDARD, Choices, measured, names


def test_a_group_is_its_members_and_nothing_is_scored_twice():
    assert names(["rouge", "bleu", "chrf", "exact_match"]) == STANDARD
    assert names(["rouge2", "rouge", "rouge"]) == ("rouge2", "rouge1", "rougeL")


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("ruoge", r"did you mean 'rouge'\?"),
        ("BLEU", r"did you mean 'bleu'\?"),
        ("f", "known: bleu, chrf"),
        ("rougel", r"did you mean 'rougeL'\?"),
    ],
)
def test_an_unknown_metric_names_the_nearest(word, hint):
    with pytest.raises(BadConfig, match=f"there is no metric '{word}'; {hint}"):
        names(["chrf", word])


def test_an_unknown_tokenizer_names_the_nearest():
    with pytest.raises(BadConfig, match=r"no tokenizer of BLEU called 'chars'; did you mean 'char'\?"):
        Choices(bleu_tokenizer="chars").check()


@pytest.mark.parametrize(
    "name", [name for name in MEASURES if name not in ("meteor", "errant", *SCORES)]
)  # they have files of their own
def test_an_answer_that_is_its_reference_has_the_top_score_and_nothing_has_none(name):
    text = "He goes to the school of this town ."
    found = measured(name, Texts([text, ""], [text, text], ["He go to school of this town .", text]))
    assert found.segments[0] == pytest.approx(found.top)
    assert found.segments[1] < 0.1 * found.top or name == "gleu"  # which takes counts of 0 for 1
    assert found.score(found.statistics[0]) == pytest.approx(found.top)


def test_exact_match_overlooks_spaces_at_the_ends_alone():
    found = measured("exact_match", Texts([" a b\n", "a  b", "A b"], ["a b"] * 3))
    assert found.segments.tolist() == [1.0, 0.0, 0.0]
