"""Shots that got no answer count for whoever goes on with a run, where they were asked for."""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skpat import Device, PhysicalNetworkClassifier
from skpat.deployment import load
from skpat.exceptions import DeviceConnectionError, JournalError
from skpat.inspection import compare_baselines, shots_scorer
from skpat.lab import Journal, Ledger, Session

from .recorded_device import SMALL_TWIN, data, same_weights

WIRING = np.random.default_rng(0).normal(size=(8, 5))


class Crash(Exception):
    """The process has come to its end."""


class Flaky(Device):
    """Calls of this process fail by number: a time-out, or the end of the process."""

    n_controls, n_outputs, bounds, max_batch = 8, 5, (-1.0, 1.0), 20
    faults: frozenset[int] = frozenset()
    crash: int | None = None
    calls = 0

    def measure(self, batch: Any) -> np.ndarray:
        Flaky.calls += 1
        if Flaky.calls in Flaky.faults:
            raise OSError("time-out")
        if Flaky.calls == Flaky.crash:
            raise Crash
        return np.tanh(np.asarray(batch) @ WIRING)


def process(faults: Any = (), crash: int | None = None) -> None:
    """Begin a new one, in which calls fail."""
    Flaky.calls, Flaky.faults, Flaky.crash = 0, frozenset(faults), crash


def network(journal: Any, max_shots: int | None = 700, **params: Any) -> PhysicalNetworkClassifier:
    return PhysicalNetworkClassifier(
        Flaky(),
        twin=SMALL_TWIN,
        journal=journal,
        max_iter=8,
        batch_size=16,
        max_shots=max_shots,
        random_state=0,
        **params,
    )


