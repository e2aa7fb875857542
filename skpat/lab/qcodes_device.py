"""QcodesDevice: a QCoDeS instrument and the names of its parameters, as a device."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from skpat.controls import ControlBatch, readings_of
from skpat.devices.base import Device
from skpat.devices.unfinished import that_finishes
from skpat.exceptions import ControlBoundsError, DeviceConnectionError, DeviceContractError
from skpat.lab.adopted import is_missing_answer
from skpat.lab.answers import IncompleteAnswer

__all__ = ["QcodesDevice"]


class QcodesDevice(Device):
    """A QCoDeS instrument: parameters that are set, one row after the other, and parameters that are read.

    Parameters
    ----------
    instrument : callable or str
        Makes the instrument when the session opens the device: a function or class, or where to import it from,
        "package.module:Class". To use several processes it must be picklable.
    controls : list of str, (str, int) or int
        Names of the parameters to set, one for each channel, dotted where they belong to a submodule or channel
        ("ch1.voltage", "channels.0.voltage"), each once. A pair (name, number of channels) is one parameter that takes the
        array of all channels. A number alone will do with ``measure_rows``.
    outputs : list of str, (str, int) or int
        Names of the parameters to read, likewise.
    bounds : (low, high) or array-like of shape (n_controls, 2)
        Legal values. The instrument's own validators remain in force: their refusal (ValueError, TypeError) ends the run.
    instrument_arguments : dict, default=None
        Keyword arguments for ``instrument``.
    trigger : str or (str, object), default=None
        A function, method or parameter that is called after a row is set; with a value, that value is its argument
        (``("mode", "run")`` sets a parameter).
    measure_rows : str, default=None
        A method of the instrument that takes all rows in one call, shape (n_rows, n_controls), and returns the outputs,
        shape (n_rows, n_outputs). It replaces setting, trigger and reading.
    safe : str or dict of str to object, default=None
        What :meth:`safe_state` does: a method to call, or values to set parameters to, those of controls within their bounds.
        If one cannot be set, the others are all the same.
    address : str, default=None
        Where the instrument is; sessions of all threads and processes then take turns. Give it whenever the instrument
        exists once: QCoDeS makes no second instrument of a name while the first is open.
    control_units, output_units, max_batch, seconds_per_shot, joules_per_shot : optional
        See :class:`skpat.Device`.
    control_steps, max_change, periodic, output_range, on_bad_output, max_retries, settling_seconds, slow_controls : optional
        See :class:`skpat.Device`. A channel whose step and lowest value are whole numbers is set to an ``int``, as the
        validator ``Ints`` demands.

    Notes
    -----
    A parameter is set only when its value changes, so shared channels are sent once. What was sent is forgotten when the
    device is closed, by :meth:`safe_state`, and where a parameter refuses it.

    skpat does not need QCoDeS for this; the instrument does.

    Examples
    --------
    Any object with QCoDeS's manners will do:

    >>> import numpy as np
    >>> from skpat.lab import Session
    >>> from skpat.lab.qcodes_device import QcodesDevice
    >>> class Parameter:
    ...     value = 0.0
    ...
    ...     def set(self, value):
    ...         self.value = value
    ...
    ...     def get(self):
    ...         return self.value
    >>> class Dac:
    ...     def __init__(self, name):
    ...         self.dac1, self.dac2 = Parameter(), Parameter()
    ...
    ...     def close(self):
    ...         pass
    >>> device = QcodesDevice(
    ...     Dac, ["dac1", "dac2"], ["dac2"], bounds=(-1, 1), instrument_arguments={"name": "dac"}, safe={"dac1": 0}
    ... )
    >>> with Session(device) as session:
    ...     session.measure(np.array([[0.5, -0.5]]))
    array([[-0.5]])
    """

    def __init__(
        self,
        instrument,
        controls,
        outputs,
        *,
        bounds,
        instrument_arguments=None,
        trigger=None,
        measure_rows=None,
        safe=None,
        address=None,
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
        self.controls = controls
        self.outputs = outputs
        self.bounds = bounds
        self.instrument_arguments = instrument_arguments
        self.trigger = trigger
        self.measure_rows = measure_rows
        self.safe = safe
        self.address = address
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
    def n_controls(self) -> int:  # type: ignore[override]  # an attribute of the base class, derived here
        return _names("controls", self.controls)[1]

    @property
    def n_outputs(self) -> int:  # type: ignore[override]  # an attribute of the base class, derived here
        return _names("outputs", self.outputs)[1]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name not in ("_line", "_named_itself")}

    def open(self) -> None:
        """Make the instrument, and find everything that will be set, called or read.

        Raises
        ------
        DeviceConnectionError
            If the instrument does not answer.
        DeviceContractError
            If it has no such parameter, or a value in its place, or ``safe`` is nothing that can be done.
        ControlBoundsError
            If ``safe`` would set a control to a value outside its bounds.
        """
        self.close()
        _check_safe(self)
        make = _imported(self.instrument)
        with _answer_expected("open"):
            try:
                instrument = make(**(self.instrument_arguments or {}))
            except KeyError as error:  # of QCoDeS: "Another instrument has the name: ..."
                error.add_note(
                    "Give the QcodesDevice an address=..., so that its sessions take turns at the one instrument."
                )
                raise
        try:
            with _answer_expected("open"):
                self._line = _Line(self, instrument)
        except BaseException:
            with suppress(Exception):  # the first error is the one to tell
                _close(instrument)
            raise

    def close(self) -> None:
        """Close the instrument, so that it can be made again."""
        line = self.__dict__.pop("_line", None)
        if line is not None:
            _close(line.instrument)

    def identify(self) -> str:
        """What the instrument answers to ``get_idn``, or ``IDN``: vendor, model, serial number and firmware."""
        instrument = self._opened().instrument
        ask = getattr(instrument, "get_idn", None) or getattr(instrument, "IDN", None)
        if ask is None:
            return ""
        with _answer_expected("identify"):
            answer = ask()
        if not isinstance(answer, dict):
            return str(answer)
        parts = [answer.get(part) for part in ("vendor", "model", "serial", "firmware")]
        # QCoDeS logs a time-out of *IDN? and answers None in all parts but the model, which becomes the name
        if any((parts[0], parts[2], parts[3])):
            self._named_itself = True
        elif getattr(self, "_named_itself", False):
            raise DeviceConnectionError(
                f"The instrument behind QcodesDevice.identify must say who it is, as it did before. Got {answer}. See "
                "QCoDeS's log, and check the line."
            )
        return ", ".join("" if part is None else str(part) for part in parts)

    def set_shared(self, batch: ControlBatch) -> None:
        """Set the channels that all rows share, where they have changed."""
        if self.measure_rows is None:
            with _answer_expected("set_shared"):
                self._opened().set_shared(batch)

    def measure(self, batch: ControlBatch | np.ndarray) -> np.ndarray:
        """Row by row: set what has changed, trigger, read; or everything in one call of ``measure_rows``."""
        batch = ControlBatch.from_dense(batch).numpy()
        with _answer_expected("measure"):
            return self._opened().measure(batch)

    def safe_state(self) -> None:
        """Call the method ``safe``, or set the parameters in it."""
        if self.safe is not None:
            with _answer_expected("safe_state"):
                self._opened().make_safe()

    def _opened(self) -> _Line:
        line = self.__dict__.get("_line")
        if line is None:
            raise DeviceConnectionError(
                "QcodesDevice must be open before it is used. Got a closed one. Measure through skpat.lab.Session, or call "
                "open() first."
            )
        return line


class _Line:
    """An instrument that is open, what was found in it, and what it was last set to."""

    def __init__(self, device: QcodesDevice, instrument: Any):
        self.instrument = instrument
        self._n_outputs = device.n_outputs
        owner = type(instrument).__name__
        self._rows = device.measure_rows and that_finishes(
            _located(instrument, device.measure_rows)[1], "measure_rows", owner
        )
        control_names, n_controls = _names("controls", device.controls)
        output_names, _ = _names("outputs", device.outputs)
        if self._rows is None and (control_names is None or output_names is None):
            raise DeviceContractError(
                "'controls' and 'outputs' of QcodesDevice must name parameters, or 'measure_rows' a method. Got "
                f"{device.controls!r} and {device.outputs!r} without 'measure_rows'. Give the names of the parameters."
            )
        self._takes_array = isinstance(control_names, str)
        self._set = _setters(instrument, _as_list(control_names))
        self._get = [_getter(instrument, name) for name in _as_list(output_names)]
        trigger, *value = (device.trigger,) if isinstance(device.trigger, (str, type(None))) else device.trigger
        self._trigger = None if trigger is None else that_finishes(_located(instrument, trigger)[1], trigger, owner)
        self._trigger_value: list[Any] = value
        self._safe: list[tuple[Callable[..., Any], list[Any]]] = []  # what is called, and what it is given
        if isinstance(device.safe, str):
            self._safe = [(that_finishes(_located(instrument, device.safe)[1], device.safe, owner), [])]
        elif device.safe is not None:
            self._safe = [(_setter(instrument, name), [value]) for name, value in device.safe.items()]
        self._whole = _whole_channels(device, n_controls)
        self._last = np.full(n_controls, np.nan)  # NaN equals nothing, so it is always sent

    def set_shared(self, batch: ControlBatch) -> None:
        wanted = self._last.copy()
        wanted[batch.shared_index] = batch.shared
        if self._takes_array and batch.n_rows:  # which can only be sent whole: let it settle at the first row
            wanted[batch.varying_index] = batch.varying[0]
        self._send(wanted)

    def measure(self, batch: ControlBatch) -> np.ndarray:
        if self._rows is not None:
            return readings_of(self._rows(np.asarray(batch)))
        readings = []
        wanted = np.empty(len(self._last))
        wanted[batch.shared_index] = batch.shared
        for row in batch.varying:
            wanted[batch.varying_index] = row
            self._send(wanted)
            if self._trigger is not None:
                self._trigger(*self._trigger_value)
            readings.append(self._read())
        return np.array(readings).reshape(batch.n_rows, self._n_outputs)

    def make_safe(self) -> None:
        self._last[:] = np.nan
        errors = []
        for act, value in self._safe:
            try:
                act(*value)
            except Exception as error:  # the others are brought to rest all the same
                errors.append(error)
        if errors:
            for other in errors[1:]:
                errors[0].add_note(f"And {type(other).__name__}: {other}")
            raise errors[0]

    def _send(self, wanted: np.ndarray) -> None:
        changed = np.flatnonzero((wanted != self._last) & ~np.isnan(wanted))
        if not len(changed):
            return
        if self._takes_array:
            if np.isnan(wanted).any():  # shared channels of no row: nothing whole to send
                return
            self._last[:] = np.nan  # until it has been taken
            self._set[0](wanted.copy())
            self._last[:] = wanted
            return
        for channel in changed:
            value = float(wanted[channel])
            self._last[channel] = np.nan
            self._set[channel](round(value) if self._whole[channel] else value)
            self._last[channel] = value

    def _read(self) -> np.ndarray:
        parts = [np.ravel(readings_of(get())) for get in self._get]
        reading = np.concatenate(parts)
        if len(reading) != self._n_outputs:
            raise IncompleteAnswer(
                f"The parameters in 'outputs' of QcodesDevice must give {self._n_outputs} numbers. Got {len(reading)}. Give "
                "an array-valued parameter as (name, number of entries)."
            )
        return reading


def _names(what: str, value: Any) -> tuple[str | list[str] | None, int]:
    """(one name or a list of them or None, number of channels) of a parameter ``controls`` or ``outputs``."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return None, int(value)
    if isinstance(value, (list, tuple)):
        if len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], (int, np.integer)):
            return value[0], int(value[1])
        if value and all(isinstance(name, str) for name in value):
            twice = [name for name in value if what == "controls" and value.count(name) > 1]
            if twice:
                raise _set_twice(twice[0], value)
            return list(value), len(value)
    raise DeviceContractError(
        f"'{what}' of QcodesDevice must be a list of parameter names, a pair (name of an array-valued parameter, number of "
        f"entries), or a number of channels. Got {value!r}."
    )


