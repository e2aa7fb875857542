"""A reading far beyond all others: it is legal, and it spoils a training."""

from __future__ import annotations

import numpy as np

from skpat.exceptions import FarReadingWarning
from skpat.user_warning import warn_user

__all__ = ["far_reading", "usual", "warn_of_far_reading"]

_FAR = 100.0  # spreads
_FEWEST_ROWS = 3  # of a call, for one of them to be far from the others
_USUAL = (0.05, 0.95)  # quantiles


def far_reading(outputs: np.ndarray, mean: np.ndarray, spread: np.ndarray) -> tuple[int, int, float] | None:
    """The reading that lies furthest beyond all others, if it lies more than a hundred spreads from its output's mean.

    And as far from the others of the call: where all have moved, the device is elsewhere now, or had been given one setting
    only before.

    Parameters
    ----------
    outputs : ndarray of shape (n_rows, n_outputs)
        Of one call; fewer than three rows are not judged.
    mean, spread : ndarray of shape (n_outputs,)
        Of each output. An output that changes less than the others is judged by these.

    Returns
    -------
    row, output : int
    distance : float
        From the mean, in spreads.
    """
    common = float(np.sqrt(np.mean(np.square(spread))))
    if len(outputs) < _FEWEST_ROWS or not common > 0 or not np.isfinite(common):
        return None
    size = np.maximum(spread, common)
    distance = np.abs(outputs - mean) / size
    if not distance.max() > _FAR:
        return None
    middle = np.median(outputs, axis=0)  # of this call: where the device may be now, and how far apart its answers are
    apart = np.median(np.abs(outputs - middle), axis=0)
    distance = np.minimum(distance, np.abs(outputs - middle) / np.maximum(size, apart))
    row, output = (int(i) for i in np.unravel_index(np.argmax(distance), distance.shape))
    found = float(distance[row, output])
    return (row, output, found) if found > _FAR else None


def usual(outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median and half the range of nine tenths of each output: what some far readings do not change."""
    low, high = np.quantile(outputs, _USUAL, axis=0)
    return np.median(outputs, axis=0), (high - low) / 2


def warn_of_far_reading(outputs: np.ndarray, mean: np.ndarray, spread: np.ndarray, n_outputs: int) -> bool:
    """Issue a :class:`skpat.exceptions.FarReadingWarning` if there is a far reading; whether there was.

    Parameters
    ----------
    outputs : ndarray of shape (n_rows, n_units * n_outputs)
        Of one layer.
    mean, spread : ndarray of shape (n_units * n_outputs,)
    n_outputs : int
        Outputs of the device.
    """
    found = far_reading(outputs, mean, spread)
    if found is None:
        return False
    row, output, distance = found
    message = (
        f"The device's readings must be of one order. Got {outputs[row, output]:g} in output {output % n_outputs}, "
        f"{distance:,.0f} times the spread of its readings away from their mean. A single such reading upsets the "
        "normalisation, the twin and the steps of a training. State output_range, so that it is measured again "
        "(on_bad_output='retry') or left out ('mask')."
    )
    warn_user(FarReadingWarning(message))
    return True
