"""Against a real soft IOC on the loopback address: blocks, restarts, stale answers, refusals."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.base import clone

from skpat import ControlBatch
from skpat.exceptions import DeviceConnectionError, DeviceContractError, DeviceIdentityError, DeviceOutputError
from skpat.lab import Session
from skpat.lab.epics_device import EpicsDevice, _Line

ROWS = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
ANSWERS = np.array([[321.0, 2.0], [654.0, 20.0]])


class Ioc:
    """The soft IOC of epics_ioc.py in a process of its own."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = str(free.getsockname()[1])
        self.process: subprocess.Popen | None = None

    def start(self, identity: str = "plate 1") -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("epics_ioc.py")), self.port, identity],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def write(self, name: str, value: object) -> None:
        from caproto.sync.client import write

        write(f"TEST:{name}", value, notify=True, timeout=5, repeater=False)

    def history(self) -> list[str]:
        from caproto.sync.client import read

        data = read("TEST:HISTORY", timeout=5, repeater=False).data
        return bytes(bytearray(data)).split(b"\0")[0].decode().split()


@pytest.fixture(scope="module")
def _shared_ioc() -> Iterator[Ioc]:
    pytest.importorskip("caproto", reason="EpicsDevice needs caproto")
    ioc = Ioc()
    ioc.start()
    yield ioc
    ioc.kill()


