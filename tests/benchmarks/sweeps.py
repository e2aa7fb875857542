"""How each training method stands mismatch, noise and drift, from 0 to 30 %.

Five sweeps of a strength s between 0 and 0.3. Tasks, splits of the channels and steps are those of ``accuracy.py``, the epochs
those of ``shots.py``; the circuit (40 channels, 20 outputs) and the plate (100, 50) are smaller and have two layers.

- "mismatch, oscillators": the real couplings differ from those that are set, by fixed errors with a standard deviation of s
  times the largest coupling, and the real oscillators are s more nonlinear. The twin is the equations without any of that.
- "mismatch, plate": the real plate is s thinner, rings s shorter and is s more nonlinear than the twin's.
- "left out, plate": the real plate is 2 % thicker and rings 10 % shorter than it was designed, as elsewhere; channels leak into
  each other at random, all into one with s times its own part, and the microphone saturates at 0.3 / s standard deviations.
  No constant of the plate's equations says that.
- "noise, circuit": additive noise on every output, s times the standard deviation of the outputs over all settings.
- "drift, circuit": every channel drifts, half of the variance together with all others; s is the standard deviation, in parts
  of the channel's range, at the end of a training that measures each row once in each epoch. Methods that measure more drift
  for longer. What is tested is the device at the end.

In the sweeps of mismatch the twin knows the equations, with the constants of the design, and only "default" seeks the true
ones (of the oscillators the nonlinearity; their couplings' errors are too many): before the training, with as many shots as
``n_calibration_shots="auto"`` takes, and in its course. It begins in silico, and goes on from there if the device
confirms it; "begun on the device" does not. For the others nothing is fitted: what a method makes of a wrong twin is the
question. "PAT, residual twin" and "PAT, learned twin", with the plate, stand for what else one would do about
it, with as many calibration shots as ``n_calibration_shots="auto"`` takes and, like the default there, one anchored step for
each measured one; "PAT, residual twin, further" takes up to eight. In "left out, plate" the device states its equations, the
default is that of the estimator, and "equations alone" is what it would be without a correction. In the other sweeps the
default twin is learned, and "one anchored step" is the default with no more than that.
Every method has the same schedule, except that SPSA, which takes small steps, has five times as many epochs, and local
training twice. Finite differences would take hundreds of times the shots: they end with as many as SPSA takes, and
refuse the oscillators' 2,913 weights.

The table gives for each strength the mean test accuracy and, in brackets, how many standard errors of the paired difference the
method is below the best one. The rank is the mean over strengths and seeds (1 is best, ties share). The exact gradient is
shown as a mark; it is neither ranked nor the best, because a laboratory has none.

A run is one line of JSON in ``--results``; runs that stand there already are not repeated.

    python tests/benchmarks/sweeps.py --plot sweeps.png
"""

from __future__ import annotations

import argparse
import platform
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
from scipy.stats import rankdata
from sklearn.model_selection import train_test_split

from accuracy import SYSTEMS
from runs import add_arguments, add_legend, curve_style, read_results, run_cases
from shots import EPOCHS
from skpat import PhysicalNetworkClassifier
from skpat.devices import AnalogCircuit, CoupledOscillators, Drifting, Noisy, OscillatingPlate
from skpat.training import SPSA, PhysicsAware
from skpat.twins import NeuralTwin, PhysicsTwin, ResidualTwin

STRENGTHS = (0.0, 0.05, 0.1, 0.2, 0.3)
ORACLE = "exact"
DEAR = "finite differences"
EPOCH_FACTORS = {"SPSA": 5, "forward-forward": 2}

METHODS: dict[str, dict[str, Any]] = {
    "exact": {"gradient": "exact"},
    "default": {},
    "begun on the device": {"gradient": PhysicsAware(pretrain=False)},
    "PAT, static": {"gradient": PhysicsAware(refine=False)},
    "equations alone": {"gradient": PhysicsAware(pretrain=False)},
    "PAT, wrong twin": {"gradient": PhysicsAware(pretrain=False)},
    "PAT, residual twin": {"gradient": PhysicsAware(n_anchored_steps=1)},
    "PAT, learned twin": {"gradient": PhysicsAware(n_anchored_steps=1)},
    "in silico": {"gradient": "in_silico"},
    "in silico, refitted": {"gradient": "in_silico_refitted"},
    "asymmetric": {"gradient": "asymmetric"},
    "DFA": {"gradient": "direct_feedback_alignment"},
    "sharpness-aware": {"gradient": "sharpness_aware"},
    "SPSA": {"gradient": SPSA(), "learning_rate_init": 0.003},
    "CMA-ES": {"gradient": "evolution_strategy"},
    "forward-forward": {"gradient": "forward_forward"},
    "one anchored step": {"gradient": PhysicsAware(n_anchored_steps=1)},
    "PAT, residual twin, further": {},
    DEAR: {"gradient": "finite_differences"},
}


