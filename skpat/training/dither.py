"""Small random displacements of the controls: what lets a twin learn, from the training's own shots, how outputs react."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from skpat.controls import ControlBatch, inner_bounds
from skpat.devices.noise import standard_normal
from skpat.devices.specification import slow_channels
from skpat.network.forward import Network
from skpat.row_keys import combine_keys

__all__ = ["Dither", "TARGET_SHARE", "measured_size", "settled_weights"]

TARGET_SHARE = 0.1
"""Share of the outputs' variance over the data that displacements add."""

_FIRST_SIZE = 0.02  # tried first, in parts of a channel's range
_SIZES = (0.002, 0.1)  # smallest and largest that a measurement may ask for


def settled_weights(network: Network, slow: np.ndarray) -> np.ndarray:
    """Those of the slow channels that carry no data: they are to be the same in all rows of a call."""
    return np.setdiff1d(slow, network.split.input_index)


class Dither:
    """Displacements of every free channel, a function of (seed, row key, number) like a simulated device's noise.

    Parameters
    ----------
    network : Network
        Whose channels, bounds and steps count. Fixed channels stay.
    device : Device
        Channels with a ``max_change`` are left alone; those in ``slow_controls`` get one displacement for all rows of a
        call. What the device would veto (``check_controls``) is sent as it was.
    seed : int
    """

    def __init__(self, network: Network, device: Any, seed: int):
        self.network = network
        self.seed = seed
        width = network.bounds[:, 1] - network.bounds[:, 0]
        free = np.ones(len(width))
        free[network.split.fixed_index] = 0.0
        if getattr(device, "max_change", None) is not None:
            free[np.broadcast_to(np.asarray(device.max_change, dtype=float), len(free)) < width] = 0.0
        self.veto = getattr(device, "check_controls", None)
        self.width = free * width
        self.slow = slow_channels(device)

    def displaced(self, controls: Any, row_keys: np.ndarray, number: int, size: float) -> Any:
        """The controls, displaced and still legal; a tensor keeps its graph.

        Parameters
        ----------
        controls : array or tensor of shape (n_rows, n_controls)
            In the device's units.
        row_keys : ndarray of uint64, shape (n_rows,)
            Equal keys get equal displacements.
        number : int
            Another number gets other displacements.
        size : float
            Standard deviation, in parts of each channel's range.
        """
        raw = controls if isinstance(controls, np.ndarray) else controls.detach().cpu().numpy()
        normal = standard_normal(self.seed, row_keys, number, raw.shape[1])
        if len(self.slow):
            of_call = standard_normal(self.seed, combine_keys(np.zeros(1, dtype=np.uint64), number), 0, raw.shape[1])
            normal[:, self.slow] = of_call[:, self.slow]
        low, high = inner_bounds(self.network.bounds.T, raw.dtype)
        moved = raw + (size * self.width * normal).astype(raw.dtype)
        moved = np.where(moved < low, 2 * low - moved, moved)  # reflected at a bound: settings do not pile up there
        moved = np.where(moved > high, 2 * high - moved, moved)
        moved = self.network.legal(np.clip(moved, low, high))
        moved = np.where(self.width > 0, moved, raw)
        if self._refused(moved):
            return controls
        if raw is controls:
            return moved
        import torch

        target, asked = torch.from_numpy(moved).to(controls), controls.detach()
        result = controls + (target - asked)
        sent, bounds = result.detach(), [target.new_tensor(bound) for bound in (low, high)]
        off = sent != target if self.network.has_steps else (sent < bounds[0]) | (sent > bounds[1])
        return torch.where(off, target + (controls - asked), result)  # what rounding has moved off its step or bounds

    def in_parts(self, moved: Any, asked: ControlBatch) -> ControlBatch:
        """Displaced controls (n_rows, n_controls) of a batch as a batch; slow channels that it shared are shared still."""
        return ControlBatch.from_dense(moved, np.intersect1d(self.slow, asked.shared_index))

    def _refused(self, controls: np.ndarray) -> bool:
        if self.veto is None:
            return False
        try:
            self.veto(ControlBatch.from_dense(controls))
        except Exception:  # whatever it raises for a setting that must not be sent
            return True
        return False


def measured_size(
    dither: Dither, controls: np.ndarray, row_keys: np.ndarray, measure: Callable[[ControlBatch], np.ndarray]
) -> float:
    """The size at which displacements add ``TARGET_SHARE`` to the variance of the outputs, by measurement.

    Costs three shots for each of the given rows: twice as they are, which tells the noise, and once displaced.

    Parameters
    ----------
    dither : Dither
    controls : ndarray of shape (n_rows, n_controls)
        Settings with data in them, as the training will send them.
    row_keys : ndarray of uint64, shape (n_rows,)
    measure : callable
        ``measure(batch)`` -> outputs (n_rows, n_outputs).

    Returns
    -------
    float
        In parts of a channel's range.
    """
    if not dither.width.any():
        return 0.0
    size = _FIRST_SIZE
    while (moved := dither.displaced(controls, row_keys, 0, size)) is controls:  # vetoed
        size /= 2
        if size < _SIZES[0]:
            return _SIZES[0]
    slow = settled_weights(dither.network, dither.slow)
    first, again, displaced = (
        np.asarray(measure(ControlBatch.from_dense(c, slow)), dtype=float) for c in (controls, controls, moved)
    )
    noise = np.square(again - first).mean(axis=0).sum()  # twice the variance of the noise
    added = max(np.square(displaced - first).mean(axis=0).sum() - noise, 0.0)
    of_data = max(first.var(axis=0).sum() - noise / 2, 0.0)
    if of_data <= 0.0:
        return size
    low, high = _SIZES
    return float(np.clip(size * np.sqrt(TARGET_SHARE * of_data / max(added, 1e-12 * of_data)), low, high))
