"""When does a GPU pay? The same work with ``torch_device="cpu"`` and ``"cuda"``, in one process, interleaved.

- "measure": 16,384 rows through each simulated system with its defaults (in pieces of its ``chunk_rows``), float32;
- "fit, digits": the defaults on 1,797 handwritten digits, two epochs, batches of 200 rows;
- "fit, large": 8,192 rows of 256 features, two epochs in batches of 2,048, float32, on a laser of 512 channels and 256
  outputs with a learned twin of two hidden layers of 1,024 units;
- "fit, equations": the same rows and laser, its equations as the twin, one constant sought.

In the fits everything is moved: the training, the twin, the simulated device. One anchored step follows each measured one.
Seconds are medians after one run to warm up.

    python tests/benchmarks/gpu.py
"""

from __future__ import annotations

import argparse
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits

import systems
from skpat import PhysicalNetworkClassifier
from skpat.devices import SecondHarmonicLaser
from skpat.training import PhysicsAware
from skpat.twins import NeuralTwin, PhysicsTwin

PLACES = ("cpu", "cuda")
N_ROWS = 16_384


def measuring(name: str) -> Callable[[str], Callable[[], Any]]:
    """One call of a system."""
    device = systems.make(name)
    controls = systems.batch(device, N_ROWS, "float32")

    def at(place: str) -> Callable[[], Any]:
        there = clone(device).set_params(torch_device=place)
        return lambda: there.measure(controls)

    return at


def fitting(device: Any, twin: Any, X: np.ndarray, y: np.ndarray, **how: Any) -> Callable[[str], Callable[[], Any]]:
    """One fit; ``twin(device)`` makes the twin, for a device that lives where the training does."""

    def at(place: str) -> Callable[[], Any]:
        there = clone(device).set_params(torch_device=place)
        network = PhysicalNetworkClassifier(
            there,
            twin(there),
            gradient=PhysicsAware(n_anchored_steps=1, pretrain=False),
            torch_device=place,
            random_state=0,
            max_iter=2,
            **how,
        )
        return lambda: network.fit(X, y)

    return at


def cases() -> Iterator[tuple[str, Callable[[str], Callable[[], Any]]]]:
    """Name, and what makes the work for a place."""
    for name in systems.SYSTEMS:
        if name != "NeuralTissue":  # computes in numpy
            yield f"measure, {name}", measuring(name)
    yield "fit, digits", fitting(SecondHarmonicLaser(), lambda device: None, *load_digits(return_X_y=True))
    rng = np.random.default_rng(0)
    X = rng.standard_normal((8192, 256)).astype(np.float32)
    y = (X @ rng.standard_normal((256, 10))).argmax(axis=1)
    wide = {"batch_size": 2048, "n_calibration_shots": 2000}

    def learned(device: Any) -> NeuralTwin:
        return NeuralTwin((1024, 1024), refine_batch_size=2048, torch_device=device.torch_device)

    laser = SecondHarmonicLaser(512, 256)
    yield "fit, large", fitting(laser, learned, X, y, **wide)
    yield "fit, equations", fitting(laser, lambda device: PhysicsTwin(device, ["coupling"]), X, y, **wide)


def seconds(work: Callable[[], Any]) -> float:
    """Wall time until the GPU, too, is done."""
    begun = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cases", nargs="*", default=["measure", "fit"], help="beginnings of the names of cases")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit(
            "torch finds no GPU here (torch.cuda.is_available() is False): no figure can be made without one."
        )
    print(
        f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads, {torch.cuda.get_device_name()}"
    )
    print(f"{'case':<30}{'cpu':>9}{'cuda':>9}{'cpu / cuda':>12}")
    for name, make in cases():
        if not name.startswith(tuple(arguments.cases)):
            continue
        work = {place: make(place) for place in PLACES}
        times: dict[str, list[float]] = {place: [] for place in PLACES}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a fit of two epochs has not converged
            for _ in range(1 + arguments.repeats):
                for place, do in work.items():
                    times[place].append(seconds(do))
        median = {place: float(np.median(values[1:])) for place, values in times.items()}
        ratio = median["cpu"] / median["cuda"]
        print(f"{name:<30}{median['cpu']:>7.2f} s{median['cuda']:>7.2f} s{ratio:>12.2f}", flush=True)


if __name__ == "__main__":
    main()
