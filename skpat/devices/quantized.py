"""Converters of finite resolution around any device."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from skpat.controls import ControlBatch
from skpat.devices.specification import ask_veto
from skpat.devices.wrapper import DeviceWrapper, _handed_on, _if_wrapped_has, nearest_step
from skpat.value_checks import is_int

if TYPE_CHECKING:
    import torch

__all__ = ["Quantized"]

_MOST_BITS = 32


class Quantized(DeviceWrapper):
    r"""A device behind digital-to-analogue and analogue-to-digital converters.

    A converter of :math:`b` bits between :math:`l` and :math:`h` has :math:`2^b` levels, both ends included,

    .. math::

        Q(v) = l + q \,\mathrm{round}\frac{\mathrm{clip}(v, l, h) - l}{q}, \qquad q = \frac{h - l}{2^b - 1}.

    Parameters
    ----------
    device : Device
        What stands between the converters.
    control_bits : int from 1 to 32, default=None
        Bits of the converter of each control channel, between the channel's bounds. None: continuous.
    output_bits : int from 1 to 32, default=None
        Bits of the converter of each output, between the ends of ``adc_range``. None: continuous.
    adc_range : (low, high) or array-like of shape (n_outputs, 2), default=None
        Range of the converter of all outputs alike, or of each, in the device's output units; needed with ``output_bits``. A
        reading beyond it is read as its end. Without ``output_bits`` it saturates and nothing is rounded. None: no end.

    Attributes
    ----------
    control_steps : ndarray of shape (n_controls,) or None
        Step of each converter, so that what a network sends is what the converter can set. Where the wrapped device has steps
        of its own, the smallest whole multiple of them that is no finer than the converter's.

    Notes
    -----
    Saturation is silent, as it is in a converter: it is no ``output_range``, whose readings a session treats as faults. (An
    ``output_range`` that the wrapped device states stays one.) What is not finite stays so: a broken reading is not a large
    one. :meth:`measure` rounds whatever it is given; a session refuses settings that are no whole steps.

    ``forward`` gives the rounded values with straight-through gradients (doi:10.48550/arXiv.1308.3432): those of the identity
    where the converter rounds, zero where it saturates.

    Examples
    --------
    >>> import numpy as np
    >>> from skpat.devices import IdentityDevice, Quantized
    >>> bench = IdentityDevice(1, 1, bounds=[[-1.0, 1.0]])
    >>> device = Quantized(bench, control_bits=2, output_bits=8, adc_range=(-0.5, 0.5))
    >>> device.control_steps
    array([0.66666667])
    >>> device.measure(np.array([[-1.0], [-0.3], [0.1], [0.3], [0.9]])).round(3).ravel()
    array([-0.5  , -0.335,  0.331,  0.331,  0.5  ])
    """

    equations: Any = _handed_on("equations")

    def __init__(self, device, *, control_bits=None, output_bits=None, adc_range=None):
        super().__init__(device)
        self.control_bits = control_bits
        self.output_bits = output_bits
        self.adc_range = adc_range

    def check_parameters(self) -> None:
        """Raise ValueError if a parameter is not what it must be."""
        for name in ("control_bits", "output_bits"):
            self._check_bits(name)
        if self.adc_range is not None:
            self._adc()
        elif self.output_bits is not None:
            raise ValueError(
                "'adc_range' of Quantized must be given where 'output_bits' is. Got None. Use adc_range=(low, high), the range "
                "of the converter in the device's output units."
            )

    def _check_bits(self, name: str) -> None:
        bits = getattr(self, name)
        if bits is not None and (not is_int(bits, 1) or bits > _MOST_BITS):
            raise ValueError(
                f"'{name}' of Quantized must be an int from 1 to {_MOST_BITS}, or None. Got {bits!r}. Use None for no rounding."
            )

    @property
    def control_steps(self) -> Any:
        own = getattr(self._wrapped, "control_steps", None)
        if self.control_bits is None:
            return own
        self._check_bits("control_bits")
        low, high = self._bounds().T
        step = (high - low) / (2**self.control_bits - 1)
        if own is None:
            return step
        own = np.broadcast_to(np.asarray(own, dtype=np.float64), step.shape)
        own_or_one = np.where(own > 0, own, 1.0)
        return np.where(own > 0, own_or_one * np.ceil(step / own_or_one * (1 - 1e-12)), step)

    def legal(self, values: np.ndarray, index: np.ndarray, like: np.ndarray) -> np.ndarray:
        """The nearest values that the converters can set, in the precision of ``like``."""
        return self._on_steps(values, index, like, self.control_steps)

    def transform_controls(self, batch: ControlBatch) -> ControlBatch:
        """The settings that the converters really make."""
        return batch if self.control_bits is None else self._replaced(batch, batch.varying, batch.shared)

    def transform_outputs(self, outputs: np.ndarray, batch: ControlBatch) -> np.ndarray:
        """The readings of the converters."""
        if self.adc_range is None:
            return outputs
        read = self._read(outputs, *self._adc())
        return np.where(np.isfinite(outputs), read, outputs).astype(outputs.dtype, copy=False)

    def check_controls(self, batch: ControlBatch) -> None:
        """The wrapped device's veto against the settings that the converters will make."""
        self.check_parameters()
        ask_veto(self._wrapped, self.transform_controls(batch))

    @_if_wrapped_has("forward")
    def forward(self, controls: torch.Tensor, constants: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
        """The noise-free response, rounded, with straight-through gradients.

        Parameters
        ----------
        controls : tensor of shape (n_rows, n_controls)
        constants : dict of str to tensor, default=None
            Values in place of the wrapped device's constructor constants.

        Returns
        -------
        tensor of shape (n_rows, n_outputs)
        """
        self.check_parameters()
        controls = self._set(controls, np.arange(controls.shape[1]))
        return self._read_through(self._forward("forward", controls, constants))

    @_if_wrapped_has("forward_batch")
    def forward_batch(self, batch: ControlBatch, constants: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
        """The same for a batch of tensors whose shared channels stay shared."""
        self.check_parameters()
        batch = replace(
            batch,
            varying=self._set(batch.varying, batch.varying_index),
            shared=self._set(batch.shared, batch.shared_index),
        )
        return self._read_through(self._forward("forward_batch", batch, constants))

    def _set(self, controls: torch.Tensor, index: np.ndarray) -> torch.Tensor:
        if self.control_bits is None or not len(index):
            return controls
        low, high = (controls.new_tensor(end) for end in self._bounds()[index].T)
        inside = controls.clamp(low, high)
        values = controls.detach().cpu().numpy()
        return _straight_through(controls.new_tensor(self.legal(values, index, values)), inside)

    def _read_through(self, outputs: torch.Tensor) -> torch.Tensor:
        if self.adc_range is None:
            return outputs
        ends = [outputs.new_tensor(end, dtype=_float64()) for end in self._adc()]
        inside = outputs.clamp(*(end.to(outputs.dtype) for end in ends))
        return _straight_through(self._read(outputs.detach().double(), *ends).to(outputs.dtype), inside)

    def _read(self, outputs: Any, low: Any, high: Any) -> Any:
        """Clipped and rounded in float64; numpy or torch alike."""
        inside = outputs.clip(low, high)
        if self.output_bits is None:
            return inside
        return nearest_step(inside, low, high, (high - low) / (2**self.output_bits - 1)).clip(low, high)

    def _adc(self) -> np.ndarray:
        """The range of the converters: low and high, each of shape () or (n_outputs,)."""
        try:
            ends = np.asarray(self.adc_range, dtype=np.float64)
        except (TypeError, ValueError):
            ends = np.empty(0)
        if ends.shape not in ((2,), (self.n_outputs, 2)) or not (np.isfinite(ends).all() and (np.diff(ends) > 0).all()):
            raise ValueError(
                f"'adc_range' of Quantized must be (low, high), finite and low below high, or have shape (n_outputs, 2) = "
                f"({self.n_outputs}, 2), or be None. Got {self.adc_range!r}. Use the range of the converter in output units."
            )
        return ends.T


def _float64() -> torch.dtype:
    import torch  # here: predictions on hardware need none

    return torch.float64


def _straight_through(value: torch.Tensor, through: torch.Tensor) -> torch.Tensor:
    """Exactly ``value``, with the gradient of ``through``."""
    return value + (through - through.detach())
