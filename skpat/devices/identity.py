"""The identity in place of a device: what the digital parts of a network can do on their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from skpat.controls import ControlBatch
from skpat.devices.base import Device
from skpat.devices.specification import check_device_specification

if TYPE_CHECKING:
    import torch

__all__ = ["IdentityDevice"]


class IdentityDevice(Device):
    """A device that does nothing: its outputs are its controls, averaged or repeated to ``n_outputs``.

    Put it in the place of a real device, everything else equal, to see what the device adds.

    Parameters
    ----------
    n_controls, n_outputs : int
        With fewer outputs than controls each output is the mean of a run of neighbouring controls, as even as whole
        numbers allow; with more, controls are repeated.
    bounds : array-like of shape (n_controls, 2)
        Legal values of the controls.

    Examples
    --------
    >>> import numpy as np
    >>> from skpat.devices import IdentityDevice, SecondHarmonicLaser
    >>> IdentityDevice(4, 2, bounds=[[0, 1]] * 4).measure(np.array([[0.0, 1.0, 0.5, 0.5]]))
    array([[0.5, 0.5]])
    >>> IdentityDevice.like(SecondHarmonicLaser()).n_outputs
    50
    """

    def __init__(self, n_controls, n_outputs, bounds):
        self.n_controls = n_controls
        self.n_outputs = n_outputs
        self.bounds = bounds

    @classmethod
    def like(cls, device: Any) -> IdentityDevice:
        """The identity with the channels, outputs and bounds of another device."""
        bounds = check_device_specification(device)
        return cls(device.n_controls, device.n_outputs, bounds)

    def _mixing(self) -> np.ndarray:
        """The matrix (n_controls, n_outputs): output o averages the controls its share of the axis covers."""
        edges = np.arange(self.n_outputs + 1) * self.n_controls / self.n_outputs
        first = np.floor(edges[:-1] + 1e-9).astype(int)
        last = np.maximum(first + 1, np.floor(edges[1:] + 1e-9).astype(int))
        channel = np.arange(self.n_controls)[:, None]
        member = (channel >= first) & (channel < last)
        return member / member.sum(axis=0)

    def measure(self, batch: ControlBatch | np.ndarray) -> np.ndarray:
        """The controls, averaged or repeated; shape (n_rows, n_outputs)."""
        controls = ControlBatch.from_dense(batch).numpy().dense()
        return controls @ self._mixing().astype(controls.dtype)

    def forward(self, controls: torch.Tensor, constants: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
        """The same on tensors, differentiable."""
        return controls @ controls.new_tensor(self._mixing())
