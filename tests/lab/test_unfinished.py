"""Async functions and generators, of which nothing runs, are refused: before the first shot where they can be seen."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

from skpat import Device, PhysicalNetworkRegressor, as_device, characterize, check_device
from skpat.devices import Noisy
from skpat.devices.wrapper import DeviceWrapper
from skpat.exceptions import DeviceContractError
from skpat.lab import Session
from skpat.lab.adopted import AdoptedDevice, adopt

HOOKS = ["check_controls", "open", "identify", "set_shared", "safe_state", "close"]
SHAPE = {"n_controls": 2, "n_outputs": 2, "bounds": (0, 1)}
ROWS = np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
HOW = r"asyncio\.run_coroutine_threadsafe\(coroutine, loop\)\.result\(seconds\)"


class Lamp(Device):
    n_controls, n_outputs, bounds = 2, 2, (0.0, 1.0)
    calls: list[str] = []

    def open(self) -> None:
        self.calls.append("open")

    def measure(self, batch) -> Any:
        self.calls.append("measure")
        return np.asarray(batch) ** 2


class Thin(DeviceWrapper):
    """A wrapper of the user's own."""


@pytest.fixture(autouse=True)
def _all_is_awaited_or_closed() -> Iterator[None]:
    Lamp.calls = []
    gc.freeze()  # the collection looks at what the test has made
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        yield
        gc.collect()
    gc.unfreeze()
    assert not [one for one in told if "never awaited" in str(one.message)]


async def wait(*_: Any) -> None:
    raise AssertionError("it must not run")


async def wait_for_rows(controls: np.ndarray) -> np.ndarray:
    return controls**2


async def row_after_row(controls: np.ndarray) -> Any:
    for row in controls:
        yield row**2


def each_row(*arguments: Any) -> Iterator[np.ndarray]:
    yield from np.asarray(arguments[-1]) ** 2


def lamp(**methods: Callable[..., Any]) -> Any:
    return type("Lamp", (Lamp,), methods)()


class Waiting:
    async def __call__(self, *_: Any) -> None:
        await wait()


# ---- what can be seen without calling it ----


@pytest.mark.parametrize("wrap", [lambda device: device, Noisy, lambda device: Noisy(Thin(device))])
@pytest.mark.parametrize("function", [wait, partial(wait, 1), staticmethod(wait), Waiting()])
@pytest.mark.parametrize("hook", ["measure", *HOOKS])
def test_an_async_method_is_refused_before_anything_is_sent(hook: str, function: Any, wrap: Any) -> None:
    must = "return an array" if hook == "measure" else "have done its work when it returns"
    with pytest.raises(DeviceContractError, match=rf"'{hook}' of Lamp must {must}.* Got an async function\. .*{HOW}"):
        Session(wrap(lamp(**{hook: function})))
    assert Lamp.calls == []


def test_an_async_method_that_was_set_on_the_object_is_refused() -> None:
    device = lamp()
    device.safe_state = wait
    with pytest.raises(DeviceContractError, match=r"'safe_state' of Lamp must .* Got an async function"):
        Session(device)


def test_a_fit_is_refused_before_its_first_shot() -> None:
    for hook, function, told in (
        ("safe_state", wait, "'safe_state' of Lamp"),
        ("measure", wait_for_rows, "'measure' of Lamp must return .* Got an async function"),
        ("measure", each_row, r"'measure' of Lamp must return .* Got a generator \('yield'\)\. Collect the rows"),
    ):
        network = PhysicalNetworkRegressor(lamp(**{hook: function}), max_iter=1)
        with pytest.raises(DeviceContractError, match=told):
            network.fit(np.ones((8, 1)), np.arange(8.0))
    assert Lamp.calls == []


@pytest.mark.parametrize("function", [wait_for_rows, row_after_row, partial(wait_for_rows), Waiting()])
def test_an_async_function_is_no_device(function: Any) -> None:
    name = getattr(function, "__name__", "FunctionDevice")
    with pytest.raises(
        DeviceContractError, match=rf"'function' of {name} must return .* Got an async function\. .*{HOW}"
    ):
        as_device(function, **SHAPE)


