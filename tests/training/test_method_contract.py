"""Mistakes in a training method of one's own are told in its name, at its first batch."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris

from skpat import PhysicalNetworkClassifier
from skpat.devices import SecondHarmonicLaser
from skpat.exceptions import DeviceContractError, UselessTwinWarning
from skpat.training import (
    Apparatus,
    GradientEstimator,
    InSilico,
    PhysicsAware,
    SharpnessAware,
    bridge,
    device_alone,
    half_cosine,
)
from skpat.twins import NeuralTwin
from skpat.twins.base import Twin

X, Y = load_iris(return_X_y=True)


def fit(gradient: GradientEstimator, **how: Any) -> PhysicalNetworkClassifier:
    device = SecondHarmonicLaser(8, 6, random_state=0)
    return PhysicalNetworkClassifier(device, gradient=gradient, max_iter=2, random_state=0, **how).fit(X, Y)


class Answers(GradientEstimator):
    """A run that gives what it is told to make of the device's answer."""

    def __init__(self, made: Any = None):
        self.made = made

    def run(self, apparatus: Apparatus) -> Any:
        alone = device_alone(apparatus)
        return lambda batch, layer, unit: self.made(alone(batch, layer, unit))


class Leaves(GradientEstimator):
    """A loss_and_gradient that returns what it is told to, and leaves a gradient or not."""

    def __init__(self, returned: Any = None, backward: bool = True):
        self.returned = returned
        self.backward = backward

    def loss_and_gradient(self, loss_of: Any, apparatus: Apparatus) -> Any:
        loss = loss_of(device_alone(apparatus))
        if self.backward:
            loss.backward()
        return self.returned(loss)


def as_array(outputs: Any) -> Any:
    return outputs.numpy()


def one_less(outputs: Any) -> Any:
    return outputs[:, 1:]


def in_single_precision(outputs: Any) -> Any:
    return outputs.float()


def same(loss: Any) -> Any:
    return loss


@pytest.mark.parametrize(
    ("made", "got"),
    [
        (as_array, "ndarray"),
        (one_less, r"a tensor \(30, 5\) of torch.float64"),
        (in_single_precision, r"a tensor \(30, 6\) of torch.float32"),
    ],
    ids=["numpy", "one output less", "another precision"],
)
def test_a_run_that_returns_no_outputs_is_named(made: Any, got: str) -> None:
    with pytest.raises(DeviceContractError, match=rf"run\(batch.*of Answers must return.*\(30, 6\).*Got {got}"):
        fit(Answers(made))


@pytest.mark.parametrize("returned", [lambda loss: None, lambda loss: loss.expand(2)], ids=["None", "two losses"])
def test_what_is_no_loss_is_named(returned: Any) -> None:
    with pytest.raises(DeviceContractError, match=r"of Leaves must return the batch's loss.*Got (NoneType|a tensor)"):
        fit(Leaves(returned))


def single(loss: Any) -> Any:
    return np.float32(loss.item())


def of_no_dimension(loss: Any) -> Any:
    return loss.detach().numpy()


@pytest.mark.parametrize("returned", [torch.Tensor.item, single, of_no_dimension])
def test_a_loss_may_be_any_number(returned: Any) -> None:
    np.testing.assert_allclose(fit(Leaves(returned)).loss_curve_, fit(Leaves(same)).loss_curve_, rtol=1e-6)


class NowAndThen(GradientEstimator):
    """Leaves a gradient in every third batch."""

    def loss_and_gradient(self, loss_of: Any, apparatus: Apparatus) -> Any:
        self._n_batches = getattr(self, "_n_batches", 0) + 1
        loss = loss_of(device_alone(apparatus))
        if self._n_batches % 3 == 0:
            loss.backward()
        return loss


def test_a_method_may_leave_a_gradient_now_and_then() -> None:
    assert len(fit(NowAndThen()).loss_curve_) == 2


def test_a_method_that_leaves_no_gradient_is_refused_unless_it_says_so() -> None:
    with pytest.raises(DeviceContractError, match=r"of Leaves must leave a gradient.*apparatus\.trainable.*Got none"):
        fit(Leaves(same, backward=False))


class Mover(Leaves):
    """One that would move the weights itself."""

    leaves_gradient = False


def test_a_method_that_moves_the_weights_itself_needs_no_gradient() -> None:
    assert len(fit(Mover(same, backward=False)).loss_curve_) == 2


def test_only_weights_are_trainable() -> None:
    seen: dict[str, set[str]] = {}

    class Looks(GradientEstimator):
        def run(self, apparatus: Apparatus) -> Any:
            seen["all"], seen["trainable"] = set(apparatus.weights), set(apparatus.trainable)
            return device_alone(apparatus)

    fit(Looks())
    statistics = {name for name in seen["all"] if name.endswith((".mean", ".scale"))}
    assert statistics
    assert seen["trainable"] == seen["all"] - statistics
    assert {"layers.0.theta", "layers.0.gain"} <= seen["trainable"]


def test_the_shrinking_is_half_a_cosine() -> None:
    assert half_cosine(0.5) == pytest.approx(0.5)


def test_the_bridge_tells_a_model_from_a_twin() -> None:
    with pytest.raises(
        TypeError, match=r"'model' of bridge must be a function.*Got NeuralTwin\(\).*module_.*uses_twin = True"
    ):
        bridge(lambda batch, layer, unit: None, NeuralTwin())
    with pytest.raises(TypeError, match="Got None"):
        bridge(lambda batch, layer, unit: None, None)


class Through(GradientEstimator):
    """Backward through what it is given."""

    def __init__(self, model: Any = None):
        self.model = model

    def run(self, apparatus: Apparatus) -> Any:
        return bridge(apparatus.measure, self.model)


