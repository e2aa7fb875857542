"""VisaDevice with the real PyVISA, against a simulated instrument on the loopback address."""

from __future__ import annotations

import builtins
import contextlib
import copy
import pickle
import socket
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from skpat import ControlBatch
from skpat.devices import IdentityDevice
from skpat.exceptions import ControlBoundsError, DeviceConnectionError
from skpat.lab import Session, visa_line
from skpat.lab.scpi import decode_block, encode_block
from skpat.lab.simulator import SimulatedInstrument
from skpat.lab.visa_device import VisaDevice, _empty_error_queue

pyvisa = pytest.importorskip("pyvisa", reason="PyVISA is not installed")
pytest.importorskip("pyvisa_py", reason="pyvisa-py is not installed")

TIMEOUT = 0.3
NOWHERE = "TCPIP::127.0.0.1::1::SOCKET"


def identity(n_channels: int = 4) -> IdentityDevice:
    """Outputs are controls, between 0 and 1."""
    return IdentityDevice(n_channels, n_channels, [[0.0, 1.0]] * n_channels)


def specified(address: str, n_channels: int = 4, **kwargs) -> VisaDevice:
    about = {"n_controls": n_channels, "n_outputs": n_channels, "bounds": (0, 1), "timeout": TIMEOUT}
    return VisaDevice(address, **(about | kwargs))


@contextlib.contextmanager
def attached(
    n_channels: int = 4, device: dict | None = None, **kwargs
) -> Iterator[tuple[VisaDevice, SimulatedInstrument]]:
    """An open VisaDevice, and the instrument that it speaks to."""
    with SimulatedInstrument(identity(n_channels), record=True, **kwargs) as instrument:
        visa = specified(instrument.address, n_channels, **(device or {}))
        visa.open()
        try:
            yield visa, instrument
        finally:
            visa.close()


@pytest.fixture(params=["socket", "visa"])
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Bytes go over the socket of pyvisa-py, or through VISA's own calls as they do with GPIB, USB and other back ends."""
    if request.param == "visa":
        monkeypatch.setattr(visa_line, "_socket_of", lambda resource: None)
    return request.param


