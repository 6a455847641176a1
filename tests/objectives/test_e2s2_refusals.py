"""What E2S2 refuses, in one sentence each, before anything is built."""

from __future__ import annotations

import dataclasses

import pytest

from megas2s.errors import BadConfig
from megas2s.objectives import Objective
from megas2s.spec import parse, plain

from .views import BASES, objective, shape_of


@pytest.mark.parametrize(
    ("micro_batch", "world_size", "fits"), [(8, 1, True), (4, 2, True), (2, 2, True), (6, 1, False)]
)
def test_a_group_lies_in_a_micro_batch_or_is_one_over_all_ranks(micro_batch, world_size, fits):
    wanted = objective()
    if fits:
        wanted.check_layout(micro_batch, world_size)
    else:
        with pytest.raises(ValueError, match=r"contrast\.group 4: a group lies inside one micro-batch, of 6 rows here"):
            wanted.check_layout(micro_batch, world_size)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"contrast": {"group": 1}}, "a sentence needs others to be told from"),
        ({"shuffle": 0.4}, r"shuffle must lie in \[0, 1 / ngram\]"),
        ({"shuffle": -0.1}, "shuffle must lie"),
        ({"replace": 1.0}, r"replace must lie in \[0, 1\)"),
        ({"ngram": 1}, "ngram must be at least 2"),
        ({"views": 1}, "nothing to contrast"),
        ({"views": 1, "contrast": None, "nll_weights": [1, 1]}, "nothing to contrast or to weigh"),
        ({"shuffle": 0, "replace": 0}, "denoise has nothing to find"),
        ({"denoise": {"class_weights": [1, 1]}}, "class_weights must be 3, for original, shuffled, replaced; got 2"),
        ({"denoise": {"class_weights": [1, 0, 1]}}, "class_weights must be above 0"),
        ({"denoise": {"target": "token", "as_released": True}}, "are about kinds"),
        (
            {"denoise": {"weight": 0}},
            "weight must be above 0 and finite, got 0.0; null instead of the whole part turns it off",
        ),
        ({"contrast": {"group": 2, "temperature": 0}}, "temperature must be above 0"),
        ({"contrast": {"group": 2, "prompts": ["X [MASK]", "[MASK] X"]}}, "read by representation: prompt alone"),
        ({"contrast": {"group": 2, "representation": "first", "segment_length": 8}}, "has one per window"),
        (
            {"contrast": {"group": 2, "representation": "prompt", "prompts": ["no hole [MASK]", "X [MASK]"]}},
            "once each",
        ),
        ({"nll_weights": [0, 0]}, "nor both 0"),
        ({"nll_weights": [1, float("nan")]}, "nll_weights must be finite"),
        ({"denoise": {"class_weights": [1, float("nan"), 1]}}, "class_weights must be above 0 and finite"),
        ({"contrast": {"group": 2, "temperature": float("inf")}}, "temperature must be above 0 and finite"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_sentence(changes, sentence):
    with pytest.raises(BadConfig, match=sentence):
        objective(**changes)


def test_a_contrast_must_be_stated_or_turned_off():
    with pytest.raises(BadConfig, match="contrast: this key is required and absent"):
        parse(Objective, {"name": "e2s2"}, source="recipe")


def test_prompts_longer_than_the_window_are_refused():
    wanted = objective(contrast={"group": 4, "representation": "prompt"})
    with pytest.raises(ValueError, match="the prompts take 10 tokens, and a source has 10 in all"):
        wanted.window_size(shape_of()._replace(source_length=10))


def test_an_ngram_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match="ngram 20 is longer than the 12 columns of a source; shorten it"):
        objective(ngram=20).window_size(shape_of()._replace(source_length=12))


def test_a_remedy_that_would_be_refused_too_is_not_given():
    with pytest.raises(ValueError, match=r"one micro-batch over all ranks, 1 rows; raise micro_batch"):
        objective().check_layout(1, 1)
    with pytest.raises(ValueError, match=r"6 rows; take 2 or 3 or 6, or change micro_batch"):
        objective().check_layout(6, 1)


def test_a_base_without_a_name_is_asked_for_it():
    with pytest.raises(BadConfig, match="base: this needs the key 'name', which says what the other keys are of"):
        objective(base={"noise_density": 0.2})


def test_one_sentence_in_a_window_is_no_contrast():
    wanted = objective(contrast={"group": 1, "segment_length": 40})
    with pytest.raises(ValueError, match="leave one sentence"):
        wanted.window_size(shape_of())


def test_sentinels_are_asked_for_where_the_base_needs_them():
    wanted = objective(base=BASES["spans"])
    with pytest.raises(ValueError, match="sentinels"):
        wanted.window_size(shape_of(sentinels=()))


def test_a_specification_goes_there_and_back():
    wanted = objective(contrast={"group": 4, "representation": "prompt"}, denoise={"target": "token"})
    assert parse(Objective, plain(Objective, wanted), source="recipe") == wanted
    assert dataclasses.asdict(wanted)["shuffle"] == 0.05
