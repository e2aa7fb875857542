"""Wrappers hand on what they do not change, compose in any order, and never let anything illegal through."""

from __future__ import annotations

import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.utils import estimator_html_repr

from skpat import ControlBatch, Device, PhysicalNetworkClassifier
from skpat.devices import Drifting, IdentityDevice, Noisy, Quantized, SecondHarmonicLaser
from skpat.devices.specification import check_device_specification, device_name
from skpat.devices.wrapper import DeviceWrapper
from skpat.exceptions import ControlBoundsError, DeviceContractError, DeviceOutputError, JournalError
from skpat.lab import Session
from skpat.lab.fingerprint import device_fingerprint
from skpat.twins import NeuralTwin

BOUNDS = np.array([[0.0, 0.3], [-1.0, 1.0], [5.0, 5.7], [-3.1, -0.1]])
LOW, HIGH = BOUNDS.T
WRAPPERS = [Drifting, Quantized, Noisy]


class Bench(Device):
    """Notes what it receives, and refuses what is illegal."""

    n_controls, n_outputs = 4, 3
    bounds = BOUNDS
    control_units, output_units = "V", "uA"
    max_batch, seconds_per_shot, joules_per_shot, address = 50, 0.1, 0.2, None
    max_change, output_range, on_bad_output, max_retries, settling_seconds = 9.0, (-99.0, 99.0), "raise", 2, 0.0
    slow_controls = (2,)
    opened = 0

    def __init__(self, control_steps=None):
        self.control_steps = control_steps
        self.calls: list[Any] = []

    def measure(self, batch: ControlBatch) -> np.ndarray:
        controls = np.asarray(batch)
        assert np.all(controls >= LOW)
        assert np.all(controls <= HIGH)
        if self.control_steps is not None:
            steps = np.broadcast_to(self.control_steps, 4)
            whole = (controls - LOW)[:, steps > 0] / steps[steps > 0]
            np.testing.assert_allclose(whole, np.round(whole), atol=1e-4)
        self.calls.append(batch)
        return controls[:, :3] + controls[:, 1:]

    def forward(self, controls: torch.Tensor, constants: Any = None) -> torch.Tensor:
        return (controls[:, :3] + controls[:, 1:]) * (1 if constants is None else constants["gain"])


class Noted(Bench):
    """An instrument with a line of its own, a veto, and shared channels that are sent apart."""

    def __init__(self):
        super().__init__()
        self.events: list[Any] = []

    def open(self) -> None:
        self.events.append("open")

    def close(self) -> None:
        self.events.append("close")

    def identify(self) -> str:
        return "bench 1"

    def safe_state(self) -> None:
        self.events.append("safe")

    def check_controls(self, batch: ControlBatch) -> None:
        if np.asarray(batch)[:, 1].max(initial=0) > 0.9:
            raise ControlBoundsError("too much in channel 1")

    def set_shared(self, batch: ControlBatch) -> None:
        self.events.append(np.array(batch.shared))


def settings_of(n_rows: int, dtype: Any = np.float64, seed: int = 0) -> np.ndarray:
    uniform = np.random.default_rng(seed).random((n_rows, 4))
    return np.clip(LOW + uniform * (HIGH - LOW), np.nextafter(LOW, 9), np.nextafter(HIGH, -9)).astype(dtype)


def in_parts(controls: np.ndarray, keys: bool = False) -> ControlBatch:
    batch = ControlBatch(controls[:, [3, 1]], np.array([3, 1]), controls[0, [0, 2]], np.array([0, 2]))
    return batch.named(np.arange(len(controls), dtype=np.uint64)) if keys else batch


def bench(n_channels: int = 1) -> IdentityDevice:
    """Outputs are the controls, from 0 to 1."""
    return IdentityDevice(n_channels, n_channels, bounds=[[0.0, 1.0]] * n_channels)


def wrapped(classes: list[type], device: Any, seed: int = 0, size: float = 0.1) -> Any:
    """The classes around a device, the first one outermost, all of them with an effect on controls and outputs."""
    parameters: dict[type, dict[str, Any]] = {
        Drifting: {
            "common": size, "independent": size, "misalignment": size, "misalignment_at": 5, "interval": 4,
            "random_state": seed,
        },
        Quantized: {"control_bits": 5, "output_bits": 12, "adc_range": (-20, 20)},
        Noisy: {"noise": size, "noise_floor": size, "control_noise": size, "random_state": seed},
    }  # fmt: skip
    for cls in reversed(classes):
        device = cls(device, **parameters[cls])
    return device


# ---- composing ----


