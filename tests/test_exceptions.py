"""Errors keep their state between processes, and are caught by the builtin a caller would write."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from skpat import exceptions
from skpat.exceptions import SkpatError

BUILTIN = {
    "ControlBoundsError": ValueError,
    "ControlSplitError": ValueError,
    "DeploymentFileError": ValueError,
    "DeviceBusyError": TimeoutError,
    "DeviceConnectionError": ConnectionError,
    "DeviceContractError": TypeError,
    "DeviceIdentityError": RuntimeError,
    "DeviceOutputError": RuntimeError,
    "JournalError": ValueError,
    "NestedParameterError": ValueError,
    "NoExactGradientError": TypeError,
    "NonFiniteTrainingError": ArithmeticError,
    "ShotBudgetError": RuntimeError,
    "TwinError": ValueError,
    "UnclearedLineError": ConnectionError,
}
STATE = {
    "row": 3,
    "channel": 14,
    "value": 1.27,
    "shots_done": {"training": 500},
    "journal": "run.db",
    "holder": 4711,
    "max_shots": 500,
}
PUBLIC = [getattr(exceptions, name) for name in exceptions.__all__ if name != "SkpatError"]
CLASSES = [public for public in PUBLIC if not issubclass(public, Warning)]


def make(error_class: type[SkpatError]) -> tuple[SkpatError, dict]:
    """An error with all the state its class takes."""
    parameters = inspect.signature(error_class.__init__).parameters.values()
    state = {p.name: STATE[p.name] for p in parameters if p.kind is p.KEYWORD_ONLY}
    return error_class("Got 1.27 V. Nothing was sent.", **state), state


def test_every_error_is_public() -> None:
    defined = {name for name, value in vars(exceptions).items() if inspect.isclass(value) and name[0] != "_"}
    assert defined == set(exceptions.__all__)


@pytest.mark.parametrize("error_class", CLASSES, ids=lambda c: c.__name__)
def test_an_error_is_also_the_builtin_one(error_class: type[SkpatError]) -> None:
    assert issubclass(error_class, SkpatError)
    assert issubclass(error_class, BUILTIN[error_class.__name__])


@pytest.mark.parametrize("error_class", CLASSES, ids=lambda c: c.__name__)
@pytest.mark.parametrize("send", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy])
def test_an_error_arrives_with_its_state(error_class: type[SkpatError], send) -> None:
    error, state = make(error_class)
    error.add_note("while scanning")
    arrived = send(error)
    assert type(arrived) is error_class
    assert str(arrived) == "Got 1.27 V. Nothing was sent."
    assert {name: getattr(arrived, name) for name in state} == state
    assert arrived.__notes__ == ["while scanning"]


def test_the_errors_that_carry_state_are_the_documented_ones() -> None:
    assert {c.__name__: set(make(c)[1]) for c in CLASSES if make(c)[1]} == {
        "ControlBoundsError": {"row", "channel", "value"},
        "DeviceBusyError": {"holder"},
        "DeviceConnectionError": {"shots_done", "journal"},
        "DeviceIdentityError": {"shots_done", "journal"},
        "DeviceOutputError": {"shots_done", "journal"},
        "NonFiniteTrainingError": {"shots_done", "journal"},
        "ShotBudgetError": {"max_shots"},
        "UnclearedLineError": {"shots_done", "journal"},
    }


def test_the_shots_done_are_a_copy() -> None:
    shots = {"training": 1}
    error = exceptions.DeviceOutputError("faulty", shots_done=shots)
    shots["training"] = 2
    assert error.shots_done == {"training": 1}
