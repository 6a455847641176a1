"""Micro-batches are summed in fp32 under every shipped file where DeepSpeed can and it costs the GPU little."""

from __future__ import annotations

from pathlib import Path

import pytest

from megas2s import files

ROOT = Path(__file__).resolve().parents[2]
IN_FP32 = ("local", "zero1", "zero2", "zero3", "zero3_offload")
IN_BF16 = ("zero0", "zero2_offload")  # DeepSpeed refuses it for one, keeps the sum on the GPU for the other
EXACT = 1 + 15 * 2**-9

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # CPU Adam may have to be compiled


@pytest.fixture(scope="module")
def found(tmp_path_factory, script) -> dict:
    """What each engine made of one step, by the name of its file."""
    folder = tmp_path_factory.mktemp("sums")
    for name in {*IN_FP32, *IN_BF16} - {"local"}:
        knobs = files.read_json(ROOT / "ds_configs" / f"{name}.json")
        if knobs["zero_optimization"]["stage"] == 3:
            knobs["zero_optimization"]["stage3_param_persistence_threshold"] = 0  # scatter what is small, too
        files.write_json(folder / f"{name}.json", knobs)
    out = folder / "found"
    engines = [name if name == "local" else folder / f"{name}.json" for name in (*IN_FP32, *IN_BF16)]
    done = script(Path(__file__).with_name("sums.py"), out, *engines, timeout=500)
    assert done.returncode == 0, done.stdout[-4000:]
    return files.read_json(out)


@pytest.mark.parametrize("engine", IN_FP32)
def test_small_gradients_are_not_lost_beside_a_large_one(found, engine):
    # ZeRO-1 rounds the sum to bf16 once, when it is reduced over ranks.
    assert found[engine]["gradient"] == pytest.approx(EXACT, rel=2**-8 if engine == "zero1" else 1e-6)


@pytest.mark.parametrize("engine", IN_BF16)
def test_where_the_sum_is_kept_in_bf16_they_are(found, engine):
    assert found[engine]["gradient"] == pytest.approx(1.0, rel=1e-6)


def test_every_engine_counts_what_it_trains(found):
    assert {engine["trainable"] for engine in found.values()} == {16}
