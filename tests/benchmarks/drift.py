"""Accuracy on a device that drifts: before, after, and after a recalibration; beside a training from scratch.

Every control channel walks on its own, by 0.3 % (circuit) or 1 % (laser) of its range, standard deviation, in 1,000 rows. The
network is trained, predicts the test rows, and predicts them again when the device has answered a further 300,000 rows. Then
copies of it are recalibrated with labelled rows of the training, in three ways: as it comes ("recalibrated": it decides
itself how far to go), the readout only, and the readout and the weights whatever the loss. "Trained from scratch" is a new
fit on the device as it is then.

Nothing digital is trained but a gain and an offset for each input channel, and the readout: a linear map for the circuit, for
the laser one gain and an intercept for each class ("bins"); one anchored step follows each measured one. A run is one line of
JSON in ``--results``; runs that stand there already are not repeated.

    python tests/benchmarks/drift.py
"""

from __future__ import annotations

import copy
import time
from typing import Any

import numpy as np
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from runs import result_of_states, run_devices
from skpat import PhysicalNetworkClassifier
from skpat.devices import AnalogCircuit, Drifting, SecondHarmonicLaser
from skpat.training import PhysicsAware

WALK, ROWS_LATER = {"circuit": 0.003, "laser": 0.01}, 300_000
BUDGET = {"circuit": 4_000, "laser": 4_000}
METHODS = (
    "before the drift",
    "after it",
    "recalibrated",
    "readout only",
    "readout and weights",
    "trained from scratch",
    "linear",
)


class Late(Drifting):
    """The same device, whose clock begins later."""

    def __init__(self, device, *, independent=0.0, later=0, random_state=None):
        super().__init__(device, common=0.0, independent=independent, random_state=random_state)
        self.later = later

    def _drift(self, clock: np.ndarray, index: np.ndarray, now: int | None = None) -> np.ndarray:
        return super()._drift(clock + self.later, index, None if now is None else now + self.later)


def task(name: str, seed: int) -> list[np.ndarray]:
    """X_train, X_test, y_train, y_test: signs of two products for the circuit, wines for the laser."""
    if name == "laser":
        X, y = load_wine(return_X_y=True)
        X = StandardScaler().fit_transform(X)
    else:
        X = np.random.default_rng(0).uniform(-1, 1, size=(1000, 4))
        y = (X[:, 0] * X[:, 1] > 0) + 2 * (X[:, 2] * X[:, 3] > 0)
    return train_test_split(X, y, test_size=0.4, random_state=seed, stratify=y)


def build(name: str, seed: int) -> PhysicalNetworkClassifier:
    """The network, unfitted."""
    made: Any = SecondHarmonicLaser() if name == "laser" else AnalogCircuit()
    device = Drifting(made, common=0.0, independent=WALK[name], random_state=1000 + seed)
    how: dict[str, Any] = {"encoder": "direct", "learning_rate_init": 0.03, "max_iter": 10, "random_state": seed}
    how["gradient"] = PhysicsAware(n_anchored_steps=1)
    if name == "laser":
        how |= {"n_units": 2, "readout": "bins", "max_iter": 20}
    return PhysicalNetworkClassifier(device, **how)


def run(name: str, seed: int) -> dict[str, Any]:
    """One seed: all rows of the table."""
    X_train, X_test, y_train, y_test = task(name, seed)
    begun = time.perf_counter()
    network = build(name, seed).fit(X_train, y_train)
    accuracy = {"before the drift": network.score(X_test, y_test)}
    shots = {"before the drift": network.ledger_.total - network.shots_["prediction"]}
    network.ledger_.n_before += ROWS_LATER
    state = copy.deepcopy(network)
    accuracy["after it"], shots["after it"] = state.score(X_test, y_test), 0
    kept = {}
    for method, loss in (("recalibrated", None), ("readout only", np.inf), ("readout and weights", -np.inf)):
        copied = copy.deepcopy(network)
        copied.loss_ = network.loss_ if loss is None else loss
        copied.recalibrate(X_train, y_train, BUDGET[name])
        accuracy[method], shots[method] = copied.score(X_test, y_test), copied.shots_["recalibration"]
        kept[method] = copied.recalibration_.kept
    scratch = build(name, seed)
    scratch.set_params(device=Late(scratch.device.device, independent=WALK[name], random_state=1000 + seed))
    scratch.set_params(device__later=network.ledger_.asked_in_all).fit(X_train, y_train)
    accuracy["trained from scratch"] = scratch.score(X_test, y_test)
    shots["trained from scratch"] = scratch.ledger_.total - scratch.shots_["prediction"]
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(X_train, y_train)
    accuracy["linear"], shots["linear"] = linear.score(X_test, y_test), 0
    return result_of_states(name, seed, begun, accuracy, shots, kept=kept)


if __name__ == "__main__":
    run_devices(run, list(BUDGET), METHODS, __doc__.splitlines()[0], "drift.jsonl")
