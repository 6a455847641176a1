import math

import pytest

from megas2s.train.schedule import Schedule


def test_warm_up_ends_at_the_peak_and_the_stage_just_above_the_floor():
    schedule = Schedule(lr=1.0, warmup_steps=4, shape="linear", final_lr=0.2)
    rates = [schedule.at(step, steps=8) for step in range(8)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 0.8, 0.6, 0.4])
    assert schedule.at(8, steps=8) == pytest.approx(0.2)


def test_cosine_is_half_way_down_in_the_middle():
    schedule = Schedule(lr=1.0, shape="cosine", final_lr=0.5)
    assert schedule.at(50, steps=100) == pytest.approx(0.75)
    assert schedule.at(25, steps=100) == pytest.approx(0.5 + 0.5 * 0.5 * (1 + math.cos(math.pi / 4)))


def test_inverse_square_root_halves_when_the_steps_quadruple():
    schedule = Schedule(lr=1.0, warmup_steps=100, shape="inverse_sqrt")
    assert schedule.at(399, steps=10**6) == pytest.approx(0.5)
    assert schedule.at(99, steps=10**6) == pytest.approx(1.0)


def test_a_polynomial_falls_by_its_power_and_the_first_is_linear():
    square = Schedule(lr=1.0, warmup_steps=2, shape="polynomial", power=2.0, final_lr=0.2)
    assert [square.at(step, steps=10) for step in (1, 2, 6, 10)] == pytest.approx([1.0, 1.0, 0.2 + 0.8 * 0.25, 0.2])
    linear = Schedule(lr=1.0, warmup_steps=2, shape="linear", final_lr=0.2)
    first = Schedule(lr=1.0, warmup_steps=2, shape="polynomial", final_lr=0.2)
    assert [first.at(step, steps=10) for step in range(10)] == [linear.at(step, steps=10) for step in range(10)]


def test_constant_stays():
    assert Schedule(lr=0.3, shape="constant").at(10**9, steps=5) == 0.3


@pytest.mark.parametrize(
    "bad",
    [
        {"lr": 0.0},
        {"lr": 1.0, "final_lr": 2.0},
        {"lr": 1.0, "warmup_steps": -1},
        {"lr": 1.0, "power": 2.0},
        {"lr": 1.0, "shape": "polynomial", "power": 0.0},
    ],
)
def test_nonsense_is_refused(bad: dict):
    with pytest.raises(ValueError, match=r"lr|warmup|power"):
        Schedule(**bad)
