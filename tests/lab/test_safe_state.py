"""Faults that are survived and counted, and a safe state whatever happens."""

from __future__ import annotations

import re
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import skpat
from skpat import Device, PhysicalNetworkClassifier, as_device
from skpat.exceptions import (
    DeviceConnectionError,
    DeviceIdentityError,
    DeviceOutputError,
)
from skpat.lab import Session
from skpat.lab.qcodes_device import QcodesDevice
from skpat.twins import NeuralTwin

from .bench_device import HOLDER, BenchDevice, adopted, data, events, python

SMALL_TWIN = NeuralTwin((8,), max_iter=5, n_refine_steps=1)
CONTROLS = np.linspace(0, 1, 24).reshape(6, 4)

pytestmark = pytest.mark.usefixtures("quick_collections", "bench_of_its_own")


@pytest.mark.parametrize("fault", ["line", "late", "nan", "short"])
def test_a_fault_is_survived_and_counted(tmp_path: Path, fault: str) -> None:
    log = tmp_path / "log"
    device = BenchDevice("bench", log, faults={2: fault, 4: fault}, max_batch=2)
    with Session(device) as session:
        outputs = session.measure(CONTROLS)
    np.testing.assert_array_equal(outputs, Session(BenchDevice()).measure(CONTROLS))
    kind = {"line": "connection", "late": "connection", "nan": "not_finite", "short": "shape"}[fault]
    assert session.ledger.faults[kind] == sum(session.ledger.faults.values()) == 2
    assert session.ledger.total == 10  # both repeats cost their shots
    n_opened = [event[3] for event in events(log)].count("open")
    assert n_opened == (3 if kind == "connection" else 1)


def test_a_line_that_stays_dead_is_given_up_in_the_safe_state(tmp_path: Path) -> None:
    log = tmp_path / "log"
    device = BenchDevice("bench", log, faults=dict.fromkeys(range(3, 99), "line"), max_retries=2, max_batch=2)
    session = Session(device)
    with pytest.raises(DeviceConnectionError, match=r"the line is dead\. Tried 3 times\.") as caught:
        session.measure(CONTROLS, purpose="training")
    assert caught.value.shots_done["training"] == 10
    assert isinstance(caught.value.__cause__, ConnectionResetError)
    assert [event[3] for event in events(log)][-2:] == ["safe", "close"]


def test_readings_that_a_driver_masks_are_not_finite() -> None:
    def measure(controls: np.ndarray) -> np.ma.MaskedArray:
        return np.ma.array(np.full((len(controls), 2), -999), mask=controls[:, :2] > 0.5)

    device = as_device(measure, n_controls=2, n_outputs=2, bounds=(0, 1))
    session = Session(device)
    np.testing.assert_array_equal(session.measure(np.zeros((3, 2))), -999)
    with pytest.raises(DeviceOutputError, match=r"Got nan in output 1, row 0"):
        session.measure(np.array([[0.0, 1.0], [0.0, 0.0]]))


@pytest.mark.parametrize("kind", [list, tuple])
def test_masks_within_lists_of_readings_count(kind: type) -> None:
    def measure(controls: np.ndarray) -> Any:
        return kind(np.ma.masked_array([row[0] * 10, -9999.0], mask=[False, row[1] > 0.5]) for row in controls)

    session = Session(as_device(measure, n_controls=2, n_outputs=2, bounds=(0, 1), max_retries=0))
    np.testing.assert_array_equal(session.measure(np.array([[0.5, 0.0], [1.0, 0.2]])), [[5, -9999], [10, -9999]])
    with pytest.raises(DeviceOutputError, match=r"Got nan in output 1, row 1"):
        session.measure(np.array([[0.0, 0.0], [0.0, 1.0]]))


def in_qcodes(read: Any, n_controls: int, n_outputs: int, **about: Any) -> Device:
    made = SimpleNamespace(sweep=read, close=lambda: None)
    return QcodesDevice(lambda: made, n_controls, n_outputs, measure_rows="sweep", **about)


