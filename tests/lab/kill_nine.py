"""Kill a fit at random moments, run it again, and count: a script for ``test_resume.py``.

    python kill_nine.py FOLDER N_KILLS SEED

Prints one JSON line. The fits run in forked children of one process that has imported everything.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import sqlite3
import sys
import time
import traceback
from pathlib import Path

import numpy as np

from skpat import PhysicalNetworkClassifier
from skpat.lab import Journal
from skpat.twins import NeuralTwin
from tests.lab.bench_device import BenchDevice, events

MAX_BATCH = 8


def fit(folder: Path, name: str, journal: Path | None) -> None:
    """One fit in this process; its weights end up in a file."""
    X = np.random.RandomState(0).uniform(-1, 1, (40, 3))
    y = (X[:, 0] > X[:, 1] * X[:, 2]).astype(int)
    device = BenchDevice("bench", folder / f"{name}.log", pause=4e-3, max_batch=MAX_BATCH)
    twin = NeuralTwin((8,), max_iter=5, n_refine_steps=1)
    network = PhysicalNetworkClassifier(
        device, twin, max_iter=4, n_calibration_shots=40, batch_size=16, random_state=0, journal=journal
    )
    network.fit(X, y, X_val=X[:20], y_val=y[:20])
    found = {name: weight.tolist() for name, weight in network.weights_.items()}
    (folder / f"{name}.weights").write_bytes(pickle.dumps(found))


def in_a_child(folder: Path, name: str, journal: Path | None, kill_after: float | None) -> bool:
    """Fit in a forked child; whether it came to its end before it was killed."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            fit(folder, name, journal)
            code = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0
        return True
    return False


def main() -> None:
    folder, n_kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    rng = np.random.default_rng(seed)
    fit(folder, "first", None)  # imports everything, so that kills hit a fit and not its imports
    begun = time.perf_counter()
    in_a_child(folder, "whole", folder / "whole.db", None)
    duration = time.perf_counter() - begun
    rows_of_a_run = sum(len(a.outputs) for a in Journal(folder / "whole.db").answers())
    reference = (folder / "whole.weights").read_bytes()
    kills, runs, wasted, differing = 0, 0, [], 0
    while kills < n_kills:
        name = f"run{runs}"
        journal = folder / f"{name}.db"
        killed = 0
        while not in_a_child(folder, name, journal, None if kills >= n_kills else rng.uniform(0, 0.8 * duration)):
            killed += 1
            kills += 1
        with sqlite3.connect(journal) as file:
            assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            (recorded,) = file.execute("SELECT sum(n_rows) FROM batches").fetchone()
        file.close()
        assert recorded == rows_of_a_run, (recorded, rows_of_a_run)
        measured = sum(int(event[4]) for event in events(folder / f"{name}.log") if event[3] == "begin")
        assert measured - recorded <= MAX_BATCH * killed, (measured, recorded, killed)
        wasted.append(measured - recorded)
        differing += (folder / f"{name}.weights").read_bytes() != reference
        runs += 1
    print(
        json.dumps({"kills": kills, "runs": runs, "rows": rows_of_a_run, "unanswered": wasted, "differing": differing})
    )


if __name__ == "__main__":
    main()
