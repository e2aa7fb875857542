"""PhysicsTwin: constants found from wrong ones, and a twin like any other."""

from __future__ import annotations

import pickle
import tracemalloc
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from skpat import ControlBatch, ControlSplit, PhysicalNetworkClassifier, as_device
from skpat.devices import CoupledOscillators, SecondHarmonicLaser, SimulatedDevice
from skpat.exceptions import TwinError
from skpat.twins import PhysicsTwin, physics_module
from skpat.twins.base import hold_out

N, M = 10, 6


def laser(**parameters: Any) -> SecondHarmonicLaser:
    return SecondHarmonicLaser(N, M, **parameters)


def shots(device: Any, n_rows: int = 80, dtype: Any = np.float64) -> tuple[np.ndarray, np.ndarray]:
    controls = np.random.default_rng(0).uniform(size=(n_rows, N)).astype(dtype)
    return controls, device.measure(controls)


@given(coupling=st.floats(18, 32), walk_off=st.floats(120, 280))
@settings(max_examples=5)
def test_finds_the_constants_from_wrong_ones(coupling: float, walk_off: float) -> None:
    quiet = {"noise": 0, "noise_floor": 0, "energy_jitter": 0}
    real = laser(coupling=coupling, walk_off=walk_off, **quiet)
    twin = PhysicsTwin(laser(), ["coupling", "walk_off"], random_state=0)
    twin.fit(*shots(real))
    assert abs(twin.constants_["coupling"] / coupling - 1) < 0.01
    assert abs(twin.constants_["walk_off"] / walk_off - 1) < 0.05
    assert twin.score_ > 0.999


@pytest.mark.parametrize("start", [1e-12, 1e-6, 1e-3])
def test_a_constant_that_starts_near_0_is_found(start: float) -> None:
    real, believed = (CoupledOscillators(6, 4, nonlinearity_error=e, noise=0, input_noise=0) for e in (0.3, start))
    low, high = real.bounds.T
    controls = np.random.default_rng(0).uniform(low, high, (80, real.n_controls))
    twin = PhysicsTwin(believed, ["nonlinearity_error"], random_state=0).fit(controls, real.measure(controls))
    assert twin.constants_["nonlinearity_error"] == pytest.approx(0.3, rel=1e-3)
    assert pickle.loads(pickle.dumps(twin)).constants_ == twin.constants_


class Amplifiers(SecondHarmonicLaser):
    """With a gain error for each output."""

    gain_errors: Any = 0.0

    def forward(self, controls: Any, constants: Any = None) -> Any:
        constants = dict(constants or {})
        errors = constants.pop("gain_errors", self.gain_errors)
        return super().forward(controls, constants) * (1 + errors)


def test_entries_of_an_array_that_all_start_near_0_are_found() -> None:
    believed, found = Amplifiers(N, M), np.linspace(-0.3, 0.3, M)
    controls, outputs = shots(laser(noise=0, noise_floor=0, energy_jitter=0))
    with patch.object(Amplifiers, "gain_errors", np.full(M, 1e-9)):
        twin = PhysicsTwin(believed, ["gain_errors"], random_state=0).fit(controls, outputs * (1 + found))
    np.testing.assert_allclose(twin.constants_["gain_errors"], found, atol=0.01)


def test_constants_that_cannot_leave_where_they_start_are_told_of() -> None:
    with pytest.warns(
        UserWarning, match=r"Got coupling = 1.e-06, from where no step made SecondHarmonicLaser fit better"
    ):
        PhysicsTwin(laser(coupling=1e-6), ["coupling"], random_state=0).fit(*shots(laser(coupling=25.0)))


def test_beats_the_wrong_constants_with_noise_and_weights() -> None:
    real = laser(coupling=30.0, random_state=0)
    controls, outputs = shots(real)
    spoilt = np.concatenate([outputs, np.zeros_like(outputs)])
    weight = np.repeat([1.0, 0.0], len(outputs))
    twin = PhysicsTwin(laser(), ["coupling"], validation_fraction=0, random_state=0)
    twin.fit(np.concatenate([controls, controls]), spoilt, weight)
    assert abs(twin.constants_["coupling"] - 30) < 1
    assert np.isnan(twin.score_)
    without = PhysicsTwin(laser(), random_state=0).fit(controls, outputs)
    assert without.constants_ == {}
    assert without.score(controls, outputs) < twin.score(controls, outputs)


