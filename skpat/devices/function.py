"""as_device: a lab's own function as a device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

import numpy as np

from skpat.controls import ControlBatch, readings_of
from skpat.devices.base import Device
from skpat.devices.specification import check_device_specification, device_name
from skpat.devices.unfinished import finished
from skpat.exceptions import UnclearedLineError
from skpat.user_warning import warn_user

__all__ = ["FunctionDevice", "as_device"]

_INTERRUPTED = "an interruption"
_faults: dict[Any, tuple[Any, str]] = {}
"""By function, which other devices may call, too: the function, and how its last call ended."""


class FunctionDevice(Device):
    """A device made of a function; what :func:`skpat.as_device` returns.

    Parameters
    ----------
    function : callable
        ``function(controls)``, with ``controls`` a numpy array of shape (n_rows, n_controls) in the device's units,
        returns the measured outputs, an array of shape (n_rows, n_outputs). For a journal or a deployment file a method, or an
        object that can be called, is the same one whatever it holds, unless it is a frozen dataclass or a module of torch;
        ``functools.partial(function, setting=...)`` is not.
    n_controls, n_outputs : int
        Number of control channels and of outputs.
    bounds : (low, high) or array-like of shape (n_controls, 2)
        Legal values, in the device's units.
    control_units, output_units : str, default=""
        Units, for messages and plots.
    max_batch : int, default=None
        Most rows that one call of the function may carry.
    seconds_per_shot, joules_per_shot : float, default=None
        Cost of a shot, for plans and reports.
    address : str, default=None
        Where the instrument behind the function is: only one session at a time, of all threads and processes of this
        computer, holds it. None: private to this object.
    control_steps : float or array-like of shape (n_controls,), default=None
        Step of each channel (of a converter, say), counted from its lower bound; 0 for those without steps. None: no channel
        has any. The function is called with whole steps.
    max_change : float or array-like of shape (n_controls,), default=None
        Largest legal change of a channel from one row to the next. A batch that asks for more is refused. None: any.
    periodic : float or array-like of shape (n_controls,), default=None
        Period of each channel, in the device's units; 0 for those that are not periodic. None: no channel is.
    output_range : (low, high), default=None
        Readings at or beyond are saturated. None: not checked.
    on_bad_output : {"retry", "mask", "raise"}, default="retry"
        What happens to NaN, infinite and saturated readings: see :class:`skpat.Device`.
    max_retries : int, default=5
        How often a call is repeated after a fault.
    settling_seconds : float, default=0.0
        What a session waits after a change of shared channels, before the first row.
    slow_controls : sequence of int, default=None
        Channels that need time to settle: the same in all rows of a call during a training. None: none.
    equations : (Device, sequence of str), default=None
        A simulated device that is believed to answer like the function, and the names of its constants that are to be found.
        None: nothing is known.
    clear_line : callable, default=None
        ``clear_line()`` brings the line to the instrument into a known state: it connects anew, or throws away what has come.
        It is called before the first measurement, and before the next one after a fault or an interruption. None: after an
        ``OSError`` (a time-out) the function is not called again, for the old answer may still be on its way.
    name : str, default=None
        What to call the device; None: the function's name.
    """

    def __init__(
        self,
        function,
        *,
        n_controls,
        n_outputs,
        bounds,
        control_units="",
        output_units="",
        max_batch=None,
        seconds_per_shot=None,
        joules_per_shot=None,
        address=None,
        control_steps=None,
        max_change=None,
        periodic=None,
        output_range=None,
        on_bad_output="retry",
        max_retries=5,
        settling_seconds=0.0,
        slow_controls=None,
        equations=None,
        clear_line=None,
        name=None,
    ):
        self.function = function
        self.n_controls = n_controls
        self.n_outputs = n_outputs
        self.bounds = bounds
        self.control_units = control_units
        self.output_units = output_units
        self.max_batch = max_batch
        self.seconds_per_shot = seconds_per_shot
        self.joules_per_shot = joules_per_shot
        self.address = address
        self.control_steps = control_steps
        self.max_change = max_change
        self.periodic = periodic
        self.output_range = output_range
        self.on_bad_output = on_bad_output
        self.max_retries = max_retries
        self.settling_seconds = settling_seconds
        self.slow_controls = slow_controls
        self.equations = equations
        self.clear_line = clear_line
        self.name = name

    def __sklearn_clone__(self) -> FunctionDevice:
        """A device of its own around the same function: a live instrument behind it is shared, never copied."""
        return type(self)(**self.get_params(deep=False))

    def open(self) -> None:
        """Call ``clear_line``, if there is one.

        Raises
        ------
        UnclearedLineError
            If there is none, and the last call has ended with an ``OSError``.
        DeviceContractError
            If it is async.
        """
        if self.clear_line is None:
            self._refuse_old_answers()
        else:
            finished(self.clear_line(), "clear_line", device_name(self))
            _faults.pop(_key(self.function), None)

    def measure(self, batch: ControlBatch | np.ndarray) -> np.ndarray:
        """Call the function with the plain array of shape (n_rows, n_controls).

        Raises
        ------
        UnclearedLineError
            If the last call has ended with an ``OSError``, and nothing has cleared the line since.
        DeviceContractError
            If the function is async, or a generator.
        """
        self._refuse_old_answers()
        try:
            return readings_of(finished(self.function(np.asarray(batch)), "function", device_name(self)))
        except OSError as error:
            _faults[_key(self.function)] = self.function, f"{type(error).__name__}: {error}".rstrip(": .")
            raise
        except (KeyboardInterrupt, SystemExit):  # while an answer was under way, perhaps
            _faults[_key(self.function)] = self.function, _INTERRUPTED
            raise

    def _functions_behind(self) -> Iterator[tuple[str, str, Any]]:
        return ((what, device_name(self), getattr(self, what)) for what in ("function", "clear_line"))

    def _refuse_old_answers(self) -> None:
        """A line that missed one answer may give it to the next question: every reading would be a batch late."""
        _, fault = _faults.get(_key(self.function), (None, None))
        if fault == _INTERRUPTED:
            del _faults[_key(self.function)]
            warn_user(
                f"The last call of {device_name(self)} must end before the next one. Got an interruption (Ctrl-C): if the "
                "function asks an instrument, an old answer may be taken for the next one. Give "
                "as_device(..., clear_line=...), which is then called first."
            )
        elif fault is not None:
            raise UnclearedLineError(
                f"The instrument behind {device_name(self)} must be in a known state before it is measured again. Got {fault} "
                "the last time: the old answer may still be on its way, and be taken for the next one. Give "
                "as_device(..., clear_line=...), a function that connects anew or throws away what has come; if yours does "
                "that itself before it raises, one that does nothing."
            )


def _key(function: Any) -> Any:
    """The same for a method that is asked for twice, and for the function of a script or notebook that is defined anew, which
    asks the same line; for what has no hash its identity, while it is kept."""
    is_plain = (
        isinstance(function, FunctionType) and function.__closure__ is None and not hasattr(function, "__wrapped__")
    )
    if is_plain and function.__module__ == "__main__" and "<" not in function.__qualname__:
        return "__main__", function.__qualname__
    try:
        hash(function)
    except TypeError:
        return id(function)
    return function


def as_device(function: Callable[[np.ndarray], Any], *, n_controls: int, n_outputs: int, bounds: Any, **about: Any):
    """Make a device of a function.

    Parameters
    ----------
    function : callable
        ``function(controls)``: a numpy array of shape (n_rows, n_controls), in the device's units, to the measured
        outputs of shape (n_rows, n_outputs). It is called with legal values only, and never with more than
        ``max_batch`` rows. To use several processes, define it at the top of a module (so that it can be pickled).
    n_controls, n_outputs : int
        Number of control channels and of outputs.
    bounds : (low, high) or array-like of shape (n_controls, 2)
        Legal values of all channels alike, or of each.
    **about
        ``control_units``, ``output_units``, ``max_batch``, ``seconds_per_shot``, ``joules_per_shot``, ``address``,
        ``control_steps``, ``max_change``, ``periodic``, ``output_range``, ``on_bad_output``, ``max_retries``,
        ``settling_seconds``, ``slow_controls``, ``equations``, ``clear_line``, ``name``: see
        :class:`skpat.devices.FunctionDevice`.

    Returns
    -------
    FunctionDevice

    Raises
    ------
    TypeError
        If ``function`` cannot be called.
    DeviceContractError
        If the numbers or the bounds make no sense, or a function is async or a generator.

    Examples
    --------
    >>> import numpy as np
    >>> from skpat import as_device
    >>> def filter_bank(voltages):
    ...     return np.tanh(voltages[:, :4] * voltages[:, 4:])
    >>> device = as_device(filter_bank, n_controls=8, n_outputs=4, bounds=(-1, 1), control_units="V")
    >>> device.measure(np.full((2, 8), 0.5)).shape
    (2, 4)
    """
    if not callable(function):
        raise TypeError(f"'function' must be callable as function(controls). Got {function!r}.")
    about.setdefault("name", getattr(function, "__name__", None))
    device = FunctionDevice(function, n_controls=n_controls, n_outputs=n_outputs, bounds=bounds, **about)
    check_device_specification(device)
    return device