@given(
    st.lists(st.sampled_from(WRAPPERS), max_size=4),
    st.sampled_from([np.float32, np.float64]),
    st.booleans(),
    st.integers(0, 9),
    st.sampled_from([0.01, 3.0]),
    st.sampled_from([None, 0.1, (0.0, 0.25, 0.0, 1.0)]),
)
@settings(max_examples=40)
def test_in_any_order_what_arrives_is_legal_and_what_returns_has_its_shape(
    classes: list[type], dtype: Any, shared: bool, n_rows: int, size: float, steps: Any
) -> None:
    device = wrapped(classes, Bench(steps), size=size)
    controls = settings_of(max(n_rows, 1), np.float64)
    if steps is not None:
        step = np.broadcast_to(steps, 4)
        grid = np.where(step > 0, step, 1)
        controls = np.where(step > 0, LOW + (controls - LOW) // grid * grid, controls)
    low, high = (end.astype(dtype) for end in BOUNDS.T)
    inner = (
        np.where(low < LOW, np.nextafter(low, dtype(9)), low),
        np.where(high > HIGH, np.nextafter(high, dtype(-9)), high),
    )
    controls = np.clip(controls.astype(dtype), *inner)
    batch = in_parts(controls) if shared else ControlBatch.from_dense(controls)
    batch = batch.rows(slice(0, n_rows)).read_only()
    for _ in range(3):
        outputs = device.measure(batch)
        assert outputs.shape == (n_rows, 3)
        assert outputs.dtype == dtype
        assert np.isfinite(outputs).all()
    assert hasattr(device, "forward")
    check_device_specification(device)
    for name in ("n_controls", "n_outputs", "control_units", "output_units", "max_batch", "seconds_per_shot",
                 "joules_per_shot", "address", "max_change", "output_range", "on_bad_output", "max_retries"):  # fmt: skip
        assert getattr(device, name) == getattr(Bench(), name)


@pytest.mark.parametrize("cls", [DeviceWrapper, *WRAPPERS])
def test_a_wrapper_is_a_specification(cls: type) -> None:
    device = cls(Quantized(SecondHarmonicLaser(6, 4, noise=0.5), control_bits=3))
    assert device.get_params()["device__device__noise"] == 0.5
    device.set_params(device__device__noise=0.1, device__control_bits=4)
    copies = clone(device), pickle.loads(pickle.dumps(device))
    for copy in copies:
        assert copy.device is not device.device
        assert copy.device.device.noise == 0.1
        assert copy.device.control_bits == 4
    assert device_name(device) == f"{cls.__name__}(Quantized(SecondHarmonicLaser))"
    assert estimator_html_repr(device)
    assert estimator_html_repr(cls(None))


def test_nothing_is_opened_until_it_is_used_and_everything_is_handed_on() -> None:
    inner = Noted()
    device = Drifting(Quantized(Noisy(inner)), common=0.0)
    for use in (clone, pickle.dumps, repr, estimator_html_repr, check_device_specification, Session):
        use(device)
    assert inner.events == []
    with Session(device) as session:
        session.measure(in_parts(np.clip(settings_of(3), None, [0.3, 0.5, 5.7, 0.0])))
    assert inner.events[0] == "open"
    assert inner.events[-2:] == ["safe", "close"]
    assert device.identify() == "bench 1"
    with pytest.raises(ControlBoundsError, match="too much in channel 1"):
        Session(device).measure(np.tile([0.1, 0.95, 5.5, -1.0], (2, 1)))
    DeviceWrapper(IdentityDevice(1, 1, [[0, 1]])).open()


@pytest.mark.parametrize("cls", [DeviceWrapper, *WRAPPERS])
@pytest.mark.parametrize("nothing", [None, "scope", SecondHarmonicLaser, 3])
def test_what_is_no_device_cannot_be_wrapped(cls: type, nothing: Any) -> None:
    device = cls(nothing)  # nothing is looked at
    assert not hasattr(device, "forward")
    for use in (check_device_specification, Session, PhysicalNetworkClassifier(device).fit, lambda d: d.measure([[0]])):
        with pytest.raises(DeviceContractError, match=r"'device' must be (a skpat\.Device|an object, not a class)"):
            use(device) if use.__name__ != "fit" else use([[0.0]] * 6, [0, 1] * 3)


def test_what_is_half_a_device_is_told_what_it_lacks() -> None:
    class Half:
        n_controls = 2

        def measure(self, batch: Any) -> Any: ...

    with pytest.raises(DeviceContractError, match=r"The device Noisy\(Half\) must define n_outputs, bounds"):
        check_device_specification(Noisy(Half()))


def test_forward_exists_exactly_if_the_wrapped_device_has_one() -> None:
    class Blind(Device):
        n_controls, n_outputs, bounds = 1, 1, (0, 1)

    class InParts(Bench):
        def forward_batch(self, batch: ControlBatch, constants: Any = None) -> torch.Tensor:
            return self.forward(batch.dense(), constants)

    controls = torch.from_numpy(settings_of(5)).requires_grad_()
    batch = in_parts(settings_of(5))
    tensors = ControlBatch(
        torch.tensor(batch.varying), batch.varying_index, torch.tensor(batch.shared), batch.shared_index
    )
    for cls in (DeviceWrapper, *WRAPPERS):
        assert not hasattr(cls(Quantized(Blind())), "forward")
        assert not hasattr(cls(Bench()), "forward_batch")
        device = wrapped([Drifting, Noisy], cls(InParts()))
        assert torch.equal(device.forward(controls), Bench().forward(controls))  # without drift and noise
        assert torch.equal(device.forward(controls, {"gain": 3.0}), Bench().forward(controls, {"gain": 3.0}))
        assert torch.equal(device.forward_batch(tensors), Bench().forward(tensors.dense()))


def test_what_a_driver_answers_wrongly_reaches_the_session() -> None:
    class Wrong(Device):
        n_controls, n_outputs, bounds, max_retries = 2, 2, (0, 1), 0

        def measure(self, batch: ControlBatch) -> np.ndarray:
            return np.zeros((batch.n_rows, 7))

    batch = ControlBatch(np.zeros((9, 1)), np.array([0]), np.zeros(1), np.array([1]))
    for device in (wrapped(WRAPPERS, Wrong()), wrapped([Drifting], Wrong())):
        with pytest.raises(DeviceOutputError, match=r"= \(9, 2\)\. Got \(\d, 7\)"):
            Session(device).measure(batch)


def test_counts_become_floats() -> None:
    class Counts(Device):
        n_controls, n_outputs, bounds = 1, 1, (0, 1)

        def measure(self, batch: ControlBatch) -> np.ndarray:
            return np.full((batch.n_rows, 1), 7)

    outputs = wrapped(WRAPPERS, Counts()).measure(np.zeros((3, 1)))
    assert outputs.dtype == np.float64
    assert len(np.unique(outputs)) == 3


# ---- drift ----


def test_the_drift_grows_with_the_square_root_of_the_number_of_rows() -> None:
    device = Drifting(bench(4000), common=0.0, independent=0.02, random_state=0)
    clock = [0, 100, 500, 1000, 4000]
    drift = device.drift(clock)
    assert (drift[0] == 0).all()
    expected = 0.02 * np.sqrt(np.array(clock[1:]) / 1000)
    np.testing.assert_allclose(drift[1:].std(axis=1), expected, rtol=0.05)
    np.testing.assert_allclose(drift[1:].mean(axis=1) / expected, 0, atol=0.06)
    increments = np.diff(device.drift(np.arange(0, 1001, 100)), axis=0)
    correlation = np.corrcoef(increments)[np.triu_indices(10, 1)]
    assert abs(correlation).max() < 0.07  # a random walk: what comes does not depend on what was
    between = device.drift([150])
    np.testing.assert_allclose(between, device.drift([100, 200]).mean(axis=0, keepdims=True))


def test_common_drift_is_that_of_all_channels_and_has_its_size() -> None:
    after = [Drifting(bench(3), common=0.03, random_state=seed).drift([1000])[0] for seed in range(400)]
    assert (np.ptp(after, axis=1) == 0).all()
    assert abs(np.std(after) / 0.03 - 1) < 0.1
    drift = Drifting(bench(2), common=0.0, independent=0.03, random_state=0).drift(np.arange(0, 200_000, 100))
    steps = np.diff(drift, axis=0)
    assert abs(np.corrcoef(steps.T)[0, 1]) < 0.07


def test_the_drift_is_a_fraction_of_the_range_and_stops_at_the_bounds() -> None:
    class Wide(IdentityDevice):
        pass

    inner = Wide(2, 2, bounds=[[0.0, 10.0], [-1.0, 0.0]])
    device = Drifting(inner, common=0.02, random_state=1)
    middle = np.tile([5.0, -0.5], (2000, 1))
    moved = device.measure(middle) - middle
    np.testing.assert_allclose(moved / [10.0, 1.0], device.drift(np.arange(2000)), atol=1e-12)
    assert np.ptp(moved[100:200, 0]) > 0  # from row to row
    ends = Drifting(inner, common=1.0, random_state=1).measure(middle)
    assert {ends[:, 0].min(), ends[:, 0].max()} & {0.0, 10.0}


def test_gains_drift_too() -> None:
    inner = IdentityDevice(2, 2, bounds=[[-1, 1]] * 2)
    asked = np.tile([0.5, -0.25], (300, 1))
    for on in ("control_gains", "outputs"):
        device = Drifting(inner, common=0.1, independent=0.1, on=on, random_state=0)
        drift = device.drift(np.arange(300))
        np.testing.assert_allclose(device.measure(asked), asked * (1 + drift))
        assert not np.allclose(drift[-1, 0], drift[-1, 1])


@pytest.mark.parametrize("in_two", [False, True])
def test_a_misalignment_comes_at_once_and_stays(in_two: bool) -> None:
    n = 500
    device = Drifting(bench(n), common=0.0, misalignment=0.05, misalignment_at=37, random_state=0)
    asked = np.full((60, n), 0.5)
    batch: Any = asked
    if in_two:
        batch = ControlBatch(asked[:, :200], np.arange(200), asked[0, 200:], np.arange(200, n))
    moved = device.measure(batch) - asked
    assert (moved[:37] == 0).all()
    assert (moved[37:] == moved[37]).all()
    assert abs(moved[37].std() / 0.05 - 1) < 0.1
    assert abs(moved[37, :200].std() / 0.05 - 1) < 0.15


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=5),
    st.booleans(),
    st.sampled_from(["controls", "control_gains", "outputs"]),
    st.integers(0, 500),
    st.sampled_from([[Drifting], [Quantized, Drifting], [Drifting, Drifting], [Drifting, Noisy, Drifting]]),
)
@settings(max_examples=20)
def test_the_same_clock_gives_the_same_answer_however_the_rows_are_divided(
    sizes: list[int], shared: bool, on: str, start: int, classes: list[type]
) -> None:
    n_rows = sum(sizes)
    controls = settings_of(n_rows)
    batch = in_parts(controls, keys=True) if shared else ControlBatch.from_dense(controls)
    batch = batch.named(np.arange(n_rows, dtype=np.uint64))

    def device() -> Any:
        return wrapped(classes, Bench()).set_params(on=on) if classes[0] is Drifting else wrapped(classes, Bench())

    whole = device().measure(batch.started_at(start))
    other, row, parts = device(), 0, []
    for size in sizes:
        parts.append(other.measure(batch.rows(slice(row, row + size)).started_at(start + row)))
        row += size
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    np.testing.assert_array_equal(other.measure(batch.started_at(start)), whole)  # the clock set back
    again = pickle.loads(pickle.dumps(other)).measure(batch.started_at(start))
    np.testing.assert_array_equal(again, whole)


