"""Wrappers hand on what they do not change, compose in any order, and never let anything illegal through."""

from __future__ import annotations

import pickle
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

from .wrapped_bench import BOUNDS, HIGH, LOW, WRAPPERS, Bench, Noted, in_parts, settings_of, wrapped

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
