"""Optimizer and weights in the host's memory: another file for the engine in the same command, the same curve.

Offload to disks is tried with the engine itself, in tests/engine/test_engines.py.
"""

from __future__ import annotations

import pytest

STAGES = {"mlm": "zero3_offload", "seq2seq_frozen": "zero2_offload"}


@pytest.mark.slow
@pytest.mark.ranks
@pytest.mark.timeout(600)  # DeepSpeed's CPU Adam may have to be compiled first
def test_a_recipe_with_its_state_offloaded_learns_as_on_one_device(
    ranks, write_recipe, recipe_data, local_recipe, train_here, finished, tmp_path
):
    for data in (recipe_data, local_recipe):
        data["model"]["dropout"] = 0.0
        data["stages"] = data["stages"][: len(STAGES)]
    overrides = [f"stages.{stage}.engine.config=ds_configs/{name}.json" for stage, name in STAGES.items()]
    done = ranks(2, "launch/pretrain.py", write_recipe(recipe_data), *overrides, timeout=500)
    assert done.returncode == 0, done.stdout[-4000:]
    alone, offloaded = train_here({**local_recipe, "run": str(tmp_path / "alone")}), finished(tmp_path / "run")
    for stage in STAGES:
        for kind in ("train", "heldout"):
            assert offloaded.losses(stage, kind) == pytest.approx(alone.losses(stage, kind), rel=1e-5)
