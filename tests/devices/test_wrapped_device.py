"""What reaches a wrapped device: noise, drift and steps of its own for every channel, wherever in a batch it stands."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skpat import ControlBatch, Device
from skpat.devices import CoupledOscillators, Drifting, IdentityDevice, Noisy, Quantized
from skpat.devices.wrapper import DeviceWrapper
from skpat.exceptions import ControlBoundsError

BOUNDS = np.array([[0.0, 1.0], [0.0, 10.0], [-100.0, 100.0], [5.0, 5.1]])
WIDTH = np.ptp(BOUNDS, axis=1)


class Echo(Device):
    """Answers with its settings."""

    n_controls, n_outputs, bounds = 4, 4, BOUNDS

    def measure(self, batch: ControlBatch) -> np.ndarray:
        return np.asarray(batch)


def in_the_middle(n_rows: int) -> ControlBatch:
    """Channels 3 and 1 vary, 2 and 0 are shared."""
    middle = BOUNDS.mean(axis=1)
    batch = ControlBatch(np.tile(middle[[3, 1]], (n_rows, 1)), np.array([3, 1]), middle[[2, 0]], np.array([2, 0]))
    return batch.named(np.arange(n_rows, dtype=np.uint64))


def test_the_noise_of_a_channel_is_a_share_of_its_own_range() -> None:
    device = Noisy(Echo(), control_noise=0.01, random_state=0)
    n_rows, n_shots = 1000, 400
    of_rows = (device.measure(in_the_middle(n_rows)) - BOUNDS.mean(axis=1)) / WIDTH
    np.testing.assert_allclose(of_rows[:, [1, 3]].std(axis=0), 0.01, rtol=4 / np.sqrt(2 * n_rows))
    assert (np.ptp(of_rows[:, [0, 2]], axis=0) == 0).all()  # set once for all rows
    one = in_the_middle(1)
    of_shots = [(device.measure(one.named_shot(shot))[0] - BOUNDS.mean(axis=1)) / WIDTH for shot in range(n_shots)]
    np.testing.assert_allclose(np.std(of_shots, axis=0), 0.01, rtol=4 / np.sqrt(2 * n_shots))
    assert np.abs(np.corrcoef(np.transpose(of_shots)) - np.eye(4)).max() < 4 / np.sqrt(n_shots)


@pytest.mark.parametrize(
    "kind", [{"common": 0.01}, {"independent": 0.01}, {"misalignment": 0.01, "misalignment_at": 0}]
)
def test_a_channel_has_the_drift_that_is_stated_for_it(kind: dict[str, Any]) -> None:
    device = Drifting(Echo(), **{"common": 0.0} | kind, random_state=0)
    batch = in_the_middle(1).started_at(700)
    drift = device.drift([700])
    assert (drift != 0).all()
    np.testing.assert_allclose(device.measure(batch), BOUNDS.mean(axis=1) + WIDTH * drift, rtol=1e-12)


def test_without_a_session_settings_are_those_of_the_devices_own_time() -> None:
    device = Drifting(Echo(), random_state=0)
    device.measure(in_the_middle(1000))
    expected = BOUNDS.mean(axis=1) + WIDTH * device.drift([1000])
    for _ in range(2):  # to ask is not to measure
        np.testing.assert_allclose(np.asarray(device.transform_controls(in_the_middle(1))), expected, rtol=1e-12)
    np.testing.assert_allclose(device.measure(in_the_middle(1)), expected, rtol=1e-12)


def test_a_walk_is_that_of_the_device_as_it_is_now() -> None:
    def drifting(n_channels: int = 2, seed: int = 0, within: bool = False) -> Drifting:
        bench: Device = IdentityDevice(n_channels, n_channels, bounds=[[0, 1]] * n_channels)
        bench = Drifting(bench, random_state=0) if within else bench
        return Drifting(bench, common=0.1, independent=0.1, random_state=seed)

    device = drifting()
    device.drift([2000])
    for other in (drifting(n_channels=3), drifting(seed=1), drifting(within=True), drifting()):
        device.set_params(device=other.device, random_state=other.random_state)
        np.testing.assert_array_equal(device.drift([900, 2000]), other.drift([900, 2000]))
    assert (drifting().drift([2000]) != drifting(within=True).drift([2000])).all()


# ---- converters ----


def test_a_converter_sets_the_same_in_parts_as_in_an_array() -> None:
    oscillators = CoupledOscillators(3, max_amplitude=1.0, max_coupling=4.0, max_drive=2.0, input_noise=0, noise=0)
    device = Quantized(oscillators, control_bits=3)
    controls = np.random.default_rng(0).uniform(*device.bounds.T, size=(5, device.n_controls))
    varying, shared = np.split(np.random.default_rng(1).permutation(device.n_controls), [4])
    controls[:, shared] = controls[0, shared]
    batch = ControlBatch(torch.tensor(controls[:, varying]), varying, torch.tensor(controls[0, shared]), shared)
    expected = device.measure(controls)
    np.testing.assert_allclose(device.forward_batch(batch).numpy(), expected, rtol=1e-12, atol=1e-12)
    assert np.abs(oscillators.measure(controls) - expected).max() > 0.01


def test_a_veto_is_asked_about_what_the_converters_make() -> None:
    class Careful(Echo):
        def check_controls(self, batch: ControlBatch) -> None:
            if np.asarray(batch)[:, 0].max(initial=0) > 0.6:
                raise ControlBoundsError("too much in channel 0")

    device = Quantized(Careful(), control_bits=1)  # 0 or 1 in channel 0
    asked = BOUNDS.mean(axis=1)[None]
    device.check_controls(ControlBatch.from_dense(asked - np.eye(4)[:1] * 0.1))
    with pytest.raises(ControlBoundsError, match="too much in channel 0"):
        device.check_controls(ControlBatch.from_dense(asked + np.eye(4)[:1] * 0.05))


@given(st.floats(-10, 10), st.floats(1e-3, 10))
def test_single_precision_rounds_inwards_at_both_bounds(low: float, width: float) -> None:
    class Narrow(Device):
        n_controls, n_outputs, bounds = 2, 1, [[low, low + width]] * 2

    like = np.zeros(1, dtype=np.float32)
    ends = DeviceWrapper(Narrow()).legal(np.array([low - 1.0, low + width + 1.0]), np.arange(2), like)
    assert ends.dtype == np.float32
    assert low <= float(ends[0]) < float(ends[1]) <= low + width
    np.testing.assert_allclose(ends, [low, low + width], rtol=2e-7, atol=1e-40)


# ---- periods ----


@given(st.floats(-50, 50), st.floats(0.1, 400), st.floats(1, 3), st.floats(-2000, 2000))
def test_a_periodic_setting_comes_back_whole_periods_further(low: float, period: float, span: float, at: float) -> None:
    class Rotor(Device):
        n_controls, n_outputs, periodic, bounds = 1, 1, period, [[low, low + span * period]]

    (legal,) = DeviceWrapper(Rotor()).legal(np.array([at]), np.array([0]), np.zeros(1))
    assert low <= legal <= low + span * period
    turns = (legal - at) / period
    assert turns == pytest.approx(round(turns), abs=1e-9 * max(1, 2000 / period))
    if low <= at <= low + span * period:
        assert legal == at


def test_a_range_of_one_period_is_one_whatever_rounding_makes_of_it() -> None:
    lows = np.linspace(-3.0, 3.0, 41)

    class Phases(Device):
        n_controls, n_outputs, periodic = 41, 1, 2 * np.pi
        bounds = np.column_stack([lows, lows + 2 * np.pi])

    below = DeviceWrapper(Phases()).legal(lows - 1.0, np.arange(41), np.zeros(1))
    np.testing.assert_allclose(below, lows - 1.0 + 2 * np.pi, rtol=1e-12)


# ---- shared channels that are sent apart ----


class Line(Echo):
    """Notes what it is sent, and fails when it is told to."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.fails = False

    def set_shared(self, batch: ControlBatch) -> None:
        if self.fails:
            raise ConnectionError("no answer")
        self.sent.append((batch.shared.tolist(), batch.shared_index.tolist()))