def test_a_device_on_its_own_counts_its_rows() -> None:
    one, other = (Drifting(Bench(), random_state=0) for _ in range(2))
    controls = settings_of(300)
    parts = [one.measure(controls[:120]), one.measure(controls[120:])]
    np.testing.assert_array_equal(np.concatenate(parts), other.measure(controls))
    assert not np.array_equal(other.measure(controls), np.concatenate(parts))
    nested = Drifting(Drifting(Bench(), random_state=0), random_state=1)
    nested.measure(controls)
    (seen,) = nested.device.device.calls
    np.testing.assert_array_equal(seen.clock, np.arange(300))


def test_a_session_tells_the_time() -> None:
    device = Drifting(Bench(), common=0.05, random_state=0)
    controls = np.clip(settings_of(130), None, 5.4)
    session = Session(device)
    first, second = session.measure(controls[:60]), session.measure(controls[60:])  # the latter in pieces of 50 rows
    expected = clone(device).measure(ControlBatch.from_dense(controls).started_at(0))
    np.testing.assert_array_equal(np.concatenate([first, second]), expected)


def test_names_arrive_intact_and_shared_channels_stay_shared() -> None:
    inner = Bench()
    device = wrapped([Drifting, Noisy, Quantized], inner)
    batch = in_parts(settings_of(3), keys=True).named_shot(7).started_at(40)
    device.measure(batch)
    (seen,) = inner.calls
    np.testing.assert_array_equal(seen.row_keys, batch.row_keys)
    np.testing.assert_array_equal(seen.clock, [40, 41, 42])
    assert seen.shot == 7
    np.testing.assert_array_equal(seen.shared_index, [0, 2])
    assert seen.shared.shape == (2,)
    assert not np.allclose(seen.shared, batch.shared, rtol=1e-3)


