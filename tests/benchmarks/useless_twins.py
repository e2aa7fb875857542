"""Does a fit notice that its twin is useless, and is it silent when the twin is good?

Useless: a twin fitted to shots whose outputs were dealt out anew between rows, or between columns; one that knows ten of a
device's thousand channels; a learned one that takes the phases of a mesh for ordinary numbers and has seen few shots. Good: the
equations with nominal constants, while the device's are a little different; a learned twin with plenty of shots.
Every twin stays as it was calibrated, every device has its noise; where the name says so, several times as much.

A run trains one small network for ten epochs, checks its gradients three times (:mod:`skpat.training.useless_twin`), and is one
line of JSON in ``--results``; runs that stand there already are not repeated. The sizes of the checks were chosen on seeds 0
to 7 and 100 to 115, the thresholds on these and on 3000 to 3014 and 4000 to 4006; the figures come from seeds 6000 onwards.

    python tests/benchmarks/useless_twins.py
"""

from __future__ import annotations

import argparse
import platform
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sklearn
from sklearn.datasets import load_digits

from runs import add_arguments, read_results, run_cases
from skpat import ControlSplit, PhysicalNetworkClassifier
from skpat.devices import AnalogCircuit, CoupledOscillators, MachZehnderMesh, OscillatingPlate, SecondHarmonicLaser
from skpat.exceptions import UselessTwinWarning
from skpat.lab import Session
from skpat.row_keys import hash_rows
from skpat.training import Apparatus, GradientEstimator, bridge
from skpat.training.alignment import pooled
from skpat.training.loop import train
from skpat.training.trainer import Data
from skpat.training.useless_twin import CHECK_AT, check_alignment, warn_if_useless
from skpat.twins import NeuralTwin, PhysicsTwin

FIRST_SEED = 6000
N_ROWS, N_EPOCHS = 400, 10


class Static(GradientEstimator):
    """Physics-aware training with a twin that stays as it was calibrated, over all settings."""

    uses_twin = True

    def run(self, apparatus: Apparatus) -> Any:
        module = apparatus.twin.module_
        if hasattr(module, "forward_batch"):
            return bridge(apparatus.measure, module.forward_batch, in_parts=True)
        return bridge(apparatus.measure, module)


class RowsDealtOut(NeuralTwin):
    """Learns from the outputs of other rows."""

    def fit(self, controls: Any, outputs: Any, sample_weight: Any = None) -> RowsDealtOut:
        order = np.random.RandomState(self.random_state).permutation(len(outputs))
        return super().fit(controls, outputs[order], sample_weight)


class ColumnsDealtOut(NeuralTwin):
    """Takes each output for another one."""

    def fit(self, controls: Any, outputs: Any, sample_weight: Any = None) -> ColumnsDealtOut:
        order = np.random.RandomState(self.random_state).permutation(outputs.shape[1])
        return super().fit(controls, outputs[:, order], sample_weight)


class TenChannels(NeuralTwin):
    """Learns how the outputs depend on ten channels; the others stand still in what it sees."""

    def fit(self, controls: Any, outputs: Any, sample_weight: Any = None) -> TenChannels:
        controls = np.array(controls)
        unknown = np.random.RandomState(self.random_state).permutation(controls.shape[1])[10:]
        controls[:, unknown] = controls[:, unknown].mean(axis=0)
        return super().fit(controls, outputs, sample_weight)


class OrdinaryNumbers(NeuralTwin):
    """Does not know which channels are phases."""

    def learn_specification(self, bounds: np.ndarray, periods: np.ndarray) -> None:
        pass