def test_a_generator_is_no_device() -> None:
    told = r"'function' of each_row must return an array .* Got a generator \('yield'\)\. Collect the rows, and return numpy"
    with pytest.raises(DeviceContractError, match=told):
        as_device(each_row, **SHAPE)


def test_an_async_clear_line_is_refused() -> None:
    with pytest.raises(DeviceContractError, match=r"'clear_line' of each must .* Got an async function"):
        as_device(np.square, clear_line=wait, name="each", **SHAPE)


@pytest.mark.parametrize("what", ["measure", "open", "safe_state", "identify"])
def test_an_async_function_of_a_handle_is_refused(what: str) -> None:
    functions = {"measure": lambda handle, controls: controls, what: wait}
    with pytest.raises(
        DeviceContractError, match=rf"'{what}' of the adopted instrument \(.*\) must .* Got an async fun"
    ):
        adopt(object(), **functions, **SHAPE)


@pytest.mark.parametrize("hook", HOOKS)
def test_a_method_that_yields_is_refused(hook: str) -> None:
    told = (
        rf"'{hook}' of Lamp must have done its work when it returns\. Got a generator \('yield'\)\. Nothing of it runs"
    )
    with pytest.raises(DeviceContractError, match=told):
        Session(lamp(**{hook: each_row}))


def test_check_device_and_characterize_say_so() -> None:
    for hook, function in (("safe_state", wait), ("measure", wait_for_rows), ("measure", each_row)):
        device = lamp(**{hook: function})
        check = check_device(device, on_fail=None)
        assert [finding.name for finding in check.failures] == ["specification"]
        assert f"'{hook}' of Lamp must" in check["specification"].seen
        with pytest.raises(DeviceContractError, match=f"'{hook}' of Lamp must"):
            characterize(device)
    assert Lamp.calls == []


def test_a_property_is_not_asked() -> None:
    asked: list[str] = []
    Session(lamp(identify=property(lambda self: asked.append("identify"))))
    assert asked == []


# ---- what is only seen when it is called ----


@pytest.mark.parametrize("hook", ["check_controls", "open", "identify", "set_shared"])
def test_what_returns_a_coroutine_ends_the_measurement(hook: str) -> None:
    device = lamp(**{hook: lambda self, *_: wait()})
    told = (
        rf"'{hook}' of Lamp must have done its work when it returns\. Got a coroutine that nobody waits for\. .*{HOW}"
    )
    for one in (device, Noisy(device), Thin(device)):
        with pytest.raises(DeviceContractError, match=told), Session(one) as session:
            session.measure(ROWS)
    assert "measure" not in Lamp.calls


@pytest.mark.parametrize("hook", ["safe_state", "close"])
@pytest.mark.parametrize("wrap", [lambda device: device, Noisy])
def test_a_safe_state_that_returns_a_coroutine_has_failed(
    hook: str, wrap: Any, caplog: pytest.LogCaptureFixture
) -> None:
    device = lamp(**{hook: lambda self: wait()})
    with Session(wrap(device)) as session:
        session.measure(ROWS)
    assert f".{hook}() failed: '{hook}' of Lamp must have done its work when it returns. Got a coroutine" in caplog.text
    check = check_device(device, on_fail=None)
    assert f"'{hook}' of Lamp must have done its work" in check[hook.replace("_", " ")].seen
    assert not check.passed


def future(controls: np.ndarray) -> Any:
    answer: Future[np.ndarray] = Future()
    answer.set_result(controls)
    return answer


UNFINISHED = [
    (wait_for_rows, "a coroutine that nobody waits for"),
    (lambda controls: [wait_for_rows(row) for row in controls], "a coroutine that nobody waits for"),
    (lambda controls: np.array([wait_for_rows(row) for row in controls]), "a coroutine that nobody waits for"),
    (future, "a Future that nobody waits for"),
    (row_after_row, "an async generator that nobody waits for"),
    (lambda controls: (row**2 for row in controls), "a generator"),
    (lambda controls: map(np.square, controls), "a map, which has no rows yet"),
]


