"""Periodic channels: what a device states about them, who hands it on, and whether it is true."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone

from skpat import ControlBatch, Device, as_device
from skpat.devices import Drifting, IdentityDevice, MachZehnderMesh, Noisy, Quantized, SecondHarmonicLaser
from skpat.devices.specification import channel_periods, check_device_specification
from skpat.devices.wrapper import DeviceWrapper
from skpat.exceptions import DeviceContractError
from skpat.lab import EpicsDevice, Session, VisaDevice
from skpat.lab.adopted import adopt
from skpat.lab.fingerprint import device_fingerprint
from skpat.lab.qcodes_device import QcodesDevice

TURN = 2 * np.pi


class Rotor(Device):
    n_controls, n_outputs, bounds = 3, 1, (0.0, 400.0)

    def __init__(self, periodic=None):
        self.periodic = periodic

    def measure(self, batch):
        return np.cos(np.deg2rad(np.asarray(batch)[:, :1]))


def quiet_mesh(**parameters: Any) -> MachZehnderMesh:
    return MachZehnderMesh(4, noise=0, shot_noise=0, noise_floor=0, phase_error=0.1, splitter_error=0.1, **parameters)


# ---- what is stated ----


def test_no_channel_is_periodic_unless_it_is_stated() -> None:
    class Bare(Device):
        n_controls, n_outputs, bounds = 2, 1, (0, 1)

    assert Bare().periodic is None
    for device in (Bare(), SecondHarmonicLaser(5, 3), IdentityDevice.like(MachZehnderMesh(4))):
        np.testing.assert_array_equal(channel_periods(device), np.zeros(device.n_controls))


def test_periods_are_given_for_all_channels_or_for_each() -> None:
    np.testing.assert_array_equal(channel_periods(Rotor(360)), [360, 360, 360])
    np.testing.assert_array_equal(channel_periods(Rotor([360.0, 0, 5])), [360, 0, 5])
    assert check_device_specification(Rotor([360.0, 0, 5])).shape == (3, 2)
    channel_periods(Rotor(360))[0] = 1.0  # the caller's own


@pytest.mark.parametrize("periodic", [-1.0, np.nan, np.inf, [360, 0], [[360, 0, 0]], "phase", [1.0, -1.0, 0.0]])
def test_what_is_no_period_is_refused(periodic: Any) -> None:
    with pytest.raises(
        DeviceContractError,
        match=r"'periodic' of Rotor must be a number of at least 0, or one for each of its 3 channels, or None\. Got .*"
        r"Use 0 for a channel that is not periodic, 2 \* numpy\.pi for a phase in rad",
    ):
        check_device_specification(Rotor(periodic))


@pytest.mark.parametrize(("attribute", "advice"), [("control_steps", "without steps"), ("max_change", "any change")])
def test_the_other_numbers_of_channels_come_with_advice_too(attribute: str, advice: str) -> None:
    rotor = Rotor()
    setattr(rotor, attribute, -1.0)
    with pytest.raises(DeviceContractError, match=advice):
        check_device_specification(rotor)


# ---- the mesh: it is true ----


@pytest.mark.parametrize(
    "parameters",
    [{}, {"input_modulators": False}, {"phase_modulators": True}, {"phase_modulators": True, "crosstalk": 0.1}],
)
def test_a_channel_of_the_mesh_is_stated_to_be_periodic_where_it_is(parameters: dict[str, Any]) -> None:
    mesh = quiet_mesh(**parameters)
    controls = np.random.default_rng(0).uniform(*mesh.bounds.T, size=(4, mesh.n_controls))
    moved = controls + TURN * np.eye(mesh.n_controls)[:, None]
    change = np.abs(
        mesh.measure(moved.reshape(-1, mesh.n_controls)).reshape(*moved.shape[:2], -1) - mesh.measure(controls)
    )
    stated = channel_periods(mesh)
    assert set(stated) <= {0.0, TURN}
    assert change[stated > 0].max(initial=0) < 1e-12
    amplitudes = change[mesh.amplitude_index].max(axis=(1, 2))
    assert (amplitudes > 0.1).all()
    if "crosstalk" not in parameters:
        assert (stated > 0).sum() == mesh.n_controls - len(mesh.amplitude_index)
    else:  # the heaters of the phases feel each other
        np.testing.assert_array_equal(np.flatnonzero(stated), mesh.input_phase_index)
        assert change[mesh.theta_index].max() > 1e-3


# ---- who hands it on ----


def test_wrappers_state_what_their_device_states() -> None:
    mesh = quiet_mesh()
    for wrapped in (
        DeviceWrapper(mesh),
        Noisy(mesh, noise=0.1),
        Quantized(mesh, control_bits=8),
        Drifting(mesh),
        Drifting(mesh, on="outputs"),
        Noisy(Quantized(Drifting(mesh))),
    ):
        np.testing.assert_array_equal(channel_periods(wrapped), mesh.periodic)
        check_device_specification(wrapped)
    assert Drifting(mesh, on="control_gains").periodic is None
    assert Noisy(SecondHarmonicLaser(4, 2)).periodic is None


def test_a_converter_keeps_the_period_of_what_it_can_set() -> None:
    mesh = quiet_mesh()
    device = Quantized(mesh, control_bits=6)
    ends = np.stack([mesh.bounds[:, 0], np.where(mesh.periodic > 0, mesh.bounds[:, 1], 0.0)])
    first, last = device.measure(ends)
    np.testing.assert_allclose(first, last, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_phase_that_drifts_over_its_bounds_goes_on_on_the_other_side(dtype: Any) -> None:
    mesh = quiet_mesh()
    device = Drifting(mesh, common=0, misalignment=0.2, misalignment_at=0, random_state=1)
    low, high = mesh.bounds.T
    rows = np.stack([low, np.where(mesh.periodic > 0, high, low)]).astype(dtype)
    rows[1] = np.minimum(rows[1], np.nextafter(high.astype(dtype), dtype(0)))
    sent = np.asarray(device.transform_controls(ControlBatch.from_dense(rows)))
    assert sent.dtype == dtype
    assert ((sent >= low) & (sent <= high)).all()
    moved = sent[0, mesh.theta_index] - low[mesh.theta_index]
    assert (moved > np.pi).any()  # those that drifted downwards
    assert (moved < np.pi).any()
    np.testing.assert_allclose(*device.measure(rows), atol=1e-5 if dtype == np.float32 else 1e-9)
    amplitudes = sent[0, mesh.amplitude_index]
    assert (amplitudes == 0).any()  # what is not periodic is clipped
    narrow = as_device(np.cos, n_controls=1, n_outputs=1, bounds=(0, 3), periodic=TURN)
    np.testing.assert_array_equal(DeviceWrapper(narrow).legal(np.array([-0.5, 3.5]), np.array([0, 0]), rows), [0, 3])


def square(handle: Any, controls: np.ndarray) -> np.ndarray:
    return controls**2


@pytest.mark.parametrize(
    "device",
    [
        as_device(np.cos, n_controls=2, n_outputs=2, bounds=(0, 9), periodic=[TURN, 0]),
        adopt(object(), square, n_controls=2, n_outputs=2, bounds=(0, 9), periodic=[TURN, 0]),
        VisaDevice("TCPIP::lab::5025::SOCKET", n_controls=2, n_outputs=2, bounds=(0, 9), periodic=[TURN, 0]),
        EpicsDevice("LAB:", n_controls=2, n_outputs=2, bounds=(0, 9), periodic=[TURN, 0]),
        QcodesDevice(dict, ["a", "b"], ["c", "d"], bounds=(0, 9), periodic=[TURN, 0]),
    ],
    ids=lambda device: type(device).__name__,
)
def test_an_instrument_is_told_its_periods(device: Device) -> None:
    for copy in (device, clone(device), pickle.loads(pickle.dumps(device))):
        np.testing.assert_array_equal(channel_periods(copy), [TURN, 0])
        check_device_specification(copy)
    # nothing that was recorded depends on it: a journal made before the period was known stays good
    assert device_fingerprint(device) == device_fingerprint(clone(device).set_params(periodic=None))
    with pytest.raises(DeviceContractError, match="'periodic' of"):
        Session(clone(device).set_params(periodic=-1.0))


def test_as_device_checks_the_periods() -> None:
    with pytest.raises(DeviceContractError, match="'periodic' of cos must be"):
        as_device(np.cos, n_controls=2, n_outputs=2, bounds=(0, 9), periodic=[1, 2, 3])
