"""What the loop does for a training method, or a twin, of one's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_iris
from sklearn.preprocessing import scale

from skpat import PhysicalNetworkClassifier
from skpat.devices import SecondHarmonicLaser
from skpat.exceptions import DeviceContractError, NoExactGradientError
from skpat.training import Apparatus, GradientEstimator, device_alone
from skpat.twins import PhysicsTwin
from skpat.twins.base import Twin, respond

X, Y = load_iris(return_X_y=True)
X = scale(X)


def network(gradient: Any, **how: Any) -> PhysicalNetworkClassifier:
    device = how.pop("device", SecondHarmonicLaser(8, 6, random_state=0))
    return PhysicalNetworkClassifier(device, gradient=gradient, **({"max_iter": 2, "random_state": 0} | how))


class Displaced(GradientEstimator):
    """Moves all weights far away, asks for the loss there, and comes back, unless an error keeps it there."""

    shots_per_row = 2

    def __init__(self, size: float = 3.0):
        self.size = size

    def loss_and_gradient(self, loss_of: Any, apparatus: Apparatus) -> Any:
        with torch.no_grad():
            for weight in apparatus.trainable.values():
                weight += self.size
            loss_of(device_alone(apparatus))
            self.ask_there()
            for weight in apparatus.trainable.values():
                weight -= self.size
        loss = loss_of(device_alone(apparatus))
        loss.backward()
        return loss

    def ask_there(self) -> None:
        """Nothing more."""


class Interrupted(Displaced):
    def ask_there(self) -> None:
        self._n_asked = getattr(self, "_n_asked", 0) + 1
        if self._n_asked == 3:
            raise KeyboardInterrupt


@settings(max_examples=10, deadline=None)
@given(st.integers(700, 1050))
def test_a_budget_that_ends_a_batch_leaves_no_weight_displaced(max_shots: int) -> None:
    fitted = network(Displaced(), max_shots=max_shots, max_iter=5, batch_size=50).fit(X, Y)
    assert fitted.ledger_.total <= max_shots
    for name in ("layers.0.theta", "readout.coef", "encoder.coef"):
        assert np.abs(fitted.weights_[name]).max() < 2.5


def test_a_ctrl_c_leaves_no_weight_displaced() -> None:
    with pytest.warns(UserWarning, match="interrupted in epoch 1"):
        fitted = network(Interrupted(), batch_size=50).fit(X, Y)
    assert np.abs(fitted.weights_["readout.coef"]).max() < 2.5


class OfBoth(GradientEstimator):
    """The loss of the device, the gradient of the twin."""

    uses_twin = True

    def loss_and_gradient(self, loss_of: Any, apparatus: Apparatus) -> Any:
        with torch.no_grad():
            loss = loss_of(device_alone(apparatus))
        loss_of(lambda batch, layer, unit: respond(apparatus.twin.module_, batch.dense())).backward()
        return loss

    def after_batch(self, apparatus: Apparatus, measurements: Any) -> None:
        assert len(measurements) == 1
        self._outputs = measurements[0].outputs


class WrongLevel(Twin):
    """Has the slopes of some line, and a level that no device has."""

    def fit(self, controls: Any, outputs: Any, sample_weight: Any = None) -> WrongLevel:
        self.n_features_in_ = np.shape(controls)[1]
        self._map = torch.nn.Linear(self.n_features_in_, np.shape(outputs)[1], dtype=torch.float64)
        torch.nn.init.constant_(self._map.bias, 1e6)
        return self

    @property
    def module_(self) -> torch.nn.Module:
        return self._map


def test_what_a_twin_answers_is_no_measurement() -> None:
    fitted = network(OfBoth(), twin=WrongLevel()).fit(X, Y)
    assert np.abs(fitted._gradient._outputs).max() < 1e3
    assert np.abs(fitted.weights_["layers.0.mean"]).max() < 1e3


class EveryOtherBatch(GradientEstimator):
    """Goes by its last gradient in every other batch, and measures nothing for it."""

    def loss_and_gradient(self, loss_of: Any, apparatus: Apparatus) -> Any:
        self._n = getattr(self, "_n", 0) + 1
        if self._n % 2:
            self._loss = loss_of(device_alone(apparatus))
            self._loss.backward()
            self._kept = {name: weight.grad for name, weight in apparatus.trainable.items()}
        for name, weight in apparatus.trainable.items():
            weight.grad = self._kept[name]
        return self._loss.detach()


def test_a_method_need_not_measure_in_every_batch() -> None:
    fitted = network(EveryOtherBatch(), batch_size=50, max_iter=4).fit(X, Y)
    assert fitted.shots_["training"] == 2 * len(X)


class OfEquations(GradientEstimator):
    """Trains on neither the device nor a twin."""

    trains_on_device = False
    shots_per_row = 0

    def run(self, apparatus: Apparatus) -> Any:
        return lambda batch, layer, unit: apparatus.device.forward(batch.dense())


def test_without_a_twin_validation_runs_on_the_device() -> None:
    estimator = network(OfEquations(), early_stopping=True)
    fitted = estimator.fit(X, Y)
    assert fitted.shots_["validation"] == 2 * 15
    assert fitted.ledger_.total == estimator.plan(X).shots


class Halves(GradientEstimator):
    """Measures a third of the rows once more."""

    shots_per_row = 4 / 3

    def loss_and_gradient(self, loss_of: Any, apparatus: Apparatus) -> Any:
        loss = loss_of(device_alone(apparatus))
        loss.backward()
        return loss


def test_a_plan_of_parts_of_rows_has_whole_shots() -> None:
    plan = network(Halves(), max_iter=1).plan(X[:100])
    assert isinstance(plan.training, int)
    assert plan.training == 134


class EveryFourthBatch(GradientEstimator):
    """A batch is measured as a whole, or not at all."""

    shots_per_row = 0.25


def test_a_budget_must_allow_for_a_whole_batch() -> None:
    with pytest.raises(ValueError, match="must allow for the calibration and one batch"):
        network(EveryFourthBatch(), batch_size=60, max_shots=70).plan(X)


class InSinglePrecision(SecondHarmonicLaser):
    def forward(self, controls: torch.Tensor, constants: Any = None) -> torch.Tensor:
        return super().forward(controls, constants) @ torch.eye(6, dtype=torch.float32)


def test_equations_of_one_precision_are_taken_with_data_of_it() -> None:
    fitted = network("exact", device=InSinglePrecision(8, 6, random_state=0)).fit(X.astype(np.float32), Y)
    assert fitted.n_iter_ == 2


class OfNumpy(WrongLevel):
    @property
    def module_(self) -> Any:
        return lambda controls: self._map(controls.detach()).detach()


class WithoutSlopes(SecondHarmonicLaser):
    def forward(self, controls: torch.Tensor, constants: Any = None) -> torch.Tensor:
        return super().forward(controls.detach(), constants)


@pytest.mark.parametrize("gradient", ["physics_aware", "in_silico", "asymmetric"])
@pytest.mark.parametrize("twin", ["of its own", "of equations"])
def test_a_twin_without_slopes_is_told_before_the_training(gradient: str, twin: str) -> None:
    made, name = (OfNumpy(), "OfNumpy") if twin == "of its own" else (PhysicsTwin(WithoutSlopes(8, 6)), "PhysicsTwin")
    told = rf"module_ of {name} must be differentiable: .* without detach\(\), numpy\(\) or no_grad\(\)"
    with pytest.raises(DeviceContractError, match=told):
        network(gradient, twin=made).fit(X, Y)


def test_equations_without_slopes_have_no_exact_gradient() -> None:
    estimator = network("exact", device=WithoutSlopes(8, 6))
    with pytest.raises(NoExactGradientError, match="Got WithoutSlopes, whose outputs have no gradient"):
        estimator.fit(X, Y)
    with pytest.raises(NoExactGradientError, match="without detach"):
        estimator.plan(X)
