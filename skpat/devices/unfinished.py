"""What a device does is done when it returns: async functions and generators, of which nothing runs, are refused."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any
from weakref import WeakSet

import numpy as np

from skpat.exceptions import DeviceContractError

__all__ = ["finished", "hooks_of", "refuse_unfinished", "that_finishes"]

_HOOKS = dict.fromkeys(("measure", "check_controls", "open", "identify", "set_shared", "safe_state", "close")).keys()
_ANSWERS = ("measure", "function", "measure_rows")  # whose answers are readings
_WAIT = (
    "Make it a plain function that waits: asyncio.run_coroutine_threadsafe(coroutine, loop).result(seconds) where the driver's "
    "loop runs in a thread of its own, asyncio.run(coroutine) where no loop runs."
)
_known: WeakSet[type] = WeakSet()  # classes of which all methods finish


def hooks_of(device: Any) -> Iterator[tuple[str, str, Any]]:
    """What a session calls of a device, and what that calls in turn, as it stands on the class: (name, whose, function)."""
    name = getattr(device, "name", None) or type(device).__name__
    for what in _HOOKS:  # a property is not asked: it may ask the instrument
        yield what, name, inspect.getattr_static(device, what, None)
    yield from _functions_behind(device)


def refuse_unfinished(device: Any) -> None:
    """Refuse a device with functions that are seen to be async, or generators, without calling them.

    Raises
    ------
    DeviceContractError
        That names the first of them.
    """
    of_class_alone = not _HOOKS & getattr(device, "__dict__", {}).keys()
    known = of_class_alone and type(device) in _known
    for what, owner, function in _functions_behind(device) if known else hooks_of(device):
        kind = _kind(function)
        if kind is not None:
            raise _refusal(what, owner, kind)
    if of_class_alone:
        _known.add(type(device))


def _functions_behind(device: Any) -> Iterator[tuple[str, str, Any]]:
    behind = getattr(type(device), "_functions_behind", None)
    return iter(()) if behind is None else behind(device)


def finished(answer: Any, what: str, owner: str) -> Any:
    """What a function returned, if it has done its work by then.

    Parameters
    ----------
    answer : object
    what, owner : str
        Name of the function, and whose it is.

    Raises
    ------
    DeviceContractError
        If it is a coroutine or another thing to be waited for, or a generator.
    """
    first = answer
    if what in _ANSWERS:
        if isinstance(answer, np.ndarray):
            first = answer.flat[0] if answer.dtype.kind == "O" and answer.size else None
        elif isinstance(answer, (list, tuple)):
            first = answer[0] if answer else None
    if first is None:
        return answer
    kind = None
    if inspect.isasyncgen(first):
        kind = "an async generator that nobody waits for"
    elif (inspect.isawaitable(first) or isinstance(first, Future)) and not _is_done(what, first):
        kind = f"a {type(first).__name__} that nobody waits for"
    elif inspect.isgenerator(first):
        kind = "a generator ('yield')"
    elif what in _ANSWERS and isinstance(first, Iterator) and not hasattr(first, "__array__"):
        kind = f"a {type(first).__name__}, which has no rows yet"
    if kind is None:
        return answer
    for one in (answer,) if first is answer else np.asarray(answer, dtype=object).flat:
        if isinstance(one, Coroutine):
            one.close()  # or Python warns that it was never awaited
    raise _refusal(what, owner, kind)


def _is_done(what: str, answer: Any) -> bool:
    """Whether a hook has waited for what it returns; of a measurement it would still be no array."""
    done = getattr(answer, "done", None)
    return what not in _ANSWERS and done is not None and bool(done()) and answer.exception() is None


def that_finishes(function: Callable[..., Any], what: str, owner: str) -> Callable[..., Any]:
    """The function, refused if it is seen to be async or a generator; calls that do not finish are refused, too.

    Raises
    ------
    DeviceContractError
    """
    kind = _kind(function)
    if kind is not None:
        raise _refusal(what, owner, kind)
    return lambda *arguments: finished(function(*arguments), what, owner)


def _kind(function: Any) -> str | None:
    while isinstance(function, (functools.partial, functools.partialmethod, staticmethod, classmethod)):
        function = function.__func__ if isinstance(function, (staticmethod, classmethod)) else function.func
    for one in (function, getattr(type(function), "__call__", None)):  # noqa: B004 an object that can be called
        if inspect.iscoroutinefunction(one) or inspect.isasyncgenfunction(one):
            return "an async function"
        if inspect.isgeneratorfunction(one):
            return "a generator ('yield')"
    return None


def _refusal(what: str, owner: str, kind: str) -> DeviceContractError:
    is_async = kind.startswith("an async") or kind.endswith("waits for")
    if what in _ANSWERS:
        must, mend = "return an array of shape (n_rows, n_outputs)", "Collect the rows, and return numpy.array(rows)."
    else:
        must, mend = "have done its work when it returns", "Nothing of it runs. Leave the yield out."
    return DeviceContractError(f"{what!r} of {owner} must {must}. Got {kind}. {_WAIT if is_async else mend}")
