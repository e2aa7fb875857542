"""A live handle is shared by every copy in its process, never copied, and refused elsewhere in words."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.base import clone

from skpat.exceptions import DeviceConnectionError, DeviceContractError, DeviceIdentityError
from skpat.lab import Session
from skpat.lab.adopted import AdoptedDevice, adopt


class Handle:
    """An instrument that is open: it cannot be copied, pickled or printed, and notes what is done to it."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.busy = 0
        self.fault: BaseException | None = None
        self.unread: list[np.ndarray] = []

    def read(self, controls: np.ndarray) -> np.ndarray:
        self.busy += 1
        assert self.busy == 1, "two threads at a time"
        self.done.append("read")
        self.unread.append(2 * controls)
        if self.fault is not None:
            fault, self.fault = self.fault, None
            self.busy = 0
            raise fault
        self.busy -= 1
        return self.unread.pop(0)

    def clear(self) -> None:
        self.done.append("clear")
        self.unread.clear()

    def rest(self) -> None:
        self.done.append("rest")

    def close(self) -> None:
        self.done.append("close")

    def __repr__(self) -> str:
        raise AssertionError("the instrument was asked for its repr")

    def __reduce_ex__(self, protocol: object) -> tuple:
        raise TypeError("an open line cannot be pickled")

    def __del__(self) -> None:
        self.done.append("gone")


ROWS = np.array([[0.1, 0.2], [0.3, 0.4]])
ABOUT = {"n_controls": 2, "n_outputs": 2, "bounds": (0, 1)}


def adopted(handle: Handle, **about) -> AdoptedDevice:
    return adopt(handle, lambda handle, controls: handle.read(controls), **(ABOUT | about))


