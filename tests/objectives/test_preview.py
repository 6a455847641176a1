"""What is shown to people: the texts of an example and the share of a batch that is not padding."""

from __future__ import annotations

import numpy as np
import pytest

from megas2s.labels import IGNORED
from megas2s.objectives.base import RowLengths
from megas2s.objectives.clm import CLM
from megas2s.objectives.denoising import Denoising
from megas2s.objectives.preview import fill, preview
from megas2s.rng import generator

WORDS = {2: "</s>", 4: "<mask>", 9: "", 10: "the", 11: "cat", 12: "sat\n"}


def decode(ids):
    return " ".join(WORDS[int(token)] for token in ids)


def test_a_masked_example_shows_what_is_seen_and_wanted_at_each_position():
    example = {
        "input_ids": np.array([10, 4, 9, 2]),
        "masked_positions": np.array([1, 2, 0]),
        "labels": np.array([11, 12, IGNORED]),
    }
    assert preview(np.array([10, 11, 12]), example, decode).splitlines() == [
        "  raw       the cat sat",
        "  source    the <mask> </s>",
        "  predict   <mask> -> cat, ␣ -> sat",
    ]


def test_a_pair_shows_source_and_target_and_long_texts_are_cut():
    example = {"input_ids": np.array([10, 2]), "labels": np.array([10, 11, 2, IGNORED])}
    assert preview(np.array([10, 11]), example, decode, characters=7).splitlines() == [
        "  raw       the cat",
        "  source    the </s ...",
        "  target    the cat ...",
    ]


def test_two_views_show_both_and_what_the_encoder_is_to_find():
    example = {
        "input_ids": np.array([11, 10, 2]),
        "second_input_ids": np.array([10, 11, 2]),
        "encoder_labels": np.array([1, 2, 0]),
        "labels": np.array([10, 11, 2]),
    }
    assert preview(np.array([10, 11]), example, decode).splitlines() == [
        "  raw       the cat",
        "  source    cat the </s>",
        "  second    the cat </s>",
        "  encoder   cat is 1, the is 2",
        "  target    the cat </s>",
    ]


def test_fill_counts_tokens_of_columns():
    examples = [
        {"input_ids": np.zeros(5), "labels": np.array([7, 7, IGNORED])},
        {"input_ids": np.zeros(10), "labels": np.array([7, 7, 7])},
    ]
    assert fill(examples, RowLengths(source=10, target=6, full=False)) == pytest.approx((0.75, 5 / 12))
    assert fill(examples, RowLengths(source=10, target=0, full=True)) == pytest.approx((0.75, 5 / 6))


def test_denoising_fills_every_column_and_continuation_about_half(make_tokens, shape):
    for objective, expected in [(Denoising(), (1.0, 1.0)), (CLM(), (0.63, 0.63))]:
        tokens = make_tokens(objective.window_size(shape))
        examples = [objective.corrupt(tokens, generator(0, n), shape, n) for n in range(400)]
        assert fill(examples, objective.row_lengths(len(tokens), shape)) == pytest.approx(expected, abs=0.03)
