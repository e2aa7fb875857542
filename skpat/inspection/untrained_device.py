"""The untrained device: random weights, inputs as at the start, and a linear readout of what the device answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone, is_classifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import _safe_indexing, get_tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import _num_samples, check_is_fitted

from skpat.lab.session import PREDICTION_ROWS
from skpat.network.forward import Run
from skpat.training.gradient import Apparatus, GradientEstimator, Measurement

__all__ = ["UntrainedDevice"]

_NEVER = -100.0  # score of a class without training rows: it is never predicted


class _Listening(GradientEstimator):
    """No gradient: nothing moves, and what the last layer answers is kept."""

    leaves_gradient = False

    def __init__(self) -> None:
        self.answers: list[np.ndarray] = []
        self._statistics: dict[str, Any] = {}

    def loss_and_gradient(self, loss_of: Callable[[Run], Any], apparatus: Apparatus) -> Any:
        import torch

        def run(batch: Any, layer: int, unit: int) -> Any:
            return batch.varying.new_tensor(apparatus.measure(batch, layer, unit))

        fixed = (name for name in apparatus.weights if name.endswith((".mean", ".scale")))
        self._statistics = {name: apparatus.weights[name].clone() for name in fixed}
        with torch.no_grad():
            return loss_of(run)

    def after_batch(self, apparatus: Apparatus, measurements: list[Measurement]) -> None:
        for name, value in self._statistics.items():  # every row is normalised alike, in fit as in predict
            apparatus.weights[name].copy_(value)
        last = max(made.layer for made in measurements)
        self.answers.append(np.concatenate([made.outputs for made in measurements if made.layer == last], axis=1))


def _has(name: str) -> Callable[[Any], bool]:
    return lambda self: hasattr(self.network, name)


class UntrainedDevice(MetaEstimatorMixin, BaseEstimator):
    """A network that is not trained, but for a linear readout: logistic regression, or ridge regression.

    What the device gives for nothing, as in reservoir computing; training has to add to it. Weights, encoder and drives stay
    as they are drawn at the start. The readout is fitted on the normalised answers of the last layer.

    Parameters
    ----------
    network : PhysicalNetworkClassifier or PhysicalNetworkRegressor

    Attributes
    ----------
    network_ : PhysicalNetworkClassifier or PhysicalNetworkRegressor
        A fitted copy with ``readout="linear"``.

    Notes
    -----
    Costs the shots that the output statistics start from, and ``n_layers * n_units * n_shots`` for each training row.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skpat import PhysicalNetworkClassifier
    >>> from skpat.inspection.untrained_device import UntrainedDevice
    >>> X, y = load_iris(return_X_y=True)
    >>> untrained = UntrainedDevice(PhysicalNetworkClassifier(random_state=0)).fit(X, y)
    >>> untrained.network_.shots_["training"], bool(untrained.score(X, y) > 0.7)
    (150, True)
    """

    def __init__(self, network):
        self.network = network

    def fit(self, X, y):
        """Send every row once, and fit the readout.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_targets)

        Returns
        -------
        self
        """
        network = self._unfitted()
        network.fit(X, y)
        y = _of_weight(network, y)
        listening = network._gradient
        last = network._network.of_layer(network.weights_, network.n_layers - 1)
        answers = (np.concatenate(listening.answers) - last["mean"]) / last["scale"]
        answers = network._network.hand_on(answers, network.n_layers - 1)
        listening.answers = []
        coef, intercept = _readout(network, answers, y)
        for name, value in (("readout.coef", coef), ("readout.intercept", intercept)):
            network.weights_[name] = np.ascontiguousarray(value, dtype=network.weights_[name].dtype)
        self.network_ = network
        return self

    def plan(self, X):
        """What ``fit`` will cost. Nothing is sent.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        Plan
        """
        return self._unfitted().plan(X)

    def _unfitted(self) -> Any:
        """The network, to be sent every row once with the weights as they are drawn."""
        changes = {
            "gradient": _Listening(),
            "readout": "linear",
            "max_iter": 1,
            "batch_size": PREDICTION_ROWS,
            "shuffle": False,
            "early_stopping": False,
            "warm_start": False,
            "max_shots": None,
            "journal": None,
        }
        known = self.network.get_params(deep=False)
        return clone(self.network).set_params(**{name: value for name, value in changes.items() if name in known})

    @property
    def classes_(self):
        """Class labels."""
        check_is_fitted(self, "network_")
        return self.network_.classes_

    @available_if(_has("predict"))
    def predict(self, X):
        """As the network's."""
        return self._fitted.predict(X)

    @available_if(_has("predict_proba"))
    def predict_proba(self, X):
        """As the network's."""
        return self._fitted.predict_proba(X)

    @available_if(_has("predict_log_proba"))
    def predict_log_proba(self, X):
        """As the network's."""
        return self._fitted.predict_log_proba(X)

    @available_if(_has("decision_function"))
    def decision_function(self, X):
        """As the network's."""
        return self._fitted.decision_function(X)

    def score(self, X, y, sample_weight=None):
        """Accuracy, or R²."""
        return self._fitted.score(X, y, sample_weight)

    @property
    def _fitted(self) -> Any:
        check_is_fitted(self, "network_")
        return self.network_

    def __sklearn_tags__(self) -> Any:
        return get_tags(self.network)