def _as_list(names: str | list[str] | None) -> list[str]:
    return [names] if isinstance(names, str) else names or []


def _imported(instrument: Any) -> Callable[..., Any]:
    if isinstance(instrument, str):
        module, colon, name = instrument.partition(":")
        if not (module and colon and name):
            raise DeviceContractError(
                f"'instrument' of QcodesDevice must be callable or \"package.module:Class\". Got {instrument!r}."
            )
        found: Any = importlib.import_module(module)
        for piece in name.split("."):
            found = getattr(found, piece)
        instrument = found
    if not callable(instrument):
        raise DeviceContractError(
            f"'instrument' of QcodesDevice must be callable or \"package.module:Class\". Got {instrument!r}. Give the class, "
            "or wrap an instrument that is already open with skpat.lab.adopt."
        )
    return instrument


def _find(instrument: Any, name: str) -> Any:
    """A parameter or method by its dotted name; a number picks from a list of channels."""
    found = instrument
    for piece in name.split("."):
        try:
            found = found[int(piece)] if piece.isdigit() else getattr(found, piece)
        except (AttributeError, LookupError, TypeError) as error:
            raise DeviceContractError(
                f"{name!r} must be a parameter or method of {type(instrument).__name__}. Got no {piece!r} in "
                f"{type(found).__name__}. Correct the name in the QcodesDevice."
            ) from error
    return found


