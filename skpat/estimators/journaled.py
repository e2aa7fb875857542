"""A fit with a journal: which run of the record it is, and what an error gives back so that it can be called again."""

from __future__ import annotations

import copy
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils.validation import _num_samples

from skpat.estimators.specification import default_device
from skpat.lab.asked import note_asked
from skpat.lab.fingerprint import fingerprint
from skpat.lab.journal import Journal, JournalRun
from skpat.user_warning import warn_user

__all__ = [
    "closed_at_the_end",
    "find_run",
    "left_alone_if_nothing_was_asked",
    "open_run",
    "own_random_state",
    "scales_taken_back_on_error",
    "taken_back_on_error",
]


def find_run(
    estimator: Any, X: Any, y: Any, others: dict[str, Any], *, go_on: bool, incremental: bool
) -> JournalRun | None:
    """A fit's record in the journal, found by all that the fit depends on. Nothing is sent.

    Parameters
    ----------
    estimator : PhysicalNetwork
        With ``journal=None`` there is no record.
    X, y : array-like
    others : dict of str to array-like or None
        Further data by name.
    go_on : bool
        Whether the fit goes on from an earlier one.
    incremental : bool
        Whether it is a partial one.

    Raises
    ------
    JournalError
        If the journal was made with another device, or the file is no journal.
    """
    if estimator.journal is None:
        return None
    asked = {k: v for k, v in estimator.get_params(deep=False).items() if k not in ("device", "journal", "verbose")}
    state = [estimator.weights_, estimator._rng, estimator.n_iter_] if go_on else []
    refines = go_on and getattr(estimator._gradient.explorer, "refine", False)
    if refines and getattr(estimator.twin_, "is_loaded", False):  # without its shots the training takes another course
        state.append("loaded")
    parts = X, y, *others.values()
    data = [part if part is None else part.tocsr() if hasattr(part, "tocsr") else np.asarray(part) for part in parts]
    device = estimator.device_ if go_on else default_device() if estimator.device is None else estimator.device
    parameters = device.get_params(deep=True) if hasattr(device, "get_params") else {}
    seeds = {name: value for name, value in parameters.items() if name.endswith("random_state")}
    name = type(estimator).__name__
    signature = fingerprint(name, asked, data, (go_on, incremental), state, seeds)
    record = open_run(estimator, device, signature, f"{name}, {_num_samples(X)} rows")
    others = dict(zip(others, data[2:], strict=True))
    of_device = {f"device__{seed}": value for seed, value in seeds.items()}
    if (message := note_asked(record, (name, data[:2]), asked | others | of_device)) is not None:
        warn_user(message)
    return record


def open_run(estimator: Any, device: Any, signature: str, title: str) -> JournalRun:
    """A run in the estimator's journal, which may be a path."""
    journal = estimator.journal if isinstance(estimator.journal, Journal) else Journal(estimator.journal)
    return journal.run(device, signature, title)


def own_random_state(random_state: Any, record: JournalRun | None) -> np.random.RandomState:
    """The user's generator or a new one; None never means numpy's global state, which is not ours to move."""
    if random_state is not None:
        return check_random_state(random_state)
    return np.random.RandomState(None if record is None else record.seed(lambda: secrets.randbits(32)))


@contextmanager
def closed_at_the_end(estimator: Any, record: JournalRun | None) -> Iterator[None]:
    """A journal that was given by its path is closed when the fit has ended, however it ended: the file may be copied or moved.
    One that the user has opened stays open, with everything in the file."""
    try:
        yield
    finally:
        if record is not None:
            if isinstance(estimator.journal, Journal):
                record.journal.checkpoint()
            else:
                record.journal.close()


@contextmanager
def left_alone_if_nothing_was_asked(estimator: Any) -> Iterator[None]:
    """A call that ends with an error before anything was asked of the device, or of a journal, leaves the estimator as it was:
    it predicts as before."""
    before = dict(vars(estimator))
    n_before = before["ledger_"].asked_in_all if "ledger_" in before else 0
    try:
        yield
    except BaseException:
        ledger = vars(estimator).get("ledger_")
        if ledger is None or ledger.asked_in_all == (n_before if ledger is before.get("ledger_") else ledger.n_before):
            vars(estimator).clear()
            vars(estimator).update(before)
        raise


@contextmanager
def scales_taken_back_on_error(estimator: Any, go_on: bool) -> Iterator[None]:
    """After an error a fit that was to go on has the scales of the targets that its weights belong to."""
    names = ("_target_mean", "_target_scale", "_scaled_late") if go_on else ()
    saved = {name: vars(estimator)[name] for name in names if name in vars(estimator)}
    try:
        yield
    except BaseException:
        vars(estimator).update(saved)
        raise


@contextmanager
def taken_back_on_error(
    estimator: Any, record: JournalRun | None, rng: np.random.RandomState, go_on: bool
) -> Iterator[None]:
    """With a journal an error leaves everything a fit starts from as it was: the same call again is the same fit."""
    if record is None:
        yield
        return
    saved = copy.deepcopy(
        (
            rng.get_state(),
            vars(estimator._gradient) if go_on else {},
            vars(estimator.twin_) if go_on and estimator.twin_ is not None else {},
        )
    )
    try:
        yield
    except BaseException:
        state, of_gradient, of_twin = saved
        rng.set_state(state)
        if go_on:
            estimator._gradient.__dict__.update(of_gradient)
            if estimator.twin_ is not None:
                estimator.twin_.__dict__.update(of_twin)
        raise
