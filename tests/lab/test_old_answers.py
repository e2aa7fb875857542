"""A line that missed one answer may give it to the next question: what comes late is never taken for something else."""

from __future__ import annotations

from functools import partial, update_wrapper
from typing import Any

import numpy as np
import pytest

from skpat import PhysicalNetworkClassifier, as_device
from skpat.exceptions import DeviceConnectionError, UnclearedLineError
from skpat.lab import Session
from skpat.twins import NeuralTwin
from tests.estimators.small_network import IRIS

CONTROLS = np.linspace(-1, 1, 48).reshape(8, 6)


class Line:
    """Answers in turn. The answer that a call does not wait for stays in the line."""

    def __init__(self, *, late: int | None = None, interrupted: int | None = None):
        self.late, self.interrupted = late, interrupted
        self.n_calls, self.n_cleared = 0, 0
        self.waiting: list[np.ndarray] = []

    def ask(self, controls: np.ndarray) -> np.ndarray:
        self.n_calls += 1
        self.waiting.append(np.tanh(controls[:, :4] * controls[:, 2:]))
        if self.n_calls == self.late:
            raise TimeoutError("no answer within 1 s")
        if self.n_calls == self.interrupted:
            raise KeyboardInterrupt
        return self.waiting.pop(0)

    def clear(self) -> None:
        self.n_cleared += 1
        self.waiting.clear()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skpat.lab.session._FIRST_PAUSE", 0.001)


def made(line: Line, **about: Any) -> Any:
    return as_device(line.ask, n_controls=6, n_outputs=4, bounds=(-1, 1), max_batch=1, **about)


def rightly() -> np.ndarray:
    return np.tanh(CONTROLS[:, :4] * CONTROLS[:, 2:])


@pytest.mark.parametrize("late", [1, 4, 8])
def test_after_a_late_answer_nothing_is_asked_of_a_function_that_cannot_clear_its_line(late: int) -> None:
    line = Line(late=late)
    device = made(line)
    session = Session(device)
    with pytest.raises(
        DeviceConnectionError, match=r"Got TimeoutError: no answer within 1 s the last time: .*clear_line"
    ):
        session.measure(CONTROLS)
    assert line.n_calls == late
    assert session.ledger.total == late  # what was not asked is not counted
    for other in (device, made(line)):  # another device around the same function
        with pytest.raises(DeviceConnectionError, match="the old answer may still be on its way"):
            Session(other).measure(CONTROLS)
        with pytest.raises(DeviceConnectionError, match="the old answer may still be on its way"):
            other.measure(CONTROLS)
    assert line.n_calls == late
    np.testing.assert_array_equal(Session(made(line, clear_line=line.clear)).measure(CONTROLS), rightly())
    np.testing.assert_array_equal(Session(made(line)).measure(CONTROLS), rightly())  # cleared for all


@pytest.mark.parametrize("late", [1, 4, 8])
def test_a_line_that_is_cleared_gives_the_right_answers(late: int) -> None:
    line = Line(late=late)
    session = Session(made(line, clear_line=line.clear))
    np.testing.assert_array_equal(session.measure(CONTROLS), rightly())
    assert session.ledger.faults["connection"] == 1
    assert line.n_cleared == 2  # before the first measurement, and after the fault


@pytest.mark.parametrize("cleared", [False, True])
def test_an_interruption_is_warned_of_or_cleared(cleared: bool) -> None:
    line = Line(interrupted=3)
    session = Session(made(line, **({"clear_line": line.clear} if cleared else {})))
    with pytest.raises(KeyboardInterrupt):
        session.measure(CONTROLS)
    if cleared:
        np.testing.assert_array_equal(session.measure(CONTROLS), rightly())
    else:
        with pytest.warns(
            UserWarning, match=r"Got an interruption \(Ctrl-C\): if the function asks an instrument, an old"
        ):
            session.measure(CONTROLS)
        session.measure(CONTROLS)  # said once


def test_a_fit_with_a_late_answer_is_the_one_without(tmp_path: Any) -> None:
    weights = []
    for late in (None, 20):
        line = Line(late=late)
        device = as_device(line.ask, n_controls=6, n_outputs=4, bounds=(-1, 1), max_batch=16, clear_line=line.clear)
        twin = NeuralTwin((8,), max_iter=3, n_refine_steps=1)
        network = PhysicalNetworkClassifier(device, twin, max_iter=2, n_calibration_shots=60, random_state=0)
        weights.append(network.fit(*IRIS).weights_)
        assert network.ledger_.faults["connection"] == (late is not None)
    for name, value in weights[0].items():
        np.testing.assert_array_equal(value, weights[1][name])


def _echo(controls: np.ndarray, port: str) -> np.ndarray:
    if port == "A":
        raise TimeoutError("no answer")
    return controls


def test_a_function_that_a_notebook_defines_anew_asks_the_same_line() -> None:
    line = {"n": 0}

    def cell(name: str, module: str = "__main__") -> Any:
        def measure(controls: np.ndarray, line: dict[str, int] = line) -> np.ndarray:  # no closure, as in a cell
            line["n"] += 1
            if line["n"] == 1:
                raise TimeoutError("no answer in 2 s")
            return controls

        measure.__module__, measure.__qualname__ = module, name
        return as_device(measure, n_controls=1, n_outputs=1, bounds=(0, 1))

    with pytest.raises(TimeoutError):
        cell("ask_the_scope").measure(CONTROLS[:1, :1])
    with pytest.raises(UnclearedLineError, match="Got TimeoutError: no answer in 2 s the last time"):
        cell("ask_the_scope").measure(CONTROLS[:1, :1])
    for other in (cell("ask_another"), cell("ask_the_scope", "a_module"), cell("<lambda>")):
        assert other.measure(CONTROLS[:1, :1]).shape == (1, 1)
    functions = [update_wrapper(partial(_echo, port=port), _echo) for port in "AB"]
    for function in functions:
        function.__module__ = "__main__"
    ports = [as_device(function, n_controls=1, n_outputs=1, bounds=(0, 1)) for function in functions]
    with pytest.raises(TimeoutError):
        ports[0].measure(CONTROLS[:1, :1])
    assert ports[1].measure(CONTROLS[:1, :1]).shape == (1, 1)  # another instrument by the same function
    cleared = cell("ask_the_scope").set_params(clear_line=lambda: None)
    cleared.open()
    assert cell("ask_the_scope").measure(CONTROLS[:1, :1]).shape == (1, 1)
