"""One holder of an address among threads and processes."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from skpat import ControlBatch, Device, PhysicalNetworkClassifier, as_device
from skpat.devices import Quantized
from skpat.exceptions import (
    ControlBoundsError,
    DeviceBusyError,
    DeviceConnectionError,
    DeviceIdentityError,
)
from skpat.lab import Ledger, Session
from skpat.twins import NeuralTwin

from .bench_device import HOLDER, BenchDevice, adopted, data, events, largest_overlap, python

SMALL_TWIN = NeuralTwin((8,), max_iter=5, n_refine_steps=1)
CONTROLS = np.linspace(0, 1, 24).reshape(6, 4)

pytestmark = pytest.mark.usefixtures("quick_collections", "bench_of_its_own")


# ---- opening and closing ----


def test_nothing_opens_before_the_first_measurement(tmp_path: Path) -> None:
    log = tmp_path / "log"
    device = BenchDevice("bench", log)
    for made in (clone(device), pickle.loads(pickle.dumps(device)), PhysicalNetworkClassifier(device)):
        repr(made), made._repr_html_()
    with Session(device) as session:
        assert not log.exists()
        session.measure(CONTROLS)
        session.measure(CONTROLS)
    assert [event[3] for event in events(log)] == ["open", "begin", "end", "begin", "end", "safe", "close"]


def test_sessions_inside_each_other_share_one_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Session(BenchDevice("bench", log)) as outer:
        outer.measure(CONTROLS)
        with Session(BenchDevice("bench", log)) as inner:
            inner.measure(CONTROLS)
        outer.measure(CONTROLS)
    assert [event[3] for event in events(log)].count("open") == 1
    assert largest_overlap(log) == 1


def test_an_inner_session_that_speaks_otherwise_opens_the_line_its_own_way(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Session(BenchDevice("bench", log)) as outer:
        outer.measure(CONTROLS)
        with Session(BenchDevice("bench", log, pause=1e-4)) as inner:
            inner.measure(CONTROLS)
        outer.measure(CONTROLS)
    assert [event[3] for event in events(log)].count("open") == 3
    assert largest_overlap(log) == 1


def test_equal_wrappers_share_one_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    device = Quantized(BenchDevice("bench", log), control_bits=8)
    with Session(device) as outer:
        outer.measure(np.zeros((1, 4)))
        with Session(clone(device)) as inner:
            inner.measure(np.zeros((1, 4)))
        outer.measure(np.zeros((1, 4)))
    assert [event[3] for event in events(log)].count("open") == 1


def test_one_session_serves_several_threads(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Session(BenchDevice("bench", log)) as session, ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda i: session.measure(CONTROLS[i : i + 1]), range(6)))
    np.testing.assert_array_equal(np.concatenate(answers), Session(BenchDevice()).measure(CONTROLS))
    assert [event[3] for event in events(log)].count("open") == 1


# ---- one holder ----


def test_four_threads_take_turns_and_are_told_who_holds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = tmp_path / "log"

    def work(number: int) -> None:
        for _ in range(3):
            with Session(BenchDevice("bench", log, pause=0.01)) as session:
                session.measure(CONTROLS)

    with caplog.at_level(logging.WARNING, "skpat.lab"), ThreadPoolExecutor(4, "bencher") as pool:
        list(pool.map(work, range(4)))
    assert largest_overlap(log) == 1
    assert [event[3] for event in events(log)].count("open") == 12
    assert "Waiting for bench, held by thread 'bencher_" in caplog.text


WORKER = """
import sys, threading
from tests.lab.bench_device import BenchDevice
from skpat.lab import Session
import numpy as np

def work():
    for _ in range(4):
        with Session(BenchDevice("bench", sys.argv[1], pause=0.01)) as session:
            session.measure(np.full((2, 4), 0.5))

threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_two_processes_with_two_threads_each_never_overlap(tmp_path: Path) -> None:
    log = tmp_path / "log"
    workers = [python(WORKER, str(log)) for _ in range(2)]
    output = [worker.communicate(timeout=60) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], output
    assert len({event[1] for event in events(log)}) == 2
    assert largest_overlap(log) == 1
    assert Ledger.at("bench")["prediction"] == 2 * 2 * 4 * 2