@pytest.mark.parametrize("make", [as_device, adopted, in_qcodes])
@pytest.mark.parametrize("fault", ["masked", "ragged", "half"])
def test_an_answer_that_is_incomplete_once_is_asked_for_again(make: Any, fault: str) -> None:
    calls = []

    def read(controls: np.ndarray) -> Any:
        calls.append(len(controls))
        answer = np.tanh(controls)
        if len(calls) > 1:
            return answer
        mask = np.arange(answer.size).reshape(answer.shape) == 3
        half = [*answer[:-1].tolist(), answer[-1, :1].tolist()] if fault == "ragged" else answer[:-1]
        return np.ma.array(np.where(mask, -9999, answer), mask=mask) if fault == "masked" else half

    device = make(read, n_controls=2, n_outputs=2, bounds=(0, 1))
    rows = np.linspace(0, 1, 6).reshape(3, 2)
    with Session(device) as session:
        np.testing.assert_array_equal(session.measure(rows), np.tanh(rows))
    assert calls == [3, 3]
    assert (
        session.ledger.faults["not_finite" if fault == "masked" else "shape"]
        == sum(session.ledger.faults.values())
        == 1
    )
    assert session.ledger.total == 6


def test_bad_readings_can_be_masked_or_raised() -> None:
    with Session(BenchDevice(faults={1: "nan"}, on_bad_output="mask")) as session:
        masked = session.measure(CONTROLS)
    good = Session(BenchDevice()).measure(CONTROLS)
    assert masked[-1, 1] == pytest.approx(good[:-1, 1].mean())
    masked[-1, 1] = good[-1, 1]
    np.testing.assert_array_equal(masked, good)
    assert session.ledger.faults["not_finite"] == 1
    BenchDevice._calls = 0
    with pytest.raises(DeviceOutputError, match=r"Got nan in output 1, row 5.* Allow it with on_bad_output='mask'\.$"):
        Session(BenchDevice(faults={1: "nan"}, on_bad_output="raise")).measure(CONTROLS)
    BenchDevice._calls = 0
    with pytest.raises(DeviceOutputError, match=r"'mask', or lower max_batch: a repeat takes all 6 rows\.$"):
        Session(BenchDevice(faults={1: "nan", 2: "nan"}, max_retries=1)).measure(CONTROLS)
    BenchDevice._calls = 0
    with pytest.raises(DeviceOutputError, match=r"Allow it with on_bad_output='mask'\.$"):
        Session(BenchDevice(faults={1: "nan"}, max_retries=0)).measure(CONTROLS)
    BenchDevice._calls = 0
    with pytest.raises(DeviceOutputError, match="No row of the call had a good reading of output 1 to put") as caught:
        Session(BenchDevice(faults={1: "nan"}, max_retries=0, on_bad_output="mask")).measure(CONTROLS[:1])
    assert "on_bad_output" not in str(caught.value)


def test_ctrl_c_tells_which_journal_goes_on(tmp_path: Path) -> None:
    X, y = data(100)
    device = BenchDevice("bench", faults={30: KeyboardInterrupt()})
    network = PhysicalNetworkClassifier(
        device, SMALL_TWIN, max_iter=20, n_calibration_shots=20, random_state=0, journal=tmp_path / "run.db"
    )
    with pytest.warns(UserWarning, match=r"The same script, run again, goes on from what is in .*run\.db\."):
        network.fit(X, y)


def test_a_reading_at_the_end_of_the_range_is_saturated() -> None:
    class Scope(Device):
        n_controls = n_outputs = 2
        bounds = (0.0, 1.0)
        output_range = (-1.0, 0.9)
        max_retries = 1

        def measure(self, batch):
            return np.asarray(batch)

    with pytest.raises(
        DeviceOutputError, match=r"within its output_range, -1 to 0\.9\. Got 0\.95 in output 1, row 1: saturated"
    ):
        Session(Scope()).measure([[0.1, 0.2], [0.3, 0.95]])
    device = Scope()
    device.on_bad_output = "mask"
    session = Session(device)
    np.testing.assert_array_equal(session.measure([[0.1, 0.2], [0.3, 0.95]]), [[0.1, 0.2], [0.3, 0.2]])
    assert session.ledger.faults["saturated"] == 1
    np.testing.assert_array_equal(session.measure([[0.1, 0.95]]), [[0.1, 0.9]])  # nothing good to put in its place
    assert session.ledger.faults["saturated"] == 2


