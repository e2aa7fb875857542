"""MNIST at the scale of the paper: 60,000 images to train with, 10,000 to test, on four simulated systems.

The systems and what was published for them (Wright et al., Nature 601, 549 (2022), and the code published with it): an
oscillating plate, 87 %; a transistor circuit, 93 %; second-harmonic generation between linear digital layers, 97 %; coupled
oscillators, 97.9 %. All noise of the systems is on. The rows for each system:

- physics-aware: the forward pass on the device, the backward pass through a physics twin: the equations of the device with
  constants that are a few percent off (and, where that is quicker, coarser steps in time), one step a batch;
- in silico: trained on that twin alone, tested on the device;
- identity: the same network with the device replaced by its input channels, trained with the exact gradient;
- logistic: logistic regression on the same features.

What is digital stands in ``SYSTEMS``. The images are enlarged by distorted copies (turned, stretched and moved a little), the
same for every row but the last. A run goes over images and copies once or more often, with a falling step size and no look at
the test images.

Choices were made with ``--validate``, which trains on 55,000 of the training images and scores on the other 5,000. Without it
a run trains on all 60,000 and scores on the 10,000 test images, once, at its end. A run is one line of JSON in ``--results``;
what stands there is not repeated.

    python tests/benchmarks/paper.py --data-home DIR       # DIR/mnist.npz with x_train, y_train, x_test, y_test
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from runs import add_arguments, find_data, read_results, run_cases
from skpat import ControlSplit, PhysicalNetworkClassifier
from skpat.devices import AnalogCircuit, CoupledOscillators, IdentityDevice, OscillatingPlate, SecondHarmonicLaser
from skpat.training import PhysicsAware
from skpat.twins import PhysicsTwin

N_VALIDATION = 5000
METHODS = ("physics-aware", "in silico", "identity", "logistic")


def load_mnist(data_home: str | None) -> dict[str, np.ndarray]:
    """The images, float32 from 0 to 1, and their classes.

    Raises
    ------
    SystemExit
        If the file is not there.
    """
    path = find_data(data_home, "mnist.npz", "x_train (60000, 28, 28), y_train, x_test, y_test")
    with np.load(path) as file:
        images = {f"x_{part}": file[f"x_{part}"].astype(np.float32) / 255 for part in ("train", "test")}
        return images | {f"y_{part}": file[f"y_{part}"] for part in ("train", "test")}


def distort(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Images (n, 28, 28) turned by up to 6 degrees, stretched and sheared by up to 6 %, moved by up to a pixel."""
    n = len(images)
    turn, shear = np.deg2rad(rng.uniform(-6, 6, n)), rng.uniform(-0.06, 0.06, n)
    stretch, move = rng.uniform(0.94, 1.06, (n, 2)), rng.uniform(-1, 1, (n, 2)) / 14
    maps = np.empty((n, 2, 3), np.float32)
    maps[:, 0, 0], maps[:, 0, 1] = np.cos(turn) * stretch[:, 0], -np.sin(turn) * stretch[:, 0] + shear
    maps[:, 1, 0], maps[:, 1, 1] = np.sin(turn) * stretch[:, 1], np.cos(turn) * stretch[:, 1]
    maps[:, :, 2] = move
    moved = np.empty_like(images)
    for start in range(0, n, 4096):
        rows = slice(start, start + 4096)
        picture = torch.from_numpy(images[rows, None])
        grid = torch.nn.functional.affine_grid(torch.from_numpy(maps[rows]), picture.shape, align_corners=False)
        moved[rows] = torch.nn.functional.grid_sample(picture, grid, align_corners=False)[:, 0].numpy()
    return moved


def middle(images: np.ndarray) -> np.ndarray:
    """The 22 x 22 pixels in the middle, which hold 99 % of the light, as 11 x 11 means of four: (n, 121)."""
    return images[:, 3:25, 3:25].reshape(-1, 11, 2, 11, 2).mean((2, 4)).reshape(len(images), -1)


def halved(images: np.ndarray) -> np.ndarray:
    """14 x 14 pixels, each the mean of four: (n, 196)."""
    return images.reshape(-1, 14, 2, 14, 2).mean((2, 4)).reshape(len(images), -1)


