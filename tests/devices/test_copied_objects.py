"""A fit works with a copy of the device: what must not be copied with it is refused."""

from __future__ import annotations

import random
import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import Ridge

from skpat import Device, PhysicalNetworkClassifier, check_device
from skpat.devices import IdentityDevice, Noisy
from skpat.devices.specification import copied_objects
from skpat.exceptions import DeviceContractError
from skpat.inspection import DeviceResponseDisplay, characterize
from skpat.lab import adopt


class Instrument:
    def __init__(self) -> None:
        self.n_rows = 0

    def read(self, controls: np.ndarray) -> np.ndarray:
        self.n_rows += len(controls)
        return np.sin(3 * controls[:, :3] + controls[:, 3:])


class Locked(Instrument):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


@dataclass
class Settings:
    volts: float
    channels: list

    def largest(self) -> float:
        return max(self.channels, default=self.volts)


class Bench(Device):
    n_controls, n_outputs, bounds = 6, 3, (-1, 1)

    def __init__(self, inst: Any = None):
        self.inst = inst

    def measure(self, batch: Any) -> np.ndarray:
        return self.inst.read(np.asarray(batch))


X, Y = np.random.default_rng(0).standard_normal((40, 3)), np.arange(40) % 2
USES = {
    "fit": lambda device: PhysicalNetworkClassifier(device, max_iter=1).fit(X, Y),
    "characterize": lambda device: characterize(device, n_shots=200),
    "response": lambda device: DeviceResponseDisplay.from_device(device),
}


@pytest.mark.parametrize("use", USES)
def test_an_open_instrument_in_a_parameter_is_refused_and_not_copied(use: str) -> None:
    instrument = Instrument()
    with pytest.raises(DeviceContractError, match=r"'inst' of Bench must be data, or an address.*Instrument.*adopt"):
        USES[use](Bench(instrument))
    with pytest.raises(DeviceContractError, match=r"'device__inst' of Noisy.Bench. must be data"):
        USES[use](Noisy(Bench(instrument), noise=0.1))
    with pytest.raises(DeviceContractError, match=r"Bench must hold what can be copied.*lock.*adopt"):
        USES[use](Bench(Locked()))
    assert instrument.n_rows == 0


def test_check_device_finds_it_and_measures_the_instrument_itself() -> None:
    instrument = Instrument()
    report = check_device(Bench(instrument), on_fail=None)
    assert [finding.name for finding in report.failures] == ["clone"]
    assert "a copy of inst would be measured in its place" in report["clone"].seen
    assert instrument.n_rows > 0


def test_an_error_of_the_constructor_is_its_own() -> None:
    class Strict(Bench):
        def __init__(self, inst: Any = None):
            if not isinstance(inst, float):
                raise TypeError("gain must be a float")
            self.inst = inst

    device = Strict(1.0)
    device.inst = "1"
    with pytest.raises(TypeError, match="gain must be a float"):
        characterize(device, n_shots=200)


def test_a_seed_that_is_drawn_for_the_copy_is_no_instrument() -> None:
    device = Noisy(IdentityDevice(6, 3, [[-1, 1]] * 6), noise=0.1)
    assert device.random_state is None
    PhysicalNetworkClassifier(device, max_iter=1, n_calibration_shots=20).fit(X, Y)
    characterize(device, n_shots=200)


def test_an_adopted_instrument_is_shared() -> None:
    instrument = Instrument()
    device = adopt(instrument, measure=Instrument.read, n_controls=6, n_outputs=3, bounds=(-1, 1))
    network = PhysicalNetworkClassifier(device, max_iter=1, n_calibration_shots=20).fit(X, Y)
    assert instrument.n_rows == sum(network.shots_.values())


@pytest.mark.parametrize(
    "value",
    [Instrument(), [Instrument()], {"a": (1, Instrument())}, Instrument().read, partial(print, Instrument())],
    ids=["object", "list", "dict", "method", "partial"],
)
def test_what_must_not_be_copied_is_found(value: Any) -> None:
    assert copied_objects(Bench(value), clone(Bench(value), safe=False)) == ["inst"]
    device = Bench(value)
    assert copied_objects(device, device) == []


@pytest.mark.parametrize(
    "value",
    [
        None,
        1.5,
        float("nan"),
        [float("nan"), np.nan],
        "TCPIP::192.168.0.7",
        Path("a"),
        {"b": [1, {2}]},
        OrderedDict(a=np.arange(3)),
        [np.arange(3), np.arange(2)],
        np.random.RandomState(0),
        np.random.default_rng(0),
        torch.nn.Linear(2, 2),
        torch.ones(3),
        Settings(1.0, [1, 2]),
        {3: TimeoutError("late")},
        np.sin,
        lambda x: x,
        np.random.default_rng(0).normal,
        torch.nn.Linear(2, 2).forward,
        Settings(1.0, []).largest,
        random.Random(0),
        Ridge,
        partial(np.clip, a_min=0),
        IdentityDevice(4, 3, [[0, 1]] * 4),
        Instrument,
        np,
    ],
    ids=lambda value: type(value).__name__,
)
def test_data_may_be_copied(value: Any) -> None:
    device = Bench(value)
    copy = Bench(value) if value is np else clone(device, safe=False)
    assert copied_objects(device, copy) == []
