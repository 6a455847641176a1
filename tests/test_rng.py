"""Addressed randomness: same address, same draws; shuffles that are bijections and look uniform at any size."""

from __future__ import annotations

import itertools
import math
import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megas2s.rng import SMALL, Permutation, address_hash, generator, torch_seed


def test_an_address_gives_the_same_draws_every_time():
    first, again = (generator(17, "corrupt", "mlm", 5).random(8) for _ in range(2))
    assert (first == again).all()


@pytest.mark.parametrize("other", [(18, "a", 1), (17, "b", 1), (17, "a", 2), (17, 1, "a"), (17, "a", "1"), (17, "a1")])
def test_every_part_of_an_address_and_its_kind_matters(other):
    assert address_hash(17, "a", 1) != address_hash(*other)


def test_draws_of_neighbouring_addresses_are_uniform_and_unrelated():
    draws = np.array([generator(3, "corrupt", "mlm", number).random(20) for number in range(4000)])
    assert _chi_square_z(np.histogram(draws, bins=50, range=(0, 1))[0]) < 5
    assert abs(np.corrcoef(draws, rowvar=False) - np.eye(20)).max() < 0.08  # draws of one address
    assert abs(np.corrcoef(draws[:-1].ravel(), draws[1:].ravel())[0, 1]) < 0.02  # and of the next


def test_torch_seeds_fit_what_torch_accepts():
    assert all(0 <= torch_seed(seed, "dropout") < 1 << 63 for seed in range(200))


@given(size=st.integers(1, 3 * SMALL), seed=st.integers(0, 1 << 40))
def test_a_permutation_is_a_bijection(size, seed):
    order = Permutation(size, seed, "block", 3)
    assert sorted(order[index] for index in range(size)) == list(range(size))


@given(size=st.integers(SMALL + 1, 10**15), seed=st.integers(0, 1 << 40), data=st.data())
def test_large_permutations_stay_inside_and_never_collide(size, seed, data):
    order = Permutation(size, seed)
    indices = data.draw(st.lists(st.integers(0, size - 1), unique=True, max_size=50))
    images = [order[index] for index in indices]
    assert len(set(images)) == len(images)
    assert all(0 <= image < size for image in images)


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_every_order_of_a_few_points_is_equally_likely(size):
    draws = 600 * math.factorial(size)
    seen = Counter(tuple(map(Permutation(size, seed, "x").__getitem__, range(size))) for seed in range(draws))
    counts = [seen[order] for order in itertools.permutations(range(size))]
    assert _chi_square_z(counts) < 5


@pytest.mark.parametrize("size", [10, SMALL + 3])
def test_a_point_lands_anywhere_and_its_neighbour_keeps_no_distance(size):
    landed, apart = np.zeros(10), np.zeros(10)
    for seed in range(4000):
        order = Permutation(size, seed, "windows")
        first, second = order[0], order[1]
        landed[first * 10 // size] += 1
        apart[((second - first) % size - 1) * 10 // size] += 1
    assert _chi_square_z(landed) < 5
    assert _chi_square_z(apart[:9] if size == 10 else apart) < 5  # ten points have nine distances


def test_a_permutation_survives_pickling():
    order = Permutation(5000, 1, "x")
    assert pickle.loads(pickle.dumps(order))[77] == order[77]


@pytest.mark.parametrize("index", [-1, 10])
def test_points_outside_are_refused(index):
    with pytest.raises(IndexError):
        Permutation(10, 0)[index]


def _chi_square_z(counts) -> float:
    """How many standard deviations the counts lie from those of equal chances."""
    counts = np.asarray(counts, dtype=float)
    freedom = len(counts) - 1
    return (((counts - counts.mean()) ** 2 / counts.mean()).sum() - freedom) / math.sqrt(2 * freedom)