def test_every_output_counts_in_units_of_its_spread() -> None:
    class Gain(SimulatedDevice):
        """One output in volts, and one in millivolts."""

        n_controls, n_outputs, bounds = 2, 2, (0.0, 1.0)

        def __init__(self, gain: float = 1.0):
            self.gain = gain

        def forward(self, controls: Any, constants: Any = None) -> Any:
            return (constants or {}).get("gain", self.gain) * controls * controls.new_tensor([1.0, 1e3])

    controls = np.tile(np.linspace(0, 1, 50)[:, None], 2)
    outputs = controls * [3.0, 4e3]  # they do not agree on the gain
    twin = PhysicsTwin(Gain(), ["gain"], validation_fraction=0).fit(controls, outputs)
    least = (3 / 3**2 + 4 / 4**2) / (1 / 3**2 + 1 / 4**2)  # of ((g - 3) / 3)^2 + ((g - 4) / 4)^2
    assert twin.constants_["gain"] == pytest.approx(least, rel=1e-6)


def test_an_output_that_never_changes_says_nothing_about_the_constants() -> None:
    controls, outputs = shots(laser(coupling=30.0, noise=0, noise_floor=0, energy_jitter=0))
    outputs[:, 0] = 7.0
    twin = PhysicsTwin(laser(), ["coupling"], random_state=0).fit(controls, outputs)
    assert twin.constants_["coupling"] == pytest.approx(30.0, rel=1e-3)


def test_the_constants_owe_nothing_to_the_shots_that_judge_them() -> None:
    controls, outputs = shots(laser(coupling=30.0, random_state=0))
    twin = PhysicsTwin(laser(), ["coupling"], validation_fraction=0.25, random_state=0)
    _, held_out = hold_out(len(controls), 0.25, np.random.RandomState(0))
    spoilt = outputs.copy()
    spoilt[held_out] *= -1
    right, wrong = clone(twin).fit(controls, outputs), clone(twin).fit(controls, spoilt)
    assert wrong.constants_ == right.constants_
    assert wrong.score_ < 0 < right.score_


def test_what_becomes_of_the_model_does_not_touch_the_twin() -> None:
    controls, outputs = shots(laser(coupling=30.0, random_state=0))
    model = laser()
    twin = PhysicsTwin(model, ["coupling"], random_state=0).fit(controls, outputs)
    before = twin.predict(controls)
    model.set_params(length=0.4)
    np.testing.assert_array_equal(twin.predict(controls), before)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_module_is_differentiable_and_goes_on_learning(dtype: Any) -> None:
    controls, outputs = shots(laser(coupling=30.0, random_state=0), dtype=dtype)
    twin = PhysicsTwin(laser(), ["coupling"], max_iter=0).fit(controls, outputs)
    before = twin.constants_["coupling"]
    assert before == 25.0
    for _ in range(5):
        twin.partial_fit(controls, outputs)
    assert before < twin.constants_["coupling"] < 30
    assert twin.predict(controls).dtype == dtype
    np.testing.assert_allclose(
        twin.predict(ControlBatch.from_dense(controls)),
        laser(coupling=twin.constants_["coupling"], noise=0, noise_floor=0, energy_jitter=0).measure(controls),
        rtol=1e-4,
        atol=1e-5,
    )
    tensor = torch.from_numpy(controls[:2].astype(np.float64)).requires_grad_()
    twin.module_.double()
    assert torch.autograd.gradcheck(twin.module_, tensor, atol=1e-4)


def test_clone_and_pickle() -> None:
    controls, outputs = shots(laser(coupling=30.0, random_state=0))
    twin = PhysicsTwin(laser(), ["coupling"], max_iter=20, random_state=0).fit(controls, outputs)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(twin)).predict(controls), twin.predict(controls))
    again = clone(twin).fit(controls, outputs)
    assert again.constants_ == twin.constants_


class ByParts(SecondHarmonicLaser):
    """A laser that takes a batch, and says whether it was asked for an array of all controls."""

    asked: ClassVar[list[str]] = []

    def forward(self, controls: Any, constants: Any = None) -> Any:
        self.asked.append("array")
        return super().forward(controls, constants)

    def forward_batch(self, batch: Any, constants: Any = None) -> Any:
        self.asked.append("batch")
        return super().forward(batch.dense(), constants)


