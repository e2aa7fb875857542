"""The simulated instrument, spoken to over a bare socket: its protocol, what it refuses, and its faults."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest

from skpat import as_device
from skpat.devices import IdentityDevice
from skpat.lab.scpi import encode_block
from skpat.lab.simulator import SimulatedInstrument, main

OUT_OF_RANGE, CONFLICT, NO_ERROR = '-222,"Data out of range"', '-221,"Settings conflict"', '0,"No error"'


def identity(n_channels: int = 4) -> IdentityDevice:
    """Outputs are controls, between 0 and 1."""
    return IdentityDevice(n_channels, n_channels, [[0.0, 1.0]] * n_channels)


class Line:
    """A client that knows the protocol and nothing else."""

    def __init__(self, instrument: SimulatedInstrument, timeout: float = 5.0):
        self.socket = socket.create_connection(("127.0.0.1", instrument.port), timeout=timeout)

    def send(self, command: str, values=None, dtype: str = "<f8") -> None:
        block = b"" if values is None else b" " + encode_block(values, dtype)
        self.socket.sendall(command.encode() + block + b"\n")

    def channels(self, shared: list[int], values: list[float]) -> None:
        self.send("CHAN", shared, "<i4")
        self.send("CTRL", values)

    def read(self, n_bytes: int) -> bytes:
        data = b""
        while len(data) < n_bytes:
            new = self.socket.recv(n_bytes - len(data))
            if not new:
                raise EOFError
            data += new
        return data

    def ask(self, command: str) -> str:
        self.send(command)
        answer = b""
        while not answer.endswith(b"\n"):
            answer += self.read(1)
        return answer.decode()[:-1]

    def measure(self, rows, n_outputs: int = 4, dtype: str = "<f8") -> np.ndarray:
        self.send("MEAS?", rows, dtype)
        expected = encode_block(np.zeros((len(rows), n_outputs)), dtype)
        answer = self.read(len(expected) + 1)
        n_header = len(expected) - len(rows) * n_outputs * np.dtype(dtype).itemsize
        assert answer[:n_header] == expected[:n_header]
        assert answer[-1:] == b"\n"
        return np.frombuffer(answer[n_header:-1], dtype).reshape(len(rows), n_outputs)


@contextlib.contextmanager
def connected(instrument: SimulatedInstrument, **kwargs) -> Iterator[Line]:
    line = Line(instrument, **kwargs)
    with line.socket:
        yield line


@contextlib.contextmanager
def serving(device=None, **kwargs) -> Iterator[tuple[SimulatedInstrument, Line]]:
    instrument = SimulatedInstrument(identity() if device is None else device, **kwargs)
    with instrument, connected(instrument) as line:
        yield instrument, line


# ---- the protocol ----


def test_it_says_who_it_is() -> None:
    with serving(IdentityDevice(3, 2, [[0, 1]] * 3), serial="77") as (instrument, line):
        assert line.ask("*IDN?").split(",")[:3] == ["skpat", "IdentityDevice", "77"]
        assert line.ask("SYST:CHAN?") == "3,2"
        assert line.ask("SYST:ERR?") == NO_ERROR
        assert instrument.address == f"TCPIP::127.0.0.1::{instrument.port}::SOCKET"


def test_shared_and_varying_channels_meet_where_they_belong() -> None:
    with serving(record=True) as (instrument, line):
        line.channels([2, 0], [0.2, 0.4])
        np.testing.assert_array_equal(
            line.measure([[0.1, 0.3], [0.5, 0.7]]), [[0.4, 0.1, 0.2, 0.3], [0.4, 0.5, 0.2, 0.7]]
        )
        line.send("VARY", [3, 1], "<i4")
        np.testing.assert_array_equal(line.measure([[0.1, 0.3]]), [[0.4, 0.3, 0.2, 0.1]])
        line.channels([0], [0.9])  # the order is ascending again
        np.testing.assert_array_equal(line.measure([[0.1, 0.2, 0.3]]), [[0.9, 0.1, 0.2, 0.3]])
        line.send("CHAN", [], "<i4")
        np.testing.assert_array_equal(line.measure([[0.1, 0.2, 0.3, 0.4]]), [[0.1, 0.2, 0.3, 0.4]])
        assert line.ask("SYST:ERR?") == NO_ERROR
        assert (instrument.rows, instrument.measurements) == (5, 4)
        assert [len(controls) for controls in instrument.received] == [2, 1, 1, 1]
        np.testing.assert_array_equal(instrument.received[1], [[0.4, 0.3, 0.2, 0.1]])


def test_newlines_and_hashes_within_a_block_end_nothing() -> None:
    nasty = np.frombuffer(b"\n\n#\n19\n?" * 4 + b"\n" * 64, "<f8").reshape(-1, 4)
    device = IdentityDevice(4, 4, [[-1e300, 1e300]] * 4)
    with serving(device) as (_, line):
        line.send("CHAN", [], "<i4")
        np.testing.assert_allclose(line.measure(nasty), nasty)
        assert line.ask("SYST:ERR?") == NO_ERROR


@pytest.mark.parametrize(
    ("datatype", "big_endian", "dtype"), [("d", True, ">f8"), ("f", False, "<f4"), ("f", True, ">f4")]
)
def test_data_types_and_byte_orders(datatype: str, big_endian: bool, dtype: str) -> None:
    with serving(datatype=datatype, big_endian=big_endian) as (_, line):
        line.send("CHAN", [1, 2, 3], dtype[0] + "i4")
        line.send("CTRL", [0.25, 0.5, 0.75], dtype)
        np.testing.assert_array_equal(line.measure([[0.125]], dtype=dtype), [[0.125, 0.25, 0.5, 0.75]])


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (("NONSENSE?",), '-113,"Undefined header"'),
        (("MEAS?", [[0.0] * 4]), CONFLICT),  # before the channels
        (("CTRL", [0.5]), CONFLICT),
        (("VARY", [0, 1, 2, 3], "<i4"), CONFLICT),
        (("CHAN", [4], "<i4"), OUT_OF_RANGE),
        (("CHAN", [-1], "<i4"), OUT_OF_RANGE),
        (("CHAN", [1, 1], "<i4"), OUT_OF_RANGE),
        (("CHAN", [1], "<i2"), '-161,"Invalid block data"'),
        (("CHAN #",), '-161,"Invalid block data"'),
        (("CHAN #9999999999",), '-161,"Invalid block data"'),
        (("CHAN",), '-161,"Invalid block data"'),
    ],
)
def test_what_makes_no_sense_is_refused(request_: tuple, error: str) -> None:
    with serving() as (instrument, line):
        line.send(*request_)
        assert line.ask("SYST:ERR?") == error
        assert line.ask("SYST:ERR?") == NO_ERROR
        assert instrument.measurements == 0


def test_what_does_not_fit_the_channels_is_refused() -> None:
    with serving() as (_, line):
        line.channels([0], [0.5])
        line.send("VARY", [0, 1, 2], "<i4")  # 0 is shared
        assert line.ask("SYST:ERR?") == CONFLICT
        line.send("MEAS?", [0.5, 0.5])
        assert line.ask("SYST:ERR?") == '-161,"Invalid block data"'
        line.send("CHAN", [0, 1, 2, 3], "<i4")
        line.send("CTRL", [0.5] * 4)
        line.send("MEAS?", [])  # how many rows?
        assert line.ask("SYST:ERR?") == CONFLICT


@pytest.mark.parametrize("value", [1.0000001, -1e-9, np.nan, np.inf, -np.inf])
def test_illegal_values_are_refused_counted_and_not_answered(value: float) -> None:
    with serving(record=True) as (instrument, line):
        line.channels([0, 3], [0.5, 0.5])
        line.channels([0, 3], [0.5, value])
        line.send("CTRL", [0.5, 0.5])
        line.send("CTRL", [0.5, value])
        assert line.ask("SYST:ERR?") == OUT_OF_RANGE
        line.send("MEAS?", [[0.5, 0.5]])
        assert line.ask("SYST:ERR?") == OUT_OF_RANGE  # the next bytes on the line: there was no answer
        assert line.ask("SYST:ERR?") == CONFLICT  # the shared controls are unset
        line.channels([0, 3], [0.5, 0.5])
        line.send("MEAS?", [[0.5, value], [value, 0.5]])
        assert line.ask("SYST:ERR?") == OUT_OF_RANGE
        assert instrument.violations == 4
        assert instrument.received == []
        if np.isfinite(value):
            assert value in (instrument.lowest[1], instrument.highest[1])
            assert value in (instrument.lowest[3], instrument.highest[3])
        assert (instrument.lowest[0], instrument.highest[0]) == (0.5, 0.5)


def test_extremes_are_nan_before_anything_came() -> None:
    with SimulatedInstrument(identity()) as instrument:
        assert np.isnan([instrument.lowest, instrument.highest]).all()


def test_the_safe_state_is_the_lower_bound_and_rst_forgets() -> None:
    with serving(IdentityDevice(2, 2, [[-2.0, 2.0]] * 2)) as (instrument, line):
        line.channels([1], [1.5])
        line.send("SAFE")
        np.testing.assert_array_equal(line.measure([[0.0]], n_outputs=2), [[0.0, -2.0]])
        assert instrument.safe_states == 1
        line.send("*RST")
        line.send("MEAS?", [[0.0]])
        line.send("*CLS")
        assert line.ask("SYST:ERR?") == NO_ERROR
        line.send("MEAS?", [[0.0]])
        assert line.ask("SYST:ERR?") == CONFLICT


def test_a_broken_device_says_why_and_the_server_lives_on() -> None:
    def broken(controls):
        raise RuntimeError("lamp\nburnt out")

    with serving(as_device(broken, n_controls=1, n_outputs=1, bounds=(0, 1))) as (_, line):
        line.send("CHAN", [], "<i4")
        line.send("MEAS?", [[0.5]])
        assert line.ask("SYST:ERR?") == '-300,"Device-specific error;RuntimeError: lamp burnt out"'
        assert line.ask("SYST:CHAN?") == "1,1"


# ---- connections ----


def test_after_a_reconnection_shared_controls_are_unset_and_errors_still_there() -> None:
    with serving() as (instrument, line):
        line.channels([0, 1], [0.5, 0.5])
        line.measure([[0.5, 0.5]])
        line.send("MEAS?", [[2.0, 0.5]])
        line.socket.close()
        with connected(instrument) as again:
            assert again.ask("SYST:ERR?") == OUT_OF_RANGE
            again.send("MEAS?", [[0.1, 0.1]])
            assert again.ask("SYST:ERR?") == CONFLICT
        assert instrument.connections == 2


def test_a_second_client_waits_and_is_noticed() -> None:
    with serving() as (instrument, first):
        first.channels([0], [0.5])
        first.measure([[0.5] * 3])
        assert instrument.overlaps == 0
        with connected(instrument, timeout=0.2) as second:
            second.send("*IDN?")
            with pytest.raises(TimeoutError):
                second.read(1)
            first.measure([[0.5] * 3])
            assert instrument.overlaps == 1
            assert instrument.connections == 1
            first.socket.close()
            second.socket.settimeout(5)
            assert second.read(5) == b"skpat"
        assert instrument.connections == 2


def test_a_client_that_goes_in_the_middle_of_a_block_harms_nobody() -> None:
    with serving() as (instrument, line):
        line.socket.sendall(b"MEAS? #3320" + b"\n" * 50)
        line.socket.close()
        with connected(instrument) as again:
            assert again.ask("SYST:CHAN?") == "4,4"
        assert instrument.measurements == 0


def test_only_this_computer_can_connect() -> None:
    with SimulatedInstrument(identity()) as instrument:
        assert instrument._listener.getsockname()[0] == "127.0.0.1"


def test_stopping_hangs_up_and_it_can_be_started_again_on_its_port() -> None:
    instrument = SimulatedInstrument(identity(), faults={"late": 1.0}, late_seconds=60.0).start()
    try:
        with connected(instrument) as line:
            line.send("CHAN", [], "<i4")
            line.send("MEAS?", [[0.5] * 4])
            while not instrument.measurements:
                time.sleep(0.01)
            begun = time.monotonic()
            instrument.stop()  # in the middle of being late
            assert time.monotonic() - begun < 5
            with contextlib.suppress(ConnectionError):
                assert line.socket.recv(1) == b""
        address = instrument.address
        instrument.start()
        assert instrument.address == address
        with connected(instrument) as line:
            assert line.ask("SYST:CHAN?") == "4,4"
    finally:
        instrument.stop()


def test_hanging_up_lets_the_next_client_in() -> None:
    with serving() as (instrument, line):
        assert line.ask("SYST:CHAN?") == "4,4"
        instrument.hang_up()
        assert line.socket.recv(1) == b""
        with connected(instrument) as again:
            assert again.ask("SYST:CHAN?") == "4,4"


# ---- faults ----


def test_each_kind_of_fault_in_turn() -> None:
    kinds = ["nan", "saturated", "late", "truncated", "mute", "closed", None]
    with serving(schedule=kinds, saturation=99.0, late_seconds=0.3) as (instrument, line):
        rows = [[0.5] * 4] * 5
        line.send("CHAN", [], "<i4")
        assert np.isnan(line.measure(rows)).sum() == 1
        answer = line.measure(rows)
        assert (answer == 99.0).sum() == 1
        assert (answer == 0.5).sum() == 19
        begun = time.monotonic()
        assert (line.measure(rows) == 0.5).all()
        assert time.monotonic() - begun >= 0.3
        line.send("MEAS?", rows)
        assert line.read(5 + 80)[:5] == b"#3160"  # the header and half of the 160 bytes
        line.send("MEAS?", rows)  # mute
        assert line.ask("SYST:CHAN?") == "4,4"  # nothing else was on the line
        line.send("MEAS?", rows)
        with pytest.raises(EOFError):
            line.read(1)
        with connected(instrument) as again:
            again.send("CHAN", [], "<i4")
            for _ in range(3):  # the schedule is used up
                assert (again.measure(rows) == 0.5).all()
        assert instrument.injected == dict.fromkeys(kinds[:-1], 1)
        assert instrument.measurements == 9  # measured, whether or not the answer arrived


def faults_of(**kwargs) -> list[bool]:
    """Which of 200 measurements had a NaN."""
    with serving(**kwargs) as (_, line):
        line.send("CHAN", [], "<i4")
        return [bool(np.isnan(line.measure([[0.5] * 4])).any()) for _ in range(200)]


def test_probabilities_seeds_and_the_most_faults() -> None:
    found = faults_of(faults={"nan": 0.3, "saturated": 0.2}, saturation=9.0, seed=3)
    assert 35 < sum(found) < 85
    assert found == faults_of(faults={"nan": 0.3, "saturated": 0.2}, saturation=9.0, seed=3)
    assert found != faults_of(faults={"nan": 0.3, "saturated": 0.2}, saturation=9.0, seed=4)
    assert faults_of(faults={"nan": 1.0}, max_faults=7) == [True] * 7 + [False] * 193
    assert not any(faults_of())


def test_drift_counts_rows() -> None:
    with serving(faults={"drift": 0.01}) as (instrument, line):
        line.send("CHAN", [], "<i4")
        np.testing.assert_allclose(line.measure([[0.5] * 4] * 2)[:, 0], [0.5, 0.505])
        np.testing.assert_allclose(line.measure([[0.5] * 4] * 2)[:, 0], [0.51, 0.515])
        assert not instrument.injected


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"faults": {"rust": 0.1}}, r"'faults' must give probabilities of late, .* Got 0.1 for 'rust'"),
        ({"faults": {"nan": 1.5}}, r"'faults' must give probabilities of .* Got 1.5 for 'nan'"),
        ({"faults": {"nan": 0.6, "mute": 0.6}}, r"'faults' must add up to at most 1. Got 1.2"),
        ({"faults": {"saturated": 0.6}}, r"'saturation' must be given: IdentityDevice states no output_range"),
    ],
)
def test_faults_that_make_no_sense(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SimulatedInstrument(identity(), **kwargs)


def test_saturation_is_the_upper_end_of_the_range() -> None:
    device = identity()
    device.output_range = (-5.0, 5.0)
    with serving(device, schedule=["saturated"]) as (_, line):
        line.send("CHAN", [], "<i4")
        assert (line.measure([[0.5] * 4]) == 5.0).sum() == 1


# ---- command line ----


def test_the_command_line_serves_until_ctrl_c() -> None:
    options = ["--device", "skpat.devices.identity:IdentityDevice", "--fault", "nan=1.0", "--max-faults", "1"]
    parameters = ["n_controls=2", "n_outputs=1", "bounds=[[0, 1], [0, 1]]"]
    options += [text for parameter in parameters for text in ("--set", parameter)]
    command = [sys.executable, "-m", "skpat.lab.simulator", *options]
    command = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *command]  # as a shell starts what runs in the background
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            address = process.stdout.readline().strip().split("::")
            assert address[:2] == ["TCPIP", "127.0.0.1"]
            assert address[3:] == ["SOCKET"]
            with socket.create_connection(("127.0.0.1", int(address[2])), timeout=10) as line:
                line.sendall(b"CHAN #10\nMEAS? " + encode_block([[0.25, 0.75]] * 2) + b"\nSYST:CHAN?\n")
                answer = b""
                while not answer.endswith(b"2,1\n"):
                    answer += line.recv(100)
            found = np.frombuffer(answer[4:20])
            assert sorted(found)[0] == 0.5
            assert np.isnan(found).sum() == 1
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 0
            assert process.stdout.read() == "1 connections, 2 rows measured, faults: 1 nan\n"
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "Perpetuum"], "Perpetuum"),
        (["--device", "nowhere:Perpetuum"], "nowhere"),
        (["--set", "colour=red"], "colour"),
        (["--set", "n_controls"], "An option must be name=value. Got 'n_controls'"),
        (["--fault", "rust=0.1"], "'faults' must give probabilities"),
        (["--fault", "late=often"], "Got 'often' for 'late'"),
        (["--fault", "late=None"], "Got None for 'late'"),
        (["--fault", "drift=slow"], "'faults' must give a finite rate of drift. Got 'slow'"),
        (["--late-seconds", "nan"], "'late_seconds' must be a number of at least 0. Got nan"),
        (["--late-seconds", "-1"], "'late_seconds' must be a number of at least 0. Got -1.0"),
        (["--saturation", "nan"], "'saturation' must be a number, or None. Got nan"),
        (["--max-faults", "-1"], "'max_faults' must be at least 0, or None. Got -1"),
        (["--port", "99999"], "'port' must be an int from 0 to 65,535. Got 99999"),
    ],
)
def test_wrong_options_are_told(options: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(options)
    assert message in capsys.readouterr().err


def test_a_port_that_is_taken_is_told(capsys: pytest.CaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(SystemExit, match="2"):
        main(["--port", str(other.getsockname()[1])])
    assert "'port' must be a free one. Got " in capsys.readouterr().err
