"""A short name for what a device is and for what a fit was asked: the same specification, the same name, in any process."""

from __future__ import annotations

import dataclasses
import dis
import hashlib
import os
from collections.abc import Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any
from uuid import UUID

import numpy as np

from skpat.controls import as_numpy
from skpat.devices.base import Device
from skpat.devices.specification import check_device_specification, device_name
from skpat.lab.address_lock import is_of_one_process

__all__ = ["device_description", "device_fingerprint", "fingerprint"]

_NOT_THE_DEVICE = {  # seeds, costs, and how one speaks to it: what is changed after a fault must not cost the record
    "random_state", "torch_device", "seconds_per_shot", "joules_per_shot", "max_retries", "max_batch", "on_bad_output",
    "settling_seconds", "slow_controls", "timeout", "backend", "periodic", "clear_line",
}  # fmt: skip


_VALUES = (Decimal, Fraction, date, time, timedelta, UUID, range, slice, np.dtype)


def fingerprint(*things: Any) -> str:
    """A hash of numbers, strings, arrays, containers, generators and objects with parameters.

    Functions count by their name, module, code and defaults; a partial by its parts; a method by its function and the class
    of its object. Other objects count by their class, by their parameters where they have any, and by what they hold where that
    stays: members of an enumeration, paths, dates, fractions, arrays, frozen dataclasses, the weights of a torch module. What
    any other object holds may change while it is used, and does not count.

    Examples
    --------
    >>> import numpy as np
    >>> from skpat.lab.fingerprint import fingerprint
    >>> fingerprint(np.arange(3), {"a": 1}) == fingerprint(np.arange(3), {"a": 1})
    True
    """
    digest = hashlib.blake2b(digest_size=16)
    for thing in things:
        _add(digest, thing, 0)
    return digest.hexdigest()


def device_fingerprint(device: Any) -> str:
    """A hash of what makes a device another one: see :func:`device_description`."""
    return fingerprint(device_description(device))


def device_description(device: Any) -> dict[str, str]:
    """Hashes of what makes a device another one: class, name, numbers, bounds, address and parameters, not its seed.

    A parameter that is a device itself counts by its own description; what has ``stands_for``, a device, by that one's.
    """
    device = getattr(device, "stands_for", device)
    parameters = device.get_params(deep=False) if hasattr(device, "get_params") else {}
    address = getattr(device, "address", None)
    if address is not None and is_of_one_process(address):  # another one in every process
        address = None
    stated = {
        "class": _class_name(device),
        "name": device_name(device),
        "n_controls": int(device.n_controls),
        "n_outputs": int(device.n_outputs),
        "bounds": check_device_specification(device),
        "address": address,
    }
    of_parameters = {
        k: device_description(v) if isinstance(v, Device) else v
        for k, v in parameters.items()
        if k not in _NOT_THE_DEVICE and k not in stated
    }
    return {name: fingerprint(value) for name, value in (of_parameters | stated).items()}


