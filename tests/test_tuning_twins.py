"""Each shipped recipe of fine-tuning passes a dry run, and its small twin trains to its end.

A twin is the recipe itself with smaller numbers, over examples that are made up.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from megas2s import files, finetuning, generate, tuning
from megas2s.finetuning import Finetuning
from megas2s.methods import WRITERS
from megas2s.models.presets import preset
from megas2s.recipe import load_recipe, read_overridden
from megas2s.spec import parse, plain
from megas2s.train.assemble import flat

from .published import numbers_of

ROOT = Path(__file__).resolve().parents[1]
RECIPES = {path.stem: path for path in sorted((ROOT / "launch" / "finetuning").glob("*.yaml"))}
APART = "data.columns.pair=answer"  # what the heads of recipes say of answers that records have beside their sources
QUESTIONS = ("s2sft_multilingual", "s2sft_squad_qg")  # recipes for them
VARIANTS = {
    **{name: (name, []) for name in RECIPES},
    **{f"{name} with answers": (name, [APART]) for name in QUESTIONS},
}
SIZES = {"hidden_size": 16, "num_heads": 2, "ffn_size": 32, "num_encoder_layers": 2}
LENGTHS = {"length": 24, "target_length": 12}
WORDS = ["the", "red", "house", "and", "a", "tree", "by", "the", "river"]
RECORDS = 12  # of each file
SPOKEN = ("en", "en", "sw")  # by turns, where a recipe has a column of languages

SMALLER = {*LENGTHS, "rows", "micro_batch", "steps", "epochs", "max_positions", "schedule.warmup_steps"}
ELSEWHERE = {"run", "init", "tokenizer", "data.train", "data.dev", "data.test", "engine", "precision", "log"}

S2S_FT = {  # of every published run, by s2s-ft's README and its defaults
    "target_length": 48,
    "length": 464,
    "rows": 64,
    "dropout": None,  # the weights' own
    "method.name": "pseudo_masked",
    "method.source_mask_prob": 0.0,
    "method.keep_prob": 0.1,
    "method.random_prob": 0.1,
    "method.label_smoothing": 0.1,
    "method.span_length": 1,
    "schedule.lr": 7e-5,
    "schedule.warmup_steps": 500,
    "schedule.shape": "linear",
    "schedule.final_lr": 0.0,
    "optimizer.beta1": 0.9,
    "optimizer.beta2": 0.999,
    "optimizer.eps": 1e-8,
    "optimizer.weight_decay": 0.01,
    "optimizer.grad_clip": 1.0,
}
NUMBERS = {  # as their sources have them, see the head of each file
    "s2sft_xsum": {
        **S2S_FT,
        "steps": 32_000,
        "max_positions": None,
        "method.target_mask_prob": 0.5,
        "checkpoints.every": 1500,
        "init": "imports/unilm1.2_base",
    },
    "s2sft_cnndm": {
        **S2S_FT,
        "length": 608,
        "target_length": 160,
        "max_positions": 768,
        "micro_batch": 8,
        "steps": 45_000,
        "schedule.warmup_steps": 1000,
        "method.target_mask_prob": 0.7,
        "checkpoints.every": 1500,
        "init": "imports/unilm1.2_base",
    },
    "s2sft_squad_qg": {**S2S_FT, "rows": 32, "epochs": 10, "steps": None, "schedule.lr": 1e-4},
    "s2sft_multilingual": S2S_FT,
}


@pytest.mark.parametrize("name", NUMBERS)
def test_the_numbers_of_a_published_recipe_are_kept(name: str):
    assert numbers_of(finetuning.load(RECIPES[name], []), NUMBERS[name]) == NUMBERS[name]


def record(columns: dict, method: str, number: int) -> dict:
    """A record with the keys that a recipe names."""
    text = " ".join(WORDS[number % 5 :])
    if method == "tag":
        return {columns["text"]: WORDS, columns["label"]: ["N" if number % 2 else "V"] * len(WORDS)}
    label = {"classify": str(number % 2), "regress": float(number % 3)}.get(method, " ".join(WORDS[: 2 + number % 4]))
    pair = {columns["pair"]: "a tree"} if columns.get("pair") else {}
    spoken = {columns["language"]: SPOKEN[number % 3]} if columns.get("language") else {}
    return {columns["text"]: text, columns["label"]: label, **spoken, **pair}


def examples(data: dict, folder: Path) -> dict:
    """Files of records in place of those that a recipe, as plain data, names: of a split, or of each language."""
    columns = {"text": "text", "label": "label", **data["data"].get("columns", {})}

    def written(name: str) -> str:
        lines = [json.dumps(record(columns, data["method"]["name"], number)) + "\n" for number in range(RECORDS)]
        files.write_text(folder / f"{name}.jsonl", "".join(lines))
        return str(folder / f"{name}.jsonl")

    given = {split: data["data"][split] for split in ("train", "dev", "test")}
    return {
        split: {each: written(f"{split}.{each}") for each in found} if isinstance(found, dict) else written(split)
        for split, found in given.items()
    }


def weights(data: dict, folder: Path, save: Callable[..., Path], *, positions: int) -> str:
    """Random weights of a small model in place of those that a recipe, as plain data, takes."""
    decoder = {"num_decoder_layers": 1} if data["method"]["name"] == "seq2seq" else {}
    return str(save(folder / "weights", **SIZES, **decoder, max_positions=positions))


def twin(variant: str, folder: Path, save: Callable[..., Path], tokenizer: Path) -> dict:
    """The recipe as plain data, with numbers that train in a second."""
    name, overrides = VARIANTS[variant]
    data = read_overridden(RECIPES[name], overrides)
    data["data"] |= examples(data, folder)
    data |= {
        "run": str(folder / "run"),
        "init": weights(data, folder, save, positions=32),
        "tokenizer": str(tokenizer),
        "rows": 4,
        "engine": {"name": "local"},
        "precision": "fp32",
        "log": {"every": 2, "evaluate_every": 3, "tensorboard": False},
        "length": LENGTHS["length"],
    }
    data.pop("epochs", None)
    data.pop("micro_batch", None)
    data |= {"steps": 4, "schedule": {**data["schedule"], "warmup_steps": 1}}
    if "target_length" in data:
        data["target_length"] = LENGTHS["target_length"]
    if data["method"]["name"] in WRITERS and data["method"]["name"] != "seq2seq":
        data["max_positions"] = sum(LENGTHS.values())
    return data


def positions_of(init: str) -> int:
    """Those that the weights have which a recipe takes: published ones are of BERT's kind, others of our own recipe."""
    if init.startswith("imports/"):
        return 512
    choice = load_recipe(ROOT / "launch" / "recipes" / "two_stage.yaml").model
    assert choice.preset is not None
    return preset(choice.preset, vocab_size=1).max_positions


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_passes_a_dry_run_as_it_stands(name: str, corpus_folder, random_weights, tmp_path, monkeypatch):
    """But for its examples, and the width of the weights that it takes."""
    monkeypatch.chdir(ROOT)  # ds_configs/ is looked up from the working directory
    data = read_overridden(RECIPES[name], [])
    there = weights(data, tmp_path, random_weights, positions=positions_of(data["init"]))
    overrides = [f"run={tmp_path / 'run'}", f"init={there}", f"tokenizer={corpus_folder / 'tokenizer'}"]
    overrides += [f"data.{split}={json.dumps(found)}" for split, found in examples(data, tmp_path).items()]
    recipe = finetuning.load(RECIPES[name], overrides)
    plan = tuning.dry_run(recipe)
    steps = recipe.steps or math.ceil(recipe.epochs * RECORDS / recipe.rows)
    assert f"{recipe.method.name}, {steps} steps of {recipe.rows} rows, from its beginning" in plan
    assert f"none is cut to {recipe.length}" in plan
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_twin_differs_from_its_recipe_in_numbers_alone(variant: str, corpus_folder, random_weights, tmp_path):
    name, overrides = VARIANTS[variant]
    data = twin(variant, tmp_path, random_weights, corpus_folder / "tokenizer")
    pair = finetuning.load(RECIPES[name], overrides), parse(Finetuning, data, source="twin")
    recipe, small = (flat(plain(Finetuning, each)) for each in pair)
    apart = {path for path in recipe.keys() | small.keys() if recipe.get(path) != small.get(path)}
    below = tuple(f"{path}." for path in ELSEWHERE)
    assert not [path for path in apart - SMALLER - ELSEWHERE if not path.startswith(below)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_twin_trains_answers_and_writes(variant: str, random_weights, corpus_folder, tune_here, tmp_path):
    data = twin(variant, tmp_path, random_weights, corpus_folder / "tokenizer")
    run = tune_here(data)
    results = files.read_json(run.folder / "results.json")
    columns = data["data"].get("columns", {})
    for split in ("dev", "test"):
        named = data["data"][split] if isinstance(data["data"][split], dict) else ()
        assert results[split].keys() >= {"all", *named, *(SPOKEN if columns.get("language") else ())}
    if best := data.get("best"):
        assert best["by"] in results["dev"]["all"]
    if data["method"]["name"] not in WRITERS:
        return
    model, text = generate.load(run.folder), "the red house"
    assert model.columns.pair == columns.get("pair")
    tags = model.facts.vocabulary.languages
    for language in sorted(set(SPOKEN)) if data["data"].get("tags") else [None]:
        how = generate.Decoding(beams=2, language=language)
        ((answer,),) = model.write([(text, "red") if columns.get("pair") else text], how)
        assert language is None or answer.ids[0] == tags[language]


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_recipe_for_questions_says_how_answers_are_given(name: str):
    head = [line for line in RECIPES[name].read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    assert APART in "".join(head)
