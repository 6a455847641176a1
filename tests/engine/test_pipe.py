"""A pipeline does what the local engine does, on 1, 2, 3 and 4 parts and on 2 x 2, and goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from megas2s import files
from megas2s.engine import Pipe, check_engine
from megas2s.errors import BadConfig

PROGRAM = Path(__file__).with_name("program.py")
BF16_TOLERANCE = 2e-3  # see test_engines
LAYOUTS = {"1 x 2": ("pipe1", 2), "2": ("pipe2", 2), "3": ("pipe3", 3), "4": ("pipe4", 4), "2 x 2": ("pipe2", 4)}
VARIANTS = ("plain", "resumed", "tried", "frozen", "recomputed", "scaled", "post", "t5", "shown")
FEW = ("plain", "resumed")

Results = Callable[..., dict]

pytestmark = [pytest.mark.slow, pytest.mark.ranks, pytest.mark.timeout(1000)]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, script, ranks) -> Results:
    """`results("2 x 2", "fp32", "resumed")`, "local" among the layouts; one launch for each number of ranks."""
    folder = tmp_path_factory.mktemp("pipes")
    done = set()

    def result(layout: str, precision: str, variant: str) -> dict:
        engine, number = LAYOUTS.get(layout, ("local", 1))
        into = folder / f"{number}-{precision}"
        if into not in done:
            into.mkdir()
            variants = VARIANTS if precision == "fp32" and number <= 2 else FEW
            asked = ",".join(sorted({name for name, count in LAYOUTS.values() if count == number} or {"local"}))
            command = (PROGRAM, into, asked, precision, *variants)
            run = script(*command, timeout=300) if number == 1 else ranks(number, *command, timeout=900)
            assert run.returncode == 0, run.stdout[-4000:]
            done.add(into)
        return files.read_json(into / f"{engine}-{precision}-{variant}.json")

    return result


@pytest.mark.parametrize("layout", LAYOUTS)
def test_twenty_clipped_steps_equal_the_local_engine_s(results: Results, layout: str):
    local, pipe = results("local", "fp32", "plain"), results(layout, "fp32", "plain")
    assert min(local["norms"]) > 0.1  # the threshold: clipping acts on every step
    assert pipe["losses"] == pytest.approx(local["losses"], rel=1e-5)
    assert pipe["norms"] == pytest.approx(local["norms"], rel=1e-5)
    assert pipe["heldout"] == pytest.approx(local["heldout"], rel=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_of_the_first_step_equal_the_local_engine_s(results: Results, layout: str):
    local, pipe = results("local", "fp32", "plain")["gradients"], results(layout, "fp32", "plain")["gradients"]
    assert pipe.keys() == local.keys()
    largest = max(abs(value) for values in local.values() for value in values)
    worst = max(abs(a - b) for name in local for a, b in zip(local[name], pipe[name], strict=True))
    assert worst <= 1e-6 * largest


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bf16_stays_within_its_rounding(results: Results, layout: str):
    local, pipe = results("local", "bf16", "plain"), results(layout, "bf16", "plain")
    assert pipe["losses"] == pytest.approx(local["losses"], rel=BF16_TOLERANCE)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_resumed_run_ends_with_the_same_bits(results: Results, layout: str, precision: str):
    straight, resumed = results(layout, precision, "plain"), results(layout, precision, "resumed")
    assert resumed["losses"] == straight["losses"]
    assert resumed["hash"] == straight["hash"]
    assert resumed["counters"] == straight["counters"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_copies_of_tied_matrices_are_equal_after_steps_and_a_resume(results: Results, layout: str, precision: str):
    for variant in FEW:
        assert not any(results(layout, precision, variant)["unlike"])


@pytest.mark.parametrize("layout", ["1 x 2", "2"])
def test_copies_of_the_table_of_relative_positions_are_equal(results: Results, layout: str):
    assert not any(results(layout, "fp32", "t5")["unlike"])


def test_eight_parts_equal_the_local_engine_and_so_do_tables_that_most_of_them_hold(ranks, script, tmp_path: Path):
    for number, engine in ((8, "pipe8"), (1, "local")):
        command = (PROGRAM, tmp_path, engine, "fp32", "deep")
        done = ranks(number, *command, timeout=900) if number > 1 else script(*command, timeout=300)
        assert done.returncode == 0, done.stdout[-4000:]
    pipe, local = (files.read_json(tmp_path / f"{engine}-fp32-deep.json") for engine in ("pipe8", "local"))
    assert pipe["losses"] == pytest.approx(local["losses"], rel=1e-5)
    assert pipe["norms"] == pytest.approx(local["norms"], rel=1e-5)
    assert not any(pipe["unlike"])


@pytest.mark.parametrize("variant", ["post", "t5", "scaled", "frozen", "recomputed"])
@pytest.mark.parametrize("layout", ["1 x 2", "2"])
def test_every_shape_and_way_of_training_equals_the_local_engine_s(results: Results, layout: str, variant: str):
    local, pipe = results("local", "fp32", variant), results(layout, "fp32", variant)
    assert pipe["losses"] == pytest.approx(local["losses"], rel=1e-5)
    assert pipe["norms"] == pytest.approx(local["norms"], rel=1e-5)
    assert pipe["with_moments"] == local["with_moments"]
    # A key's bias adds the same to all scores of a query: softmax gives it no gradient beyond rounding.
    assert not [name for name in set(pipe["moved"]) ^ set(local["moved"]) if not name.endswith("attention.k.bias")]


@pytest.mark.parametrize("layout", ["1 x 2", "2"])
def test_the_trial_step_leaves_no_trace(results: Results, layout: str):
    straight, tried = results(layout, "fp32", "plain"), results(layout, "fp32", "tried")
    assert (tried["losses"], tried["hash"]) == (straight["losses"], straight["hash"])


@pytest.mark.parametrize("layout", ["1 x 2", "2"])
def test_samples_are_the_local_engine_s(results: Results, layout: str):
    assert results(layout, "fp32", "shown") == results("local", "fp32", "shown")


@pytest.mark.parametrize(
    ("zero", "precision", "said"),
    [
        ({"stage": 3}, "bf16", "a pipeline runs under ZeRO-1, found ZeRO-3; use ds_configs/pipeline.json"),
        ({}, "bf16", "a pipeline runs under ZeRO-1, found ZeRO-0; use ds_configs/pipeline.json"),
        ({"stage": 1, "offload_optimizer": {"device": "cpu"}}, "bf16", "remove offload_optimizer"),
        ({"stage": 1}, "fp16", "engine 'pipe' has no loss scaling for fp16; use precision: bf16"),
    ],
)
def test_what_cannot_run_in_a_pipeline_is_refused(tmp_path: Path, zero: dict, precision: str, said: str):
    files.write_json(tmp_path / "knobs.json", {"zero_optimization": zero})
    with pytest.raises(BadConfig, match=said):
        check_engine(Pipe(config=str(tmp_path / "knobs.json")), precision=precision)