def _add(digest: Any, thing: Any, depth: int, within: tuple[FunctionType, ...] = ()) -> None:
    """``within``: the functions of which this is a part, which count by their names."""
    if depth > 20:
        raise ValueError("What is to be named must not contain itself.")
    if isinstance(thing, np.random.RandomState):
        thing = thing.get_state()
    elif isinstance(thing, np.random.Generator):
        thing = thing.bit_generator.state
    if isinstance(thing, np.generic) and thing.dtype.kind in "biufcSU" and not isinstance(thing.item(), np.generic):
        thing = thing.item()  # a number is a number, wherever it comes from
    if isinstance(thing, (np.ndarray, np.generic)):
        array = np.ascontiguousarray(thing)
        digest.update(f"array {array.dtype} {array.shape}".encode())
        if array.dtype.hasobject:
            _add(digest, array.tolist(), depth + 1, within)
        else:
            digest.update(array.tobytes())
    elif isinstance(thing, Mapping):
        digest.update(f"mapping {len(thing)}".encode())
        for key in sorted(thing, key=repr):
            _add(digest, key, depth + 1, within)
            _add(digest, thing[key], depth + 1, within)
    elif isinstance(thing, (list, tuple)):
        digest.update(f"sequence {len(thing)}".encode())
        for part in thing:
            _add(digest, part, depth + 1, within)
    elif isinstance(thing, (set, frozenset)):
        digest.update(b"set")
        _add(digest, sorted(thing, key=repr), depth + 1, within)
    elif thing is None or isinstance(thing, (bool, int, float, complex, str, bytes)):
        digest.update(f"{type(thing).__name__} {thing!r}".encode())
    elif hasattr(thing, "get_params") and not isinstance(thing, type):
        digest.update(_class_name(thing).encode())
        _add(digest, thing.get_params(deep=False), depth + 1, within)
    elif hasattr(thing, "tocsr"):
        matrix = thing.tocsr()
        _add(digest, (matrix.shape, matrix.data, matrix.indices, matrix.indptr), depth + 1, within)
    elif isinstance(thing, partial):
        _add(digest, ("partial", thing.func, thing.args, thing.keywords), depth + 1, within)
    elif isinstance(thing, MethodType):
        _add(digest, (thing.__func__, type(thing.__self__)), depth + 1, within)
    elif isinstance(thing, FunctionType):
        digest.update(f"{_module(thing)}.{thing.__qualname__}".encode())
        if thing in within:  # it calls itself, perhaps by way of others
            return
        within = (*within, thing)
        _add(digest, (_code(thing.__code__), thing.__defaults__, thing.__kwdefaults__), depth + 1, within)
        _add(digest, [value for value in map(_content, thing.__closure__ or ()) if _is_plain(value)], depth + 1, within)
    elif hasattr(thing, "__qualname__"):
        digest.update(f"{_module(thing)}.{thing.__qualname__}".encode())
    else:
        digest.update(_class_name(thing).encode())
        held = _held(thing)
        if held is not None:
            _add(digest, held, depth + 1, within)


def _held(thing: Any) -> Any:
    """What an object is apart from its class, where that stays as it is while it is used; else None."""
    if isinstance(thing, Enum):
        return thing.name
    if isinstance(thing, os.PathLike):
        return os.fspath(thing)
    if isinstance(thing, _VALUES):
        return repr(thing)
    if dataclasses.is_dataclass(thing) and getattr(thing, "__dataclass_params__").frozen:  # noqa: B009  # mypy knows none
        names = [field.name for field in dataclasses.fields(thing) if field.compare]
        return {name: getattr(thing, name) for name in names if hasattr(thing, name)}
    try:
        if hasattr(thing, "named_parameters"):  # a module of torch: buffers change with every call
            return {name: as_numpy(value) for name, value in thing.named_parameters()}
        if hasattr(thing, "__array__"):
            return as_numpy(thing)
    except (TypeError, ValueError, RuntimeError):  # what numpy does not know
        return None
    return None


def _class_name(thing: Any) -> str:
    return f"{_module(type(thing))}.{type(thing).__qualname__}"


def _module(thing: Any) -> str:
    module = getattr(thing, "__module__", "")
    return "__main__" if module == "__mp_main__" else str(module)  # the same script in a spawned process


def _code(code: CodeType) -> tuple[Any, ...]:
    """What a function does, without where it stands: comments, its docstring and lines above it may change."""
    steps: list[Any] = []
    for step in dis.get_instructions(code):
        what: Any = step.arg
        if step.opcode in dis.hasconst:  # what nothing loads is a docstring
            what = code.co_consts[what]
        steps += [step.opcode, _code(what) if isinstance(what, CodeType) else what]
    return steps, code.co_names, code.co_varnames


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _is_plain(value: Any) -> bool:
    return isinstance(value, (bool, int, float, complex, str, bytes, np.ndarray, np.generic, FunctionType, partial))
