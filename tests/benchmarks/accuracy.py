"""Accuracy of every simulated system on a task, for each training method, beside what it must be compared with.

Nothing digital is trained but a gain and an offset for each input channel, and the readout: a linear map, or fixed bins of
outputs, as the table says. The rows for each system:

- PAT: physics-aware training, one step a batch (``n_anchored_steps=0``), with a twin learned from measurements; for systems
  whose equations one would know, with a physics twin: the same equations with nominal constants, fitted, while the device has
  errors;
- exact gradient where the system has one, a long SPSA run where not;
- in silico: the physics twin where there is one, else the learned twin;
- identity: the same network with the device replaced by the identity (averaged or repeated to its outputs);
- untrained: random weights on the device, inputs as at the start, and a logistic regression on what the device answers;
- linear: logistic regression on the features.

A run is one line of JSON in ``--results``; runs that stand there already are not repeated. Settings were chosen on the splits
of seeds 0 to 4; the figures come from those of seeds 5 to 9.

    python tests/benchmarks/accuracy.py
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sklearn
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from runs import accuracy_and_shots, add_arguments, read_results, run_cases
from skpat import ControlSplit, PhysicalNetworkClassifier
from skpat.devices import (
    AnalogCircuit,
    CoupledOscillators,
    FrozenModel,
    IdentityDevice,
    MachZehnderMesh,
    NeuralTissue,
    OscillatingPlate,
    SecondHarmonicLaser,
)
from skpat.lab import Session
from skpat.network.forward import forward
from skpat.row_keys import hash_rows
from skpat.training import SPSA, PhysicsAware
from skpat.twins import NeuralTwin, PhysicsTwin

FIRST_SEED = 5


def digits() -> tuple[np.ndarray, np.ndarray]:
    """1,797 handwritten digits of 8 x 8 pixels."""
    return load_digits(return_X_y=True)


def quadrants() -> tuple[np.ndarray, np.ndarray]:
    """1,200 points in a cube of four dimensions; the class is the pair of signs of x0 x1 and x2 x3.

    Only products tell: a sum of functions of single features gets three of four signs right at best, so nine of sixteen points,
    56 %; trained by cross-entropy it stays near chance, 25 %.
    """
    X = np.random.default_rng(0).uniform(-1, 1, size=(1200, 4))
    return X, (X[:, 0] * X[:, 1] > 0) + 2 * (X[:, 2] * X[:, 3] > 0)


def xor() -> tuple[np.ndarray, np.ndarray]:
    """1,200 points in a square; the class is the sign of x0 x1. Chance is 50 %."""
    X = np.random.default_rng(0).uniform(-1, 1, size=(1200, 2))
    return X, (X[:, 0] * X[:, 1] > 0).astype(int)


@dataclass
class System:
    """One system, its task and its network."""

    make: Callable[[int], Any]
    task: Callable[[], tuple[np.ndarray, np.ndarray]]
    network: dict[str, Any]
    split: Callable[[Any], ControlSplit] = lambda device: ControlSplit()
    twin: Callable[[Any], Any] | None = None
    n_physics_shots: int = 0
    spsa: dict[str, Any] = field(default_factory=dict)


_DIRECT = {"encoder": "direct", "learning_rate_init": 0.03, "max_iter": 15}
_BINS = _DIRECT | {"readout": "bins"}

SYSTEMS: dict[str, System] = {
    "laser": System(lambda s: SecondHarmonicLaser(), digits, _BINS | {"n_layers": 2, "n_units": 2}),
    "plate": System(
        lambda s: OscillatingPlate(thickness_error=0.02, quality_error=-0.1),
        quadrants,
        _DIRECT,
        twin=lambda d: PhysicsTwin(
            OscillatingPlate(), ["thickness", "quality_factor", "nonlinearity", "force_per_volt"]
        ),
        n_physics_shots=300,
    ),
    "circuit": System(lambda s: AnalogCircuit(), quadrants, _DIRECT),
    "oscillators": System(
        lambda s: CoupledOscillators(74, 10, coupling_error=0.2, nonlinearity_error=0.1, device_seed=s),
        digits,
        _BINS,
        lambda d: ControlSplit(d.amplitude_index[:64]),
        lambda d: PhysicsTwin(CoupledOscillators(74, 10), ["nonlinearity_error"]),
        n_physics_shots=200,
    ),
    "mesh": System(
        lambda s: MachZehnderMesh(phase_error=0.1, splitter_error=0.05, device_seed=s),
        digits,
        _BINS | {"n_layers": 2, "n_units": 4},
        lambda d: ControlSplit(d.amplitude_index),
        lambda d: PhysicsTwin(MachZehnderMesh(), ["loss", "nonlinearity", "phase_offsets"]),
        n_physics_shots=1000,
    ),
    "tissue": System(
        lambda s: NeuralTissue(culture=s),
        quadrants,
        _DIRECT | {"learning_rate_init": 0.01},
        spsa={"learning_rate_init": 0.003, "max_iter": 200, "n_iter_no_change": 200},
    ),
    "small tissue": System(
        lambda s: NeuralTissue(20, n_windows=1, culture=s),
        xor,
        _DIRECT,
        spsa={"learning_rate_init": 0.003, "max_iter": 200, "n_iter_no_change": 200},
    ),
    "frozen": System(
        lambda s: FrozenModel(),
        digits,
        _DIRECT | {"learning_rate_init": 0.05},
        lambda d: ControlSplit(d.data_index),
    ),
}

METHODS = (
    "PAT, learned twin",
    "PAT, physics twin",
    "exact",
    "long SPSA",
    "in silico",
    "identity",
    "untrained",
    "linear",
)


def build(name: str, method: str, seed: int, **changes: Any) -> PhysicalNetworkClassifier:
    """The network of one system, to be trained in one way."""
    system = SYSTEMS[name]
    device = system.make(seed)
    how: dict[str, Any] = {
        "device": device,
        "gradient": PhysicsAware(n_anchored_steps=0, pretrain=False),
        "twin": NeuralTwin(),
    }
    if method == "PAT, physics twin" or (method == "in silico" and system.twin is not None):
        how |= {"twin": system.twin(device), "n_calibration_shots": system.n_physics_shots}
    if method == "exact":
        how["gradient"] = "exact"
    elif method == "long SPSA":
        how |= {"gradient": SPSA()} | system.spsa
    elif method == "in silico":
        how["gradient"] = "in_silico"
    elif method == "identity":
        how |= {"device": IdentityDevice.like(device, system.split(device)), "gradient": "exact"}
    return PhysicalNetworkClassifier(
        **({"control_split": system.split(device), "random_state": seed} | system.network | how | changes)
    )


def answers(network: PhysicalNetworkClassifier, X: np.ndarray) -> np.ndarray:
    """What the last layer's outputs are, normalised."""
    seen: list[np.ndarray] = []
    readout, network._network.readout = network._network.readout, _Keep(seen)
    try:
        with Session(network.device_, n_shots=network.n_shots) as session:
            forward(network._network, network.weights_, X, session.run(hash_rows(X), "prediction"))
    finally:
        network._network.readout = readout
    return seen[0]


