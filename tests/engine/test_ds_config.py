"""A file of DeepSpeed's knobs: what it may say, and a sentence for everything else, before DeepSpeed is imported."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from megas2s.engine.ds_config import GROUPS, KNOBS, read_ds_config, zero_stage
from megas2s.errors import BadConfig

SHIPPED = sorted((Path(__file__).resolve().parents[2] / "ds_configs").glob("*.json"))


@pytest.fixture
def write(tmp_path: Path) -> Callable[[object], str]:
    """A file of these knobs; gives its path."""

    def write_knobs(knobs: object) -> str:
        path = tmp_path / "knobs.json"
        path.write_text(json.dumps(knobs), encoding="utf-8")
        return str(path)

    return write_knobs


def test_every_shipped_file_is_read_as_the_stage_in_its_name():
    stages = {path.stem: 1 if path.stem.startswith("pipeline") else int(path.stem[4]) for path in SHIPPED}
    assert len(stages) == 8
    assert {path.stem: zero_stage(read_ds_config(str(path))) for path in SHIPPED} == stages


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        (
            {"zero_optimisation": {"stage": 3}},
            "'zero_optimisation' is no knob that is read from here; did you mean 'zero_",
        ),
        ({"holiday": 1}, "'holiday' is no knob that is read from here; known: aio, comms_logger, "),
        ({"amp": {"enabled": True}}, "'amp' is stated by the recipe (precision); remove it from the file"),
        ({"torch_autocast": {}}, "'torch_autocast' is stated by the recipe (precision); remove it from the file"),
        ({"zero_optimization": 2}, "zero_optimization must be an object of keys and values, found 2"),
        ({"zero_optimization": {"stage": "three"}}, "zero_optimization.stage must be 0, 1, 2 or 3, found 'three'"),
        ({"zero_optimization": {"stage": 4}}, "zero_optimization.stage must be 0, 1, 2 or 3, found 4"),
        (
            {"zero_optimization": {"reduce_bucket_sise": 1}},
            "zero_optimization.reduce_bucket_sise: unknown key; did you mean 'reduce_bucket_size'?",
        ),
        (
            {"data_types": {"grad_acum_dtype": "fp32"}},
            "data_types.grad_acum_dtype: unknown key; did you mean 'grad_accum_",
        ),
        (
            {"zero_optimization": {"offload_optimizer": "cpu"}},
            'zero_optimization.offload_optimizer is an object such as {"device": "cpu"}, found \'cpu\'',
        ),
        (
            {"zero_optimization": {"reduce_bucket_size": "auto"}},
            "zero_optimization.reduce_bucket_size is a number of elements, found 'auto'",
        ),
        ({"data_types": {"grad_accum_dtype": "fp31"}}, "data_types.grad_accum_dtype is one of fp32, fp16, bf16, found"),
        (
            {"zero_allow_untested_optimizer": True},
            "_untested_optimizer' is stated by the recipe (optimizer)",
        ),
        ([], "must hold one JSON object, found list"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(write, knobs: object, said: str):
    with pytest.raises(BadConfig) as caught:
        read_ds_config(write(knobs))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_file_of_knobs(tmp_path: Path):
    with pytest.raises(BadConfig, match=r"cannot be read \(Is a directory\); ds_configs/ holds the shipped files"):
        read_ds_config(str(tmp_path))


def test_the_knobs_are_deepspeed_s_own():
    from deepspeed.runtime import constants as runtime_constants
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    theirs = {field.alias or name for name, field in DeepSpeedZeroConfig.model_fields.items()}
    assert set(GROUPS["zero_optimization"].split()) <= theirs
    read = Path(inspect.getfile(runtime_constants)).parent
    sources = [read / "constants.py", read / "config.py", read.parent / "utils" / "config.py"]
    written = " ".join(path.read_text(encoding="utf-8") for path in [*sources, *read.parent.glob("**/constants.py")])
    for name in (*KNOBS, *GROUPS["aio"].split(), *GROUPS["data_types"].split()):
        assert f'"{name}"' in written, name


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"stage": 1, "reduce_bucket_size": -1}, "reduce_bucket_size: input should be greater than 0, found -1"),
        (
            {"stage": 2, "offload_optimizer": {"devise": "cpu"}},
            "offload_optimizer.devise: extra inputs are not permitted",
        ),
        ({"stage": 2, "overlap_comm": "perhaps"}, "overlap_comm: input should be a valid boolean, unable to interpret"),
    ],
)
def test_a_value_that_deepspeed_refuses_is_a_sentence_before_the_ranks_meet(write, monkeypatch, knobs: dict, said: str):
    from megas2s.engine import zero

    monkeypatch.setattr(zero, "join", lambda: pytest.fail("the ranks have met"))
    path = write({"zero_optimization": knobs})
    with pytest.raises(BadConfig) as caught:
        zero.ZeroEngine(SimpleNamespace(precision="bf16"), path)
    assert str(caught.value).startswith(f"{path}: zero_optimization: {said}")
