"""What tests of the estimators share: a small network on a small bank, quick to fit, and a bank that counts."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.datasets import load_iris

from skpat import PhysicalNetworkClassifier
from skpat.twins import NeuralTwin
from tests.estimators.noisy_bank import NoisyBank

IRIS = tuple(part[::2] for part in load_iris(return_X_y=True))  # 25 of each kind
QUICK = NeuralTwin((8,), max_iter=5, n_refine_steps=1)  # the same path as the default's, with a smaller twin


def small(kind: type = PhysicalNetworkClassifier, device: Any = None, **params: Any) -> Any:
    defaults: dict[str, Any] = {"max_iter": 3, "n_calibration_shots": 60, "random_state": 0, "twin": QUICK}
    return kind(NoisyBank() if device is None else device, **(defaults | params))


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(a[name], b[name]) for name in a)


class Watched(NoisyBank):
    """Counts what reaches it; the count survives clones."""

    sent: list[int] = []
    opened: list[str] = []

    def open(self) -> None:
        self.opened.append("open")

    def close(self) -> None:
        self.opened.append("close")

    def measure(self, batch: Any) -> np.ndarray:
        self.sent.append(len(batch))
        return super().measure(batch)
