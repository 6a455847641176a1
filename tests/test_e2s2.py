"""E2S2 as a run: one group over all ranks equals one on a single rank under every engine, and frozen parts stand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

EVERY_STAGE = Path(__file__).with_name("every_stage.py")
ROOT = Path(__file__).resolve().parents[1]
ENGINES = ("zero0", "zero1", "zero2", "zero3")
OBJECTIVE = {"name": "e2s2", "denoise": {"target": "kind"}, "contrast": {"group": 8, "temperature": 0.1}}


@pytest.fixture(scope="module")
def both(make_recipe, train_within, ranks, finished, tmp_path_factory: pytest.TempPathFactory):
    """The same stages on one rank that holds a group, and on two that hold a half of it each."""
    folder = tmp_path_factory.mktemp("e2s2")
    data = make_recipe(folder / "one")
    data["model"]["dropout"] = 0.0
    data["log"]["tensorboard"] = False
    stage = {**data["stages"][0], "objective": OBJECTIVE, "decoder": {"tying": "tied"}, "steps": 3}
    variants = {name: {} for name in ENGINES} | {"frozen": {"freeze": ["encoder.layers.0.*", "decoder.layers.1.*"]}}
    data["stages"] = [
        {**stage, **more, "name": name, "engine": {"name": "local"}, "micro_batch": 8}
        for name, more in variants.items()
    ]
    with train_within() as train:
        alone = train(data)
    shared = {**data, "run": str(folder / "two"), "stages": []}
    for stage in data["stages"]:
        config = stage["name"] if stage["name"] in ENGINES else "zero3"
        engine = {"name": "zero", "config": str(ROOT / "ds_configs" / f"{config}.json")}
        shared["stages"].append({**stage, "engine": engine, "micro_batch": 4})
    (folder / "two.yaml").write_text(yaml.safe_dump(shared, sort_keys=False))
    done = ranks(2, EVERY_STAGE, folder / "two.yaml", timeout=500)
    assert done.returncode == 0, done.stdout[-3000:]
    return alone, finished(folder / "two")


pytestmark = [pytest.mark.slow, pytest.mark.ranks, pytest.mark.timeout(700)]


@pytest.mark.parametrize("stage", [*ENGINES, "frozen"])
def test_a_group_over_two_ranks_has_the_losses_and_measures_of_one_rank(both, stage: str):
    alone, shared = (run.log(stage) for run in both)
    assert len(alone) == len(shared) == 5
    assert {"loss/contrast", "measure/contrast_accuracy", "measure/denoise_f1_shuffled"} <= alone[0].keys()
    for left, right in zip(alone, shared, strict=True):
        assert left.keys() == right.keys()
        numbers = [name for name in left if name.startswith(("loss", "measure/contrast", "grad_norm"))]
        assert [right[name] for name in numbers] == pytest.approx([left[name] for name in numbers], rel=2e-5)
        shares = [name for name in left if name.startswith("measure/denoise")]  # of labels: near ties may turn
        assert [right[name] for name in shares] == pytest.approx([left[name] for name in shares], abs=0.02)


def test_frozen_parts_do_not_move_and_the_rest_does(both):
    left, right = (run.weights("frozen") for run in both)
    same = {name for name in left if torch.equal(left[name], right[name])}
    frozen = {name for name in left if name.startswith(("encoder.layers.0.", "decoder.layers.1."))}
    # What moved was added up in another order on two ranks than on one, so its bits differ.
    assert frozen <= same
    assert "encoder.layers.1.ffn.up.weight" not in same
    assert left["classes.weight"].shape == (3, 32)