def test_a_million_shared_channels_are_not_copied_for_each_row() -> None:
    class Couplings(Device):
        n_controls, n_outputs = 1_000_000, 1

        @property
        def bounds(self) -> np.ndarray:
            return np.broadcast_to([-1.0, 1.0], (self.n_controls, 2))

        def measure(self, batch: ControlBatch) -> np.ndarray:
            assert batch.shared.size + batch.varying.size < 1_001_000
            return batch.varying[:, :1]

    batch = ControlBatch(np.zeros((100, 5)), np.arange(5), np.zeros(999_995), np.arange(5, 1_000_000))
    device = Drifting(Noisy(Couplings(), control_noise=0.1, random_state=0), independent=0.01, random_state=0)
    assert device.measure(batch).shape == (100, 1)  # the dense array would have 800 MB


def test_shared_channels_that_are_sent_apart_follow_the_drift() -> None:
    inner = Noted()
    device = Drifting(Quantized(inner, control_bits=16), independent=0.02, common=0.0, random_state=0)
    controls = np.tile([0.15, 0.0, 5.3, -2.0], (30, 1))
    batch = in_parts(device.device.legal(controls, np.arange(4), controls))
    with Session(device) as session:
        for _ in range(10):
            session.measure(batch)
    sent = [event for event in inner.events if not isinstance(event, str)]
    assert len(sent) == 3  # at rows 0, 100 and 200
    np.testing.assert_allclose(sent[0], [0.15, 5.3], atol=1e-4)
    expected = np.array([0.15, 5.3]) + device.drift([0, 100, 200])[:, [0, 2]] * [0.3, 0.7]
    np.testing.assert_allclose(sent, expected, atol=1e-4)
    received = [np.asarray(call)[0] for call in inner.calls]
    assert all(any((row[[0, 2]] == value).all() for value in sent) for row in received)
    assert len(pickle.loads(pickle.dumps(device)).device.device.events) == len(inner.events)


