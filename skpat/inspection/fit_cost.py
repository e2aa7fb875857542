"""What a fit has cost, as a scorer: shots beside scores in the tables of a search."""

from __future__ import annotations

from typing import Any

from skpat.inspection.fitted_network import fitted_network

__all__ = ["shots_scorer"]


def shots_scorer(est: Any, X: Any = None, y: Any = None) -> int:
    """Shots of fits, a scorer: for ``scoring={"accuracy": "accuracy", "shots": shots_scorer}``.

    Parameters
    ----------
    est : estimator
        A fitted PhysicalNetworkClassifier or PhysicalNetworkRegressor, or a Pipeline that ends in one.
    X, y : ignored
        As of every scorer.

    Returns
    -------
    int
        Calibration, training, validation and recalibration together, of all fits where one went on from another
        (``warm_start``, ``partial_fit``), without predictions (the other scorers' among them). Rows that a journal answered
        count: a search that goes on after a crash finds what it would have found without.

    Raises
    ------
    TypeError
        If the estimator has no device.
    NotFittedError
        If it is not fitted.

    Notes
    -----
    Nothing is sent. More is not better: refit by another score, or by a function of the table.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.model_selection import cross_validate
    >>> from skpat import PhysicalNetworkClassifier
    >>> from skpat.inspection import shots_scorer
    >>> X, y = load_iris(return_X_y=True)
    >>> network = PhysicalNetworkClassifier(gradient="exact", max_iter=2, random_state=0)
    >>> found = cross_validate(network, X, y, cv=3, scoring={"accuracy": "accuracy", "shots": shots_scorer})
    >>> found["test_shots"].tolist()  # two epochs of 100 rows, and 100 for the output statistics
    [300, 300, 300]
    """
    asked = fitted_network(est).ledger_.asked
    return sum(count for purpose, count in asked.items() if purpose != "prediction")
