"""On three data ranks a sum depends on its order: copies of a matrix stay equal all the same, all parts skip alike."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from megas2s import files

PROGRAM = Path(__file__).with_name("copies.py")

pytestmark = [pytest.mark.slow, pytest.mark.ranks, pytest.mark.timeout(500)]


@pytest.fixture(scope="module")
def found(ranks, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What six ranks saw: two parts, three data ranks each."""
    folder = tmp_path_factory.mktemp("copies")
    done = ranks(6, PROGRAM, folder, timeout=400)
    assert done.returncode == 0, done.stdout[-4000:]
    return files.read_json(folder / "copies.json")


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_copies_of_a_matrix_are_equal_after_every_step(found, precision: str):
    assert found[precision]["astray"] == [""] * 6
    assert found[precision]["skipped"] == 0


def test_a_gradient_that_is_no_number_in_one_part_is_skipped_by_all(found):
    poisoned = found["fp32"]["poisoned"]
    assert poisoned["skipped"] == ["True"] * 6
    assert math.isinf(poisoned["norm"])
    assert poisoned["moved"] == []
