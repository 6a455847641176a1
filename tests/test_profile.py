"""DeepSpeed's profilers by one flag; what they count of bytes is what our plan says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from megas2s import files
from megas2s.prepare import model_config, open_corpus
from megas2s.recipe import load_recipe
from megas2s.train.communication import stage_traffic
from megas2s.train.ledger import work_of

ROOT = Path(__file__).resolve().parents[1]
ENGINES = {
    **{
        name: {"name": "zero", "config": str(ROOT / "ds_configs" / f"{name}.json")}
        for name in ("zero1", "zero2", "zero3")
    },
    "pipe": {"name": "pipe", "stages": 2, "config": str(ROOT / "ds_configs" / "pipeline.json")},
}
RANKS = 2
STEP = 3
# What each rank sends of the bytes that a collective is handed; all_gather is handed its own share.
SENT = {
    "all_reduce": 2 * (RANKS - 1) / RANKS,
    "reduce_scatter_tensor": (RANKS - 1) / RANKS,
    "all_gather_into_tensor": RANKS - 1,
    "send": 1,
}


def data(make_recipe, run, engine, changes):
    found = make_recipe(run)
    found["log"] = {"every": 1, "evaluate_every": 0, "heldout_rows": 0, "profile": STEP}
    stage = {**found["stages"][2], "engine": ENGINES.get(engine), "precision": "bf16", **changes}
    del stage["init"]
    found["stages"] = [{**stage, "decoder": {"tying": "tied_to_decoder"}}]
    return found


def scattered(folder, **knobs) -> dict:
    """ZeRO-3 that scatters every tensor after its use."""
    found = files.read_json(ROOT / "ds_configs" / "zero3.json")
    found["zero_optimization"] |= {"stage3_param_persistence_threshold": 0, **knobs}
    files.write_json(folder / "zero3.json", found)
    return {"name": "zero", "config": str(folder / "zero3.json")}


@pytest.mark.slow
@pytest.mark.ranks
@pytest.mark.parametrize(
    ("engine", "changes"),
    [
        ("zero1", {}),
        ("zero2", {}),
        ("zero3", {}),
        ("scattered", {}),
        ("zero3", {"freeze": ["encoder.*"]}),
        ("pipe", {"freeze": ["encoder.*"]}),
        ("pipe", {"objective": {"name": "e2s2", "contrast": {"group": 2}}}),
    ],
)
def test_one_flag_writes_flops_and_the_bytes_that_a_plan_says(
    make_recipe, write_recipe, ranks, tmp_path, engine, changes
):
    if engine == "scattered":
        changes = {"engine": scattered(tmp_path)}
    path = write_recipe(data(make_recipe, tmp_path / "run", engine, changes))
    done = ranks(RANKS, "launch/pretrain.py", path)
    assert done.returncode == 0, done.stdout[-4000:]
    recipe = load_recipe(path)
    vocabulary = open_corpus(recipe)[1].vocabulary
    (stage,) = recipe.stages
    config = model_config(recipe, stage, vocabulary)
    planned = stage_traffic(stage, config, work_of(stage, config, vocabulary), gpus=RANKS)
    parts = ["-part0", "-part1"] if engine == "pipe" else [""]
    profile = tmp_path / "run" / "profile"
    assert {each.name for each in profile.iterdir()} == {
        f"{stage.name}{part}-{kind}" for part in parts for kind in ("flops.txt", "communication.json")
    }
    for part, plan in zip(parts, planned, strict=True):
        said = json.loads((profile / f"{stage.name}{part}-communication.json").read_text())
        assert said["step"] == STEP
        logged = sum(SENT.get(each["collective"], 0) * each["total_bytes"] for each in said["collectives"])
        own = 1 if engine == "pipe" else RANKS  # data ranks: a group of one sends nothing, whatever it is handed
        if own == 1:
            logged -= sum(SENT["all_reduce"] * n for n in alone(said, plan))
        assert logged == pytest.approx(plan.total, rel=0.02)
        told = (profile / f"{stage.name}{part}-flops.txt").read_text()
        assert re.search(r"fwd flops per GPU:\s+[1-9]", told)


def alone(said, plan):
    """All-reduces of a pipeline that are not of copies: those within a group of one."""
    sizes = [each["total_bytes"] for each in said["collectives"] if each["collective"] == "all_reduce"]
    return [size for size in sizes if size > 64 and size != plan.copies]


def test_an_engine_without_deepspeed_is_refused_at_once(make_recipe, write_recipe, script, tmp_path):
    found = make_recipe(tmp_path / "run")
    found["stages"] = [{**found["stages"][0], "engine": {"name": "local"}}]
    done = script("launch/pretrain.py", write_recipe(found), "log.profile=3", "--dry-run")
    assert done.returncode == 2
    assert "log.profile asks for DeepSpeed's profilers, which engine 'local' has not" in done.stdout
