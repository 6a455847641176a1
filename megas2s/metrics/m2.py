"""MaxMatch, M2 (Dahlmeier and Ng 2012): how many edits of a correction are gold edits, when it is read in their favour.

    source  He go to school the .     gold    go -> goes, "to school the" -> "to school"
    answer  He goes to school .       edits   go -> goes, "to school the" -> "to school"     2 right, none too many

An answer does not say what its edits are. All cheapest alignments with the source make a lattice of words that are
kept, replaced, inserted and deleted, and neighbouring steps may be one edit if it changes a word and keeps at most
`MAX_UNCHANGED`. Of all ways through the lattice, that with most gold edits is taken; of several, that with the fewest
words changed by other edits; then that with the fewest edits. As in version 3.2 of the authors' scorer, the lattice
joins alignments where replacing a word costs as much as inserting one with those where it costs twice that, a word's
case counts, and precision and recall of no edits are 1.

Of several annotators, a sentence is held against the one with whom the sums of it and of all before it have the best
F0.5. That is chosen once, in the order of the file; scores of a language and of resampled corpora rest on it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from megas2s.metrics.correction import f_half, precision, recall
from megas2s.metrics.gold import GoldEdit, Words
from megas2s.metrics.measure import Measure, Texts
from megas2s.metrics.tokens import CACHED

MAX_UNCHANGED = 2
SCORES: dict[str, Callable[[np.ndarray], float]] = {"m2_f0.5": f_half, "m2_precision": precision, "m2_recall": recall}
CLOSED = -1  # in place of a number of kept words: no edit is under way

Node = tuple[int, int]  # how many words of the source and of the answer lie behind
Steps = dict[Node, list[tuple[Node, bool]]]  # from each node, in reading order: where to, and whether it changes a word
Jumps = dict[Node, list[tuple[Node, int]]]  # from nodes: where a gold edit leads, and its rank among insertions there
State = tuple[int, int]  # words kept by the edit under way, or CLOSED; rank of the last gold insertion made just here
Worth = tuple[int, int, int]  # less is better: minus gold edits made, words changed by others, edits


class Counts(NamedTuple):
    """How many of the answer's edits are gold edits, how many it has, and how many gold edits there are."""

    right: int
    proposed: int
    gold: int


NONE = Counts(0, 0, 0)


def maxmatch(name: str, texts: Texts) -> Measure:
    """One of `SCORES`; statistics are edits that are right, too many and missing, (N, 3)."""
    assert texts.gold is not None, "`measured` refuses texts without gold edits"
    found = [
        counts(sentence.words, tuple(answer.split()), sentence.annotators)
        for answer, sentence in zip(texts.answers, texts.gold, strict=True)
    ]
    score = SCORES[name]
    return Measure(
        np.stack([_statistics(one) for one in chosen(found)]),
        score,
        np.asarray([score(_statistics(best(annotators))) for annotators in found]),
        f"{name}|unchanged:{MAX_UNCHANGED}|annotator:best|tok:spaces|case:mixed",
    )


def chosen(sentences: Sequence[Sequence[Counts]]) -> list[Counts]:
    """Each sentence's counts with one of its annotators: the one best for the sums up to this sentence."""
    found, before = [], NONE
    for annotators in sentences:
        found.append(best(annotators, before))
        before = _sum(before, found[-1])
    return found


def best(annotators: Sequence[Counts], before: Counts = NONE) -> Counts:
    """The counts that, added to those before, have the best F0.5, then most edits right, then fewest edits in all."""

    def worth(one: Counts) -> tuple[float, int, int]:
        total = _sum(before, one)
        return f_half(_statistics(total)), total.right, -total.proposed - total.gold

    return max(annotators, key=worth)


@functools.lru_cache(maxsize=CACHED)  # all of `SCORES` ask for them
def counts(source: Words, answer: Words, annotators: tuple[tuple[GoldEdit, ...], ...]) -> tuple[Counts, ...]:
    """The counts with each annotator, the answer's edits chosen to be as many of this one's as can be."""
    steps = lattice(source, answer)
    return tuple(_most_gold(steps, _jumps(source, answer, steps, gold), len(gold)) for gold in annotators)


