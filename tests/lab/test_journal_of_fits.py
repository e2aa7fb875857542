"""A journal of fits: the same fit again goes on where it was, and its file may be moved, copied and shared."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from skpat import PhysicalNetworkClassifier, as_device
from skpat.devices import SecondHarmonicLaser
from skpat.exceptions import JournalError
from skpat.lab import Journal, Session
from tests.combinations import mostly_slow

from .recorded_device import LASER, POOL, SMALL_TWIN, Counter, data, fitted, same_weights


def test_a_fit_leaves_a_file_that_may_be_moved(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    for night in range(2):
        trained = fitted(path, max_iter=1)
        shutil.move(path, tmp_path / f"night_{night}.db")
        assert not list(tmp_path.glob("run.db*"))
        with Journal(tmp_path / f"night_{night}.db") as moved:
            assert len(moved.to_arrays()["outputs"]) == trained.ledger_.total > 0


def test_a_recalibration_leaves_a_file_that_may_be_moved(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    trained = fitted(path, max_iter=1)
    n_of_fit = trained.ledger_.total
    trained.recalibrate(*data(), max_shots=200)
    assert not list(tmp_path.glob("run.db-*"))
    with Journal(path) as journal:
        assert len(journal.to_arrays()["outputs"]) == trained.ledger_.total > n_of_fit


def test_a_replayed_fit_is_in_the_file_of_a_journal_that_stays_open(tmp_path: Path) -> None:
    with Journal(tmp_path / "run.db") as journal:
        fitted(journal, max_iter=1)
        n_shots = fitted(journal, max_iter=1).ledger_.replayed
        shutil.copy(tmp_path / "run.db", tmp_path / "copy.db")
    with Journal(tmp_path / "copy.db") as copied:
        assert copied.query("SELECT replayed FROM epochs") == [(sum(n_shots.values()),)]


def test_a_refused_fit_leaves_the_file_closed(tmp_path: Path) -> None:
    fitted(tmp_path / "run.db", max_iter=1)
    other = SecondHarmonicLaser(LASER.n_controls, LASER.n_outputs, coupling=1.0)
    with pytest.raises(JournalError, match="must be of this device") as caught:
        fitted(tmp_path / "run.db", device=other)
    assert [path.name for path in tmp_path.iterdir()] == ["run.db"]
    del caught


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_child_does_not_keep_a_run_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = """
        import os, sys, time
        from skpat import as_device
        from skpat.lab import Journal, Session
        device = as_device(abs, n_controls=1, n_outputs=1, bounds=(0, 1), name="rig")
        session = Session(device, journal=Journal(sys.argv[1]).run(device, "a fit"))
        session.measure([[0.5]])
        child = os.fork()
        if not child:
            time.sleep(60)
        print(child, flush=True)
        os.kill(os.getpid(), 9)
    """
    path = tmp_path / "run.db"
    command = [sys.executable, "-c", textwrap.dedent(script), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        child = int(killed.stdout.readline())
        killed.stdout.close()
        killed.wait()
    try:
        device = as_device(abs, n_controls=1, n_outputs=1, bounds=(0, 1), name="rig")
        with Journal(path) as journal, Session(device, journal=journal.run(device, "a fit"), wait=5) as session:
            session.measure(np.array([[0.5], [0.25]]))
            assert session.ledger.total == 1
    finally:
        os.kill(child, 9)


def test_the_same_fit_again_costs_no_shot_and_gives_the_same_weights(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    bare, first, again = fitted(None), fitted(str(path)), fitted(path)
    assert same_weights(bare, first)
    assert same_weights(bare, again)
    assert again.ledger_.total == 0
    assert again.ledger_.replayed == first.ledger_.shots == bare.shots_
    assert again.shots_curve_ == bare.shots_curve_
    np.testing.assert_array_equal(again.predict(data()[0]), bare.predict(data()[0]))
    assert again.shots_["prediction"] == 80  # predictions are measured, always


def columns_first(controls: np.ndarray) -> np.ndarray:
    """As a driver that reads (n_outputs, n_rows) and transposes."""
    return np.ascontiguousarray(np.tanh(controls @ WEIGHTS).T).T


WEIGHTS = np.random.default_rng(0).normal(size=(8, 5))


@pytest.mark.parametrize(
    ("gradient", "how"),
    mostly_slow(
        [("physics_aware", (None, 2)), ("spsa", (1, 1)), ("physics_aware", (7, 2)), ("spsa", (7, 2))],
        ["physics_aware", "spsa"],
        [(None, 2), (1, 1), (7, 2)],
    ),
)
def test_answers_that_lie_column_by_column_are_replayed_to_the_same_weights(
    tmp_path: Path, gradient: str, how: tuple[int | None, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    max_batch, n_shots = how
    path, left = tmp_path / "run.db", [np.inf]

    def measure(controls: np.ndarray) -> np.ndarray:
        left[0] -= len(controls)
        if left[0] < 0:
            raise OSError("The cable is out.")
        return columns_first(controls)

    about = {"name": "bank", "max_batch": max_batch, "clear_line": lambda: None}
    device = as_device(measure, n_controls=8, n_outputs=5, bounds=(-1, 1), **about)
    monkeypatch.setattr("skpat.lab.session._FIRST_PAUSE", 0.001)
    params = {"device": device, "gradient": gradient, "n_shots": n_shots, "max_iter": 2}
    whole = fitted(None, **params)
    left[0] = 0.7 * sum(whole.shots_.values())
    with pytest.raises(OSError, match=r"The cable is out"):
        fitted(path, **params)
    left[0] = np.inf
    resumed, again = fitted(path, **params), fitted(path, **params)
    assert same_weights(whole, resumed)
    assert same_weights(whole, again)
    assert again.ledger_.total == 0 < resumed.ledger_.total < sum(whole.shots_.values())


def test_sparse_data_have_one_name_in_every_format(tmp_path: Path) -> None:
    X, y = data()
    path, first = tmp_path / "run.db", None
    for kind in ("csr", "csc", "coo", "dok", "lil"):
        network = PhysicalNetworkClassifier(LASER, max_iter=1, n_calibration_shots=60, random_state=0, journal=path)
        network.fit(sparse.coo_matrix(X).asformat(kind), y)
        first = first or network
        assert same_weights(first, network)
        assert (network.ledger_.total == 0) == (network is not first)


def test_other_parameters_data_and_seeds_are_other_runs(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    fitted(path)
    for params in ({"random_state": 1}, {"alpha": 0.5}, {"max_iter": 2}):
        assert sum(fitted(path, **params).ledger_.replayed.values()) == 0
    assert sum(fitted(path, verbose=0).ledger_.replayed.values()) > 0


def test_without_a_seed_the_run_keeps_the_one_it_was_begun_with(tmp_path: Path) -> None:
    first, again = (fitted(tmp_path / "run.db", random_state=None) for _ in range(2))
    assert same_weights(first, again)
    assert again.ledger_.total == 0
    assert not same_weights(first, fitted(tmp_path / "other.db", random_state=None))


def test_partial_fits_and_warm_starts_are_replayed_in_their_turn(tmp_path: Path) -> None:
    def go(journal: Any) -> PhysicalNetworkClassifier:
        network = PhysicalNetworkClassifier(
            LASER, SMALL_TWIN, journal=journal, n_calibration_shots=60, random_state=0, max_iter=2
        )
        for _ in range(3):
            network.partial_fit(*data(), classes=[False, True])
        return network.set_params(warm_start=True).fit(*data())

    bare, first, again = go(None), go(tmp_path / "run.db"), go(tmp_path / "run.db")
    assert same_weights(bare, first)
    assert same_weights(bare, again)
    assert again.ledger_.total == 0


class Interrupted(SecondHarmonicLaser):
    """Ctrl-C comes in the 25th call of ``measure``; ``calls`` and ``opened`` count those of all copies."""

    calls = opened = 0

    def open(self) -> None:
        type(self).opened += 1

    def measure(self, batch: Any) -> Any:
        type(self).calls += 1
        if type(self).calls == 25:
            raise KeyboardInterrupt
        return super().measure(batch)


def fitted_with_interruption(journal: Any) -> PhysicalNetworkClassifier:
    return fitted(journal, device=Interrupted(16, 12, n_steps=3), max_iter=4)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_ctrl_c_and_the_same_fit_again_end_where_an_uninterrupted_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    monkeypatch.setattr(Interrupted, "calls", 0)
    with pytest.warns(UserWarning, match="interrupted in epoch"):
        broken = fitted_with_interruption(tmp_path / "run.db")
    if elsewhere:  # where the last digits are others, it is refused, and nothing is lost
        used = Interrupted.calls, Interrupted.opened
        with monkeypatch.context() as other_processor:
            other_processor.setattr("skpat.twins.neural_module._RIDGE", 0.1 * (1 + 1e-9))
            with pytest.raises(JournalError, match=r"other settings, with \d+ recorded rows left\. Nothing was sent"):
                fitted_with_interruption(tmp_path / "run.db")
        assert (Interrupted.calls, Interrupted.opened) == used  # the instrument is not even opened
    again, bare = fitted_with_interruption(tmp_path / "run.db"), fitted_with_interruption(None)
    assert not same_weights(broken, bare)
    assert same_weights(again, bare)
    assert broken.ledger_.total + again.ledger_.total == bare.ledger_.total + 16  # the piece under way was not answered


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=8), st.integers(0, 8), st.sampled_from([None, 2]))
@settings(max_examples=40)
def test_a_run_that_leaves_its_record_is_stopped_before_its_first_new_shot(
    recorded: list[tuple[int, bool]], n_asked: int, max_batch: int | None
) -> None:
    new = np.full((3, 3), 0.25)
    asked = [row for row, aside in recorded if not aside]
    with tempfile.TemporaryDirectory() as folder, Journal(f"{folder}/run.db") as journal:
        begun = Session(Counter(max_batch), journal=journal.run(Counter(max_batch), "a fit"))
        for row, aside in recorded:
            begun.measure(POOL[[row, row]], aside=aside)
        begun.close()
        device = Counter(max_batch)
        with Session(device, journal=journal.run(device, "a fit")) as again:
            for row in asked[:n_asked]:
                again.measure(POOL[[row, row]])
            again.measure(new, aside=True)
            if n_asked < len(asked):
                with pytest.raises(JournalError, match=f"with {2 * (len(asked) - n_asked)} recorded rows left"):
                    again.measure(new)
            else:  # what was measured aside may be left
                again.measure(new)
            assert device.answered == len(new) * (1 if n_asked < len(asked) else 2)