def whole(images: np.ndarray) -> np.ndarray:
    """All 784 pixels."""
    return images.reshape(len(images), -1)


@dataclass
class System:
    """One system and its network."""

    published: float
    target: float
    digital: str
    features: Callable[[np.ndarray], np.ndarray]
    device: Callable[[int], Any]
    twin: Callable[[], Any]
    network: dict[str, Any]
    n_inputs: int
    n_copies: int = 0
    identity: Callable[[Any], Any] = IdentityDevice.like
    layout: Any = "interleaved"


def _oscillator_amplitudes(device: CoupledOscillators) -> IdentityDevice:
    """The initial amplitudes as the outputs, one for one; couplings and drives mean nothing to it."""
    n = device.n_oscillators
    return IdentityDevice(n, n, device.bounds[:n])


_NETWORK = {"readout": "linear", "batch_size": 128, "learning_rate_init": 0.01, "alpha": 0.0}
_LARGE_BATCHES = {"batch_size": 512, "learning_rate_init": 0.03}  # thousands of small steps in time: rows are cheap
_PIXELS = "means of four pixels, 11 x 11; gain and offset; linear readout of"

SYSTEMS: dict[str, System] = {
    "oscillators": System(
        published=97.9,
        target=98.0,
        digital="means of four pixels, 14 x 14; gain and offset; linear readout of 2 x 206 amplitudes",
        features=halved,
        device=lambda seed: CoupledOscillators(
            206, max_coupling=2.0, coupling_error=0.2, nonlinearity_error=0.1, device_seed=seed
        ),
        twin=lambda: PhysicsTwin(CoupledOscillators(206, max_coupling=2.0, n_steps=3)),
        network=_NETWORK
        | {"encoder": "direct", "n_layers": 2, "n_units": 2, "learning_rate_init": 0.006, "max_iter": 5},
        n_inputs=196,
        n_copies=2,
        identity=_oscillator_amplitudes,
        layout=np.arange(196),
    ),
    "laser": System(
        published=97.0,
        target=98.0,
        digital="linear map of 784 pixels to 4 x 50 channels; linear readout of 4 x 40 bins",
        features=whole,
        device=lambda seed: SecondHarmonicLaser(60, 40, coupling=26.0, walk_off=205.0, chirp=5100.0),
        twin=lambda: PhysicsTwin(SecondHarmonicLaser(60, 40, n_steps=3)),
        network=_NETWORK | {"encoder": "linear", "n_units": 4, "learning_rate_init": 0.007, "max_iter": 3},
        n_inputs=50,
        n_copies=7,
    ),
    "circuit": System(
        published=93.0,
        target=95.0,
        digital=f"{_PIXELS} 8 x 40 voltages",
        features=middle,
        device=lambda seed: AnalogCircuit(80, 40, forward_gain=105.0, inductance=11.1, output_capacitance=2.22),
        twin=lambda: PhysicsTwin(AnalogCircuit(80, 40, n_steps=1)),
        network=_NETWORK
        | {"encoder": "direct", "n_units": 8, "max_iter": 6, "batch_size": 256, "learning_rate_init": 0.025},
        n_inputs=61,
    ),
    "plate": System(
        published=87.0,
        target=90.0,
        digital=f"{_PIXELS} 2 x 98 pressures",
        features=middle,
        device=lambda seed: OscillatingPlate(171, thickness=0.202, quality_factor=48.0),
        twin=lambda: PhysicsTwin(OscillatingPlate(171, n_steps=2)),
        network=_NETWORK | _LARGE_BATCHES | {"encoder": "direct", "n_units": 2, "max_iter": 6},
        n_inputs=121,
    ),
}


