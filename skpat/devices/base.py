"""The contract of a device: a plain specification with one thing to do, ``measure``."""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from skpat.controls import ControlBatch
from skpat.devices.noise import standard_normal
from skpat.exceptions import DeviceContractError

__all__ = ["Device", "check_device_specification", "device_name"]


class Device(BaseEstimator):
    """Base class of everything that can be trained: controls in, measured outputs out.

    A device is a *specification*: constructing, cloning, pickling or printing it opens nothing. Subclass it, keep
    ``__init__`` to storing its parameters, state the attributes below and write :meth:`measure`.

    Attributes
    ----------
    n_controls : int
        Number of control channels.
    n_outputs : int
        Number of measured outputs.
    bounds : array-like of shape (n_controls, 2)
        Lowest and highest legal value of each channel, in the device's units. Nothing outside is ever sent.
    control_units, output_units : str
        Units for messages and plots, for example "V".
    max_batch : int or None
        Most rows that one call of :meth:`measure` may carry. None: no limit.
    seconds_per_shot, joules_per_shot : float or None
        Cost of one shot, for plans and reports. None: unknown.
    random_state : int or None
        Only where the device makes its own noise (simulated devices): an estimator with a ``random_state`` seeds
        its own copy.

    Examples
    --------
    >>> import numpy as np
    >>> from skpat import Device
    >>> class Tank(Device):
    ...     n_controls, n_outputs = 3, 2
    ...     bounds = np.array([[0.0, 1.0]] * 3)
    ...
    ...     def __init__(self, leak=0.1):
    ...         self.leak = leak
    ...
    ...     def measure(self, batch):
    ...         level = np.asarray(batch)
    ...         return np.tanh(level[:, :2] + level[:, 1:]) - self.leak
    >>> Tank().measure(np.full((1, 3), 0.5)).shape
    (1, 2)
    """

    n_controls: int
    n_outputs: int
    bounds: Any
    control_units: str = ""
    output_units: str = ""
    max_batch: int | None = None
    seconds_per_shot: float | None = None
    joules_per_shot: float | None = None

    def measure(self, batch: ControlBatch | np.ndarray) -> np.ndarray:
        """Set the controls, measure once each.

        Parameters
        ----------
        batch : ControlBatch or array of shape (n_rows, n_controls)
            Settings in the device's units. ``np.asarray(batch)`` gives the plain array.

        Returns
        -------
        array of shape (n_rows, n_outputs)
        """
        raise NotImplementedError(f"{type(self).__name__} must define measure(batch) -> (n_rows, n_outputs).")

    def check_controls(self, batch: ControlBatch) -> None:
        """Veto a setting as a whole (total power, charge) by raising ControlBoundsError. Default: accept."""

    def open(self) -> None:
        """Connect to the hardware. Called by the session before the first measurement. Default: nothing to open."""

    def close(self) -> None:
        """Disconnect. Called by the session after the last measurement. Default: nothing to close."""

    def standard_normal(self, batch: ControlBatch, n_values: int) -> np.ndarray:
        """Standard normal numbers for a simulated device's noise.

        A named batch gets numbers that are a pure function of (``random_state``, row, shot, column); an unnamed one
        draws from the device's own stream.

        Parameters
        ----------
        batch : ControlBatch
        n_values : int
            Numbers per row.

        Returns
        -------
        ndarray of shape (n_rows, n_values)
        """
        seed = getattr(self, "random_state", None)
        if batch.row_keys is None:
            if getattr(self, "_stream", (object(),))[0] != seed:
                self._stream = seed, np.random.default_rng(_as_seed(seed))
            return self._stream[1].standard_normal((batch.n_rows, n_values))
        return standard_normal(_as_seed(seed), batch.row_keys, batch.shot, n_values)


def _as_seed(random_state: Any) -> int:
    """A whole number to seed with; fresh entropy for None."""
    if random_state is None:
        return secrets.randbits(63)
    if isinstance(random_state, (np.random.RandomState, np.random.Generator)):
        raise TypeError(
            "'random_state' of a device must be an int or None, so that its noise can be repeated. "
            f"Got {random_state!r}. Use random_state=0."
        )
    return int(random_state)


def device_name(device: Any) -> str:
    """What to call a device in messages: the name it gives itself, else its class."""
    return getattr(device, "name", None) or type(device).__name__


def check_device_specification(device: Any) -> np.ndarray:
    """Check, without touching the hardware, that an object states what a device must state.

    Returns
    -------
    ndarray of float, shape (n_controls, 2)
        The bounds.

    Raises
    ------
    DeviceContractError
        Naming what is missing or wrong.
    """
    name = device_name(device)
    if isinstance(device, type):
        raise DeviceContractError(
            f"'device' must be an object, not a class. Got the class {device.__name__}. Use {device.__name__}()."
        )
    needed = ("measure", "n_controls", "n_outputs", "bounds")
    missing = [attribute for attribute in needed if not hasattr(device, attribute)]
    if len(missing) == len(needed):
        fix = (
            "To give the torch device where tensors live, use torch_device=" + repr(device)
            if isinstance(device, str)
            else "Wrap a plain function with skpat.as_device(function, n_controls=..., n_outputs=..., bounds=...)"
        )
        raise DeviceContractError(f"'device' must be a skpat.Device (the apparatus to train). Got {device!r}. {fix}.")
    if missing:
        raise DeviceContractError(f"The device {name} must define {', '.join(missing)}. See skpat.Device.")
    for attribute in ("n_controls", "n_outputs"):
        value = getattr(device, attribute)
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise DeviceContractError(f"'{attribute}' of {name} must be an int of at least 1. Got {value!r}.")
    limit = getattr(device, "max_batch", None)
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, (int, np.integer)) or limit < 1):
        raise DeviceContractError(f"'max_batch' of {name} must be an int of at least 1, or None. Got {limit!r}.")
    try:
        bounds = np.asarray(device.bounds, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DeviceContractError(f"'bounds' of {name} must be numbers. Got {device.bounds!r}.") from error
    if bounds.shape != (device.n_controls, 2):
        raise DeviceContractError(
            f"'bounds' of {name} must have shape (n_controls, 2) = ({device.n_controls}, 2). Got {bounds.shape}."
        )
    wrong = ~(np.isfinite(bounds).all(axis=1) & (bounds[:, 0] < bounds[:, 1]))
    if wrong.any():
        channel = int(np.argmax(wrong))
        raise DeviceContractError(
            f"'bounds' of {name} must be finite, the lower below the upper. Got {bounds[channel].tolist()} in channel "
            f"{channel}. Hold a channel that must not move with ControlSplit(fixed={{{channel}: value}})."
        )
    return bounds