def rows(n_rows: int, n_columns: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((n_rows, n_columns))


def split(varying: np.ndarray, varying_index: list[int], shared: list[float], shared_index: list[int]) -> ControlBatch:
    return ControlBatch(varying, np.array(varying_index, int), np.array(shared), np.array(shared_index, int))


# ---- measuring ----


def test_it_measures(route: str) -> None:
    with attached() as (visa, instrument):
        assert visa.identify().startswith("skpat,IdentityDevice,0001,")
        assert visa.reported_errors == ()
        for batch in (
            split(rows(5, 2), [1, 3], [0.2, 0.4], [0, 2]),
            split(rows(5, 2), [3, 1], [0.2, 0.4], [2, 0]),
            split(rows(2, 2), [1, 3], [0.2, 0.4], [2, 0]),
            split(rows(2, 2), [1, 3], [0.3, 0.4], [2, 0]),
            split(rows(1, 3), [3, 0, 2], [0.5], [1]),
            ControlBatch.from_dense(rows(3)),
            split(np.empty((3, 0)), [], [0.1, 0.2, 0.3, 0.4], [3, 0, 2, 1]),
        ):
            np.testing.assert_array_equal(visa.measure(batch), batch.dense())
        np.testing.assert_array_equal(visa.measure(rows(3, seed=1)), rows(3, seed=1))
        assert visa.measure(np.empty((0, 4))).shape == (0, 4)
        assert not instrument.errors
        assert (instrument.rows, instrument.connections, instrument.violations) == (24, 1, 0)


class Sent:
    """The commands that a line was given, in place of the numbers."""

    def __init__(self, visa: VisaDevice, monkeypatch: pytest.MonkeyPatch):
        self.commands: list[str] = []
        send = visa._line._send
        monkeypatch.setattr(
            visa._line, "_send", lambda command, *block: (self.commands.append(command), send(command, *block))
        )

    def __call__(self) -> list[str]:
        found, self.commands[:] = list(self.commands), []
        return found


def test_only_what_has_changed_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    with attached() as (visa, _):
        sent = Sent(visa, monkeypatch)
        batch = split(rows(5, 2), [1, 3], [0.2, 0.4], [0, 2])
        visa.set_shared(batch)
        assert sent() == ["CHAN", "CTRL"]
        visa.measure(batch)
        visa.measure(split(rows(9, 2), [1, 3], [0.2, 0.4], [0, 2]))
        assert sent() == ["MEAS?", "MEAS?"]
        visa.measure(split(rows(9, 2), [3, 1], [0.2, 0.4], [0, 2]))
        visa.measure(split(rows(9, 2), [3, 1], [0.2, 0.4], [0, 2]))
        assert sent() == ["VARY", "MEAS?", "MEAS?"]
        changed = split(rows(9, 2), [3, 1], [0.2, 0.5], [0, 2])
        visa.set_shared(changed)
        np.testing.assert_array_equal(visa.measure(changed), changed.dense())
        assert sent() == ["CTRL", "MEAS?"]
        changed.shared[0] = 0.9  # in place
        np.testing.assert_array_equal(visa.measure(changed), changed.dense())
        assert sent() == ["CTRL", "MEAS?"]
        visa.measure(batch)
        assert sent() == ["CTRL", "VARY", "MEAS?"]
        visa.measure(rows(2))
        visa.measure(rows(2))
        assert sent() == ["CHAN", "MEAS?", "MEAS?"]


@pytest.mark.parametrize(("datatype", "big_endian"), [("d", False), ("d", True), ("f", False), ("f", True)])
def test_data_types_and_byte_orders(datatype: str, big_endian: bool) -> None:
    line = {"datatype": datatype, "big_endian": big_endian}
    with attached(device=line, **line) as (visa, _):
        batch = split(rows(5, 2), [3, 1], [0.2, 0.4], [2, 0])
        found = visa.measure(batch)
        assert found.dtype == np.dtype(datatype)  # in the byte order of this computer
        assert found.flags.writeable
        np.testing.assert_array_equal(found, batch.dense().astype(datatype))


def test_rounding_to_four_bytes_stays_within_the_bounds() -> None:
    low, high = -0.1, 0.1
    assert float(np.float32(low)) < low
    assert float(np.float32(high)) > high
    device = IdentityDevice(2, 2, [[low, high]] * 2)
    with SimulatedInstrument(device, datatype="f") as instrument:
        visa = specified(instrument.address, 2, bounds=(low, high), datatype="f")
        with contextlib.closing(visa):
            visa.open()
            found = visa.measure(split(np.array([[low], [high], [0.0]]), [1], [high], [0]))
            np.testing.assert_allclose(found, [[high, low], [high, high], [high, 0.0]], rtol=1e-6)
            assert instrument.violations == 0
            with pytest.raises(DeviceConnectionError):
                visa.measure(np.array([[0.1001, 0.0]]))  # what was illegal is not made legal
            assert instrument.violations == 1


@given(st.permutations(range(4)), st.integers(1, 4))
@settings(max_examples=30)
def test_rounding_obeys_the_bounds_of_each_channel_however_a_batch_is_split(order: list[int], n_varying: int) -> None:
    bounds = np.array([[-0.1, 0.1], [0.3, 0.7], [-1.3, -1.1], [2.2, 2.6]])
    visa = specified(NOWHERE, bounds=bounds, datatype="f")
    varying, shared = np.array(order[:n_varying]), np.array(order[n_varying:], dtype=int)
    for ends in (bounds.T, bounds.T[::-1]):
        for values, channels in ((ends[:, varying], varying), (ends[0, shared], shared)):
            sent = decode_block(visa._encode(values, channels), "<f4").reshape(values.shape).astype(np.float64)
            assert ((sent >= bounds[channels, 0]) & (sent <= bounds[channels, 1])).all()
            np.testing.assert_allclose(sent, values, rtol=1e-6)


@pytest.mark.parametrize(("low", "high"), [(1_000_000_001.0, 1_000_000_010.0), (0.1, 0.1 + 1e-9)])
def test_bounds_that_four_bytes_cannot_tell_apart_are_refused_before_anything_is_sent(low: float, high: float) -> None:
    setting = np.full((1, 2), (low + high) / 2)
    with Session(specified(NOWHERE, 2, bounds=(low, high), datatype="f")) as session:
        with pytest.raises(ControlBoundsError, match=r"must have room for numbers of 4 bytes, .* Use datatype='d'"):
            session.measure(setting)
        assert session.ledger.total == 0


def test_a_line_that_never_ends_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def stream() -> None:
            with contextlib.suppress(OSError), server.accept()[0] as line:
                while True:
                    line.sendall(b"+1.0,")
                    time.sleep(0.02)

        thread = threading.Thread(target=stream, daemon=True)
        thread.start()
        address = f"TCPIP::127.0.0.1::{server.getsockname()[1]}::SOCKET"
        device = specified(address, 2, timeout=0.3, max_retries=0)
        begun = time.monotonic()
        with pytest.raises(DeviceConnectionError, match="the line has not ended"), Session(device) as session:
            session.measure(np.zeros((1, 2)))
        assert time.monotonic() - begun < 10
    thread.join(10)


def test_commands_that_an_instrument_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = split(rows(5, 2), [3, 1], [0.2, 0.4], [2, 0])
    for lacking in (
        {"varying_command": None},
        {"shared_command": None},
        {"shared_command": None, "varying_command": None},
    ):
        with attached(device=lacking) as (visa, _):
            np.testing.assert_array_equal(visa.measure(batch), batch.dense())
            visa.set_shared(batch)
            np.testing.assert_array_equal(visa.measure(batch), batch.dense())
    with attached(device={"channels_command": None, "identity_command": None, "safe_command": None}) as (
        visa,
        instrument,
    ):
        visa._line.tell("CHAN", encode_block([0, 2], "<i4"))  # in place of an instrument that knows its channels
        np.testing.assert_array_equal(visa.measure(batch), batch.dense())
        assert visa.identify() == ""
        visa.safe_state()
        assert instrument.safe_states == 0
    with attached(device={"error_command": None}) as (visa, _):
        sent = Sent(visa, monkeypatch)
        np.testing.assert_array_equal(visa.measure(rows(2)), rows(2))
        assert sent() == ["CHAN", "MEAS?"]


def test_other_commands_and_terminations() -> None:
    names = {
        "shared_command": " ctrl ",
        "measure_command": "meas?",
        "write_termination": "\n",
        "identity_command": "SYST:CHAN?",
    }
    with attached(device=names) as (visa, _):
        assert visa.identify() == "4,4"
        np.testing.assert_array_equal(visa.measure(rows(2)), rows(2))


def test_big_blocks_are_not_held_back() -> None:
    with attached(32) as (visa, _):
        assert visa._line._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        controls = rows(256, 32)  # 64 KiB there, 64 KiB back
        seconds = []
        for _ in range(15):
            begun = time.perf_counter()
            np.testing.assert_array_equal(visa.measure(controls), controls)
            seconds.append(time.perf_counter() - begun)
        assert np.median(seconds) < 0.02  # a stall takes 0.04


def test_a_block_larger_than_every_buffer() -> None:
    controls = rows(200_000)
    with attached(device={"timeout": 10.0}) as (visa, _):
        np.testing.assert_array_equal(visa.measure(controls), controls)


# ---- faults ----


FAULTS = {
    "mute": r"must answer with a block of 96 bytes within 0.3 s of 'MEAS\?'. Got 0 bytes, then TimeoutError.* Open the line",
    "late": r"Got 0 bytes, then TimeoutError",
    "truncated": r"Got 52 bytes, then TimeoutError",
    "closed": r"Got 0 bytes, then ConnectionResetError: the instrument closed the connection",
}


@pytest.mark.parametrize("kind", FAULTS)
def test_every_fault_is_told_in_time_and_never_answered_by_the_next_answer(kind: str, route: str) -> None:
    with attached(schedule=[None, kind], late_seconds=TIMEOUT + 0.2) as (visa, instrument):
        shared = [0.25], [2]
        first, second, third = (split(rows(3, 3, seed), [0, 1, 3], *shared) for seed in range(3))
        np.testing.assert_array_equal(visa.measure(first), first.dense())
        begun = time.monotonic()
        message = FAULTS[kind] if route == "socket" else r"within 0.3 s of 'MEAS\?'. Got \d+ bytes, then VisaIOError"
        with pytest.raises(DeviceConnectionError, match=message) as caught:
            visa.measure(second)
        assert time.monotonic() - begun < TIMEOUT + 0.4
        assert instrument.address in str(caught.value)
        time.sleep(0.3)  # the late answer is there now
        for batch in (second, third):
            with pytest.raises(
                DeviceConnectionError, match=r"must be in step .* Got no end of 'MEAS\?' .* device.open"
            ):
                visa.measure(batch)
        with pytest.raises(DeviceConnectionError, match="must be in step"):
            visa.identify()
        visa.close()
        visa.open()
        assert visa.identify().startswith("skpat,IdentityDevice")
        for batch in (second, third):  # the shared controls are sent again by themselves
            np.testing.assert_array_equal(visa.measure(batch), batch.dense())
        assert len(instrument.received) == 4
        assert instrument.overlaps == 0


@pytest.mark.parametrize(("kind", "is_wrong"), [("nan", np.isnan), ("saturated", lambda values: values == 9.0)])
def test_bad_readings_are_handed_on(kind: str, is_wrong) -> None:
    with attached(schedule=[kind], saturation=9.0) as (visa, _):
        assert is_wrong(visa.measure(rows(3))).sum() == 1
        assert is_wrong(visa.measure(rows(3))).sum() == 0


def test_a_refused_value_tells_its_cause_after_reopening() -> None:
    with attached() as (visa, instrument):
        with pytest.raises(DeviceConnectionError, match=r"Got 0 bytes.* a refused value looks like this too") as caught:
            visa.measure(rows(2) + 1)
        assert "-222" not in str(caught.value)
        visa.open()
        assert visa.reported_errors == ('-222,"Data out of range"',)
        assert not instrument.errors
        with pytest.raises(
            DeviceConnectionError, match=r'opened the instrument reported -222,"Data out of range"\. Open'
        ):
            visa.measure(rows(2) + 1)
        visa.open()
        np.testing.assert_array_equal(visa.measure(rows(2)), rows(2))


def test_shared_controls_are_unset_by_a_reconnection() -> None:
    with attached() as (visa, instrument):
        batch = split(rows(5, 2), [3, 1], [0.2, 0.4], [2, 0])
        visa.measure(batch)
        visa.open()
        visa._line.told.update(shared=batch.shared, shared_index=batch.shared_index)  # a driver that does not send them
        with pytest.raises(DeviceConnectionError):
            visa.measure(batch)
        visa.open()
        assert visa.reported_errors[-1] == '-221,"Settings conflict"'
        np.testing.assert_array_equal(visa.measure(batch), batch.dense())
        assert len(instrument.received) == 2


def test_an_interruption_leaves_no_answer_for_the_next_question(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args):
        raise KeyboardInterrupt

    with attached() as (visa, _):
        with monkeypatch.context() as patch:
            patch.setattr(visa._line, "_receive_block", interrupted)
            with pytest.raises(KeyboardInterrupt):
                visa.measure(rows(3, seed=0))
        with pytest.raises(DeviceConnectionError, match="must be in step"):
            visa.measure(rows(3, seed=1))
        visa.open()
        np.testing.assert_array_equal(visa.measure(rows(3, seed=1)), rows(3, seed=1))


@contextlib.contextmanager
def answering(visa: VisaDevice, answer: bytes) -> Iterator[socket.socket]:
    """The open line ends at a peer that has already said something."""
    here, there = socket.socketpair()
    here.settimeout(visa.timeout)
    with here, there, pytest.MonkeyPatch.context() as patch:
        patch.setattr(visa._line, "_socket", here)
        there.sendall(answer)
        yield there


GOOD = encode_block(np.arange(8.0)) + b"\n"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"ERROR\n", r"Got 6 bytes, then ValueError: A block must begin with '#'.* Got b'ERROR"),
        (b"#0" + GOOD[4:], r"A block must begin with '#'"),
        (encode_block(np.arange(9.0)) + b"\n", r"then ValueError: a block of 72 bytes"),
        (encode_block(np.arange(7.0)) + b"\n", r"then ValueError: a block of 56 bytes"),
        (GOOD[:-1] + b";", r"Got 69 bytes, then ValueError: a block that goes on with b';'"),
        (GOOD[:-1], r"Got 68 bytes, then TimeoutError"),
        (b"#9", r"Got 2 bytes, then TimeoutError"),
    ],
)
def test_malformed_answers(answer: bytes, message: str) -> None:
    with attached() as (visa, _), answering(visa, answer), pytest.raises(DeviceConnectionError, match=message):
        visa.measure(np.zeros((2, 4)))