@pytest.mark.parametrize(("answer", "told"), UNFINISHED)
def test_no_rows_are_told_at_once(answer: Any, told: str) -> None:
    calls: list[int] = []

    def once(*arguments: Any) -> Any:
        calls.append(1)
        return answer(np.asarray(arguments[-1]))

    function = as_device(once, **SHAPE)
    for device, name in (
        (lamp(measure=once), "'measure' of Lamp"),
        (Noisy(lamp(measure=once)), "'measure' of Lamp"),
        (function, "'function' of once"),
        (Thin(function), "'function' of once"),
        (adopt(object(), once, **SHAPE), r"'measure' of the adopted instrument \(.*\)"),
    ):
        told_of = rf"{name} must return an array of shape \(n_rows, n_outputs\)\. Got {told}"
        calls.clear()
        with pytest.raises(DeviceContractError, match=told_of), Session(device) as session:
            session.measure(ROWS)
        assert calls == [1]
        with pytest.raises(DeviceContractError, match=told_of):
            device.measure(ROWS) if name != "'measure' of Lamp" else characterize(device)
        with pytest.raises(DeviceContractError, match=told_of) as caught:
            check_device(device)
        assert "Got one fault" in str(caught.value)
        assert not any(words in str(caught.value) for words in ("real numbers", "raise an OSError", "loop over"))


def test_what_a_handle_answers_asynchronously_is_nobody() -> None:
    device = adopt(object(), lambda handle, controls: controls, identify=lambda handle: wait(), **SHAPE)
    with pytest.raises(DeviceContractError, match="'identify' of the adopted instrument"), Session(device) as session:
        session.measure(ROWS)
    with pytest.raises(DeviceContractError, match="'identify' of the adopted instrument"):
        device.identify()
    named = adopt(object(), lambda handle, controls: controls, safe_state=lambda handle: wait(), **SHAPE)
    with pytest.raises(DeviceContractError, match="'safe_state' of the adopted instrument"):
        named.safe_state()


def test_a_line_that_is_cleared_asynchronously_is_not_clear() -> None:
    device = as_device(np.square, clear_line=lambda: wait(), name="each", **SHAPE)
    with (
        pytest.raises(DeviceContractError, match=r"'clear_line' of each must .* Got a coroutine"),
        Session(device) as session,
    ):
        session.measure(ROWS)


# ---- what is right ----


def test_plain_functions_may_return_what_they_like() -> None:
    handle = MagicMock()
    device = adopt(
        handle,
        lambda handle, controls: controls,
        open=lambda handle: handle.clear(),
        safe_state=lambda handle: [handle.off()],
        **SHAPE,
    )
    assert isinstance(device, AdoptedDevice)
    with Session(device) as session:
        np.testing.assert_array_equal(session.measure(ROWS), ROWS)
    handle.clear.assert_called_once()
    handle.off.assert_called_once()


def test_a_driver_may_wait_for_a_loop_in_a_thread() -> None:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def measure(controls: np.ndarray) -> np.ndarray:
        return asyncio.run_coroutine_threadsafe(wait_for_rows(controls), loop).result(10)

    async def in_a_notebook() -> np.ndarray:
        """With the loop of the notebook itself, which stays free while a thread measures."""
        own = asyncio.get_running_loop()
        device = as_device(
            lambda controls: asyncio.run_coroutine_threadsafe(wait_for_rows(controls), own).result(10), **SHAPE
        )
        with Session(device) as session:
            return await asyncio.to_thread(session.measure, ROWS)

    try:
        with Session(as_device(measure, **SHAPE)) as session:
            np.testing.assert_array_equal(session.measure(ROWS), ROWS**2)
        np.testing.assert_array_equal(asyncio.run(in_a_notebook()), ROWS**2)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_a_hook_that_has_waited_may_return_what_it_waited_for() -> None:
    class Waits(Lamp):
        def open(self) -> Any:
            answer: Future[None] = Future()
            answer.set_result(None)
            self.calls.append("open")
            return answer

    with Session(Waits()) as session:
        np.testing.assert_array_equal(session.measure(ROWS), ROWS**2)
    assert Lamp.calls[:2] == ["open", "measure"]
