"""A fit that was to go on with one on record, and asks for something else, is told so."""

from __future__ import annotations

import sqlite3
import threading
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skpat.devices import SecondHarmonicLaser
from skpat.exceptions import JournalError
from skpat.lab import Journal, Session
from skpat.lab.watch import read_status

from .recorded_device import LASER, SMALL_TWIN, Counter, data, fitted


class Fails(SecondHarmonicLaser):
    """After so many calls of this process."""

    calls_left = 10**9

    def measure(self, batch: Any) -> np.ndarray:
        type(self).calls_left -= 1
        if type(self).calls_left < 0:
            raise RuntimeError("the fibre is out")
        return super().measure(batch)


FAILING = Fails(LASER.n_controls, LASER.n_outputs, n_steps=3)


@pytest.fixture
def unfinished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A journal of a fit that an error ended in its training."""
    path = tmp_path / "run.db"
    monkeypatch.setattr(Fails, "calls_left", 12)
    with pytest.raises(RuntimeError, match="fibre"):
        fitted(path, device=FAILING)
    monkeypatch.setattr(Fails, "calls_left", 10**9)
    assert read_status(path).epochs
    return path


def told(path: Path, **params: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted(path, device=FAILING, **params)
    return [str(warning.message) for warning in caught]


def test_a_changed_fit_says_what_is_changed_and_what_is_left_behind(unfinished: Path) -> None:
    n_shots = sum(read_status(unfinished, 1).shots.values())
    (message,) = told(unfinished, max_iter=4, learning_rate_init=0.02)
    assert f"Run 1, of the same data, has not ended, and has {n_shots:,} answers on record." in message
    assert "differs in learning_rate_init (0.01 there, 0.02 here), max_iter (3 there, 4 here). To go on" in message
    assert not told(unfinished, max_iter=5)  # the one before has ended
    assert not told(unfinished, max_iter=4, learning_rate_init=0.02)  # replayed
    assert read_status(unfinished, 1).ended is None
    assert read_status(unfinished, 2).ended is not None


def test_the_same_fit_goes_on_and_ends(unfinished: Path) -> None:
    assert not told(unfinished)
    status = read_status(unfinished)
    assert status.run == 1
    assert "| ended |" in str(status)
    assert not told(unfinished, max_iter=4)


def test_generators_and_objects_are_told_by_name(unfinished: Path) -> None:
    (message,) = told(
        unfinished, random_state=np.random.RandomState(1), alpha=1e-3, batch_size=8, max_iter=1, n_calibration_shots=61
    )
    assert "random_state" not in message  # four are named
    assert (
        "batch_size (16 there, 8 here), max_iter (3 there, 1 here), n_calibration_shots (60 there, 61 here)" in message
    )
    assert " and 1 more. To go on with run 1" in message


def test_a_long_value_is_cut_short(unfinished: Path) -> None:
    (message,) = told(unfinished, twin=type(SMALL_TWIN)((8,), max_iter=6, n_refine_steps=1, learning_rate_init=0.0123))
    assert "twin (NeuralTwin(" in message
    assert "... there" in message
    assert len(message) < 500


def test_other_data_are_another_matter(unfinished: Path) -> None:
    X, y = data()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted(unfinished, device=FAILING).set_params(max_iter=1).fit(X[::-1], y[::-1])


def test_a_fit_that_is_still_written_is_not_called_unfinished(unfinished: Path) -> None:
    with Journal(unfinished) as journal:
        with closing(sqlite3.connect(unfinished)) as file:
            ((signature,),) = file.execute("SELECT signature FROM runs").fetchall()
        run = journal.run(FAILING, signature)
        done, begun = threading.Event(), threading.Event()

        def write() -> None:
            run.begin_writing(run.position(), None)
            begun.set()
            done.wait(60)
            run.end_writing()

        writer = threading.Thread(target=write)
        writer.start()
        begun.wait(60)
        try:
            assert not told(unfinished, max_iter=1)
        finally:
            done.set()
            writer.join()


def test_an_interrupted_fit_has_not_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Any, batch: Any) -> np.ndarray:
        Fails.calls_left -= 1
        if not Fails.calls_left:
            raise KeyboardInterrupt
        return SecondHarmonicLaser.measure(self, batch)

    monkeypatch.setattr(Fails, "calls_left", 12)
    monkeypatch.setattr(Fails, "measure", interrupted)
    assert any("interrupted" in message for message in told(tmp_path / "run.db"))
    assert read_status(tmp_path / "run.db").ended is None


@pytest.mark.parametrize("asked", [None, "", "[]", "7", '{"max_iter": 3}', '{"max_iter": ["3"]}', "[" * 100_000])
def test_what_cannot_be_read_is_not_told_in_detail(unfinished: Path, asked: str | None) -> None:
    with closing(sqlite3.connect(unfinished)) as file:
        file.execute("UPDATE fits SET asked = ?", (asked,))
        file.commit()
    (message,) = told(unfinished, max_iter=1)
    assert "This one differs in what it was asked for. To go on" in message


def test_a_journal_of_an_earlier_version_is_gone_on_with(unfinished: Path) -> None:
    with closing(sqlite3.connect(unfinished)) as file:
        file.execute("DROP TABLE fits")
        file.commit()
    assert read_status(unfinished).ended is None
    assert not told(unfinished)
    assert read_status(unfinished).ended is not None


def test_a_recalibration_ends(tmp_path: Path) -> None:
    fitted(tmp_path / "run.db", max_iter=1).recalibrate(*data(), max_shots=100)
    status = read_status(tmp_path / "run.db")
    assert (status.run, status.title) == (2, "recalibration, 80 rows")
    assert status.ended is not None


def test_an_end_that_is_no_time_is_a_damaged_file(unfinished: Path) -> None:
    with closing(sqlite3.connect(unfinished)) as file:
        file.execute("UPDATE fits SET ended = 'soon'")
        file.commit()
    with pytest.raises(JournalError, match="makes no sense"):
        read_status(unfinished)


def test_sessions_of_their_own_are_no_fits(tmp_path: Path) -> None:
    with Session(Counter(), journal=Journal(tmp_path / "run.db")) as session:
        session.measure(np.zeros((2, 3)))
    assert read_status(tmp_path / "run.db").ended is None


def test_a_recalibration_in_between_hides_nothing(unfinished: Path) -> None:
    other = fitted(unfinished.with_name("other.db"), device=FAILING, max_iter=1)
    other.set_params(journal=unfinished).recalibrate(*data(), max_shots=100)
    assert any("Run 1, of the same data, has not ended" in message for message in told(unfinished, max_iter=1))
