"""The contract of a device: a plain specification with one thing to do, ``measure``."""

from __future__ import annotations

import inspect
import secrets
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from skpat.controls import ControlBatch
from skpat.devices.noise import standard_normal

__all__ = ["Device"]


class Device(BaseEstimator):
    """Base class of everything that can be trained: controls in, measured outputs out.

    A device is a *specification*: constructing, cloning, pickling or printing it opens nothing. Subclass it, keep
    ``__init__`` to storing its parameters, state the attributes below and write :meth:`measure`. Every fit works with a copy:
    parameters are data and addresses, and what is open is opened in :meth:`open` (or shared, by :func:`skpat.lab.adopt`).

    Attributes
    ----------
    n_controls : int
        Number of control channels.
    n_outputs : int
        Number of measured outputs.
    bounds : (low, high) or array-like of shape (n_controls, 2)
        Lowest and highest legal value, of all channels alike or of each, in the device's units. Nothing outside is ever
        sent.
    name : str, optional
        What messages, plans and reports call the device; without it they use the name of its class.
    control_units, output_units : str
        Units for messages and plots, for example "V".
    max_batch : int or None
        Most rows that one call of :meth:`measure` may carry. None: no limit.
    seconds_per_shot, joules_per_shot : float or None
        Cost of one shot, for plans and reports. None: unknown.
    address : str or None
        Where the instrument is, for example "TCPIP::192.168.0.7::5025::SOCKET". Only one session at a time, of all threads
        and processes of this computer, holds an address. None: private to this object.
    control_steps : array-like of shape (n_controls,) or None
        Step of each channel: legal values are the lower bound plus whole multiples of it. 0: continuous.
    max_change : float, array-like of shape (n_controls,) or None
        Largest legal change of a channel from one row to the next, in the device's units, repeats after a fault included.
        The first row after opening is not held against anything. None: any.
    periodic : float, array-like of shape (n_controls,) or None
        Period of each channel, in the device's units, 2 pi for a phase in rad: what the device answers does not change when
        the channel moves by a whole period. 0: not periodic. None: no channel is. Nothing that is sent depends on it; a twin
        may rely on it.
    equations : (Device, sequence of str) or None
        What is known of the device: a simulated device with ``forward`` and nominal constants, and the names of the
        constants to be found. ``twin=None`` is then a :class:`skpat.twins.PhysicsTwin` of it, with a learned correction if the
        model leaves out what can be learned. None: nothing.
    output_range : (low, high) or None
        Readings at or beyond are saturated. None: not checked.
    on_bad_output : {"retry", "mask", "raise"}
        What the session does about NaN, infinite or saturated readings: measure the rows again (up to ``max_retries``
        times), put the mean of the call's good readings of that output in their place, or raise at once.
        Where a call has none of an output, "mask" keeps saturated readings, at the end of the range.
    max_retries : int
        How often a batch is repeated after a fault before the session gives up.
    settling_seconds : float
        Wait after :meth:`set_shared`, before the measurement.
    slow_controls : sequence of int or None
        Channels that need time to settle. Methods that displace every row at random, the default is one, displace these by the
        same in all rows of a call: during a training they stay shared and go through :meth:`set_shared`. None: none.
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
    address: str | None = None
    control_steps: Any = None
    max_change: Any = None
    periodic: Any = None
    equations: Any = None
    output_range: tuple[float, float] | None = None
    on_bad_output: str = "retry"
    max_retries: int = 5
    settling_seconds: float = 0.0
    slow_controls: Any = None

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
        """Veto a setting as a whole (total power, charge) by raising ControlBoundsError; return nothing. Default: accept."""

    def open(self) -> None:
        """Connect to the hardware. Called by the session before the first measurement, and again after a fault.

        Default: nothing to open.
        """

    def close(self) -> None:
        """Disconnect, whatever state the line is in. Called by the session when it lets go. Default: nothing to close."""

    def identify(self) -> str:
        """Who answers: maker, model and serial number, say. Another answer after a fault stops the run. Default: ""."""
        return ""

    def safe_state(self) -> None:
        """Bring the hardware into a state it can be left in. Called before every :meth:`close`. Default: nothing."""

    def set_shared(self, batch: ControlBatch) -> None:
        """Send the channels that all rows share, ``batch.shared`` at ``batch.shared_index``.

        Called before :meth:`measure` when they differ from the last ones sent, and always after :meth:`open`.
        Default: nothing; ``measure`` sends every channel.
        """

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

    def in_time(self, batch: ControlBatch) -> ControlBatch:
        """The batch with a clock, for a device that drifts: the session's, or the device's own count of rows.

        Parameters
        ----------
        batch : ControlBatch

        Returns
        -------
        ControlBatch
            ``clock`` says how many rows were measured before each row.
        """
        if batch.clock is not None:
            return batch
        n_before = getattr(self, "_n_measured", 0)
        self._n_measured = n_before + batch.n_rows
        return batch.started_at(n_before)


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


def use_default(device: Device, name: str) -> str:
    """What to do about a parameter that is not legal: its default, as code."""
    parameter = inspect.signature(type(device)).parameters.get(name)
    if parameter is None or parameter.default is parameter.empty:  # a subclass of the user's
        return f"See the parameters of {type(device).__name__}."
    return f"Use {name}={parameter.default!r}, for example."


def demand(device: Device, name: str, fulfilled: bool, what: str, mend: str | None = None) -> None:
    """Raise ValueError for a parameter that must be ``what`` and is not.

    The message says what to do about it: use the default, if ``mend`` says nothing better.
    """
    if not fulfilled:
        got, mend = getattr(device, name), mend or use_default(device, name)
        raise ValueError(f"{name!r} of {type(device).__name__} must be {what}. Got {got!r}. {mend}")