@pytest.mark.parametrize("header", [b"#264", b"#3064", b"#9000000064"])
def test_leading_zeros_in_a_header(header: bytes) -> None:
    with attached() as (visa, _), answering(visa, header + GOOD[4:]):
        np.testing.assert_array_equal(visa.measure(np.zeros((2, 4))).ravel(), np.arange(8.0))


@pytest.mark.parametrize("header", [b"#264", b"#9000000064"])
def test_an_answer_that_comes_byte_by_byte(header: bytes) -> None:
    with attached() as (visa, _), answering(visa, b"") as peer:

        def trickle() -> None:
            for byte in header + GOOD[4:]:
                peer.sendall(bytes([byte]))
                time.sleep(0.001)

        thread = threading.Thread(target=trickle)
        thread.start()
        np.testing.assert_array_equal(visa.measure(np.zeros((2, 4))).ravel(), np.arange(8.0))
        thread.join()


def test_an_instrument_that_does_not_take_the_rows_is_not_waited_for_for_ever() -> None:
    with attached() as (visa, _), answering(visa, b""):
        begun = time.monotonic()
        with pytest.raises(DeviceConnectionError, match="TimeoutError"):
            visa.measure(rows(300_000))
        assert time.monotonic() - begun < 5


def test_an_error_queue_without_end_is_left_alone() -> None:
    with SimulatedInstrument(identity()) as instrument:
        instrument.errors.extend(["-1"] * 1000)
        visa = specified(instrument.address)
        with contextlib.closing(visa):
            visa.open()
            assert visa.reported_errors == ("-1",) * 64


