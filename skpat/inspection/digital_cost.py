"""What a fitted estimator computes for one prediction, and how many numbers it has learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, StandardScaler

from skpat.devices.identity import IdentityDevice
from skpat.estimators.base import PhysicalNetwork
from skpat.inspection.untrained_device import UntrainedDevice
from skpat.network.forward import is_trainable
from skpat.network.operations import count_operations

__all__ = ["DigitalCost", "count_trained", "digital_cost", "network_in"]


@dataclass(frozen=True)
class DigitalCost:
    """Digital operations and learned numbers of one fitted estimator.

    Attributes
    ----------
    operations : float or None
        Multiply-adds for one row; None: unknown. See :func:`digital_cost` for what counts.
    n_parameters : int or None
        Numbers that the fit has set; None: unknown.
    """

    operations: float | None = None
    n_parameters: int | None = None

    def __add__(self, other: DigitalCost) -> DigitalCost:
        pairs = ((self.operations, other.operations), (self.n_parameters, other.n_parameters))
        return DigitalCost(*(None if None in pair else sum(pair) for pair in pairs))  # type: ignore[arg-type]  # no None is left to sum


def network_in(model: Any) -> PhysicalNetwork | None:
    """The fitted physical network that an estimator is, ends in or wraps; None if there is none."""
    if isinstance(model, Pipeline):
        return network_in(model.steps[-1][1])
    if isinstance(model, UntrainedDevice):
        return model.network_
    return model if isinstance(model, PhysicalNetwork) else None


def count_trained(network: PhysicalNetwork) -> int:
    """Trained parameters of a fitted network: encoder, the device's own weights, drives and readout."""
    return sum(value.size for name, value in network.weights_.items() if is_trainable(name))


def digital_cost(model: Any) -> DigitalCost:
    """Count multiply-adds per row and learned numbers of a fitted estimator.

    Parameters
    ----------
    model : estimator
        Fitted.

    Returns
    -------
    DigitalCost

    Notes
    -----
    Of a physical network: the encoder's map, one multiply-add for each number that is scaled or averaged on its way into the
    device or out of it, and the readout. What the device does counts nothing; :class:`skpat.devices.IdentityDevice` is no
    device, so its averages count. Of trees: one comparison for each level of the deepest path and one addition for each
    tree. Of an SVM: distances to the support vectors and the weighted sums. Exponentials and the like are left out.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import Ridge
    >>> from skpat.inspection.digital_cost import digital_cost
    >>> digital_cost(Ridge().fit(np.eye(4), np.arange(4.0)))
    DigitalCost(operations=4, n_parameters=5)
    """
    if isinstance(model, Pipeline):
        total = DigitalCost(0, 0)
        for _, step in model.steps:
            total = total + (DigitalCost(0, 0) if step == "passthrough" else digital_cost(step))
        return total
    if isinstance(model, UntrainedDevice):
        network = model.network_
        n_readout = sum(value.size for name, value in network.weights_.items() if name.startswith("readout."))
        return DigitalCost(_operations_of(network), n_readout)
    if isinstance(model, PhysicalNetwork):
        return DigitalCost(_operations_of(model), count_trained(model))
    if isinstance(model, (StandardScaler, MinMaxScaler)):
        return DigitalCost(
            model.n_features_in_, 0
        )  # learned from the data alone, like those of a network's own scaling
    if isinstance(model, FunctionTransformer):
        return DigitalCost(0, 0)
    if hasattr(model, "regressor_"):  # TransformedTargetRegressor
        return digital_cost(model.regressor_) + DigitalCost(getattr(model.transformer_, "n_features_in_", 0), 0)
    if hasattr(model, "estimators_") and hasattr(model, "estimator"):  # MultiOutputRegressor, OneVsRestClassifier
        total = DigitalCost(0, 0)
        for part in model.estimators_:
            total = total + digital_cost(part)
        return total
    return _of_classical(model)


def _operations_of(network: PhysicalNetwork) -> int:
    count = sum(count_operations(network._network, network.weights_).values())
    if isinstance(network.device_, IdentityDevice):
        count += network._network.n_calls * network.device_.n_controls
    return int(count)


def _of_classical(model: Any) -> DigitalCost:
    """By the fitted attributes that scikit-learn's estimators have."""
    if hasattr(model, "coefs_"):
        n_weights = sum(coef.size for coef in model.coefs_)
        return DigitalCost(n_weights, n_weights + sum(intercept.size for intercept in model.intercepts_))
    if hasattr(model, "support_vectors_"):
        n_vectors, n_features = model.support_vectors_.shape
        operations = n_vectors * n_features + model.dual_coef_.size
        return DigitalCost(operations, model.dual_coef_.size + np.size(model.intercept_))
    if hasattr(model, "_predictors"):  # histogram-based gradient boosting: trees in lists, one list for each step
        trees = [tree for step in model._predictors for tree in step]
        return DigitalCost(sum(tree.get_max_depth() + 1 for tree in trees), sum(len(tree.nodes) for tree in trees))
    if hasattr(model, "coef_"):
        n_weights = int(np.prod(np.shape(model.coef_)))
        return DigitalCost(n_weights, n_weights + np.size(model.intercept_))
    return DigitalCost()
