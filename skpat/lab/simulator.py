"""A simulated instrument: any device behind a SCPI line, with the faults of real ones.

    python -m skpat.lab.simulator --device SecondHarmonicLaser --set n_controls=32 --fault late=0.02

serves it on this computer, prints the VISA address and runs until Ctrl-C.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import select
import signal
import socket
import threading
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from importlib import import_module
from io import BufferedReader
from typing import Any

import numpy as np

from skpat.devices.specification import check_device_specification, device_name
from skpat.lab.scpi import encode_block, parse_block_header
from skpat.value_checks import is_number

__all__ = ["FAULTS", "SimulatedInstrument", "main"]

FAULTS = ("late", "mute", "truncated", "nan", "saturated", "closed")
_CONFLICT, _OUT_OF_RANGE = '-221,"Settings conflict"', '-222,"Data out of range"'
_MOST_BYTES = 1 << 28  # of one block: a wrong length must not exhaust the memory


class SimulatedInstrument:
    r"""A simulated device behind a raw TCP socket of this computer: an instrument to test drivers and sessions on.

    Lines end with a newline; numbers come as IEEE 488.2 blocks (``skpat.lab.scpi``).

    ====================  ==============================================================================
    ``*IDN?``             maker, device, serial number, version
    ``*CLS``, ``*RST``    forget the errors; forget the channels and the values of the shared controls
    ``SYST:ERR?``         the oldest error and its text, ``0,"No error"`` when there is none
    ``SYST:CHAN?``        number of controls and of outputs
    ``CHAN #<ints>``      numbers of the shared channels
    ``CTRL #<floats>``    their values
    ``VARY #<ints>``      the other channels in the order of the rows; else ascending
    ``MEAS? #<floats>``   the varying controls of every row; answers with the outputs of every row
    ``SAFE``              shared controls to their lower bounds
    ====================  ==============================================================================

    A value that is not finite or beyond the device's bounds is refused: an error in the queue, and no answer. After a
    (re)connection the shared controls are unset. One client is served at a time, others wait. The queue of errors outlives
    a connection.

    Parameters
    ----------
    device : Device
        What to simulate. It gets unnamed rows: its noise is its own stream.
    port : int, default=0
        On the loopback address; nothing outside this computer can connect. 0: a free one.
    faults : dict of str to float, default=None
        Probability of each kind at each measurement: "late" (answers after ``late_seconds``), "mute" (never), "truncated"
        (half a block), "nan" and "saturated" (one wrong reading), "closed" (hangs up instead of answering). "drift" is
        no event but a rate: outputs are multiplied by 1 + drift * rows measured so far. A row counts as
        measured whether or not its answer arrives.
    schedule : iterable of str or None, default=None
        The fault of each measurement in turn, in place of probabilities; none when it is used up.
    max_faults : int, default=None
        No more are injected after so many.
    late_seconds : float, default=1.0
        Delay of a late answer.
    saturation : float, default=None
        A saturated reading. None: the upper end of the device's ``output_range``.
    seed : int, default=0
        Of the faults.
    record : bool, default=False
        Keep every setting measured in ``received``.
    datatype : {"d", "f"}, default="d"
        Floats on the line: 8 or 4 bytes.
    big_endian : bool, default=False
        Byte order on the line.
    serial : str, default="0001"
        Serial number for ``*IDN?``.

    Attributes
    ----------
    address : str
        VISA address, while it runs.
    rows, measurements, connections, safe_states : int
        Rows measured, in how many requests; clients served; how often ``SAFE`` was received.
    overlaps : int
        Measurements asked for while a second client was waiting: two holders at a time.
    violations : int
        Values received that were not finite or beyond the bounds.
    lowest, highest : ndarray of shape (n_controls,)
        Of the values received for each channel, legal or not; NaN where there was none.
    injected : Counter
        Faults by kind.
    errors : deque of str
        The queue, oldest first.
    received : list of ndarray of shape (n_rows, n_controls)
        Settings in the order measured, if ``record``.

    Examples
    --------
    >>> import socket
    >>> from skpat.devices import SecondHarmonicLaser
    >>> from skpat.lab.simulator import SimulatedInstrument
    >>> with SimulatedInstrument(SecondHarmonicLaser()) as instrument:
    ...     with socket.create_connection(("127.0.0.1", instrument.port)) as line:
    ...         _ = line.send(b"SYST:CHAN?\n")
    ...         line.recv(100)
    b'100,50\n'
    """

    def __init__(
        self,
        device: Any,
        *,
        port: int = 0,
        faults: Mapping[str, float] | None = None,
        schedule: Iterable[str | None] | None = None,
        max_faults: int | None = None,
        late_seconds: float = 1.0,
        saturation: float | None = None,
        seed: int = 0,
        record: bool = False,
        datatype: str = "d",
        big_endian: bool = False,
        serial: str = "0001",
    ):
        self._low, self._high = check_device_specification(device).T
        faults = dict(faults or {})
        self._drift = faults.pop("drift", 0.0)
        self._demand(
            "'faults' must give a finite rate of drift",
            is_number(self._drift) and np.isfinite(self._drift),
            self._drift,
        )
        self._demand("'late_seconds' must be a number of at least 0", is_number(late_seconds, 0), late_seconds)
        self._demand("'saturation' must be a number, or None", saturation is None or is_number(saturation), saturation)
        self._demand("'max_faults' must be at least 0, or None", max_faults is None or max_faults >= 0, max_faults)
        self._demand("'port' must be an int from 0 to 65,535", 0 <= port <= 65_535, port)
        for kind, probability in faults.items():
            if kind not in FAULTS or not (is_number(probability, 0) and probability <= 1):
                raise ValueError(
                    f"'faults' must give probabilities of {', '.join(FAULTS)}, or a rate of drift. Got {probability!r} for "
                    f"{kind!r}. For example faults={{'late': 0.02}}."
                )
        if sum(faults.values()) > 1:
            raise ValueError(f"'faults' must add up to at most 1. Got {sum(faults.values()):g}. Lower some.")
        if saturation is None and getattr(device, "output_range", None) is not None:
            saturation = device.output_range[1]
        if saturation is None and "saturated" in faults:
            raise ValueError(f"'saturation' must be given: {device_name(device)} states no output_range. Got None.")
        self.device = device
        self.port = port
        self.late_seconds = late_seconds
        self.max_faults = max_faults
        self.saturation = saturation
        self.rows = self.measurements = self.connections = self.overlaps = self.violations = self.safe_states = 0
        self.lowest, self.highest = np.full((2, device.n_controls), np.nan)
        self.injected: Counter[str] = Counter()
        self.errors: deque[str] = deque()
        self.received: list[np.ndarray] = []
        self._record = record
        self._identity = f"skpat,{device_name(device)},{serial},{import_module('skpat').__version__}"
        self._kinds, self._edges = list(faults), np.cumsum(list(faults.values()))
        planned = None if schedule is None else list(schedule)
        for plan in planned or ():
            if plan is not None and plan not in FAULTS:
                raise ValueError(f"'schedule' must hold {', '.join(map(repr, FAULTS))} or None. Got {plan!r}.")
        self._schedule = None if planned is None else iter(planned)
        self._rng = np.random.default_rng(seed)
        order = ">" if big_endian else "<"
        self._float, self._int = np.dtype(order + datatype), np.dtype(order + "i4")
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._connection: socket.socket | None = None
        self._shared_index: np.ndarray | None = None  # unset until the client has said it on this connection
        self._shared: np.ndarray | None = None
        self._varying_index = np.arange(device.n_controls)

    @staticmethod
    def _demand(rule: str, fulfilled: bool, value: Any) -> None:
        if not fulfilled:
            raise ValueError(f"{rule}. Got {value!r}.")

    # ---- serving ----

    def __enter__(self) -> SimulatedInstrument:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        return f"TCPIP::127.0.0.1::{self.port}::SOCKET"

    def start(self) -> SimulatedInstrument:
        """Serve in a thread of its own, until :meth:`stop`."""
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=8)
        self._listener.settimeout(0.05)  # how often the server looks whether it shall stop
        self.port = self._listener.getsockname()[1]
        self._stopping.clear()
        self._thread = threading.Thread(target=self._serve, name="SimulatedInstrument", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Hang up and stop serving. It may be started again on the same port."""
        self._stopping.set()
        self.hang_up()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def hang_up(self) -> None:
        """Break the line to the present client, as a power cut or a pulled cable does."""
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        with self._listener:
            while not self._stopping.is_set():
                try:
                    connection, _ = self._listener.accept()
                except TimeoutError:
                    continue
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.settimeout(None)
                self.connections += 1
                self._connection = connection
                with connection, connection.makefile("rb") as reader:
                    if self._stopping.is_set():  # it came while the server was being stopped
                        break
                    self._forget_controls()
                    # the client went away, or was told to: the next one is served
                    with contextlib.suppress(OSError):
                        while (request := self._read(reader)) is not None:
                            connection.sendall(self._answer(*request))
                self._connection = None

    def _read(self, reader: BufferedReader) -> tuple[bytes, bytes | None] | None:
        """The next command and the bytes of its block; None when the client has gone."""
        line = reader.readline(_MOST_BYTES)
        command, hash_sign, _ = line.partition(b"#")
        if not hash_sign:
            return (command.strip().upper(), None) if line else None
        start = len(command)
        command = command.strip().upper()
        try:
            offset, n_bytes = parse_block_header(line[start : start + 11])
        except ValueError:
            return command, None
        if n_bytes > _MOST_BYTES:
            return command, None
        missing = start + offset + n_bytes + 1 - len(line)  # a block may hold newlines; one more ends the line
        if missing > 0:
            rest = reader.read(missing)
            if len(rest) < missing:
                return None
            line += rest
        return command, line[start + offset : start + offset + n_bytes]

    # ---- commands ----

    def _answer(self, command: bytes, block: bytes | None) -> bytes:
        """Do what a line says; the bytes to send back, if any."""
        try:
            if command == b"MEAS?":
                return self._measure(block)
            if command == b"SYST:ERR?":
                return (self.errors.popleft() if self.errors else '0,"No error"').encode() + b"\n"
            if command == b"SYST:CHAN?":
                return b"%d,%d\n" % (self.device.n_controls, self.device.n_outputs)
            if command == b"*IDN?":
                return self._identity.encode() + b"\n"
            self._obey(command, block)
        except _RefusedError as refused:
            self.errors.append(str(refused))
        return b""

    def _obey(self, command: bytes, block: bytes | None) -> None:
        if command == b"CTRL":
            self._set_shared(self._values(block, self._float))
        elif command == b"CHAN":
            self._shared_index = self._channels(block)
            self._shared = None if len(self._shared_index) else np.empty(0)
            self._varying_index = np.setdiff1d(np.arange(self.device.n_controls), self._shared_index)
        elif command == b"VARY":
            order = self._channels(block)
            if self._shared_index is None or not np.array_equal(np.sort(order), np.sort(self._varying_index)):
                raise _RefusedError(_CONFLICT)
            self._varying_index = order
        elif command == b"*RST":
            self._forget_controls()
        elif command == b"*CLS":
            self.errors.clear()
        elif command == b"SAFE":
            self.safe_states += 1
            if self._shared_index is not None:
                self._shared = self._low[self._shared_index]
        else:
            raise _RefusedError('-113,"Undefined header"')

    def _values(self, block: bytes | None, dtype: np.dtype) -> np.ndarray:
        """The numbers in the bytes of a block, in the byte order of this computer."""
        if block is None or len(block) % dtype.itemsize:
            raise _RefusedError('-161,"Invalid block data"')
        return np.frombuffer(block, dtype).astype(np.float64 if dtype.kind == "f" else np.intp)

    def _channels(self, block: bytes | None) -> np.ndarray:
        channels = self._values(block, self._int)
        if len(np.intersect1d(channels, np.arange(self.device.n_controls))) != len(channels):
            raise _RefusedError(_OUT_OF_RANGE)  # beyond the last, or twice the same
        return channels

    def _set_shared(self, values: np.ndarray) -> None:
        self._shared = None
        if self._shared_index is None or len(values) != len(self._shared_index):
            raise _RefusedError(_CONFLICT)
        self._check(values[None, :], self._shared_index)
        self._shared = values

    def _measure(self, block: bytes | None) -> bytes:
        if select.select([self._listener], [], [], 0)[0]:
            self.overlaps += 1
        n_varying = len(self._varying_index)
        if self._shared is None or not n_varying:
            raise _RefusedError(_CONFLICT)
        values = self._values(block, self._float)
        if len(values) % n_varying:
            raise _RefusedError('-161,"Invalid block data"')
        varying = values.reshape(-1, n_varying)
        self._check(varying, self._varying_index)
        controls = np.empty((len(varying), self.device.n_controls))
        controls[:, self._varying_index], controls[:, self._shared_index] = varying, self._shared
        if self._record:
            self.received.append(controls)
        try:
            outputs = np.array(self.device.measure(controls), dtype=np.float64)
        except Exception as error:  # a broken device must not take the server down, and its user must learn why
            what = " ".join(f"{type(error).__name__}: {error}".split())
            raise _RefusedError(f'-300,"Device-specific error;{what}"') from error
        if self._drift:
            outputs *= 1 + self._drift * (self.rows + np.arange(len(outputs))[:, None])
        self.rows += len(outputs)
        self.measurements += 1
        return self._deliver(outputs)

    def _deliver(self, outputs: np.ndarray) -> bytes:
        """The answer, with the fault of this measurement."""
        kind = self._next_fault()
        if kind in ("nan", "saturated") and outputs.size:
            outputs.flat[self._rng.integers(outputs.size)] = np.nan if kind == "nan" else self.saturation
        answer = encode_block(outputs, self._float) + b"\n"
        if kind == "late":
            if self._stopping.wait(self.late_seconds):
                raise ConnectionAbortedError
        elif kind == "mute":
            return b""
        elif kind == "truncated":
            return answer[: len(answer) - outputs.size * self._float.itemsize // 2 - 1]
        elif kind == "closed":
            raise ConnectionAbortedError
        return answer

    def _next_fault(self) -> str | None:
        if self._schedule is not None:
            kind = next(self._schedule, None)
        elif self._kinds:
            place = int(np.searchsorted(self._edges, self._rng.random(), side="right"))
            kind = self._kinds[place] if place < len(self._kinds) else None
        else:
            return None
        if kind is None or (self.max_faults is not None and self.injected.total() >= self.max_faults):
            return None
        self.injected[kind] += 1
        return kind

    def _check(self, values: np.ndarray, index: np.ndarray) -> None:
        """Note the extremes; count and refuse what is beyond the bounds or not finite."""
        if not len(values):
            return
        self.lowest[index] = np.fmin(self.lowest[index], np.fmin.reduce(values, axis=0))
        self.highest[index] = np.fmax(self.highest[index], np.fmax.reduce(values, axis=0))
        legal = (values >= self._low[index]) & (values <= self._high[index])  # NaN fails both comparisons
        if not legal.all():
            self.violations += int((~legal).sum())
            raise _RefusedError(_OUT_OF_RANGE)

    def _forget_controls(self) -> None:
        self._shared_index, self._shared = None, None
        self._varying_index = np.arange(self.device.n_controls)


class _RefusedError(Exception):
    """A request is not carried out; the text is for the queue of errors."""


def main(arguments: list[str] | None = None) -> None:
    """Serve a simulated device until Ctrl-C.

    Parameters
    ----------
    arguments : list of str, default=None
        Of the command line; None: those of this process.
    """
    parser = argparse.ArgumentParser(prog="python -m skpat.lab.simulator", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="SecondHarmonicLaser", help="a name in skpat.devices, or module:Class")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the device")
    parser.add_argument("--fault", action="append", default=[], metavar="KIND=RATE", help=f"{', '.join(FAULTS)}, drift")
    parser.add_argument("--late-seconds", type=float, default=1.0, help="delay of a late answer")
    parser.add_argument("--saturation", type=float, help="a saturated reading")
    parser.add_argument("--max-faults", type=int, help="inject no more than this")
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument("--port", type=int, default=0, help="on the loopback address; 0: a free one")
    options = parser.parse_args(arguments)
    try:
        instrument = SimulatedInstrument(
            _make_device(options.device, dict(_pair(text) for text in options.set)),
            port=options.port,
            faults=dict(_pair(text) for text in options.fault),
            late_seconds=options.late_seconds,
            saturation=options.saturation,
            max_faults=options.max_faults,
            seed=options.seed,
        )
    except (ValueError, TypeError, ImportError, AttributeError) as error:
        parser.error(str(error))
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell started us in the background, deaf to Ctrl-C
        signal.signal(number, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as stack:
        try:
            stack.enter_context(instrument)
        except OSError as error:
            parser.error(f"'port' must be a free one. Got {options.port}: {error.strerror}. Use 0 for any.")
        print(instrument.address, flush=True)
        threading.Event().wait()
    faults = ", ".join(f"{count} {kind}" for kind, count in sorted(instrument.injected.items())) or "none"
    with contextlib.suppress(BrokenPipeError):  # whoever read the address may have gone
        print(f"{instrument.connections} connections, {instrument.rows} rows measured, faults: {faults}", flush=True)


def _make_device(name: str, parameters: dict[str, Any]) -> Any:
    module, _, attribute = name.rpartition(":")
    return getattr(import_module(module or "skpat.devices"), attribute)(**parameters)


def _pair(text: str) -> tuple[str, Any]:
    """``name=value``, the value as Python would read it, else as text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"An option must be name=value. Got {text!r}.")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


if __name__ == "__main__":
    main()