def test_who_holds_is_told_and_a_dead_holder_is_taken_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    holder = python(HOLDER, str(tmp_path / "log"))
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(
            DeviceBusyError, match=rf"bench must be free\. Got: held by process {holder.pid} "
        ) as caught:
            Session(BenchDevice("bench"), wait=0.1).measure(CONTROLS)
        assert caught.value.holder == holder.pid
        assert f"Waiting for bench, held by process {holder.pid}" in caplog.text
        holder.kill()
        holder.wait(10)
        with Session(BenchDevice("bench"), wait=10) as session:
            session.measure(CONTROLS)
    finally:
        holder.kill()
        holder.communicate()


def test_a_thread_that_waits_too_long_is_told_so(tmp_path: Path) -> None:
    with Session(BenchDevice("bench")) as session:
        session.measure(CONTROLS)
        with ThreadPoolExecutor(1) as pool:
            late = pool.submit(Session(BenchDevice("bench"), wait=0.05).measure, CONTROLS)
            with pytest.raises(DeviceBusyError, match=r"held by thread 'MainThread' of this process"):
                late.result(10)


def test_a_function_with_an_address_is_held_by_one_session_at_a_time() -> None:
    made = [
        as_device(np.tanh, n_controls=2, n_outputs=2, bounds=(-1, 1), address=address)
        for address in ("bench of functions", "bench of functions", None)
    ]
    with Session(made[0]) as session, ThreadPoolExecutor(1) as pool:
        session.measure(np.zeros((1, 2)))
        with pytest.raises(DeviceBusyError, match="bench of functions"):
            pool.submit(Session(made[1], wait=0.05).measure, np.zeros((1, 2))).result(10)
        assert pool.submit(Session(made[2], wait=0.05).measure, np.zeros((1, 2))).result(10).shape == (1, 2)


class Bias(Device):
    """Without an address; what ``set_shared`` gave it is kept, as heaters keep it, and a closed line cannot be read."""

    n_controls, n_outputs, bounds = 6, 4, (-1, 1)
    max_change = None

    def open(self) -> None:
        self.is_open_, self.n_opened_ = True, getattr(self, "n_opened_", 0) + 1

    def close(self) -> None:
        self.is_open_ = False

    def set_shared(self, batch: Any) -> None:
        self.held_ = np.zeros(6)
        self.held_[batch.shared_index] = batch.shared

    def measure(self, batch: Any) -> np.ndarray:
        assert self.is_open_
        controls = np.tile(self.held_, (batch.n_rows, 1))
        time.sleep(1e-5)  # whoever waits gets a chance
        controls[:, batch.varying_index] = batch.varying
        return np.tanh(controls[:, :4] + controls[:, 2:] ** 2)


def test_threads_that_share_a_device_without_an_address_take_turns() -> None:
    device = Bias()
    sessions = [Session(device) for _ in range(3)]

    def wrong(i: int) -> int:
        shared = np.full(3, 0.3 * i)
        batch = ControlBatch(np.full((2, 3), 0.1), np.arange(3), shared, np.arange(3, 6))
        expected = np.tanh(np.asarray(batch)[:, :4] + np.asarray(batch)[:, 2:] ** 2)
        return sum(not np.array_equal(sessions[i].measure(batch), expected) for _ in range(60))

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(wrong, range(3))) == [0, 0, 0]
    assert device.n_opened_ == 1
    for session in sessions:
        assert device.is_open_
        session.close()
    assert not device.is_open_


@pytest.mark.parametrize("address", [None, "TCPIP::192.168.0.7::INSTR"])
def test_a_session_speaks_with_the_parameters_that_the_device_has_when_it_begins(address: str | None) -> None:
    class Amplifier(Device):
        n_controls, n_outputs, bounds = 1, 1, (0, 1)

        def __init__(self, gain: float = 1.0, address: str | None = None):
            self.gain = gain
            self.address = address

        def open(self) -> None:
            self.set_ = self.gain  # programs the instrument

        def measure(self, batch: Any) -> np.ndarray:
            return np.asarray(batch) * self.set_

    device = Quantized(Amplifier(address=address))
    with Session(device) as outer:
        assert outer.measure([[0.5]]).item() == 0.5
        device.set_params(device__gain=4.0)
        with Session(device) as inner:
            assert inner.measure([[0.5]]).item() == 2.0


