"""characterize on devices drawn at random, of six kinds: how many get the verdict that they were made for.

The thresholds were set with seeds below 1,000; the figures come from seeds from 10,000 on. Prints a JSON line per device and a
table.

    python tests/benchmarks/characterize.py
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import scipy

sys.path.insert(0, str(Path(__file__).parents[2]))

from skpat import characterize
from tests.inspection.random_devices import KINDS, RandomDevice

_FIRST_SEED = 10_000
_MOST_SHOTS = 2000


def run(kind: str, seed: int) -> dict[str, Any]:
    """One device and its verdict."""
    device = RandomDevice(kind, seed)
    begun = time.perf_counter()
    report = characterize(device, n_shots=_MOST_SHOTS, random_state=seed)
    return {
        "kind": kind,
        "seed": seed,
        "verdict": report.verdict,
        "right": report.verdict == kind,
        "n_controls": report.n_controls,
        "n_outputs": report.n_outputs,
        "shots": report.n_shots,
        "snr": round(report.overall_snr, 3),
        "nonlinear_share": round(report.nonlinear_share, 4),
        "saturation": round(report.saturation, 3),
        "drift": round(report.drift, 3),
        "seconds": round(time.perf_counter() - begun, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=40, help="devices of each kind (40)")
    parser.add_argument("--first-seed", type=int, default=_FIRST_SEED)
    arguments = parser.parse_args()
    results = []
    for kind in KINDS:
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            results.append(run(kind, seed))
            print(json.dumps(results[-1]), flush=True)
    print(f"\nnumpy {np.__version__}, scipy {scipy.__version__}, {platform.machine()}")
    print(f"seeds {arguments.first_seed} to {arguments.first_seed + arguments.seeds - 1} of each kind\n")
    print(f"{'kind':<12}" + "".join(f"{kind:>11}" for kind in KINDS) + f"{'right':>9}   (verdicts)")
    for kind in KINDS:
        verdicts = [r["verdict"] for r in results if r["kind"] == kind]
        counts = "".join(f"{verdicts.count(verdict):>11}" for verdict in KINDS)
        print(f"{kind:<12}{counts}{verdicts.count(kind) / len(verdicts):>9.1%}")
    right = np.mean([r["right"] for r in results])
    print(f"\nright: {right:.1%} of {len(results)} devices; at most {max(r['shots'] for r in results):,} shots")


if __name__ == "__main__":
    main()
