"""From features to the drives of the first layer: one small class per encoder.

An encoder's ``initial_weights`` returns named numpy arrays; ``encode`` works on numpy and torch alike. One that cuts its
rows into patches is in :mod:`skpat.network.patch_encoder`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from skpat.network.patch_encoder import PatchEncoder, Patches

__all__ = [
    "ENCODERS",
    "DirectEncoder",
    "LinearEncoder",
    "count_patches",
    "make_encoder",
    "route",
    "weighted_mean_and_scale",
]

Weights = dict[str, Any]
_ROUNDING = 16 * np.finfo(np.float64).eps  # of the largest number of a column: what varies less is constant


def route(n_slots: int, n_sources: int) -> np.ndarray:
    """Which source feeds each of ``n_slots`` input channels: sources repeated in turn until every slot is filled.

    Examples
    --------
    >>> from skpat.network.encoders import route
    >>> route(5, 2)
    array([0, 1, 0, 1, 0])
    """
    return np.arange(n_slots) % n_sources


def weighted_mean_and_scale(X: np.ndarray, sample_weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each column, whatever its unit; a column that is constant but for rounding has scale 0."""
    total = sample_weight.sum()
    low, high = X.min(axis=0), X.max(axis=0)
    largest = np.maximum(-low, high)
    exponent = np.frexp(largest)[1]  # scaling by powers of two is exact; squares then stay finite
    constant = high / 2 - low / 2 <= _ROUNDING / 2 * largest
    X = np.ldexp(X, -exponent)  # a copy, and the only one
    mean = sample_weight @ X / total
    X -= mean
    variance = sample_weight @ np.square(X, out=X) / total
    mean = np.where(constant, low / 2 + high / 2, np.ldexp(mean, exponent))  # exactly what it is, if it is constant
    return mean, np.where(constant, 0.0, np.ldexp(np.sqrt(variance), exponent))


class LinearEncoder:
    """A trainable linear map from standardised features to every input channel of every unit."""

    n_patches, shared, pooling = 1, False, None

    def __init__(self, n_features: int, n_slots: int):
        self.n_features = n_features
        self.n_slots = n_slots

    def initial_weights(self, X: np.ndarray, sample_weight: np.ndarray, rng: np.random.RandomState) -> Weights:
        mean, scale = weighted_mean_and_scale(X, sample_weight)
        coef = rng.standard_normal((self.n_features, self.n_slots)) / np.sqrt(self.n_features)
        return {
            "encoder.mean": mean,
            "encoder.scale": np.where(scale > 0, scale, 1.0),
            "encoder.coef": coef,
            "encoder.intercept": np.zeros(self.n_slots),
        }

    def encode(self, weights: Weights, X: Any) -> Any:
        standard = (X - weights["encoder.mean"]) / weights["encoder.scale"]
        return standard @ weights["encoder.coef"] + weights["encoder.intercept"]


class DirectEncoder:
    """Features scaled to -1 to 1 over the training data and repeated in turn to fill the input channels.

    Nothing is trained: the scale is that of the data, the wiring is fixed.
    """

    n_patches, shared, pooling = 1, False, None

    def __init__(self, n_features: int, n_slots: int):
        if n_features > n_slots:
            raise ValueError(
                f"encoder='direct' needs at least one input channel for each of the {n_features} features. Got {n_slots} "
                "(input channels times n_units). Use more units (n_units), a larger input_fraction in "
                "control_split=ControlSplit(...), or encoder='linear'."
            )
        self.source = route(n_slots, n_features)

    def initial_weights(self, X: np.ndarray, sample_weight: np.ndarray, rng: np.random.RandomState) -> Weights:
        low, high = X.min(axis=0), X.max(axis=0)
        half = (high - low) / 2
        return {"encoder.mean": (low + high) / 2, "encoder.scale": np.where(half > 0, half, 1.0)}

    def encode(self, weights: Weights, X: Any) -> Any:
        return ((X - weights["encoder.mean"]) / weights["encoder.scale"])[:, self.source]


ENCODERS: dict[str, Any] = {
    "auto": LinearEncoder,
    "linear": LinearEncoder,
    "direct": DirectEncoder,
    "patch": PatchEncoder,
}


def make_encoder(encoder: Any, n_features: int, n_inputs: int, n_units: int) -> LinearEncoder | DirectEncoder | Patches:
    """The encoder of that name, or a PatchEncoder worked out, for ``n_units`` calls of ``n_inputs`` channels each."""
    if isinstance(encoder, PatchEncoder) or encoder == "patch":
        return (PatchEncoder() if isinstance(encoder, str) else encoder).resolve(n_features, n_inputs, n_units)
    made: LinearEncoder | DirectEncoder = ENCODERS[encoder](n_features, n_inputs * n_units)
    return made


def count_patches(encoder: Any, n_features: int, n_inputs: int) -> int:
    """Into how many patches an encoder, or the one of that name, cuts a row; 1 where it cuts none."""
    if not isinstance(encoder, PatchEncoder) and encoder != "patch":
        return 1
    return make_encoder(encoder, n_features, n_inputs, 1).n_patches
