"""What a deployed network costs beside the device: one row at a time, with devices that answer at once; import; a long stream.

Times are medians of blocks of calls, the cases in turn: by the clock ("us_per_row_and_layer"; "lowest" is the best block), and
of the processor alone ("cpu"), which other processes disturb less. Memory is the peak of a fresh process. Prints one JSON line
per figure.

    python tests/benchmarks/deployment.py
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from skpat import Device, PhysicalNetworkClassifier, as_device, deployment
from skpat.controls import ControlBatch

ANSWERS = np.random.default_rng(0).standard_normal((1000, 50))


def null(controls: np.ndarray) -> np.ndarray:
    """A device that answers at once."""
    return ANSWERS[: len(controls)]


class Null(Device):
    """The same without an array of all controls, as a driver that reads the two parts of a batch."""

    n_controls, n_outputs = 100, 50
    bounds = np.tile([0.0, 1.0], (100, 1))

    def measure(self, batch: ControlBatch) -> np.ndarray:
        return null(batch.varying)


DEVICES = {
    "device that reads the parts": Null(),
    "function of an array": as_device(null, n_controls=100, n_outputs=50, bounds=(0, 1)),
}


def trained(device: Any, n_layers: int) -> PhysicalNetworkClassifier:
    X, y = load_digits(return_X_y=True)
    network = PhysicalNetworkClassifier(device, n_layers=n_layers, max_iter=1, n_calibration_shots=50, random_state=0)
    return network.fit(X[:64], y[:64])


STREAM = """
import json, sys, time
begun = time.perf_counter()
import numpy as np
from skpat import deployment
seconds = time.perf_counter() - begun
from skpat import Device

answers = np.random.default_rng(0).standard_normal((1000, 50))

class Null(Device):
    n_controls, n_outputs, bounds = 100, 50, np.tile([0.0, 1.0], (100, 1))
    def measure(self, batch):
        return answers[:batch.n_rows]

network = deployment.load(sys.argv[1], Null(), any_device=True)
chunk, n_rows, n_seen = np.random.default_rng(0).uniform(0, 16, (1000, 64)), int(sys.argv[2]), 0
begun = time.perf_counter()
for labels in network.predict_stream(chunk for _ in range(n_rows // 1000)):
    n_seen += len(labels)
seconds_of_stream = time.perf_counter() - begun
with open("/proc/self/status") as status:  # getrusage would begin with the peak of the parent
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
print(json.dumps({"import_seconds": round(seconds, 2), "torch": "torch" in sys.modules, "rows": n_seen,
                  "rows_per_second": round(n_seen / seconds_of_stream), "peak_MiB": round(peak, 1)}))
"""


def microseconds(
    calls: dict[Any, Callable[[], Any]], blocks: int, n_calls: int
) -> dict[Any, tuple[float, float, float]]:
    """Median and lowest of the blocks, and median of the processor's time, for each case; the cases take turns."""
    found: dict[Any, list[tuple[float, float]]] = {case: [] for case in calls}
    for _ in range(blocks):
        for case, call in calls.items():
            call()
            begun = time.perf_counter(), time.process_time()
            for _ in range(n_calls):
                call()
            ended = time.perf_counter(), time.process_time()
            found[case].append(tuple((b - a) / n_calls * 1e6 for a, b in zip(begun, ended, strict=True)))
    return {
        case: (float(np.median(times[:, 0])), float(times[:, 0].min()), float(np.median(times[:, 1])))
        for case, times in ((case, np.array(times)) for case, times in found.items())
    }


def report(**figures: Any) -> None:
    print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in figures.items()}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=15)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--stream", type=int, default=1_000_000, help="rows")
    asked = parser.parse_args()
    row = load_digits().data[:1].copy()
    calls: dict[Any, Callable[[], Any]] = {}
    for name, device in DEVICES.items():
        for n_layers in asked.layers:
            network = trained(device, n_layers)
            kept, opened = network.deploy(), network.deploy()
            kept.__enter__()
            calls[name, n_layers, "kept open"] = lambda kept=kept: kept.predict(row)
            calls[name, n_layers, "opened for each call"] = lambda opened=opened: opened.predict(row)
            calls[name, n_layers, "estimator"] = lambda network=network: network.predict(row)
    report(figure="where", python=platform.python_version(), numpy=np.__version__, processor=platform.processor())
    for (name, n_layers, way), times in microseconds(calls, asked.blocks, asked.calls).items():
        figures = dict(zip(("us_per_row_and_layer", "lowest", "cpu"), (t / n_layers for t in times), strict=True))
        report(figure="predict, one row", device=name, layers=n_layers, way=way, **figures)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.skpat"
        network = trained(DEVICES["device that reads the parts"], 2)
        ways = {
            "save": lambda: network.deploy().save(path),
            "load": lambda: deployment.load(path, network.device_),
        }
        for way, (median, *_) in microseconds(ways, 5, 10).items():
            report(figure=way, milliseconds=median / 1e3, bytes=path.stat().st_size)
        for n_rows in (10_000, asked.stream):
            command = [sys.executable, "-c", STREAM, str(path), str(n_rows)]
            found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            report(figure="a stream, in a fresh process", **json.loads(found))


if __name__ == "__main__":
    main()