def _of_weight(network: Any, y: Any) -> Any:
    """The rows that were sent: those of a class without weight are not."""
    weight = network._reweight(y, np.ones(_num_samples(y)))
    return y if weight.all() else _safe_indexing(y, np.flatnonzero(weight))


def _readout(network: Any, answers: np.ndarray, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Weights (n_sources, n_targets) and intercepts (n_targets,) of a linear model of the answers."""
    if is_classifier(network) and network.multilabel_:
        labels = np.asarray(y.toarray() if hasattr(y, "toarray") else y)
        parts = [_of_one_label(network, answers, label) for label in labels.T]
        return np.concatenate([coef for coef, _ in parts], axis=1), np.concatenate([part for _, part in parts])
    if is_classifier(network):
        model = make_pipeline(
            StandardScaler(), LogisticRegression(max_iter=1000, class_weight=network.class_weight)
        ).fit(answers, np.ravel(y))
        coef, intercept = model[-1].coef_, model[-1].intercept_
        if len(coef) == 1:  # of the second class against the first
            coef, intercept = np.vstack([0 * coef, coef]), np.append(0 * intercept, intercept)
        if len(coef) < len(network.classes_):  # a class without weight has no rows
            there = np.searchsorted(network.classes_, model[-1].classes_)
            whole, of_all = np.zeros((len(network.classes_), coef.shape[1])), np.full(len(network.classes_), _NEVER)
            whole[there], of_all[there] = coef, intercept
            coef, intercept = whole, of_all
    else:
        targets = np.asarray(y, dtype=np.float64).reshape(len(answers), -1)
        model = make_pipeline(StandardScaler(), Ridge()).fit(
            answers, network._prepare_targets(targets, None, np.float64)
        )
        coef, intercept = np.atleast_2d(model[-1].coef_), model[-1].intercept_
    coef = coef / model[0].scale_
    return coef.T, intercept - coef @ model[0].mean_


def _of_one_label(network: Any, answers: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same for a label that a row has or has not: (n_sources, 1) and (1,)."""
    if len(np.unique(label)) == 1:  # all rows, or none
        return np.zeros((answers.shape[1], 1)), np.array([1.0 if label[0] else -1.0])
    weight = network.class_weight if network.class_weight == "balanced" else None
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, class_weight=weight)).fit(answers, label)
    coef = model[-1].coef_ / model[0].scale_
    return coef.T, model[-1].intercept_ - coef @ model[0].mean_
