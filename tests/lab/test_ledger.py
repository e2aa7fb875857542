"""The ledger counts every shot, from every thread, and keeps its count when pickled."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skpat.exceptions import DeviceBusyError
from skpat.lab import Ledger, Session
from skpat.lab.address_lock import AddressLock
from skpat.lab.ledger import PURPOSES, AddressTotals

from .bench_device import BenchDevice


class LosesItsTurn(int):
    """A count that lets another thread in while it is added."""

    def __radd__(self, other: int) -> int:
        total = int(other) + int(self)
        time.sleep(0)
        return total


@given(st.lists(st.tuples(st.sampled_from(PURPOSES), st.integers(0, 10**6))))
def test_shots_are_counted_by_purpose(entries: list[tuple[str, int]]) -> None:
    ledger = Ledger(seconds_per_shot=0.5, joules_per_shot=3.0)
    for purpose, n_shots in entries:
        ledger.add(purpose, n_shots)
    assert {p: ledger.shots.get(p, 0) for p in PURPOSES} == {p: sum(n for q, n in entries if q == p) for p in PURPOSES}
    assert ledger.total == sum(n for _, n in entries)
    assert ledger.seconds == 0.5 * ledger.total
    assert ledger.joules == 3.0 * ledger.total


@given(st.lists(st.tuples(st.sampled_from(PURPOSES), st.integers(0, 99), st.booleans())), st.integers(0, 99))
def test_how_far_a_run_has_come_counts_replayed_rows_too(entries: list[tuple[str, int, bool]], n_before: int) -> None:
    ledger = Ledger(n_before=n_before)
    for purpose, n_shots, is_replayed in entries:
        (ledger.add_replayed if is_replayed else ledger.add)(purpose, n_shots)
    assert ledger.total == sum(n for _, n, is_replayed in entries if not is_replayed)
    assert sum(ledger.replayed.values()) == sum(n for _, n, is_replayed in entries if is_replayed)
    assert ledger.asked_in_all == n_before + sum(n for _, n, _ in entries)
    assert ledger.asked_in_fit == n_before + sum(n for purpose, n, _ in entries if purpose != "prediction")


def test_the_four_purposes() -> None:
    assert PURPOSES == ("calibration", "training", "validation", "prediction", "recalibration")
    assert Ledger().shots == dict.fromkeys(PURPOSES[:4], 0)  # recalibration from its first shot on


def test_an_unknown_purpose_is_refused() -> None:
    ledger = Ledger()
    with pytest.raises(ValueError, match=r"'purpose' must be one of calibration, training, .*Got 'play'"):
        ledger.add("play", 1)
    assert ledger.total == 0


def test_costs_that_nobody_states_are_unknown() -> None:
    ledger = Ledger()
    ledger.add("training", 3)
    assert ledger.seconds is None
    assert ledger.joules is None


def test_the_counts_handed_out_are_a_copy() -> None:
    ledger = Ledger()
    ledger.shots["training"] = 99
    assert ledger.total == 0


def test_no_shot_is_lost_between_threads() -> None:
    ledger = Ledger()
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(ledger.add, "training", LosesItsTurn(2)) for _ in range(500)]:
            done.result()
    assert ledger.shots["training"] == 1000


def test_a_ledger_survives_pickling() -> None:
    ledger = Ledger(seconds_per_shot=0.5, joules_per_shot=3.0)
    ledger.add("validation", 7)
    copied = pickle.loads(pickle.dumps(ledger))
    copied.add("validation", 1)
    assert copied.shots["validation"] == 8
    assert ledger.shots["validation"] == 7
    assert (copied.seconds, copied.joules) == (4.0, 24.0)


def test_a_ledger_says_what_it_counted() -> None:
    ledger = Ledger()
    ledger.add("training", 5)
    assert repr(ledger) == "Ledger(calibration=0, training=5, validation=0, prediction=0)"


def test_a_ledger_of_an_older_version_goes_on() -> None:
    ledger = Ledger()
    ledger.add("training", 5)
    state = ledger.__getstate__()
    del state["_conversions"], state["_settling"]
    older = Ledger.__new__(Ledger)
    older.__setstate__(state)
    older.add("prediction", 2, conversions=7, settling_seconds=0.5)
    again = pickle.loads(pickle.dumps(older))
    assert again.shots == {"calibration": 0, "training": 5, "validation": 0, "prediction": 2}
    assert again.conversions["prediction"] == 7
    assert again.settling["prediction"] == 0.5


# ---- totals of an address ----


@pytest.fixture
def totals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AddressTotals:
    monkeypatch.setenv("SKPAT_LOCK_DIR", str(tmp_path / "locks"))
    return AddressTotals("TCPIP::rig")


@pytest.mark.parametrize(
    "damaged", ["null", "[]", "7", '{"prediction": "x"}', '{"prediction": -1}', '{"pred', "x" * 400]
)
def test_a_damaged_file_of_totals_begins_anew(totals: AddressTotals, damaged: str) -> None:
    totals.add("training", 5)
    totals._path.write_text(damaged)
    assert set(Ledger.at("TCPIP::rig").values()) == {0}
    totals.add("training", 3)
    assert Ledger.at("TCPIP::rig")["training"] == 3


def test_totals_survive_that_their_folder_is_tidied_away(totals: AddressTotals) -> None:
    totals.add("training", 5)
    shutil.rmtree(totals._path.parent)
    totals.add("training", 3)
    assert Ledger.at("TCPIP::rig")["training"] == 3


def test_what_cannot_be_written_is_no_fault_of_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SKPAT_LOCK_DIR", str(tmp_path))
    device = BenchDevice("TCPIP::rig 2")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(AddressTotals, "_add", full)
    with caplog.at_level("WARNING", "skpat.lab"), Session(device) as session:
        session.measure(np.full((3, 4), 0.5))
        assert session.ledger.total == 3
        assert not any(session.ledger.faults.values())
    assert "3 shots of TCPIP::rig 2 are not in its totals: [Errno" in caplog.text


@pytest.mark.parametrize("text", ["null", "[1]", '{"pid": 4}', '{"pid": 1, "host": 2, "command": 3, "since": "x"}'])
def test_a_lock_whose_note_is_damaged_is_held_by_somebody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("SKPAT_LOCK_DIR", str(tmp_path))
    holder, other = AddressLock("TCPIP::rig"), AddressLock("TCPIP::rig")
    holder.acquire(0, print)
    holder.path.write_text(text)
    with pytest.raises(DeviceBusyError, match="held by another process"):
        other.acquire(0, print)
    assert other.is_held_by_this_thread
    holder.release()
    assert not other.is_held_by_this_thread
    other.acquire(0, print)
    other.release()


@pytest.mark.skipif(sys.platform == "win32", reason="files have no mode there")
def test_every_user_of_an_instrument_may_lock_it_and_count(totals: AddressTotals) -> None:
    lock = AddressLock("TCPIP::rig")
    careful = os.umask(0o077)
    try:
        lock.acquire(0, print)
        totals.add("training", 5)
    finally:
        os.umask(careful)
    lock.release()
    assert [path.stat().st_mode & 0o777 for path in (lock.path, totals._path)] == [0o666, 0o666]


def test_who_holds_an_address_is_told_after_somebody_with_a_longer_name(totals: AddressTotals) -> None:
    lock = AddressLock("TCPIP::rig")
    lock.path.write_text("x" * 4000)
    lock.acquire(0, print)
    assert lock.holder()["pid"] == os.getpid()
    with pytest.raises(DeviceBusyError, match=rf"held by process {os.getpid()} .* on .*, for \d+ s"):
        AddressLock("TCPIP::rig").acquire(0, print)
    lock.release()
