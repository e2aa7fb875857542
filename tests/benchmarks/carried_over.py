"""A network that is trained on one copy of a device, on another: as it is, after a recalibration, beside a training anew.

Copies of one make differ: the chips of the mesh in every phase (0.1 rad) and splitter (0.05), the oscillators in every coupling
(20 % of the largest), the lasers in how each channel is aligned (30 % of its range). A network is trained on one copy and
predicts the test rows there; it predicts them on another copy; ``set_params(device=other).recalibrate(...)`` adapts it with the
labelled rows of the training and 500, 2,000, 8,000 or 32,000 shots at most. "Trained on it" is a new fit on the other copy,
with 2,000 shots at most, and with all that it takes.

Digits for the mesh and the oscillators, scikit-learn's wines for the laser. Nothing digital is trained but a gain and an offset
for each input channel, and one gain and an intercept for each class. The twin is what the estimator takes by itself: the
equations of a copy without errors for the mesh and the oscillators, for the laser one that is learned. A run is one line of
JSON in ``--results``; runs that stand there already are not repeated.

    python tests/benchmarks/carried_over.py
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

from sklearn.datasets import load_digits, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from runs import result_of_states, run_devices
from skpat import ControlSplit, PhysicalNetworkClassifier
from skpat.devices import CoupledOscillators, Drifting, MachZehnderMesh, SecondHarmonicLaser

BUDGETS = (500, 2_000, 8_000, 32_000)
FEW = 2_000  # for a training
METHODS = (
    "on its own copy",
    "on another, as it is",
    *(f"recalibrated, {budget:,}" for budget in BUDGETS),
    f"trained on it, {FEW:,}",
    "trained on it",
    "linear",
)
OTHER = 1000  # added to the seed of a copy

COPIES: dict[str, Callable[[int], Any]] = {
    "mesh": lambda seed: MachZehnderMesh(phase_error=0.1, splitter_error=0.05, device_seed=seed, random_state=seed),
    "oscillators": lambda seed: CoupledOscillators(74, 10, coupling_error=0.2, device_seed=seed, random_state=seed),
    "laser": lambda seed: Drifting(
        SecondHarmonicLaser(random_state=seed), common=0.0, misalignment=0.3, misalignment_at=0, random_state=seed
    ),
}


def build(name: str, device: Any, seed: int) -> PhysicalNetworkClassifier:
    """The network, unfitted."""
    how: dict[str, Any] = {"encoder": "direct", "readout": "bins", "learning_rate_init": 0.03, "random_state": seed}
    if name == "laser":
        how |= {"n_units": 2, "max_iter": 20}
    else:
        how |= {"max_iter": 10, "control_split": ControlSplit(device.amplitude_index[:64])}
    if name == "mesh":
        how |= {"n_layers": 2, "n_units": 4}
    return PhysicalNetworkClassifier(device, **how)


def run(name: str, seed: int) -> dict[str, Any]:
    """One seed: all rows of the table."""
    X, y = load_wine(return_X_y=True) if name == "laser" else load_digits(return_X_y=True)
    parts = train_test_split(X, y, test_size=0.4, random_state=seed, stratify=y)
    scaler = StandardScaler() if name == "laser" else None
    X_train, X_test = (scaler.fit(parts[0]).transform(part) if scaler else part for part in parts[:2])
    y_train, y_test = parts[2:]
    begun = time.perf_counter()
    own, other = COPIES[name](seed), COPIES[name](OTHER + seed)
    network = build(name, own, seed).fit(X_train, y_train)
    n_trained = network.ledger_.total
    accuracy = {"on its own copy": network.score(X_test, y_test)}
    shots, kept = {"on its own copy": n_trained}, {}
    moved = copy.deepcopy(network)
    moved.device_ = copy.deepcopy(other)
    accuracy["on another, as it is"], shots["on another, as it is"] = moved.score(X_test, y_test), 0
    for budget in BUDGETS:
        method = f"recalibrated, {budget:,}"
        adapted = copy.deepcopy(network).set_params(device=other).recalibrate(X_train, y_train, budget)
        accuracy[method], shots[method] = adapted.score(X_test, y_test), adapted.shots_["recalibration"]
        kept[method] = adapted.recalibration_.kept
    for max_shots, method in ((FEW, f"trained on it, {FEW:,}"), (None, "trained on it")):
        anew = build(name, other, seed).set_params(max_shots=max_shots).fit(X_train, y_train)
        shots[method] = anew.ledger_.total
        accuracy[method] = anew.score(X_test, y_test)
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(X_train, y_train)
    accuracy["linear"], shots["linear"] = linear.score(X_test, y_test), 0
    return result_of_states(name, seed, begun, accuracy, shots, kept=kept)


if __name__ == "__main__":
    run_devices(run, list(COPIES), METHODS, __doc__.splitlines()[0], "carried_over.jsonl")
