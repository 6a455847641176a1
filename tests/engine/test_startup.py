"""ZeRO-3 starts, saves and starts again with a model's share in each rank: no rank ever holds all of it.

What comes on top is the largest tensor, whole, and a constant.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from megas2s.models.parameters import parameter_shapes

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from benchmarks.startup import STATES, measure
from benchmarks.startup_rank import SHARD, config

VOCABULARY = 150_016
AROUND = 250_000_000  # bytes: buckets, small tensors kept whole, what the allocator rounds up


@pytest.mark.ranks
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("width", [256, 512])
def test_memory_of_a_rank_is_its_share_and_a_constant(width, ranks, tmp_path):
    shapes = parameter_shapes(config(width, VOCABULARY))
    parameters = sum(map(math.prod, shapes.values()))
    largest = 4 * max(map(math.prod, shapes.values()))
    assert 100e6 < parameters < 300e6
    share = STATES * parameters / ranks
    found = measure(width, VOCABULARY, ranks, tmp_path / "startup")
    assert share < found["start"] < share + largest + AROUND
    assert share < found["read"] < share + largest + AROUND
    assert found["save"] < share + 2 * largest + SHARD + AROUND