class _Keep:
    """In the place of a readout: keeps what it gets."""

    def __init__(self, seen: list[np.ndarray]):
        self.seen = seen

    def read(self, weights: Any, outputs: np.ndarray) -> np.ndarray:
        self.seen.append(outputs)
        return outputs


def run(name: str, method: str, seed: int, **changes: Any) -> dict[str, Any]:
    """One training and its test accuracy."""
    X, y = SYSTEMS[name].task()
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.25, random_state=seed, stratify=y)
    begun = time.perf_counter()
    twin_score, shots = None, {"calibration": 0, "training": 0}
    if method == "linear":
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(X_train, y_train)
        accuracy = model.score(X_test, y_test)
    elif method == "untrained":
        network = build(name, "exact" if hasattr(SYSTEMS[name].make(seed), "forward") else "long SPSA", seed)
        network.set_params(max_iter=1, learning_rate_init=1e-12).fit(X_train, y_train)
        shots = network.shots_
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        model.fit(answers(network, X_train), y_train)
        accuracy = model.score(answers(network, X_test), y_test)
    else:
        network = build(name, method, seed, **changes).fit(X_train, y_train)
        accuracy, shots, twin_score = network.score(X_test, y_test), network.shots_, network.twin_score_
    return {
        "system": name,
        "task": SYSTEMS[name].task.__name__,
        "method": method,
        "seed": seed,
        "accuracy": round(float(accuracy), 4),
        "calibration_shots": shots["calibration"],
        "training_shots": shots["training"],
        "twin_score": None if twin_score is None else round(float(twin_score), 3),
        "fit_seconds": round(time.perf_counter() - begun, 1),
    }


def methods_of(name: str) -> list[str]:
    """The methods that a system can be trained with."""
    without = ["long SPSA" if hasattr(SYSTEMS[name].make(0), "forward") else "exact"]
    if SYSTEMS[name].twin is None:
        without.append("PAT, physics twin")
    return [method for method in METHODS if method not in without]


def table(results: list[dict[str, Any]]) -> str:
    """Mean and standard error over the seeds, one line for each system and method."""
    lines = [
        f"{'system':<14}{'task':<11}{'readout':<9}{'method':<19}{'accuracy':>14}{'calibration':>13}{'training':>10}"
    ]
    for name, system in SYSTEMS.items():
        for method in METHODS:
            rows = [r for r in results if (r["system"], r["method"]) == (name, method)]
            if not rows:
                continue
            lines.append(
                f"{name:<14}{rows[0]['task']:<11}{system.network.get('readout', 'linear'):<9}{method:<19}"
                + accuracy_and_shots(rows)
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--systems", nargs="*", default=list(SYSTEMS), choices=list(SYSTEMS))
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    add_arguments(parser, "accuracy.jsonl")
    arguments = parser.parse_args()
    known = read_results(arguments.results)
    done = {(r["system"], r["method"], r["seed"]) for r in known}
    cases = [
        (name, method, seed)
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds)
        for name in arguments.systems
        for method in methods_of(name)
        if method in arguments.methods and (name, method, seed) not in done
    ]
    known += run_cases(run, cases, arguments)
    wanted = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    print(f"\nscikit-learn {sklearn.__version__}, {platform.machine()}, seeds {wanted[0]} to {wanted[-1]}")
    print(table([r for r in known if r["seed"] in wanted and r["system"] in arguments.systems]))


if __name__ == "__main__":
    main()