@pytest.mark.parametrize("end", ['0,"No error"', '+0,"No error"', " 0", ""])
@pytest.mark.parametrize("errors", [(), ('-222,"Data out of range"', '-113,"Undefined header"')])
def test_an_error_queue_is_read_to_its_end(errors: tuple[str, ...], end: str) -> None:
    answers = iter([*errors, end])
    assert _empty_error_queue(SimpleNamespace(ask=lambda command: next(answers)), "SYST:ERR?") == errors


# ---- opening, closing, and not opening ----


def test_nobody_there() -> None:
    with SimulatedInstrument(identity()) as instrument:
        address = instrument.address
    visa = specified(address)
    for _ in range(2):
        with pytest.raises(
            DeviceConnectionError, match=f"at {address} must accept a connection .* was refused. Check the"
        ):
            visa.open()
    visa.close()


def test_nobody_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        visa = specified(f"TCPIP::127.0.0.1::{server.getsockname()[1]}::SOCKET")
        with pytest.raises(
            DeviceConnectionError, match=r"must answer within 0.3 s of 'SYST:ERR\?'. Got 0 bytes"
        ) as caught:
            visa.open()
        assert caught.traceback  # holds on to what was open
        connection, _ = server.accept()
        with connection:
            connection.settimeout(5)
            assert connection.recv(100) == b"SYST:ERR?\n"
            assert connection.recv(100) == b""  # nobody holds the line any more
        with pytest.raises(DeviceConnectionError, match="Got a closed line"):
            visa.measure(rows(2))


