"""Denoising: the target is the window, the source lacks exactly n tokens, and windows are as long as rows allow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from megas2s.errors import BadConfig
from megas2s.labels import IGNORED
from megas2s.objectives.base import Shape
from megas2s.objectives.denoising import Denoising
from megas2s.rng import generator
from megas2s.spec import parse

from .conftest import EOS, MASK, make_vocabulary

noises = pytest.mark.parametrize("noise", ["delete", "mask"])


def corrupt(objective, tokens, shape, seed=0):
    return objective.corrupt(tokens, generator(seed, "test"), shape, 0)


@noises
def test_the_target_is_the_whole_window_and_the_decoder_reads_it_one_later(noise, make_tokens, shape):
    tokens = make_tokens(63)
    example = corrupt(Denoising(noise=noise), tokens, shape)
    assert example["labels"].tolist() == [*tokens.tolist(), EOS]
    assert example["decoder_input_ids"].tolist() == [EOS, *tokens.tolist()]


def test_delete_takes_n_tokens_out_and_adds_none(make_tokens, shape):
    source = corrupt(Denoising(), np.arange(10, 73), shape)["input_ids"]
    assert len(source) == 63 - 9 + 1
    assert source[-1] == EOS
    assert (np.diff(source[:-1]) > 0).all()  # a subsequence of the window


def test_mask_leaves_one_mask_for_each_span(make_tokens, shape):
    source = corrupt(Denoising(noise="mask"), np.arange(10, 73), shape)["input_ids"]
    assert len(source) == 63 - 9 + 3 + 1
    assert (source == MASK).sum() == 3


@given(
    source=st.integers(8, 400),
    target=st.integers(8, 400),
    density=st.floats(0.1, 0.6),
    mean=st.floats(0.5, 6),
    noise=st.sampled_from(["delete", "mask"]),
)
def test_windows_are_the_longest_that_fit_and_rows_have_the_lengths_promised(source, target, density, mean, noise):
    objective = Denoising(noise=noise, noise_density=density, mean_span_length=mean)
    shape = Shape(make_vocabulary(), source, target)
    tokens = objective.window_size(shape)
    lengths = objective.row_lengths(tokens, shape)
    assert lengths.full
    assert lengths.source <= source
    assert lengths.target <= target
    longer = objective.row_lengths(tokens + 1, shape)
    assert longer.source > source or longer.target > target
    example = corrupt(objective, np.full(tokens, 30), shape)
    assert (len(example["input_ids"]), len(example["labels"])) == lengths[:2]


def test_permuting_sentences_changes_the_order_of_the_source_alone(shape):
    tokens = np.array([*range(30, 45), 20, *range(45, 60), 21, *range(60, 70), 22])
    moved = 0
    for seed in range(20):
        example = corrupt(Denoising(permute_sentences=True), tokens, shape, seed)
        assert example["labels"][:-1].tolist() == tokens.tolist()
        assert set(example["input_ids"].tolist()) <= {*tokens.tolist(), EOS}
        moved += (np.diff(example["input_ids"][:-1]) < -12).any() or example["input_ids"][0] > 44
    assert moved > 10  # five of the six orders


@pytest.mark.parametrize("more", [{"rotation": 1.0}, {"whole_word": True}, {"noise": "mask", "noise_density": 0.0}])
def test_a_short_window_keeps_a_token_whatever_is_deleted(more, shape):
    tokens = np.arange(30, 46)
    wanted = Denoising(**{"token_deletion": 0.99, **more})
    example = corrupt(wanted, tokens, shape, 3)
    assert len(example["input_ids"]) >= 1
    assert example["labels"][:-1].tolist() == tokens.tolist()


def test_the_loss_is_cross_entropy_of_the_target(make_output):
    output, weight = make_output(2, 5, 3)
    labels = torch.tensor([[30, 31, 2], [32, 33, 2]])
    (part,) = Denoising().loss(output, {"labels": labels}).values()
    each = F.cross_entropy((output.decoder_hidden @ weight.T).flatten(0, 1), labels.flatten(), reduction="none")
    assert part.row_totals.tolist() == pytest.approx(each.view(2, 3).sum(1).tolist())
    assert part.total.item() == pytest.approx(each.sum().item())
    assert part.weight == 1.0


def test_rows_without_labels_count_nothing(make_output):
    output, _ = make_output(2, 5, 3)
    batch = {"labels": torch.tensor([[30, 31, 2], [IGNORED] * 3])}
    assert Denoising().counts(batch)["denoising"].tolist() == [3.0, 0.0]
    assert Denoising().loss(output, batch)["denoising"].row_totals[1] == 0


def test_masks_need_a_mask_token_and_deletion_does_not():
    shape = Shape(make_vocabulary(mask=None), 64, 64)
    assert Denoising().window_size(shape) == 63
    with pytest.raises(ValueError, match="noise: mask needs a <mask> token"):
        Denoising(noise="mask").window_size(shape)


def test_rows_that_hold_no_noise_are_refused(vocabulary):
    with pytest.raises(ValueError, match="takes no token out"):
        Denoising().window_size(Shape(vocabulary, 3, 3))


@pytest.mark.parametrize("values", [{"noise_density": 0.0}, {"mean_span_length": 0.0}, {"noise": "shuffle"}])
def test_bad_values_are_refused(values):
    with pytest.raises(BadConfig):
        parse(Denoising, values, source="recipe")


def test_single_tokens_are_deleted_and_masked_in_exact_numbers(shape):
    tokens = np.arange(10, 60)
    objective = Denoising(noise_density=0.0, token_deletion=0.2, token_masking=0.25)
    assert objective.window_size(shape) == 63
    source = corrupt(objective, tokens, shape)["input_ids"][:-1]
    assert len(source) == 40 == objective.row_lengths(50, shape).source - 1
    assert (source == MASK).sum() == 10
    kept = source[source != MASK]
    assert (np.diff(kept) > 0).all()


def test_all_of_barts_noise_together_keeps_the_lengths_promised(shape):
    objective = Denoising(
        noise="mask", permute_sentences=True, token_deletion=0.1, token_masking=0.1, rotation=0.5, noise_density=0.3
    )
    tokens = objective.window_size(shape)
    lengths = objective.row_lengths(tokens, shape)
    for seed in range(30):
        example = corrupt(objective, np.arange(tokens) % 100 + 10, shape, seed)
        assert (len(example["input_ids"]), len(example["labels"])) == lengths[:2]
        assert example["labels"][:-1].tolist() == (np.arange(tokens) % 100 + 10).tolist()


def test_a_rotated_source_begins_at_a_random_token_and_loses_none(shape):
    objective = Denoising(noise_density=0.0, token_masking=0.02, rotation=1.0)
    beginnings = set()
    for seed in range(30):
        source = corrupt(objective, np.arange(10, 60), shape, seed)["input_ids"][:-1]
        beginnings.add(int(source[0]))
        assert sum(np.diff(source[source != MASK]) < 0) <= 1
        assert len(source) == 50
    assert len(beginnings) > 15


def test_spans_of_whole_words_end_where_words_do(shape):
    """Even ids open words (conftest), so a window of pairs is a window of words of two tokens."""
    tokens = np.array([token for word in range(30) for token in (30 + 2 * (word % 20), 31)])
    objective = Denoising(noise="mask", whole_word=True, noise_density=0.3)
    lengths = objective.row_lengths(len(tokens), shape)
    assert not lengths.full
    for seed in range(30):
        source = corrupt(objective, tokens, shape, seed)["input_ids"][:-1]
        assert len(source) + 1 <= lengths.source
        assert (source == MASK).sum() == 3
        words = source[source != MASK].reshape(-1, 2)
        assert len(words) == 30 - 9
        assert (words[:, 1] == 31).all()


@pytest.mark.parametrize(
    "values", [{"token_deletion": 1.0}, {"rotation": 1.5}, {"whole_word": True, "mean_span_length": 0.5}]
)
def test_more_bad_values_are_refused(values):
    with pytest.raises(BadConfig):
        parse(Denoising, values, source="recipe")


def test_rows_begin_and_end_as_the_tokenizer_has_them():
    shape = Shape(make_vocabulary(begin=0), 64, 64)
    tokens = Denoising().window_size(shape)
    assert tokens == 62
    example = corrupt(Denoising(), np.arange(tokens) + 10, shape)
    assert (example["input_ids"][0], example["labels"][0], example["labels"][-1]) == (0, 0, EOS)
    assert example["decoder_input_ids"][:2].tolist() == [EOS, 0]
