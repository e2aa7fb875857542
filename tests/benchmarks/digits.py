"""Digits on the simulated laser: accuracy and shots of each method, five seeds.

Two networks: the defaults (a trainable linear encoder and readout around one device call), and one in which nothing
digital is trained but gains and offsets (``encoder="direct"``, ``readout="bins"``). Prints a JSON line per run and a table.

Settings were chosen on the splits of seeds 0 to 4; the figures come from those of seeds 5 to 9.

    python tests/benchmarks/digits.py
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from typing import Any

import joblib
import sklearn
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from runs import accuracy_and_shots
from skpat import PhysicalNetworkClassifier
from skpat.devices import IdentityDevice, SecondHarmonicLaser

_FIRST_SEED = 5
NETWORKS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "direct, bins": {
        "encoder": "direct",
        "readout": "bins",
        "n_layers": 2,
        "n_units": 2,
        "learning_rate_init": 0.03,
        "max_iter": 15,
    },
}
METHODS: dict[str, dict[str, Any]] = {
    "physics-aware": {"gradient": "physics_aware"},
    "exact gradient": {"gradient": "exact"},
    "in silico": {"gradient": "in_silico"},
    "identity device": {"gradient": "exact", "device": IdentityDevice.like(SecondHarmonicLaser())},
    "logistic regression": {},
}


def run(network: str, method: str, seed: int) -> dict[str, Any]:
    """One training and its test accuracy."""

    X_train, X_test, y_train, y_test = train_test_split(
        *load_digits(return_X_y=True), test_size=0.25, random_state=seed
    )
    begun = time.perf_counter()
    if method == "logistic regression":
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(X_train, y_train)
        shots = {"calibration": 0, "training": 0}
        twin_score = None
    else:
        model = PhysicalNetworkClassifier(random_state=seed, **NETWORKS[network], **METHODS[method])
        model.fit(X_train, y_train)
        shots, twin_score = model.shots_, model.twin_score_
    return {
        "network": network,
        "method": method,
        "seed": seed,
        "accuracy": round(float(model.score(X_test, y_test)), 4),
        "calibration_shots": shots["calibration"],
        "training_shots": shots["training"],
        "twin_score": None if twin_score is None else round(twin_score, 3),
        "fit_seconds": round(time.perf_counter() - begun, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    seeds = range(_FIRST_SEED, _FIRST_SEED + arguments.seeds)
    cases = [(n, m, s) for n in NETWORKS for m in METHODS for s in seeds]
    results = []
    for result in joblib.Parallel(n_jobs=arguments.jobs, return_as="generator")(joblib.delayed(run)(*c) for c in cases):
        print(json.dumps(result), flush=True)
        results.append(result)
    print(f"\nscikit-learn {sklearn.__version__}, {platform.machine()}")
    print(f"{'network':<14}{'method':<22}{'accuracy':>18}{'calibration':>13}{'training':>10}   (shots)")
    for network in NETWORKS:
        for method in METHODS:
            rows = [r for r in results if (r["network"], r["method"]) == (network, method)]
            print(f"{network:<14}{method:<25}{accuracy_and_shots(rows)}")


if __name__ == "__main__":
    main()
