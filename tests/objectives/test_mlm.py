"""MLM: exactly k predictions a row, 80/10/10, no special token, whole words, and the loss at those positions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from megas2s.errors import BadConfig
from megas2s.labels import IGNORED
from megas2s.objectives import MLM
from megas2s.objectives.base import Shape
from megas2s.rng import generator
from megas2s.spec import parse

from .conftest import DOC, EOS, FIRST, MASK, make_vocabulary


def corrupt(objective, tokens, shape, seed=0):
    return objective.corrupt(tokens, generator(seed, "test"), shape, 0)


def test_the_window_fills_the_row_but_for_its_end(shape):
    assert MLM().window_size(shape) == 63
    assert MLM().row_lengths(63, shape) == (64, 0, True)


@given(seed=st.integers(0, 10**6), probability=st.floats(0.02, 0.9), count=st.integers(30, 200))
def test_exactly_k_distinct_positions_are_predicted_and_nothing_else_changes(seed, probability, count):
    tokens = np.random.default_rng(seed).integers(FIRST, 120, size=count).astype(np.uint16)
    objective = MLM(mask_probability=probability)
    example = corrupt(objective, tokens, Shape(make_vocabulary(), count + 1, 0), seed)
    row, positions, labels = example["input_ids"], example["masked_positions"], example["labels"]
    assert len(positions) == len(labels) == len(set(positions.tolist())) == round(probability * count)
    assert labels.tolist() == tokens[positions].tolist()
    others = np.setdiff1d(np.arange(count), positions)
    assert row[others].tolist() == tokens[others].tolist()
    assert row[-1] == EOS
    assert all(values.dtype == np.int64 for values in example.values())


def test_of_the_predicted_80_percent_are_masked_10_random_and_10_kept(vocabulary, make_tokens):
    tokens = make_tokens(60_000)
    example = corrupt(MLM(), tokens, Shape(vocabulary, 60_001, 0))
    seen, labels = example["input_ids"][example["masked_positions"]], example["labels"]
    masked, kept = seen == MASK, seen == labels
    replaced = seen[~masked & ~kept]
    assert [masked.mean(), kept.mean(), len(replaced) / len(seen)] == pytest.approx([0.8, 0.1, 0.1], abs=0.02)
    counts = np.bincount(replaced, minlength=128)
    assert counts[FIRST:120].min() > 0  # every ordinary token comes up,
    assert counts.sum() == counts[FIRST:120].sum()  # and no other
    assert counts.max() < 4 * counts[FIRST:120].mean()


@pytest.mark.parametrize(("keep", "random"), [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)])
def test_shares_at_their_ends(keep, random, make_tokens, shape):
    tokens = make_tokens(63)
    example = corrupt(MLM(keep=keep, random=random), tokens, shape)
    seen = example["input_ids"][example["masked_positions"]]
    if keep:
        assert (seen == example["labels"]).all()
    else:
        assert (seen == MASK).all() == (random == 0.0)


def test_all_sets_of_positions_are_equally_likely(shape):
    tokens = np.arange(FIRST, FIRST + 4)
    drawn = [tuple(corrupt(MLM(mask_probability=0.5), tokens, shape, seed)["masked_positions"]) for seed in range(6000)]
    assert {pair: drawn.count(pair) / 1000 for pair in set(drawn)} == pytest.approx(
        {(a, b): 1.0 for a in range(4) for b in range(a + 1, 4)}, abs=0.15
    )


def test_a_separator_is_never_predicted(make_tokens, shape):
    tokens = make_tokens(63, docs=range(0, 63, 2))
    for seed in range(50):
        assert DOC not in corrupt(MLM(), tokens, shape, seed)["labels"]


def test_slots_that_text_cannot_fill_are_ignored(make_tokens, shape):
    tokens = make_tokens(63, docs=range(5, 63))  # five tokens of text, nine slots
    example = corrupt(MLM(), tokens, shape)
    assert example["labels"].tolist() == [*tokens[:5].tolist(), *[IGNORED] * 4]
    assert example["masked_positions"].tolist() == [0, 1, 2, 3, 4, 0, 0, 0, 0]


def words_of(tokens):
    """Index of the word of each token: even ids open one."""
    starts = (tokens % 2 == 0) | (np.arange(len(tokens)) == 0)
    return np.cumsum(starts)


def test_whole_words_are_masked_or_left_and_the_count_is_not_passed(make_tokens, shape):
    unfilled = 0
    for seed in range(100):
        tokens = make_tokens(63, seed=seed)
        example = corrupt(MLM(whole_word=True), tokens, shape, seed)
        chosen = example["masked_positions"][example["labels"] != IGNORED]
        words = words_of(tokens)
        assert np.isin(words, words[chosen]).nonzero()[0].tolist() == chosen.tolist()
        assert len(example["labels"]) == 9
        unfilled += 9 - len(chosen)
    assert unfilled < 20  # a word that does not fit is passed by for one that does


def test_a_separator_ends_a_word_and_is_none(shape):
    tokens = np.array([10, 11, DOC, 13, 15, 17, 10, 11], dtype=np.uint16)  # words: 10 11 | 13 15 17 | 10 11
    sets = {
        tuple(p for p, label in zip(e["masked_positions"].tolist(), e["labels"].tolist(), strict=True) if label >= 0)
        for e in (corrupt(MLM(whole_word=True, mask_probability=0.4), tokens, shape, seed) for seed in range(50))
    }
    assert sets == {(0, 1), (3, 4, 5), (6, 7)}


def test_the_loss_is_cross_entropy_at_the_predicted_positions(make_output):
    output, weight = make_output(2, 6)
    batch = {
        "masked_positions": torch.tensor([[1, 4], [0, 0]]),
        "labels": torch.tensor([[30, 31], [32, IGNORED]]),
    }
    (part,) = MLM().loss(output, batch).values()
    logits = output.encoder_hidden.detach() @ weight.T
    wanted = [F.cross_entropy(logits[r, p], torch.tensor(t)) for r, p, t in [(0, 1, 30), (0, 4, 31), (1, 0, 32)]]
    assert part.row_totals.tolist() == pytest.approx([float(wanted[0] + wanted[1]), float(wanted[2])])
    assert part.total.item() == pytest.approx(sum(wanted).item())
    assert not part.row_totals.requires_grad
    part.total.backward()
    touched = output.encoder_hidden.grad.abs().sum(-1) > 0
    assert touched.nonzero().tolist() == [[0, 1], [0, 4], [1, 0]]
    assert MLM().counts(batch)["mlm"].tolist() == [2.0, 1.0]


def test_a_vocabulary_without_a_mask_is_refused():
    with pytest.raises(ValueError, match="mlm needs a <mask> token"):
        MLM().window_size(Shape(make_vocabulary(mask=None), 64, 0))


def test_rows_too_short_to_predict_anything_are_refused(vocabulary):
    with pytest.raises(ValueError, match="predicts no token of rows of 3"):
        MLM().window_size(Shape(vocabulary, 3, 0))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"mask_probability": 1.0}, "must lie in"),
        ({"keep": 0.7, "random": 0.5}, "shares of 1 together"),
        ({"keep": float("nan")}, "shares of 1 together"),
    ],
)
def test_bad_values_are_refused(values, sentence):
    with pytest.raises(BadConfig, match=sentence):
        parse(MLM, values, source="recipe")
