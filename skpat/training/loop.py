"""The training loop: epochs, the best weights, early stopping, and what ends a run before its time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from skpat.exceptions import ShotBudgetError
from skpat.network.layers import OutputStatistics
from skpat.training.trainer import Data, Trainer
from skpat.user_warning import warn_user

__all__ = ["Checks", "History", "Patience", "Watch", "train"]


@dataclass
class History:
    """What a run has recorded, one entry per epoch."""

    loss_curve: list[float] = field(default_factory=list)
    validation_scores: list[float] = field(default_factory=list)
    shots_curve: list[int] = field(default_factory=list)
    interrupted: bool = False  # by Ctrl-C


class Watch(Protocol):
    """Somebody who looks on. ``weights()`` gives those that the run would return if it ended now."""

    def begin_epoch(self, history: History, weights: Callable[[], dict[str, np.ndarray]]) -> None:
        """An epoch begins."""

    def end_epoch(self, history: History, weights: Callable[[], dict[str, np.ndarray]]) -> bool:
        """An epoch has ended; True ends the run."""


@dataclass(frozen=True)
class Checks:
    """What a run measures besides its epochs.

    Parameters
    ----------
    run : callable
        ``run()`` makes one check.
    at : tuple of float
        Parts of the run: before the first epoch that begins at or after each; for 1 at its end.
    shots_each : int
        What one takes of the session's budget.
    """

    run: Callable[[], None]
    at: tuple[float, ...]
    shots_each: int


def train(
    trainer: Trainer,
    data: Data,
    rng: np.random.RandomState,
    *,
    validate: Callable[[dict[str, np.ndarray]], float] | None = None,
    note: Callable[[int, History], None] | None = None,
    watch: Watch | None = None,
    shots_per_epoch: int = 0,
    checks: Checks | None = None,
    begin_at: float = 0.0,
) -> tuple[dict[str, np.ndarray], History]:
    """Train for at most ``max_iter`` epochs. Ctrl-C ends it, and so does the session's budget, with the best weights so far.

    Parameters
    ----------
    trainer : Trainer
    data : Data
    rng : RandomState
    validate : callable, default=None
        ``validate(weights)`` -> score. With it the weights of the best score are kept.
    note : callable, default=None
        Called as ``note(epoch, history)`` after each epoch.
    watch : Watch, default=None
        Called before and after each epoch; ends the run if it says so. Shots that it takes are allowed for as they come.
    shots_per_epoch : int, default=0
        What an epoch takes of the session's budget: where that will end the run, the step size falls in time.
    checks : Checks, default=None
        What is measured besides. The session's budget ends the run so much earlier.
    begin_at : float, default=0.0
        How far the step size has fallen already when the run begins, as a part of its way.

    Returns
    -------
    weights : dict of str to ndarray
    history : History

    Raises
    ------
    NonFiniteTrainingError
        If the loss or a gradient is NaN or infinite.
    """
    settings = trainer.settings
    best, history = _Best(trainer), History()
    pending = _PendingChecks(trainer, checks)
    horizon = _Horizon(trainer, pending, shots_per_epoch)
    patience = Patience(settings.n_iter_no_change, settings.tol)

    def score_or_loss() -> float:
        """What early stopping watches; higher is better."""
        return history.validation_scores[-1] if settings.early_stopping and validate else -history.loss_curve[-1]

    try:
        for epoch in range(settings.max_iter):
            pending.run_due(epoch / horizon.n_epochs)
            if watch is not None:
                with horizon.watching():
                    watch.begin_epoch(history, best.weights)
            start, end = (begin_at + (1 - begin_at) * part / horizon.n_epochs for part in (epoch, epoch + 1))
            history.loss_curve.append(trainer.epoch(data, rng, (start, end)))
            if validate is not None:
                history.validation_scores.append(validate(trainer.weights_now()))
                best.offer(history.validation_scores[-1])
            history.shots_curve.append(trainer.session.ledger.asked_in_fit)
            trainer.loss_so_far = np.nan  # it is on record
            if note is not None:
                note(epoch, history)
            if watch is not None:
                with horizon.watching():
                    if watch.end_epoch(history, best.weights):
                        break
            horizon.look_again(epoch + 1)
            if patience.is_over(score_or_loss()):
                break
        pending.run_last()
    except ShotBudgetError:
        n_done = _record_broken_epoch(history, trainer)
        _end_of_budget(history, trainer, pending, n_done, validated=validate is not None)
    except KeyboardInterrupt:
        n_done = _record_broken_epoch(history, trainer)
        history.interrupted = True
    else:
        return _finished(trainer, data, best.restored()), history
    finally:
        trainer.session.kept_back = 0
    if history.interrupted:
        journal = trainer.session.journal
        on_record = "" if journal is None else f" The same script, run again, goes on from what is in {journal.path}."
        warn_user(
            f"The training was interrupted in epoch {n_done + 1} of {settings.max_iter}. The estimator keeps the best weights "
            f"so far.{on_record}",
        )
    return best.restored(), history


class _Best:
    """The weights of the best score, or the last ones where nothing is scored."""

    def __init__(self, trainer: Trainer):
        self._trainer = trainer
        self._score = -np.inf
        self._weights: dict[str, np.ndarray] | None = None
        self._statistics: list[OutputStatistics] | None = None

    def offer(self, score: float) -> None:
        """The trainer's weights have this score."""
        if score > self._score:
            self._score, self._weights = score, self._trainer.weights_now()
            self._statistics = copy.deepcopy(self._trainer.statistics)

    def weights(self) -> dict[str, np.ndarray]:
        return self._trainer.weights_now() if self._weights is None else self._weights

    def restored(self) -> dict[str, np.ndarray]:
        """The best weights; the output statistics that belong to them are put back into the trainer."""
        if self._statistics is not None:
            self._trainer.statistics[:] = self._statistics
        return self.weights()


