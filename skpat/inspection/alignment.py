"""gradient_alignment: how far the gradients of a fitted network may be trusted, by measurement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils import check_random_state

from skpat.inspection.fitted_network import before_network, fitted_network
from skpat.lab.session import Session
from skpat.value_checks import is_int

if TYPE_CHECKING:
    from skpat.training.alignment import Alignment

__all__ = ["gradient_alignment"]


_FEWEST_ROWS = 16


def gradient_alignment(
    est: Any,
    X: Any,
    y: Any,
    sample_weight: Any = None,
    *,
    n_rows: int = 32,
    n_directions: int = 8,
    random_state: Any = 0,
) -> Alignment:
    """Cosine between the gradient that a network is trained with and what its device really does, layer by layer.

    What counts is the gradient of a batch's mean loss, weighted by ``class_weight`` and ``sample_weight`` as in the training,
    with respect to the weights. A twin may agree row by row and yet be wrong here: errors that all rows share do not
    average out.

    Parameters
    ----------
    est : PhysicalNetworkClassifier, PhysicalNetworkRegressor, or a Pipeline that ends in one
        Fitted, with any ``gradient`` but an evolution strategy, which has none. Its weights and its twin stay as they are.
    X : array-like or sparse matrix of shape (n_samples, n_features)
        Rows like those of the training; or what the pipeline's first step takes.
    y : array-like of shape (n_samples,) or (n_samples, n_targets)
        Their labels or targets.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the rows, like those of the training.
    n_rows : int, default=32
        Rows of the batch, at least 16, drawn from X; all of them where there are no more. They tell how large the noise
        is: with few of them, the more so the deeper the network, the standard errors may come out far too small.
    n_directions : int, default=8
        Random directions for each layer, at least 2. More of them lower the standard errors.
    random_state : int, RandomState instance or None, default=0
        For the rows and the directions. None: other ones each time.

    Returns
    -------
    Alignment
        ``cosine`` over all weights before a measurement and ``layer_cosines`` of each layer's own, with
        ``standard_error`` and ``layer_standard_errors``; ``slope``, the measured slope along the gradient over the promised
        one; ``n_shots``. Print it.

    Raises
    ------
    ValueError
        If ``n_rows`` is below 16 or ``n_directions`` below 2, the network's method has no gradient, or X and y are not what
        the network was fitted to. Nothing was sent.
    TypeError
        If ``est`` is no physical network.
    NotFittedError
        If ``est`` is not fitted.

    Notes
    -----
    Costs ``2 + 2 * n_layers * (n_directions + 1)`` predictions of the ``n_rows`` rows at most, each of ``n_layers * n_units *
    n_shots`` shots a row (with patches more), counted in ``est.ledger_`` as calibration. A method whose gradient takes
    more than one forward pass (SPSA, finite differences) takes the shots of one of its steps on
    top. How: see ``skpat.training.alignment.measure_alignment``.

    Near the end of a training the gradient itself becomes small, and with it the cosine of all but very good twins.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skpat import PhysicalNetworkClassifier
    >>> from skpat.inspection import gradient_alignment
    >>> X, y = load_iris(return_X_y=True)
    >>> network = PhysicalNetworkClassifier(gradient="exact", max_iter=2, random_state=0).fit(X, y)
    >>> found = gradient_alignment(network, X, y)
    >>> bool(found.cosine > 0.8), found.n_shots
    (True, 640)
    """
    from skpat.training.alignment import measure_alignment

    network = fitted_network(est)
    for name, value, least in (("n_rows", n_rows, _FEWEST_ROWS), ("n_directions", n_directions, 2)):
        if not is_int(value, least):
            raise ValueError(f"{name!r} of gradient_alignment must be an int of at least {least}. Got {value!r}.")
    if not getattr(network._gradient.explorer, "leaves_gradient", True):
        raise ValueError(
            "'est' of gradient_alignment must be trained with a method that has a gradient. Got gradient="
            f"{network.gradient!r}, which moves the weights by the losses alone. Nothing was sent."
        )
    rng = np.random.RandomState() if random_state is None else check_random_state(random_state)
    X = before_network(est, X)
    data = network._labelled_data(X, y, sample_weight)
    if not len(data):
        raise ValueError(
            "'y' of gradient_alignment must have rows of positive weight. Got none: sample_weight or class_weight gives all of "
            "them the weight 0. Nothing was sent. Give other rows, too."
        )
    with Session(network.device_, n_shots=network.n_shots, ledger=network.ledger_) as session:
        trainer = network._make_trainer(session, len(data))
        return measure_alignment(
            trainer, data, n_rows=n_rows, n_directions=n_directions, per_layer=True, random_state=rng
        )