@pytest.mark.parametrize("gradient", ["exact", "physics_aware", "in_silico"])
def test_a_device_that_takes_batches_gets_them(gradient: str) -> None:
    X = np.random.default_rng(0).normal(size=(30, 4))
    y = (X[:, 0] > 0).astype(int)
    fits = []
    for device in (laser(random_state=0), ByParts(N, M, random_state=0)):
        twin = PhysicsTwin(clone(device), ["coupling"], max_iter=2, random_state=0)
        network = PhysicalNetworkClassifier(
            device, twin, gradient=gradient, max_iter=3, n_calibration_shots=40, random_state=0
        )
        ByParts.asked.clear()
        fits.append(network.fit(X, y))
    assert ByParts.asked[-1] == "batch"  # by then the twin has been calibrated, with arrays
    for name, value in fits[0].weights_.items():
        np.testing.assert_allclose(value, fits[1].weights_[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("device", "constants", "message"),
    [
        (None, [], "must be a simulated device with forward"),
        (as_device(np.sin, n_controls=N, n_outputs=M, bounds=(0, 1)), [], "Use NeuralTwin"),
        (
            laser(),
            ["colour"],
            "must name constants of SecondHarmonicLaser. Got colour. Use names that SecondHarmonicLaser.forward",
        ),
        (
            SecondHarmonicLaser(N, M + 1),
            [],
            r"must have the channels and outputs of the device, \(10, 6\). Got \(10, 7\)\. Give the model the device's sizes",
        ),
    ],
)
def test_refuses_what_is_no_model(device: Any, constants: list[str], message: str) -> None:
    with pytest.raises(TwinError, match=message):
        PhysicsTwin(device, constants).fit(*shots(laser()))


def test_constants_that_the_model_does_not_use_are_refused() -> None:
    class Deaf(SecondHarmonicLaser):
        def forward(self, controls: Any, constants: Any = None) -> Any:
            return super().forward(controls)

    with pytest.raises(
        TwinError, match=r"must be what Deaf\.forward.*Got coupling, chirp, and outputs that do not depend"
    ):
        PhysicsTwin(Deaf(N, M), ["coupling", "chirp"]).check(N, M)
    PhysicsTwin(Deaf(N, M)).check(N, M)


def test_a_constant_that_counts_at_some_settings_only_is_found() -> None:
    class Shutter(SimulatedDevice):
        n_controls, n_outputs, bounds = 3, 2, (0.0, 1.0)

        def __init__(self, gain: float = 2.0, random_state: Any = None):
            self.gain = gain
            self.random_state = random_state

        def forward(self, controls: Any, constants: Any = None) -> Any:
            gain, is_open = (constants or {"gain": self.gain})["gain"], controls[:, 2] > 0.8
            return (
                torch.where(is_open[:, None], gain * controls[:, :2], controls[:, :2])
                if is_open.any()
                else controls[:, :2]
            )

    controls = np.random.default_rng(0).uniform(size=(60, 3))
    twin = PhysicsTwin(Shutter(), ["gain"], random_state=0).fit(controls, Shutter(3.0).measure(controls))
    assert twin.constants_["gain"] == pytest.approx(3.0, rel=1e-3)


@pytest.mark.parametrize("constants", [[], ["coupling"]])
def test_a_model_that_takes_no_constants_is_refused_before_it_is_needed(constants: list[str]) -> None:
    class Old(SecondHarmonicLaser):
        def forward(self, controls: Any) -> Any:
            return super().forward(controls)

    with pytest.raises(TwinError, match=r"Old must have forward\(controls, constants=None\).*Add constants=None"):
        PhysicsTwin(Old(N, M), constants).check(N, M)


def test_a_fit_that_leaves_the_range_of_the_model_is_stopped() -> None:
    class Fragile(SecondHarmonicLaser):
        def forward(self, controls: Any, constants: Any = None) -> Any:
            return super().forward(controls, constants) / 0.0

    with pytest.raises(TwinError, match="must have a finite gradient"):
        PhysicsTwin(Fragile(N, M), ["coupling"]).fit(*shots(laser()))


class Limited(SecondHarmonicLaser):
    """A laser whose equations hold for some couplings only."""

    refused: tuple[float, ...] = ()

    def forward(self, controls: Any, constants: Any = None) -> Any:
        coupling = float(torch.as_tensor((constants or {}).get("coupling", self.coupling)).detach())
        if not 15.0 < coupling < 30.5:
            type(self).refused += (coupling,)
            raise ValueError("'coupling' must be between 15 and 30.5.")
        return super().forward(controls, constants)


def test_constants_that_the_model_refuses_are_a_step_too_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Limited, "refused", ())
    measured = shots(laser(coupling=30.0, noise=0, noise_floor=0, energy_jitter=0))
    twin = PhysicsTwin(Limited(N, M, coupling=16.0), ["coupling"], random_state=0).fit(*measured)
    assert Limited.refused  # or nothing was tested
    np.testing.assert_allclose(twin.constants_["coupling"], 30.0, rtol=0.01)
    with pytest.raises(ValueError, match="must be between 15 and"):
        PhysicsTwin(Limited(N, M, coupling=10.0), ["coupling"]).fit(*measured)