class _PendingChecks:
    """The checks of a run that are still to come, and the shots that are kept back for them."""

    def __init__(self, trainer: Trainer, checks: Checks | None):
        self._session, self._run = trainer.session, None if checks is None else checks.run
        self._at = [] if checks is None else sorted(checks.at)
        self._shots_each = 0 if checks is None else checks.shots_each
        self._session.kept_back = self._shots_each if self._at and self._at[-1] >= 1 else 0

    @property
    def shots_left(self) -> float:
        """What is left of the session's budget for epochs."""
        n_within = sum(at < 1 for at in self._at)
        return max(self._session.shots_left - n_within * self._shots_each, 0.0)

    def run_due(self, part: float) -> None:
        """Those that are due when this part of the run is over."""
        while self._run is not None and self._at and self._at[0] < 1 and self._at[0] <= part:
            self._at.pop(0)
            self._run()

    def run_last(self) -> None:
        """The one at the end; also where the run has ended before those within it."""
        self._session.kept_back = 0
        if self._run is not None and self._at:
            self._at.clear()
            self._run()


class _Horizon:
    """How many epochs the run will have, as far as that can be known; along them the step size falls."""

    def __init__(self, trainer: Trainer, checks: _PendingChecks, shots_per_epoch: int):
        self._ledger, self._checks = trainer.session.ledger, checks
        self._most, self._shots_per_epoch, self._n_watched = trainer.settings.max_iter, shots_per_epoch, 0
        self.n_epochs = float(self._most)
        if shots_per_epoch:
            # repeats may have left nothing
            self.n_epochs = min(self.n_epochs, checks.shots_left / shots_per_epoch) or 1.0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """The shots within are those of somebody who looks on."""
        before = self._ledger.asked_in_all
        yield
        self._n_watched += self._ledger.asked_in_all - before

    def look_again(self, n_done: int) -> None:
        """After so many epochs: who looks on will go on taking shots."""
        if self._n_watched:
            per_epoch = self._shots_per_epoch + self._n_watched / n_done
            self.n_epochs = min(self._most, n_done + self._checks.shots_left / per_epoch)


class Patience:
    """Ends a run in which nothing has got better by ``tol`` for ``n_epochs`` epochs."""

    def __init__(self, n_epochs: int, tol: float):
        self._n_epochs, self._tol, self._best, self._n_since = n_epochs, tol, -np.inf, 0

    def is_over(self, value: float) -> bool:
        """After an epoch; higher values are better."""
        self._n_since = 0 if value > self._best + self._tol else self._n_since + 1
        self._best = max(self._best, value)
        return self._n_since >= self._n_epochs


def _record_broken_epoch(history: History, trainer: Trainer) -> int:
    """Put an epoch that was cut short on record; how many were finished."""
    n_done = len(history.shots_curve)
    was_just_noted = bool(n_done) and np.isnan(trainer.loss_so_far)
    if len(history.loss_curve) == n_done and not was_just_noted:
        history.loss_curve.append(trainer.loss_so_far)
    if len(history.loss_curve) > n_done:
        history.shots_curve.append(trainer.session.ledger.asked_in_fit)
    return n_done


def _end_of_budget(history: History, trainer: Trainer, checks: _PendingChecks, n_done: int, validated: bool) -> None:
    """What is still to be done, and to be said, when ``max_shots`` has ended a run."""
    if not n_done and np.isnan(trainer.loss_so_far):
        warn_user(
            "The training must have shots for at least one step. Got none: repeats after faults have taken what "
            "'max_shots' allows for. The weights are those it began with.",
        )
        return
    if validated and not history.validation_scores:
        warn_user(
            "What is held out must be scored at least once. Got no score: 'max_shots' ended within the first epoch. "
            "The weights are the last ones. Use a larger max_shots, or train without early_stopping and X_val.",
        )
    try:
        checks.run_last()
    except ShotBudgetError:  # repeats have left too little
        pass
    except KeyboardInterrupt:
        history.interrupted = True


def _finished(trainer: Trainer, data: Data, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights after what the method does last; as they are if the budget, or Ctrl-C, does not allow it."""
    trainer.set_weights(weights)
    try:
        trainer.gradient.finish(trainer, data)
    except ShotBudgetError:
        return weights
    except KeyboardInterrupt:
        warn_user(
            "The end of the training was interrupted. The estimator keeps the weights it had before it.",
        )
        return weights
    return trainer.weights_now()
