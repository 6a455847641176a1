"""25: a rank that keeps the others waiting is named, with its host and by how much, and the run goes on."""

from __future__ import annotations

import re

import pytest

from .test_23_hang import DISTURBED


@pytest.mark.slow
@pytest.mark.ranks
@pytest.mark.timeout(300)
def test_a_slow_rank_is_named_and_the_run_goes_on(ranks, recipe_data, write_recipe, tmp_path):
    recipe_data |= {"stages": recipe_data["stages"][:1]}
    recipe_data["log"] |= {"every": 2, "tensorboard": False}
    done = ranks(2, DISTURBED, "straggle", "launch/pretrain.py", write_recipe(recipe_data), timeout=200)
    assert done.returncode == 0, done.stdout
    named = re.findall(r"rank (\d) on \S+ keeps the others waiting: .* s, ([\d.]+) x the median", done.stdout)
    assert named
    assert {rank for rank, _ in named} == {"1"}
    assert all(float(times) > 1.5 for _, times in named)
    assert (tmp_path / "run" / "mlm" / "weights" / "MANIFEST.json").exists()