@pytest.mark.parametrize("address", [None, "TCPIP::192.168.0.7::INSTR"])
def test_whom_one_session_expects_is_no_matter_of_the_others(address: str | None) -> None:
    class Lamp(Device):
        n_controls, n_outputs, bounds = 1, 1, (0, 1)
        n_measured = 0

        def __init__(self, address: str | None = None):
            self.address = address

        def identify(self) -> str:
            return "lamp 2"

        def measure(self, batch: Any) -> np.ndarray:
            self.n_measured += 1
            return np.asarray(batch)

    device = Lamp(address)
    strict, anybody, second = Session(device, identity="lamp 1"), Session(device), Session(device, identity="lamp 2")
    for _ in range(2):
        with pytest.raises(DeviceIdentityError, match=r"answered before, 'lamp 1'\. Got 'lamp 2'"):
            strict.measure([[0.5]])
    assert device.n_measured == 0
    for session in (anybody, second):
        assert session.measure([[0.5]]).item() == 0.5
    with pytest.raises(DeviceIdentityError, match=r"'lamp 1'.* Got 'lamp 2'"):
        strict.measure([[0.5]])
    assert device.n_measured == 2
    for session in (strict, anybody, second):
        session.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_may_close_a_session_that_a_thread_of_its_parent_uses() -> None:
    under_way, go_on = threading.Event(), threading.Event()

    def measure(controls: np.ndarray) -> np.ndarray:
        under_way.set()
        go_on.wait(20)
        return controls

    session = Session(as_device(measure, n_controls=1, n_outputs=1, bounds=(0, 1)))
    thread = threading.Thread(target=session.measure, args=([[0.5]],))
    thread.start()
    under_way.wait()
    child = os.fork()
    if not child:
        signal.alarm(10)  # it would hang
        session.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    go_on.set()
    thread.join()
    assert session.ledger.total == 1


def test_a_prediction_within_a_session_leaves_the_line_of_a_device_without_an_address_open() -> None:
    X, y = data()
    network = PhysicalNetworkClassifier(Bias(), SMALL_TWIN, max_iter=1, random_state=0).fit(X, y)
    device, n_opened = network.device_, network.device_.n_opened_
    with Session(device) as session:
        before = session.measure(np.zeros((1, 6)))
        network.predict(X)
        np.testing.assert_array_equal(session.measure(np.zeros((1, 6))), before)
    assert device.n_opened_ == n_opened + 1
    assert not device.is_open_


def test_threads_that_share_a_device_never_move_a_channel_too_far_together() -> None:
    device, sent = Bias(), []
    device.max_change = 0.5
    device.measure = lambda batch: sent.append(np.asarray(batch).copy()) or np.zeros((batch.n_rows, 4))  # type: ignore[method-assign]

    def refused(value: float) -> int:
        session, n = Session(device), 0
        for _ in range(40):
            try:
                session.measure(np.full((1, 6), value))
            except ControlBoundsError:
                n += 1
        return n

    with Session(device) as first, ThreadPoolExecutor(3) as pool:  # the line stays open when one thread is done early
        first.measure(np.zeros((1, 6)))
        n_refused = sum(pool.map(refused, [-0.4, 0.0, 0.4]))
    assert len(sent) + n_refused == 121
    assert np.abs(np.diff(np.concatenate(sent), axis=0)).max() <= 0.5


def test_an_address_of_ones_own_is_never_taken_for_that_of_an_adopted_handle() -> None:
    device = as_device(lambda c: c, n_controls=1, n_outputs=1, bounds=(0, 1), address="adopted-laser-2")
    with Session(device) as session:
        session.measure([[0.5]])
    assert Ledger.at("adopted-laser-2")["prediction"] == 1
    handle = adopted(lambda c: c, n_controls=1, n_outputs=1, bounds=(0, 1))
    with Session(handle) as session:
        session.measure([[0.5]])
    assert Ledger.at(handle.address)["prediction"] == 0  # no other process could count there


def test_a_session_that_is_forgotten_lets_go(tmp_path: Path) -> None:
    log = tmp_path / "log"
    Session(BenchDevice("bench", log)).measure(CONTROLS)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(Session(BenchDevice("bench", log), wait=5).measure, CONTROLS).result(10)
    assert largest_overlap(log) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_waits_for_its_parent_and_opens_its_own_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    session = Session(BenchDevice("bench", log))
    session.measure(CONTROLS)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            session.wait = 20
            session.measure(CONTROLS)
            session.close()
            code = 0
        finally:
            os._exit(code)
    time.sleep(0.3)
    assert {event[1] for event in events(log)} == {str(os.getpid())}  # the child is waiting
    session.measure(CONTROLS)
    session.close()
    _, status = os.waitpid(child, 0)
    assert status == 0
    assert {event[1] for event in events(log)} == {str(os.getpid()), str(child)}
    assert largest_overlap(log) == 1


