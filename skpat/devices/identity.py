"""The identity in place of a device: what the digital parts of a network can do on their own."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from skpat.controls import ChannelSplit, ControlBatch, ControlSplit
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
    input_index : array-like of int, default=None
        The channels that carry data. With fewer outputs than controls every output is then the mean of two such runs, one of
        these channels and one of the others: as much of the data comes through as the outputs have room for, wherever its
        channels lie. None: channels that lie together share an output, whatever they carry.

    Examples
    --------
    >>> import numpy as np
    >>> from skpat.devices import IdentityDevice, SecondHarmonicLaser
    >>> IdentityDevice(4, 2, bounds=[[0, 1]] * 4).measure(np.array([[0.0, 1.0, 0.5, 0.5]]))
    array([[0.5, 0.5]])
    >>> IdentityDevice(4, 2, bounds=[[0, 1]] * 4, input_index=[0, 1]).measure(np.array([[0.0, 1.0, 0.5, 0.5]]))
    array([[0.25, 0.75]])
    >>> IdentityDevice.like(SecondHarmonicLaser()).n_outputs
    50
    """

    input_index = None  # also of one that was pickled before it had any

    def __init__(self, n_controls, n_outputs, bounds, input_index=None):
        self.n_controls = n_controls
        self.n_outputs = n_outputs
        self.bounds = bounds
        self.input_index = input_index

    @classmethod
    def like(cls, device: Any, control_split: ControlSplit | ChannelSplit | str | None = None) -> IdentityDevice:
        """The identity with the channels, outputs and bounds of another device.

        Parameters
        ----------
        device : Device
        control_split : ControlSplit, ChannelSplit or str, default=None
            That of the network: which channels carry data. The name of a layout will do, and so will a fitted network's
            ``control_split_``. Without it, a network whose data channels lie together loses most of its data in the
            averages. A layout "random" needs its ``random_state``.
        """
        bounds = check_device_specification(device)
        if control_split is None:
            return cls(device.n_controls, device.n_outputs, bounds)
        if isinstance(control_split, ChannelSplit):
            return cls(device.n_controls, device.n_outputs, bounds, control_split.input_index)
        split = ControlSplit(control_split) if isinstance(control_split, str) else control_split
        if isinstance(split.layout, str) and split.layout == "random" and split.random_state is None:
            raise ValueError(
                "The 'control_split' of an IdentityDevice must have a random_state where its layout is 'random'. Got None. "
                "Use ControlSplit('random', random_state=0), in the network too."
            )
        return cls(device.n_controls, device.n_outputs, bounds, split.resolve(device.n_controls).input_index)

    def _mixing(self) -> np.ndarray:
        """The matrix (n_controls, n_outputs): output o averages the controls that its share of the axis covers."""
        inputs = None
        if self.input_index is not None and self.n_outputs < self.n_controls:  # refuses what is no set of channels
            inputs = tuple(ControlSplit(self.input_index).resolve(self.n_controls).input_index.tolist())
        return _mixing(int(self.n_controls), int(self.n_outputs), inputs)

    def measure(self, batch: ControlBatch | np.ndarray) -> np.ndarray:
        """The controls, averaged or repeated; shape (n_rows, n_outputs)."""
        controls = ControlBatch.from_dense(batch).numpy().dense()
        return controls @ self._mixing().astype(controls.dtype)

    def forward(self, controls: torch.Tensor, constants: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
        """The same on tensors, differentiable."""
        controls = controls if controls.is_floating_point() else controls.double()
        return controls @ controls.new_tensor(self._mixing())


@lru_cache(maxsize=4)
def _mixing(n_controls: int, n_outputs: int, inputs: tuple[int, ...] | None) -> np.ndarray:
    if inputs is None:
        mixing = _shares(n_controls, n_outputs)
    else:
        mixing = np.zeros((n_controls, n_outputs))
        for index in (list(inputs), np.setdiff1d(np.arange(n_controls), inputs)):
            if len(index):
                mixing[index] = _shares(len(index), n_outputs)
        mixing /= mixing.sum(axis=0)
    mixing.flags.writeable = False  # it is the next call's, too
    return mixing


def _shares(n_channels: int, n_outputs: int) -> np.ndarray:
    """The matrix (n_channels, n_outputs) that averages neighbours, as evenly as whole numbers allow, or repeats channels."""
    edges = np.arange(n_outputs + 1) * n_channels / n_outputs
    first = np.floor(edges[:-1] + 1e-9).astype(int)
    last = np.maximum(first + 1, np.floor(edges[1:] + 1e-9).astype(int))
    channel = np.arange(n_channels)[:, None]
    member = (channel >= first) & (channel < last)
    return member / member.sum(axis=0)
