"""The contract of a device: a specification that opens nothing, checked with clear words."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.utils import estimator_html_repr

from skpat import ControlBatch, ControlSplit, Device, PhysicalNetworkClassifier, as_device
from skpat.devices import IdentityDevice, Noisy, SecondHarmonicLaser
from skpat.devices.specification import check_device_specification, device_name
from skpat.exceptions import ControlSplitError, DeviceContractError
from skpat.lab import Session
from skpat.twins import NeuralTwin

BATCH = ControlBatch(np.array([[0.1], [0.2]]), np.array([1]), np.array([0.9, 0.8]), np.array([2, 0]))
DENSE = np.array([[0.8, 0.1, 0.9], [0.8, 0.2, 0.9]])


def double(voltages: np.ndarray) -> np.ndarray:
    return 2 * voltages


class Scope(Device):
    """A device that notes on its class when it is opened."""

    n_controls, n_outputs = 3, 3
    bounds = [[0.0, 1.0]] * 3
    opened = 0

    def __init__(self, gain=1.0):
        self.gain = gain

    def open(self) -> None:
        Scope.opened += 1

    def measure(self, batch):
        return self.gain * np.asarray(batch)


# ---- the base class ----


@pytest.mark.parametrize(
    "use",
    [
        clone,
        lambda device: pickle.loads(pickle.dumps(device)),
        repr,
        estimator_html_repr,
        check_device_specification,
        Session,
        PhysicalNetworkClassifier,
        lambda device: clone(PhysicalNetworkClassifier(device)),
        lambda device: estimator_html_repr(PhysicalNetworkClassifier(device)),
        lambda device: PhysicalNetworkClassifier(device).plan(np.zeros((5, 2))),
        lambda device: pickle.dumps(PhysicalNetworkClassifier(device)),
    ],
)
def test_a_specification_opens_nothing(use, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scope, "opened", 0)
    device = Scope(gain=3.0)
    use(device)
    assert Scope.opened == 0
    Session(device).measure(np.zeros((1, 3)))
    assert Scope.opened == 1  # the flag works


def test_a_device_is_cloned_and_pickled_with_its_parameters() -> None:
    assert clone(Scope(gain=3.0)).gain == 3.0
    assert pickle.loads(pickle.dumps(Scope(gain=3.0))).gain == 3.0
    assert repr(Scope(gain=3.0)) == "Scope(gain=3.0)"
    assert clone(SecondHarmonicLaser(7, 3, coupling=2.0)).get_params()["coupling"] == 2.0


def test_the_defaults_of_a_device() -> None:
    class Bare(Device):
        n_controls, n_outputs, bounds = 1, 1, [[0, 1]]

    device = Bare()
    assert (device.max_batch, device.seconds_per_shot, device.joules_per_shot) == (None,) * 3
    assert (device.control_units, device.output_units) == ("", "")
    assert device.check_controls(ControlBatch.from_dense(np.zeros((1, 1)))) is None
    assert device.open() is None
    assert device.close() is None
    with pytest.raises(NotImplementedError, match=r"Bare must define measure\(batch\) -> \(n_rows, n_outputs\)"):
        device.measure(np.zeros((1, 1)))


def test_a_device_is_seeded_with_a_number() -> None:
    laser = SecondHarmonicLaser(3, 2, random_state=np.random.RandomState(0))
    with pytest.raises(TypeError, match=r"'random_state' of a device must be an int or None.*Use random_state=0"):
        laser.measure(np.zeros((1, 3)))


def test_what_a_device_is_called() -> None:
    assert device_name(Scope()) == "Scope"
    assert device_name(as_device(double, n_controls=1, n_outputs=1, bounds=(0, 1))) == "double"
    assert device_name(as_device(double, n_controls=1, n_outputs=1, bounds=(0, 1), name="rig 3")) == "rig 3"


# ---- check_device_specification ----


def scope_with(**attributes) -> Scope:
    device = Scope()
    vars(device).update(attributes)
    return device


class Mute:
    n_controls, n_outputs = 3, 3


def test_a_sound_specification_gives_its_bounds() -> None:
    bounds = check_device_specification(scope_with(bounds=[[0, 1], [-2, 2], [5, 6]]))
    np.testing.assert_array_equal(bounds, [[0, 1], [-2, 2], [5, 6]])
    assert bounds.dtype == np.float64
    assert check_device_specification(scope_with(n_controls=np.int64(3))).shape == (3, 2)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        (Scope, r"'device' must be an object, not a class\. Got the class Scope\. Use Scope\(\)"),
        ("cuda", r"'device' must be a skpat\.Device.*Got 'cuda'.*use torch_device='cuda'"),
        (double, r"'device' must be a skpat\.Device.*Wrap a plain function with skpat\.as_device\("),
        (None, r"'device' must be a skpat\.Device.*Got None"),
        (PhysicalNetworkClassifier(), r"Got PhysicalNetworkClassifier\(\)\. Of a network use estimator\.device, or "),
        (Mute(), r"The device Mute must define measure, bounds\. Got .* example of skpat\.Device"),
        (scope_with(n_controls=0), r"'n_controls' of Scope must be an int of at least 1\. Got 0"),
        (scope_with(n_controls=True), r"'n_controls' of Scope must be an int of at least 1\. Got True"),
        (scope_with(n_controls=3.0), r"'n_controls' of Scope must be an int of at least 1\. Got 3\.0"),
        (scope_with(n_outputs=-2), r"'n_outputs' of Scope must be an int of at least 1\. Got -2"),
        (scope_with(n_outputs="two"), r"'n_outputs' of Scope must be an int of at least 1\. Got 'two'"),
        (scope_with(bounds=("0", "1")), r"'bounds' of Scope must be numbers\. Got \('0', '1'\)\. Use \(low, high\)"),
        (scope_with(bounds=(0, "1")), r"'bounds' of Scope must be numbers\. Got \(0, '1'\)"),
        (
            scope_with(control_units=["mA", "V"]),
            r"'control_units' of Scope must be one text .*Got \['mA', 'V'\]\. Use one",
        ),
        (scope_with(output_units=3), r"'output_units' of Scope must be one text for all channels, or None\. Got 3\."),
        (scope_with(bounds="wide"), r"'bounds' of Scope must be numbers\. Got 'wide'\. Use \(low, high\)"),
        (scope_with(bounds=None), r"'bounds' of Scope must (be numbers\. Got None|be \(low, high\) or have shape)"),
        (scope_with(bounds=[[0, 1], [0]]), r"'bounds' of Scope must be numbers"),
        (
            scope_with(bounds=(0, 1, 2)),
            r"'bounds' .*shape \(n_controls, 2\) = \(3, 2\)\. Got \(3,\)\. Use numpy\.column_stack",
        ),
        (
            scope_with(max_retries=-1),
            r"'max_retries' of Scope must be an int of at least 0, or None\. Got -1\. Use 0 to repeat",
        ),
        (scope_with(on_bad_output="ignore"), r"'on_bad_output' of Scope must be one of 'retry', .*Got 'ignore'"),
        (
            scope_with(seconds_per_shot="5ms"),
            r"'seconds_per_shot' of Scope must be a finite number of at least 0, or None",
        ),
        (
            scope_with(joules_per_shot=-1.0),
            r"'joules_per_shot' of Scope must be a finite number of at least 0.*Got -1\.0",
        ),
        (
            scope_with(settling_seconds=np.nan),
            r"'settling_seconds' of Scope must be a finite number.*Got nan\. Use 0 where",
        ),
        (Noisy(scope_with(seconds_per_shot=True)), r"'seconds_per_shot' of Noisy\(Scope\) must be a finite.*Got True"),
        (scope_with(address=5025), r"'address' of Scope must be a string, or None\. Got 5025\. Use address='TCPIP"),
        (scope_with(control_steps=[1, 2]), r"'control_steps' of Scope must be a number of at least 0, or one for each"),
        (scope_with(max_change=-0.1), r"'max_change' of Scope must be a number of at least 0.*Got -0\.1"),
        (
            scope_with(output_range=(1, 0)),
            r"'output_range' of Scope must be a pair \(low, high\), or None\. Got \(1, 0\)\. Give the lower reading first",
        ),
        (scope_with(output_range=5), r"'output_range' of Scope must be a pair"),
        (
            scope_with(slow_controls=[0, 3]),
            r"'slow_controls' of Scope must be a list of channel numbers, 0 to 2, or None",
        ),
        (
            scope_with(slow_controls=1),
            r"'slow_controls' of Scope must be a list of channel numbers.*Got 1\. Use numpy\.flatnonzero",
        ),
        (scope_with(slow_controls=[True]), r"'slow_controls' of Scope must be a list of channel numbers"),
        (scope_with(slow_controls=[-1]), r"'slow_controls' of Scope must be a list of channel numbers.*Got \[-1\]"),
        (scope_with(bounds=[[0, 1]] * 4), r"'bounds' .*shape \(n_controls, 2\) = \(3, 2\)\. Got \(4, 2\)"),
        (
            scope_with(bounds=[[0, 1], [1, 0], [0, 1]]),
            r"finite, the lower below the upper\. Got \[1\.0, 0\.0\] in channel 1\. "
            r"Hold a channel .* with ControlSplit\(fixed=\{1: value\}\)",
        ),
        (scope_with(bounds=[[0, 1], [0, 1], [2, 2]]), r"the lower below the upper\. Got \[2\.0, 2\.0\] in channel 2"),
        (scope_with(bounds=[[0, np.inf], [0, 1], [0, 1]]), r"must be finite.*Got \[0\.0, inf\] in channel 0"),
        (scope_with(bounds=[[0, 1], [np.nan, 1], [0, 1]]), r"must be finite.*Got \[nan, 1\.0\] in channel 1"),
    ],
)
def test_a_broken_contract_is_named(device, message: str) -> None:
    with pytest.raises(DeviceContractError, match=message):
        check_device_specification(device)


# ---- as_device ----


def test_a_function_gets_the_plain_array() -> None:
    received = []

    def note(voltages):
        received.append(voltages)
        return voltages[:, :1]

    device = as_device(note, n_controls=3, n_outputs=1, bounds=(0, 1))
    np.testing.assert_array_equal(device.measure(BATCH), [[0.8], [0.8]])
    device.measure(DENSE)
    assert [type(array) for array in received] == [np.ndarray, np.ndarray]
    for array in received:
        np.testing.assert_array_equal(array, DENSE)


def test_bounds_of_all_channels_alike_are_broadcast_and_shown_as_they_were_given() -> None:
    alike = as_device(double, n_controls=3, n_outputs=3, bounds=(-1, 2))
    np.testing.assert_array_equal(check_device_specification(alike), [[-1, 2]] * 3)
    assert "bounds=(-1, 2)" in repr(alike)
    of_two = as_device(double, n_controls=2, n_outputs=2, bounds=(-1, 2))
    np.testing.assert_array_equal(check_device_specification(of_two), [[-1, 2]] * 2)
    each = as_device(double, n_controls=2, n_outputs=2, bounds=[[0, 1], [2, 3]])  # rows are channels
    np.testing.assert_array_equal(each.bounds, [[0, 1], [2, 3]])


def test_a_function_may_need_time_to_settle() -> None:
    heater = as_device(double, n_controls=2, n_outputs=2, bounds=(0, 1), settling_seconds=0.25, slow_controls=[1])
    assert heater.settling_seconds == 0.25
    with pytest.raises(DeviceContractError, match="'settling_seconds' of double must be a finite number"):
        as_device(double, n_controls=2, n_outputs=2, bounds=(0, 1), settling_seconds="long")


def test_a_function_may_use_torch() -> None:
    device = as_device(
        lambda voltages: torch.from_numpy(voltages).requires_grad_() * 2, n_controls=3, n_outputs=3, bounds=(0, 1)
    )
    outputs = device.measure(DENSE)
    assert isinstance(outputs, np.ndarray)
    np.testing.assert_array_equal(outputs, 2 * DENSE)


def test_what_is_said_about_a_function_is_kept() -> None:
    about = {
        "control_units": "V",
        "output_units": "mW",
        "max_batch": 7,
        "seconds_per_shot": 0.1,
        "joules_per_shot": 2.0,
        "address": "bench 3",
        "control_steps": 0.25,
        "max_change": 0.5,
        "output_range": (-9, 9),
        "on_bad_output": "mask",
        "max_retries": 0,
        "slow_controls": [0],
        "name": "rig",
    }
    device = as_device(double, n_controls=1, n_outputs=1, bounds=(0, 1), **about)
    assert {name: getattr(device, name) for name in about} == about
    for copied in (clone(device), pickle.loads(pickle.dumps(device))):
        assert {name: getattr(copied, name) for name in about} == about
        np.testing.assert_array_equal(copied.measure(np.array([[0.25]])), [[0.5]])


def test_units_may_be_none() -> None:
    device = as_device(double, n_controls=1, n_outputs=1, bounds=(0, 1), control_units=None, output_units=None)
    assert device.control_units is None


def test_a_copy_works_with_the_same_live_instrument() -> None:
    class Instrument:
        def answer(self, voltages: np.ndarray) -> np.ndarray:
            return voltages

    instrument = Instrument()
    device = as_device(instrument.answer, n_controls=1, n_outputs=1, bounds=(0, 1))
    assert clone(device).function.__self__ is instrument
    assert clone(Noisy(device)).device.function.__self__ is instrument


def test_as_device_refuses_what_is_no_device() -> None:
    with pytest.raises(TypeError, match=r"'function' must be callable as function\(controls\)\. Got 3"):
        as_device(3, n_controls=1, n_outputs=1, bounds=(0, 1))
    with pytest.raises(DeviceContractError, match=r"'n_outputs' of double must be an int of at least 1\. Got 0"):
        as_device(double, n_controls=1, n_outputs=0, bounds=(0, 1))
    with pytest.raises(DeviceContractError, match="the lower below the upper"):
        as_device(double, n_controls=1, n_outputs=1, bounds=(1, 0))
    with pytest.raises(DeviceContractError, match=r"\(3, 2\)\. Got \(2, 2\)"):
        as_device(double, n_controls=3, n_outputs=1, bounds=[[0, 1]] * 2)


def test_a_function_is_called_with_whole_steps_and_slow_channels_stay_together() -> None:
    seen: list[np.ndarray] = []

    def bench(voltages: np.ndarray) -> np.ndarray:
        seen.append(voltages)
        return np.tanh(voltages @ np.random.RandomState(0).standard_normal((12, 6)))

    steps, slow = np.array([0.0] * 4 + [0.25] * 8), int(ControlSplit().resolve(12).weight_index[0])
    device = as_device(
        bench, n_controls=12, n_outputs=6, bounds=(-1, 1), control_steps=steps, slow_controls=[slow], max_batch=20
    )
    X = np.random.default_rng(0).normal(size=(60, 3))
    PhysicalNetworkClassifier(device, NeuralTwin((4,)), max_iter=2, random_state=0).fit(X, X[:, 0] > 0)
    sent = np.concatenate(seen)
    np.testing.assert_array_equal(sent[:, 4:] % 0.25, 0)
    assert (sent[:, :4] % 0.25 > 0).any()
    assert len(np.unique(sent[:, slow])) > 1
    assert all(np.ptp(voltages[:, slow]) == 0 for voltages in seen)


@pytest.mark.parametrize("steps", [2.5, [0.0, 3.0, 0.1]])
def test_a_step_wider_than_its_channel_is_refused(steps: Any) -> None:
    fix = r"State a step of 0 for it, and hold it with ControlSplit\(fixed=\{[01]: -1\}\)"
    with pytest.raises(DeviceContractError, match=r"two legal values\. Got a step of \d.* from -1 to 1\. " + fix):
        as_device(double, n_controls=3, n_outputs=3, bounds=(-1, 1), control_steps=steps)
    as_device(double, n_controls=3, n_outputs=3, bounds=(-1, 1), control_steps=2.0)  # two
    as_device(double, n_controls=3, n_outputs=3, bounds=(0, 0.3), control_steps=3 * 0.1)  # wider by rounding alone
    held = as_device(double, n_controls=3, n_outputs=3, bounds=(-1, 1), control_steps=[0.0, 0.0, 0.1])
    X = np.random.default_rng(0).normal(size=(20, 1))
    split = ControlSplit(fixed={0: -1, 1: -1})  # what the error says
    network = PhysicalNetworkClassifier(held, NeuralTwin((4,)), control_split=split, max_iter=1, random_state=0)
    assert network.fit(X, X[:, 0] > 0).shots_


@pytest.mark.parametrize("wrong", [{"n_controls": -1}, {"bounds": ("low", "high")}])
def test_as_device_names_what_is_wrong_before_it_uses_it(wrong: dict) -> None:
    with pytest.raises(DeviceContractError, match="of double must be"):
        as_device(double, **{"n_controls": 2, "n_outputs": 2, "bounds": (0, 1)} | wrong)


# ---- IdentityDevice ----


@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from(["float32", "float64"]))
def test_the_identity_averages_or_repeats_its_controls(n_controls: int, n_outputs: int, dtype: str) -> None:
    device = IdentityDevice(n_controls, n_outputs, bounds=[[0, 1]] * n_controls)
    share = device.measure(np.eye(n_controls, dtype=dtype))  # (channel, output): the share of a channel in an output
    assert share.dtype == dtype
    np.testing.assert_allclose(share.sum(axis=0), 1, rtol=1e-6)  # every output is a mean
    assert (share.max(axis=1) > 0).all()  # every channel is seen
    first, last = (share > 0).argmax(axis=0), n_controls - 1 - (share > 0)[::-1].argmax(axis=0)
    run_lengths = (share > 0).sum(axis=0)
    np.testing.assert_array_equal(last - first + 1, run_lengths)  # of neighbouring channels
    np.testing.assert_allclose(share.max(axis=0), 1 / run_lengths, rtol=1e-6)  # with equal weights
    assert (np.diff(first) >= 0).all()  # in order
    seen = run_lengths if n_outputs <= n_controls else (share > 0).sum(axis=1)
    assert seen.max() - seen.min() <= 1  # as evenly as whole numbers allow
    if n_outputs <= n_controls:
        assert (np.diff(first) > 0).all()  # no channel twice
        assert run_lengths.sum() == n_controls
    else:
        assert (run_lengths == 1).all()


def test_the_identity_by_example() -> None:
    controls = np.array([[0.0, 1.0, 0.5, 0.5]])
    np.testing.assert_array_equal(IdentityDevice(4, 2, [[0, 1]] * 4).measure(controls), [[0.5, 0.5]])
    np.testing.assert_array_equal(IdentityDevice(4, 4, [[0, 1]] * 4).measure(controls), controls)
    repeated = IdentityDevice(4, 8, [[0, 1]] * 4).measure(controls)
    np.testing.assert_array_equal(repeated, [[0, 0, 1, 1, 0.5, 0.5, 0.5, 0.5]])
    np.testing.assert_array_equal(IdentityDevice(3, 3, [[0, 1]] * 3).measure(BATCH), DENSE)


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([torch.float32, torch.float64]))
def test_the_forward_pass_of_the_identity_is_its_measurement(n_controls: int, n_outputs: int, dtype) -> None:
    device = IdentityDevice(n_controls, n_outputs, bounds=[[0, 1]] * n_controls)
    controls = torch.rand((3, n_controls), dtype=dtype, generator=torch.Generator().manual_seed(0)).requires_grad_()
    outputs = device.forward(controls)
    assert outputs.dtype == dtype
    torch.testing.assert_close(outputs.detach(), torch.from_numpy(device.measure(controls.detach().numpy())))
    outputs.sum().backward()
    assert controls.grad is not None
    assert (controls.grad > 0).all()


def test_the_identity_like_another_device() -> None:
    laser = SecondHarmonicLaser(7, 3)
    device = IdentityDevice.like(laser)
    assert (device.n_controls, device.n_outputs) == (7, 3)
    np.testing.assert_array_equal(device.bounds, laser.bounds)
    with pytest.raises(DeviceContractError, match="must be an object, not a class"):
        IdentityDevice.like(SecondHarmonicLaser)


def test_the_identity_averages_whole_numbers() -> None:
    np.testing.assert_array_equal(IdentityDevice(2, 1, [[0, 9]] * 2).measure(np.array([[1, 2]])), [[1.5]])


@pytest.mark.parametrize("split", ["contiguous", ControlSplit("contiguous"), ControlSplit("contiguous").resolve(6)])
def test_an_identity_takes_a_split_as_it_comes(split: Any) -> None:
    device = as_device(lambda c: c[:, :2], n_controls=6, n_outputs=2, bounds=(0, 1))
    identity = IdentityDevice.like(device, split)
    np.testing.assert_array_equal(identity.input_index, [0, 1, 2])
    assert clone(identity).measure(np.eye(6))[0].tolist() == identity.measure(np.eye(6))[0].tolist()


@pytest.mark.parametrize("wrong", [[True, True, False, False], [1, 1], [9], [[0, 1], [2, 3]]])
def test_an_identity_refuses_what_is_no_set_of_channels(wrong: list) -> None:
    with pytest.raises(ControlSplitError):
        IdentityDevice(4, 2, [[0, 1]] * 4, np.array(wrong)).measure(np.zeros((1, 4)))


def test_an_identity_that_was_pickled_before_it_knew_of_data_is_as_it_was() -> None:
    old = IdentityDevice(4, 2, [[0, 1]] * 4)
    del old.__dict__["input_index"]
    old = pickle.loads(pickle.dumps(old))
    np.testing.assert_array_equal(old.measure(np.eye(4)), IdentityDevice(4, 2, [[0, 1]] * 4).measure(np.eye(4)))
    assert "IdentityDevice" in repr(old)