def test_no_address() -> None:
    with pytest.raises(DeviceConnectionError, match=r"at nonsense must accept a connection .* VI_ERROR_INV_RSRC_NAME"):
        specified("nonsense").open()


def test_a_closed_device_says_how_to_open_it() -> None:
    visa = specified(NOWHERE)
    batch = ControlBatch.from_dense(rows(2))
    for use in (lambda: visa.measure(batch), lambda: visa.set_shared(batch), visa.identify, visa.safe_state):
        with pytest.raises(
            DeviceConnectionError, match=r"Got a closed line. Use `with Session\(device\).* device.open\(\)"
        ):
            use()
    visa.close()
    assert visa.reported_errors == ()


def test_closing_never_raises() -> None:
    with attached() as (visa, instrument):
        instrument.stop()
        visa.close()
        visa.close()
    with attached() as (visa, _):
        visa._line._resource.close()
        visa.close()


def test_the_safe_state_is_reached_even_out_of_step_and_forgets_the_controls() -> None:
    with attached(schedule=[None, "mute"]) as (visa, instrument):
        batch = split(rows(5, 2), [3, 1], [0.2, 0.4], [2, 0])
        visa.measure(batch)
        visa.safe_state()
        with pytest.raises(DeviceConnectionError):
            visa.measure(batch)
        visa.safe_state()
        with pytest.raises(DeviceConnectionError, match="must be in step"):
            visa.measure(batch)
        visa.open()  # the server has read all that came before
        assert instrument.safe_states == 2
        visa.measure(batch)
        visa.safe_state()
        np.testing.assert_array_equal(visa.measure(batch), batch.dense())