def test_what_drifts_beyond_a_veto_stops_the_measurement() -> None:
    device = Drifting(Noted(), common=0.0, misalignment=3.0, misalignment_at=0, random_state=2)
    assert device.drift([0])[0, 1] > 0
    with pytest.raises(ControlBoundsError, match="too much in channel 1"):
        Session(device).measure(np.tile([0.1, 0.85, 5.5, -1.0], (2, 1)))
    assert device.device.calls == []


def test_without_a_seed_every_object_has_a_drift_of_its_own() -> None:
    device = Drifting(bench(1), common=0.1)
    path = device.drift([1000])
    assert (device.drift([1000]) == path).all()
    assert (pickle.loads(pickle.dumps(device)).drift([1000]) == path).all()
    assert (clone(device).drift([1000]) != path).all()
    two = Drifting(Drifting(bench(1), random_state=0), random_state=0)
    assert two.drift([1000]) != two.device.drift([1000])


def test_a_long_walk_is_the_same_from_any_point() -> None:
    far = np.array([1_000_000, 1_000_050])
    steps, at_once = (Drifting(bench(40), independent=0.01, random_state=0) for _ in range(2))
    for clock in range(0, 1_000_000, 50_000):
        steps.drift([clock])
    np.testing.assert_array_equal(steps.drift(far), at_once.drift(far))
    np.testing.assert_array_equal(
        steps.drift([100]), Drifting(bench(40), independent=0.01, random_state=0).drift([100])
    )


# ---- quantisation ----


@pytest.mark.parametrize("bits", [1, 2, 5, 8])
def test_a_converter_has_its_levels_and_reaches_both_ends(bits: int) -> None:
    device = Quantized(bench(), control_bits=bits)
    outputs = device.measure(np.linspace(0, 1, 5001)[:, None])
    assert len(np.unique(outputs.round(9))) == 2**bits
    assert (outputs.min(), outputs.max()) == (0, 1)
    device = Quantized(bench(), output_bits=bits, adc_range=(0.25, 0.5))
    outputs = device.measure(np.linspace(0, 1, 5001)[:, None])
    assert len(np.unique(outputs.round(9))) == 2**bits
    assert (outputs.min(), outputs.max()) == (0.25, 0.5)


