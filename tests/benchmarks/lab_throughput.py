"""Rows per second to an instrument on the loopback address: a bare socket, ``VisaDevice.measure``, and a Session, in one run.

Every case has a simulated instrument of its own, with a device that answers zeros, in a process of its own. Figures are
medians over interleaved rounds; a ratio is the median of the rounds' ratios. Prints one JSON line per case.

    python tests/benchmarks/lab_throughput.py
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np

from skpat import ControlBatch, Device
from skpat.lab import Journal, Session
from skpat.lab.scpi import encode_block, parse_block_header
from skpat.lab.visa_device import VisaDevice

N_VARYING, N_SHARED, N_OUTPUTS = 8, 24, 10
N_CONTROLS = N_VARYING + N_SHARED
VARYING, SHARED = np.arange(N_VARYING), np.arange(N_VARYING, N_CONTROLS)

Measure = Callable[[ControlBatch], np.ndarray]


class NullBank(Device):
    """Answers zeros at once; what is left is the line."""

    n_controls, n_outputs = N_CONTROLS, N_OUTPUTS
    bounds = np.tile([-1.0, 1.0], (N_CONTROLS, 1))

    def measure(self, batch: ControlBatch | np.ndarray) -> np.ndarray:
        return np.zeros((len(batch), N_OUTPUTS))


@contextlib.contextmanager
def served() -> Iterator[str]:
    """The address of a simulated instrument in a process of its own."""
    command = [sys.executable, "-m", "skpat.lab.simulator", "--device", f"{Path(__file__).stem}:NullBank"]
    with subprocess.Popen(command, cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.send_signal(signal.SIGINT)


@contextlib.contextmanager
def bare_socket() -> Iterator[Measure]:
    """The least that a program can do: no checks, no errors told."""
    with served() as address, socket.create_connection(("127.0.0.1", int(address.split("::")[2]))) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line.sendall(b"CHAN " + encode_block(SHARED, "<i4") + b"\nCTRL " + encode_block(np.zeros(N_SHARED)) + b"\n")
        reader = line.makefile("rb")

        def measure(batch: ControlBatch) -> np.ndarray:
            line.sendall(b"MEAS? " + encode_block(batch.varying) + b"\n")
            n_bytes = 8 * N_OUTPUTS * batch.n_rows
            offset, _ = parse_block_header(header := reader.read(2 + len(str(n_bytes))))
            assert offset == len(header)
            return np.frombuffer(reader.read(n_bytes + 1), count=N_OUTPUTS * batch.n_rows).reshape(-1, N_OUTPUTS)

        with reader:
            yield measure


@contextlib.contextmanager
def visa_device() -> Iterator[Measure]:
    with served() as address:
        device = VisaDevice(address, n_controls=N_CONTROLS, n_outputs=N_OUTPUTS, bounds=(-1, 1))
        device.open()
        try:
            yield device.measure
        finally:
            device.close()


@contextlib.contextmanager
def session(journal: bool) -> Iterator[Measure]:
    """Everything a fit uses; with the journal every block is on the disk before it is handed on."""
    with served() as address, tempfile.TemporaryDirectory(dir=Path(__file__).parent) as folder:
        device = VisaDevice(address, n_controls=N_CONTROLS, n_outputs=N_OUTPUTS, bounds=(-1, 1))
        record = Journal(Path(folder) / "run.db") if journal else None
        with Session(device, journal=record) as open_session:
            yield open_session.measure
        if record is not None:
            record.close()


CASES: dict[str, Callable[[], contextlib.AbstractContextManager[Measure]]] = {
    "bare socket": bare_socket,  # what the others are held against
    "VisaDevice.measure": visa_device,
    "Session.measure": lambda: session(journal=False),
    "Session.measure, journal": lambda: session(journal=True),
}


def rows_per_second(measure: Measure, batch: ControlBatch, seconds: float) -> float:
    n_calls, begun = 0, time.perf_counter()
    while (passed := time.perf_counter() - begun) < seconds:
        measure(batch)
        n_calls += 1
    return n_calls * batch.n_rows / passed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.3, help="per case and round")
    options = parser.parse_args()
    about = {name: version(name) for name in ("numpy", "pyvisa", "pyvisa-py")} | {"python": platform.python_version()}
    rng = np.random.default_rng(0)
    with contextlib.ExitStack() as stack:
        measures = {name: stack.enter_context(case()) for name, case in CASES.items()}
        for n_rows in (1, 256):
            batch = ControlBatch(rng.uniform(-1, 1, (n_rows, N_VARYING)), VARYING, np.zeros(N_SHARED), SHARED)
            rates: dict[str, list[float]] = {name: [] for name in measures}
            for number in range(options.rounds + 1):
                for name in list(measures) if number % 2 else list(measures)[::-1]:
                    rate = rows_per_second(measures[name], batch, options.seconds)
                    if number:  # the first round warms up
                        rates[name].append(rate)
            reference = np.array(rates[next(iter(CASES))])
            for name, found in rates.items():
                case = {"case": name, "rows_per_call": n_rows, "rows_per_second": round(float(np.median(found)))}
                ratio = round(float(np.median(np.array(found) / reference)), 3)
                print(json.dumps(case | {"of_bare_socket": ratio} | about), flush=True)


if __name__ == "__main__":
    main()
