import numpy as np
import pytest

from megas2s.analysis.probing import probe
from megas2s.analysis.tasks import Task


@pytest.fixture
def task():
    rng = np.random.default_rng(1)
    labels = rng.integers(3, size=900)
    return Task([""] * 900, labels, np.arange(900) % 4 == 0, ["a", "b", "c"])


def test_a_probe_finds_what_is_planted_and_is_at_chance_on_noise(task):
    rng = np.random.default_rng(2)
    noise = rng.normal(size=(900, 12))
    planted = rng.normal(size=(900, 12))
    planted[np.arange(900), task.labels] += 5
    found = probe(np.stack([noise, planted]).astype(np.float32), task)
    assert found.accuracy[1] > 0.95
    assert abs(found.accuracy[0] - 1 / 3) < 3 * found.error[0]
    assert found.converged == [True, True]


def test_the_scale_of_states_does_not_matter(task):
    rng = np.random.default_rng(2)
    states = rng.normal(size=(900, 12))
    states[np.arange(900), task.labels] += 1
    found = probe(np.stack([states, 1000 * states + 7]), task)
    assert found.accuracy[0] == pytest.approx(found.accuracy[1], abs=0.01)


def test_the_same_call_gives_the_same_bits(task):
    features = np.random.default_rng(3).normal(size=(1, 900, 8))
    assert probe(features, task) == probe(features, task)


def test_what_is_learnt_from_the_test_is_nothing(task):
    features = np.random.default_rng(3).normal(size=(1, 900, 8))
    spoilt = features.copy()
    spoilt[0, task.test] *= 0
    labels = np.where(task.test, 0, task.labels)
    assert probe(spoilt, task._replace(labels=labels)).accuracy[0] in (0.0, 1.0)  # one point, one answer


def test_the_error_is_that_of_a_share_of_the_tested(task):
    found = probe(np.random.default_rng(3).normal(size=(1, 900, 8)), task)
    share = found.accuracy[0]
    assert found.error[0] == pytest.approx((share * (1 - share) / 225) ** 0.5)
