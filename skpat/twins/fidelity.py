"""How far to trust a twin's gradient: compare it with differences measured on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from skpat.controls import ControlBatch, as_numpy
from skpat.twins.base import Twin, spread_of

__all__ = ["gradient_cosine"]


def gradient_cosine(
    twin: Twin,
    measure: Callable[[ControlBatch], Any],
    controls: np.ndarray,
    bounds: np.ndarray,
    *,
    n_directions: int = 4,
    step: float = 0.05,
    random_state: int | np.random.RandomState = 0,
) -> float:
    r"""Cosine between the twin's directional derivatives and those measured on the device.

    For random directions :math:`d` the device is measured at :math:`c \pm h d`, and
    :math:`(y(c + h d) - y(c - h d)) / 2h` is compared with the same difference of the twin.

    Parameters
    ----------
    twin : Twin
        A fitted twin.
    measure : callable
        ``measure(batch)`` -> outputs (n_rows, n_outputs); a :class:`skpat.lab.Session`'s ``measure``.
    controls : ndarray of shape (n_rows, n_controls)
        Where to compare, in the device's units, within the bounds.
    bounds : array-like of shape (n_controls, 2)
        The device's. Points are moved inwards where a step would leave them.
    n_directions : int, default=4
        Random directions for each row.
    step : float, default=0.05
        Root-mean-square step h, in parts of each channel's range. Larger steps see less noise and more curvature.
    random_state : int or RandomState, default=0
        For the directions.

    Returns
    -------
    float
        Between -1 and 1, over all rows, directions and outputs together; outputs are scaled by their measured spread.
        0 if the twin, or the device, does not react at all.

    Notes
    -----
    Costs ``2 * n_rows * n_directions`` shots, at settings between the steps of a device with ``control_steps``, which a session
    refuses: ask :func:`skpat.inspection.gradient_alignment` there. Noise lowers the measured cosine of even a perfect twin. A
    cosine over rows can be high while the gradient of the weights, a sum over rows, is poor: errors that all rows share do
    not average out.

    Examples
    --------
    >>> import numpy as np
    >>> from skpat.twins import NeuralTwin, gradient_cosine
    >>> controls = np.random.default_rng(0).uniform(-1, 1, (300, 3))
    >>> twin = NeuralTwin((), random_state=0).fit(controls, controls @ np.ones((3, 2)))
    >>> measure = lambda batch: np.asarray(batch) @ np.ones((3, 2))
    >>> round(gradient_cosine(twin, measure, controls[:20], [[-1, 1]] * 3), 2)
    1.0
    """
    rng = np.random.RandomState(random_state) if isinstance(random_state, (int, np.integer)) else random_state
    bounds = np.asarray(bounds, dtype=float)
    width = bounds[:, 1] - bounds[:, 0]
    points = np.repeat(np.asarray(controls, dtype=float), n_directions, axis=0)
    direction = rng.standard_normal(points.shape)
    direction *= np.sqrt(points.shape[1]) / np.linalg.norm(direction, axis=1, keepdims=True)
    shift = np.clip(step * direction, -0.5, 0.5) * width
    middle = np.clip(points, bounds[:, 0] + np.abs(shift), bounds[:, 1] - np.abs(shift))
    both = np.clip(np.concatenate([middle + shift, middle - shift]), bounds[:, 0], bounds[:, 1])
    measured = as_numpy(measure(ControlBatch.from_dense(both)))
    expected = twin.predict(both)
    scale = spread_of(measured)
    scale = np.where(scale > 0, scale, np.inf)
    real, modelled = (np.subtract(*np.split(outputs / scale, 2)).ravel() for outputs in (measured, expected))
    norms = np.linalg.norm(real) * np.linalg.norm(modelled)
    return float(real @ modelled / norms) if norms > 0 else 0.0
