"""Recipes: every shipped one loads and says what it should, and every mistake comes back as a sentence."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path

import pytest

from megas2s.errors import BadConfig
from megas2s.models.config import ModelConfig
from megas2s.recipe import ModelChoice, Recipe, dump_recipe, load_recipe
from megas2s.spec import parse, read_yaml

RECIPES = sorted((Path(__file__).resolve().parents[1] / "launch" / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_is_the_same_after_being_resolved(path: Path, tmp_path: Path):
    recipe = load_recipe(path)
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(resolved) == recipe


# By the tokenizer, by the stage, and by what it trains.
DECIDED = {"pad_id", "tying", "token_classes", "text_classes", "encoder_restores"}
DECIDED |= {"lora_rank", "lora_alpha", "lora_targets"}  # by a recipe of fine-tuning


def test_a_recipe_may_choose_every_value_of_a_model_and_in_the_model_s_own_kinds():
    chosen, known = typing.get_type_hints(ModelChoice), typing.get_type_hints(ModelConfig)
    assert chosen.keys() - {"preset", "like"} == known.keys() - DECIDED
    for name in known.keys() - DECIDED:
        assert chosen[name] == known[name] | None, name
    assert {field.default for field in dataclasses.fields(ModelChoice)} == {None}


def test_two_stage_has_the_paper_s_proportions():
    recipe = load_recipe("launch/recipes/two_stage.yaml")
    assert [stage.total_steps for stage in recipe.stages] == [500_000, 200_000, 150_000]
    assert {stage.batch_tokens for stage in recipe.stages} == {1 << 20}
    assert [stage.freeze for stage in recipe.stages] == [(), ("encoder.*",), ()]


def test_alexatm_decays_linearly_over_both_seq2seq_stages():
    recipe = load_recipe("launch/recipes/alexatm_20b.yaml")
    first, second = recipe.stage("seq2seq_frozen"), recipe.stage("seq2seq")
    assert first.total_steps + second.total_steps == 500_000
    whole = 1e-4 - (1e-4 - 5e-6) * first.total_steps / 500_000
    assert first.schedule.final_lr == pytest.approx(whole) == second.schedule.lr


def test_overrides_reach_into_stages_by_name_and_by_number():
    recipe = load_recipe("launch/recipes/sample.yaml", ["seed=3", "stages.mlm.steps=7", "stages.1.schedule.lr=1e-4"])
    assert recipe.seed == 3
    assert recipe.stage("mlm").steps == 7
    assert recipe.stages[1].schedule.lr == 1e-4


def test_an_override_is_for_its_own_stage_though_others_share_the_anchor():
    recipe = load_recipe("launch/recipes/sample.yaml", ["stages.mlm.optimizer.grad_clip=0.25"])
    assert [stage.optimizer.grad_clip for stage in recipe.stages] == [0.25, 1.0, 1.0]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("stages.mlm.objective.mask_prob=0.2", "did you mean 'mask_probability'"),
        ("sede=3", "did you mean 'seed'"),
        ("seed=2026-99-99", "the value is not valid YAML: month must be in 1..12"),
        ("stages.mlm.objective.name=mml", "stages.0.objective"),
        ("stages.mlm.steps=many", "stages.0.steps"),
        ("stages.mlm.batch_tokens=1000", "not a multiple of the row length 128"),
        ("stages.mln.steps=3", "did you mean 'mlm'"),
        ("stages.seq2seq.init=seq2seq", "does not come before it"),
        ("stages.seq2seq.init=mlmm", "did you mean 'mlm'"),
        ("model.preset=tinny", "did you mean 'tiny'"),
        ("stages.mlm.tokens=5", "either steps or tokens"),
        ("seed", "not of the form key=value"),
        ("stages.seq2seq_frozen.freeze.0.x=1", "freeze.0: '0' holds the value 'encoder.*', not a group of keys"),
        ("seed.x=1", "override seed: 'seed' holds the value 17, not a group of keys"),
        ("sampling={alpha: 1, alpha: 0}", "the key 'alpha' of line 1 is stated again in line 1, column 12"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_its_place(override: str, sentence: str):
    with pytest.raises(BadConfig) as caught:
        load_recipe("launch/recipes/sample.yaml", [override])
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_recipe():
    with pytest.raises(BadConfig, match=r"launch/recipes cannot be read \(Is a directory\); give the YAML"):
        load_recipe("launch/recipes")


def test_a_key_stated_twice_is_refused_with_both_lines_but_a_merged_one_may_be_replaced(tmp_path: Path):
    path = tmp_path / "recipe.yaml"
    path.write_text("run: here\nseed: 1\nlog: {every: 1}\nseed: 2\n", encoding="utf-8")
    with pytest.raises(BadConfig) as caught:
        load_recipe(path)
    said = f"{path} is not valid YAML: the key 'seed' of line 2 is stated again in line 4, column 1: seed: 2 ^"
    assert str(caught.value) == said
    merged = read_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}", source="text")
    assert merged["b"] == {"x": 3, "y": 2}


def test_all_mistakes_are_reported_at_once():
    with pytest.raises(BadConfig) as caught:
        load_recipe("launch/recipes/sample.yaml", ["sede=3", "stages.mlm.steps=0"])
    assert len(str(caught.value).splitlines()) == 2


def test_rows_that_do_not_divide_are_refused_with_the_numbers():
    recipe = load_recipe("launch/recipes/sample.yaml")
    with pytest.raises(BadConfig, match=r"32 rows per step .* are not divisible by 5 ranks"):
        recipe.check_ranks(5)


def test_a_launch_with_other_ranks_than_the_recipe_says_is_refused():
    recipe = load_recipe("launch/recipes/sample.yaml", ["ranks=16"])
    with pytest.raises(BadConfig, match="says ranks: 16, but 2 were started"):
        recipe.check_ranks(2)


def test_tokens_round_up_to_whole_steps():
    recipe = load_recipe("launch/recipes/sample.yaml", ["stages.mlm.steps=null", "stages.mlm.tokens=5000"])
    assert recipe.stage("mlm").total_steps == 2


def test_a_recipe_that_is_no_mapping_is_refused():
    with pytest.raises(BadConfig, match="recipe"):
        parse(Recipe, [1, 2], source="recipe")
