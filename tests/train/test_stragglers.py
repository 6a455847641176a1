from __future__ import annotations

import pytest

from megas2s.train.stragglers import outliers


@pytest.mark.parametrize(
    ("own", "named"),
    [
        ([1.0, 1.1, 0.9, 1.0], {}),
        ([1.0, 5.0], {1: 5.0}),
        ([0.2, 0.2, 0.8, 0.2], {2: 4.0}),
        ([0.001, 0.009], {}),  # nine times, and of no account in a step of a second
        ([0.0, 0.5], {1: pytest.approx(0.5 / 1e-9)}),
        ([2.0], {}),
    ],
)
def test_ranks_far_above_the_median_are_named(own, named):
    assert outliers(own, factor=1.5, step=1.0) == named