def _look_here(ioc: Ioc, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("SKPAT_LOCK_DIR", str(tmp_path))
    monkeypatch.setenv("EPICS_CA_ADDR_LIST", "127.0.0.1")
    monkeypatch.setenv("EPICS_CA_AUTO_ADDR_LIST", "NO")
    monkeypatch.setenv("EPICS_CA_SERVER_PORT", ioc.port)


@pytest.fixture
def ioc(_shared_ioc, monkeypatch, tmp_path) -> Ioc:
    """One that runs for all tests of the module."""
    _look_here(_shared_ioc, monkeypatch, tmp_path)
    return _shared_ioc


@pytest.fixture
def own_ioc(monkeypatch, tmp_path) -> Iterator[Ioc]:
    """One that this test may kill."""
    pytest.importorskip("caproto", reason="EpicsDevice needs caproto")
    own = Ioc()
    _look_here(own, monkeypatch, tmp_path)
    own.start()
    yield own
    own.kill()


def plate(**about) -> EpicsDevice:
    about = {"n_controls": 3, "n_outputs": 2, "bounds": (0, 9), "max_batch": 4, "timeout": 10.0} | about
    return EpicsDevice("TEST:", **about)


# ---- a specification ----


def test_readings_of_a_record_in_invalid_alarm_are_no_answer(ioc) -> None:
    with Session(plate()) as session:
        np.testing.assert_allclose(session.measure(ROWS), ANSWERS)
        ioc.write("FAULT", "invalid")
        np.testing.assert_allclose(session.measure(ROWS[::-1]), ANSWERS[::-1])  # asked once more
        assert session.ledger.faults["connection"] == 1
        assert session.ledger.total == 6
    ioc.write("FAULT", "invalid")
    with (
        Session(plate(max_retries=0)) as session,
        pytest.raises(DeviceConnectionError, match=r"Got an alarm of severity INVALID \(READ\)\. Check the instrument"),
    ):
        session.measure(ROWS)


def test_nothing_is_opened_by_copies_and_descriptions() -> None:
    device = plate(identity_pv="WHO")
    for same in (clone(device), copy.deepcopy(device), pickle.loads(pickle.dumps(device))):
        assert repr(same) == repr(device)
        assert same.address == "epics:TEST:TRIGGER"
        assert "TEST:" in same._repr_html_()
        with pytest.raises(DeviceConnectionError, match="must be open before it is used"):
            same.measure(ROWS)


def test_importing_it_needs_no_caproto() -> None:
    program = (
        "import sys\n"
        "sys.modules['caproto'] = None\n"
        "from skpat.lab.epics_device import EpicsDevice\n"
        "device = EpicsDevice(n_controls=1, n_outputs=1, bounds=(0, 1))\n"
        "try:\n"
        "    device.open()\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert said == 'EpicsDevice needs caproto, which is not installed. Install it with: pip install "skpat[epics]"\n'


def test_shared_values_and_their_channels_come_together() -> None:
    with pytest.raises(DeviceContractError, match=r"'shared_pv' and 'channels_pv' .* both be names, or both None"):
        plate(channels_pv=None).open()


@pytest.mark.parametrize("same", [{"shared_pv": "ROWS"}, {"safe_pv": "TRIGGER"}, {"channels_pv": "SHARED"}])
def test_what_is_written_has_a_name_of_its_own(same: dict[str, str]) -> None:
    with pytest.raises(
        DeviceContractError, match=rf"must be different names: .* Got '{next(iter(same.values()))}' twice\."
    ):
        plate(**same).open()


# ---- measuring ----


def test_blocks_of_rows(ioc) -> None:
    rows = np.arange(30.0).reshape(10, 3) % 9
    with Session(plate()) as session:
        outputs = session.measure(rows)
    np.testing.assert_array_equal(outputs, np.column_stack([rows @ [1, 10, 100], rows[:, 0] * rows[:, 1]]))


def test_shared_channels_are_sent_once(ioc) -> None:
    batch = ControlBatch(np.array([[3.0], [6.0]]), np.array([2]), np.array([2.0, 1.0]), np.array([1, 0]))
    before = len(ioc.history())
    with Session(plate()) as session:
        for _ in range(3):
            np.testing.assert_array_equal(session.measure(batch), [[321, 2], [621, 2]])
    assert ioc.history()[before:] == ["shared", "trigger", "trigger", "trigger"]


def test_rows_go_out_in_ascending_order_of_channels(ioc) -> None:
    batch = ControlBatch(ROWS[:, [2, 0]], np.array([2, 0]), np.array([2.0]), np.array([1]))
    device = plate()
    device.open()  # without a session, so that the driver must send the shared channels itself
    np.testing.assert_array_equal(device.measure(batch), [[321, 2], [624, 8]])
    np.testing.assert_array_equal(device.measure(ROWS), ANSWERS)  # after a batch that shared a channel
    device.close()


def test_whole_rows_where_nothing_is_shared(ioc) -> None:
    batch = ControlBatch(ROWS[:, :2], np.array([0, 1]), np.array([3.0]), np.array([2]))
    with Session(plate(shared_pv=None, channels_pv=None)) as session:
        ioc.write("CHANNELS", [-1])
        np.testing.assert_array_equal(session.measure(batch), [[321, 2], [354, 20]])


def test_who_answers_and_the_safe_state(ioc) -> None:
    with Session(plate(identity_pv="WHO", safe_pv="SAFE")) as session:
        session.measure(ROWS)
        assert session.device.identify() == "plate 1"
    assert ioc.history()[-1] == "safe=1"


def test_without_a_session_shared_channels_are_sent_when_they_change_and_after_the_safe_state(ioc) -> None:
    values, before = np.array([2.0, 1.0]), len(ioc.history())
    batch = ControlBatch(np.array([[3.0]]), np.array([2]), values, np.array([1, 0]))
    device = plate(safe_pv="SAFE")
    device.open()
    np.testing.assert_array_equal(device.measure(batch), [[321, 2]])
    values[0] = 4.0  # the user's own array, changed in place
    np.testing.assert_array_equal(device.measure(batch), [[341, 4]])
    device.safe_state()
    np.testing.assert_array_equal(device.measure(batch), [[341, 4]])
    device.close()
    assert ioc.history()[before:] == ["shared", "trigger", "shared", "trigger", "safe=1", "shared", "trigger"]


def test_an_identity_of_many_characters(ioc) -> None:
    device = plate(identity_pv="WHOLONG")
    device.open()
    assert device.identify() == "plate 1" * 20
    device.close()


def test_an_open_connection_stays_out_of_copies_and_pickles(ioc) -> None:
    device = plate()
    device.open()
    device.measure(ROWS)
    for same in (clone(device), copy.copy(device), copy.deepcopy(device), pickle.loads(pickle.dumps(device))):
        assert vars(same).keys() == vars(plate()).keys()
    np.testing.assert_array_equal(device.measure(ROWS), ANSWERS)
    device.close()


def test_a_new_connection_counts_from_elsewhere(ioc) -> None:
    device, numbers = plate(), set()
    for _ in range(3):
        device.open()
        numbers.add(device._number)
        device.close()
    assert len(numbers) == 3  # a late answer to an earlier connection must have another number


def test_no_thread_and_no_connection_is_left(ioc) -> None:
    threads = threading.active_count()
    files = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(3):
        device = plate()
        device.open()
        device.measure(ROWS)
        device.close()
        device.close()
    assert threading.active_count() == threads
    assert not files or len(os.listdir("/proc/self/fd")) == files


# ---- faults ----


def test_an_answer_to_the_batch_before_is_never_taken(ioc) -> None:
    with Session(plate()) as session:
        session.measure(ROWS)
        ioc.write("FAULT", "late")  # completes with the old number and the old readings still in place
        np.testing.assert_array_equal(session.measure(ROWS[::-1]), ANSWERS[::-1])
        assert session.ledger.shots["prediction"] == 4  # it waited, nothing was repeated


def test_another_client_that_triggers_is_noticed(ioc) -> None:
    device = plate()
    device.open()
    ioc.write("FAULT", "shared")
    with pytest.raises(DeviceConnectionError, match=r"TEST:DONE must hold \d+.* Keep other clients from triggering"):
        device.measure(ROWS)
    device.close()


def test_an_answer_that_never_comes(ioc) -> None:
    device = plate()
    device.open()
    device.timeout = 0.3  # from now on: the IOC may take its time to start
    ioc.write("FAULT", "silent")
    with pytest.raises(
        DeviceConnectionError, match=r"TEST:DONE must become \d+, the number of this batch, within 0.3 s"
    ):
        device.measure(ROWS)
    device.close()


def test_a_lost_reading_is_told(ioc) -> None:
    device = plate()
    device.open()
    ioc.write("FAULT", "short")
    with pytest.raises(DeviceOutputError, match=r"TEST:OUTPUTS must hold n_rows \* n_outputs = 4 readings. Got 3"):
        device.measure(ROWS)
    device.close()


def test_a_lost_reading_is_measured_again_by_a_session(ioc) -> None:
    with Session(plate()) as session:
        expected = session.measure(ROWS)
        ioc.write("FAULT", "short")
        np.testing.assert_allclose(session.measure(ROWS), expected)
    assert session.ledger.faults["shape"] == 1


def test_a_refusal_ends_a_session_that_knows_the_shots(ioc) -> None:
    with Session(plate()) as session:
        session.measure(ROWS)
        ioc.write("FAULT", "refuse")
        with pytest.raises(DeviceOutputError, match="accept what skpat asks of TEST:TRIGGER") as caught:
            session.measure(ROWS)
    assert caught.value.shots_done["prediction"] == 2 * len(ROWS)


def test_a_refusal_is_no_lost_connection(ioc) -> None:
    device = plate()
    device.open()
    ioc.write("FAULT", "refuse")
    with pytest.raises(DeviceOutputError, match=r"accept what skpat asks of TEST:TRIGGER. Got ECA_PUTFAIL .*saturated"):
        device.measure(ROWS)
    device.close()


@pytest.mark.parametrize(
    ("status", "error"), [("ECA_PUTFAIL", DeviceOutputError), ("ECA_DISCONN", DeviceConnectionError)]
)
def test_an_answer_whose_status_is_not_normal_is_none(status: str, error: type) -> None:
    caproto = pytest.importorskip("caproto", reason="EpicsDevice needs caproto")
    line = _Line(1.0)
    line._channels["ROWS"] = SimpleNamespace(
        native_data_count=3, circuit=None, write=lambda *_, **__: None, read=lambda **_: None
    )
    line._ask = lambda *_: SimpleNamespace(status=caproto.CAStatus[status].value, data=[1.0])  # type: ignore[method-assign]
    for ask in (lambda: line.write("ROWS", [1.0]), lambda: line.read("ROWS")):
        with pytest.raises(error, match=rf"ROWS\. Got {status} \("):
            ask()


def test_more_rows_than_the_waveform_holds(ioc) -> None:
    device = plate()
    device.open()
    with pytest.raises(
        DeviceContractError, match=r"'rows_pv' .* room for the 15 values of 5 rows. Got room for 12.*max_batch=4"
    ):
        device.measure(np.ones((5, 3)))
    device.close()


def test_a_name_that_nobody_answers(ioc) -> None:
    with pytest.raises(DeviceConnectionError, match=r"The IOC must answer for TEST:NOBODY. Got CaprotoTimeoutError"):
        plate(rows_pv="NOBODY", timeout=0.3).open()


def test_after_a_restart_the_shared_channels_are_sent_again(own_ioc) -> None:
    batch = ControlBatch(ROWS[:, :1], np.array([0]), np.array([2.0, 3.0]), np.array([1, 2]))
    expected = [[321, 2], [324, 8]]
    with Session(plate(identity_pv="WHO")) as session:
        np.testing.assert_array_equal(session.measure(batch), expected)
        own_ioc.kill()
        own_ioc.start()  # its controls are zero now; a client that reconnects by itself would read 1 and 4
        np.testing.assert_array_equal(session.measure(batch), expected)
        assert session.ledger.shots["prediction"] == 6  # one batch was repeated
        assert own_ioc.history() == ["shared", "trigger"]
        own_ioc.kill()
        own_ioc.start("plate 2")
        with pytest.raises(DeviceIdentityError, match=r"plate 1.*plate 2"):
            session.measure(batch)


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="this system cannot stop a process for a while")
def test_a_server_that_hangs_is_a_connection_error(own_ioc) -> None:
    device = plate()
    device.open()
    device._line._timeout = 0.3
    own_ioc.process.send_signal(signal.SIGSTOP)
    with pytest.raises(DeviceConnectionError, match=r"The IOC must answer for TEST:CHANNELS. Got TimeoutError"):
        device.measure(ROWS)
    device.close()


def test_a_dead_server_is_a_connection_error(own_ioc) -> None:
    with Session(plate(max_retries=1)) as session:
        session.measure(ROWS)
        own_ioc.kill()
        session.device.timeout = 0.3
        with pytest.raises(DeviceConnectionError, match="Tried 2 times") as caught:
            session.measure(ROWS)
        assert caught.value.shots_done["prediction"] == 4  # the second time nobody was there to be asked
