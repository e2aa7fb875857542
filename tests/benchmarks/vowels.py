"""Seven vowels spoken by men, told apart by a laser in five layers with nothing digital but gains and bins of its outputs.

The task of Wright et al., Nature 601, 549 (2022), doi:10.1038/s41586-021-04223-6 (93 % there, about 40 % in silico, on a split
that was not by speaker), with the data of Hillenbrand et al., J. Acoust. Soc. Am. 97, 3099 (1995), doi:10.1121/1.411872: tokens
whose twelve formants could be measured, five folds by speaker, so that nobody is heard in training and test. The laser has 100
channels, half of them data and half weights, and 50 outputs. Formants enter as logarithms, standardised on the training folds.

A run is one split into five folds, and one line of JSON in ``--results``; what stands there is not repeated. Choices were made
with ``--validate``, which leaves the test fold aside and tells apart speakers of the training folds.

    python tests/benchmarks/vowels.py --data-home DIR      # DIR/vowels_hillenbrand.npz
"""

from __future__ import annotations

import argparse
import json
import platform
import time
import warnings
from typing import Any

import numpy as np
import sklearn
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, GroupShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from runs import add_arguments, find_data, read_results, run_cases
from skpat import PhysicalNetworkClassifier
from skpat.devices import IdentityDevice, SecondHarmonicLaser

VOWELS = ("ae", "ah", "aw", "er", "ih", "iy", "uw")
METHODS: dict[str, dict[str, Any]] = {
    "physics-aware": {},
    "exact": {"gradient": "exact"},
    "in silico": {"gradient": "in_silico", "n_calibration_shots": 20_000},
    "in silico, refitted": {"gradient": "in_silico_refitted", "n_calibration_shots": 20_000},
    "identity": {"gradient": "exact"},
    "logistic": {},
}
NETWORK: dict[str, Any] = {
    "encoder": "direct",
    "readout": "bins",
    "n_layers": 5,
    "skip": "input",
    "batch_size": 16,
    "max_iter": 40,
    "learning_rate_init": 0.05,
    "alpha": 0.0,
}


def load(data_home: str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Twelve formants in Hz, the vowel and the speaker of each token.

    Raises
    ------
    SystemExit
        If the file is not there.
    """
    path = find_data(data_home, "vowels_hillenbrand.npz", "X12, y, classes, group, speaker, complete")
    with np.load(path) as file:
        names = file["classes"][file["y"]]
        kept = file["complete"] & (file["group"] == "m") & np.isin(names, VOWELS)
        return file["X12"][kept].astype(float), names[kept], file["speaker"][kept]


def model(method: str, seed: int, network: dict[str, Any]) -> Any:
    """A pipeline from formants to vowels."""
    scale = (FunctionTransformer(np.log), StandardScaler())
    if method == "logistic":
        return make_pipeline(*scale, LogisticRegression(max_iter=1000))
    device = SecondHarmonicLaser(100, 50)
    if method == "identity":
        device = IdentityDevice.like(device)
    settings = NETWORK | METHODS[method] | network
    settings |= {"n_iter_no_change": settings["max_iter"] + 1, "random_state": seed}
    return make_pipeline(*scale, PhysicalNetworkClassifier(device, **settings))


def run(method: str, seed: int, data: Any, validate: bool, network: dict[str, Any]) -> dict[str, Any]:
    """Five folds by speaker: the share of all tokens that is right, and the median shots of a fit."""
    X, y, speaker = data
    begun, right, total, shots = time.perf_counter(), 0, 0, []
    for train, test in GroupKFold(5, shuffle=True, random_state=seed).split(X, y, speaker):
        if validate:
            inner = GroupShuffleSplit(1, test_size=0.25, random_state=seed).split(X[train], y[train], speaker[train])
            (chosen, held_out) = next(inner)
            train, test = train[chosen], train[held_out]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of twins that are useless: in silico is what this is about
            fitted = model(method, seed, network).fit(X[train], y[train])
        right, total = right + int((fitted.predict(X[test]) == y[test]).sum()), total + len(test)
        shots.append(sum(getattr(fitted[-1], "shots_", {"none": 0}).values()) - len(test) * _calls(fitted[-1]))
    return {
        "method": method,
        "seed": seed,
        "validate": validate,
        "network": network,
        "accuracy": round(right / total, 4),
        "n_tokens": total,
        "shots": int(np.median(shots)),
        "seconds": round(time.perf_counter() - begun, 1),
    }


def _calls(network: Any) -> int:
    return network.n_layers * network.n_units if hasattr(network, "shots_") else 0


def table(results: list[dict[str, Any]]) -> str:
    """Mean and standard error over the seeds."""
    lines = [f"{'method':<21}{'accuracy':>14}{'shots of a fit':>16}"]
    for method in METHODS:
        rows = [r for r in results if r["method"] == method]
        if not rows:
            continue
        accuracy = 100 * np.array([r["accuracy"] for r in rows])
        error = accuracy.std(ddof=1) / np.sqrt(len(rows)) if len(rows) > 1 else np.nan
        shots = int(np.median([r["shots"] for r in rows]))
        lines.append(f"{method:<21}{accuracy.mean():>7.1f} ± {error:.1f} %{shots:>16,}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-home", default=None)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--validate", action="store_true", help="leave the test folds aside")
    parser.add_argument("--network", type=json.loads, default={}, help="other settings, as JSON")
    add_arguments(parser, "vowels.jsonl")
    arguments = parser.parse_args()
    data = load(arguments.data_home)
    known = read_results(arguments.results)
    wanted = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    shown = [
        r
        for r in known
        if r["seed"] in wanted and r["validate"] == arguments.validate and r["network"] == arguments.network
    ]
    done = {(r["method"], r["seed"]) for r in shown}
    cases = [(method, seed) for method in arguments.methods for seed in wanted if (method, seed) not in done]
    how = data, arguments.validate, arguments.network
    shown += run_cases(run, [(*case, *how) for case in cases], arguments)
    print(
        f"\nscikit-learn {sklearn.__version__}, {platform.machine()}, {len(data[0])} tokens, "
        f"seeds {wanted[0]} to {wanted[-1]}"
    )
    print(table(shown))


if __name__ == "__main__":
    main()
