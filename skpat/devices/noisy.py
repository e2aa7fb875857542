"""Noise around any device: where a system has none of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from skpat.controls import ControlBatch
from skpat.devices.wrapper import DeviceWrapper, _handed_on
from skpat.row_keys import combine_keys
from skpat.value_checks import is_number

__all__ = ["Noisy"]

_NAME = 0x6E6F6973  # mixed into the names of the rows, so that the numbers are no other device's
_OUTPUTS, _VARYING, _SHARED, _UNNAMED = range(4)


class Noisy(DeviceWrapper):
    r"""A device with noise added to what is set and to what is read.

    .. math::

        y_k' = (1 + \sigma\, n_k)\, y_k(c') + \sigma_0\, m_k, \qquad
        c_j' = \mathrm{clip}\bigl(c_j + \sigma_c (h_j - l_j)\, z_j,\, l_j,\, h_j\bigr),

    with :math:`n, m, z` independent standard normal numbers for each shot, and :math:`l_j` to :math:`h_j` the bounds.

    Parameters
    ----------
    device : Device
        What is noisy.
    noise : float, default=0.0
        :math:`\sigma`: standard deviation of the multiplicative noise of each output.
    noise_floor : float, default=0.0
        :math:`\sigma_0`: standard deviation of the additive noise of each output, in the device's output units.
    control_noise : float, default=0.0
        :math:`\sigma_c`: standard deviation of the noise of each control channel, as a fraction of its range.
    random_state : int, default=None
        Seed of the noise. None: fresh noise at every call.

    Notes
    -----
    The noise of a named row is a pure function of (``random_state``, row, shot, output), and independent of the wrapped
    device's own, the same seed given. The channels that all rows share are set once for all rows: their noise is a function
    of (``random_state``, shot, channel), and they stay shared.

    ``forward`` is the response without this noise. With ``control_noise`` a device with ``control_steps`` receives the step
    next to the noisy value. A ``periodic`` channel beyond its bounds comes back a period further instead of being clipped.

    Examples
    --------
    >>> import numpy as np
    >>> from skpat.devices import IdentityDevice, Noisy
    >>> device = Noisy(IdentityDevice(1, 1, bounds=[[0, 1]]), noise=0.1, random_state=0)
    >>> outputs = device.measure(np.full((10_000, 1), 0.5))
    >>> round(float(outputs.mean()), 3), round(float(outputs.std()), 3)
    (0.5, 0.05)
    """

    equations: Any = _handed_on("equations")

    def __init__(self, device, *, noise=0.0, noise_floor=0.0, control_noise=0.0, random_state=None):
        super().__init__(device)
        self.noise = noise
        self.noise_floor = noise_floor
        self.control_noise = control_noise
        self.random_state = random_state

    def check_parameters(self) -> None:
        """Raise ValueError if a parameter is not what it must be."""
        for name in ("noise", "noise_floor", "control_noise"):
            value = getattr(self, name)
            if not is_number(value, 0, below=np.inf):
                raise ValueError(
                    f"'{name}' of Noisy must be a finite float of at least 0. Got {value!r}. Use 0.02 for a standard deviation "
                    "of 2 %."
                    if name != "noise_floor"
                    else f"'{name}' of Noisy must be a finite float of at least 0, in output units. Got {value!r}."
                )

    def transform_controls(self, batch: ControlBatch) -> ControlBatch:
        """The settings that the wrapped device really has in this shot."""
        if not self.control_noise or not batch.n_rows:
            return batch
        return self._replaced(
            batch,
            self._jittered(batch.varying, batch.varying_index, batch, _VARYING),
            self._jittered(batch.shared[None], batch.shared_index, _without_rows(batch), _SHARED)[0],
        )

    def transform_outputs(self, outputs: np.ndarray, batch: ControlBatch) -> np.ndarray:
        """The outputs with their noise."""
        n_outputs = outputs.shape[1]
        n_values = n_outputs * (bool(self.noise) + bool(self.noise_floor))
        if not n_values:
            return outputs
        normal = self._normal(batch, n_values, _OUTPUTS).astype(outputs.dtype, copy=False)
        if self.noise:
            outputs = outputs * (1 + float(self.noise) * normal[:, :n_outputs])
        if self.noise_floor:
            outputs = outputs + float(self.noise_floor) * normal[:, n_values - n_outputs :]
        return outputs

    def _jittered(self, values: np.ndarray, index: np.ndarray, batch: ControlBatch, part: int) -> np.ndarray:
        if not len(index):
            return values
        low, high = self._bounds()[index].T
        return values + (self.control_noise * (high - low)) * self._normal(batch, len(index), part)

    def _normal(self, batch: ControlBatch, n_values: int, part: int) -> np.ndarray:
        """Standard normal numbers (n_rows, n_values) under names that are no other device's."""
        keys = batch.row_keys
        if keys is None:  # unnamed rows are counted
            first = getattr(self, "_n_drawn", 0)
            self._n_drawn = first + batch.n_rows
            keys = combine_keys(np.arange(first, first + batch.n_rows, dtype=np.uint64), _UNNAMED)
        return self.standard_normal(
            batch.named(combine_keys(keys, _NAME, self._n_within(Noisy), part), batch.shot), n_values
        )


def _without_rows(batch: ControlBatch) -> ControlBatch:
    """One row that stands for all, under a name of its own."""
    keys = None if batch.row_keys is None else np.zeros(1, dtype=np.uint64)
    return replace(batch.rows(slice(0, 1)), row_keys=keys)