def _located(instrument: Any, name: str, by: str = "") -> tuple[Any, Callable[..., Any]]:
    """A method or parameter, and its function ``by`` or itself."""
    found = _find(instrument, name)
    function = getattr(found, by, found) if by else found
    if not callable(function):
        must = "parameter, with set and get," if by else "parameter or method"
        raise DeviceContractError(
            f"{name!r} must be a {must} of {type(instrument).__name__}. Got the value {found!r:.60}. Set and read it in a "
            "function, with skpat.as_device, or skpat.lab.adopt for an instrument that is open."
        )
    return found, function


def _setters(instrument: Any, names: list[str]) -> list[Callable[..., Any]]:
    """What sets each of some parameters, which must be different ones."""
    known: dict[int, tuple[str, Any]] = {}
    setters = []
    for name in names:
        parameter, set_ = _located(instrument, name, "set")
        if id(parameter) in known:
            raise _set_twice(name, names, f" is {known[id(parameter)][0]!r}")
        known[id(parameter)] = name, parameter  # kept: another one has another id
        setters.append(that_finishes(set_, name, type(instrument).__name__))
    return setters


def _setter(instrument: Any, name: str) -> Callable[..., Any]:
    return that_finishes(_located(instrument, name, "set")[1], name, type(instrument).__name__)


