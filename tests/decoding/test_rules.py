"""What may come next: n-grams, lengths and forced tokens, against loops that say the same in plain words."""

from __future__ import annotations

import math

import pytest
import torch

from megas2s.decoding.rules import Rules, best_next

RULES = Rules(start=2, eos=2, pad=1, length=8)


def banned(row: list[int], size: int, ignored: tuple[int, ...]) -> set[int]:
    """s2s-ft's loop: what would repeat an n-gram, but for those with a word that is ignored."""
    if len(row) < size:
        return set()
    tail = row[len(row) - size + 1 :]
    if any(token in ignored for token in tail):
        return set()
    starts = range(len(row) - size + 1)
    found = {row[start + size - 1] for start in starts if row[start : start + size - 1] == tail}
    return found - set(ignored)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("ignored", [(), (6,)])
def test_an_ngram_comes_once(size, ignored):
    generator = torch.Generator().manual_seed(1)
    for length in range(1, 12):
        written = torch.randint(4, 8, (20, length), generator=generator)
        scores = torch.zeros(20, 10)
        RULES._replace(ngram=size, ignored=ignored).forbid(scores, written)
        for row, found in zip(written.tolist(), scores.tolist(), strict=True):
            assert {token for token, score in enumerate(found) if score == -math.inf} == banned(row, size, ignored)


def test_what_is_read_first_may_be_part_of_ngrams():
    rules = RULES._replace(ngram=2, from_start=True)
    scores = torch.zeros(1, 10)
    rules.forbid(scores, torch.tensor([[5, 2]]))  # 2 5 2: what follows 2 may not be 5
    assert scores.tolist()[0] == [0, 0, 0, 0, 0, -math.inf, 0, 0, 0, 0]


def test_no_end_before_the_least_length():
    rules = RULES._replace(min_length=2)
    for length, ends in ((0, False), (1, False), (2, True)):
        scores = torch.zeros(1, 10)
        rules.forbid(scores, torch.full((1, length), 7))
        assert (scores[0, 2] == 0) == ends


def test_forced_tokens_come_and_cost_nothing():
    rules = RULES._replace(prefix=torch.tensor([[7, -1], [-1, 8]]), ends=True)
    logits = torch.arange(10.0).repeat(4, 1)  # two rows for each source
    scores, ids = best_next(logits, torch.empty(4, 0, dtype=torch.long), rules, 2, 3)
    assert ids[:, 0].tolist() == [7, 7, 9, 9]
    assert scores[:2, 0].tolist() == [0, 0]
    assert scores[:2, 1:].eq(-math.inf).all()
    torch.testing.assert_close(scores[2], logits[2].log_softmax(0)[[9, 8, 7]])
    assert best_next(logits, torch.full((4, 1), 5), rules, 2, 1)[1][:, 0].tolist() == [9, 9, 8, 8]
    assert best_next(logits, torch.full((4, 7), 5), rules, 2, 1)[1][:, 0].tolist() == [2, 2, 2, 2]


def test_probabilities_are_the_model_s_whatever_is_forbidden():
    logits = torch.tensor([[1.0, 3.0, 2.0, 0.0]])
    rules = Rules(start=1, eos=1, pad=0, length=4, min_length=1)
    scores, ids = best_next(logits.clone(), torch.empty(1, 0, dtype=torch.long), rules, 1, 2)
    assert ids.tolist() == [[2, 0]]
    torch.testing.assert_close(scores, logits.log_softmax(-1)[:, [2, 0]])
