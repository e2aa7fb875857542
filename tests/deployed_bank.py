"""What the tests of deployed networks deploy: a bank that counts what it is sent, and small fits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

import skpat
from skpat import ControlBatch, Device, PhysicalNetworkClassifier
from skpat.devices import SecondHarmonicLaser
from skpat.twins import NeuralTwin

LASER = SecondHarmonicLaser(16, 12, n_steps=3)
SMALL_TWIN = NeuralTwin((8,), max_iter=5, n_refine_steps=1)
SMALL: dict[str, Any] = {"twin": SMALL_TWIN, "n_calibration_shots": 40, "max_iter": 1, "random_state": 0}


class Bank(Device):
    """Without torch; counts what it is sent."""

    n_controls, n_outputs = 6, 4
    control_units = "V"

    def __init__(self, gain=1.0, bounds=(-1.0, 1.0), steps=None, serial="", max_batch=None):
        self.gain = gain
        self.bounds = bounds
        self.steps = steps
        self.serial = serial
        self.max_batch = max_batch
        self.rows = 0
        self.most_rows = 0
        self.opened = 0

    @property
    def control_steps(self) -> Any:
        return self.steps

    def identify(self) -> str:
        return self.serial

    def open(self) -> None:
        self.opened += 1

    def measure(self, batch: ControlBatch) -> np.ndarray:
        self.rows += batch.n_rows
        self.most_rows = max(self.most_rows, batch.n_rows)
        controls = np.asarray(batch)
        return np.tanh(self.gain * controls[:, :4] + controls[:, 2:])


def data(n: int = 60, dtype: Any = np.float64) -> tuple[np.ndarray, np.ndarray]:
    X = np.random.default_rng(0).uniform(-1, 1, (n, 3)).astype(dtype)
    return X, (X[:, 0] > X[:, 1]).astype(int) + (X[:, 2] > 0)


def trained(device: Any = None, **params: Any) -> PhysicalNetworkClassifier:
    X, y = data()
    return PhysicalNetworkClassifier(Bank() if device is None else device, **(SMALL | params)).fit(X, y)


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(skpat.__file__).parents[1])}
