"""BLEU and chrF: sums of segments' statistics give what sacreBLEU gives."""

from __future__ import annotations

from pathlib import Path

import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from megas2s.metrics.corpus import TOKENIZERS, bleu, chrf
from megas2s.metrics.measure import Texts

SAMPLE = Path(__file__).resolve().parents[2] / "launch" / "sample_corpus"


@pytest.fixture(scope="module")
def texts() -> Texts:
    """Lines in four scripts, each answered by itself without its third word or character, and one by nothing."""
    references, answers = [], []
    for language in ("en", "ar", "hi", "zh"):
        for line in (SAMPLE / f"{language}.txt").read_text(encoding="utf-8").splitlines()[:6]:
            words = line.split(" ") if " " in line else list(line)
            references.append(line)
            answers.append(("" if language == "zh" else " ").join(words[:2] + words[3:]))
    return Texts([*answers, ""], [*references, "something"])


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_bleu_is_sacrebleu_s_with_its_signature(texts, tokenizer):
    ours, theirs = bleu(texts, tokenizer=tokenizer), BLEU(tokenize=tokenizer)
    assert ours.corpus == pytest.approx(theirs.corpus_score(texts.answers, [texts.references]).score)
    assert ours.signature == str(theirs.get_signature())
    assert f"tok:{tokenizer}|" in ours.signature
    alone = BLEU(tokenize=tokenizer, effective_order=True)
    pairs = zip(texts.answers, texts.references, strict=True)
    assert ours.segments.tolist() == pytest.approx([alone.sentence_score(a, [b]).score for a, b in pairs])


@pytest.mark.parametrize("words", [0, 2])
def test_chrf_is_sacrebleu_s_with_its_signature(texts, words):
    ours, theirs = chrf(texts, words=words), CHRF(word_order=words)
    assert ours.corpus == pytest.approx(theirs.corpus_score(texts.answers, [texts.references]).score)
    assert ours.signature == str(theirs.get_signature())
    pairs = zip(texts.answers, texts.references, strict=True)
    assert ours.segments.tolist() == pytest.approx([theirs.sentence_score(a, [b]).score for a, b in pairs])


def test_a_part_of_a_corpus_has_the_score_that_it_has_alone(texts):
    part = Texts(texts.answers[3:9], texts.references[3:9])
    for make in (bleu, chrf):
        whole = make(texts)
        assert whole.score(whole.statistics[3:9].sum(axis=0)) == pytest.approx(make(part).corpus)