@given(
    st.integers(1, 32),
    st.sampled_from([np.float32, np.float64]),
    st.floats(-1e3, 1e3),
    st.floats(1e-3, 1e3),
    st.integers(0, 2**32 - 1),
)
def test_rounding_is_idempotent_monotone_and_no_further_than_half_a_step(
    bits: int, dtype: Any, low: float, width: float, seed: int
) -> None:
    inner = IdentityDevice(1, 1, bounds=[[low, low + width]])
    device = Quantized(inner, control_bits=bits, output_bits=bits, adc_range=(low, low + width))
    values = np.sort(np.random.default_rng(seed).uniform(low - width, low + 2 * width, 50))[:, None].astype(dtype)
    once = device.measure(values)
    assert once.dtype == dtype
    rounding = 4 * np.finfo(dtype).eps * max(abs(low), abs(low + width))
    np.testing.assert_allclose(device.measure(once), once, rtol=0, atol=rounding)
    assert (np.diff(once[:, 0]) >= 0).all()
    inside = np.clip(values, low, low + width)
    assert np.abs(once - inside).max() <= 0.5 * width / (2**bits - 1) + rounding


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bits", [1, 4, 12, 16])
def test_a_session_takes_what_a_network_sends_to_a_converter(bits: int, dtype: Any) -> None:
    from skpat import ControlSplit
    from skpat.network.forward import Network

    device = Quantized(Bench(), control_bits=bits)
    split = ControlSplit().resolve(4)
    network = Network(
        split=split, bounds=BOUNDS, control_steps=device.control_steps, n_features=2, n_outputs=3, n_targets=2
    )
    controls = network.uniform_on_device(np.random.default_rng(0).random((40, 4)).astype(dtype))
    Session(device).measure(controls)
    received = np.asarray(device.device.calls[0])
    np.testing.assert_allclose(received, controls, rtol=0, atol=8 * np.finfo(dtype).eps)
    if bits == 4:
        with pytest.raises(
            ControlBoundsError, match=r"passed to Quantized\(Bench\)\.measure must be whole steps above"
        ):
            Session(device).measure(settings_of(2))


def test_a_converter_in_front_of_steps_has_steps_that_are_legal_for_both() -> None:
    device = Quantized(Bench((0.0, 0.25, 0.1, 0.0)), control_bits=2)
    np.testing.assert_allclose(device.control_steps, [0.1, 0.75, 0.3, 1.0])
    device.measure(settings_of(50))  # the bench checks
    fine = Quantized(Bench((0.0, 0.25, 0.1, 0.0)), control_bits=12)
    np.testing.assert_allclose(fine.control_steps[1:3], [0.25, 0.1])
    assert Quantized(Bench(0.1)).control_steps == 0.1