def lattice(source: Words, answer: Words) -> Steps:
    """The steps of all cheapest alignments, where a word replaced costs 1 and where it costs 2."""
    rows, columns = len(source), len(answer)
    steps: Steps = {(i, j): [] for i in range(rows + 1) for j in range(columns + 1)}
    for replacing in (1, 2):
        behind = _distances(source, answer, replacing)
        ahead = _distances(source[::-1], answer[::-1], replacing)
        for (i, j), following in steps.items():
            if behind[i][j] + ahead[rows - i][columns - j] > behind[rows][columns]:
                continue
            found = []
            if i < rows:
                found.append(((i + 1, j), 1))
            if j < columns:
                found.append(((i, j + 1), 1))
            if i < rows and j < columns:
                found.append(((i + 1, j + 1), 0 if source[i] == answer[j] else replacing))
            for to, cost in found:
                cheapest = behind[i][j] + cost + ahead[rows - to[0]][columns - to[1]] == behind[rows][columns]
                if cheapest and (to, cost > 0) not in following:
                    following.append((to, cost > 0))
    return steps


def _distances(source: Words, answer: Words, replacing: int) -> list[list[int]]:
    """Levenshtein's table: how far the first i words of the source are from the first j of the answer."""
    table = [list(range(len(answer) + 1))]
    for i, word in enumerate(source, 1):
        above, row = table[-1], [i]
        for j, other in enumerate(answer):
            row.append(min(above[j + 1] + 1, row[j] + 1, above[j] + (0 if word == other else replacing)))
        table.append(row)
    return table


def _most_gold(steps: Steps, jumps: Jumps, gold: int) -> Counts:
    """The counts of the best way through the lattice.

    What is no gold edit needs no arc of its own for every run of steps: an edit is under way from one step to the next
    until it ends. Gold insertions at one place are made in their order, for in another they would make another text.
    """
    ways: dict[Node, dict[State, Worth]] = {node: {} for node in steps}
    ways[0, 0][CLOSED, 0] = (0, 0, 0)
    for node, following in steps.items():
        for (kept, last), (right, changed, edits) in ways[node].items():
            for to, rank in jumps.get(node, ()):
                if rank == 0 or rank > last:
                    _improve(ways[to], (CLOSED, rank), (right - 1, changed, edits + 1))
            for to, changes in following:
                rank = last if to[0] == node[0] else 0
                if changes and kept == CLOSED:
                    _improve(ways[to], (0, rank), (right, changed + 1, edits + 1))
                elif changes:
                    _improve(ways[to], (kept, rank), (right, changed + 1, edits))
                else:
                    _improve(ways[to], (CLOSED, rank), (right, changed, edits))
                    if CLOSED < kept < MAX_UNCHANGED:
                        _improve(ways[to], (kept + 1, rank), (right, changed, edits))
    right, _, edits = min(ways[node].values())
    return Counts(-right, edits, gold)


def _improve(ways: dict[State, Worth], state: State, worth: Worth) -> None:
    ways[state] = min(worth, ways.get(state, worth))


def _jumps(source: Words, answer: Words, steps: Steps, gold: Sequence[GoldEdit]) -> Jumps:
    """Where in the lattice gold edits can be made; the rank of what is no insertion is 0."""
    found: Jumps = {}
    for place, (start, end, corrections) in enumerate(gold):
        rank = sum(edit[:2] == (start, start) for edit in gold[: place + 1]) if start == end else 0
        for words in corrections:
            if words == source[start:end]:
                continue
            for first in range(len(answer) - len(words) + 1):
                last = first + len(words)
                if answer[first:last] == words and _is_edit(steps, (start, first), (end, last)):
                    found.setdefault((start, first), []).append(((end, last), rank))
    return found


def _is_edit(steps: Steps, start: Node, end: Node) -> bool:
    """Whether some way between two nodes keeps no more words than one edit may."""
    fewest = {start: 0}
    for i in range(start[0], end[0] + 1):
        for j in range(start[1], end[1] + 1):
            if (i, j) not in fewest:
                continue
            for to, changes in steps[i, j]:
                kept = fewest[i, j] + (not changes)
                fewest[to] = min(kept, fewest.get(to, kept))
    return fewest.get(end, MAX_UNCHANGED + 1) <= MAX_UNCHANGED


def _sum(first: Counts, second: Counts) -> Counts:
    return Counts(*(one + other for one, other in zip(first, second, strict=True)))


def _statistics(found: Counts) -> np.ndarray:
    return np.array([found.right, found.proposed - found.right, found.gold - found.right], np.float64)
