"""Every engine does what the local one does, goes on where it stopped, and moves only what may move."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from megas2s import files
from megas2s.engine.ds_config import read_ds_config
from megas2s.errors import BadConfig

PROGRAM = Path(__file__).with_name("program.py")
ROOT = Path(__file__).resolve().parents[2]
ZERO = ("zero0", "zero1", "zero2", "zero3")
# bf16 keeps 8 bits: gradients are rounded per rank before they are summed, so layouts differ in the last bit.
BF16_TOLERANCE = 2e-3
IN_BF16 = ("plain", "resumed", "tried", "frozen", "scaled")  # what rounding or fp32 masters could make another case

Results = Callable[..., dict]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, script, ranks) -> Results:
    """`results("zero1", "fp32", "resumed")`: one program per precision on two ranks, read where it is asked for."""
    folder = tmp_path_factory.mktemp("engines")
    configs = ",".join(str(shipped(name, folder)) for name in ZERO)
    done = set()

    def result(engine: str, precision: str, variant: str) -> dict:
        kind = ("local" if engine == "local" else "zero", precision)
        if kind not in done:
            variants = IN_BF16 if precision == "bf16" else ()
            run = (
                script(PROGRAM, folder, "local", precision, *variants, timeout=300)
                if engine == "local"
                else ranks(2, PROGRAM, folder, configs, precision, *variants, timeout=900)
            )
            assert run.returncode == 0, run.stdout[-4000:]
            done.add(kind)
        return files.read_json(folder / f"{engine}-{precision}-{variant}.json")

    return result


def shipped(name: str, folder: Path) -> Path:
    """A copy of a file in ds_configs: ZeRO-3 gathers tensors of every size, and a disk means `folder`."""
    config = files.read_json(ROOT / "ds_configs" / f"{name}.json")
    knobs = config["zero_optimization"]
    if knobs["stage"] == 3:
        knobs["stage3_param_persistence_threshold"] = 0
    for part in (part for part in knobs.values() if isinstance(part, dict) and part["device"] == "nvme"):
        part["nvme_path"] = str(folder / "nvme")
    if name == "zero3_nvme":
        knobs["offload_param"]["buffer_size"] = 1 << 20  # elements; the default is gigabytes of memory for each engine
    files.write_json(folder / f"{name}.json", config)
    return folder / f"{name}.json"


pytestmark = [pytest.mark.slow, pytest.mark.ranks, pytest.mark.timeout(1000)]


@pytest.mark.parametrize("engine", ZERO)
def test_losses_and_norms_of_twenty_clipped_steps_equal_the_local_engine_s(results: Results, engine: str):
    local, zero = results("local", "fp32", "plain"), results(engine, "fp32", "plain")
    assert min(local["norms"]) > 0.1  # the threshold: clipping acts on every step
    assert zero["losses"] == pytest.approx(local["losses"], rel=1e-5)
    assert zero["norms"] == pytest.approx(local["norms"], rel=1e-5)
    assert zero["heldout"] == pytest.approx(local["heldout"], rel=1e-5)


@pytest.mark.parametrize("engine", ZERO)
def test_gradients_of_the_first_step_equal_the_local_engine_s(results: Results, engine: str):
    local, zero = results("local", "fp32", "plain")["gradients"], results(engine, "fp32", "plain")["gradients"]
    assert zero.keys() == local.keys()
    largest = max(abs(value) for values in local.values() for value in values)
    worst = max(abs(a - b) for name in local for a, b in zip(local[name], zero[name], strict=True))
    assert worst <= 1e-6 * largest


@pytest.mark.parametrize("engine", ZERO)
def test_bf16_stays_within_its_rounding(results: Results, engine: str):
    local, zero = results("local", "bf16", "plain"), results(engine, "bf16", "plain")
    assert zero["losses"] == pytest.approx(local["losses"], rel=BF16_TOLERANCE)


@pytest.mark.parametrize("shape", ["post", "t5"])
@pytest.mark.parametrize("engine", ZERO)
def test_models_of_every_line_learn_as_under_the_local_engine(results: Results, engine: str, shape: str):
    local, zero = results("local", "fp32", shape), results(engine, "fp32", shape)
    assert zero["losses"] == pytest.approx(local["losses"], rel=1e-5)
    assert zero["norms"] == pytest.approx(local["norms"], rel=1e-5)
    # Softmax does not see a bias of the keys: its gradient is rounding (1e-16), and so is whether it moves.
    moved, theirs = ({name for name in found["moved"] if ".k.bias" not in name} for found in (zero, local))
    assert moved == theirs


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("engine", ["local", *ZERO])
def test_a_resumed_run_ends_with_the_same_bits(results: Results, engine: str, precision: str):
    straight, resumed = results(engine, precision, "plain"), results(engine, precision, "resumed")
    assert resumed["losses"] == straight["losses"]
    assert resumed["hash"] == straight["hash"]
    assert resumed["counters"] == straight["counters"]


@pytest.mark.parametrize("engine", ZERO)
def test_steps_scaled_by_the_weights_equal_the_local_engine_s(results: Results, engine: str):
    local, zero = results("local", "fp32", "scaled"), results(engine, "fp32", "scaled")
    assert zero["losses"] == pytest.approx(local["losses"], rel=1e-5)
    assert zero["losses"] != results(engine, "fp32", "plain")["losses"][:8]
    low, shared = results("local", "bf16", "scaled"), results(engine, "bf16", "scaled")
    assert shared["losses"] == pytest.approx(low["losses"], rel=BF16_TOLERANCE)


@pytest.mark.parametrize("engine", ["local", *ZERO])
def test_scaled_steps_resume_with_the_same_bits(results: Results, engine: str):
    straight, resumed = results(engine, "fp32", "scaled"), results(engine, "fp32", "scaled_resumed")
    assert resumed["losses"] == straight["losses"]
    assert resumed["hash"] == straight["hash"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("engine", ["local", *ZERO])
def test_the_trial_step_leaves_no_trace(results: Results, engine: str, precision: str):
    straight, tried = results(engine, precision, "plain"), results(engine, precision, "tried")
    assert tried["losses"] == straight["losses"]
    assert tried["hash"] == straight["hash"]
    assert tried["counters"] == straight["counters"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("engine", ["local", *ZERO])
def test_a_frozen_encoder_has_no_moments_and_does_not_move_by_a_bit(results: Results, engine: str, precision: str):
    frozen, plain = results(engine, precision, "frozen"), results(engine, precision, "plain")
    assert not [name for name in frozen["moved"] + frozen["with_moments"] if name.startswith("encoder.")]
    assert frozen["moved"] == [name for name in plain["moved"] if not name.startswith("encoder.")]
    assert frozen["with_moments"] == [name for name in plain["with_moments"] if not name.startswith("encoder.")]


@pytest.mark.parametrize("engine", ["local", *ZERO])
def test_recomputed_layers_behind_a_frozen_encoder_give_the_same_losses(results: Results, engine: str):
    stored, recomputed = results(engine, "fp32", "frozen"), results(engine, "fp32", "recomputed")
    assert recomputed["losses"] == stored["losses"][: len(recomputed["losses"])]


@pytest.mark.parametrize("engine", ZERO)
def test_frozen_weights_are_read_again_by_the_first_rank_alone(results: Results, engine: str):
    frozen, plain = results(engine, "fp32", "frozen"), results(engine, "fp32", "plain")
    assert plain["given"] == [len(plain["with_moments"])] * 2
    assert frozen["given"] == [len(plain["with_moments"]), len(frozen["with_moments"])]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("engine", ["local", *ZERO])
def test_a_frozen_encoder_runs_without_dropout_and_leaves_no_graph(results: Results, engine: str, precision: str):
    ranks = 1 if engine == "local" else 2
    # (training mode, gradient through the encoder's states) of all passes in training, on each rank
    assert results(engine, precision, "frozen")["encoder"] == ["[(False, False)]"] * ranks
    assert results(engine, precision, "plain")["encoder"] == ["[(True, True)]"] * ranks


@pytest.mark.parametrize("engine", ZERO)
def test_samples_are_the_same_whatever_languages_other_ranks_hold(results: Results, engine: str):
    local, zero = results("local", "fp32", "shown"), results(engine, "fp32", "shown")
    assert local["text"].count("**source**") == 3
    assert zero == local


@pytest.mark.parametrize("engine", ["local", *ZERO])
def test_every_parameter_moves_when_nothing_is_frozen(results: Results, engine: str):
    plain = results(engine, "fp32", "plain")
    # A key's bias adds the same to all scores of a query, so softmax gives it no gradient beyond rounding.
    still = set(plain["with_moments"]) - set(plain["moved"])
    assert all(name.endswith("attention.k.bias") for name in still)


def test_every_rank_s_text_is_gathered_in_order(results: Results):
    assert results("zero1", "fp32", "plain")["hosts"] == ["rank 0 é", "rank 1 é"]
    assert results("local", "fp32", "plain")["hosts"] == ["rank 0 é"]


@pytest.mark.parametrize("engine", ZERO)
def test_no_shared_memory_keeps_its_name_once_all_ranks_have_it(results: Results, engine: str):
    assert results(engine, "fp32", "plain")["shared_memory"] == []


@pytest.fixture(scope="module")
def offloaded(tmp_path_factory: pytest.TempPathFactory, ranks) -> Callable[[str, str], dict]:
    """Offload to host memory and to NVMe: CPU Adam, whose first use compiles it."""
    folder = tmp_path_factory.mktemp("offload")
    done = set()

    def result(engine: str, variant: str) -> dict:
        if engine not in done:
            brief = ["brief", "brief_resumed"] if engine == "zero3_nvme" else ["plain", "resumed"]
            run = ranks(2, PROGRAM, folder, shipped(engine, folder), "fp32", *brief, timeout=900)
            assert run.returncode == 0, run.stdout[-4000:]
            done.add(engine)
        return files.read_json(folder / f"{engine}-fp32-{variant}.json")

    return result


def can_build_async_io() -> bool:
    """Whether DeepSpeed's asynchronous I/O can be compiled here; it needs libaio's headers."""
    from deepspeed.ops.op_builder import AsyncIOBuilder

    return bool(AsyncIOBuilder().is_compatible(verbose=False))


needs_async_io = pytest.mark.skipif(
    not can_build_async_io(), reason="libaio's headers are absent: apt install libaio-dev"
)


@pytest.mark.parametrize(
    ("engine", "straight", "resumed"),
    [
        ("zero2_offload", "plain", "resumed"),
        ("zero3_offload", "plain", "resumed"),
        pytest.param("zero3_nvme", "brief", "brief_resumed", marks=needs_async_io),
    ],
)
def test_offloaded_state_trains_like_the_local_engine_and_resumes_to_the_bit(
    results: Results, offloaded, engine: str, straight: str, resumed: str
):
    local, offload, again = (results("local", "fp32", "plain"), offloaded(engine, straight), offloaded(engine, resumed))
    assert offload["losses"] == pytest.approx(local["losses"][: len(offload["losses"])], rel=1e-5)
    assert again["losses"] == offload["losses"]
    assert again["hash"] == offload["hash"]


def has_fp16() -> bool:
    """Whether DeepSpeed trains in fp16 on this device; many CPUs have no instructions for it."""
    from deepspeed.accelerator import get_accelerator

    return bool(get_accelerator().is_fp16_supported())


@pytest.mark.skipif(not has_fp16(), reason="this device has no fp16 arithmetic")
@pytest.mark.parametrize("engine", ["zero1", "zero2", "zero3"])
def test_fp16_trains_with_a_loss_scale_that_survives_a_resume(results, fp16, engine: str):
    local, plain, resumed = results("local", "fp32", "plain"), fp16(engine, "plain"), fp16(engine, "resumed")
    assert plain["losses"] == pytest.approx(local["losses"], rel=BF16_TOLERANCE)
    assert plain["counters"]["cur_scale"] == 2**16
    assert resumed["losses"] == plain["losses"]
    assert resumed["hash"] == plain["hash"]
    assert resumed["counters"] == plain["counters"]


@pytest.fixture(scope="module")
def fp16(tmp_path_factory: pytest.TempPathFactory, ranks) -> Callable[[str, str], dict]:
    """ZeRO-1 to 3 in fp16, in one launch."""
    folder = tmp_path_factory.mktemp("fp16")
    configs = ",".join(str(ROOT / "ds_configs" / f"{name}.json") for name in ZERO[1:])
    run = ranks(2, PROGRAM, folder, configs, "fp16", "plain", "resumed", timeout=900)
    assert run.returncode == 0, run.stdout[-4000:]
    return lambda engine, variant: files.read_json(folder / f"{engine}-fp16-{variant}.json")


def test_fp16_under_zero0_is_refused_with_a_reason():
    with pytest.raises(BadConfig, match="fp16 does not train under ZeRO-0"):
        read_ds_config(str(ROOT / "ds_configs" / "zero0.json"), precision="fp16")


def test_fp16_is_refused_where_the_device_has_none(monkeypatch: pytest.MonkeyPatch):
    from megas2s.engine import zero

    monkeypatch.setattr(zero.get_accelerator(), "is_fp16_supported", lambda: False)
    with pytest.raises(BadConfig, match="fp16 is not supported by this device; take bf16 or fp32"):
        zero.ZeroEngine(SimpleNamespace(precision="fp16"), str(ROOT / "ds_configs" / "zero1.json"))