def test_a_converter_saturates_silently_and_hides_no_fault() -> None:
    class Broken(IdentityDevice):
        max_retries = 0

        def measure(self, batch: Any) -> np.ndarray:
            return np.where(np.asarray(batch) == 0.5, np.inf, np.asarray(batch) * 10)

    device = Quantized(Broken(2, 2, [[0, 1]] * 2), adc_range=[[0, 2], [1, 3]])
    assert device.output_range is None
    np.testing.assert_array_equal(Session(device).measure([[0.9, 0.9], [0.1, 0.0]]), [[2, 3], [1, 1]])
    with pytest.raises(DeviceOutputError, match="Got inf"):
        Session(device.set_params(output_bits=4)).measure([[0.5, 0.9]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_go_straight_through_converters_and_not_through_their_ends(dtype: torch.dtype) -> None:
    inner = IdentityDevice(5, 5, bounds=[[-1, 1]] * 5)
    device = Quantized(inner, control_bits=4, output_bits=3, adc_range=(-0.5, 0.5))
    controls = torch.tensor([[-2.0, -0.7, -0.3, 0.2, 1.5]], dtype=dtype, requires_grad=True)
    outputs = device.forward(controls)
    assert outputs.dtype == dtype
    np.testing.assert_array_equal(outputs.detach().numpy(), device.measure(controls.detach().numpy()))
    outputs.sum().backward()
    assert controls.grad.tolist() == [[0, 0, 1, 1, 0]]
    controls.grad = None
    device.set_params(adc_range=(-9, 9)).forward(controls).sum().backward()
    assert controls.grad.tolist() == [[0, 1, 1, 1, 0]]


# ---- noise ----


def test_noise_has_its_size() -> None:
    asked = np.full((20_000, 2), 0.5)
    outputs = Noisy(bench(2), noise=0.1, noise_floor=0.2, random_state=0).measure(asked)
    np.testing.assert_allclose(outputs.std(axis=0), np.hypot(0.05, 0.2), rtol=0.03)
    np.testing.assert_allclose(outputs.mean(axis=0), 0.5, atol=0.006)
    assert abs(np.corrcoef(outputs.T)[0, 1]) < 0.03
    outputs = Noisy(bench(2), control_noise=0.03, random_state=0).measure(asked)
    np.testing.assert_allclose(outputs.std(axis=0), 0.03, rtol=0.03)
    assert abs(np.corrcoef(outputs.T)[0, 1]) < 0.03


def test_noise_is_a_function_of_row_and_shot() -> None:
    device = wrapped([Noisy], Bench())
    batch = in_parts(settings_of(9), keys=True)
    whole = device.measure(batch)
    np.testing.assert_array_equal(device.measure(batch.rows(slice(3, 5))), whole[3:5])
    assert not np.isclose(device.measure(batch.named_shot(1)), whole).any()
    unnamed = in_parts(settings_of(9))
    assert not np.isclose(device.measure(unnamed), device.measure(unnamed)).any()
    np.testing.assert_array_equal(clone(device).measure(unnamed), clone(device).measure(unnamed))
    fresh = Noisy(Bench(), noise=0.1)
    assert not np.isclose(fresh.measure(batch), fresh.measure(batch)).any()


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("seeds", [(0, 0), (0, 1)])
def test_noises_are_independent_of_each_other(named: bool, seeds: tuple[int, int]) -> None:
    class OwnNoise(IdentityDevice):
        random_state = seeds[1]

        def measure(self, batch: Any) -> np.ndarray:
            batch = ControlBatch.from_dense(batch)
            return self.standard_normal(batch, 2)

    batch = ControlBatch.from_dense(np.zeros((4000, 2)))
    batch = batch.named(np.arange(4000, dtype=np.uint64)) if named else batch
    own = OwnNoise(2, 2, [[0, 1]] * 2)
    inner = Noisy(bench(2), noise_floor=1.0, random_state=seeds[0])
    outer = Noisy(inner, noise_floor=1.0, random_state=seeds[1])
    a, b, both = own.measure(batch), inner.measure(batch), clone(outer).measure(batch)
    of_outer = both - clone(inner).measure(batch)  # what the outer one adds
    for one, other in pairwise([a, b, of_outer, a]):
        assert abs(np.corrcoef(one.T, other.T)[:2, 2:]).max() < 0.06
    np.testing.assert_allclose(both.std(), np.sqrt(2), rtol=0.03)


# ---- wrong parameters ----


@pytest.mark.parametrize(
    ("device", "message"),
    [
        (Drifting(Bench(), common=-1), r"'common' of Drifting must be a finite float of at least 0.*Got -1\. Use 0\.01"),
        (Drifting(Bench(), independent="1"), r"'independent' of Drifting must be .* Got '1'"),
        (Drifting(Bench(), misalignment=np.inf), r"'misalignment' of Drifting must be .* Got inf"),
        (Drifting(Bench(), on="phase"), r"'on' of Drifting must be one of 'controls', .*Got 'phase'"),
        (Drifting(Bench(), interval=0), r"'interval' of Drifting must be an int of at least 1.* Got 0\. Use interval=100"),
        (Drifting(Bench(), misalignment_at=-1), r"'misalignment_at' of Drifting must be an int .* Got -1"),
        (Drifting(Bench(), misalignment=0.1), r"must be given where 'misalignment' is above 0\. Got None\. Use misal"),
        (Quantized(Bench(), control_bits=0), r"'control_bits' of Quantized must be an int from 1 to 32, or None\. Got 0"),
        (Quantized(Bench(), output_bits=33, adc_range=(0, 1)), r"'output_bits' of Quantized must be .* Got 33"),
        (Quantized(Bench(), control_bits=True), r"'control_bits' of Quantized must be .* Got True"),
        (Quantized(Bench(), output_bits=8), r"'adc_range' of Quantized must be given .* Got None\. Use adc_range=\(low"),
        (Quantized(Bench(), adc_range=(1, 0)), r"'adc_range' of Quantized must be \(low, high\).*\(3, 2\).*Got \(1, 0\)"),
        (Quantized(Bench(), adc_range="5 V"), r"'adc_range' of Quantized must be .* Got '5 V'"),
        (Noisy(Bench(), noise=-0.1), r"'noise' of Noisy must be a finite float of at least 0\. Got -0\.1\. Use 0\.02"),
        (Noisy(Bench(), noise_floor=None), r"'noise_floor' of Noisy must be .* in output units\. Got None"),
        (Noisy(Bench(), control_noise=np.nan), r"'control_noise' of Noisy must be .* Got nan"),
    ],
)  # fmt: skip
def test_wrong_parameters_are_named_before_anything_is_sent(device: Any, message: str) -> None:
    controls = settings_of(2)
    for use in (
        device.measure,
        lambda c: device.forward(torch.from_numpy(c)),
        lambda c: Session(DeviceWrapper(device)).measure(c),
    ):
        with pytest.raises(ValueError, match=message):
            use(controls)
    assert device.device.calls == []


# ---- in estimators ----

LASER = SecondHarmonicLaser(16, 8, n_steps=3)


def data(n_rows: int = 40) -> tuple[np.ndarray, np.ndarray]:
    X = np.random.RandomState(0).uniform(-1, 1, (n_rows, 3))
    return X, X[:, 0] > X[:, 1]


def fitted(device: Any, **params: Any) -> PhysicalNetworkClassifier:
    twin = NeuralTwin((8,), max_iter=5, n_refine_steps=1)
    defaults = {"twin": twin, "max_iter": 2, "n_calibration_shots": 40, "random_state": 0, "batch_size": 16}
    return PhysicalNetworkClassifier(device, **(defaults | params)).fit(*data())


def same_weights(one: Any, other: Any) -> bool:
    return all((one.weights_[name] == other.weights_[name]).all() for name in one.weights_)


def test_an_estimator_seeds_every_wrapper_and_predicts_the_same_in_any_company() -> None:
    network = fitted(Noisy(Noisy(LASER, noise=0.1), control_noise=0.01))
    params = network.device_.get_params()
    seeds = [params[f"{'device__' * depth}random_state"] for depth in range(3)]
    assert None not in seeds
    assert len(set(seeds)) == 3
    X = data()[0]
    scores = network.decision_function(X)
    np.testing.assert_allclose(network.decision_function(X[5:7]), scores[5:7], rtol=1e-9)
    assert same_weights(network, fitted(Noisy(Noisy(LASER, noise=0.1), control_noise=0.01)))


@pytest.mark.parametrize("gradient", ["physics_aware", "exact"])
def test_a_network_learns_through_all_of_them(gradient: str) -> None:
    device = Quantized(Drifting(Noisy(LASER, noise=0.02)), control_bits=8, output_bits=12, adc_range=(0, 20))
    network = fitted(device, gradient=gradient, max_iter=16, learning_rate_init=0.03, n_calibration_shots=100)
    assert network.score(*data()) > 0.8


def test_a_search_reaches_the_parameters_of_every_depth() -> None:
    network = PhysicalNetworkClassifier(
        Drifting(Quantized(LASER)), gradient="exact", max_iter=1, batch_size=40, random_state=0
    )
    grid = {
        "device__common": [0.0, 0.05],
        "device__device__control_bits": [4],
        "device__device__device__noise": [0.0, 0.3],
    }
    search = GridSearchCV(network, grid, cv=2).fit(*data())
    assert search.best_estimator_.device_.device.control_bits == 4
    assert len(search.cv_results_["params"]) == 4


def test_a_wrapped_device_is_the_same_one_with_other_seeds_and_costs(tmp_path: Path) -> None:
    def device(seed: int, **params: Any) -> Any:
        laser = SecondHarmonicLaser(16, 8, n_steps=3, random_state=seed)
        return Drifting(Noisy(laser, noise=0.1, random_state=seed), random_state=seed).set_params(**params)

    assert device_fingerprint(device(0)) == device_fingerprint(device(1))
    assert device_fingerprint(device(0)) != device_fingerprint(device(0).device)
    for params in ({"common": 0.3}, {"device__noise": 0.3}, {"device__device__coupling": 9.0}, {"device": LASER}):
        assert device_fingerprint(device(0, **params)) != device_fingerprint(device(0))
    path = tmp_path / "run.db"
    first = fitted(device(0), journal=path, max_iter=1)
    second = fitted(device(1), journal=path, max_iter=1)  # another run of the same device
    assert first.ledger_.total == second.ledger_.total > 0
    with pytest.raises(JournalError, match="which differs in device"):
        fitted(device(0, device__noise=0.2), journal=path)


def test_a_run_that_drifts_is_replayed_and_taken_up_again(tmp_path: Path) -> None:
    calls, interrupted_at = [0], [-1]

    class Interrupted(SecondHarmonicLaser):
        def measure(self, batch: Any) -> Any:
            calls[0] += 1
            if calls[0] == interrupted_at[0]:
                raise KeyboardInterrupt
            return super().measure(batch)

    def go(journal: Any) -> PhysicalNetworkClassifier:
        drift = {"independent": 0.1, "misalignment": 0.1, "misalignment_at": 90, "interval": 10}
        return fitted(Drifting(Noisy(Interrupted(16, 8, n_steps=3), noise=0.1), **drift), journal=journal, max_iter=3)

    path = tmp_path / "run.db"
    bare = go(None)
    interrupted_at[0] = calls[0] + int(0.7 * calls[0])
    with pytest.warns(UserWarning, match="interrupted in epoch"):
        broken = go(path)
    again, replayed = go(path), go(path)
    assert not same_weights(broken, bare)
    assert same_weights(again, bare)
    assert 0 < again.ledger_.total < bare.ledger_.total
    assert same_weights(replayed, bare)
    assert replayed.ledger_.total == 0