@pytest.fixture(autouse=True)
def _own_locks(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SKPAT_LOCK_DIR", str(tmp_path))


def test_measures_through_the_handle_and_never_closes_it() -> None:
    handle = Handle()
    device = adopted(handle, open=Handle.clear, safe_state=Handle.rest)
    with Session(device) as session:
        np.testing.assert_array_equal(session.measure(ROWS), 2 * ROWS)
        session.measure(ROWS)
    assert handle.done == ["clear", "read", "read", "rest"]


@pytest.mark.parametrize(
    "make_copy",
    [clone, copy.copy, copy.deepcopy, lambda device: pickle.loads(pickle.dumps(device))],
    ids=["clone", "copy", "deepcopy", "pickle"],
)
def test_a_copy_is_a_device_of_its_own_around_the_same_handle(make_copy) -> None:
    handle = Handle()
    device = adopted(handle)
    other = make_copy(device)
    assert other is not device
    assert other.instrument is device.instrument
    assert other.address == device.address
    other.set_params(max_batch=7, bounds=(0, 0.5))
    assert device.max_batch is None
    assert device.bounds == (0, 1)
    np.testing.assert_array_equal(other.measure(ROWS), 2 * ROWS)
    assert handle.done == ["read"]


def test_descriptions_do_not_touch_the_handle() -> None:
    handle = Handle()
    device = adopted(handle, name="plate")
    assert f"Handle, measured by adopted.<locals>.<lambda>, process {os.getpid()}" in repr(device)
    assert "plate" in device._repr_html_()
    assert device.get_params()["name"] == "plate"
    assert handle.done == []


def test_two_handles_have_two_addresses() -> None:
    assert adopted(Handle()).address != adopted(Handle()).address


def test_threads_take_turns() -> None:
    device = adopted(Handle())

    def work(number: int) -> np.ndarray:
        with Session(clone(device)) as session:
            return session.measure(ROWS)

    with ThreadPoolExecutor(4) as pool:
        for outputs in pool.map(work, range(12)):
            np.testing.assert_array_equal(outputs, 2 * ROWS)


def test_the_handle_lives_as_long_as_a_device_around_it() -> None:
    handle = Handle()
    done = handle.done
    device = adopted(handle)
    other, kept = clone(device), pickle.dumps(device)
    del handle, device
    assert pickle.loads(kept).measure(ROWS).shape == (2, 2)
    assert done == ["read"]
    del other
    assert done == ["read", "gone"]
    with pytest.raises(DeviceIdentityError, match=r"must be held by a device of this process.*Call adopt again"):
        pickle.loads(kept).measure(ROWS)


def test_another_process_is_told_where_the_handle_lives() -> None:
    device = adopted(Handle(), name="plate")
    program = (
        "import pickle, sys, numpy as np\n"
        "from skpat.lab import Session\n"
        "device = pickle.loads(sys.stdin.buffer.read())\n"
        "assert (device.name, device.n_controls) == ('plate', 2)\n"
        "try:\n"
        "    Session(device).measure(np.zeros((1, 2)))\n"
        "except RuntimeError as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    session = Session(device)
    session.measure(ROWS)  # holds its address: the other process must not wait for it
    answer = subprocess.run(
        [sys.executable, "-c", program], input=pickle.dumps(device), capture_output=True, check=True, timeout=30
    )
    session.close()
    said = answer.stdout.decode()
    assert said.startswith("DeviceIdentityError")
    assert f"in process {os.getpid()}, where its handle lives" in said
    assert "n_jobs=1 or the threading backend" in said


def _measure_in_child(device: AdoptedDevice, pipe) -> None:
    try:
        device.open()
        pipe.send("opened")
    except DeviceIdentityError as error:
        pipe.send(str(error))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # the fork is what is tested
def test_a_forked_child_does_not_use_the_handle() -> None:
    device = adopted(Handle())
    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_measure_in_child, args=(device, there))
    child.start()
    assert here.poll(60)
    said = here.recv()
    child.join(60)
    assert f"can only be used in process {os.getpid()}" in said


class VisaIOError(Exception):
    """Stands for PyVISA's, which is no OSError."""


VisaIOError.__module__ = "pyvisa.errors"


@pytest.mark.parametrize("fault", [TimeoutError("no answer"), VisaIOError("VI_ERROR_TMO")])
def test_a_fault_is_repeated_on_a_cleared_line(fault) -> None:
    handle = Handle()
    handle.fault = fault
    with Session(adopted(handle, open=Handle.clear)) as session:
        np.testing.assert_array_equal(session.measure(ROWS), 2 * ROWS)
    assert handle.done == ["clear", "read", "clear", "read"]


def test_without_a_way_to_clear_the_line_an_old_answer_is_never_taken() -> None:
    handle = Handle()
    handle.fault = TimeoutError("no answer")
    device = adopted(handle, max_retries=1, safe_state=Handle.rest)
    with (
        Session(device) as session,
        pytest.raises(
            DeviceConnectionError,
            match=r"fault \(TimeoutError: no answer\) the last .*Give adopt\(\.\.\., open=",
        ),
    ):
        session.measure(ROWS)
    assert handle.done.count("read") == 1
    assert handle.done[-1] == "rest"  # the safe state needs no answer


def test_an_interruption_leaves_an_old_answer_too() -> None:
    handle = Handle()
    handle.fault = KeyboardInterrupt()
    device = adopted(handle, max_retries=0)
    with pytest.raises(KeyboardInterrupt):
        device.measure(ROWS)
    with pytest.raises(DeviceConnectionError, match="an old answer may still be under way"):
        clone(device).measure(ROWS + 0.1)


class VendorTimeout(Exception):
    """No OSError."""


@pytest.mark.parametrize(
    "fault", [VendorTimeout("late"), RuntimeError("late"), Exception("late"), ValueError("late"), EOFError("late")]
)
def test_an_error_that_is_no_oserror_leaves_an_old_answer_too(fault: Exception) -> None:
    handle = Handle()
    handle.fault = fault
    device = adopted(handle)
    with pytest.raises(
        type(fault), match="late"
    ):  # it ends the run: only an OSError is taken for a line that may recover
        Session(device).measure(ROWS)
    with pytest.raises(DeviceConnectionError, match=r"Got a fault \(\w+: late\) the last time: an old answer"):
        Session(clone(device)).measure(ROWS + 0.1)
    cleared = adopted(handle, open=Handle.clear)
    np.testing.assert_array_equal(Session(cleared).measure(ROWS), 2 * ROWS)


def test_an_error_of_the_users_function_passes_unchanged() -> None:
    handle = Handle()
    handle.fault = ZeroDivisionError("mine")
    device = adopted(handle)
    with pytest.raises(ZeroDivisionError, match="mine"):
        device.measure(ROWS)
    handle.clear()
    assert adopted(handle).measure(ROWS).shape == (2, 2)


def test_what_does_not_reach_the_handle_is_not_counted() -> None:
    handle = Handle()
    handle.fault = TimeoutError("no answer")
    with Session(adopted(handle)) as session:
        with pytest.raises(DeviceConnectionError, match="must be in a known state") as caught:
            session.measure(ROWS)
        assert handle.done.count("read") == 1
        assert session.ledger.total == len(ROWS)
        assert session.ledger.faults["connection"] == 1
        assert "Tried" not in str(caught.value)


def test_another_instrument_behind_the_handle_stops_the_run() -> None:
    handle, names = Handle(), iter(["plate 1", "plate 2"])
    with Session(adopted(handle, open=Handle.clear, identify=lambda handle: next(names))) as session:
        session.measure(ROWS)
        handle.fault = TimeoutError("no answer")
        with pytest.raises(DeviceIdentityError, match=r"plate 1.*plate 2"):
            session.measure(ROWS)


@pytest.mark.parametrize(
    ("wrong", "kind", "match"),
    [
        ({"measure": 3}, TypeError, r"'measure' must be callable as measure\(handle, controls\). Got 3"),
        ({"open": "reset"}, TypeError, r"'open' must be callable as open\(handle\). Got 'reset'"),
        ({"bounds": (1, 0)}, DeviceContractError, "'bounds' of plate must be finite, the lower below the upper"),
    ],
)
def test_wrong_arguments(wrong, kind, match) -> None:
    with pytest.raises(kind, match=match):
        adopt(**({"handle": Handle(), "measure": Handle.read, "name": "plate"} | ABOUT | wrong))


def test_a_lost_line_answers_nothing_until_it_has_been_cleared() -> None:
    faults: dict[str, list[Exception]] = {
        "measure": [DeviceConnectionError("silence")],
        "open": [RuntimeError("no way in")],
    }

    def act(what: str) -> None:
        if faults[what]:
            raise faults[what].pop()

    device = adopt(
        object(),
        lambda _, controls: act("measure") or controls,
        n_controls=1,
        n_outputs=1,
        bounds=(0, 1),
        open=lambda _: act("open"),
        identify=lambda _: "lamp 1",
    )
    row = np.array([[0.5]])
    with pytest.raises(DeviceConnectionError, match="silence"):
        device.measure(row)
    for _ in range(2):
        for ask in (lambda: device.measure(row), device.identify):
            with pytest.raises(DeviceConnectionError, match="must be in a known state before it is measured again"):
                ask()
        if faults["open"]:
            with pytest.raises(RuntimeError, match="no way in"):
                device.open()
    device.open()
    np.testing.assert_array_equal(device.measure(row), row)
    assert device.identify() == "lamp 1"
