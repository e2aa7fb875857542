"""What tells a device, and what was asked of it, from another one."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from skpat import Device, as_device
from skpat.devices import SecondHarmonicLaser
from skpat.exceptions import JournalError
from skpat.lab.fingerprint import device_fingerprint, fingerprint

from .recorded_device import Counter, fitted


class Mode(Enum):
    LOW, HIGH = 1.0, 2.0


@dataclass(frozen=True)
class Wiring:
    port: int
    line: Any = field(init=False, compare=False)  # not there before it is opened


@dataclass
class Line:
    """No value: a count goes on while it is used."""

    n_sent: int = 0


class Tagged:
    """Can be compared and hashed, but is printed otherwise in every process."""

    def __init__(self, what: Any):
        self.what = what

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tagged) and self.what == other.what

    def __hash__(self) -> int:
        return 1

    def __repr__(self) -> str:
        return f"Tagged({id(self)})"


class Stateful:
    """No value: what it holds changes while it is used."""

    def __init__(self, n_calls: int = 0):
        self.n_calls = n_calls

    def __call__(self, controls: np.ndarray) -> np.ndarray:
        self.n_calls += 1
        return np.square(controls)


def linear(weight: float, n_calls: float = 0.0, dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    module = torch.nn.Linear(1, 1, bias=False, dtype=dtype)
    module.requires_grad_(False).weight.fill_(weight)
    module.register_buffer("n_calls", torch.tensor(n_calls))
    return module


def test_a_fingerprint_tells_what_differs() -> None:
    things = [
        1, 1.0, True, "1", b"1", None, (1,), [[1]], {"a": 1}, {"a": 2}, {1}, np.arange(3), np.arange(3.0), np.array("x"),
        np.random.RandomState(0), np.random.RandomState(1), np.random.default_rng(0), SecondHarmonicLaser(),
        SecondHarmonicLaser(noise=0), np.sum, np.prod, Counter(), np.array(["a", None], dtype=object),
        Mode.LOW, Mode.HIGH, Path("a"), Path("b"), Wiring(1), Wiring(2), Decimal("1.5"), Decimal("2.5"), range(3), range(4),
        np.timedelta64(5, "Y"), np.timedelta64(5, "M"), np.dtype("f4"), np.dtype("f8"), slice(1), slice(2),
        torch.ones(2), torch.zeros(2), linear(1.0), linear(2.0), date(2026, 1, 1), date(2026, 1, 2),
    ]  # fmt: skip
    assert len({fingerprint(thing) for thing in things}) == len(things)
    assert fingerprint(np.random.RandomState(0), {"b": 1, "a": 2}) == fingerprint(
        np.random.RandomState(0), {"a": 2, "b": 1}
    )


def test_functions_of_one_name_are_told_by_what_they_do() -> None:
    functions = [
        lambda c: np.sin(c), lambda c: np.cos(c), lambda c: 2 * c, lambda c: 3 * c, lambda c: c + 2,
        lambda c: (lambda: 2 * c)(), lambda c: (lambda: 3 * c)(), lambda c, k=1: k * c, lambda c, k=2: k * c,
        lambda c, *, k=1: k * c, lambda c, *, k=2: k * c, lambda c: dict(volts=c), lambda c: dict(amps=c),
    ]  # fmt: skip
    assert len({fingerprint(function) for function in functions}) == len(functions)
    assert fingerprint(functions[0]) == fingerprint(functions[0])


def test_a_docstring_is_no_part_of_what_a_function_does() -> None:
    def bare(volts: np.ndarray) -> None:
        volts *= 2

    def told(volts: np.ndarray) -> None:
        "Twice the voltage."
        volts *= 2

    def returned(volts: np.ndarray) -> str:
        "Twice the voltage."
        return "Twice the voltage."

    def returned_too(volts: np.ndarray) -> str:
        "Thrice the voltage."
        return "Thrice the voltage."

    for function in (bare, told, returned, returned_too):
        function.__name__ = function.__qualname__ = "driver"
    assert fingerprint(bare) == fingerprint(told)
    assert len({fingerprint(function) for function in (bare, returned, returned_too)}) == 3


def test_code_within_code_within_code_has_a_name() -> None:
    def table(n: int) -> list:
        return [
            [[[[[a * b for a in range(n)] for b in range(c)] for c in range(n)] for _ in "ab"] for _ in "ab"]
            for _ in "ab"
        ]

    assert fingerprint(table) == fingerprint(table)


def patient_driver(n_tries: int, step: float) -> Any:
    """Two functions that call each other, and one that calls itself."""

    def read(volts: np.ndarray, tries: int = n_tries) -> np.ndarray:
        return volts * step if tries == 0 else again(volts, tries)

    def again(volts: np.ndarray, tries: int) -> np.ndarray:
        return read(volts, tries - 1)

    def alone(volts: np.ndarray, tries: int = n_tries) -> np.ndarray:
        return alone(volts, tries - 1) if tries else volts + step

    return read, alone


def test_functions_that_call_themselves_are_told_apart_too() -> None:
    made = [
        [fingerprint(function) for function in patient_driver(*how)] for how in ((3, 1.0), (3, 2.0), (4, 1.0), (3, 1.0))
    ]
    assert made[0] == made[3]
    assert len({name for names in made for name in names}) == 6


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.float64(20.0), 20.0), (np.int32(3), 3), (np.bool_(True), True), (np.str_("a"), "a"), (Mode.LOW, Mode(1.0)),
        (Path("a") / "b", Path("a/b")), (Wiring(1), Wiring(1)), (linear(1.0), linear(1.0, 5.0)), (Stateful(0), Stateful(5)),
        (Line(0), Line(5)), (Tagged(1), Tagged(1)), (linear(1.0, 0.0, torch.bfloat16), linear(1.0, 5.0, torch.bfloat16)),
        (range(3), range(0, 3)), (Decimal("1.5"), Decimal("1.5")),
    ],
)  # fmt: skip
def test_a_fingerprint_is_the_same_for_the_same(one: Any, other: Any) -> None:
    assert fingerprint(one) == fingerprint(other)


@pytest.mark.parametrize("make", [lambda: lambda volts: volts**2, lambda: type("Bench", (), {})])
def test_a_script_names_its_things_alike_in_a_process_that_it_has_spawned(make: Any) -> None:
    here, there, elsewhere = make(), make(), make()
    here.__module__, there.__module__, elsewhere.__module__ = "__main__", "__mp_main__", "bench"
    for wrap in (lambda thing: thing, lambda thing: thing() if isinstance(thing, type) else thing):
        assert fingerprint(wrap(here)) == fingerprint(wrap(there)) != fingerprint(wrap(elsewhere))


def test_a_device_whose_parameter_is_another_value_is_another_device(tmp_path: Path) -> None:
    sent = []

    class Bench(Device):
        n_controls, n_outputs, bounds = 6, 3, (0.0, 1.0)

        def __init__(self, mode: Any = None):
            self.mode = mode

        def measure(self, batch: Any) -> np.ndarray:
            controls = np.asarray(batch)
            sent.append(len(controls))
            return np.tanh(self.mode.value * controls[:, :3] * controls[:, 3:])

    fitted(tmp_path / "run.db", device=Bench(Mode.LOW), gradient="spsa", max_iter=1)
    n_calls = len(sent)
    with pytest.raises(JournalError, match=r"of this device, Bench\. Got one of .Bench., which differs in mode"):
        fitted(tmp_path / "run.db", device=Bench(Mode.HIGH), gradient="spsa", max_iter=1)
    assert len(sent) == n_calls


def test_a_device_is_the_same_one_with_another_seed() -> None:
    one = SecondHarmonicLaser(random_state=0)
    assert device_fingerprint(one) == device_fingerprint(SecondHarmonicLaser(random_state=1))
    assert device_fingerprint(one) != device_fingerprint(SecondHarmonicLaser(random_state=0, coupling=1.0))
    square = as_device(np.square, n_controls=2, n_outputs=2, bounds=(0, 1))
    assert device_fingerprint(square) != device_fingerprint(as_device(np.sin, n_controls=2, n_outputs=2, bounds=(0, 1)))
