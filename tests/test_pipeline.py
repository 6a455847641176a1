"""Recipes in a pipeline: masked language modelling, denoising and E2S2 learn as on one device, however it is cut."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

EVERY_STAGE = Path(__file__).with_name("every_stage.py")
ROOT = Path(__file__).resolve().parents[1]
LAYOUTS = {"1 x 2": (1, 2), "2": (2, 1), "3": (3, 1), "4": (4, 1), "2 x 2": (2, 2)}  # pipe stages, data ranks
GROUP = 4  # windows of a contrast
STAGES = {
    "mlm": {"objective": {"name": "mlm"}},  # full rows
    "denoising": {  # full rows, one matrix in three parts
        "init": "mlm",
        "objective": {"name": "denoising", "noise": "delete"},
        "decoder": {"tying": "tied"},
    },
    "frozen": {  # padded rows, as whole words leave them
        "init": "mlm",
        "freeze": ["encoder.layers.0.*", "encoder.layers.1.*"],
        "objective": {"name": "denoising", "noise": "mask", "whole_word": True},
        "decoder": {"tying": "tied_to_decoder"},
        "activation_checkpointing": True,
    },
    "e2s2": {  # a group is gathered where there are two data ranks
        "init": "denoising",
        "objective": {"name": "e2s2", "contrast": {"group": GROUP, "temperature": 0.1}},
    },
}
OTHERS = {  # on two parts alone
    "span_corruption": {"objective": {"name": "span_corruption"}},
    "mass": {"objective": {"name": "mass"}},
    "mixture": {
        "objective": {
            "name": "mixture",
            "parts": [
                {"share": 0.8, "objective": {"name": "denoising", "noise": "delete"}},
                {"share": 0.2, "objective": {"name": "clm"}},
            ],
        }
    },
    "compiled": {"objective": {"name": "denoising"}, "compile": True},
}

pytestmark = [pytest.mark.slow, pytest.mark.ranks, pytest.mark.timeout(700)]


@pytest.fixture(scope="module")
def recipe(make_recipe):
    """The stages for a run folder, an engine and so many rows a pass."""

    def made(run: Path, engine: dict, micro_batch: int, stages: dict = STAGES) -> dict:
        data = make_recipe(run)
        data["model"] |= {"dropout": 0.0, "num_encoder_layers": 3, "num_decoder_layers": 3}
        data["log"]["tensorboard"] = False
        common = {**data["stages"][0], "engine": engine, "micro_batch": micro_batch}
        common["optimizer"] = {**common["optimizer"], "grad_clip": 0.1}
        data["stages"] = [{**common, **changes, "name": name} for name, changes in stages.items()]
        return data

    return made


@pytest.fixture(scope="module")
def alone(recipe, train_within, tmp_path_factory: pytest.TempPathFactory):
    """The local engine."""
    with train_within() as train:
        yield train(recipe(tmp_path_factory.mktemp("alone") / "run", {"name": "local"}, GROUP))


@pytest.fixture(scope="module")
def in_a_pipeline(recipe, ranks, finished, tmp_path_factory: pytest.TempPathFactory):
    """The same in a pipeline of a layout."""

    def trained(layout: str, among: dict = STAGES):
        stages, data_ranks = LAYOUTS[layout]
        folder = tmp_path_factory.mktemp("piped")
        engine = {"name": "pipe", "stages": stages, "config": str(ROOT / "ds_configs" / "pipeline.json")}
        data = recipe(folder / "run", engine, GROUP // data_ranks, among)
        (folder / "recipe.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
        done = ranks(stages * data_ranks, EVERY_STAGE, folder / "recipe.yaml", timeout=500)
        assert done.returncode == 0, done.stdout[-3000:]
        return finished(folder / "run")

    return trained


@pytest.fixture(scope="module", params=LAYOUTS)
def piped(request: pytest.FixtureRequest, in_a_pipeline):
    """The stages in every layout."""
    return in_a_pipeline(request.param)


@pytest.fixture(scope="module")
def others(recipe, train_within, in_a_pipeline, tmp_path_factory: pytest.TempPathFactory):
    """The other stages on one device and on two parts."""
    with train_within() as train:
        run = tmp_path_factory.mktemp("alone") / "run"
        yield train(recipe(run, {"name": "local"}, GROUP, OTHERS)), in_a_pipeline("2", OTHERS)


@pytest.mark.parametrize("stage", STAGES)
def test_losses_and_clipped_norms_are_those_of_one_device(alone, piped, stage: str):
    assert_equal_logs(alone.log(stage), piped.log(stage))


@pytest.mark.parametrize("stage", OTHERS)
def test_other_objectives_and_compiled_layers_learn_as_on_one_device(others, stage: str):
    assert_equal_logs(*(run.log(stage) for run in others))


def assert_equal_logs(left: list[dict], right: list[dict]) -> None:
    assert min(line["grad_norm"] for line in left if line["kind"] == "train") > 0.1  # clipping acts on every step
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys()
        numbers = [name for name in one if name.startswith(("loss", "measure/contrast", "grad_norm"))]
        assert [other[name] for name in numbers] == pytest.approx([one[name] for name in numbers], rel=1e-5)
        shares = [name for name in one if name.startswith("measure/denoise")]  # of labels: near ties may turn
        assert [other[name] for name in shares] == pytest.approx([one[name] for name in shares], abs=0.02)


@pytest.mark.parametrize("stage", STAGES)
def test_the_weights_that_it_ends_with_are_those_of_one_device(alone, piped, stage: str):
    left, right = alone.weights(stage), piped.weights(stage)
    assert left.keys() == right.keys()
    assert max(float((left[name] - right[name]).abs().max()) for name in left) < 1e-4


def test_weights_that_a_pipeline_has_trained_become_hugging_face_s(others, script, tmp_path: Path):
    _, piped = others
    done = script("tools/convert_to_hf.py", piped.folder / "span_corruption", tmp_path / "export")
    assert done.returncode == 0, done.stdout
    assert "BartForConditionalGeneration" in done.stdout
    assert "reloaded with transformers: logits differ from ours by at most" in done.stdout
