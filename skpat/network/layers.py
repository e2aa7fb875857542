"""What stands between two device calls: keeping drives legal, and normalising what was measured."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

__all__ = ["array_module", "OutputStatistics", "snap", "squash"]

_LARGEST_DRIVE = 1e9  # its square is finite in float32; beyond it the control sits at its bound anyway
_FLOOR = 0.1  # of the mean variance of all outputs, added to each output's own


def array_module(array: Any) -> Any:
    """numpy for a numpy array, torch for a tensor, without importing torch."""
    return np if isinstance(array, np.ndarray) else sys.modules["torch"]


def squash(drive: Any, middle: Any = 0.5, half: Any = 0.5) -> Any:
    r"""Map any drive into an interval: :math:`m + h\, z / \sqrt{1 + z^2}`.

    The slope is nowhere zero. numpy and torch agree to the last bit but for torch's vectorised square root, which is not
    correctly rounded on every processor (one unit in the last place in about 1 % of cases).

    Parameters
    ----------
    drive : array, any shape; numpy or torch
    middle, half : float or array that broadcasts, default=0.5
        Middle and half width of the interval; the default is [0, 1].

    Returns
    -------
    array of the same kind, in the interval up to the last bits (:func:`skpat.network.forward.inner_interval` leaves room)

    Examples
    --------
    >>> import numpy as np
    >>> from skpat.network.layers import squash
    >>> squash(np.array([-np.inf, 0.0, 0.75]))
    array([0. , 0.5, 0.8])
    """
    if isinstance(drive, np.ndarray):
        z = np.minimum(np.maximum(drive, -_LARGEST_DRIVE), _LARGEST_DRIVE)  # np.clip takes twice as long for one row
        return z / np.sqrt(z * z + 1.0) * half + middle
    torch = array_module(drive)
    z = torch.clip(drive, -_LARGEST_DRIVE, _LARGEST_DRIVE)
    return z / torch.sqrt(z * z + 1.0) * half + middle


def snap(values: Any, low: Any, step: Any, n_steps: Any, high: Any) -> Any:
    """The nearest whole number of steps above ``low``; a tensor's gradient passes as if nothing had happened.

    Parameters
    ----------
    values : array, channels along the last axis; numpy or torch
    low, step, n_steps, high : arrays of shape (n_channels,)
        ``step`` 0: continuous. ``low + n_steps * step`` is the highest setting.

    Returns
    -------
    array of the same kind
    """
    xp = array_module(values)
    raw = values if xp is np else values.detach()
    whole = xp.round((raw - low) / xp.where(step > 0, step, xp.ones_like(step)))
    whole = xp.minimum(xp.clip(whole, 0, None), n_steps)
    snapped = xp.where(step > 0, xp.minimum(low + whole * step, high), raw)
    return snapped if xp is np else snapped + (values - raw)


class OutputStatistics:
    """Running mean and scale of one layer's outputs, weighted by sample_weight.

    Parameters
    ----------
    n_outputs : int
        Outputs of all units together.
    """

    def __init__(self, n_outputs: int):
        self.mean = np.zeros(n_outputs)
        self.variance = np.ones(n_outputs)
        self.started = False

    def update(self, outputs: np.ndarray, sample_weight: np.ndarray, momentum: float) -> None:
        """Move towards the statistics of a batch of outputs (n_rows, n_outputs); the first batch sets them."""
        total = sample_weight.sum()
        mean = sample_weight @ outputs / total
        variance = sample_weight @ np.square(outputs - mean) / total
        if not self.started:
            momentum, self.started = 1.0, True
        shift = mean - self.mean
        self.mean = self.mean + momentum * shift
        self.variance = (1 - momentum) * (self.variance + momentum * shift**2) + momentum * variance

    @property
    def scale(self) -> np.ndarray:
        """What to divide by, shape (n_outputs,): above the standard deviation, so that outputs which carry little but noise are
        not blown up."""
        scale = np.sqrt(self.variance + _FLOOR * self.variance.mean())
        return np.where(scale > 1e-12 * (1e-300 + np.abs(self.mean).max()), scale, 1.0)
