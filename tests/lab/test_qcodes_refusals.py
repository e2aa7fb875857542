"""What a QcodesDevice refuses before anything is set: a safe state that is none, and what is no parameter."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from skpat.exceptions import ControlBoundsError, DeviceContractError
from skpat.lab import Session
from skpat.lab.qcodes_device import QcodesDevice
from tests.lab.qcodes_station import CONTROLS, OUTPUTS, ROWS, Station, make_new, sets, station


@pytest.fixture(autouse=True)
def _new_station(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SKPAT_LOCK_DIR", str(tmp_path))
    make_new(monkeypatch)


@pytest.mark.parametrize("wrong", [[0.0], {1: 0.0}, print, 3])
def test_a_safe_state_that_is_none_is_refused_before_anything_is_made(wrong: Any) -> None:
    with (
        Session(station(safe=wrong)) as session,
        pytest.raises(
            DeviceContractError, match=r"'safe' of QcodesDevice must be the name of a method, a dict of .* Got"
        ),
    ):
        session.measure(ROWS)
    assert Station.log == []


@pytest.mark.parametrize(
    "safe", ["rset", "number", {"left": 0, "rihgt": 0}, {"left": 0, "number": 0}, {"number.real": 0}]
)
def test_a_safe_state_that_cannot_be_reached_is_refused_before_anything_is_set(safe: Any) -> None:
    with (
        Session(station(safe=safe)) as session,
        pytest.raises(DeviceContractError, match=r"must be a parameter.* of Station"),
    ):
        session.measure(ROWS)
    assert sets() == []
    assert Station.open_names == set()


@pytest.mark.parametrize(
    ("controls", "outputs", "safe", "told"),
    [
        (
            CONTROLS,
            OUTPUTS,
            {"left": 5.5},
            r"must set 'left' within its bounds, 1 to 5\. Got 5\.5\. .*Nothing was sent\.",
        ),
        (
            CONTROLS,
            OUTPUTS,
            {"mode": "off", "module.channels.0": 0},
            r"'module\.channels\.0' .* bounds, 1 to 5\. Got 0",
        ),
        (CONTROLS, OUTPUTS, {"left": "off"}, "Got 'off'"),
        (CONTROLS, OUTPUTS, {"left": None}, "Got None"),
        (
            ("grid", 3),
            ("image", 6),
            {"grid": [1.0, 2.0, 9.0]},
            r"'grid' within its bounds, 1 to 5\. Got \[1\.0, 2\.0, 9\.0\]",
        ),
        (("grid", 3), ("image", 6), {"grid": [1.0, 2.0]}, "'grid' within its bounds"),
    ],
)
def test_a_safe_state_stays_within_the_bounds(controls: Any, outputs: Any, safe: Any, told: str) -> None:
    device = station(controls, outputs, bounds=(1, 5), safe=safe)
    rows = np.ones((2, device.n_controls))
    with Session(device) as session, pytest.raises(ControlBoundsError, match=told):
        session.measure(rows)
    assert Station.log == []
    device.set_params(safe={name: 1 for name in safe if name != "mode"} | {"mode": "off"})
    with Session(device) as session:
        session.measure(rows)
    assert sets()[-1] == "mode=off"


def test_a_part_of_the_safe_state_that_fails_does_not_keep_the_rest_from_it(caplog: pytest.LogCaptureFixture) -> None:
    device = station(safe={"mode": 1.0, "left": 4.0, "module.channels.0": 0})
    with Session(device) as session:
        session.measure(ROWS)
    assert sets()[-3:] == ["mode=1.0", "left=4.0", "right=0"]
    assert "QcodesDevice.safe_state() failed: 4.0 is invalid; Parameter: left" in caplog.text
    device.set_params(safe={"left": 4.0, "mode": "off"}).open()
    Station.log.clear()
    with pytest.raises(ValueError, match="is invalid; Parameter: left"):
        device.safe_state()
    assert Station.log == ["left=4.0", "mode=off"]
    device.close()


def test_a_parameter_is_set_for_one_channel_only() -> None:
    told = r"'controls' of QcodesDevice must name each parameter once\. Got \['left', 'left'\]: 'left' twice\."
    with pytest.raises(DeviceContractError, match=told):
        Session(station(["left", "left"]))
    with (
        Session(station(["left", "alias"])) as session,
        pytest.raises(DeviceContractError, match=r"'alias' is 'left'\. What is measured would"),
    ):
        session.measure(ROWS)
    assert sets() == []
    with Session(station(outputs=["total", "total"])) as session:
        np.testing.assert_array_equal(session.measure(ROWS), [[3, 3], [4, 4]])


class Keithley:
    """Properties in place of parameters, as PyMeasure's."""

    def __init__(self, asked: list[str]) -> None:
        self.asked, self.level, self.left = asked, 1.0, SimpleNamespace(set=lambda value: None, get=lambda: 1.0)

    @property
    def voltage(self) -> float:
        self.asked.append("voltage")
        return 0.5

    @voltage.setter
    def voltage(self, value: float) -> None:
        self.asked.append("voltage=")

    @property
    def current(self) -> float:
        self.asked.append("current")
        return 0.25

    @property
    def made_for_each(self) -> Any:
        return self.left

    @made_for_each.setter
    def made_for_each(self, value: float) -> None:
        self.left.set(value)

    async def ramp(self, *_: Any) -> None:
        self.asked.append("ramp")

    def close(self) -> None:
        self.asked.append("close")


