"""adopt: an instrument that is already open, and can be neither pickled nor opened anew, as a device."""

from __future__ import annotations

import os
import secrets
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from skpat.controls import ControlBatch, readings_of
from skpat.devices.base import Device
from skpat.devices.specification import check_device_specification
from skpat.devices.unfinished import finished
from skpat.exceptions import DeviceConnectionError, DeviceIdentityError, SkpatError, UnclearedLineError
from skpat.lab.address_lock import address_in_this_process

__all__ = ["AdoptedDevice", "LiveInstrument", "adopt", "is_missing_answer"]


class LiveInstrument:
    """A name for an open handle of this process. The name may be copied and pickled, the handle stays where it is.

    Copies, and what is unpickled in the same process, are this very object. In another process, or when every device around
    the handle is gone, the name is all that is left, and each use of the handle raises DeviceIdentityError.

    Parameters
    ----------
    handle : object
        The open instrument. skpat never closes it.
    **functions : callable or None
        What can be done with it, ``measure`` among them; each gets the handle first.
    """

    def __init__(self, handle: Any, **functions: Callable[..., Any] | None):
        named = getattr(functions["measure"], "__qualname__", type(functions["measure"]).__qualname__)
        self.kind = f"{type(handle).__qualname__}, measured by {named}"
        self._handle = handle
        self._functions = functions
        self._token = secrets.token_hex(8)
        self._pid = os.getpid()
        self._fault = ""  # after which an old answer may still be under way
        _alive[self._token] = self

    @property
    def address(self) -> str:
        """Another one in each process: where the handle cannot be used, nobody need wait for it to be free."""
        return address_in_this_process(self._token)

    def can(self, what: str) -> bool:
        """Whether there is such a function."""
        return self._functions.get(what) is not None

    def do(self, what: str, *arguments: Any) -> Any:
        """Call one of the functions with the handle.

        Raises
        ------
        DeviceContractError
            If it has not done its work when it returns: it is async, or a generator.
        """
        self._require_handle()
        if what in ("measure", "identify"):
            self._refuse_old_answers()
        try:
            answer = self._functions[what](self._handle, *arguments)  # type: ignore[misc]  # asked where there is one
            return finished(answer, what, self._owner)
        except Exception as error:
            unfinished = what == "measure" and not isinstance(error, SkpatError)  # whatever a time-out looks like here
            if unfinished or isinstance(error, DeviceConnectionError) or is_missing_answer(error):
                told = f"{type(error).__name__}: {error}".rstrip(": .")
                self._fault = f"a fault ({told})"
            if is_missing_answer(error):
                raise DeviceConnectionError(
                    f"The adopted instrument ({self.kind}) must answer. Got {type(error).__name__}: {error}"
                ) from error
            raise
        except BaseException:  # Ctrl-C while an answer was under way
            self._fault = "an interruption"
            raise

    def functions(self) -> Iterator[tuple[str, str, Any]]:
        """Name of each function, whose it is, and the function."""
        return ((what, self._owner, function) for what, function in self._functions.items())

    @property
    def _owner(self) -> str:
        return f"the adopted instrument ({self.kind})"

    def open(self) -> None:
        """Bring the line into a known state."""
        self._require_handle()
        if self.can("open"):
            self.do("open")
            self._fault = ""
        else:
            self._refuse_old_answers()

    def _refuse_old_answers(self) -> None:
        """A line that missed one answer may give it to the next question: every reading would be a batch late."""
        if self._fault:
            raise UnclearedLineError(
                f"The adopted instrument ({self.kind}) must be in a known state before it is measured again. Got "
                f"{self._fault} the last time: an old answer may still be under way. Give adopt(..., open=...), a "
                "function of the handle that clears the line (open=lambda handle: None if there is nothing to clear), or "
                "adopt the handle again."
            )

    def _require_handle(self) -> None:
        if self._pid != os.getpid():
            raise DeviceIdentityError(
                f"The adopted instrument ({self.kind}) can only be used in process {self._pid}, where its handle lives. Got "
                f"a call in process {os.getpid()}. Use n_jobs=1 or the threading backend "
                "(joblib.parallel_config(backend='threading')), or a device with an address that each process opens for "
                "itself (VisaDevice, QcodesDevice, EpicsDevice)."
            )
        if self._functions.get("measure") is None:
            raise DeviceIdentityError(
                f"The adopted instrument ({self.kind}) must be held by a device of this process. Got a specification "
                "unpickled after the last such device was gone. Call adopt again, and give the estimator what it returns "
                "with set_params(device=...)."
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return _find, (self._token, self._pid, self.kind)

    def __repr__(self) -> str:  # never asks the handle, whose own repr may ask the instrument
        return f"<{self.kind}, process {self._pid}>"


# Weak: the devices keep the handle, and when the last of them goes, skpat keeps nothing open behind the user's back.
_alive: weakref.WeakValueDictionary[str, LiveInstrument] = weakref.WeakValueDictionary()


def _find(token: str, pid: int, kind: str) -> LiveInstrument:
    """What a pickled name stands for here."""
    known = _alive.get(token)
    if known is not None:
        return known
    only_a_name = LiveInstrument.__new__(LiveInstrument)
    only_a_name.kind, only_a_name._token, only_a_name._pid = kind, token, pid
    only_a_name._handle, only_a_name._functions, only_a_name._fault = None, {}, ""
    return only_a_name


class AdoptedDevice(Device):
    """A device around a live handle; what :func:`adopt` returns.

    Parameters
    ----------
    instrument : LiveInstrument
        The handle and what to do with it. Clones and copies share it.
    n_controls, n_outputs, bounds
        See :class:`skpat.Device`.
    name : str, default=None
        What to call the device.
    control_units, output_units, max_batch, seconds_per_shot, joules_per_shot : optional
        See :class:`skpat.Device`.
    control_steps, max_change, periodic, output_range, on_bad_output, max_retries, settling_seconds, slow_controls : optional
        See :class:`skpat.Device`.
    """

    def __init__(
        self,
        instrument,
        *,
        n_controls,
        n_outputs,
        bounds,
        name=None,
        control_units="",
        output_units="",
        max_batch=None,
        seconds_per_shot=None,
        joules_per_shot=None,
        control_steps=None,
        max_change=None,
        periodic=None,
        output_range=None,
        on_bad_output="retry",
        max_retries=5,
        settling_seconds=0.0,
        slow_controls=None,
    ):
        self.instrument = instrument
        self.n_controls = n_controls
        self.n_outputs = n_outputs
        self.bounds = bounds
        self.name = name
        self.control_units = control_units
        self.output_units = output_units
        self.max_batch = max_batch
        self.seconds_per_shot = seconds_per_shot
        self.joules_per_shot = joules_per_shot
        self.control_steps = control_steps
        self.max_change = max_change
        self.periodic = periodic
        self.output_range = output_range
        self.on_bad_output = on_bad_output
        self.max_retries = max_retries
        self.settling_seconds = settling_seconds
        self.slow_controls = slow_controls

    @property
    def address(self) -> str:  # type: ignore[override]  # an attribute of the base class, derived here
        """Names the handle, so that clones in several threads take turns."""
        return self.instrument.address

    def __sklearn_clone__(self) -> AdoptedDevice:
        """A device of its own around the very same handle."""
        return type(self)(**self.get_params(deep=False))

    def open(self) -> None:
        """Call the function given as ``open``. The handle itself is open already."""
        self.instrument.open()

    def identify(self) -> str:
        """What the function given as ``identify`` returns; "" without one."""
        return str(self.instrument.do("identify")) if self.instrument.can("identify") else ""

    def safe_state(self) -> None:
        """Call the function given as ``safe_state``."""
        if self.instrument.can("safe_state"):
            self.instrument.do("safe_state")

    def _functions_behind(self) -> Iterator[tuple[str, str, Any]]:
        return self.instrument.functions()

    def measure(self, batch: ControlBatch | np.ndarray) -> np.ndarray:
        """Call the function with the handle and the plain array of shape (n_rows, n_controls)."""
        return readings_of(self.instrument.do("measure", np.asarray(batch)))


def adopt(
    handle: Any,
    measure: Callable[[Any, np.ndarray], Any],
    *,
    n_controls: int,
    n_outputs: int,
    bounds: Any,
    open: Callable[[Any], None] | None = None,
    safe_state: Callable[[Any], None] | None = None,
    identify: Callable[[Any], str] | None = None,
    **about: Any,
) -> AdoptedDevice:
    """Make a device of an instrument that is already open, in a notebook say.

    Parameters
    ----------
    handle : object
        The open instrument: a VISA resource, a vendor's object, a camera. It is never copied, pickled, printed or closed.
    measure : callable
        ``measure(handle, controls)``: controls of shape (n_rows, n_controls), in the device's units, to the measured outputs
        of shape (n_rows, n_outputs). It is called with legal values only, and never with more than ``max_batch`` rows.
    n_controls, n_outputs : int
        Number of control channels and of outputs.
    bounds : (low, high) or array-like of shape (n_controls, 2)
        Legal values of all channels alike, or of each.
    open : callable, default=None
        ``open(handle)`` brings the line into a known state, whatever happened before (``handle.clear()``). It is called
        before the first measurement and after each fault. Without it, a measurement that failed or was interrupted is not
        repeated: its answer may still be under way, and would be taken for the next one's.
    safe_state : callable, default=None
        ``safe_state(handle)`` brings the instrument into a state it can be left in. It is called when a session ends.
    identify : callable, default=None
        ``identify(handle)`` tells who answers. Another answer after a fault stops the run.
    **about
        ``name`` and the attributes of :class:`skpat.Device`: ``control_units``, ``output_units``, ``max_batch``,
        ``seconds_per_shot``, ``joules_per_shot``, ``control_steps``, ``max_change``, ``periodic``, ``output_range``,
        ``on_bad_output``, ``max_retries``, ``settling_seconds``, ``slow_controls``.

    Returns
    -------
    AdoptedDevice
        Clones and copies of it are devices of their own around the very same handle. Pickled, it keeps its specification;
        the handle is found again in this process only, as long as a device around it lives.

    Raises
    ------
    TypeError
        If one of the functions cannot be called.
    DeviceContractError
        If the numbers or the bounds make no sense, or a function is async or a generator.

    Notes
    -----
    Works with ``n_jobs=1`` and with joblib's threading backend, where the threads take turns. Another process cannot reach
    the handle: measuring there raises DeviceIdentityError.

    Examples
    --------
    >>> import numpy as np
    >>> from skpat.lab import Session
    >>> from skpat.lab.adopted import adopt
    >>> class Heater:  # stands for what a vendor's library returns
    ...     def set_and_read(self, volts):
    ...         return volts**2 / 50
    >>> device = adopt(
    ...     Heater(), lambda heater, controls: heater.set_and_read(controls), n_controls=2, n_outputs=2, bounds=(0, 5)
    ... )
    >>> with Session(device) as session:
    ...     session.measure(np.array([[0.0, 5.0]]))
    array([[0. , 0.5]])
    """
    functions = {"measure": measure, "open": open, "safe_state": safe_state, "identify": identify}
    for what, function in functions.items():
        if not callable(function) and (function is not None or what == "measure"):
            arguments = "handle, controls" if what == "measure" else "handle"
            raise TypeError(f"{what!r} must be callable as {what}({arguments}). Got {function!r}.")
    device = AdoptedDevice(
        LiveInstrument(handle, **functions), n_controls=n_controls, n_outputs=n_outputs, bounds=bounds, **about
    )
    check_device_specification(device)
    return device


def is_missing_answer(error: BaseException) -> bool:
    """Whether an error of a driver means that the instrument did not answer.

    That is every OSError (a time-out, a broken line), and what PyVISA raises in its place.
    """
    if isinstance(error, SkpatError):  # said in skpat's own words already
        return False
    # By name: an instrument that speaks VISA has imported pyvisa, and the others must not need it.
    return isinstance(error, OSError) or any(
        kind.__name__ == "VisaIOError" and kind.__module__.partition(".")[0] == "pyvisa" for kind in type(error).__mro__
    )
