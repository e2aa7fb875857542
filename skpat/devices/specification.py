"""What a device must state, and checking that it does without touching the hardware."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any

import numpy as np

from skpat.controls import ControlBatch
from skpat.devices.unfinished import finished, refuse_unfinished
from skpat.exceptions import DeviceContractError
from skpat.value_checks import is_int, is_number

__all__ = [
    "OPEN_IT_LATER",
    "ask_veto",
    "call_hook",
    "channel_periods",
    "check_device_specification",
    "copied_objects",
    "copy_to_work_with",
    "device_name",
    "lost_in_copy",
    "slow_channels",
]

_STATED = (
    "n_controls", "n_outputs", "bounds", "control_steps", "max_change", "max_batch", "address", "output_range", "on_bad_output",
    "max_retries", "settling_seconds", "slow_controls", "periodic", "name", "control_units", "output_units",
)  # fmt: skip
_DOING = ("measure", "check_controls", "set_shared", "safe_state", "identify", "open", "close", "equations")
_BAD_OUTPUT = ("retry", "mask", "raise")
OPEN_IT_LATER = "Open the instrument in open(), or wrap what is open already with skpat.lab.adopt, which shares it."
_COPIED_WELL = ("random", "networkx", "numpy", "scipy", "pandas", "torch", "sklearn", "skpat")
"""Packages of whose objects copies will do."""
_WHAT_TO_DO = {
    "max_batch": " Use None for no limit.",
    "max_retries": " Use 0 to repeat nothing.",
    "seconds_per_shot": " Use None where it is not known.",
    "joules_per_shot": " Use None where it is not known.",
    "settling_seconds": " Use 0 where nothing has to settle.",
    "control_steps": " Use 0 for a channel without steps.",
    "max_change": " Use None where any change is legal.",
    "periodic": " Use 0 for a channel that is not periodic, 2 * numpy.pi for a phase in rad.",
}


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
        if hasattr(device, "fit"):
            fix = "Of a network use estimator.device, or estimator.device_ once it is fitted (of a pipeline, model[-1].device_)"
        raise DeviceContractError(f"'device' must be a skpat.Device (the apparatus to train). Got {device!r}. {fix}.")
    if missing:
        raise DeviceContractError(
            f"The device {name} must define {', '.join(missing)}. Got an object that does not. State what is missing on its "
            "class, as in the example of skpat.Device."
        )
    for attribute in ("n_controls", "n_outputs"):
        value = getattr(device, attribute)
        if not is_int(value, 1):
            raise DeviceContractError(f"'{attribute}' of {name} must be an int of at least 1. Got {value!r}.")
    for attribute, lowest in (("max_batch", 1), ("max_retries", 0)):
        value = getattr(device, attribute, None)
        if value is not None and not is_int(value, lowest):
            raise DeviceContractError(
                f"'{attribute}' of {name} must be an int of at least {lowest}, or None. Got {value!r}.{_WHAT_TO_DO[attribute]}"
            )
    if getattr(device, "on_bad_output", "retry") not in _BAD_OUTPUT:
        raise DeviceContractError(
            f"'on_bad_output' of {name} must be one of {', '.join(map(repr, _BAD_OUTPUT))}. Got {device.on_bad_output!r}. Use "
            "'retry' to measure such rows again."
        )
    address = getattr(device, "address", None)
    if address is not None and (not isinstance(address, str) or not address):
        raise DeviceContractError(
            f"'address' of {name} must be a string, or None. Got {address!r}. "
            "Use address='TCPIP::192.168.0.7::5025::SOCKET', for example."
        )
    _check_costs(device, name)
    _check_channel_numbers(device, name, "control_steps")
    _check_channel_numbers(device, name, "max_change")
    _check_channel_numbers(device, name, "periodic")
    _check_output_range(device, name)
    _check_slow_controls(device, name)
    for attribute in ("control_units", "output_units"):
        units = getattr(device, attribute, None)
        if units is not None and not isinstance(units, str):
            raise DeviceContractError(
                f"'{attribute}' of {name} must be one text for all channels, or None. Got {units!r}. Use one text, "
                f"{attribute}='mA, V', say, or let measure work in one unit, on numbers from 0 to 1 perhaps."
            )
    try:
        if np.asarray(device.bounds).dtype.kind in "US":
            raise TypeError("texts")  # that numpy would turn into numbers
        bounds = np.asarray(device.bounds, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DeviceContractError(
            f"'bounds' of {name} must be numbers. Got {device.bounds!r}. Use (low, high), or one such pair for each channel."
        ) from error
    if bounds.shape == (2,):
        bounds = np.tile(bounds, (device.n_controls, 1))
    if bounds.shape != (device.n_controls, 2):
        raise DeviceContractError(
            f"'bounds' of {name} must be (low, high) or have shape (n_controls, 2) = ({device.n_controls}, 2). "
            f"Got {bounds.shape}. Use numpy.column_stack([lowest, highest]) for limits of each channel."
        )
    wrong = ~(np.isfinite(bounds).all(axis=1) & (bounds[:, 0] < bounds[:, 1]))
    if wrong.any():
        channel = int(np.argmax(wrong))
        raise DeviceContractError(
            f"'bounds' of {name} must be finite, the lower below the upper. Got {bounds[channel].tolist()} in channel "
            f"{channel}. Hold a channel that must not move with ControlSplit(fixed={{{channel}: value}})."
        )
    _check_steps(device, name, bounds)
    refuse_unfinished(device)
    return bounds


def call_hook(device: Any, what: str, *arguments: Any) -> Any:
    """Call a method of a device, if it has it; None if it has not.

    Raises
    ------
    DeviceContractError
        If it has not done its work when it returns: it is async, or a generator.
    """
    method = getattr(device, what, None)
    return None if method is None else finished(method(*arguments), what, device_name(device))


def ask_veto(device: Any, batch: ControlBatch) -> None:
    """Let a device object to a batch, if it has ``check_controls``.

    Raises
    ------
    ControlBoundsError
        What the device raises.
    DeviceContractError
        If it answers instead: False would be meant as a veto, and be overheard. If it is async.
    """
    answer = call_hook(device, "check_controls", batch)
    if answer is not None:
        raise DeviceContractError(
            f"'check_controls' of {device_name(device)} must raise skpat.exceptions.ControlBoundsError where it objects, and "
            f"return nothing. It returned {answer!r}. Nothing was sent."
        )


def lost_in_copy(device: Any, copy: Any) -> list[str]:
    """Names of what a device states and its copy states otherwise: it was set after the construction."""
    missing = object()
    stated = {name: [getattr(one, name, missing) for one in (device, copy)] for name in _STATED}
    lost = [name for name, (here, there) in stated.items() if here is not there and not _same(here, there)]
    own, of_copy = (getattr(one, "__dict__", {}) for one in (device, copy))
    lost += [name for name in _DOING if name in own and name not in of_copy]
    if hasattr(own.get("device"), "measure") and "device" in of_copy:  # of a wrapper
        lost += [name for name in lost_in_copy(own["device"], of_copy["device"]) if name not in lost]
    return lost


def copied_objects(device: Any, copy: Any) -> list[str]:
    """Names of parameters that hold an object of which the copy has one of its own: an open instrument, say.

    What compares equal with its copy is data, whatever it is.
    """
    if not hasattr(device, "get_params") or not hasattr(copy, "get_params"):
        return []
    here, there = device.get_params(deep=False), copy.get_params(deep=False)
    found = []
    for name in sorted(set(here) & set(there)):
        if hasattr(here[name], "get_params") and not isinstance(here[name], type):
            found += [f"{name}__{inner}" for inner in copied_objects(here[name], there[name])]
        elif not _stands_for(here[name], there[name]):
            found.append(name)
    return found


def _stands_for(value: Any, copied: Any) -> bool:
    """Whether a copy does as well as what it was made of."""
    if copied is value or type(copied) is not type(value):  # the second: a seed was None
        return True
    known = any(kind.__module__.partition(".")[0] in _COPIED_WELL for kind in type(value).__mro__)
    if known or isinstance(value, BaseException):
        return True
    if isinstance(value, MethodType):
        return _stands_for(value.__self__, copied.__self__)
    if isinstance(value, partial):
        parts = [(one.func, one.args, one.keywords) for one in (value, copied)]
        return _stands_for(*parts)
    if isinstance(value, (list, tuple)) and len(value) == len(copied):
        return all(map(_stands_for, value, copied))
    if isinstance(value, dict) and set(value) == set(copied):
        return all(_stands_for(value[key], copied[key]) for key in value)
    try:
        return bool(value == copied)
    except Exception:  # arrays, somewhere within
        return True


def copy_to_work_with(device: Any, make_copy: Callable[[], Any]) -> Any:
    """The copy of a device, which is what is worked with; it must not lack limits, nor have another instrument.

    Raises
    ------
    DeviceContractError
        If it does, or the device cannot be copied. Nothing has been sent.
    """
    try:
        copy = make_copy()
    except TypeError as error:
        if "pickle" not in str(error):  # it is not about a lock, or an open socket
            raise
        raise DeviceContractError(
            f"The device {device_name(device)} must hold what can be copied: a fit works with a copy of it. Got TypeError: "
            f"{error}. Nothing was sent. {OPEN_IT_LATER}"
        ) from error
    copied = copied_objects(device, copy)
    if copied:
        raise DeviceContractError(
            f"'{copied[0]}' of {device_name(device)} must be data, or an address: a fit works with a copy of the device, and "
            f"would measure a copy of what it holds there ({device.get_params()[copied[0]]!r}). Nothing was sent. "
            f"{OPEN_IT_LATER} If it is data, give its class an __eq__ (a dataclass has one)."
        )
    lost = lost_in_copy(device, copy)
    if lost:
        name = lost[0]
        there = f"{getattr(copy, name)!r}" if hasattr(copy, name) else "nothing"
        raise DeviceContractError(
            f"'{name}' of {device_name(device)} must come from a parameter of __init__, or be set on the class: a copy is what "
            f"is worked with. Got {getattr(device, name)!r} on the device, {there} on its copy. Nothing was sent."
        )
    return copy


def _same(one: Any, other: Any) -> bool:
    try:
        here, there = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    except (TypeError, ValueError):
        return bool(one == other)
    if here.shape != there.shape:
        return False
    return bool(((here == there) | ((here != here) & (there != there))).all())  # NaN is NaN


def channel_periods(device: Any) -> np.ndarray:
    """The period of each channel that a device states, in its units.

    Returns
    -------
    ndarray of float, shape (n_controls,)
        0 where a channel is not periodic.
    """
    stated = getattr(device, "periodic", None)
    periods = np.asarray(0.0 if stated is None else stated, dtype=np.float64)
    return np.array(np.broadcast_to(periods, (device.n_controls,)))


def slow_channels(device: Any) -> np.ndarray:
    """Numbers of the channels that a device names as slow, in order and each once."""
    slow = getattr(device, "slow_controls", None)
    return np.zeros(0, dtype=int) if slow is None else np.unique(np.asarray(slow, dtype=int))


def _check_channel_numbers(device: Any, name: str, attribute: str) -> None:
    value = getattr(device, attribute, None)
    if value is None:
        return
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.array(np.nan)
    if array.shape not in ((), (device.n_controls,)) or not (np.isfinite(array) & (array >= 0)).all():
        raise DeviceContractError(
            f"'{attribute}' of {name} must be a number of at least 0, or one for each of its {device.n_controls} channels, "
            f"or None. Got {value!r}.{_WHAT_TO_DO[attribute]}"
        )


def _check_costs(device: Any, name: str) -> None:
    for attribute in ("seconds_per_shot", "joules_per_shot", "settling_seconds"):
        value = _plainly_stated(device, attribute)
        if value is not None and not is_number(value, 0, below=np.inf):
            raise DeviceContractError(
                f"'{attribute}' of {name} must be a finite number of at least 0, or None. Got {value!r}."
                f"{_WHAT_TO_DO[attribute]}"
            )


def _plainly_stated(device: Any, attribute: str) -> Any:
    """What a device, or the one within a wrapper, states itself; None for what it works out of its parameters."""
    while isinstance(getattr(type(device), attribute, None), property):
        device = getattr(device, "device", None)
    return getattr(device, attribute, None)


def _check_steps(device: Any, name: str, bounds: np.ndarray) -> None:
    stated = getattr(device, "control_steps", None)
    steps = np.broadcast_to(np.asarray(0.0 if stated is None else stated, dtype=np.float64), len(bounds))
    alone = steps / 2 / (1 + 1e-9) > np.ptp(bounds / 2, axis=1)  # halved: a range may be more than the largest number
    if alone.any():
        channel = int(np.argmax(alone))
        low, high = bounds[channel].tolist()
        raise DeviceContractError(
            f"'control_steps' of {name} must leave every channel two legal values. Got a step of {steps[channel]:g} in channel "
            f"{channel}, from {low:g} to {high:g}. "
            f"State a step of 0 for it, and hold it with ControlSplit(fixed={{{channel}: {low:g}}})."
        )


def _check_slow_controls(device: Any, name: str) -> None:
    value = getattr(device, "slow_controls", None)
    if value is None:
        return
    channels = np.asarray(value)
    whole = channels.ndim == 1 and (channels.dtype.kind in "iu" or not len(channels))
    if not whole or not ((channels >= 0) & (channels < device.n_controls)).all():
        raise DeviceContractError(
            f"'slow_controls' of {name} must be a list of channel numbers, 0 to {device.n_controls - 1}, or None. "
            f"Got {value!r}. Use numpy.flatnonzero(mask) for a mask, None where no channel is slow."
        )


def _check_output_range(device: Any, name: str) -> None:
    value = getattr(device, "output_range", None)
    if value is None:
        return
    try:
        low, high = (float(end) for end in value)
    except (TypeError, ValueError):
        low, high = np.nan, np.nan
    if not low < high:
        raise DeviceContractError(
            f"'output_range' of {name} must be a pair (low, high), or None. Got {value!r}. "
            "Give the lower reading first, or None where readings do not saturate."
        )