@dataclass
class Sweep:
    """What is swept: a device for each seed, strength and number of training shots; and the model of it, if one is known.

    ``unknown``: the model's constants that the default twin seeks. ``learns``: whether the twins that are learned have few
    enough channels.
    """

    system: str
    make: Callable[[int, float, int], Any]
    model: Callable[[], Any] | None = None
    unknown: tuple[str, ...] = ()
    learns: bool = True
    network: dict[str, Any] = field(default_factory=dict)


def _oscillators(seed: int, strength: float, n_shots: int) -> Any:
    largest = CoupledOscillators().max_coupling
    return CoupledOscillators(74, 10, coupling_error=strength * largest, nonlinearity_error=strength, device_seed=seed)


def _plate(seed: int, strength: float, n_shots: int) -> Any:
    good = OscillatingPlate()
    return OscillatingPlate(
        100,
        50,
        thickness=good.thickness * (1 - strength),
        quality_factor=good.quality_factor * (1 - strength),
        nonlinearity=good.nonlinearity * (1 + strength),
    )


def _leak_and_limit(leak: float, seed: int) -> tuple[np.ndarray, float]:
    """What mixes the channels, and where the microphone ends, in Pa."""
    rng, plate = np.random.default_rng(seed), OscillatingPlate(100, 50)
    leaking = np.eye(100) + leak * rng.normal(size=(100, 100)) / 10
    low, high = plate.bounds.T
    heard = plate.forward(torch.from_numpy(rng.uniform(low, high, (500, 100))))
    return leaking, 0.3 / leak * float(heard.std()) if leak else np.inf