def digits(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Some of the handwritten digits of 8 x 8 pixels."""
    X, y = load_digits(return_X_y=True)
    chosen = np.random.default_rng(seed).permutation(len(X))[:N_ROWS]
    return X[chosen], y[chosen]


def quadrants(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points in four dimensions; the class is the pair of signs of x0 x1 and x2 x3."""
    X = np.random.default_rng(seed).uniform(-1, 1, size=(N_ROWS, 4))
    return X, (X[:, 0] * X[:, 1] > 0) + 2 * (X[:, 2] * X[:, 3] > 0)


@dataclass
class Case:
    """A device, a twin of it, and a task."""

    useless: bool
    device: Callable[[int], Any]
    twin: Callable[[], Any]
    n_calibration_shots: int
    task: Callable[[int], tuple[np.ndarray, np.ndarray]] = digits
    split: Callable[[Any], Any] = lambda device: "interleaved"
    network: dict[str, Any] = field(default_factory=dict)


def laser(seed: int, coupling: float = 25.0, **noise: float) -> Any:
    return SecondHarmonicLaser(48, 24, n_steps=4, coupling=coupling, **noise)


def circuit(seed: int, **constants: float) -> Any:
    return AnalogCircuit(48, 24, **constants)


def mesh(seed: int, **noise: float) -> Any:
    return MachZehnderMesh(8, phase_error=0.05, splitter_error=0.03, device_seed=seed, **noise)


def oscillators(seed: int, n: int = 44, **noise: float) -> Any:
    """44 oscillators: 946 couplings, and 44 amplitudes and drives."""
    return CoupledOscillators(n, 10, coupling_error=0.1, device_seed=seed, **noise)


_DIRECT = {"encoder": "direct"}

CASES = {
    "rows dealt out, laser": Case(True, laser, RowsDealtOut, 1000),
    "rows dealt out, circuit": Case(True, circuit, RowsDealtOut, 1000, quadrants, network=_DIRECT),
    "columns dealt out, laser": Case(True, laser, ColumnsDealtOut, 2000),
    "columns dealt out, circuit": Case(True, circuit, ColumnsDealtOut, 2000),
    "ten channels, oscillators": Case(
        True, oscillators, TenChannels, 1000, split=lambda d: ControlSplit(d.amplitude_index[:32])
    ),
    "phases as numbers, mesh": Case(True, mesh, OrdinaryNumbers, 300, split=lambda d: ControlSplit(d.amplitude_index)),
    "equations, laser": Case(False, lambda s: laser(s, 27.0), lambda: PhysicsTwin(laser(0)), 0),
    "equations, circuit": Case(
        False,
        lambda s: circuit(s, inductance=11.5, capacitance=9.5),
        lambda: PhysicsTwin(circuit(0)),
        0,
        quadrants,
        network=_DIRECT,
    ),
    "equations, plate": Case(
        False,
        lambda s: OscillatingPlate(48, 24, thickness_error=0.02, quality_error=-0.1),
        lambda: PhysicsTwin(OscillatingPlate(48, 24)),
        0,
        quadrants,
        network=_DIRECT,
    ),
    "equations, mesh": Case(
        False, mesh, lambda: PhysicsTwin(MachZehnderMesh(8)), 0, split=lambda d: ControlSplit(d.amplitude_index)
    ),
    "learned, laser": Case(False, laser, NeuralTwin, 5000),
    "learned, circuit": Case(False, circuit, NeuralTwin, 5000, quadrants, network=_DIRECT),
    "noisy, equations, laser": Case(False, lambda s: laser(s, 27.0, noise=0.2), lambda: PhysicsTwin(laser(0)), 0),
    "noisy, equations, mesh": Case(
        False,
        lambda s: mesh(s, noise_floor=0.05),
        lambda: PhysicsTwin(MachZehnderMesh(8)),
        0,
        split=lambda d: ControlSplit(d.amplitude_index),
    ),
    "noisy, equations, oscillators": Case(
        False, lambda s: oscillators(s, 10, noise=0.5), lambda: PhysicsTwin(CoupledOscillators(10, 10)), 0
    ),
    "noisy, learned, laser": Case(False, lambda s: laser(s, noise=0.2), NeuralTwin, 5000),
    "noisy, rows dealt out, laser": Case(True, lambda s: laser(s, noise=0.2), RowsDealtOut, 1000),
    "noisy, columns dealt out, circuit": Case(True, lambda s: circuit(s, noise=0.1), ColumnsDealtOut, 2000),
}


def run(name: str, seed: int) -> dict[str, Any]:
    """One training, its checks, and what they say."""
    warnings.simplefilter("ignore")
    case, begun = CASES[name], time.perf_counter()
    device, (X, y) = case.device(seed), case.task(seed)
    network = PhysicalNetworkClassifier(
        device,
        case.twin(),
        control_split=case.split(device),
        gradient=Static(),
        n_calibration_shots=case.n_calibration_shots,
        max_iter=1,
        learning_rate_init=1e-12,
        random_state=seed,
        **case.network,
    ).fit(X, y)  # calibrates, and hardly moves
    network.set_params(max_iter=N_EPOCHS, learning_rate_init=0.01, n_iter_no_change=N_EPOCHS + 1)
    network._optimizer_state = None
    checks = []
    with Session(network.device_, ledger=network.ledger_) as session:
        data = Data(np.asarray(X), network._encode_targets(y, None, first=False), np.ones(len(X)), hash_rows(X))
        data = network._ready(data, set_scale=False)
        trainer = network._make_trainer(session, len(data))
        at = {round(part * N_EPOCHS) for part in CHECK_AT}

        def check(n_done: int) -> None:
            if n_done in at:
                checks.append(check_alignment(trainer, data, random_state=n_done))

        check(0)
        _, history = train(trainer, data, np.random.RandomState(seed), note=lambda epoch, history: check(epoch + 1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_if_useless(checks, trainer)
    called = [w.message for w in caught if isinstance(w.message, UselessTwinWarning)]
    return {
        "case": name,
        "useless": case.useless,
        "seed": seed,
        "called_useless": bool(called),
        "cosine": round(pooled(checks).cosine, 3),
        "standard_error": round(pooled(checks).standard_error, 3),
        "slope": round(pooled(checks).slope, 3),
        "slopes": [vars(check.slopes) for check in checks],
        "cosines": [round(check.cosine, 3) for check in checks],
        "standard_errors": [round(check.standard_error, 3) for check in checks],
        "check_shots": sum(check.n_shots for check in checks),
        "loss": round(history.loss_curve[-1], 3),
        "seconds": round(time.perf_counter() - begun, 1),
    }


def table(results: list[dict[str, Any]]) -> str:
    """How often each twin was called useless."""
    lines = [f"{'twin':<30}{'runs':>5}{'called useless':>16}{'right':>8}{'mean cosines':>22}{'check shots':>13}"]
    for useless in (True, False):
        for name in (name for name, case in CASES.items() if case.useless == useless):
            rows = [r for r in results if r["case"] == name]
            if rows:
                cosines = " ".join(f"{c:.2f}" for c in np.mean([r["cosines"] for r in rows], axis=0))
                shots = int(np.median([r["check_shots"] for r in rows]))
                lines.append(_line(name, rows) + f"{cosines:>22}{shots:>13,}")
        rows = [r for r in results if r["useless"] == useless]
        if rows:
            lines.append(_line("all useless" if useless else "all good", rows))
    return "\n".join(lines)


def _line(name: str, rows: list[dict[str, Any]]) -> str:
    called = sum(r["called_useless"] for r in rows)
    right = sum(r["called_useless"] == r["useless"] for r in rows) / len(rows)
    return f"{name:<30}{len(rows):>5}{called:>16}{100 * right:>6.1f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    add_arguments(parser, "useless_twins.jsonl")
    arguments = parser.parse_args()
    known = read_results(arguments.results)
    done = {(r["case"], r["seed"]) for r in known}
    wanted = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    cases = [(name, seed) for seed in wanted for name in arguments.cases if (name, seed) not in done]
    known += run_cases(run, cases, arguments)
    print(f"\nscikit-learn {sklearn.__version__}, {platform.machine()}, seeds {wanted[0]} to {wanted[-1]}")
    print(table([r for r in known if r["seed"] in wanted and r["case"] in arguments.cases]))


if __name__ == "__main__":
    main()
