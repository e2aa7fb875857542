"""A device around a device: hands everything on, and lets subclasses change what is sent and what is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.metaestimators import available_if

from skpat.controls import ControlBatch, inner_bounds, readings_of
from skpat.devices.base import Device
from skpat.devices.specification import ask_veto, call_hook, channel_periods, check_device_specification, device_name
from skpat.devices.unfinished import hooks_of

if TYPE_CHECKING:
    import torch

__all__ = ["DeviceWrapper", "nearest_step"]


def _handed_on(attribute: str) -> Any:
    """A property: the wrapped device's own, else the default of :class:`skpat.Device`."""
    default = (getattr(Device, attribute),) if hasattr(Device, attribute) else ()
    return property(lambda self: getattr(self._wrapped, attribute, *default))


def _if_wrapped_has(method: str) -> Any:
    return available_if(lambda self: hasattr(self.device, method) and not isinstance(self.device, type))


class DeviceWrapper(Device):
    """A device that is another device, seen through something: the base of the wrappers.

    As it stands it changes nothing. A subclass defines :meth:`transform_controls`, :meth:`transform_outputs` or both, and
    :meth:`check_parameters` where it has parameters. Wrappers compose in any order; the innermost stands next to the device.

    Parameters
    ----------
    device : Device
        What is wrapped. Its parameters are reached as ``device__...``.

    Attributes
    ----------
    name : str
        For messages: ``Noisy(Quantized(SecondHarmonicLaser))``, say.
    n_controls, n_outputs, bounds, control_units, output_units, address, max_batch, seconds_per_shot, joules_per_shot, \
control_steps, max_change, periodic, output_range, on_bad_output, max_retries, settling_seconds, slow_controls
        Those of the wrapped device; see :class:`skpat.Device`.

    Notes
    -----
    ``forward`` and ``forward_batch`` exist if the wrapped device has them.

    A wrapper may change what is sent after the session has checked it. What reaches the wrapped device is therefore legal
    again: clipped at its bounds (the channel saturates there; a periodic one goes on a whole period further), on its
    ``control_steps``, and shown to its ``check_controls``, whose veto stops the measurement. Its ``max_change`` is held against
    the settings asked for, not against what drift or noise add to them. A subclass whose :meth:`transform_controls` bends or
    stretches a periodic channel must state another ``periodic``.

    Examples
    --------
    A spectrometer read on a logarithmic scale:

    >>> import numpy as np
    >>> from skpat.devices import SecondHarmonicLaser
    >>> from skpat.devices.wrapper import DeviceWrapper
    >>> class Decibels(DeviceWrapper):
    ...     output_units = "dB"
    ...
    ...     def transform_outputs(self, outputs, batch):
    ...         return 10 * np.log10(np.maximum(outputs, 1e-3))
    >>> device = Decibels(SecondHarmonicLaser(4, 2, random_state=0))
    >>> device.measure(np.zeros((1, 4)))
    array([[-30., -30.]])
    >>> device.name, device.set_params(device__noise=0.1).device.noise
    ('Decibels(SecondHarmonicLaser)', 0.1)
    """

    n_controls: Any = _handed_on("n_controls")
    n_outputs: Any = _handed_on("n_outputs")
    bounds: Any = _handed_on("bounds")
    control_units: Any = _handed_on("control_units")
    output_units: Any = _handed_on("output_units")
    address: Any = _handed_on("address")
    max_batch: Any = _handed_on("max_batch")
    seconds_per_shot: Any = _handed_on("seconds_per_shot")
    joules_per_shot: Any = _handed_on("joules_per_shot")
    control_steps: Any = _handed_on("control_steps")
    max_change: Any = _handed_on("max_change")
    periodic: Any = _handed_on("periodic")
    output_range: Any = _handed_on("output_range")
    on_bad_output: Any = _handed_on("on_bad_output")
    max_retries: Any = _handed_on("max_retries")
    settling_seconds: Any = _handed_on("settling_seconds")
    slow_controls: Any = _handed_on("slow_controls")

    _last_shared: tuple[np.ndarray, np.ndarray] | None = None  # as the wrapped device last received them

    def __init__(self, device):
        self.device = device

    @property
    def name(self) -> str:
        return f"{type(self).__name__}({device_name(self.device)})"

    # ---- for subclasses ----

    def check_parameters(self) -> None:
        """Raise ValueError if a parameter is not what it must be. Called before anything is sent. Default: accept."""

    def transform_controls(self, batch: ControlBatch) -> ControlBatch:
        """What the wrapped device receives for a batch.

        Its shared channels should stay shared: some devices have a million of them. :meth:`legal` keeps values within what
        the wrapped device allows. Default: the batch itself.

        Parameters
        ----------
        batch : ControlBatch
            numpy parts, perhaps read-only.

        Returns
        -------
        ControlBatch
            With the same channels in its two parts, and the same names.
        """
        return batch

    def transform_outputs(self, outputs: np.ndarray, batch: ControlBatch) -> np.ndarray:
        """What is read when the wrapped device answers ``outputs`` (n_rows, n_outputs). Default: the same.

        Parameters
        ----------
        outputs : ndarray of float, shape (n_rows, n_outputs)
            Not to be changed in place.
        batch : ControlBatch
            What the wrapper was asked for.

        Returns
        -------
        ndarray of shape (n_rows, n_outputs)
        """
        return outputs

    def legal(self, values: np.ndarray, index: np.ndarray, like: np.ndarray) -> np.ndarray:
        """The nearest values that the wrapped device allows, in the precision of ``like``.

        A periodic channel beyond its bounds comes back a whole period further, if they span one.

        Parameters
        ----------
        values : ndarray of shape (..., k)
        index : ndarray of int, shape (k,)
            The channel of each column.
        like : ndarray

        Returns
        -------
        ndarray of shape (..., k)
        """
        return self._on_steps(self._turned(values, index), index, like, getattr(self._wrapped, "control_steps", None))

    # ---- the device ----

    def measure(self, batch: ControlBatch | np.ndarray) -> np.ndarray:
        """Set the controls, measure once each.

        Parameters
        ----------
        batch : ControlBatch or array of shape (n_rows, n_controls)
            Settings in the device's units.

        Returns
        -------
        ndarray of shape (n_rows, n_outputs)

        Raises
        ------
        ValueError
            If a parameter is not what it must be.
        DeviceContractError
            If what is wrapped is no device.
        """
        self.check_parameters()
        return self._measure(ControlBatch.from_dense(batch).numpy())

    def check_controls(self, batch: ControlBatch) -> None:
        """The wrapped device's veto against the settings asked for."""
        self.check_parameters()
        ask_veto(self._wrapped, batch)

    def open(self) -> None:
        """Open the wrapped device."""
        self._last_shared = None
        self._call("open")

    def close(self) -> None:
        """Close the wrapped device."""
        self._last_shared = None
        self._call("close")

    def identify(self) -> str:
        """What the wrapped device answers."""
        return self._call("identify") or ""

    def safe_state(self) -> None:
        """The wrapped device's safe state, as it is: nothing is added to it."""
        self._call("safe_state")

    def set_shared(self, batch: ControlBatch) -> None:
        """Send the shared channels, as the wrapper changes them, to the wrapped device."""
        self._send_shared(self.transform_controls(batch.numpy()))

    @_if_wrapped_has("forward")
    def forward(self, controls: torch.Tensor, constants: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
        """The wrapped device's noise-free response, differentiable, without noise and drift of the wrapper.

        Parameters
        ----------
        controls : tensor of shape (n_rows, n_controls)
        constants : dict of str to tensor, default=None
            Values in place of the wrapped device's constructor constants.

        Returns
        -------
        tensor of shape (n_rows, n_outputs)
        """
        return self._forward("forward", controls, constants)

    @_if_wrapped_has("forward_batch")
    def forward_batch(self, batch: ControlBatch, constants: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
        """The same for a batch of tensors whose shared channels stay shared."""
        return self._forward("forward_batch", batch, constants)

    # ---- inside ----

    @property
    def _wrapped(self) -> Any:
        """The wrapped device, if it is one."""
        device = self.device
        if isinstance(device, type) or not hasattr(device, "measure"):
            check_device_specification(device)  # raises, and says what to do
        return device

    def _call(self, method: str, *arguments: Any) -> Any:
        return call_hook(self._wrapped, method, *arguments)

    def _functions_behind(self) -> Iterator[tuple[str, str, Any]]:
        return hooks_of(self.device)

    def _forward(self, method: str, controls: Any, constants: Any) -> Any:
        self.check_parameters()
        own = getattr(self._wrapped, method)
        return own(controls) if constants is None else own(controls, constants)

    def _measure(self, batch: ControlBatch) -> np.ndarray:
        device = self._wrapped
        sent = self.transform_controls(batch)
        if sent is not batch:
            if _innermost_defines(device, "check_controls"):
                ask_veto(device, sent)
            if self._last_shared is not None:
                self._send_shared(sent)
        outputs = readings_of(self._call("measure", sent))
        if outputs.shape != (batch.n_rows, device.n_outputs) or outputs.dtype.kind not in "fiub":
            return outputs  # the session says what is wrong with them
        if outputs.dtype not in (np.float32, np.float64):
            outputs = outputs.astype(np.float64)
        return self.transform_outputs(outputs, batch)

    def _send_shared(self, sent: ControlBatch) -> None:
        """Hand shared channels on if they are not the last ones sent: the session knows only those asked for."""
        if not _innermost_defines(self._wrapped, "set_shared"):
            return
        last = self._last_shared
        if last is None or not all(map(np.array_equal, last, (sent.shared, sent.shared_index))):
            self._last_shared = None
            self._call("set_shared", sent)
            self._last_shared = np.array(sent.shared), np.array(sent.shared_index)

    def _bounds(self) -> np.ndarray:
        bounds = np.asarray(self._wrapped.bounds, dtype=np.float64)
        return np.broadcast_to(bounds, (self._wrapped.n_controls, 2))

    def _on_steps(self, values: np.ndarray, index: np.ndarray, like: np.ndarray, steps: Any) -> np.ndarray:
        low, high = self._bounds()[index].T
        if steps is not None:
            values = np.clip(values, low, high)
            step = np.broadcast_to(np.asarray(steps, dtype=np.float64), (self._wrapped.n_controls,))[index]
            stepped = nearest_step(values, low, high, np.where(step > 0, step, 1.0))
            values = np.where(step > 0, stepped, values)
        return np.clip(values.astype(like.dtype), *inner_bounds(np.stack([low, high]), like.dtype))

    def _turned(self, values: np.ndarray, index: np.ndarray) -> np.ndarray:
        if getattr(self._wrapped, "periodic", None) is None or not len(index):
            return values
        period = channel_periods(self._wrapped)[index]
        low, high = self._bounds()[index].T
        turns = (period > 0) & (high - low >= period * (1 - 1e-12))
        if not turns.any():
            return values
        one = np.where(turns, period, 1.0)
        beyond = np.ceil(np.maximum(low - values, 0) / one) - np.ceil(np.maximum(values - high, 0) / one)
        return np.where(turns, values + beyond * one, values)

    def _replaced(self, batch: ControlBatch, varying: Any, shared: Any) -> ControlBatch:
        """The batch with other values, made legal, in its precision."""
        return replace(
            batch,
            varying=self.legal(varying, batch.varying_index, batch.varying),
            shared=self.legal(shared, batch.shared_index, batch.shared) if len(batch.shared_index) else batch.shared,
        )

    def _n_within(self, kind: type[DeviceWrapper]) -> int:
        """How many wrappers of a kind are inside: two of one seed draw on their own."""
        depth, device = 0, self.device
        while isinstance(device, DeviceWrapper):
            depth, device = depth + isinstance(device, kind), device.device
        return depth

    def __getstate__(self) -> dict[str, Any]:
        """Without what is on the line, which a copy must send again."""
        return {name: value for name, value in super().__getstate__().items() if name != "_last_shared"}


def nearest_step(values: Any, low: Any, high: Any, step: Any) -> Any:
    """Values from ``low`` to ``high`` at the nearest whole multiple of ``step`` above ``low``; numpy or torch alike."""
    most = (high - low) / step * (1 + 1e-12) // 1  # a grid that ends at the upper bound but for rounding does end there
    return low + ((values - low) / step).round().clip(0 * most, most) * step


def _innermost_defines(device: Any, method: str) -> bool:
    """Whether the device inside all wrappers has a method of its own."""
    while isinstance(device, DeviceWrapper):
        device = device.device
    own = getattr(type(device), method, None)
    return own is not None and own is not getattr(Device, method)
