"""What skpat costs beside the device: time per predicted row, share outside ``measure``, fit against a bare loop.

Every figure is a median of interleaved pairs in one run. Prints one JSON line per figure.

    python tests/benchmarks/overhead.py
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits

from skpat import PhysicalNetworkClassifier, as_device
from skpat.controls import ControlBatch
from skpat.devices import SecondHarmonicLaser
from skpat.training import PhysicsAware

ANSWERS = np.random.default_rng(0).standard_normal((1024, 50))  # as many rows as a prediction sends at once


def null(controls: np.ndarray) -> np.ndarray:
    """A device that returns numbers at once."""
    return ANSWERS[: len(controls)]


def seconds(call: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def report(**figures: Any) -> None:
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in figures.items()}), flush=True)


def null_classifier(n_layers: int, X: np.ndarray, y: np.ndarray) -> PhysicalNetworkClassifier:
    device = as_device(null, n_controls=100, n_outputs=50, bounds=(0, 1))
    network = PhysicalNetworkClassifier(device, n_layers=n_layers, max_iter=1, n_calibration_shots=50, random_state=0)
    return network.fit(X[:64], y[:64])


def prediction(pairs: int) -> None:
    """Microseconds per row and layer with a null device, and how they grow with rows and layers."""
    X, y = load_digits(return_X_y=True)
    rows = X[np.random.default_rng(0).integers(0, len(X), 20_000)]
    networks = {layers: null_classifier(layers, X, y) for layers in (1, 2, 4)}
    times: dict[tuple[int, int], list[float]] = {
        (n, layers): [] for n in (5_000, 10_000, 20_000) for layers in networks
    }
    for _ in range(pairs):
        for (n, layers), found in times.items():
            found.append(seconds(lambda n=n, layers=layers: networks[layers].predict(rows[:n])))
    median = {case: float(np.median(found)) for case, found in times.items()}
    for (n, layers), found in median.items():
        report(figure="predict, null device", rows=n, layers=layers, us_per_row_and_layer=1e6 * found / n / layers)
    report(
        figure="growth",
        twice_the_rows=median[20_000, 1] / median[10_000, 1],
        four_times_the_layers=median[10_000, 4] / median[10_000, 1],
    )


def outside_measure(pairs: int) -> None:
    """Share of ``predict`` spent outside the laser's own ``measure``, in one and the same call."""
    X, y = load_digits(return_X_y=True)
    inside = [0.0]

    class Timed(SecondHarmonicLaser):
        def measure(self, batch: ControlBatch) -> np.ndarray:
            begun = time.perf_counter()
            outputs = super().measure(batch)
            inside[0] += time.perf_counter() - begun
            return outputs

    network = PhysicalNetworkClassifier(Timed(), max_iter=1, n_calibration_shots=100, random_state=0).fit(
        X[:64], y[:64]
    )
    rows = X[np.random.default_rng(0).integers(0, len(X), 5_000)]
    shares = []
    for _ in range(pairs):
        inside[0] = 0.0
        total = seconds(lambda: network.predict(rows))
        shares.append(1 - inside[0] / total)
    report(figure="predict with the laser, share outside measure", share=float(np.median(shares)))


def bare_fit(network: PhysicalNetworkClassifier, X: np.ndarray, y: np.ndarray, refine: bool) -> float:
    """A hand-written loop of the same network, twin, batches and device, after the same calibration; seconds."""
    device, module = network.device_, network.twin_.module_
    twin = network.twin_
    weights = {k: torch.from_numpy(v.copy()) for k, v in network.weights_.items()}
    names = ("encoder.coef", "encoder.intercept", "layers.0.theta", "layers.0.gain", "layers.0.offset")
    trainable = [weights[n].requires_grad_() for n in (*names, "readout.coef", "readout.intercept")]
    optimizer = torch.optim.Adam(trainable, lr=0.01, fused=True)
    inputs, channels = network.control_split_.input_index, network.control_split_.weight_index
    mean, scale = weights["layers.0.mean"].clone(), weights["layers.0.scale"].clone()
    variance = scale.square()
    targets = torch.from_numpy(np.searchsorted(network.classes_, y))
    data = torch.from_numpy(X)
    keys = np.arange(len(X), dtype=np.uint64)
    rng = np.random.RandomState(0)

    class Bridge(torch.autograd.Function):
        @staticmethod
        def forward(ctx, controls, rows):
            ctx.save_for_backward(controls)
            batch = ControlBatch.from_dense(controls.detach().numpy()).named(keys[rows], 0)
            return torch.from_numpy(device.measure(batch))

        @staticmethod
        def backward(ctx, grad):
            (controls,) = ctx.saved_tensors
            with torch.enable_grad():
                leaf = controls.detach().requires_grad_()
                return torch.autograd.grad(module(leaf), leaf, grad)[0], None

    def squash(z):
        return z / torch.sqrt(z * z + 1) * 0.5 + 0.5

    begun = time.perf_counter()
    for _ in range(network.max_iter):
        for rows in np.array_split(rng.permutation(len(X)), -(-len(X) // 32)):
            x = (data[rows] - weights["encoder.mean"]) / weights["encoder.scale"]
            drive = x @ weights["encoder.coef"] + weights["encoder.intercept"]
            controls = x.new_empty((len(rows), 100))
            controls[:, inputs] = squash(drive * weights["layers.0.gain"] + weights["layers.0.offset"])
            controls[:, channels] = squash(weights["layers.0.theta"][0])
            outputs = Bridge.apply(controls, rows)
            scores = (outputs - mean) / scale @ weights["readout.coef"] + weights["readout.intercept"]
            loss = torch.nn.functional.cross_entropy(scores, targets[rows])
            penalty = weights["encoder.coef"].square().sum() + weights["readout.coef"].square().sum()
            loss = loss + 0.5 / len(X) * penalty
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            outputs = outputs.detach()
            shift = outputs.mean(0) - mean
            mean = mean + 0.1 * shift
            variance = 0.9 * (variance + 0.1 * shift**2) + 0.1 * outputs.var(0, correction=0)
            scale = torch.sqrt(variance + 0.1 * variance.mean())
            if refine:
                twin.partial_fit(controls.detach().numpy(), outputs.numpy())
    return time.perf_counter() - begun


def fit(pairs: int) -> None:
    """``fit`` less its calibration, against the bare loop, one step a batch; with a static and with a refined twin."""
    X, y = load_digits(return_X_y=True)
    X, y = X[:640], y[:640]
    for refine in (False, True):
        ratios = []
        for seed in range(pairs):
            network = PhysicalNetworkClassifier(
                gradient=PhysicsAware(refine=refine, n_anchored_steps=0),
                max_iter=10,
                n_calibration_shots=200,
                random_state=seed,
                tol=0,
            )
            calibrated = clone(network).set_params(max_iter=1).partial_fit(X[:64], y[:64], classes=np.unique(y))
            calibrated.set_params(max_iter=10, warm_start=True)
            bare = clone(network).partial_fit(X[:64], y[:64], classes=np.unique(y))
            pair = (lambda: calibrated.fit(X, y), lambda: bare_fit(bare, X, y, refine))  # noqa: B023 (called at once)
            order = (0, 1) if seed % 2 else (1, 0)
            found = {i: seconds(pair[i]) for i in order}
            ratios.append(found[0] / found[1])
        report(figure="fit against a bare loop", refined_twin=refine, ratio=float(np.median(ratios)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=9)
    pairs = parser.parse_args().pairs
    prediction(pairs)
    outside_measure(pairs)
    fit(pairs)


if __name__ == "__main__":
    main()
