"""How often and how soon a fault is followed by a repeat, and that giving up leaves nothing held and nothing driven."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from skpat import Device
from skpat.exceptions import DeviceBusyError, DeviceConnectionError, DeviceIdentityError
from skpat.lab import Session
from skpat.lab.address_lock import AddressLock
from skpat.lab.answers import IncompleteAnswer

from .bench_device import BenchDevice, events, forget_everybody

CONTROLS = np.linspace(0, 1, 24).reshape(6, 4)


@pytest.fixture(autouse=True)
def _own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SKPAT_LOCK_DIR", str(tmp_path / "locks"))
    monkeypatch.setattr(BenchDevice, "_calls", 0)
    yield
    forget_everybody()


def pauses_of(device: Device, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds waited between the attempts to measure; nobody really waits."""
    pauses: list[float] = []
    monkeypatch.setattr("skpat.lab.session.time", SimpleNamespace(sleep=pauses.append))
    with Session(device) as session:
        session.measure(CONTROLS)
    return pauses


def test_pauses_grow_while_the_line_stays_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = BenchDevice(faults=dict.fromkeys(range(1, 9), "line"), max_retries=8)
    assert pauses_of(broken, monkeypatch) == pytest.approx([0.02, 0.08, 0.32, 1.28, 5.12, 10, 10])


def test_after_an_answer_of_any_kind_pauses_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    faults = dict(enumerate(["line", "late", "late", "nan", "line", "late"], start=1))
    assert pauses_of(BenchDevice(faults=faults, max_retries=6), monkeypatch) == pytest.approx([0.02, 0.08, 0.02])


@pytest.mark.parametrize("policy", ["retry", "mask", "raise"])
def test_a_broken_line_is_tried_again_whatever_becomes_of_bad_readings(policy: str) -> None:
    with Session(BenchDevice(faults={1: "line"}, on_bad_output=policy)) as session:
        np.testing.assert_array_equal(session.measure(CONTROLS), Session(BenchDevice()).measure(CONTROLS))
    assert session.ledger.faults["connection"] == 1


def test_an_answer_of_another_shape_is_never_masked() -> None:
    with Session(BenchDevice(faults={1: "short"}, on_bad_output="mask")) as session:
        outputs = session.measure(CONTROLS)
    np.testing.assert_array_equal(outputs, Session(BenchDevice()).measure(CONTROLS))
    assert session.ledger.faults["shape"] == 1
    assert session.ledger.total == 2 * len(CONTROLS)


def test_a_line_that_breaks_where_there_is_no_way_back_leaves_the_device_safe(tmp_path: Path) -> None:
    device = BenchDevice("bench", tmp_path / "log", faults={1: "line"})
    device.max_change = 0.5
    session = Session(device)
    with pytest.raises(DeviceConnectionError, match="It was not repeated: the way back"):
        session.measure(CONTROLS)
    assert [event[3] for event in events(tmp_path / "log")][-2:] == ["safe", "close"]
    session.close()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a bug in the driver")])
def test_what_ends_a_measurement_brings_the_device_to_rest_at_once(tmp_path: Path, error: BaseException) -> None:
    device = BenchDevice("bench", tmp_path / "log", faults={1: error})
    device.max_change = 0.1
    session = Session(device)
    with pytest.raises(type(error)):
        session.measure(CONTROLS[:1])
    assert [event[3] for event in events(tmp_path / "log")] == ["open", "begin", "end", "safe", "close"]
    session.measure(CONTROLS[-1:])  # from its safe state a device may go anywhere
    session.close()


def test_an_answer_that_a_driver_calls_incomplete_leaves_the_line_open(tmp_path: Path) -> None:
    with Session(BenchDevice("bench", tmp_path / "log", faults={1: IncompleteAnswer("half of it")})) as session:
        session.measure(CONTROLS)
    assert [event[3] for event in events(tmp_path / "log")].count("open") == 1
    assert session.ledger.faults["shape"] == 1


# ---- whose address it is ----


def busy_in_another_thread(pool: ThreadPoolExecutor) -> bool:
    """Whether the address is held, as somebody else sees it who measures once."""

    def measure_once() -> None:
        with Session(BenchDevice("bench"), wait=0) as session:
            session.measure(CONTROLS)

    try:
        pool.submit(measure_once).result(10)
    except DeviceBusyError:
        return True
    return False


def test_whoever_waited_in_vain_holds_nothing() -> None:
    holder = AddressLock("bench")  # of another process, say
    holder.acquire(0, print)
    waiting = Session(BenchDevice("bench"), wait=0)
    with pytest.raises(DeviceBusyError):
        waiting.measure(CONTROLS)
    holder.release()
    with ThreadPoolExecutor(1) as pool:
        assert not busy_in_another_thread(pool)
    waiting.measure(CONTROLS)
    waiting.close()


def test_whoever_takes_over_from_a_thread_that_ended_is_the_holder() -> None:
    left = Session(BenchDevice("bench"))
    thread = threading.Thread(target=left.measure, args=(CONTROLS,))
    thread.start()
    thread.join()
    with ThreadPoolExecutor(1) as pool:
        with Session(BenchDevice("bench"), wait=0) as heir:
            heir.measure(CONTROLS)
            assert busy_in_another_thread(pool)
        left.close()
        assert not busy_in_another_thread(pool)


def test_a_line_that_is_being_closed_is_joined_by_nobody(tmp_path: Path) -> None:
    closing, go_on = threading.Event(), threading.Event()

    class Slow(BenchDevice):
        def safe_state(self) -> None:
            super().safe_state()
            closing.set()
            assert go_on.wait(10)

    device = Slow(log=tmp_path / "log")  # without an address every thread may join
    first, second = Session(device), Session(device)
    first.measure(CONTROLS)
    with ThreadPoolExecutor(2) as pool:
        closed = pool.submit(first.close)
        assert closing.wait(10)
        measured = pool.submit(second.measure, CONTROLS)
        assert not wait([measured], timeout=0.05).done
        go_on.set()
        closed.result(10)
        measured.result(10)
    second.close()
    in_turn = ["open", "begin", "end", "safe", "close"]
    assert [event[3] for event in events(tmp_path / "log")] == 2 * in_turn


def test_whoever_is_refused_for_another_instrument_does_not_hold_its_address() -> None:
    with Session(BenchDevice("bench")) as session:
        session.measure(CONTROLS)
        refused = Session(BenchDevice("bench"), identity="bench 2")
        with pytest.raises(DeviceIdentityError, match=r"must be 'bench 2'\. Got 'bench 1'\. Nothing was sent"):
            refused.measure(CONTROLS)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(Session(BenchDevice("bench"), wait=0).measure, CONTROLS).result(10)
