"""What a run keeps and puts on record, and when, wherever it ends: with a trainer that only counts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from skpat.exceptions import ShotBudgetError
from skpat.training.loop import Checks, train


class Ledger:
    asked_in_all = 0

    @property
    def asked_in_fit(self) -> int:
        return self.asked_in_all


class Session:
    """A budget, and what is left of it."""

    def __init__(self, max_shots: float):
        self.max_shots, self.kept_back, self.ledger = max_shots, 0, Ledger()
        self.journal: Any = None

    @property
    def shots_left(self) -> float:
        return self.max_shots - self.kept_back - self.ledger.asked_in_all

    def spend(self, n_shots: int) -> None:
        if n_shots > self.shots_left:
            raise ShotBudgetError("too many", max_shots=int(self.max_shots))
        self.ledger.asked_in_all += n_shots


class Counting:
    """Its one weight is the number of steps so far, and its loss 100 less these; an epoch is two steps of four shots."""

    def __init__(self, max_iter: int = 4, max_shots: float = np.inf, stop: tuple[Any, int] | None = None):
        self.settings = SimpleNamespace(max_iter=max_iter, n_iter_no_change=10**6, tol=0.0, early_stopping=False)
        self.session, self.stop = Session(max_shots), stop
        self.weight, self.statistics, self.loss_so_far = 0, [0], np.nan
        self.progress: list[tuple[float, float]] = []
        self.gradient = SimpleNamespace(finish=lambda trainer, data: None)

    def epoch(self, data: Any, rng: Any, progress: tuple[float, float]) -> float:
        self.progress.append(progress)
        self.loss_so_far = np.nan
        for _ in range(2):
            if self.stop is not None and self.weight == self.stop[1]:
                raise self.stop[0]
            self.session.spend(4)
            self.weight += 1
            self.statistics[0] = self.weight
            self.loss_so_far = 100.0 - self.weight
        return self.loss_so_far

    def weights_now(self) -> dict[str, Any]:
        return {"n_steps": self.weight}

    def set_weights(self, weights: dict[str, Any]) -> None:
        self.weight = weights["n_steps"]


def run(trainer: Counting, **params: Any) -> tuple[int, Any]:
    weights, history = train(trainer, None, np.random.RandomState(0), **params)  # type: ignore[arg-type]
    assert trainer.session.kept_back == 0
    return int(weights["n_steps"]), history


def raising(error: BaseException) -> Any:
    def call(*args: Any) -> None:
        raise error

    return call


CTRL_C = pytest.mark.filterwarnings("ignore:The training was interrupted")
OUT_OF_SHOTS = pytest.mark.filterwarnings("ignore:The training must have shots")


@CTRL_C
@OUT_OF_SHOTS
@pytest.mark.parametrize("error", [KeyboardInterrupt(), ShotBudgetError("none are left", max_shots=1)])
@pytest.mark.parametrize(
    ("n_steps", "losses"), [(0, [np.nan]), (1, [99.0]), (2, [98.0]), (3, [98.0, 97.0]), (4, [98.0, 96.0])]
)
def test_an_epoch_that_is_cut_short_is_on_record_once_if_it_made_a_step(
    error: BaseException, n_steps: int, losses: list[float]
) -> None:
    trainer = Counting(stop=(error, n_steps))
    kept, history = run(trainer, checks=Checks(lambda: None, (1.0,), 10))
    assert kept == n_steps
    np.testing.assert_array_equal(history.loss_curve, losses)
    assert len(history.shots_curve) == len(losses)
    assert history.shots_curve[-1] == 4 * n_steps
    assert history.interrupted == isinstance(error, KeyboardInterrupt)


@CTRL_C
@pytest.mark.parametrize("where", ["validate", "note", "begin_epoch", "end_epoch", "checks"])
def test_ctrl_c_beside_the_steps_puts_no_epoch_on_record_twice(where: str) -> None:
    stop = raising(KeyboardInterrupt())
    watch = SimpleNamespace(begin_epoch=lambda *args: None, end_epoch=lambda *args: False)
    params: dict[str, Any] = {"watch": watch}
    if where in ("begin_epoch", "end_epoch"):
        setattr(watch, where, lambda history, weights: stop() if len(history.loss_curve) == 1 else False)
    elif where == "checks":
        params["checks"] = Checks(stop, (0.25,), 0)
    else:
        params[where] = stop
    kept, history = run(Counting(), **params)
    assert kept == 2
    assert history.loss_curve == [98.0]
    assert history.shots_curve == [8]
    assert history.interrupted


def test_the_step_falls_where_it_will_end_with_the_shots_of_whoever_looks_on() -> None:
    trainer = Counting(max_iter=1000, max_shots=1000)
    look = SimpleNamespace(
        begin_epoch=lambda *args: trainer.session.spend(1), end_epoch=lambda *args: trainer.session.spend(1)
    )
    run(trainer, watch=look, shots_per_epoch=8)
    assert trainer.progress[0] == (0.0, 1 / 125)  # nobody has looked on yet
    expected = np.arange(1, 100) / 100
    np.testing.assert_allclose(trainer.progress[1:], np.stack([expected, expected + 0.01], axis=1))


@pytest.mark.parametrize("max_shots", [1000, np.inf])
def test_whoever_looks_on_makes_no_run_longer_than_its_epochs(max_shots: float) -> None:
    trainer = Counting(max_iter=4, max_shots=max_shots)
    look = SimpleNamespace(begin_epoch=lambda *args: trainer.session.spend(1), end_epoch=lambda *args: False)
    run(trainer, watch=look, shots_per_epoch=8)
    assert trainer.progress == [(0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0)]


def test_a_budget_that_does_not_reach_for_the_checks_is_one_epoch_long() -> None:
    trainer = Counting(max_shots=20)
    run(trainer, checks=Checks(lambda: None, (0.0, 0.5, 1.0), 8), shots_per_epoch=8)
    assert trainer.progress[0] == (0.0, 1.0)


@pytest.mark.parametrize(("early_stopping", "n_epochs"), [(True, 3), (False, 6)])
def test_scores_of_rows_that_are_not_held_out_end_no_run(early_stopping: bool, n_epochs: int) -> None:
    trainer = Counting(max_iter=6)
    trainer.settings.n_iter_no_change, trainer.settings.early_stopping = 2, early_stopping
    _, history = run(trainer, validate=lambda weights: 1.0)  # the loss falls all the time
    assert len(history.loss_curve) == n_epochs


@pytest.mark.parametrize("journal", [None, "run.db"])
@pytest.mark.parametrize(("n_steps", "epoch"), [(0, 1), (2, 2), (5, 3)])
def test_an_interrupted_run_says_where_it_was_and_what_is_on_record(
    n_steps: int, epoch: int, journal: str | None
) -> None:
    trainer = Counting(stop=(KeyboardInterrupt(), n_steps))
    trainer.session.journal = None if journal is None else SimpleNamespace(path=journal)
    with pytest.warns(UserWarning, match=f"interrupted in epoch {epoch} of 4") as caught:
        run(trainer)
    assert ("goes on from what is in run.db" in str(caught[0].message)) == (journal is not None)


def test_a_run_that_begins_on_its_way_goes_the_rest_of_it() -> None:
    trainer = Counting(max_iter=2)
    run(trainer, begin_at=0.5)
    assert trainer.progress == [(0.5, 0.75), (0.75, 1.0)]


@pytest.mark.parametrize(
    ("max_shots", "checked_at"), [(np.inf, [0, 4, 8]), (8 * 4 + 3 * 5, [0, 4, 8]), (36, [0, 4, 5])]
)
def test_checks_are_made_when_they_are_due_and_what_the_last_one_takes_is_kept(
    max_shots: float, checked_at: list[int]
) -> None:
    trainer, seen = Counting(max_shots=max_shots), []

    def check() -> None:
        trainer.session.spend(5)
        seen.append(trainer.weight)

    run(trainer, checks=Checks(check, (1.0, 0.0, 0.5), 5), shots_per_epoch=8)
    assert seen == checked_at


def test_a_last_check_that_finds_no_shots_is_not_made_again() -> None:
    n_checks = []

    def check() -> None:
        n_checks.append(1)
        raise ShotBudgetError("repeats have taken them", max_shots=1)

    kept, _ = run(Counting(), checks=Checks(check, (1.0,), 5))
    assert (kept, len(n_checks)) == (8, 1)


def test_the_best_weights_and_the_statistics_that_belong_to_them_are_kept() -> None:
    trainer = Counting()
    kept, history = run(trainer, validate=lambda weights: -abs(weights["n_steps"] - 4.0))
    assert kept == 4
    assert trainer.statistics == [4]
    assert history.validation_scores == [-2.0, 0.0, -2.0, -4.0]
    assert run(Counting(), validate=lambda weights: 1.0)[0] == 2  # the first of equals, as a training curve marks it


@pytest.mark.filterwarnings("ignore:The end of the training was interrupted")
@pytest.mark.parametrize("error", [None, KeyboardInterrupt(), ShotBudgetError("none are left", max_shots=1)])
def test_what_a_method_does_last_begins_with_the_best_weights_and_is_kept_whole_or_not_at_all(
    error: BaseException | None,
) -> None:
    def finish(trainer: Counting, data: Any) -> None:
        trainer.weight += 100
        if error is not None:
            raise error

    trainer = Counting()
    trainer.gradient.finish = finish
    kept, _ = run(trainer, validate=lambda weights: -abs(weights["n_steps"] - 4.0))
    assert kept == (104 if error is None else 4)
