"""MaxMatch by hand, and beside the best of all ways in which short sentences can be edited."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megas2s.errors import BadConfig
from megas2s.metrics.gold import Annotated, GoldEdit, Words
from megas2s.metrics.m2 import MAX_UNCHANGED, Counts, best, chosen, counts, maxmatch
from megas2s.metrics.measure import Texts
from megas2s.metrics.texts import measured, names

SOURCE = "He go to school the ."


def edit(start: int, end: int, *corrections: str) -> GoldEdit:
    return GoldEdit(start, end, tuple(tuple(text.split()) for text in corrections))


def count(source: str, answer: str, *gold: GoldEdit) -> tuple[int, int, int]:
    (found,) = counts(tuple(source.split()), tuple(answer.split()), (gold,))
    return tuple(found)


GOLD = (edit(1, 2, "goes"), edit(2, 5, "to school"))


def test_what_is_corrected_as_annotated_is_right():
    assert count(SOURCE, "He goes to school .", *GOLD) == (2, 2, 2)


def test_what_is_left_as_it_was_has_no_edits():
    assert count(SOURCE, SOURCE, *GOLD) == (0, 0, 2)


def test_a_right_and_a_wrong_edit_side_by_side_are_two():
    assert count(SOURCE, "He goes to the school .", *GOLD) == (1, 2, 2)  # "school the" -> "the school" is wrong


@pytest.mark.parametrize(
    ("start", "end", "correction", "right"),
    [(1, 2, "x", 1), (0, 2, "a x", 1), (1, 4, "x c d", 1), (0, 3, "a x c", 1), (0, 4, "a x c d", 0)],
)
def test_a_phrase_is_matched_by_steps_taken_together_if_it_keeps_two_words_at_most(start, end, correction, right):
    assert count("a b c d e", "a x c d e", edit(start, end, correction)) == (right, 1, 1)


def test_what_is_no_gold_edit_is_as_few_edits_as_can_be():
    assert count("a b c", "x b y") == (0, 1, 0)
    assert count("a b c d", "x b c y") == (0, 1, 0)
    assert count("a b c d e", "x b c d y") == (0, 2, 0)  # three words between them
    assert count("a b c", "x y z") == (0, 1, 0)


def test_but_gold_edits_come_first():
    assert count("a b c", "x b y", edit(0, 1, "x"), edit(2, 3, "z")) == (1, 2, 2)
    assert count("a b c", "x y z", edit(1, 2, "y")) == (1, 3, 1)


def test_a_word_replaced_may_be_one_inserted_and_one_deleted():
    assert count("a b c", "a x c", edit(1, 2, "x")) == (1, 1, 1)
    assert count("a b c", "a x c", edit(1, 1, "x")) == (1, 2, 1)
    assert count("a b c", "a x c", edit(1, 2, "")) == (1, 2, 1)


def test_insertions():
    assert count("a b", "a x b", edit(1, 1, "x")) == (1, 1, 1)
    assert count("a b", "a b x", edit(2, 2, "x")) == (1, 1, 1)
    assert count("a b", "a x y b", edit(1, 1, "x y")) == (1, 1, 1)
    assert count("a b", "a x b", edit(0, 0, "x")) == (0, 1, 1)
    assert count("", "a b", edit(0, 0, "a b")) == (1, 1, 1)


def test_an_insertion_is_made_once_and_several_at_one_place_in_their_order():
    assert count("a b", "a x x b", edit(1, 1, "x")) == (1, 2, 1)
    assert count("a b", "a x x b", edit(1, 1, "x"), edit(1, 1, "x")) == (2, 2, 2)
    assert count("a b", "a x b", edit(1, 1, "x"), edit(1, 1, "x")) == (1, 1, 2)
    assert count("a b", "a x y b", edit(1, 1, "x"), edit(1, 1, "y")) == (2, 2, 2)
    assert count("a b", "a y x b", edit(1, 1, "x"), edit(1, 1, "y")) == (1, 2, 2)


def test_deletions():
    assert count("a b c", "a c", edit(1, 2, "")) == (1, 1, 1)
    assert count("a a c", "a c", edit(0, 1, "")) == (1, 1, 1)  # either may be the one that is left out
    assert count("a a c", "a c", edit(1, 2, "")) == (1, 1, 1)
    assert count("a b c", "a c", edit(1, 3, "")) == (0, 1, 1)
    assert count("a b", "", edit(0, 2, "")) == (1, 1, 1)


def test_any_of_several_corrections_is_right():
    for answer, right in (("a x c", 1), ("a y y c", 1), ("a z c", 0)):
        assert count("a b c", answer, edit(1, 2, "x", "y y")) == (right, 1, 1)
    assert count("a b c", "a c", edit(1, 2, "x", "")) == (1, 1, 1)


def test_case_counts_and_an_edit_that_changes_nothing_is_made_by_nobody():
    assert count("the end", "The end", edit(0, 1, "The")) == (1, 1, 1)
    assert count("the end", "The end", edit(0, 1, "the")) == (0, 1, 1)
    assert count("the end", "the end", edit(0, 1, "the")) == (0, 0, 1)


def test_each_annotator_has_counts_of_their_own():
    found = counts(("a", "b", "c"), ("x", "b", "y"), ((edit(0, 1, "x"), edit(2, 3, "y")), (edit(0, 3, "x b y"),), ()))
    assert found == (Counts(2, 2, 2), Counts(1, 1, 1), Counts(0, 1, 0))


def test_the_annotator_is_the_best_for_the_sum_so_far():
    few, many = Counts(1, 1, 3), Counts(2, 4, 2)
    assert best([few, many]) == few  # F0.5 of 1 and 1/3 is 0.71, of 1/2 and 1 is 0.56
    missed = Counts(0, 0, 10)
    assert chosen([[missed], [few, many]]) == [missed, many]  # of 1 and 1/13 it is 0.29, of 1/2 and 2/12 0.36
    assert best([Counts(0, 1, 1), Counts(0, 1, 0)]) == Counts(0, 1, 0)  # 0 both: the fewest edits
    assert best([Counts(0, 0, 2), Counts(0, 0, 0)]) == Counts(0, 0, 0)  # who changes nothing is right with nothing


def annotated(source: str, *annotators: tuple[GoldEdit, ...]) -> Annotated:
    return Annotated(tuple(source.split()), annotators or ((),))


def test_a_corpus_has_the_score_of_its_sums():
    gold = [
        annotated(SOURCE, GOLD),
        annotated("a b c", (edit(0, 1, "x"),), ()),  # the second changes nothing
        annotated("a b c", (edit(0, 1, "x"),), (edit(1, 2, "y"),)),
    ]
    texts = Texts(["He goes to the school .", "a b c", "a y c"], ["", "", ""], gold=gold)
    found = {name: measured(name, texts) for name in names(["m2"])}
    for measure in found.values():
        assert measure.statistics.tolist() == [[1, 1, 1], [0, 0, 0], [1, 0, 0]]
    assert {name: measure.corpus for name, measure in found.items()} == {
        "m2_f0.5": pytest.approx(2 / 3),
        "m2_precision": pytest.approx(2 / 3),
        "m2_recall": pytest.approx(2 / 3),
    }
    assert found["m2_f0.5"].segments.tolist() == [0.5, 1.0, 1.0]
    assert found["m2_precision"].segments.tolist() == [0.5, 1.0, 1.0]
    assert found["m2_f0.5"].signature == "m2_f0.5|unchanged:2|annotator:best|tok:spaces|case:mixed"


def test_precision_and_recall_differ_and_f_half_weighs_the_first_more():
    gold = [annotated("a b c d e", (edit(0, 1, "x"), edit(2, 2, "y"), edit(4, 5, "z")))]
    texts = Texts(["x b c d e"], [""], gold=gold)  # 1 right, none too many, 2 missing
    assert maxmatch("m2_precision", texts).corpus == 1.0
    assert maxmatch("m2_recall", texts).corpus == pytest.approx(1 / 3)
    assert maxmatch("m2_f0.5", texts).corpus == pytest.approx(1.25 * (1 / 3) / (0.25 + 1 / 3))


def test_without_gold_edits_it_says_what_to_give():
    with pytest.raises(BadConfig, match=r"m2_recall compares with gold edits; give an \.m2 file of them with --refer"):
        measured("m2_recall", Texts(["a"], ["a"], ["a"]))


Step = tuple[tuple[int, int], tuple[int, int], bool]  # from where to where, and whether it changes a word


def alignments(source: Words, answer: Words, at: tuple[int, int] = (0, 0)) -> Iterator[list[Step]]:
    """Every way to read the answer as the source with words kept, replaced, inserted and deleted."""
    i, j = at
    if (i, j) == (len(source), len(answer)):
        yield []
    for di, dj in ((1, 0), (0, 1), (1, 1)):
        if i + di <= len(source) and j + dj <= len(answer):
            to = (i + di, j + dj)
            step = (at, to, not (di and dj and source[i] == answer[j]))
            yield from ([step, *rest] for rest in alignments(source, answer, to))


def cost(way: list[Step], replacing: int) -> int:
    return sum((replacing if to[0] > start[0] and to[1] > start[1] else 1) for start, to, changes in way if changes)


def worths(way: list[Step], source: Words, answer: Words, gold: list[GoldEdit]) -> Iterator[tuple[int, int, int]]:
    """(-right, words changed by others, edits) of every way to take steps together and to call them gold edits."""
    if not way:
        yield 0, 0, 0
        return
    if not way[0][2]:
        yield from worths(way[1:], source, answer, gold)
    for size in range(1, len(way) + 1):
        (first, begin), (last, stop) = way[0][0], way[size - 1][1]
        changed = sum(changes for _, _, changes in way[:size])
        if not changed:
            continue
        if size - changed > MAX_UNCHANGED:
            return
        for right, others, edits in worths(way[size:], source, answer, gold):
            yield right, others + changed, edits + 1
        text = answer[begin:stop]
        for place, (start, end, corrections) in enumerate(gold):
            if (start, end) == (first, last) and text in corrections and text != source[start:end]:
                left = [other for k, other in enumerate(gold) if k > place or other[:2] != (start, end)]
                for right, others, edits in worths(way[size:], source, answer, left):
                    yield right - 1, others, edits + 1


def by_brute_force(source: Words, answer: Words, gold: list[GoldEdit]) -> tuple[int, int, int]:
    """Counts of the best of all edits, on every way over steps of any cheapest alignment."""
    ways = list(alignments(source, answer))
    steps = set()
    for replacing in (1, 2):
        cheapest = min(cost(way, replacing) for way in ways)
        steps.update(itertools.chain(*(way for way in ways if cost(way, replacing) == cheapest)))
    found = (worths(way, source, answer, gold) for way in ways if steps.issuperset(way))
    right, _, edits = min(itertools.chain(*found))
    return -right, edits, len(gold)


def sentence(longest: int) -> st.SearchStrategy[Words]:
    return st.lists(st.sampled_from("abc"), max_size=longest).map(tuple)


@st.composite
def cases(draw) -> tuple[Words, Words, list[GoldEdit]]:
    source, answer = draw(sentence(4)), draw(sentence(4))
    gold = []
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(source)))
        end = draw(st.integers(start, len(source)))
        begin = draw(st.integers(0, len(answer)))
        taken = answer[begin : draw(st.integers(begin, len(answer)))]  # so that many are made
        gold.append(GoldEdit(start, end, tuple(draw(st.sampled_from([[taken], [taken, ("c",)]])))))
    return source, answer, gold


@settings(max_examples=150, deadline=None, derandomize=True)
@given(cases())
def test_no_other_edits_are_better(case):
    source, answer, gold = case
    assert counts(source, answer, (tuple(gold),)) == (by_brute_force(source, answer, gold),)