class LeakyPlate(OscillatingPlate):
    """A plate that leaks and saturates, and states the equations of one that does not."""

    def __init__(self, leak=0.1, device_seed=0, random_state=None):
        super().__init__(100, 50, thickness_error=0.02, quality_error=-0.1, random_state=random_state)
        self.leak = leak
        self.device_seed = device_seed

    @property
    def equations(self) -> Any:
        return OscillatingPlate(100, 50).equations

    def forward(self, controls: torch.Tensor, constants: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
        if not hasattr(self, "_leaks"):
            self._leaks = _leak_and_limit(self.leak, self.device_seed)
        leaking, limit = self._leaks
        low, high = (controls.new_tensor(end) for end in self.bounds.T)
        heard = super().forward((controls @ controls.new_tensor(leaking)).clamp(low, high), constants)
        return limit * (heard / limit).tanh() if self.leak else heard


def _leaky(seed: int, strength: float, n_shots: int) -> Any:
    return LeakyPlate(strength, seed)


def _noisy(seed: int, strength: float, n_shots: int) -> Any:
    circuit = AnalogCircuit(40, 20)
    low, high = circuit.bounds.T
    anywhere = low + (high - low) * np.random.default_rng(0).uniform(size=(500, circuit.n_controls))
    spread = AnalogCircuit(40, 20, noise=0.0, gain_jitter=0.0).measure(anywhere).std(axis=0).mean()
    return Noisy(circuit, noise_floor=strength * float(spread))


def _drifting(seed: int, strength: float, n_shots: int) -> Any:
    each = strength / np.sqrt(2 * n_shots / 1000)  # after 1,000 rows
    return Drifting(AnalogCircuit(40, 20), common=each, independent=each)


_TWO_LAYERS = {"n_layers": 2}

SWEEPS: dict[str, Sweep] = {
    "mismatch, oscillators": Sweep(
        "oscillators", _oscillators, lambda: CoupledOscillators(74, 10), ("nonlinearity_error",), learns=False
    ),
    "mismatch, plate": Sweep(
        "plate", _plate, lambda: OscillatingPlate(100, 50), OscillatingPlate().equations[1], network=_TWO_LAYERS
    ),
    "left out, plate": Sweep("plate", _leaky, lambda: OscillatingPlate(100, 50), network=_TWO_LAYERS),
    "noise, circuit": Sweep("circuit", _noisy, network=_TWO_LAYERS),
    "drift, circuit": Sweep("circuit", _drifting, network=_TWO_LAYERS),
}


def twin_of(sweep: Sweep, method: str) -> dict[str, Any]:
    """The twin that a method works with, and its calibration."""
    if sweep.model is None or method == "PAT, learned twin":
        return {"twin": NeuralTwin()}
    if method == "equations alone":
        return {"twin": PhysicsTwin(*sweep.model().equations)}
    if method in ("default", "begun on the device"):
        return {"twin": PhysicsTwin(sweep.model(), sweep.unknown) if sweep.unknown else None}
    if method.startswith("PAT, residual twin"):
        return {"twin": ResidualTwin(PhysicsTwin(sweep.model()))}
    return {"twin": PhysicsTwin(sweep.model()), "n_calibration_shots": 0}


def epochs_of(name: str, wanted: int | None) -> int:
    """As many as are asked for, else those of the system's schedule."""
    return EPOCHS[SWEEPS[name].system] if wanted is None else wanted


def run(name: str, strength: float, method: str, seed: int, epochs: int) -> dict[str, Any]:
    """One training and its test accuracy."""
    sweep = SWEEPS[name]
    system = SYSTEMS[sweep.system]
    X, y = system.task()
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.25, random_state=seed, stratify=y)
    how = system.network | sweep.network | twin_of(sweep, method) | METHODS[method]
    n_calls = how.get("n_layers", 1) * how.get("n_units", 1)
    n_shots = epochs * len(X) * n_calls
    device = sweep.make(seed, strength, n_shots)
    if method == DEAR:
        how["max_shots"] = 2 * EPOCH_FACTORS["SPSA"] * n_shots
    how["max_iter"] = how["n_iter_no_change"] = epochs * EPOCH_FACTORS.get(method, 1)
    network = PhysicalNetworkClassifier(device, control_split=system.split(device), random_state=seed, **how)
    begun = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of twins that are useless: that is what this is about
        network.fit(X, y)
    seconds = time.perf_counter() - begun
    return {
        "sweep": name,
        "strength": strength,
        "method": method,
        "seed": seed,
        "epochs": epochs,
        "accuracy": round(float(network.score(X_test, y_test)), 4),
        "calibration_shots": network.shots_["calibration"],
        "training_shots": network.shots_["training"],
        "pretrained": network.pretrained_,
        "fit_seconds": round(seconds, 1),
    }


def methods_of(name: str) -> list[str]:
    """The methods that differ in a sweep: where the twin is learned anyway, it has one line, or two; where it is not, the
    default takes one anchored step anyway."""
    learned = ("PAT, residual twin", "PAT, learned twin", "PAT, residual twin, further")
    known = SWEEPS[name].model is not None
    in_equations = ("PAT, static", "one anchored step", *(() if SWEEPS[name].learns else learned))
    without = in_equations if known else ("begun on the device", "PAT, wrong twin", *learned)
    also = () if name == "left out, plate" else ("equations alone",)
    dear = (DEAR,) if SWEEPS[name].system == "oscillators" else ()  # too many weights
    return [method for method in METHODS if method not in (*without, *also, *dear)]


def accuracies(results: list[dict[str, Any]], name: str, strength: float) -> dict[str, dict[int, float]]:
    """Method -> seed -> accuracy in percent."""
    found: dict[str, dict[int, float]] = {}
    for r in results:
        if (r["sweep"], r["strength"]) == (name, strength):
            found.setdefault(r["method"], {})[r["seed"]] = 100 * r["accuracy"]
    return found


def ranks(results: list[dict[str, Any]], name: str) -> dict[str, float]:
    """Mean rank of each method over the strengths and seeds that all methods have."""
    collected: dict[str, list[float]] = {}
    for strength in sorted({r["strength"] for r in results if r["sweep"] == name}):
        of_method = accuracies(results, name, strength)
        of_method.pop(ORACLE, None)
        for seed in set.intersection(*(set(scores) for scores in of_method.values())) if of_method else ():
            places = rankdata([-scores[seed] for scores in of_method.values()])
            for method, place in zip(of_method, places, strict=True):
                collected.setdefault(method, []).append(float(place))
    return {method: float(np.mean(places)) for method, places in collected.items()}


