"""A pretended instrument for tests of sessions: it has an address, and notes in a file who uses it, and when."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

import skpat
from skpat import ControlBatch, Device
from skpat.lab import connection
from skpat.lab.adopted import adopt


class BenchDevice(Device):
    """Four channels, three outputs, deterministic. Every event is a line of ``log``: time, process, thread, what.

    ``faults`` maps the number of a call of ``measure`` (in this process) to what then happens.
    """

    n_controls, n_outputs = 4, 3
    bounds = (0.0, 1.0)
    _calls = 0  # of this process

    def __init__(
        self, address=None, log=None, pause=0.0, faults=None, max_batch=None, on_bad_output="retry", max_retries=5
    ):
        self.address = address
        self.log = log
        self.pause = pause
        self.faults = faults
        self.max_batch = max_batch
        self.on_bad_output = on_bad_output
        self.max_retries = max_retries

    def note(self, what: str) -> None:
        if self.log is not None:
            line = f"{time.monotonic_ns()} {os.getpid()} {threading.get_ident()} {what}\n"
            file = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(file, line.encode())
            os.close(file)

    def open(self) -> None:
        self._handle = threading.Lock()  # cannot be pickled or copied, like a real one
        self.note("open")

    def close(self) -> None:
        self.__dict__.pop("_handle", None)
        self.note("close")

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_handle"}

    def identify(self) -> str:
        return "bench 1"

    def safe_state(self) -> None:
        self.note("safe")

    def measure(self, batch: ControlBatch) -> np.ndarray:
        assert not self._handle.locked()
        type(self)._calls += 1
        self.note(f"begin {batch.n_rows}")
        time.sleep(self.pause)
        c = np.asarray(batch)
        outputs = np.column_stack(
            [c[:, 0] * c[:, 1], np.sin(3 * c[:, 2] + c[:, 3]), (c * [0.1, 0.2, 0.3, 0.4]).sum(axis=1)]
        )
        fault = (self.faults or {}).get(type(self)._calls)
        self.note(f"end {fault or ''}".strip())
        if isinstance(fault, BaseException):
            raise fault
        if fault == "nan":
            outputs[-1, 1] = np.nan
        if fault == "short":
            outputs = outputs[:-1]
        if fault == "line":
            raise ConnectionResetError("the line is dead")
        if fault == "late":
            raise TimeoutError("no answer within 2 s")
        return outputs


def events(log: Path) -> list[list[str]]:
    """The lines of a log in the order of time: [time, process, thread, what, ...]."""
    return sorted((line.split() for line in log.read_text().splitlines()), key=lambda parts: int(parts[0]))


def largest_overlap(log: Path) -> int:
    """Most holders (between open and close) at any one time."""
    holders, most = 0, 0
    for _, _, _, what, *_ in events(log):
        holders += {"open": 1, "close": -1}.get(what, 0)
        most = max(most, holders)
    return most


def forget_everybody() -> None:
    """Let go of every address: sessions that an error's traceback keeps alive would share theirs with the next test."""
    gc.collect()
    connection._shut_down_all()
    connection._by_place.clear()


def data(n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """A task that the bench device can learn."""
    X = np.random.RandomState(0).uniform(-1, 1, (n, 2))
    return X, (X[:, 0] > X[:, 1]).astype(int)


def adopted(read: Any, **about: Any) -> Device:
    """A device that is made of a handle which somebody else has opened."""
    return adopt(SimpleNamespace(), lambda _, controls: read(controls), open=lambda _: None, **about)


def python(code: str, *arguments: str, **more: Any) -> subprocess.Popen:
    """Run code in an interpreter of its own, which knows skpat and these tests."""
    path = os.pathsep.join([str(Path(skpat.__file__).parents[1]), str(Path(__file__).parents[2])])
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


HOLDER = """
import sys, time
from tests.lab.bench_device import BenchDevice
from skpat.lab import Session
import numpy as np
session = Session(BenchDevice("bench", sys.argv[1]))
session.measure(np.full((2, 4), 0.5))
print("held", flush=True)
time.sleep(60)
"""