def test_a_reading_that_is_not_finite_never_stays() -> None:
    def measure(controls: np.ndarray) -> np.ndarray:
        return np.where(controls > 0.5, np.nan, 2 * controls)

    device = as_device(measure, n_controls=3, n_outputs=3, bounds=(0, 1), output_range=(0, 0.9), on_bad_output="mask")
    with pytest.raises(DeviceOutputError, match="No row of the call had a good reading of output 2 to put"):
        Session(device).measure([[0.1, 0.48, 0.7], [0.2, 0.49, 0.8]])


def test_another_instrument_behind_the_same_address_is_noticed() -> None:
    class Swapped(BenchDevice):
        def identify(self) -> str:
            return "bench 1" if type(self)._calls < 2 else "bench 2"

    Swapped._calls = 0
    with pytest.raises(DeviceIdentityError, match=r"must be the one that answered before, 'bench 1'\. Got 'bench 2'"):
        Session(Swapped(faults={2: "line"}, max_batch=2)).measure(CONTROLS)


def test_shared_controls_are_sent_when_they_change_and_after_a_fault() -> None:
    sent: list[str] = []

    class Slow(Device):
        n_controls, n_outputs = 3, 1
        bounds = (0.0, 1.0)
        settling_seconds = 0.01

        def open(self) -> None:
            sent.append("open")

        def set_shared(self, batch: Any) -> None:
            sent.append(f"shared {batch.shared[0]:g}")

        def measure(self, batch: Any) -> np.ndarray:
            sent.append("measure")
            if len(sent) == 6:
                raise TimeoutError
            return np.asarray(batch)[:, :1]

    def batch(value: float) -> skpat.ControlBatch:
        return skpat.ControlBatch(np.zeros((1, 2)), np.array([0, 2]), np.array([value]), np.array([1]))

    session = Session(Slow())
    begun = time.perf_counter()
    for value in (0.1, 0.1, 0.5):
        session.measure(batch(value))
    assert sent == [
        "open", "shared 0.1", "measure", "measure", "shared 0.5", "measure", "open", "shared 0.5", "measure",
    ]  # fmt: skip
    assert time.perf_counter() - begun >= 0.03


# ---- safe state ----


def test_an_error_leaves_the_device_in_its_safe_state(tmp_path: Path) -> None:
    log = tmp_path / "log"
    X, y = data()
    device = BenchDevice("bench", log, faults={4: RuntimeError("a bug in the driver")})
    with pytest.raises(RuntimeError, match="a bug in the driver"):
        PhysicalNetworkClassifier(device, max_iter=3, n_calibration_shots=20, random_state=0).fit(X, y)
    assert [event[3] for event in events(log)][-2:] == ["safe", "close"]
    with Session(BenchDevice("bench", log), wait=1) as session:  # and the address is free
        session.measure(CONTROLS)


def test_ctrl_c_ends_a_fit_with_the_best_weights_so_far(tmp_path: Path) -> None:
    log = tmp_path / "log"
    X, y = data(100)
    device = BenchDevice("bench", log, faults={30: KeyboardInterrupt()})
    network = PhysicalNetworkClassifier(device, SMALL_TWIN, max_iter=20, n_calibration_shots=20, random_state=0)
    with pytest.warns(
        UserWarning, match=r"The training was interrupted in epoch \d+ of 20\. The estimator keeps .* far\.$"
    ):
        network.fit(X, y, X_val=X, y_val=y)
    assert 1 < network.n_iter_ < 20
    assert network.best_validation_score_ == max(network.validation_scores_)
    assert [event[3] for event in events(log)][-2:] == ["safe", "close"]
    assert (
        network.score(X, y) == network.best_validation_score_
    )  # the line was left in an unknown state, and is opened anew