def distance(of_method: dict[str, dict[int, float]], method: str) -> float:
    """Standard errors, of the paired difference, by which a method is below the one that is best on average.

    Examples
    --------
    >>> distance({"one": {0: 90.0, 1: 92.0}, "two": {0: 80.0, 1: 84.0}}, "two")
    9.0
    """
    others = {name: scores for name, scores in of_method.items() if name != ORACLE}
    best = max(others, key=lambda name: float(np.mean(list(others[name].values()))))
    if method == best:
        return 0.0
    seeds = sorted(set(of_method[best]) & set(of_method[method]))
    if len(seeds) < 2:
        return np.nan
    difference = np.array([of_method[best][seed] - of_method[method][seed] for seed in seeds])
    error = difference.std(ddof=1) / np.sqrt(len(seeds))
    return float(difference.mean() / error) if error > 0 else np.inf * float(np.sign(difference.mean()))


def table(results: list[dict[str, Any]]) -> str:
    """One block for each sweep, one line for each method."""
    lines = []
    for name in SWEEPS:
        strengths = sorted({r["strength"] for r in results if r["sweep"] == name})
        if not strengths:
            continue
        place = ranks(results, name)
        lines.append(
            f"\n{name:<24}" + "".join(f"{f'{100 * strength:g} %':>14}" for strength in strengths) + "    rank     shots"
        )
        for method in METHODS:
            cells = []
            for strength in strengths:
                of_method = accuracies(results, name, strength)
                if method not in of_method:
                    cells.append(f"{'-':>14}")
                    continue
                below = np.nan if method == ORACLE else distance(of_method, method)
                in_brackets = "" if np.isnan(below) else f" ({below:.1f})"
                cells.append(f"{f'{np.mean(list(of_method[method].values())):.1f}{in_brackets}':>14}")
            shots = [
                r["calibration_shots"] + r["training_shots"]
                for r in results
                if (r["sweep"], r["method"]) == (name, method)
            ]
            if shots:
                rank = f"{place[method]:>8.2f}" if method in place else f"{'-':>8}"
                lines.append(f"{method:<24}" + "".join(cells) + rank + f"{np.median(shots):>10,.0f}")
    return "\n".join(lines)


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Mean test accuracy against strength, one curve for each method and one panel for each sweep."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [name for name in SWEEPS if any(r["sweep"] == name for r in results)]
    figure = Figure(figsize=(3.4 * len(names), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    shown: dict[str, Any] = {}
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names), sharey=True)), names, strict=True):
        for number, method in enumerate(METHODS):
            rows = [r for r in results if (r["sweep"], r["method"]) == (name, method)]
            if not rows:
                continue
            strengths = sorted({r["strength"] for r in rows})
            means = [
                100 * np.mean([r["accuracy"] for r in rows if r["strength"] == strength]) for strength in strengths
            ]
            style = curve_style(number, oracle=method == ORACLE)
            (shown[method],) = axes.plot([100 * s for s in strengths], means, **style)
        axes.set_xlabel(f"{name.split(',')[0]} (%)")
        axes.set_title(name)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("test accuracy (%)")
    add_legend(figure, shown, METHODS, 2 * len(names))
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sweeps", nargs="*", default=list(SWEEPS), choices=list(SWEEPS))
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--strengths", nargs="*", type=float, default=list(STRENGTHS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=None, help="the same for all systems")
    add_arguments(parser, "sweeps.jsonl")
    parser.add_argument("--plot", type=Path, default=None, help="where to save the figure")
    arguments = parser.parse_args()
    known = read_results(arguments.results)
    known = [r for r in known if r["epochs"] == epochs_of(r["sweep"], arguments.epochs)]
    done = {(r["sweep"], r["strength"], r["method"], r["seed"]) for r in known}
    wanted = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    cases = [
        (name, strength, method, seed, epochs_of(name, arguments.epochs))
        for seed in wanted
        for name in arguments.sweeps
        for strength in arguments.strengths
        for method in methods_of(name)
        if method in arguments.methods and (name, strength, method, seed) not in done
    ]
    known += run_cases(run, cases, arguments)
    shown = [
        r
        for r in known
        if r["seed"] in wanted
        and r["sweep"] in arguments.sweeps
        and r["strength"] in arguments.strengths
        and r["method"] in arguments.methods
    ]
    print(f"\nscikit-learn {sklearn.__version__}, {platform.machine()}, seeds {wanted[0]} to {wanted[-1]}")
    print(table(shown))
    if arguments.plot is not None:
        plot(shown, arguments.plot)


if __name__ == "__main__":
    main()
