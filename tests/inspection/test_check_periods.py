"""check_device sees a stated period that is wrong, and none where it is right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from skpat import Device, check_device
from skpat.devices import Drifting, MachZehnderMesh, Noisy, Quantized
from skpat.devices.specification import channel_periods
from skpat.devices.wrapper import DeviceWrapper
from skpat.inspection.legal_settings import LegalSettings
from skpat.inspection.period_scans import period_plan
from tests.inspection import drivers

TURN = 2 * np.pi


class Interferometer(drivers.Driver):
    """Channels 0 to 2 are phases in rad, 3 and 4 are voltages."""

    bounds = np.array([[0.0, TURN]] * 3 + [[-2.0, 3.0]] * 2)
    periodic: Any = (TURN, TURN, TURN, 0, 0)

    def response(self, volts):
        phase = volts[:, :3] @ np.array([[1, 1, 0, 2], [0, 1, 1, 1], [1, 0, 1, -1]])  # whole numbers
        return 1.5 + np.cos(phase + 0.3 * volts[:, 3:].sum(axis=1, keepdims=True)) + 0.1 * volts[:, 3:4]


class NoisyNearTheEnds(Interferometer):
    """Where pairs are, there is more noise than where the noise was measured."""

    def measure(self, batch):
        volts = np.asarray(batch)
        ends = np.isclose(volts[:, :3] % TURN, 0) | np.isclose(volts[:, :3] % TURN, TURN)
        outputs = super().measure(batch)
        return outputs + 0.3 * ends.any(axis=1, keepdims=True) * (self.noisy(0 * outputs) / self.noise)


def such(device: Any, **attributes: Any) -> Any:
    device.__class__ = type(type(device).__name__, (type(device),), attributes)
    return device


def interferometer(noise: float = 0.0, seed: int = 0, **attributes: Any) -> Any:
    return such(Interferometer(noise=noise, seed=seed), **attributes)


class Claims(DeviceWrapper):
    """A device that claims periods of its own."""

    def __init__(self, device, periodic):
        super().__init__(device)
        self.periodic = periodic

    periodic: Any = None  # type: ignore[assignment]


LIES: dict[str, Any] = {
    "a voltage": {"periodic": (TURN, TURN, TURN, 5.0, 0)},
    "all channels": {"periodic": 5.0},
    "half of the period": {"periodic": (np.pi, TURN, TURN, 0, 0)},
    "rad for degrees": {
        "bounds": np.array([[0.0, 720.0]] * 3 + [[-2.0, 3.0]] * 2),
        "response": lambda self, volts: Interferometer.response(
            self, np.hstack([np.deg2rad(volts[:, :3]), volts[:, 3:]])
        ),
    },
}


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("lie", LIES)
def test_a_wrong_period_is_named(lie: str, noise: float) -> None:
    for seed in range(5):
        check = check_device(interferometer(noise, seed, **LIES[lie]), on_fail=None, random_state=seed)
        assert [finding.name for finding in check.failures] == ["periods"]
        assert "2 * numpy.pi for rad, 360 for degrees" in check["periods"].mend
        assert check.n_shots < 245
    if lie == "a voltage":
        assert "some of the channels 2 to 3 change the answer" in check["periods"].seen


def test_one_lying_channel_is_named() -> None:
    check = check_device(interferometer(periodic=(0, 0, 0, 5.0, 0)), on_fail=None)
    assert "Moved by whole periods, channel 3 changes the answer" in check["periods"].seen


def test_heaters_that_feel_each_other_are_not_periodic() -> None:
    mesh = MachZehnderMesh(6, crosstalk=0.1)
    check = check_device(Claims(mesh, MachZehnderMesh(6).periodic), on_fail=None)
    assert [finding.name for finding in check.failures] == ["periods"]
    assert "periods" not in [finding.name for finding in check_device(mesh).findings]  # it states none


TRUE: dict[str, Any] = {
    "quiet": lambda seed: interferometer(),
    "noisy": lambda seed: interferometer(0.05, seed),
    "very noisy": lambda seed: interferometer(1.0, seed),
    "many turns": lambda seed: interferometer(0.02, seed, bounds=np.array([[-20.0, 30.0]] * 3 + [[-2.0, 3.0]] * 2)),
    "rounded period": lambda seed: interferometer(periodic=(6.282, 6.2832, 6.282, 0, 0), seed=seed),
    "noisy near the ends": lambda seed: NoisyNearTheEnds(noise=0.002, seed=seed),
    "misaligned mesh": lambda seed: Drifting(
        MachZehnderMesh(4, random_state=seed), misalignment=0.05, misalignment_at=20, random_state=seed
    ),
    "drift": lambda seed: Noisy(Drifting(interferometer(), common=0.01, on="outputs", random_state=seed), noise=0.01,
                                random_state=seed),
    "mesh": lambda seed: MachZehnderMesh(4, phase_error=0.1, random_state=seed),
    "mesh with phase modulators": lambda seed: MachZehnderMesh(4, phase_modulators=True, crosstalk=0.1, random_state=seed),
    "drifting mesh": lambda seed: Drifting(MachZehnderMesh(4, random_state=seed), random_state=seed),
    "noisy settings": lambda seed: Noisy(MachZehnderMesh(4, random_state=seed), control_noise=0.004, random_state=seed),
    "converters": lambda seed: Quantized(MachZehnderMesh(4, random_state=seed), control_bits=6),
}  # fmt: skip


@pytest.mark.parametrize("name", TRUE)
@pytest.mark.parametrize(
    "seeds", [range(0, 20, 5), pytest.param(range(20), marks=pytest.mark.slow)], ids=["few", "all"]
)
def test_a_right_period_raises_no_false_alarm(name: str, seeds: range) -> None:
    for seed in seeds:
        check = check_device(TRUE[name](seed), random_state=seed)
        looks_wrong = name == "noisy near the ends" or (name == "noisy settings" and seed >= 10)  # at first, for some
        assert check.n_shots < (245 if looks_wrong else 200)
        either = ("passed", "skipped")
        allowed = {"very noisy": ("skipped",), "noisy settings": either, "misaligned mesh": either}
        assert check["periods"].status in allowed.get(name, ("passed",))


# ---- what is sent ----


@pytest.mark.parametrize(
    ("attributes", "channels"),
    [
        ({}, [0, 1, 2]),
        ({"bounds": np.array([[0.0, TURN], [0.0, 6.0], [-9.0, 9.0], [0.0, 1.0], [0.0, 1.0]])}, [0, 2]),
        ({"control_steps": (TURN / 16, 0.1, TURN / 3, 0, 0)}, [0, 2]),  # 0.1: no two steps are 2 pi apart
        ({"max_change": (7.0, 1.0, 7.0, 9.0, 9.0)}, [0, 2]),
        ({"bounds": (0.0, 1.0)}, []),
    ],
)
def test_pairs_are_legal_and_whole_periods_apart(attributes: dict[str, Any], channels: list[int]) -> None:
    device = interferometer(**attributes)
    legal = LegalSettings(device, np.random.RandomState(0))
    periods = channel_periods(device)
    plan = period_plan(legal, periods)
    assert sorted(np.concatenate([[], *plan.groups])) == channels
    assert sorted([*plan.untried, *channels]) == [0, 1, 2]
    for group, pairs in zip(plan.groups, plan.settings, strict=True):
        for pair in pairs:
            legal.limits.check(_batch(pair))
            turns = (pair[1] - pair[0])[group] / periods[group]
            np.testing.assert_allclose(turns, np.round(turns), atol=1e-9)
            assert (np.round(turns) >= 1).all()
            others = np.setdiff1d(np.arange(5), group)
            np.testing.assert_array_equal(pair[0, others], pair[1, others])


def _batch(rows: np.ndarray) -> Any:
    from skpat import ControlBatch

    return ControlBatch.from_dense(rows)


def test_a_check_without_room_is_skipped() -> None:
    check = check_device(interferometer(bounds=np.array([[0.0, 3.0]] * 5)))
    assert check["periods"].status == "skipped"
    assert "No two legal settings are a period apart" in check["periods"].seen


def test_vetoed_pairs_are_not_sent() -> None:
    class Charged(Interferometer):
        def check_controls(self, batch):
            from skpat.exceptions import ControlBoundsError

            if (np.asarray(batch)[:, :3].sum(axis=1) > 9).any():
                raise ControlBoundsError("Too much.")

    check = check_device(such(Charged()))
    assert check.passed
    assert check["periods"].status in ("passed", "skipped")


def test_devices_without_periods_are_asked_nothing() -> None:
    plain = check_device(interferometer(periodic=None))
    assert "periods" not in [finding.name for finding in plain.findings]
    assert check_device(interferometer()).n_shots == plain.n_shots + 12


def test_the_device_contract_names_the_attribute() -> None:
    assert "periodic" in (Device.__doc__ or "")
