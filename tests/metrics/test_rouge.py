"""ROUGE by hand, against Google's `rouge-score` on English, and in scripts that it does not know."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from rouge_score.rouge_scorer import RougeScorer, _lcs_table

from megas2s.errors import BadConfig
from megas2s.metrics.measure import Texts
from megas2s.metrics.rouge import common_length, common_places, porter, rouge

NAMES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
SAMPLE = Path(__file__).resolve().parents[2] / "launch" / "sample_corpus"


def scores(answer: str, reference: str) -> dict[str, float]:
    return {name: rouge(name, Texts([answer], [reference])).corpus for name in NAMES}


def test_values_by_hand():
    found = scores("the cat sat", "The black cat sat.")
    assert found["rouge1"] == pytest.approx(2 * 1 * (3 / 4) / (7 / 4))
    assert found["rouge2"] == pytest.approx(2 * (1 / 2) * (1 / 3) / (5 / 6))
    assert found["rougeL"] == found["rougeLsum"] == found["rouge1"]


def test_lines_in_another_order_cost_the_subsequence_of_the_whole_and_not_that_of_lines():
    found = scores("one two three\nfour five six", "four five six\none two three")
    assert (found["rouge1"], found["rougeLsum"]) == (1.0, 1.0)
    assert found["rougeL"] == 0.5


def test_a_corpus_has_the_mean_of_its_segments():
    measure = rouge("rouge1", Texts(["a b", "c"], ["a b", "d"]))
    assert measure.segments.tolist() == [1.0, 0.0]
    assert measure.corpus == 0.5


@pytest.fixture(scope="module")
def english() -> list[tuple[str, str]]:
    """(answer, reference): lines of the sample corpus with words left out, doubled and moved, some empty."""
    draw = random.Random(0)
    lines = [*(SAMPLE / "en.txt").read_text(encoding="utf-8").splitlines(), "", "“Don’t!”—she’s 3.5% sure… a_b", "."]
    pairs = []
    for line in lines * 6:
        words = line.replace(". ", ".\n").split(" ")
        answer = [word for word in words for _ in range(draw.choice((0, 1, 1, 1, 2)))]
        if draw.random() < 0.3:
            draw.shuffle(answer)
        pairs.append((" ".join(answer), " ".join(words)))
    return pairs


@pytest.mark.parametrize("stem", [False, True])
def test_on_english_all_values_are_those_of_rouge_score(english, stem):
    theirs = RougeScorer(list(NAMES), use_stemmer=stem)
    expected = [theirs.score(reference, answer) for answer, reference in english]
    texts = Texts(*map(list, zip(*english, strict=True)))
    for name in NAMES:
        ours = rouge(name, texts, stem=stem)
        assert ours.segments.tolist() == [found[name].fmeasure for found in expected]
        assert 0.2 < ours.corpus < 0.95


@pytest.mark.parametrize("language", ["th", "hi", "ar", "ja", "zh", "ko", "ta", "el", "ru"])
def test_a_text_is_equal_to_itself_in_every_script(language):
    thai = "เขาไปที่ร้านหนังสือเมื่อวานนี้"
    text = thai if language == "th" else (SAMPLE / f"{language}.txt").read_text(encoding="utf-8").splitlines()[0]
    assert scores(text, text) == pytest.approx(dict.fromkeys(NAMES, 1.0))
    half = scores(text[: len(text) // 2], text)
    assert 0.4 < half["rouge1"] < 0.9
    letters = [letter for letter in text if letter.isalpha() and not letter.isascii()]
    assert RougeScorer(["rouge1"]).score("".join(letters), "".join(letters))["rouge1"].fmeasure == 0


def test_the_length_of_a_common_subsequence_is_that_of_the_table():
    draw = random.Random(1)
    for _ in range(300):
        first, second = (draw.choices("abcd", k=draw.randrange(1, 90)) for _ in range(2))
        expected = _lcs_table(first, second)[-1][-1]
        assert common_length(first, second) == expected == len(common_places(first, second))
    assert common_length([], ["a"]) == common_length(["a"], []) == 0


def test_stems_want_nltk(monkeypatch):
    porter.cache_clear()
    monkeypatch.setitem(sys.modules, "nltk.stem.porter", None)
    with pytest.raises(BadConfig, match=r"nltk, which is not installed: pip install 'megas2s\[english\]'"):
        rouge("rouge1", Texts(["a"], ["a"]), stem=True)


def test_the_signature_says_what_was_counted():
    assert rouge("rouge2", Texts(["a"], ["a"]), stem=True).signature == (
        "rouge2|measure:f1|words:unicode|case:lc|stem:porter"
    )
