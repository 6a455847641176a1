"""Each shipped recipe passes a dry run, and its shrunken twin trains to its end.

A twin is the recipe itself with smaller numbers: stages, objectives, tying, freezing, hand-offs, schedules' shapes and
optimizers stay as they are. What the stages leave is compared with what the recipe promises, listed here by hand.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from megas2s.models.presets import preset
from megas2s.prepare import dry_run
from megas2s.recipe import ModelChoice, Recipe, load_recipe
from megas2s.spec import parse

from .published import numbers_of

ROOT = Path(__file__).resolve().parents[1]
RECIPES = {path.stem: path for path in sorted((ROOT / "launch" / "recipes").glob("*.yaml"))}
PROGRAM = Path(__file__).with_name("every_stage.py")
LONGEST = 64  # tokens in a row of a twin
DEEPEST = 3  # layers of a twin's deeper stack

PROMISED = {  # of each stage: an encoder, or how the embeddings of its seq2seq model are tied; and what is frozen
    "e2s2_bart_large": {"e2s2": "tied"},
    "e2s2_t5_base": {"e2s2": "untied_head"},
    "e2s2_multilingual": {
        "mlm": "encoder",
        "seq2seq_frozen": "tied_to_decoder, encoder frozen",
        "seq2seq": "tied_to_decoder",
    },
    "mbart_cc": {"mbart": "tied"},
    "seq2seq_from_encoder": {"seq2seq": "tied"},
    "t5_base": {"t5": "untied_head"},
    "ul2_base": {"ul2": "untied_head"},
    "xlmr_base": {"mlm": "encoder"},
    "alexatm_20b": {"mlm": "encoder", "seq2seq_frozen": "untied, encoder frozen", "seq2seq": "untied"},
    "extract_encoder": {"seq2seq": "tied", "mlm": "encoder"},
    "mlm": {"mlm": "encoder"},
    "sample": {"mlm": "encoder", "seq2seq_frozen": "tied_to_decoder, encoder frozen", "seq2seq": "tied_to_decoder"},
    "seq2seq_from_scratch": {"seq2seq": "tied"},
    "shallow_decoder": {"seq2seq": "tied", "mlm": "encoder"},
    "two_stage": {"mlm": "encoder", "seq2seq_frozen": "tied_to_decoder, encoder frozen", "seq2seq": "tied_to_decoder"},
    "two_stage_frozen": {"mlm": "encoder", "seq2seq": "tied_to_decoder, encoder frozen"},
}
IMPORTED = {
    "imports/bart_large": "bart_large",
    "imports/t5_base": "t5_1_1_base",
    "imports/xlmr_base": "xlmr_base",
}  # what stands in for published weights
LAYERS = {  # of encoder and decoder in the twin: as deep, against each other, as in the recipe
    "alexatm_20b": (3, 2),
    "xlmr_base": (3, 0),
    "shallow_decoder": (3, 1),
    **dict.fromkeys(PROMISED.keys() - {"alexatm_20b", "xlmr_base", "shallow_decoder"}, (3, 3)),
}
MATRICES = {
    "encoder": {"encoder.embed.weight"},
    "tied": {"shared.weight"},
    "tied_to_decoder": {"encoder.embed.weight", "decoder.embed.weight"},
    "untied_head": {"shared.weight", "head.weight"},
    "untied": {"encoder.embed.weight", "decoder.embed.weight", "head.weight"},
}


def twin(name: str, *, run: Path, corpus: Path, save: Callable[..., Path], ranks: int = 1) -> dict:
    """The recipe of that name as plain data, with numbers that train in a second a stage."""
    data = yaml.safe_load(RECIPES[name].read_text(encoding="utf-8"))
    data |= {"run": str(run), "corpus": str(corpus), "workers": 0}
    like = data["model"].get("like")
    added = {key: data["model"][key] for key in ("family", "segment_types", "norm_epsilon") if key in data["model"]}
    added |= {"num_decoder_layers": LAYERS[name][1]} if "num_decoder_layers" in data["model"] else {}
    data["model"] = small_model({"preset": IMPORTED[like]} if like else data["model"])
    if like:
        there = str(stand_in_for(like, data["model"], run.parent, save))
        data["model"], data["stages"][0]["init"] = {"like": there, **added}, there
    data["log"] = {"every": 1, "evaluate_every": 2, "heldout_rows": 1, "samples_every": 2, "tensorboard": False}
    data["checkpoints"] |= {"every": 1}
    longest = max(stage["length"] for stage in data["stages"])
    for stage in data["stages"]:
        length = stage["length"] * LONGEST // longest
        stage["schedule"] = {**stage["schedule"], "warmup_steps": 1 if stage["schedule"]["warmup_steps"] else 0}
        if "target_length" in stage:
            stage["target_length"] = stage["target_length"] * LONGEST // longest
        stage |= {"length": length, "batch_tokens": 4 * length * ranks, "micro_batch": 2, "steps": 2}
        stage |= {"precision": "fp32"} | ({"engine": {"name": "local"}} if ranks == 1 else {})
        if stage["objective"].get("contrast"):
            stage["objective"]["contrast"] |= {"group": 2}
    return data


def stand_in_for(like: str, sizes: dict, folder: Path, save: Callable[..., Path]) -> Path:
    """Random weights of a small model where a recipe takes published ones."""
    return save(folder / "weights", **sizes, tying=preset(IMPORTED[like], vocab_size=1).tying)


def small_model(choice: dict) -> dict:
    """A tiny model whose stacks are as deep, against each other, as those that the recipe chooses."""
    shape = preset(choice["preset"], vocab_size=1)
    depths = [
        choice.get("num_encoder_layers", shape.num_encoder_layers),
        choice.get("num_decoder_layers", shape.num_decoder_layers),
    ]
    layers = [max(min(1, depth), round(depth * DEEPEST / max(depths))) for depth in depths]
    sizes = {"hidden_size": 32, "num_heads": 4, "ffn_size": 64, "max_positions": LONGEST}
    sizes |= {"num_encoder_layers": layers[0], "num_decoder_layers": layers[1]}
    switches = {field.name for field in dataclasses.fields(ModelChoice)} - sizes.keys() - {"preset", "like", *NO_TWIN}
    return sizes | {name: getattr(shape, name) for name in sorted(switches) if getattr(shape, name) is not None}


NO_TWIN = {"vocab_size", "head_size", "embedding_size"}


def assert_as_promised(left, name: str, data: dict) -> None:
    """Every stage left the model that the recipe promises, moved what trains and nothing else."""
    inits = {stage["name"]: stage.get("init") for stage in data["stages"]}
    assert inits.keys() == PROMISED[name].keys()
    for stage, promise in PROMISED[name].items():
        kind, _, frozen = promise.partition(", ")
        config, weights = left.config(stage), left.weights(stage)
        assert config.num_encoder_layers == LAYERS[name][0]
        assert config.num_decoder_layers == (0 if kind == "encoder" else LAYERS[name][1])
        assert weights.keys() & set().union(*MATRICES.values()) == MATRICES[kind]
        assert ("mlm.bias" in weights) == (kind == "encoder")
        assert len(left.losses(stage)) == 2
        assert all(map(math.isfinite, left.losses(stage) + left.losses(stage, "heldout")))
        if inits[stage] in inits:
            before = left.weights(inits[stage])
            shared = [key for key in weights if key.startswith("encoder.") and key in before]
            stood_still = {key for key in shared if torch.equal(weights[key], before[key])}
            expected = set(shared) if frozen else {key for key in stood_still if key.endswith("attention.k.bias")}
            assert stood_still == expected


NUMBERS = {  # as their sources have them, see the head of each file
    "e2s2_bart_large": {
        "steps": 50_000,
        "length": 1024,
        "schedule.lr": 1.5e-6,
        "schedule.warmup_steps": 6_000,
        "schedule.shape": "polynomial",
        "optimizer.beta1": 0.9,
        "optimizer.beta2": 0.98,
        "optimizer.eps": 1e-6,
        "optimizer.weight_decay": 0.01,
        "objective.shuffle": 0.05,
        "objective.replace": 0.15,
        "objective.denoise.weight": 0.05,
        "objective.contrast.weight": 0.05,
    },
    "t5_base": {
        "steps": 65_536,
        "length": 512,
        "target_length": 114,
        "rows": 128,
        "schedule.shape": "cosine",
        "optimizer.scale_by_rms": True,
    },
    "mbart_cc": {"objective.noise_density": 0.35, "objective.mean_span_length": 3.5, "steps": 500_000},
    "xlmr_base": {"steps": 1_500_000, "rows": 8192, "objective.mask_probability": 0.15},
}


@pytest.mark.parametrize("name", NUMBERS)
def test_the_numbers_of_a_published_recipe_are_kept(name: str):
    (stage,) = load_recipe(RECIPES[name]).stages
    assert numbers_of(stage, NUMBERS[name]) == NUMBERS[name]


def test_every_shipped_recipe_has_its_promise_here():
    assert PROMISED.keys() == RECIPES.keys()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_passes_a_dry_run_as_it_stands(name: str, corpus_folder, random_weights, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)  # ds_configs/ is looked up from the working directory
    overrides = [f"corpus={corpus_folder}", f"run={tmp_path / 'run'}"]
    if like := load_recipe(RECIPES[name]).model.like:
        sizes = small_model({"preset": IMPORTED[like]}) | {"max_positions": 1024}
        there = stand_in_for(like, sizes, tmp_path, random_weights)
        overrides += [f"model.like={there}", f"stages.0.init={there}"]
    recipe = load_recipe(RECIPES[name], overrides)
    plan = dry_run(recipe)
    assert [stage.name for stage in recipe.stages] == list(PROMISED[name])
    for stage in recipe.stages:
        assert f"stage {stage.name}: {stage.objective.name}, {stage.steps} steps of {stage.rows} rows" in plan
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", RECIPES)
def test_a_twin_differs_from_its_recipe_in_numbers_alone(name: str, corpus_folder, random_weights, tmp_path):
    recipe = load_recipe(RECIPES[name])
    small = parse(Recipe, twin(name, run=tmp_path / "run", corpus=corpus_folder, save=random_weights), source="twin")
    kept = ("name", "part", "decoder", "freeze", "frozen_dropout", "optimizer")
    for stage, smaller in zip(recipe.stages, small.stages, strict=True):
        assert [getattr(stage, field) for field in kept] == [getattr(smaller, field) for field in kept]
        assert stage.init == smaller.init or stage.init in IMPORTED
        contrast = getattr(stage.objective, "contrast", None)
        fewer = {"contrast": dataclasses.replace(contrast, group=2)} if contrast else {}
        assert dataclasses.replace(stage.objective, **fewer) == smaller.objective
        assert stage.schedule.shape == smaller.schedule.shape
        assert stage.activation_checkpointing == smaller.activation_checkpointing


@pytest.mark.parametrize("name", RECIPES)
def test_a_twin_trains_to_its_end_and_leaves_what_the_recipe_promises(
    name: str, train_here, corpus_folder, random_weights, tmp_path
):
    data = twin(name, run=tmp_path / "run", corpus=corpus_folder, save=random_weights)
    assert_as_promised(train_here(data), name, data)


@pytest.mark.slow
@pytest.mark.ranks
def test_the_twin_of_alexatm_trains_under_zero3_on_two_ranks(ranks, finished, corpus_folder, random_weights, tmp_path):
    data = twin("alexatm_20b", run=tmp_path / "run", corpus=corpus_folder, save=random_weights, ranks=2)
    assert {stage["engine"]["config"] for stage in data["stages"]} == {"ds_configs/zero3.json"}
    path = tmp_path / "twin.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    done = ranks(2, PROGRAM, path)
    assert done.returncode == 0, done.stdout[-4000:]
    assert_as_promised(finished(tmp_path / "run"), "alexatm_20b", data)
