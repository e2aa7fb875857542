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

    A call of fewer than three rows is not judged, nor is an output whose other readings have moved as far.

    Parameters
    ----------
    outputs : ndarray of shape (n_rows, n_outputs)
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
    rows, furthest = distance.argmax(axis=0), distance.max(axis=0)
    for output in np.argsort(-furthest)[: np.count_nonzero(furthest > _FAR)]:
        if not _has_company(outputs[:, output], int(rows[output]), float(size[output])):
            return int(rows[output]), int(output), float(furthest[output])
    return None


def _has_company(values: np.ndarray, row: int, spread: float) -> bool:
    """Whether the other readings of the call are as far away, or far apart themselves: then the device is elsewhere now, or had
    been given one setting only before."""
    others = np.delete(values, row)
    middle = np.median(others)
    apart = float(np.median(np.abs(others - middle)))  # whatever a few of them are
    return bool(np.abs(values[row] - middle) <= _FAR * max(spread, apart))


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
