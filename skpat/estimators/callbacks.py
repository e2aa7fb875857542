"""scikit-learn's callbacks in a fit: when they are called, what they are given, and how they may measure meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from skpat.exceptions import ShotBudgetError
from skpat.lab.session import Session

__all__ = ["FitWatch", "without_callbacks", "prediction_session", "refuse_within_fit"]

_LENT = "_lent_session"
# what scikit-learn keeps in an estimator while it is fitted: a copy made meanwhile, for a callback or a file, goes without
_OF_THE_FIT = ("_callback_fit_ctx", "_parent_callback_ctx", "_skl_callbacks", "_skl_callbacks_to_teardown")
Weights = Callable[[], dict[str, np.ndarray]]


class FitWatch:
    """Calls the callbacks of an estimator: once around the fit, and once around every epoch.

    Parameters
    ----------
    estimator : PhysicalNetwork
        Its callbacks are set up here, before anything is sent. They are torn down by ``with_callbacks``.
    X, y, sample_weight
        What ``fit`` was given: callbacks get the same.

    Notes
    -----
    A callback that asks for ``fitted_estimator`` gets a copy with the weights that a fit would return that ended there. It
    measures through the fit's own session, so the device is neither opened twice nor waited for; its shots count as
    prediction, and obey ``max_shots``. Without callbacks nothing is copied and nothing is measured.
    """

    def __init__(self, estimator: Any, X: Any, y: Any, sample_weight: Any):
        self._estimator = estimator
        self._given = {"X": X, "y": y, "metadata": None if sample_weight is None else {"sample_weight": sample_weight}}
        self._context = estimator._init_callback_context(max_subtasks=estimator.max_iter)
        self._epoch_context: Any = None
        self._lent: LentSession | None = None

    def begin(self, session: Session) -> None:
        """The fit begins; nothing has been sent."""
        self._lent = LentSession(session)
        self._context.call_on_fit_task_begin(estimator=self._estimator, **self._given)

    def begin_epoch(self, history: Any, weights: Weights) -> None:
        """An epoch begins."""
        self._epoch_context = self._context.subcontext(task_name="epoch")
        self._epoch_context.call_on_fit_task_begin(
            estimator=self._estimator, **self._given, reconstruction_attributes=self._standing(history, weights)
        )

    def end_epoch(self, history: Any, weights: Weights) -> bool:
        """An epoch has ended; tells whether a callback wants the fit to end with it."""
        return self._epoch_context.call_on_fit_task_end(
            estimator=self._estimator, **self._given, reconstruction_attributes=self._standing(history, weights)
        )

    def end(self, history: Any) -> None:
        """The fit has ended and is recorded. Where the budget is used up, callbacks cannot measure any more."""
        attributes = None if history.interrupted else {_LENT: self._lent}  # after a Ctrl-C nothing more is sent
        with suppress(ShotBudgetError):
            self._context.call_on_fit_task_end(
                estimator=self._estimator, **self._given, reconstruction_attributes=attributes
            )

    def close(self) -> None:
        """The session is the fit's no longer: copies that callbacks have kept open their own."""
        if self._lent is not None:
            self._lent.session = None

    def _standing(self, history: Any, weights: Weights) -> Callable[[], dict[str, Any]]:
        """What a copy needs to be what the fit would give if it ended now; worked out only if a callback asks."""

        def attributes() -> dict[str, Any]:
            scores = history.validation_scores
            return {
                _LENT: self._lent,
                "weights_": {name: value.copy() for name, value in weights().items()},
                "n_iter_": len(history.loss_curve),
                "loss_": history.loss_curve[-1] if history.loss_curve else np.nan,
                "loss_curve_": list(history.loss_curve),
                "shots_curve_": list(history.shots_curve),
                "validation_scores_": list(scores) if scores else None,
                "best_validation_score_": max(scores, default=None),
                "_identity": None if self._lent is None else self._lent.identity,
            }

        return attributes


class LentSession:
    """The session of a fit under way, for the predictions of its copies. It ends with the fit, and is never pickled.

    Parameters
    ----------
    session : Session or None
        None: of a fit that has ended.
    """

    def __init__(self, session: Session | None = None):
        self.session = session

    @property
    def identity(self) -> str | None:
        """Who answers, by its own words."""
        return None if self.session is None else self.session.identity

    def __reduce__(self) -> tuple:
        return type(self), ()


class _Aside:
    """Predictions within a fit: through its session, on record apart from what the fit itself measures."""

    def __init__(self, session: Session):
        self._session = session

    def run(self, row_keys: Any, purpose: str, *, shot: int | None = None) -> Callable[..., np.ndarray]:
        return self._session.run(row_keys, purpose, shot=shot, aside=True)

    @property
    def identity(self) -> str | None:
        return self._session.identity

    def __enter__(self) -> _Aside:
        return self

    def __exit__(self, *error: Any) -> None:
        """The session stays open: the fit goes on with it."""


def prediction_session(estimator: Any, n_rows: int) -> Any:
    """What a prediction measures through: a session of its own, or that of the fit it is made in.

    Parameters
    ----------
    estimator : PhysicalNetwork
    n_rows : int
        How many rows are to be predicted.

    Returns
    -------
    context manager
        Gives something with the ``run`` of a :class:`skpat.lab.Session`.

    Raises
    ------
    ShotBudgetError
        If the fit's budget does not reach for all rows. None of them was sent.
    """
    session = getattr(estimator, _LENT, _NONE).session
    if session is None:
        return Session(estimator.device_, n_shots=estimator.n_shots, ledger=estimator.ledger_)
    session.keep_within_budget(n_rows * estimator._network.n_calls * estimator.n_shots)
    return _Aside(session)


def refuse_within_fit(estimator: Any) -> None:
    """Raise RuntimeError if the estimator is the copy that a callback got, and the fit it was copied from goes on.

    They share the device, the twin and the generator, so that each would change the other.
    """
    if getattr(estimator, _LENT, _NONE).session is not None:
        raise RuntimeError(
            "The 'fitted_estimator' of a callback must not be trained while the fit goes on: it shares the device and the "
            "twin with it. Got a call of fit, partial_fit or recalibrate. Train sklearn.base.clone(fitted_estimator) or a deep "
            "copy, with journal=None."
        )


def without_callbacks(state: dict[str, Any]) -> dict[str, Any]:
    """An estimator's state without what scikit-learn keeps in it during a fit only: the callbacks and their contexts."""
    if "_callback_fit_ctx" not in state:
        return state
    return {name: value for name, value in state.items() if name not in _OF_THE_FIT}


_NONE = LentSession()
