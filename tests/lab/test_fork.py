"""Processes that are forked while another thread holds a lock, or end while one hangs in a driver."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FORK = """
import os, signal, sys, threading
from skpat.lab import Journal, Ledger, Session
from tests.lab.recorded_device import POOL, Counter

journal, ledger = Journal(sys.argv[1]), Ledger()
with Session(Counter(), journal=journal) as session:
    session.measure(POOL)
held, done = threading.Event(), threading.Event()

def hold():
    with journal._lock, ledger._lock:
        held.set()
        done.wait()

threading.Thread(target=hold).start()
held.wait()
child = os.fork()
if not child:
    signal.alarm(30)
    ledger.add("training", 3)
    os._exit(0 if journal.about and ledger.total == 3 else 1)
status = os.waitpid(child, 0)[1]
done.set()
ledger.add("training", 2)  # the parent's lock is the parent's
sys.exit(status != 0 or ledger.total != 2)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_waits_for_no_lock_of_its_parents_threads(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK, str(tmp_path / "run.db")], check=True, env=environment, timeout=60
    )


HANG = """
import sys, threading, time
import numpy as np
from skpat import as_device
from skpat.lab import Session, connection

connection._NOTE_AT_EXIT = connection._WAIT_AT_EXIT = 0.2
asked = threading.Event()

def scope(volts):
    asked.set()
    time.sleep(float(sys.argv[1]))
    return volts

device = as_device(scope, n_controls=1, n_outputs=1, bounds=(0, 1))
threading.Thread(target=lambda: Session(device).measure(np.zeros((1, 1))), daemon=True).start()
asked.wait()
"""


@pytest.mark.parametrize(("seconds", "said"), [(1e6, "was not brought into its safe state"), (0.3, "Waiting for it")])
def test_a_process_ends_though_a_driver_hangs(seconds: float, said: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    ended = subprocess.run(
        [sys.executable, "-c", HANG, str(seconds)],
        check=True,
        env=environment,
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert "scope is still in a call" in ended.stderr
    assert said in ended.stderr
