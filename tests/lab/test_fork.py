"""A child that is forked while another thread holds a lock."""

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