def test_a_step_too_far_is_worse_than_all_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    losses: list[float] = []

    def searched(loss_at: Any, start: np.ndarray, **how: Any) -> Any:
        for coupling in (16.0, 29.9, 40.0):  # far, near, and refused
            loss, gradient = loss_at(start + (coupling - 16.0) / 16.0, *how.get("args", ()))
            losses.append(loss)
        assert not gradient.any()
        return SimpleNamespace(x=start, nit=1)

    monkeypatch.setattr(physics_module, "minimize", searched)
    measured = shots(laser(coupling=30.0, noise=0, noise_floor=0, energy_jitter=0))
    PhysicsTwin(Limited(N, M, coupling=16.0), ["coupling"], random_state=0).fit(*measured)
    far, near, refused = losses
    assert refused > far > 100 * near  # whichever of them the line search came from


def test_a_training_never_steps_to_constants_that_the_model_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Limited, "refused", ())
    device = laser(coupling=40.0, noise=0, noise_floor=0, energy_jitter=0)  # out of the model's reach
    twin = PhysicsTwin(Limited(N, M, coupling=29.0), ["coupling"], learning_rate_init=0.01, random_state=0)
    X = np.random.default_rng(0).normal(size=(40, 4))
    network = PhysicalNetworkClassifier(
        device, twin, n_calibration_shots=0, batch_size=10, max_iter=10, n_iter_no_change=10, random_state=0
    )
    network.fit(X, X[:, 0] > 0)
    assert Limited.refused  # or nothing was tested
    assert 29.5 < network.twin_.constants_["coupling"] < 30.5


def test_a_thousand_oscillators_train_and_nothing_shared_is_copied() -> None:
    def oscillators(**parameters: Any) -> CoupledOscillators:
        return CoupledOscillators(1000, 10, max_coupling=2e-3, **parameters)

    device = oscillators(nonlinearity_error=0.1)
    twin = PhysicsTwin(oscillators(), ["nonlinearity_error"], learning_rate_init=0.02)
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(24, 6)).astype(np.float32), np.arange(24) % 2
    network = PhysicalNetworkClassifier(
        device, twin, control_split=ControlSplit(device.amplitude_index), encoder="direct", n_calibration_shots=0, max_iter=2,
        batch_size=12, random_state=0,
    )  # fmt: skip
    few = clone(network).set_params(device=CoupledOscillators(12, 3), twin=PhysicsTwin(CoupledOscillators(12, 3)))
    few.set_params(control_split=ControlSplit(CoupledOscillators(12, 3).amplitude_index[:6])).fit(X, y)
    tracemalloc.start()  # what is imported on the way has been
    network.fit(X, y)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert network.n_iter_ == 2
    assert network.twin_.constants_["nonlinearity_error"] > 0.02
    assert (
        peak < 120e6
    )  # numpy's part; one batch of 12 rows with copied couplings would be 24e6 each time it is touched


def test_a_model_that_is_no_estimator_will_do() -> None:
    class Plain:
        n_controls, n_outputs, bounds = 4, 2, (-1.0, 1.0)
        stiffness = 2.0

        def forward(self, controls: torch.Tensor, constants: Any = None) -> torch.Tensor:
            return (constants or {}).get("stiffness", self.stiffness) * torch.sin(controls[:, :2] + controls[:, 2:])

    controls = np.random.default_rng(0).uniform(-1, 1, (100, 4))
    model = Plain()
    twin = PhysicsTwin(model, ["stiffness"]).fit(controls, 2.5 * np.sin(controls[:, :2] + controls[:, 2:]))
    assert twin.constants_["stiffness"] == pytest.approx(2.5, rel=1e-3)
    assert model.stiffness == 2.0
