"""Settings that a device allows: within its bounds, on its steps, little enough apart, and not vetoed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from skpat.controls import ControlBatch
from skpat.devices.specification import slow_channels
from skpat.exceptions import ControlBoundsError
from skpat.lab.limits import Limits

__all__ = ["LegalSettings", "measured_in_runs", "slow_beside_others"]

_SCALES = (1.0, 0.8, 0.6, 0.45, 0.33, 0.25, 0.17, 0.1, 0.05, 0.02)
_TRIES = 16  # settings drawn to see whether the device vetoes a region
_TOLERABLE_VETOES = 0.25  # share of them that may be drawn again
_MOST_DRAWS = 60


def slow_beside_others(device: Any) -> np.ndarray:
    """The channels that a device names as slow; none where it names all of them."""
    slow = slow_channels(device)
    return slow if len(np.unique(slow)) < device.n_controls else slow[:0]


def measured_in_runs(
    measure: Callable[[ControlBatch], np.ndarray], batch: ControlBatch, slow: np.ndarray
) -> np.ndarray:
    """Outputs of a batch; slow channels are sent as shared ones, in calls of rows that agree in them.

    So a session waits whenever they change.
    """
    if not len(slow) or len(batch.shared_index):
        return measure(batch)
    controls = np.asarray(batch)
    changes = (np.diff(controls[:, slow], axis=0) != 0).any(axis=1)
    calls = np.split(np.arange(len(controls)), np.flatnonzero(changes) + 1)
    keys = batch.row_keys
    outputs = [
        measure(ControlBatch.from_dense(controls[rows], slow).named(None if keys is None else keys[rows], batch.shot))
        for rows in calls
    ]
    return np.concatenate(outputs)


class LegalSettings:
    """Where settings are drawn from: a box within the bounds, in which every order of settings is legal.

    A device with a ``max_change`` gets a box of that size around the middle of its bounds. One that vetoes settings gets the
    largest of some boxes, around the middle or around zero, in which few are vetoed; those are drawn again.

    Parameters
    ----------
    device : Device
        Only looked at; nothing is sent.
    rng : RandomState
    bounds : (low, high) or array-like of shape (n_controls, 2), default=None
        Stricter bounds than the device's.
    still : array-like of int, default=()
        Channels that have one value in all settings of the box.

    Attributes
    ----------
    low, high : ndarray of shape (n_controls,)
        The box.
    restrictions : list of str
        Why the box is smaller than the bounds, in words; empty if it is not.

    Raises
    ------
    ControlBoundsError
        If the device vetoes everything that was tried.
    """

    def __init__(self, device: Any, rng: np.random.RandomState, bounds: Any = None, still: Any = ()):
        self.limits = Limits(device, bounds)
        self.rng = rng
        self.bounds = self.limits.bounds
        self._device = device
        self.restrictions: list[str] = []
        self.low, self.high = self.bounds.T.copy()
        n_controls = len(self.bounds)
        steps = getattr(device, "control_steps", None)
        self.steps = np.zeros(n_controls) if steps is None else np.broadcast_to(np.asarray(steps, float), n_controls)
        self._grid_start = np.broadcast_to(np.asarray(device.bounds, float), (n_controls, 2))[:, 0]
        change = getattr(device, "max_change", None)
        if change is not None:
            self._narrow_to(np.broadcast_to(np.asarray(change, float), n_controls))
        self._avoid_vetoes()
        if len(still):
            self.low[still] = self.high[still] = self.draw(1)[0, still]

    def _narrow_to(self, change: np.ndarray) -> None:
        middle, half = (self.low + self.high) / 2, np.minimum(change, self.high - self.low) / 2 * (1 - 1e-6)
        step, start = np.where(self.steps > 0, self.steps, 1.0), self._grid_start  # below: numbers of steps from there
        lowest, highest = np.ceil((self.low - start) / step - 1e-6), np.floor((self.high - start) / step + 1e-6)
        n = np.clip(np.floor(change / step * (1 + 1e-9)), 0, np.maximum(highest - lowest, 0))
        first = np.clip(np.round((middle - start) / step - n / 2), lowest, np.maximum(lowest, highest - n))
        ends = np.clip([start + step * first, start + step * (first + n)], self.low, self.high)
        too_far = ends[1] - ends[0] > change * (1 + 1e-9)  # by the rounding of large bounds
        ends[1] = np.where(too_far, start + step * (first + np.maximum(n - 1, 0)), ends[1])
        narrow = np.where(self.steps > 0, ends, [middle - half, middle + half])
        shares = (narrow[1] - narrow[0]) / (self.high - self.low)
        if (shares < 0.999).any():
            share = float(np.median(shares))
            self.restrictions.append(f"max_change: settings stay within {share:.0%} of the range of a channel")
        self.low, self.high = narrow

    def _avoid_vetoes(self) -> None:
        low, high = self.low, self.high
        unit = self.rng.uniform(size=(_TRIES, len(low))) if len(low) <= 100_000 else np.full((1, len(low)), 0.5)
        error: ControlBoundsError | None = None
        for scale in _SCALES:
            for anchor in ((low + high) / 2, np.clip(0.0, low, high), low):
                self.low, self.high = (np.clip(anchor + scale * (end - anchor), low, high) for end in (low, high))
                vetoes = [self.veto(row) for row in self.from_unit(unit)]
                error = next((veto for veto in vetoes if veto is not None), None)
                if sum(veto is not None for veto in vetoes) <= _TOLERABLE_VETOES * len(unit):
                    if scale < 1:
                        self.restrictions.append(f"the device's veto: settings stay within {scale:.0%} of the range")
                    return
        assert error is not None
        raise error

    def veto(self, setting: np.ndarray) -> ControlBoundsError | None:
        """What speaks against one setting; None if it is legal."""
        try:
            self.limits.check(ControlBatch.from_dense(setting[None]))
        except ControlBoundsError as error:
            return error
        return None

    def from_unit(self, unit: np.ndarray) -> np.ndarray:
        """Settings (n, n_controls) at places from 0 to 1 in the box, on the device's steps. They may be vetoed."""
        return self._snapped(self.low + unit * (self.high - self.low), self.low, self.high)

    def on_steps(self, settings: np.ndarray) -> np.ndarray:
        """The nearest settings within the bounds, which may lie outside the box, on the device's steps."""
        return self._snapped(settings, *self.bounds.T)

    def draw(self, n_settings: int) -> np.ndarray:
        """Settings drawn uniformly in the box; vetoed ones are drawn again.

        Returns
        -------
        ndarray of shape (n_settings, n_controls)
        """
        return self.redrawn(self.from_unit(self.rng.uniform(size=(n_settings, len(self.low)))))

    def redrawn(self, settings: np.ndarray) -> np.ndarray:
        """The settings, vetoed ones replaced by others of the box."""
        try:
            self.limits.check(ControlBatch.from_dense(settings))
            return settings
        except ControlBoundsError:
            pass
        for i, setting in enumerate(settings):
            error = self.veto(setting)
            for _ in range(_MOST_DRAWS if error is not None else 0):
                settings[i] = self.from_unit(self.rng.uniform(size=(1, len(self.low))))[0]
                error = self.veto(settings[i])
                if error is None:
                    break
            if error is not None:
                raise error
        return settings

    def _snapped(self, settings: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """The nearest whole steps that lie between ``low`` and ``high``."""
        settings = np.clip(settings, low, high)
        if not self.steps.any():
            return settings
        step = np.where(self.steps > 0, self.steps, 1.0)
        first = np.ceil((low - self._grid_start) / step - 1e-6)
        last = np.maximum(first, np.floor((high - self._grid_start) / step + 1e-6))
        snapped = self._grid_start + step * np.clip(np.round((settings - self._grid_start) / step), first, last)
        return np.where(self.steps > 0, np.clip(snapped, self.bounds[:, 0], self.bounds[:, 1]), settings)