def test_a_safe_state_that_could_not_be_sent_is_told() -> None:
    with attached() as (visa, instrument):
        instrument.stop()
        with contextlib.suppress(DeviceConnectionError):  # the first bytes into a broken line are lost without a word
            visa.safe_state()
            time.sleep(0.05)
        with pytest.raises(DeviceConnectionError, match=r"must take it within 0.3 s of 'SAFE'"):
            visa.safe_state()


@pytest.mark.parametrize("dropped", [False, True])
def test_the_safe_state_reaches_an_instrument_that_has_hung_up_meanwhile(route: str, dropped: bool) -> None:
    with SimulatedInstrument(identity()) as instrument:
        session = Session(specified(instrument.address, safe_command="SAFE"))
        session.measure(rows(3))
        if dropped:
            instrument.hang_up()
        session.close()
        assert instrument.safe_states == 1
        assert instrument.connections == 1 + dropped


def test_what_the_instrument_says_of_the_safe_state_is_told() -> None:
    with attached(device={"safe_command": "SAFE:NOW"}) as (visa, _):  # which the simulated one does not know
        assert visa.reported_errors == ()
        visa.safe_state()
        assert any("SAFE:NOW" in error or "-113" in error for error in visa.reported_errors), visa.reported_errors


def test_nothing_is_opened_copied_or_pickled() -> None:
    with attached() as (visa, instrument):
        visa.measure(rows(2))
        copies = [clone(visa), copy.deepcopy(visa), copy.copy(visa), pickle.loads(pickle.dumps(visa))]
        for copied in copies:
            assert copied.get_params() == visa.get_params()
            assert "_line" not in vars(copied)
            repr(copied)
        visa.measure(rows(2))
        assert instrument.connections == 1
    assert specified(NOWHERE).get_params()["address"] == NOWHERE  # and no error


def test_without_pyvisa_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "pyvisa":
            raise ModuleNotFoundError("No module named 'pyvisa'")
        return real(name, *args, **kwargs)

    visa = specified(NOWHERE)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"needs PyVISA .* No module named 'pyvisa'. .*pip install \"skpat\[visa\]\""):
        visa.open()


def test_without_the_back_end_it_says_how_to_get_it() -> None:
    with pytest.raises(ImportError, match=r"its back end '@nowhere'. Got .*pip install"):
        specified(NOWHERE, backend="@nowhere").open()
