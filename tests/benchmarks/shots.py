"""Accuracy against shots: how many each training method needs to come near the exact gradient.

Systems, tasks and networks are those of ``accuracy.py`` (nothing digital but gains, offsets and the readout), with one
schedule for every method: Adam, the system's first step, half a cosine, as many epochs; SPSA, with smaller steps, takes ten
times as many, and local training three times. A quarter of the data is the test part, a quarter of the rest the validation
part, on which the curve is measured after every epoch (its shots are not counted) and the best epoch is chosen. In silico
there is one point: what the device answers when all is done. Arrival is the first epoch whose validation accuracy is 95 % of
the last one of the exact gradient with the same seed; a run that never arrives counts as its whole budget. All calibration
shots count. Where there is no exact gradient (the tissue), a long run of SPSA, of four times as many epochs, stands in its
place.

"default" takes the device's equations where it states them (the plate, the mesh and the oscillators: nominal ones, while
the specimen has errors that must be found), else a learned twin; "learned twin" and "static, learned" always a learned
one. With equations the default begins in silico, and goes on from there if the device confirms it; "begun on the device" does
not. "one anchored step" is the default with no more than one step without the device for each measured one; "learned twin",
which stands beside equations, takes no more either. "cosine" is the median of the cosines of the parameter gradient, measured
on the device after the training with shots that are not counted.

A run is one line of JSON in ``--results``; runs that stand there already are not repeated.

    python tests/benchmarks/shots.py --plot shots.png
"""

from __future__ import annotations

import argparse
import platform
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from scipy.stats import t
from sklearn.model_selection import train_test_split

from accuracy import SYSTEMS
from runs import add_arguments, add_legend, curve_style, read_results, run_cases
from skpat import PhysicalNetworkClassifier
from skpat.inspection import gradient_alignment
from skpat.training import SPSA, PhysicsAware
from skpat.twins import NeuralTwin

EPOCHS = {"laser": 12, "plate": 20, "circuit": 20, "mesh": 10, "oscillators": 15, "tissue": 60, "frozen": 15}
REFERENCES = {"tissue": "SPSA"}  # the others: exact
EPOCH_FACTORS = {"SPSA": 10, "forward-forward": 3}  # times as many epochs, for methods that take many small steps
REFERENCE_FACTOR = 4  # for SPSA where it is the reference, on three times as many epochs as elsewhere
SMALL = ("circuit",)  # systems with few enough weights for finite differences

METHODS: dict[str, dict[str, Any]] = {
    "exact": {"gradient": "exact"},
    "default": {},
    "learned twin": {"twin": NeuralTwin(), "gradient": PhysicsAware(n_anchored_steps=1)},
    "no calibration": {"n_calibration_shots": 0},
    "static, 20,000": {"gradient": PhysicsAware(refine=False), "n_calibration_shots": 20_000},
    "static, learned": {"gradient": PhysicsAware(refine=False), "n_calibration_shots": 20_000, "twin": NeuralTwin()},
    "in silico, 20,000": {"gradient": "in_silico", "n_calibration_shots": 20_000},
    "in silico, refitted": {"gradient": "in_silico_refitted", "n_calibration_shots": 20_000},
    "asymmetric": {"gradient": "asymmetric"},
    "DFA": {"gradient": "direct_feedback_alignment"},
    "sharpness-aware": {"gradient": "sharpness_aware"},
    "SPSA": {"gradient": SPSA(), "learning_rate_init": 0.003},
    "finite differences": {"gradient": "finite_differences"},
    "CMA-ES": {"gradient": "evolution_strategy"},
    "forward-forward": {"gradient": "forward_forward"},
    "begun on the device": {"gradient": PhysicsAware(pretrain=False)},
    "one anchored step": {"gradient": PhysicsAware(n_anchored_steps=1)},
}


# whose gradient is checked after the training
CHECKED = ("default", "begun on the device", "one anchored step", "learned twin", "static, 20,000")


def run(name: str, method: str, seed: int) -> dict[str, Any]:
    """One training: the validation accuracy after each epoch with the shots until then, and the test accuracy."""
    system = SYSTEMS[name]
    X, y = system.task()
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.25, random_state=seed, stratify=y)
    X, X_val, y, y_val = train_test_split(X, y, test_size=0.25, random_state=seed, stratify=y)
    device = system.make(seed)
    how = system.network | METHODS[method]
    factor = REFERENCE_FACTOR if REFERENCES.get(name) == method else EPOCH_FACTORS.get(method, 1)
    how["max_iter"] = EPOCHS[name] * factor
    network = PhysicalNetworkClassifier(
        device, control_split=system.split(device), random_state=seed, **(how | {"n_iter_no_change": how["max_iter"]})
    )
    begun = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of twins that are useless: that is what this is about
        network.fit(X, y, X_val=X_val, y_val=y_val)
    seconds = time.perf_counter() - begun
    calibration_shots, training_shots = network.shots_["calibration"], network.shots_["training"]
    validation = network.validation_scores_
    if method.startswith("in silico"):  # those were the twin's
        validation = [network.score(X_val, y_val)]
    cosine = None
    if method in CHECKED:
        found = gradient_alignment(network, X, y, n_rows=256, n_directions=16, random_state=seed)
        cosine = round(found.cosine, 3)
    return {
        "system": name,
        "method": method,
        "seed": seed,
        "calibration_shots": calibration_shots,
        "shots_per_epoch": training_shots / len(validation),
        "validation": [round(float(score), 4) for score in validation],
        "test": round(float(network.score(X_test, y_test)), 4),
        "cosine": cosine,
        "pretrained": network.pretrained_,
        "fit_seconds": round(seconds, 1),
    }


