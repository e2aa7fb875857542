"""What the tests of journals record: a device that counts its answers, and small fits."""

from __future__ import annotations

from typing import Any

import numpy as np

from skpat import ControlBatch, Device, PhysicalNetworkClassifier
from skpat.devices import SecondHarmonicLaser
from skpat.twins import NeuralTwin


class Counter(Device):
    """Every answer is another one: its number among all answers, and what was asked for."""

    n_controls, n_outputs = 3, 2
    bounds = (0.0, 1.0)

    def __init__(self, max_batch=None):
        self.max_batch = max_batch
        self.answered = 0
        self.calls = 0

    def measure(self, batch: ControlBatch) -> np.ndarray:
        self.calls += 1
        numbers = self.answered + np.arange(1.0, batch.n_rows + 1)
        self.answered += batch.n_rows
        return np.column_stack([numbers, np.asarray(batch).sum(axis=1)])


POOL = np.linspace(0, 1, 12).reshape(4, 3)


def data() -> tuple[np.ndarray, np.ndarray]:
    X = np.random.RandomState(0).uniform(-1, 1, (80, 3))
    return X, X[:, 0] > X[:, 1]


LASER = SecondHarmonicLaser(16, 12, n_steps=3)
SMALL_TWIN = NeuralTwin((8,), max_iter=5, n_refine_steps=1)


def fitted(journal: Any, **params: Any) -> PhysicalNetworkClassifier:
    defaults = {"device": LASER, "twin": SMALL_TWIN, "max_iter": 3, "n_calibration_shots": 60, "batch_size": 16}
    defaults |= {"random_state": 0}
    return PhysicalNetworkClassifier(journal=journal, **(defaults | params)).fit(*data())


def same_weights(one: Any, other: Any) -> bool:
    return all((one.weights_[name] == other.weights_[name]).all() for name in one.weights_)
