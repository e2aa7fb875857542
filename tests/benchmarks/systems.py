"""Throughput of every simulated system: rows a second, where the time goes, growth with the rows, memory.

For each system, with its defaults, in single and double precision:

- rows a second of ``measure``, median of interleaved repeats;
- shares of the time in Fourier transforms, matrix products and elementwise kernels as torch's profiler sees them, and the
  rest (Python, and launching kernels); a system that computes in numpy has no such shares;
- "fixed": time of a piece of one row over that of a piece of ``chunk_rows`` rows: an upper limit of what does not depend on the
  number of rows, whatever it is made of;
- "growth": the time of four times the rows over that of the rows (4 is linear);
- "memory": how much the peak of the process grows from 4 to 16 pieces, less the answers themselves, in MiB, each measured
  in a process of its own.

Prints a JSON line per case and a table.

    python tests/benchmarks/systems.py
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch.profiler import ProfilerActivity, profile

import skpat.devices
from skpat import ControlBatch

SYSTEMS = (
    "SecondHarmonicLaser",
    "OscillatingPlate",
    "AnalogCircuit",
    "CoupledOscillators",
    "MachZehnderMesh",
    "NeuralTissue",
    "FrozenModel",
)
_KINDS = {
    "fft": ("fft",),
    "matrix": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::addbmm", "scaled_dot_product", "linalg"),
}
_MIB = 2**20


def make(name: str) -> Any:
    """A system with its defaults."""
    return getattr(skpat.devices, name)()


def batch(device: Any, n_rows: int, dtype: Any) -> ControlBatch:
    """Rows as a network sends them: half of the channels vary, the others are shared; the middle half of the bounds."""
    low, high = np.broadcast_to(np.asarray(device.bounds, dtype=float), (device.n_controls, 2)).T
    rng = np.random.default_rng(0)
    uniform = 0.25 + 0.5 * rng.uniform(size=(n_rows, (device.n_controls + 1) // 2))
    varying_index = np.arange(0, device.n_controls, 2)
    shared_index = np.arange(1, device.n_controls, 2)
    varying = low[varying_index] + uniform * (high - low)[varying_index]
    shared = (low + (0.25 + 0.5 * rng.uniform(size=device.n_controls)) * (high - low))[shared_index]
    keys = np.arange(n_rows, dtype=np.uint64)
    return ControlBatch(varying.astype(dtype), varying_index, shared.astype(dtype), shared_index, keys)


def seconds(device: Any, controls: ControlBatch) -> float:
    """Time of one call."""
    begun = time.perf_counter()
    device.measure(controls)
    return time.perf_counter() - begun


def shares(device: Any, controls: ControlBatch) -> dict[str, float] | None:
    """Where the time of one call goes."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        begun = time.perf_counter()
        device.measure(controls)
        wall = time.perf_counter() - begun
    spent = dict.fromkeys(("fft", "matrix", "elementwise"), 0.0)
    for entry in profiler.key_averages():
        kind = next((k for k, names in _KINDS.items() if any(n in entry.key for n in names)), "elementwise")
        spent[kind] += entry.self_cpu_time_total * 1e-6
    if sum(spent.values()) < 0.05 * wall:
        return None
    found = {kind: round(value / wall, 3) for kind, value in spent.items()}
    return found | {"rest": round(max(0.0, 1 - sum(found.values())), 3)}


def peak(name: str, n_rows: int, dtype: str) -> float:
    """Peak memory, in MiB, of a process that measures so many rows."""
    code = (
        "import resource, sys; sys.path.insert(0, sys.argv[4]); import numpy as np, systems;"
        "d = systems.make(sys.argv[1]); b = systems.batch(d, int(sys.argv[2]), sys.argv[3]);"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; out = d.measure(b);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - 2 * out.nbytes / 2**20)"
    )
    here = __file__.rsplit("/", 1)[0]
    command = [sys.executable, "-c", code, name, str(n_rows), dtype, here]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def run(name: str, dtype: str, repeats: int) -> dict[str, Any]:
    """All figures of one system in one precision."""
    device = make(name)
    chunk = min(int(getattr(device, "chunk_rows", 256)), 1024)
    sizes = {"one": 1, "piece": chunk, "few": 4 * chunk, "many": 16 * chunk}
    batches = {size: batch(device, n_rows, dtype) for size, n_rows in sizes.items()}
    with threadpool_limits(1):
        torch_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        device.measure(batches["piece"])
        times: dict[str, list[float]] = {size: [] for size in sizes}
        for _ in range(repeats):
            for size, controls in batches.items():
                times[size].append(seconds(device, controls))
        found = shares(device, batches["few"])
        torch.set_num_threads(torch_threads)
    median = {size: float(np.median(values)) for size, values in times.items()}
    return {
        "system": name,
        "dtype": dtype,
        "n_controls": int(device.n_controls),
        "n_outputs": int(device.n_outputs),
        "chunk_rows": chunk,
        "rows_per_second": round(sizes["many"] / median["many"]),
        "shares": found,
        "fixed": round(median["one"] / median["piece"], 3),
        "growth": round(median["many"] / median["few"], 2),
        "memory_growth_MiB": round(peak(name, sizes["many"], dtype) - peak(name, sizes["few"], dtype), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--systems", nargs="*", default=list(SYSTEMS))
    arguments = parser.parse_args()
    results = []
    for name in arguments.systems:
        for dtype in ("float32", "float64"):
            results.append(run(name, dtype, arguments.repeats))
            print(json.dumps(results[-1]), flush=True)
    print(f"\ntorch {torch.__version__}, numpy {np.__version__}, {platform.machine()}, one thread")
    print(f"{'system':<20}{'dtype':<9}{'rows/s':>8}{'fft':>7}{'matrix':>8}{'elementwise':>12}{'rest':>7}{'fixed':>7}"
          f"{'growth':>8}{'memory':>9}")  # fmt: skip
    for r in results:
        parts = r["shares"] or {}
        columns = [f"{parts[k]:.0%}" if k in parts else "-" for k in ("fft", "matrix", "elementwise", "rest")]
        print(f"{r['system']:<20}{r['dtype']:<9}{r['rows_per_second']:>8,}{columns[0]:>7}{columns[1]:>8}{columns[2]:>12}"
              f"{columns[3]:>7}{r['fixed']:>7.0%}{r['growth']:>8.2f}{r['memory_growth_MiB']:>5.0f} MiB")  # fmt: skip


if __name__ == "__main__":
    main()
