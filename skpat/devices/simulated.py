"""The base of the simulated systems: rows in pieces that keep the memory flat, torch inside, noise by the row's name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from skpat.controls import ControlBatch
from skpat.devices.base import Device

__all__ = ["SimulatedDevice"]


class SimulatedDevice(Device):
    """A device whose physics is computed here, in torch.

    A subclass defines :meth:`forward`, the noise-free response. Where it is noisy it also states
    ``n_noise_values`` and defines :meth:`simulate`.

    Attributes
    ----------
    chunk_rows : int
        Rows computed together: the memory does not grow with the number of rows.
    n_noise_values : int
        Standard normal numbers that the noise of one row needs; 0: no noise.
    torch_device : str
        Where the simulation runs.

    Examples
    --------
    A model of your own, with a constant that a :class:`skpat.twins.PhysicsTwin` can find. ``constants`` has the values to use
    in place of the constructor's; ``forward`` uses torch's operations only, so that gradients pass.

    >>> import numpy as np, torch
    >>> from skpat.devices import SimulatedDevice
    >>> from skpat.twins import PhysicsTwin
    >>> class Amplifier(SimulatedDevice):
    ...     "Products of pairs of voltages, amplified and saturating."
    ...
    ...     n_controls, n_outputs, bounds = 6, 3, (-1.0, 1.0)
    ...
    ...     def __init__(self, gain=2.0):
    ...         self.gain = gain
    ...
    ...     def forward(self, controls, constants=None):
    ...         gain = (constants or {}).get("gain", self.gain)
    ...         return torch.tanh(gain * controls[:, :3] * controls[:, 3:])
    >>> real, model = Amplifier(gain=3.0), Amplifier()
    >>> controls = np.random.default_rng(0).uniform(-1, 1, (100, 6))
    >>> twin = PhysicsTwin(model, ["gain"], random_state=0).fit(controls, real.measure(controls))
    >>> round(float(twin.constants_["gain"]), 2)
    3.0
    """

    torch_device: str = "cpu"

    @property
    def chunk_rows(self) -> int:
        return 128

    @property
    def n_noise_values(self) -> int:
        return 0

    def forward(self, controls: torch.Tensor, constants: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
        """The noise-free response, differentiable.

        Parameters
        ----------
        controls : tensor of shape (n_rows, n_controls)
        constants : dict of str to tensor, default=None
            Values in place of constructor constants.

        Returns
        -------
        tensor of shape (n_rows, n_outputs)
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward(controls, constants=None).")

    def simulate(self, batch: ControlBatch, normal: torch.Tensor | None) -> torch.Tensor:
        """One shot of each row of a chunk; no gradient is kept.

        Parameters
        ----------
        batch : ControlBatch
            Its parts are tensors.
        normal : tensor of shape (n_rows, n_noise_values) or None
            Standard normal numbers, in the dtype of the controls. None where there is no noise.

        Returns
        -------
        tensor of shape (n_rows, n_outputs)
        """
        return self.forward(batch.dense())

    def measure(self, batch: ControlBatch | np.ndarray) -> np.ndarray:
        """Set the controls, measure once each.

        Parameters
        ----------
        batch : ControlBatch or array of shape (n_rows, n_controls)
            Settings in the device's units.

        Returns
        -------
        ndarray of shape (n_rows, n_outputs)
            In the precision of the controls.

        Raises
        ------
        ValueError
            If a parameter of the device is not what it must be.
        """
        self._check_parameters()  # before the noise is drawn, which has parameters, too
        batch = ControlBatch.from_dense(batch).numpy()
        batch = _without_integers(batch)
        shared = torch.from_numpy(np.array(batch.shared)).to(self.torch_device)
        pieces = [
            self._measure_chunk(batch.rows(slice(start, start + self.chunk_rows)), shared)
            for start in range(0, batch.n_rows, self.chunk_rows)
        ]
        if not pieces:
            return np.empty((0, self.n_outputs), dtype=batch.varying.dtype)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _measure_chunk(self, batch: ControlBatch, shared: torch.Tensor) -> np.ndarray:
        normal = None
        if self.n_noise_values:
            drawn = self.standard_normal(batch, self.n_noise_values).astype(batch.varying.dtype, copy=False)
            normal = torch.from_numpy(drawn).to(self.torch_device)
        if hasattr(self, "forward_batch"):
            varying = np.array(batch.varying)
        else:  # it needs every control of every row: numpy puts them together faster
            varying = np.asarray(batch)
            whole = ControlBatch.from_dense(varying)
            batch, shared = (
                batch.changed(varying_index=whole.varying_index, shared_index=whole.shared_index),
                shared[:0],
            )
        varying_tensor = torch.from_numpy(varying).to(self.torch_device)
        with torch.no_grad():
            return self.simulate(batch.changed(varying=varying_tensor, shared=shared), normal).cpu().numpy()

    def _check_parameters(self) -> None:
        """Raise ValueError for the first parameter that is not legal. Default: accept."""

    def _replaceable(
        self, names: tuple[str, ...], constants: Mapping[str, Any] | None, like: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Constructor parameters as tensors, those given in ``constants`` in their place.

        Raises
        ------
        ValueError
            If ``constants`` names something that cannot be replaced.
        """
        given = constants or {}
        unknown = sorted(set(given) - set(names))
        if unknown:
            raise ValueError(f"'constants' of {type(self).__name__} must be among {', '.join(names)}. Got {unknown}.")
        dtype = like.dtype if like.is_floating_point() else torch.float64  # whole numbers would truncate the constants
        return {
            name: torch.as_tensor(given.get(name, getattr(self, name)), dtype=dtype, device=like.device)
            for name in names
        }


def _without_integers(batch: ControlBatch) -> ControlBatch:
    """Whole numbers in the precision of the other channels, or in double precision."""
    parts = {"varying": batch.varying, "shared": batch.shared}
    floats = [part.dtype for part in parts.values() if part.dtype.kind == "f"]
    if len(floats) == 2:
        return batch
    return batch.changed(**{name: part.astype(floats[0] if floats else np.float64) for name, part in parts.items()})


def floating(controls: torch.Tensor) -> torch.Tensor:
    """Whole numbers in double precision, everything else as it is."""
    return controls if controls.is_floating_point() else controls.double()
