"""The scores of texts, by name.

rouge1 rouge2 rougeL rougeLsum     0 to 1      metrics/rouge.py; `rouge` is the first three
bleu chrf chrf++                   0 to 100    metrics/corpus.py, sacreBLEU
exact_match                        0 to 1
meteor                             0 to 1      metrics/meteor.py, English, with the extra `english`
gleu errant                        0 to 1      metrics/correction.py, with sources; errant is the extra `correction`
m2_f0.5 m2_precision m2_recall     0 to 1      metrics/m2.py, with gold edits; `m2` is all three
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from megas2s.errors import BadConfig
from megas2s.metrics import correction, m2
from megas2s.metrics.corpus import TOKENIZERS, bleu, chrf
from megas2s.metrics.measure import Measure, Texts, mean
from megas2s.metrics.meteor import meteor
from megas2s.metrics.rouge import rouge
from megas2s.spec import nearest

STANDARD = ("rouge1", "rouge2", "rougeL", "bleu", "chrf", "exact_match")  # cheap, and of any language
GROUPS = {"rouge": ("rouge1", "rouge2", "rougeL"), "m2": tuple(m2.SCORES)}


class Choices(NamedTuple):
    """What some of the scores leave open."""

    bleu_tokenizer: str = "13a"
    stem: bool = False  # ROUGE by the stems of English words, as summaries of English are published

    def check(self) -> None:
        """Refuse a tokenizer that there is none of."""
        if self.bleu_tokenizer not in TOKENIZERS:
            hint = nearest(self.bleu_tokenizer, TOKENIZERS)
            raise BadConfig(f"there is no tokenizer of BLEU called {self.bleu_tokenizer!r}; {hint}")


PLAIN = Choices()


def exact_match(texts: Texts) -> Measure:
    """The share of answers that equal their reference, spaces around them aside."""
    pairs = zip(texts.answers, texts.references, strict=True)
    return mean([float(answer.strip() == reference.strip()) for answer, reference in pairs], "exact_match|case:mixed")


def _m2(name: str) -> Callable[[Texts, Choices], Measure]:
    return lambda texts, choices: m2.maxmatch(name, texts)


def _rouge(name: str) -> Callable[[Texts, Choices], Measure]:
    return lambda texts, choices: rouge(name, texts, stem=choices.stem)


MEASURES: dict[str, Callable[[Texts, Choices], Measure]] = {
    **{name: _rouge(name) for name in ("rouge1", "rouge2", "rougeL", "rougeLsum")},
    "bleu": lambda texts, choices: bleu(texts, tokenizer=choices.bleu_tokenizer),
    "chrf": lambda texts, choices: chrf(texts),
    "chrf++": lambda texts, choices: chrf(texts, words=2),
    "exact_match": lambda texts, choices: exact_match(texts),
    "meteor": lambda texts, choices: meteor(texts),
    "gleu": lambda texts, choices: correction.gleu(texts),
    "errant": lambda texts, choices: correction.errant(texts),
    **{name: _m2(name) for name in m2.SCORES},
}
WITH_SOURCES = ("gleu", "errant")
ENGLISH = ("meteor", "errant")


def names(asked: Sequence[str]) -> tuple[str, ...]:
    """The scores that are asked for, groups spelt out, each once; refuses one that there is none of."""
    found: list[str] = []
    for word in asked:
        if word not in MEASURES and word not in GROUPS:
            known = (*MEASURES, *GROUPS)
            alike = [name for name in known if name.lower() == word.lower()]
            raise BadConfig(f"there is no metric {word!r}; {nearest(alike[0] if alike else word, known)}")
        found += GROUPS.get(word, (word,))
    return tuple(dict.fromkeys(found))


def measured(name: str, texts: Texts, choices: Choices = PLAIN) -> Measure:
    """One score of texts; refuses texts without the sources or gold edits that it compares with."""
    if name in WITH_SOURCES and texts.sources is None:
        raise BadConfig(f"{name} compares with what was to be corrected; give sources beside answers and references")
    if name in m2.SCORES and texts.gold is None:
        raise BadConfig(f"{name} compares with gold edits; give an .m2 file of them with --references")
    return MEASURES[name](texts, choices)
