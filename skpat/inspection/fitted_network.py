"""The fitted network that a display looks at, with rows of data as it gets them."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted, validate_data

from skpat.estimators.base import PhysicalNetwork
from skpat.estimators.validation import dense
from skpat.inspection.baselines import physical_network

__all__ = ["before_network", "fitted_network", "rows_for"]


def fitted_network(est: Any) -> PhysicalNetwork:
    """The fitted network that an estimator is, or ends in.

    Raises
    ------
    TypeError
        If there is none.
    NotFittedError
        If it is not fitted.
    """
    network = physical_network(est)
    check_is_fitted(network, "loss_")
    return network


def before_network(est: Any, X: Any) -> Any:
    """X as the pipeline's other steps leave it; unchanged where there are none."""
    return est[:-1].transform(X) if isinstance(est, Pipeline) and len(est.steps) > 1 else X


def rows_for(est: Any, X: Any) -> np.ndarray:
    """X as the network gets it: after the pipeline's other steps, checked, dense, in the weights' dtype."""
    network, X = fitted_network(est), before_network(est, X)
    dtype = network.weights_["layers.0.gain"].dtype
    X = validate_data(network, X, reset=False, accept_sparse="csr", dtype=dtype)
    return dense(X)