def test_ctrl_c_before_the_training_stops_the_fit() -> None:
    X, y = data()
    with pytest.raises(KeyboardInterrupt):
        PhysicalNetworkClassifier(BenchDevice(faults={1: KeyboardInterrupt()}), random_state=0).fit(X, y)


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_the_device_is_safe_when_the_interpreter_ends(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = HOLDER.replace("time.sleep(60)", "")
    done = python(code, str(log))
    _, errors = done.communicate(timeout=60)
    assert done.returncode == 0, errors
    assert [event[3] for event in events(log)][-2:] == ["safe", "close"]
    interrupted = python(HOLDER, str(log))
    assert interrupted.stdout is not None
    interrupted.stdout.readline()
    interrupted.send_signal(signal.SIGINT)
    interrupted.communicate(timeout=60)
    assert [event[3] for event in events(log)][-2:] == ["safe", "close"]


@pytest.mark.parametrize(("n", "said"), [(0, "Tried once."), (2, "Tried 3 times.")])
def test_how_often_it_was_tried(n: int, said: str) -> None:
    class Dead(BenchDevice):
        def measure(self, batch: Any) -> np.ndarray:
            raise TimeoutError("silence")

    with Session(Dead(max_retries=n)) as session, pytest.raises(DeviceConnectionError, match=re.escape(said)):
        session.measure(np.full((1, 4), 0.5))


def test_a_safe_state_that_fails_is_logged_and_the_rest_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    class Stuck(BenchDevice):
        def safe_state(self) -> None:
            raise OSError("no answer")

    with Session(Stuck("bench")) as session:
        session.measure(CONTROLS)
    assert "Stuck.safe_state() failed: no answer" in caplog.text
    threads = threading.active_count()
    with Session(Stuck("bench"), wait=1) as session:
        session.measure(CONTROLS)
    assert threading.active_count() == threads


@pytest.mark.parametrize("n_failures", [1, 9])
def test_a_safe_state_that_a_broken_line_swallows_is_sent_on_a_new_one(n_failures: int, tmp_path: Path) -> None:
    class Cut(BenchDevice):
        n_left = n_failures

        def safe_state(self) -> None:
            if Cut.n_left:
                Cut.n_left -= 1
                raise ConnectionResetError("the line is dead")
            super().safe_state()

    with Session(Cut("bench", tmp_path / "log")) as session:
        session.measure(CONTROLS)
    happened = [event[3] for event in events(tmp_path / "log") if event[3] in ("open", "safe", "close")]
    assert happened == ["open", "close", "open", *(["safe"] if n_failures == 1 else []), "close"]
    with Session(Cut("bench"), wait=1) as session:  # the address is free
        Cut.n_left = 0
        session.measure(CONTROLS)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interruption_on_the_way_to_the_safe_state_does_not_leave_it_half_way(
    interruption: type[BaseException], tmp_path: Path
) -> None:
    class Ramp(BenchDevice):
        n_interrupted = 1

        def safe_state(self) -> None:
            self.note("down")
            if Ramp.n_interrupted:
                Ramp.n_interrupted -= 1
                raise interruption
            super().safe_state()

    session = Session(Ramp("bench", tmp_path / "log"))
    session.measure(CONTROLS)
    with pytest.raises(interruption):
        session.close()
    happened = [event[3] for event in events(tmp_path / "log")]
    assert happened[-4:] == ["down", "down", "safe", "close"]
    with Session(Ramp("bench"), wait=1) as session:  # the address is free
        session.measure(CONTROLS)
    Ramp.n_interrupted = 99  # whoever insists is obeyed
    with pytest.raises(interruption), Session(Ramp("bench", tmp_path / "log")) as session:
        session.measure(CONTROLS)
    assert [event[3] for event in events(tmp_path / "log")][-3:] == ["down", "down", "close"]