def _getter(instrument: Any, name: str) -> Callable[..., Any]:
    return that_finishes(_located(instrument, name, "get")[1], name, type(instrument).__name__)


def _set_twice(name: str, controls: Any, same: str = " twice") -> DeviceContractError:
    return DeviceContractError(
        f"'controls' of QcodesDevice must name each parameter once. Got {controls!r}: {name!r}{same}. What is measured would "
        "depend on the channel that was set last. Leave one of them out."
    )


def _check_safe(device: QcodesDevice) -> None:
    """Refuse what can be no safe state, and values of controls outside their bounds, before the instrument is made."""
    safe = device.safe
    if safe is None or isinstance(safe, str):
        return
    if not isinstance(safe, Mapping) or not all(isinstance(name, str) for name in safe):
        raise DeviceContractError(
            "'safe' of QcodesDevice must be the name of a method, a dict of names of parameters and values, or None. Got "
            f"{safe!r}. Use safe={{'voltage': 0}}, for example. Nothing was sent."
        )
    names, n_controls = _names("controls", device.controls)
    bounds = np.broadcast_to(np.asarray(device.bounds, dtype=float), (n_controls, 2))
    places = {names: np.arange(n_controls)} if isinstance(names, str) else {n: [i] for i, n in enumerate(names or [])}
    for name, value in safe.items():
        if name not in places:
            continue
        low, high = bounds[places[name]].T
        try:
            values = np.broadcast_to(np.asarray(value, dtype=float), low.shape)
        except (TypeError, ValueError):
            values = np.full(low.shape, np.nan)
        wrong = ~((values >= low) & (values <= high))
        if wrong.any():
            first = int(np.argmax(wrong))
            raise ControlBoundsError(
                f"'safe' of QcodesDevice must set {name!r} within its bounds, {low[first]:g} to {high[first]:g}. Got "
                f"{value!r}. Give such a value, or the name of a method of the instrument. Nothing was sent.",
                channel=int(places[name][first]),
                value=float(values[first]),
            )


def _whole_channels(device: QcodesDevice, n_controls: int) -> np.ndarray:
    """The channels that can only have whole values."""
    if device.control_steps is None:
        return np.zeros(n_controls, dtype=bool)
    steps = np.broadcast_to(np.asarray(device.control_steps, dtype=float), (n_controls,))
    lowest = np.broadcast_to(np.asarray(device.bounds, dtype=float), (n_controls, 2))[:, 0]
    return (steps > 0) & (steps % 1 == 0) & (lowest % 1 == 0)


def _close(instrument: Any) -> None:
    try:
        instrument.close()
    except BaseException:
        # A broken line may not close; the name must be free all the same, or the instrument can never be made again.
        forget = getattr(type(instrument), "remove_instance", None)
        if forget is not None:
            forget(instrument)
        raise


@contextmanager
def _answer_expected(what: str) -> Iterator[None]:
    """Turn a missing answer into DeviceConnectionError; let a refusal through as it is."""
    try:
        yield
    except Exception as error:
        if is_missing_answer(error):
            raise DeviceConnectionError(
                f"The instrument must answer in QcodesDevice.{what}. Got {type(error).__name__}: {error}"
            ) from error
        raise