@pytest.mark.parametrize(
    "backend", [pytest.param("loky", marks=pytest.mark.slow), "threading"]
)  # loky: over the line too
@pytest.mark.usefixtures("fresh_workers")
def test_a_grid_search_over_two_workers_shares_an_address(tmp_path: Path, backend: str) -> None:
    import joblib

    log = tmp_path / "log"
    network = PhysicalNetworkClassifier(
        BenchDevice("bench", log), SMALL_TWIN, max_iter=2, n_calibration_shots=30, random_state=0, batch_size=16
    )
    X, y = data()
    with joblib.parallel_backend(backend, n_jobs=2):
        search = GridSearchCV(
            network, {"n_layers": [1, 2], "skip": [None]}, cv=2, refit=False, error_score="raise"
        ).fit(X, y)
    assert len(search.cv_results_["params"]) == 2
    assert largest_overlap(log) == 1
    measured = sum(int(event[4]) for event in events(log) if event[3] == "begin")
    assert sum(Ledger.at("bench").values()) == measured > 0


# ---- what a hostile reader found ----


def test_ctrl_c_between_two_attempts_leaves_the_device_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"

    def pressed(seconds: float) -> None:
        if seconds > 0.01:
            raise KeyboardInterrupt

    device = BenchDevice("bench", log, faults=dict.fromkeys(range(2, 5), "line"), max_batch=2)
    session = Session(device)
    monkeypatch.setattr("skpat.lab.session.time", SimpleNamespace(sleep=pressed))
    with pytest.raises(KeyboardInterrupt):
        session.measure(CONTROLS)
    session.close()
    assert [event[3] for event in events(log)][-2:] == ["safe", "close"]


def test_a_second_ctrl_c_in_the_safe_state_still_frees_the_address() -> None:
    class Impatient(BenchDevice):
        pressed = False

        def safe_state(self) -> None:
            if not Impatient.pressed:
                Impatient.pressed = True
                raise KeyboardInterrupt

    session = Session(Impatient("bench"))
    session.measure(CONTROLS)
    try:
        with pytest.raises(KeyboardInterrupt):
            session.close()
    finally:
        Impatient.pressed = True  # whatever has happened: nothing may press it outside this test
    with Session(Impatient("bench"), wait=1) as again:
        again.measure(CONTROLS)


def test_nothing_is_sent_to_another_instrument(tmp_path: Path) -> None:
    log = tmp_path / "log"

    class Swapped(BenchDevice):
        def identify(self) -> str:
            return "mine" if type(self)._calls < 2 else "somebody else's"

    Swapped._calls = 0
    session = Session(Swapped("bench", log, faults={2: "line"}, max_batch=2))
    with pytest.raises(DeviceIdentityError) as caught:
        session.measure(CONTROLS)
    session.close()
    assert caught.value.shots_done["prediction"] == 4
    assert "safe" not in [event[3] for event in events(log)]


def test_a_thread_that_ended_without_closing_does_not_hold_for_ever() -> None:
    kept: list[Session] = []

    def work() -> None:
        kept.append(Session(BenchDevice("bench")))
        kept[0].measure(CONTROLS)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    with Session(BenchDevice("bench"), wait=2) as session:
        session.measure(CONTROLS)


def test_shots_that_nobody_could_be_asked_for_are_not_counted() -> None:
    class Off(BenchDevice):
        def open(self) -> None:
            raise ConnectionRefusedError("switched off")

    session = Session(Off("bench", max_retries=1))
    with pytest.raises(DeviceConnectionError, match=r"switched off\. Tried 2 times"):
        session.measure(CONTROLS)
    assert session.ledger.total == sum(Ledger.at("bench").values()) == 0


def test_two_spellings_of_an_address_are_one() -> None:
    with Session(BenchDevice("TCPIP::h::5025::SOCKET")) as session, ThreadPoolExecutor(1) as pool:
        session.measure(CONTROLS)
        late = pool.submit(Session(BenchDevice("tcpip0::h::5025::SOCKET"), wait=0.05).measure, CONTROLS)
        with pytest.raises(DeviceBusyError):
            late.result(10)


def test_a_lock_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SKPAT_LOCK_DIR", str(tmp_path / "file"))
    with pytest.raises(PermissionError, match=r"The lock of bench must stand in .* Set SKPAT_LOCK_DIR to one"):
        Session(BenchDevice("bench")).measure(CONTROLS)