def test_shared_channels_are_sent_as_they_are_set() -> None:
    line = Line()
    device = Drifting(line, common=0.0, misalignment=0.01, misalignment_at=0, random_state=0)
    device.set_shared(in_the_middle(1))
    expected = (BOUNDS.mean(axis=1) + WIDTH * device.drift([0])[0])[[2, 0]]
    np.testing.assert_allclose(line.sent[0][0], expected, rtol=1e-12)


def test_what_may_not_have_arrived_is_sent_again() -> None:
    line = Line()
    device, batch = DeviceWrapper(line), in_the_middle(1)
    device.set_shared(batch)
    device.set_shared(batch)
    assert len(line.sent) == 1  # it is there
    line.fails = True
    with pytest.raises(ConnectionError):
        device.set_shared(batch.changed(shared=batch.shared + 0.1))
    line.fails = False
    device.set_shared(batch)
    assert len(line.sent) == 2


@pytest.mark.parametrize("line_is_new", ["open", "close", "pickled"])
def test_what_a_new_line_does_not_know_is_sent_again(line_is_new: str) -> None:
    line = Line()
    device, batch = DeviceWrapper(line), in_the_middle(1)
    device.set_shared(batch)
    if line_is_new == "pickled":
        device = pickle.loads(pickle.dumps(device))
    else:
        getattr(device, line_is_new)()
    device.set_shared(batch)
    assert len(device.device.sent) == 2


def test_the_same_numbers_for_other_channels_are_sent() -> None:
    line = Line()
    device = DeviceWrapper(line)
    for shared_index, varying_index in (([0, 1], [2, 3]), ([1, 0], [2, 3])):
        device.set_shared(
            ControlBatch(np.full((1, 2), 5.05), np.array(varying_index), np.ones(2), np.array(shared_index))
        )
    assert [index for _, index in line.sent] == [[0, 1], [1, 0]]