def shots_after(result: dict[str, Any]) -> np.ndarray:
    """Shots until the end of each epoch."""
    epochs = np.arange(1, len(result["validation"]) + 1)
    return result["calibration_shots"] + epochs * result["shots_per_epoch"]


def arrival(result: dict[str, Any], exact: dict[str, Any]) -> tuple[float, bool]:
    """Shots until 95 % of the exact gradient's last validation accuracy, and whether it was reached at all."""
    reached = np.array(result["validation"]) >= 0.95 * exact["validation"][-1]
    shots = shots_after(result)
    return float(shots[reached.argmax()] if reached.any() else shots[-1]), bool(reached.any())


def table(results: list[dict[str, Any]]) -> str:
    """Medians over the seeds of the shots, and paired differences of the test accuracy to the exact gradient's."""
    lines = [
        f"{'system':<12}{'method':<21}{'shots to 95 %':>14}{'ratio':>8}{'arrived':>9}{'test accuracy':>16}"
        f"{'deficit (95 % interval)':>26}{'cosine':>9}"
    ]
    for name in EPOCHS:
        of_seed = {r["seed"]: r for r in results if (r["system"], r["method"]) == (name, REFERENCES.get(name, "exact"))}
        for method in METHODS:
            rows = [r for r in results if (r["system"], r["method"]) == (name, method) and r["seed"] in of_seed]
            if not rows:
                continue
            arrivals = [arrival(r, of_seed[r["seed"]]) for r in rows]
            of_exact = [arrival(of_seed[r["seed"]], of_seed[r["seed"]])[0] for r in rows]
            ratios = [shots / reference for (shots, _), reference in zip(arrivals, of_exact, strict=True)]
            deficit = 100 * np.array([of_seed[r["seed"]]["test"] - r["test"] for r in rows])
            said = f"{deficit.mean():.1f}"
            if len(rows) > 1:
                half = t.ppf(0.975, len(rows) - 1) * deficit.std(ddof=1) / np.sqrt(len(rows))
                said += f" ({deficit.mean() - half:.1f} to {deficit.mean() + half:.1f})"
            cosines = [r["cosine"] for r in rows if r.get("cosine") is not None]
            lines.append(
                f"{name:<12}{method:<21}{np.median([shots for shots, _ in arrivals]):>14,.0f}{np.median(ratios):>8.2f}"
                f"{sum(reached for _, reached in arrivals):>5}/{len(rows):<3}"
                f"{100 * np.mean([r['test'] for r in rows]):>14.1f} %"
                + f"{said:>26}"
                + (f"{np.median(cosines):>9.2f}" if cosines else "")
            )
    return "\n".join(lines)


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Mean validation accuracy against shots, one curve for each method and one panel for each system."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    names = [name for name in EPOCHS if any(r["system"] == name for r in results)]
    figure = Figure(figsize=(3.2 * len(names), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    shown: dict[str, Any] = {}
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names), sharey=True)), names, strict=True):
        for number, method in enumerate(METHODS):
            rows = [r for r in results if (r["system"], r["method"]) == (name, method)]
            if not rows:
                continue
            n_epochs = min(len(r["validation"]) for r in rows)
            shots = np.median([shots_after(r)[:n_epochs] for r in rows], axis=0)
            mean = 100 * np.mean([r["validation"][:n_epochs] for r in rows], axis=0)
            style = curve_style(number, oracle=method == "exact")
            alone = {"markersize": 7, "markeredgecolor": "black", "linestyle": "none", "zorder": 3}
            (shown[method],) = axes.plot(shots, mean, **style | ({"markevery": 0.2} if n_epochs > 1 else alone))
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("shots, calibration included")
        axes.set_title(name)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("validation accuracy (%)")
    add_legend(figure, shown, METHODS, 7)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--systems", nargs="*", default=list(EPOCHS), choices=list(EPOCHS))
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=5)
    add_arguments(parser, "shots.jsonl")
    parser.add_argument(
        "--plot", type=Path, default=None, help="where to save the figure of these systems, methods and seeds"
    )
    arguments = parser.parse_args()
    known = read_results(arguments.results)
    done = {(r["system"], r["method"], r["seed"]) for r in known}
    wanted = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    cases = [
        (name, method, seed)
        for seed in wanted
        for method in arguments.methods
        for name in arguments.systems
        if (name, method, seed) not in done
        and (method != "finite differences" or name in SMALL)
        and (method != "exact" or name not in REFERENCES)
    ]
    known += run_cases(run, cases, arguments)
    shown = [r for r in known if r["seed"] in wanted and r["system"] in arguments.systems]
    print(f"\nscikit-learn {sklearn.__version__}, {platform.machine()}, seeds {wanted[0]} to {wanted[-1]}")
    print(table(shown))
    if arguments.plot is not None:
        plot([r for r in shown if r["method"] in arguments.methods], arguments.plot)


if __name__ == "__main__":
    main()