def narrow(controls: torch.Tensor) -> torch.Tensor:
    return controls[:, :5]


def of_numpy(controls: torch.Tensor) -> np.ndarray:
    return controls.detach().numpy()[:, :6]


def test_a_model_that_is_not_the_devices_is_told() -> None:
    with pytest.raises(ValueError, match=r"as many rows and outputs as the device, shape \(30, 6\)\. Got \(30, 5\)"):
        fit(Through(narrow))
    with pytest.raises(TypeError, match=r"must return a torch tensor of shape \(30, 6\)\. Got ndarray"):
        fit(Through(of_numpy))


def as_float(loss: torch.Tensor) -> float:
    return float(loss.detach())


class Thrice(GradientEstimator):
    """Measures every row three times, and says what it is told to say."""

    def __init__(self, says: int = 1):
        self.says = says

    @property
    def shots_per_row(self) -> int:
        return self.says

    def loss_and_gradient(self, loss_of: Any, apparatus: Apparatus) -> Any:
        run = device_alone(apparatus)
        for _ in range(2):
            loss_of(run)
        loss = loss_of(run)
        loss.backward()
        return loss


def test_a_method_that_measures_more_than_it_says_is_told_so_in_its_first_epoch() -> None:
    told = r"shots_per_row of Thrice must be how often .* Got 2, and 450 measurements of 150 settings in an epoch"
    with pytest.raises(DeviceContractError, match=told):
        fit(Thrice(2), batch_size=150)
    assert fit(Thrice(3), batch_size=150).shots_["training"] == 2 * 3 * 150


class OfThree(Twin):
    """Its module has three outputs, whatever it is fitted to."""

    def fit(self, controls: Any, outputs: Any, sample_weight: Any = None) -> OfThree:
        self.n_features_in_ = np.shape(controls)[1]
        self._made = torch.nn.Linear(self.n_features_in_, 3, dtype=torch.float64)
        return self

    @property
    def module_(self) -> torch.nn.Module:
        return self._made


@pytest.mark.parametrize("gradient", [PhysicsAware(), PhysicsAware(refine=False), InSilico()])
def test_a_twin_of_other_outputs_is_told_in_its_own_name(gradient: GradientEstimator) -> None:
    with pytest.raises(
        DeviceContractError, match=r"module_ of OfThree must turn .* \(n_rows, 6\)\. Got \(2, 3\) for two rows"
    ):
        fit(gradient, twin=OfThree())


def test_what_climbs_takes_a_loss_that_is_a_float() -> None:
    X_, y_ = X[:60], Y[:60]
    device = SecondHarmonicLaser(8, 6, random_state=0)
    how = {"max_iter": 2, "batch_size": 30, "random_state": 0}
    of_float, of_tensor = (
        PhysicalNetworkClassifier(device, gradient=SharpnessAware(Leaves(returned)), **how).fit(X_, y_)
        for returned in (as_float, torch.clone)
    )
    assert of_float.loss_curve_ == pytest.approx(of_tensor.loss_curve_)
    with pytest.raises(ValueError, match="'gradient' of SharpnessAware must be another method"):
        fit(SharpnessAware(SharpnessAware(rho=5.0)))


class OnceMore(GradientEstimator):
    """Measures its rows once more every fifth batch."""

    def __init__(self, says: float = 1.2):
        self.says = says

    @property
    def shots_per_row(self) -> Any:
        return self.says

    def loss_and_gradient(self, loss_of: Any, apparatus: Apparatus) -> Any:
        loss = loss_of(device_alone(apparatus))
        loss.backward()
        return loss

    def after_batch(self, apparatus: Apparatus, measurements: Any) -> None:
        self._n_batches = getattr(self, "_n_batches", 0) + 1
        if self._n_batches % 5 == 0:
            apparatus.measure(measurements[0].batch.numpy(), 0, 0)


def test_the_mean_of_an_epoch_is_what_a_method_owes() -> None:
    assert fit(OnceMore(1.2), batch_size=30).shots_["training"] == 2 * 6 * 30
    with pytest.raises(DeviceContractError, match="180 measurements of 150 settings"):
        fit(OnceMore(1.1), batch_size=30)


@pytest.mark.parametrize("kind", ["of batches", "of derivatives"])
def test_a_twin_may_need_more_than_one_row_or_a_gradient_inside(kind: str) -> None:
    class OfDerivatives(torch.nn.Module):
        def __init__(self, n_controls: int, n_outputs: int):
            super().__init__()
            self.map = torch.nn.Linear(n_controls, n_outputs, dtype=torch.float64)

        def forward(self, controls: torch.Tensor) -> torch.Tensor:
            controls = controls if controls.requires_grad else controls.detach().requires_grad_()
            answer = self.map(controls).tanh()
            slope = torch.autograd.grad(answer.sum(), controls, create_graph=True)[0]
            return answer + slope.sum(1, keepdim=True)

    class Own(OfThree):
        def fit(self, controls: Any, outputs: Any, sample_weight: Any = None) -> Own:
            n_controls, n_outputs = np.shape(controls)[1], np.shape(outputs)[1]
            linear = torch.nn.Linear(n_controls, n_outputs, dtype=torch.float64)
            batches = torch.nn.Sequential(torch.nn.BatchNorm1d(n_controls, dtype=torch.float64), linear)
            self._made = batches if kind == "of batches" else OfDerivatives(n_controls, n_outputs)
            self.n_features_in_ = n_controls
            return self

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UselessTwinWarning)
        assert fit(PhysicsAware(refine=False), twin=Own()).n_iter_ == 2
