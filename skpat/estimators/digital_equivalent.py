"""The smallest digital model that is as good as a network on a device."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import is_classifier

__all__ = ["Equivalent", "find_equivalent", "make_folds"]

_FEW_ROWS = 1000
_FOLDS = 5


@dataclass(frozen=True)
class Equivalent:
    """A digital model that reaches a score: its hidden units (0: linear), its mean score, and multiply-adds for a row."""

    width: int
    score: float
    n_operations: int


def make_folds(network: Any, targets: np.ndarray) -> Any:
    """Five folds, or as many as leave something to learn and something to score in each of them."""
    from sklearn.model_selection import KFold, StratifiedKFold

    strata = network._strata(targets)
    if strata is None:
        least = network._fewest_validated
        n_folds, wanted = len(targets) // least, f"at least {2 * least} rows"
        got = f"{len(targets)}"
    else:
        counts = np.unique(strata, return_counts=True)[1]
        n_folds, wanted = int(np.sort(np.append(counts, 0))[-2]), "at least two classes of two rows or more"
        got = f"classes of {', '.join(map(str, counts))} rows"
    if n_folds < 2:
        raise ValueError(
            f"'y' must have {wanted}: a digital equivalent is scored in folds. Got {got}. Nothing was sent. Give more rows, or "
            "y=None for a report without it."
        )
    return (KFold if strata is None else StratifiedKFold)(min(n_folds, _FOLDS), shuffle=True, random_state=0)


def find_equivalent(
    network: Any, X: np.ndarray, targets: np.ndarray, folds: Any, score: float, widths: tuple[int, ...]
) -> Equivalent | None:
    """The first model whose mean score in the folds reaches this one; None: none does.

    Parameters
    ----------
    network : PhysicalNetworkClassifier or PhysicalNetworkRegressor
        Fitted; nothing is asked of its device.
    X : ndarray of shape (n_samples, n_features)
    targets : ndarray of shape (n_samples,) or (n_samples, n_targets)
        As the network's loss knows them.
    folds : splitter
        From :func:`make_folds`.
    score : float
        Accuracy or R².
    widths : tuple of int
        Hidden units to try, in this order; 0: a linear model.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import cross_val_score

    scoring = "accuracy" if is_classifier(network) else "r2"  # those of the network's own score
    n_scores = network._count_scores()
    n_scores = 1 if network._strata(targets) is not None and n_scores == 2 else n_scores
    for width in widths:
        model = _digital_model(network, targets, width)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a model as it comes
            warnings.filterwarnings("ignore", "The least populated class in y has only")  # it is rare in the data, too
            warnings.filterwarnings("ignore", "Label .* is present in all training examples")
            scores = cross_val_score(model, X, targets, cv=folds, scoring=scoring, error_score="raise")
        reached = float(scores.mean())
        if reached >= score:
            count = X.shape[1] + (width * (X.shape[1] + n_scores) if width else X.shape[1] * n_scores)
            return Equivalent(width, reached, count)
    return None


def _digital_model(network: Any, targets: np.ndarray, width: int) -> Any:
    """A perceptron with so many hidden units, or a linear model, for the kind of targets."""
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    solver = "lbfgs" if len(targets) <= _FEW_ROWS else "adam"  # with few rows Adam's 500 passes end far too early
    size = {"hidden_layer_sizes": (width,), "solver": solver, "max_iter": 500, "random_state": 0}
    if is_classifier(network):
        linear = LogisticRegression(max_iter=1000)
        linear = OneVsRestClassifier(linear) if targets.ndim == 2 else linear
        model = MLPClassifier(**size) if width else linear
    else:
        model = TransformedTargetRegressor(MLPRegressor(**size) if width else Ridge(), transformer=StandardScaler())
    return make_pipeline(StandardScaler(), model)