def run(name: str, method: str, seed: int, data: dict[str, np.ndarray], validate: bool) -> dict[str, Any]:
    """One training and its accuracy."""
    system = SYSTEMS[name]
    order = np.random.RandomState(seed).permutation(len(data["x_train"]))
    kept = order[N_VALIDATION:] if validate else order
    images, y = data["x_train"][kept], data["y_train"][kept]
    held_out = order[:N_VALIDATION]
    x_test, y_test = (
        (data["x_train"][held_out], data["y_train"][held_out]) if validate else (data["x_test"], data["y_test"])
    )
    begun, processor = time.perf_counter(), time.process_time()
    shots, twin_cosine = {"training": 0}, None
    if method == "logistic":
        model: Any = LogisticRegression(max_iter=200).fit(system.features(images), y)
    else:
        rng = np.random.default_rng(seed)
        copies = [images, *(distort(images, rng) for _ in range(system.n_copies))]
        X, classes = np.concatenate([system.features(part) for part in copies]), np.tile(y, len(copies))
        device = system.device(seed)
        how: dict[str, Any] = {
            "gradient": "in_silico" if method == "in silico" else PhysicsAware(n_anchored_steps=0, pretrain=False)
        }
        how |= {"device": device, "twin": system.twin(), "n_calibration_shots": 0}
        if method == "identity":
            how |= {"device": system.identity(device), "twin": None, "gradient": "exact"}
        split = ControlSplit(system.layout, n_inputs=None if not isinstance(system.layout, str) else system.n_inputs)
        model = PhysicalNetworkClassifier(**system.network | how | {"control_split": split, "random_state": seed})
        model.fit(X, classes)
        shots = model.shots_
        twin_cosine = [round(float(check.cosine), 2) for check in getattr(model, "alignments_", [])]
    accuracy = model.score(system.features(x_test), y_test)
    return {
        "system": name,
        "method": method,
        "seed": seed,
        "scored_on": "validation" if validate else "test",
        "accuracy": round(100 * float(accuracy), 2),
        "training_shots": shots["training"],
        "twin_cosine": twin_cosine,
        "processor_seconds": round(time.process_time() - processor),
        "wall_seconds": round(time.perf_counter() - begun),
    }


def table(results: list[dict[str, Any]]) -> str:
    """The mean over the seeds, and each of them."""
    lines = [
        f"{'system':<13}{'method':<15}{'accuracy':>9}  {'of each seed':<30}{'shots':>10}{'processor':>11}{'wall time':>11}"
        f"{'published':>11}{'target':>8}"
    ]
    for name, system in SYSTEMS.items():
        for method in METHODS:
            rows = sorted(
                (r for r in results if (r["system"], r["method"]) == (name, method)), key=lambda row: row["seed"]
            )
            if not rows:
                continue
            accuracy, processor, wall = (
                np.mean([row[key] for row in rows]) for key in ("accuracy", "processor_seconds", "wall_seconds")
            )
            each = ", ".join(f"{row['seed']}: {row['accuracy']:.2f}" for row in rows)
            aims = f"{system.published:>11.1f}{system.target:>8.1f}" if method == "physics-aware" else ""
            lines.append(
                f"{name:<13}{method:<15}{accuracy:>7.2f} %  {each:<30}{rows[0]['training_shots']:>10,}{processor:>9.0f} s"
                f"{wall:>9.0f} s{aims}"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-home")
    parser.add_argument("--systems", nargs="*", default=list(SYSTEMS), choices=list(SYSTEMS))
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--validate", action="store_true", help="score on a part of the training images")
    add_arguments(parser, "paper.jsonl", jobs=1)
    arguments = parser.parse_args()
    data = load_mnist(arguments.data_home)
    known = read_results(arguments.results)
    scored_on = "validation" if arguments.validate else "test"
    known = [result for result in known if result["scored_on"] == scored_on]
    done = {(r["system"], r["method"], r["seed"]) for r in known}
    cases = [
        (name, method, seed, data, arguments.validate)
        for seed in arguments.seeds
        for name in arguments.systems
        for method in arguments.methods
        if (name, method, seed) not in done
        and (method != "logistic" or seed == arguments.seeds[0])  # it has no randomness
    ]
    known += run_cases(run, cases, arguments)
    print(f"\ntorch {torch.__version__}, {platform.machine()}, scored on the {scored_on} images")
    print(table([r for r in known if r["system"] in arguments.systems and r["method"] in arguments.methods]))


if __name__ == "__main__":
    main()
