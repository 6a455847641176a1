"""Recipes, flags and engine files that cannot work are refused before anything is written."""

from __future__ import annotations

import json

import pytest

from .conftest import PRETRAIN, refused


def test_unknown_keys_are_named_with_their_path_and_the_nearest_known_key(script, recipe, tmp_path):
    mistakes = ["sede=3", "stages.mlm.objective.mask_prob=0.2", "stages.0.schedule.lr=fast"]
    result = script(PRETRAIN, recipe, f"run={tmp_path}/run", *mistakes)
    refused(
        result,
        2,
        f"{recipe}: sede: unknown key; did you mean 'seed'?",
        "stages.0.objective.mlm.mask_prob: unknown key; did you mean 'mask_probability'?",
        "stages.0.schedule.lr: input should be a valid number",
        lines=3,
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.yaml"], "no recipe at nowhere.yaml; launch/recipes/ holds alexatm_20b.yaml, "),
        (["{tmp}/broken.yaml"], "broken.yaml is not valid YAML: "),
        (["{recipe}", "seed"], "override 'seed' is not of the form key=value"),
        (["{recipe}", "--seed=3"], "unrecognized arguments: --seed=3; pretrain.py --help lists what there is"),
    ],
    ids=["missing recipe", "invalid YAML", "override without =", "unknown flag"],
)
def test_a_command_that_cannot_be_read_is_refused(script, recipe, tmp_path, arguments, said):
    (tmp_path / "broken.yaml").write_text("run: [\nseed: 3", encoding="utf-8")
    refused(script(PRETRAIN, *(text.format(recipe=recipe, tmp=tmp_path) for text in arguments)), 2, said)


def test_a_window_longer_than_the_positions_is_refused(script, recipe, tmp_path):
    result = script(PRETRAIN, recipe, f"run={tmp_path}/run", "stages.mlm.length=128")
    refused(result, 2, "stage 'mlm': rows of 128 tokens exceed the model's 64 positions; shorten length, or")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        (
            {"zero_optimization": {"stage": 1}, "pipeline": {"stages": 2}},
            "'pipeline' is stated by the recipe (engine.stages); remove it from the file",
        ),
        (
            {"train_batch_size": 32},
            "'train_batch_size' is stated by the recipe (batch_tokens); remove it from the file",
        ),
        (None, "no DeepSpeed configuration at {path}; ds_configs/ holds the shipped ones"),
    ],
    ids=["stages stated twice", "batch size stated twice", "missing file"],
)
def test_a_deepspeed_file_that_cannot_work_is_refused_before_deepspeed_sees_it(script, recipe, tmp_path, knobs, said):
    path = tmp_path / "knobs.json"
    if knobs is not None:
        path.write_text(json.dumps(knobs), encoding="utf-8")
    engine = f"stages.mlm.engine={{name: zero, config: {path}}}"
    refused(script(PRETRAIN, recipe, f"run={tmp_path}/run", engine), 2, said.format(path=path))
    assert not (tmp_path / "run").exists()


@pytest.mark.ranks
@pytest.mark.slow
def test_a_batch_that_the_ranks_cannot_share_is_refused_once_for_all_ranks(ranks, recipe, tmp_path):
    overrides = ["stages.mlm.batch_tokens=320", "stages.mlm.micro_batch=null", "stages.mlm.engine.name=zero"]
    result = ranks(2, PRETRAIN, recipe, f"run={tmp_path}/run", *overrides)
    refused(result, 2, "stage 'mlm': 5 rows per step (batch_tokens 320 / 64) are not divisible by 2 ranks; change")
    assert not (tmp_path / "run").exists()


E2S2 = "stages.mlm.objective={{name: e2s2, contrast: {contrast}}}"


@pytest.mark.parametrize(
    ("contrast", "said"),
    [
        ("{group: 3}", "contrast.group 3: a group lies inside one micro-batch, of 2 rows here, or is one micro-batch"),
        ("{group: 1}", "a sentence needs others to be told from; compare at least 2"),
        (
            "{group: 2, representation: prompt, prompts: ['%s X [MASK]', 'X [MASK]']}" % ("word " * 80),
            "tokens, and a source has 64 in all; shorten the prompts or lengthen the source",
        ),
    ],
    ids=["split groups", "one sentence", "prompts longer than the window"],
)
def test_a_contrast_that_cannot_be_is_refused(script, recipe, tmp_path, contrast, said):
    overrides = [E2S2.format(contrast=contrast), "stages.mlm.decoder={tying: tied}", "stages.mlm.engine={name: local}"]
    refused(script(PRETRAIN, recipe, f"run={tmp_path}/run", *overrides), 2, said)
    assert not (tmp_path / "run").exists()


def test_a_task_without_examples_is_refused(script, tmp_path):
    finetune = "launch/finetune.py"
    refused(script(finetune, "nowhere.yaml"), 2, "no recipe at nowhere.yaml; launch/finetuning/ holds classify.yaml, ")
    refused(
        script(finetune, "launch/finetuning/classify.yaml", f"run={tmp_path}/run"),
        3,
        "data.train: there is no file data/cola/train.jsonl; give a file of examples",
    )
    assert not (tmp_path / "run").exists()