@pytest.mark.parametrize(
    ("wrong", "told", "asked"),
    [
        (
            {"controls": ["voltage"]},
            r"'voltage' must be a parameter, with set and get, of Keithley\. Got the value 0\.5\.",
            ["voltage"],
        ),
        ({"outputs": ["voltage", "current"]}, "Got the value", ["voltage"]),
        (
            {"outputs": ["current"]},
            r"'current' must be .* Got the value 0\.25\. Set and read it in a func",
            ["current"],
        ),
        ({"controls": ["level"]}, r"'level' must be a parameter, .* Got the value 1\.0\..* skpat\.as_device", []),
        ({"trigger": "level"}, r"'level' must be a parameter or method of Keithley\. Got the value 1\.0", []),
        ({"safe": {"voltage": 0}}, "Got the value", ["voltage"]),
        ({"trigger": "ramp"}, "'ramp' of Keithley must have done its work when it returns. Got an async function", []),
        ({"safe": "ramp"}, "'ramp' of Keithley must have done its work", []),
        ({"controls": ["ramp"]}, "'ramp' of Keithley must have done its work", []),
        ({"outputs": ["ramp"]}, "'ramp' of Keithley must have done its work", []),
        ({"measure_rows": "ramp"}, "'measure_rows' of Keithley must return an array", []),
    ],
)
def test_what_is_no_parameter_is_told_when_it_is_opened(wrong: dict, told: str, asked: list[str]) -> None:
    seen: list[str] = []
    about = {"controls": ["left"], "outputs": ["left"], "bounds": (0, 1)} | wrong
    device = QcodesDevice(lambda: Keithley(seen), **about)
    with pytest.raises(DeviceContractError, match=told):
        device.open()
    assert seen == [*asked, "close"]


def test_a_property_may_give_a_parameter() -> None:
    with Session(QcodesDevice(lambda: Keithley([]), ["made_for_each"], ["left"], bounds=(0, 1))) as session:
        assert session.measure(np.zeros((1, 1))).tolist() == [[1.0]]


def test_a_setting_that_nobody_waits_for_ends_the_run() -> None:
    async def later(value: float) -> None:
        raise AssertionError("it must not run")

    made = SimpleNamespace(left=SimpleNamespace(set=lambda value: later(value)), power=lambda: 1.0, close=lambda: None)
    with (
        Session(QcodesDevice(lambda: made, ["left"], ["power"], bounds=(0, 1))) as session,
        pytest.raises(
            DeviceContractError, match=r"'left' of SimpleNamespace must .* Got a coroutine that nobody waits"
        ),
    ):
        session.measure(np.zeros((1, 1)))
