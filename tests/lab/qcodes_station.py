"""A station that speaks as QCoDeS's instruments do, and what is asked of it."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest

from skpat.lab.qcodes_device import QcodesDevice


class Parameter:
    """Set and read as QCoDeS's are: by ``set`` and ``get``, with a validator, noting everything in the station's log."""

    def __init__(self, station: Station, name: str, limit: float = np.inf):
        self.station, self.name, self.limit = station, name, limit
        self.value: Any = 0.0

    def set(self, value: Any) -> None:
        self.station.answer(f"{self.name}={value}")
        if not isinstance(value, str) and np.max(value) > self.limit:
            raise ValueError(f"{value} is invalid; Parameter: {self.name}")
        self.value = value

    def get(self) -> Any:
        self.station.answer(f"{self.name}?")
        return self.value

    def __call__(self, *value: Any) -> Any:
        return self.set(*value) if value else self.get()


class VisaIOError(Exception):
    """Stands for PyVISA's, which is no OSError."""


VisaIOError.__module__ = "pyvisa.errors"


class Module:
    pass


class Station:
    """Two voltages, one of them in a submodule, an array of three, a mode, and a detector that squares."""

    open_names: ClassVar[set[str]] = set()
    log: ClassVar[list[str]] = []
    faults: ClassVar[list[BaseException]] = []  # raised by the next answers, one each
    serial: ClassVar[str | None] = "7"
    refuses_to_close: ClassVar[bool] = False

    def __init__(self, name: str = "station"):
        if name in self.open_names:
            raise KeyError(f"Another instrument has the name: {name}")
        self.name = name
        self.open_names.add(name)
        self.log.append("made")
        self.left = Parameter(self, "left", limit=3.0)
        self.module = Module()
        self.module.channels = [Parameter(self, "right")]
        self.grid = Parameter(self, "grid")
        self.mode = Parameter(self, "mode")
        self.alias, self.number = self.left, 3.0

    def answer(self, what: str) -> None:
        if self.faults:
            raise self.faults.pop(0)
        self.log.append(what)

    def fire(self) -> None:
        self.answer("fire")

    def total(self) -> float:
        self.log.append("total?")
        return float(self.left.value + self.module.channels[0].value)

    def product(self) -> float:
        return float(self.left.value * self.module.channels[0].value)

    def image(self) -> np.ndarray:
        return np.outer(self.grid.value, [1.0, 2.0])

    def run_rows(self, controls: np.ndarray) -> np.ndarray:
        self.answer(f"rows {controls.shape}")
        return controls**2

    def rest(self) -> None:
        self.log.append("rest")

    def get_idn(self) -> dict[str, str | None]:
        try:
            self.answer("idn")
        except OSError:  # as QCoDeS does
            return {"vendor": None, "model": self.name, "serial": None, "firmware": None}
        return {"vendor": "skpat", "model": "station", "serial": self.serial, "firmware": None}

    @classmethod
    def remove_instance(cls, instance: Station) -> None:
        cls.open_names.discard(instance.name)

    def close(self) -> None:
        self.log.append("close")
        if self.refuses_to_close:
            raise OSError("broken line")
        self.remove_instance(self)


CONTROLS, OUTPUTS = ["left", "module.channels.0"], ["total", "product"]
ROWS = np.array([[1.0, 2.0], [1.0, 3.0]])


def make_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """A station that nobody has opened yet."""
    for name, value in {"open_names": set(), "log": [], "faults": [], "serial": "7", "refuses_to_close": False}.items():
        monkeypatch.setattr(Station, name, value)


def station(controls: Any = CONTROLS, outputs: Any = OUTPUTS, **about) -> QcodesDevice:
    return QcodesDevice(f"{__name__}:Station", controls, outputs, **({"bounds": (0, 5)} | about))


def sets() -> list[str]:
    return [entry for entry in Station.log if "=" in entry]
