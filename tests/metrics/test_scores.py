"""Scores by hand-made answers whose values are known."""

from __future__ import annotations

import pytest

from megas2s.metrics.scores import of_classes, of_numbers, of_tags, of_texts


def test_classes():
    found = of_classes(["a", "a", "b", "b"], ["a", "b", "b", "b"])
    assert found["accuracy"] == 0.75
    assert found["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert found["matthews"] == pytest.approx(1 / 3**0.5)  # (1 * 2 - 1 * 0) / sqrt(2 * 1 * 3 * 2)


def test_one_answer_for_all_has_no_correlation():
    assert of_classes(["a", "a"], ["a", "b"])["matthews"] == 0.0


def test_numbers():
    found = of_numbers([1.0, 2.0, 4.0], [1.0, 2.0, 3.0])
    assert found["pearson"] == pytest.approx(0.981981)
    assert found["spearman"] == pytest.approx(1.0)


def test_a_constant_correlates_with_nothing():
    assert of_numbers([1.0, 1.0], [1.0, 2.0]) == {"pearson": 0.0, "spearman": 0.0}


def test_tags_are_counted_by_word_and_spans_where_they_are_marked():
    assert of_tags([["NOUN", "VERB"], ["NOUN"]], [["NOUN", "NOUN"], ["NOUN"]]) == {"accuracy": pytest.approx(2 / 3)}
    found = of_tags([["B-PER", "I-PER", "O"], ["O"]], [["B-PER", "I-PER", "O"], ["B-LOC"]])
    assert found["accuracy"] == 0.75
    assert found["span_f1"] == pytest.approx(2 / 3)  # one of one found, one of two


def test_texts():
    line = "wie geht es dir heute"
    best = {"rouge1": 1.0, "rouge2": 1.0, "rougeL": 1.0, "bleu": 100.0, "chrf": 100.0, "exact_match": 1.0}
    assert of_texts([line], [line]) == pytest.approx(best)
    found = of_texts(["ganz anders", line], ["etwas", line])
    assert found.keys() == best.keys()
    assert (found["rouge1"], found["exact_match"]) == (0.5, 0.5)
    assert 0 < found["chrf"] < 100
    assert 0 < found["bleu"] < 100


def test_texts_in_any_script():
    for line in ("हिन्दी में लिखा हुआ वाक्य", "เขาไปที่ร้านหนังสือ"):
        assert [of_texts([line], [line])[name] for name in ("rouge1", "rouge2", "rougeL")] == [1.0, 1.0, 1.0]
