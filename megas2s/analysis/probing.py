"""A linear probe: logistic regression on frozen representations, one for each height of the encoder.

Its penalty is one for all heights and tasks, so that their accuracies may be compared and nothing is tuned on a test.
What a probe reads is scaled to unit variance first: the scale of states grows with the height, the penalty does not.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from megas2s.analysis.tasks import Task

INVERSE_PENALTY = 0.1  # scikit-learn's C; its default of 1 overfits where sentences are as few as features
ITERATIONS = 1000


class Probed(NamedTuple):
    """How well a task is solved at each height, bottom first."""

    accuracy: list[float]  # on the test
    error: list[float]  # the standard error of that, from the number of tested sentences
    converged: list[bool]


def probe(features: np.ndarray, task: Task) -> Probed:
    """Probes of every height: features (heights, N, D) of the task's N texts."""
    found = Probed([], [], [])
    tested = int(task.test.sum())
    for states in features:
        scaler = StandardScaler().fit(states[~task.test])
        regression = LogisticRegression(C=INVERSE_PENALTY, max_iter=ITERATIONS)
        regression.fit(scaler.transform(states[~task.test]), task.labels[~task.test])
        accuracy = float(regression.score(scaler.transform(states[task.test]), task.labels[task.test]))
        found.accuracy.append(accuracy)
        found.error.append(math.sqrt(accuracy * (1 - accuracy) / tested))
        found.converged.append(bool(regression.n_iter_.max() < ITERATIONS))
    return found
