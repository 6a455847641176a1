"""ROUGE (Lin 2004) of texts in any script: F1 of n-grams, and of the longest common subsequence.

    answer     the cat sat                      rouge1  3 of 3 and 3 of 4 words   0.857
    reference  the black cat sat                rouge2  1 of 2 and 1 of 3 pairs   0.4
                                                rougeL  "the cat sat"             0.857

rougeLsum takes the lines of a text for its sentences: the words of each sentence of the reference that are in a longest
common subsequence with any sentence of the answer, each counted once. That is what is reported on CNN/DailyMail as
ROUGE-L. Numbers are those of Google's `rouge-score`, except that words are words in every script (`tokens.py`).
A corpus has the mean over its segments.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Hashable, Sequence

from megas2s.errors import BadConfig
from megas2s.metrics.measure import Measure, Texts, mean
from megas2s.metrics.tokens import words

SHORT = 3  # longest word that is not stemmed, as in rouge-score

Words = Sequence[str]
Stem = Callable[[str], str]


def rouge(name: str, texts: Texts, *, stem: bool = False) -> Measure:
    """`rouge1`, `rouge2`, `rougeL` or `rougeLsum`; with `stem`, of English words' stems by Porter's algorithm."""
    stemmer = porter() if stem else None
    pairs = zip(texts.answers, texts.references, strict=True)
    if name == "rougeLsum":
        found = [of_sentences(_lines(answer, stemmer), _lines(reference, stemmer)) for answer, reference in pairs]
    else:
        score = {"rouge1": functools.partial(of_grams, size=1), "rouge2": functools.partial(of_grams, size=2)}.get(
            name, of_subsequence
        )
        found = [score(_stemmed(answer, stemmer), _stemmed(reference, stemmer)) for answer, reference in pairs]
    return mean(found, f"{name}|measure:f1|words:unicode|case:lc|stem:{'porter' if stem else 'no'}")


def of_grams(answer: Words, reference: Words, *, size: int) -> float:
    """F1 of runs of `size` words, each counted as often as it is in both."""
    ours, theirs = _grams(answer, size), _grams(reference, size)
    return _f1(sum((ours & theirs).values()), sum(ours.values()), sum(theirs.values()))


def of_subsequence(answer: Words, reference: Words) -> float:
    """F1 of the longest common subsequence."""
    return _f1(common_length(answer, reference), len(answer), len(reference))


def of_sentences(answer: Sequence[Words], reference: Sequence[Words]) -> float:
    """F1 of the union of the longest common subsequences of each sentence of the reference with all of the answer."""
    left_of_answer = Counter(word for sentence in answer for word in sentence)
    left_of_reference = Counter(word for sentence in reference for word in sentence)
    whole, asked = left_of_answer.total(), left_of_reference.total()
    hits = 0
    for sentence in reference:
        places = {place for other in answer for place in common_places(sentence, other)}
        for word in (sentence[place] for place in sorted(places)):
            if left_of_answer[word] and left_of_reference[word]:  # as ROUGE-1.5.5: no word is counted twice
                hits += 1
                left_of_answer[word] -= 1
                left_of_reference[word] -= 1
    return _f1(hits, whole, asked)


def common_length(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """The length of a longest common subsequence, a row of the usual table in one integer (Hyyrö 2004)."""
    places: dict[Hashable, int] = {}
    for place, item in enumerate(first):
        places[item] = places.get(item, 0) | 1 << place
    full = (1 << len(first)) - 1
    row = full  # bit i is 0 where the table's row grows from i to i + 1
    for item in second:
        matches = row & places.get(item, 0)
        row = ((row + matches) | (row - matches)) & full
    return len(first) - row.bit_count()


def common_places(reference: Words, answer: Words) -> list[int]:
    """Places in `reference` of one longest common subsequence: of several, the one that rouge-score takes."""
    table = [[0] * (len(answer) + 1)]
    for word in reference:
        above, row = table[-1], [0]
        for column, other in enumerate(answer):
            row.append(above[column] + 1 if word == other else max(above[column + 1], row[column]))
        table.append(row)
    found = []
    i, j = len(reference), len(answer)
    while i and j:
        if reference[i - 1] == answer[j - 1]:
            i, j = i - 1, j - 1
            found.append(i)
        elif table[i][j - 1] > table[i - 1][j]:
            j -= 1
        else:
            i -= 1
    return found


@functools.cache
def porter() -> Stem:
    """Porter's stemmer of English words, as nltk has it and rouge-score uses it; a word is stemmed once."""
    try:
        from nltk.stem.porter import PorterStemmer
    except ImportError:
        raise BadConfig("words are stemmed by nltk, which is not installed: pip install 'megas2s[english]'") from None
    return functools.lru_cache(maxsize=1 << 16)(PorterStemmer().stem)


def _stemmed(text: str, stem: Stem | None) -> Words:
    found = words(text)
    return found if stem is None else [stem(word) if len(word) > SHORT else word for word in found]


def _lines(text: str, stem: Stem | None) -> list[Words]:
    return [_stemmed(line, stem) for line in text.split("\n") if line]


def _grams(found: Words, size: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(found[start : start + size]) for start in range(len(found) - size + 1))


def _f1(matches: int, of_answer: int, of_reference: int) -> float:
    if not matches:
        return 0.0
    precision, recall = matches / of_answer, matches / of_reference
    return 2 * precision * recall / (precision + recall)
