"""How often and how soon a fault is followed by a repeat, and that giving up leaves nothing held and nothing driven."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from skpat import Device
from skpat.exceptions import DeviceConnectionError, DeviceIdentityError
from skpat.lab import Session

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


def test_whoever_is_refused_for_another_instrument_does_not_hold_its_address() -> None:
    with Session(BenchDevice("bench")) as session:
        session.measure(CONTROLS)
        refused = Session(BenchDevice("bench"), identity="bench 2")
        with pytest.raises(DeviceIdentityError, match=r"must be 'bench 2'\. Got 'bench 1'\. Nothing was sent"):
            refused.measure(CONTROLS)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(Session(BenchDevice("bench"), wait=0).measure, CONTROLS).result(10)
