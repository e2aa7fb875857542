"""A warning names the line of whoever called skpat."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import ShuffleSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skpat import PhysicalNetworkClassifier, as_device
from skpat.exceptions import DeadDeviceWarning, FarReadingWarning
from skpat.user_warning import warn_user

X = np.random.default_rng(0).uniform(size=(40, 2))
Y = (X[:, 0] > 0.5).astype(int)


def still(controls: np.ndarray) -> np.ndarray:
    return np.ones((len(controls), 3))


class Interrupted:
    """Answers for a while."""

    n_controls, n_outputs, bounds = 6, 3, (0.0, 1.0)

    def __init__(self) -> None:
        self.n_calls = 0

    def measure(self, batch: Any) -> np.ndarray:
        self.n_calls += 1
        if self.n_calls > 4:
            raise KeyboardInterrupt
        return np.sin(np.asarray(batch)[:, :3] * 3)


def network(device: Any, **how: Any) -> PhysicalNetworkClassifier:
    defaults: dict[str, Any] = {"gradient": "spsa", "encoder": "direct", "max_iter": 3, "random_state": 0}
    return PhysicalNetworkClassifier(device, **(defaults | how))


def only_warning(call: Any) -> warnings.WarningMessage:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    (found,) = caught
    return found


def test_a_warning_of_a_function_is_at_its_own_line_and_of_any_class() -> None:
    found = only_warning(lambda: warn_user("careful"))
    assert (found.category, found.filename) == (UserWarning, __file__)
    assert only_warning(lambda: warn_user("careful", FarReadingWarning)).category is FarReadingWarning
    assert only_warning(lambda: warn_user(FarReadingWarning("careful"))).category is FarReadingWarning


@pytest.mark.parametrize("call", ["fit", "partial_fit", "in a pipeline", "cross-validation"])
def test_a_dead_device_is_told_where_the_fit_was_called(call: str) -> None:
    est = network(as_device(still, n_controls=6, n_outputs=3, bounds=(0, 1)))
    calls = {
        "fit": lambda: est.fit(X, Y),
        "partial_fit": lambda: est.partial_fit(X, Y),
        "cross-validation": lambda: cross_val_score(est, X, Y, cv=ShuffleSplit(1, random_state=0)),
        "in a pipeline": lambda: make_pipeline(StandardScaler(), est).fit(X, Y),
    }
    found = only_warning(calls[call])
    assert found.category is DeadDeviceWarning
    assert found.filename == __file__


def test_an_interruption_is_told_where_the_fit_was_called() -> None:
    found = only_warning(lambda: network(Interrupted()).fit(X, Y))
    assert "interrupted" in str(found.message)
    assert found.filename == __file__


def test_a_budget_without_a_score_is_told_where_the_fit_was_called() -> None:
    device = as_device(np.sin, n_controls=6, n_outputs=6, bounds=(0, 1))
    est = network(device, max_shots=60, batch_size=5)
    found = only_warning(lambda: est.fit(X, Y, X_val=X, y_val=Y))
    assert "scored at least once" in str(found.message)
    assert found.filename == __file__


@pytest.mark.parametrize("call", ["fit", "partial_fit"])
def test_every_fit_says_what_its_checks_found(call: str) -> None:
    est = network(as_device(np.sin, n_controls=6, n_outputs=6, bounds=(0, 1)))
    assert getattr(est, call)(X, Y).alignments_ == []