@settings(max_examples=6)
@given(st.sets(st.integers(1, 25), max_size=3), st.integers(2, 45), st.sampled_from([600, 900, None]))
def test_a_run_that_goes_on_has_the_shots_left_that_it_had(faults: set[int], crash: int, max_shots: int | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.db"
        process(faults, crash)
        with suppress(Crash):
            network(path, max_shots).fit(*data())
        process()
        gone_on = network(path, max_shots).fit(*data())
        assert max_shots is None or sum(gone_on.ledger_.asked.values()) <= max_shots
        replayed = network(path, max_shots).fit(*data())
        assert replayed.ledger_.total == 0
        assert replayed.ledger_.asked == gone_on.ledger_.asked
        assert same_weights(replayed, gone_on)


def test_a_replay_is_told_of_every_shot_of_the_fit(tmp_path: Path) -> None:
    process(faults=[2, 9, 10])
    first = network(tmp_path / "run.db").fit(*data())
    again = network(tmp_path / "run.db").fit(*data())
    assert first.ledger_.total == sum(again.ledger_.replayed.values()) <= 700
    assert same_weights(first, again)
    assert first.shots_curve_ == again.shots_curve_
    with Journal(tmp_path / "run.db") as journal:
        ((n_lost,),) = journal.query("SELECT sum(shots) FROM lost")
        assert first.ledger_.total - len(journal.to_arrays()["outputs"]) == n_lost > 30


def test_scores_of_shots_do_not_depend_on_who_answers(tmp_path: Path) -> None:
    process(faults=[3])
    first = network(tmp_path / "run.db").fit(*data())
    again = network(tmp_path / "run.db").fit(*data())
    assert shots_scorer(first) == shots_scorer(again) == first.ledger_.total
    process()
    fresh, replayed = (
        compare_baselines(network(tmp_path / "other.db", 400), *data(), cv=2, baselines=["linear"]) for _ in range(2)
    )
    assert fresh["estimator"].shots == replayed["estimator"].shots
    assert sum(fresh["estimator"].shots.values()) > 100


def test_what_a_session_lost_is_counted_once(tmp_path: Path) -> None:
    row = np.full((4, 8), 0.5)
    with Journal(tmp_path / "run.db") as journal:
        process(faults=range(1, 7))
        given_up = Session(Flaky(), journal=journal.run(Flaky(), "a fit"), max_shots=60)
        with pytest.raises(DeviceConnectionError):
            given_up.measure(row)
        assert given_up.ledger.total == 24  # it tries six times
        given_up.measure(row)
        assert given_up.ledger.total == 28
        given_up.close()
        another = Session(Flaky(), journal=journal.run(Flaky(), "a fit"), max_shots=60)
        another.measure(row)
        assert another.ledger.asked["prediction"] == 28
        assert another.shots_left == 32
        another.measure(row)
        assert another.ledger.asked["prediction"] == 32
        another.close()


def test_what_another_lost_is_counted_before_the_next_shot(tmp_path: Path) -> None:
    row = np.full((4, 8), 0.5)
    with Journal(tmp_path / "run.db") as journal:
        process(crash=2)
        with Session(Flaky(), journal=journal.run(Flaky(), "a fit")) as session:
            session.measure(row)
            with pytest.raises(Crash):
                session.measure(row)
        process()
        for n_new in (4, 0):  # by who goes on, then by a replay of that
            with Session(Flaky(), journal=journal.run(Flaky(), "a fit")) as session:
                session.measure(row)
                assert session.ledger.asked["prediction"] == 4
                session.measure(row)
                assert session.ledger.asked["prediction"] == 12
                assert session.ledger.total == n_new


@pytest.mark.parametrize("shots", [-1, "many", None, 2**60])
def test_a_count_that_is_none_is_a_damaged_file(tmp_path: Path, shots: Any) -> None:
    process(faults=[2])
    network(tmp_path / "run.db").fit(*data())
    with closing(sqlite3.connect(tmp_path / "run.db")) as file:
        assert file.execute("SELECT shots FROM lost").fetchall() == [(20,)]
        file.execute("UPDATE lost SET shots = ?", (shots,))
        file.commit()
    with pytest.raises(JournalError, match="how many shots of run 1 got no answer"):
        network(tmp_path / "run.db").fit(*data())


def test_a_journal_without_such_counts_is_gone_on_with(tmp_path: Path) -> None:
    process()
    first = network(tmp_path / "run.db").fit(*data())
    with closing(sqlite3.connect(tmp_path / "run.db")) as file:
        file.execute("DROP TABLE lost")
        file.commit()
    assert same_weights(first, network(tmp_path / "run.db").fit(*data()))


def test_what_others_are_answered_meanwhile_is_not_lost(tmp_path: Path) -> None:
    process()
    ledger, rows = Ledger(), np.full((4, 8), 0.5)

    class Busy(Flaky):
        def measure(self, batch: Any) -> np.ndarray:
            ledger.add("prediction", 7)  # another session, at the same time
            return super().measure(batch)

    with Session(Busy(), ledger=ledger, journal=Journal(tmp_path / "run.db")) as session:
        session.measure(rows)
    with Journal(tmp_path / "run.db") as journal:
        assert journal.query("SELECT count(*) FROM lost") == [(0,)]


class Dated(Flaky):
    """Tells its first output by the clock: the row's number in a run that was never interrupted."""

    def measure(self, batch: Any) -> np.ndarray:
        answer = super().measure(batch)
        answer[:, 0] += batch.clock / 1000
        return answer


def test_predictions_after_a_crash_are_at_the_clock_of_an_uninterrupted_run(tmp_path: Path) -> None:
    def fitted(journal: Any) -> PhysicalNetworkClassifier:
        return network(journal, None).set_params(device=Dated()).fit(*data())

    process()
    whole = fitted(tmp_path / "whole.db")
    process(crash=9)
    with suppress(Crash):
        fitted(tmp_path / "run.db")
    process()
    resumed = fitted(tmp_path / "run.db")
    assert resumed.ledger_.asked_in_all > whole.ledger_.asked_in_all  # what was lost is counted
    assert resumed.ledger_.clock == whole.ledger_.clock
    assert same_weights(resumed, whole)
    resumed.deploy().save(tmp_path / "resumed.skpat")
    whole.deploy().save(tmp_path / "whole.skpat")
    np.testing.assert_array_equal(resumed.decision_function(data()[0]), whole.decision_function(data()[0]))
    found = [load(tmp_path / f"{name}.skpat", Dated()).decision_function(data()[0]) for name in ("resumed", "whole")]
    np.testing.assert_array_equal(*found)
