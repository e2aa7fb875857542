"""Asymmetric training, direct feedback alignment and sharpness-aware training against what they must agree with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.preprocessing import StandardScaler

from skpat import ControlSplit, PhysicalNetworkClassifier
from skpat.devices import Quantized, SecondHarmonicLaser
from skpat.exceptions import NoExactGradientError
from skpat.network.forward import Network, forward
from skpat.training import (
    SPSA,
    Apparatus,
    Asymmetric,
    DirectFeedbackAlignment,
    ExactGradient,
    FiniteDifferences,
    PhysicsAware,
    SharpnessAware,
)
from skpat.twins import NeuralTwin, PhysicsTwin
from tests.combinations import mostly_slow

LASER = SecondHarmonicLaser(12, 8, n_steps=2)
FACTORS = [("asymmetric", 1), ("direct_feedback_alignment", 1), ("sharpness_aware", 2), (SharpnessAware(SPSA()), 4)]
X, Y = load_iris(return_X_y=True)
X = StandardScaler().fit_transform(X)


def answer(batch: Any, layer: int, unit: int) -> np.ndarray:
    """What the laser would answer without noise."""
    return LASER.forward(torch.from_numpy(np.asarray(batch.numpy()))).numpy()


def set_up(n_layers: int, twin: Any = None) -> tuple[Apparatus, Any]:
    """A network on a noise-free laser, its apparatus, and a loss."""
    rng = np.random.RandomState(0)
    network = Network(
        split=ControlSplit().resolve(12), bounds=np.asarray(LASER.bounds), n_features=4, n_outputs=8, n_targets=3,
        n_layers=n_layers,
    )  # fmt: skip
    weights = {k: torch.from_numpy(v) for k, v in network.initial_weights(X, np.ones(len(X)), rng).items()}
    for name, weight in weights.items():
        weight.requires_grad_(not name.endswith((".mean", ".scale")))
    if twin is None:
        twin = PhysicsTwin(LASER).fit(np.empty((0, 12)), np.empty((0, 8)))
    apparatus = Apparatus(answer, LASER, twin, weights, network, np.arange(20, dtype=np.uint64))

    def loss_of(run: Any) -> torch.Tensor:
        scores = forward(network, weights, torch.from_numpy(X[::8]), run)
        return torch.nn.functional.cross_entropy(scores, torch.from_numpy(Y[::8]))

    return apparatus, loss_of


def gradients(method: Any, n_layers: int, twin: Any = None) -> dict[str, np.ndarray]:
    apparatus, loss_of = set_up(n_layers, twin)
    method.loss_and_gradient(loss_of, apparatus)
    return {k: w.grad.numpy().copy() for k, w in apparatus.weights.items() if w.grad is not None}


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray], names: Any = None) -> None:
    for name in other if names is None else names:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-8, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_with_a_perfect_twin_asymmetric_is_exact(n_layers: int) -> None:
    assert_same(gradients(Asymmetric(), n_layers), gradients(ExactGradient(), n_layers))


def test_asymmetric_goes_back_through_the_twins_own_states() -> None:
    wrong = PhysicsTwin(SecondHarmonicLaser(12, 8, n_steps=2, coupling=15.0)).fit(np.empty((0, 12)), np.empty((0, 8)))
    one, two = (gradients(method, 2, wrong) for method in (Asymmetric(), PhysicsAware(refine=False)))
    assert_same(one, two, [name for name in one if name.startswith("readout")])  # the last outputs are measured
    assert np.abs(one["layers.1.theta"] - two["layers.1.theta"]).max() > 1e-6


def test_feedback_alignment_with_one_layer_is_physics_aware_training() -> None:
    assert_same(gradients(DirectFeedbackAlignment(0), 1), gradients(ExactGradient(), 1))


def test_feedback_alignment_trains_the_last_layer_exactly_and_the_first_not() -> None:
    one, exact = (gradients(method, 2) for method in (DirectFeedbackAlignment(0), ExactGradient()))
    of_last = [name for name in exact if name.startswith(("layers.1", "readout"))]
    assert_same(one, exact, of_last)
    assert np.abs(one["layers.0.theta"] - exact["layers.0.theta"]).max() > 1e-6
    assert_same(one, gradients(DirectFeedbackAlignment(0), 2))  # the matrices are fixed by the seed
    assert np.abs(one["layers.0.theta"] - gradients(DirectFeedbackAlignment(1), 2)["layers.0.theta"]).max() > 1e-6


def test_feedback_is_the_errors_product_with_the_matrix() -> None:
    method = DirectFeedbackAlignment(0)
    apparatus, loss_of = set_up(2)
    weights, network = apparatus.weights, apparatus.network
    rng = np.random.default_rng(0)
    for layer in range(2):  # statistics of a training; the first ones are 0 and 1
        weights[f"layers.{layer}.mean"].copy_(torch.from_numpy(rng.normal(size=8)))
        weights[f"layers.{layer}.scale"].copy_(torch.from_numpy(rng.uniform(0.2, 5.0, 8)))
    outputs: list[torch.Tensor] = []

    def recorded(batch: Any, layer: int, unit: int) -> torch.Tensor:
        outputs.append(LASER.forward(batch.dense()))
        return outputs[-1]

    forward(network, weights, torch.from_numpy(X[::8]), recorded)
    first, last = ((out - weights[f"layers.{i}.mean"]) / weights[f"layers.{i}.scale"] for i, out in enumerate(outputs))
    last = last.detach().requires_grad_()
    loss = torch.nn.functional.cross_entropy(network.readout.read(weights, last), torch.from_numpy(Y[::8]))
    (error,) = torch.autograd.grad(loss, last)
    names = ["layers.0.theta", "layers.0.gain", "layers.0.offset", "encoder.coef"]
    fed_back = error @ torch.from_numpy(method.feedback(0, 8, 8))  # to the first layer's normalised outputs
    expected = torch.autograd.grad(first, [weights[name] for name in names], fed_back)
    method.loss_and_gradient(loss_of, apparatus)
    for name, value in zip(names, expected, strict=True):
        torch.testing.assert_close(weights[name].grad, value, rtol=1e-9, atol=1e-12)
        assert value.abs().max() > 1e-6


def test_a_layer_that_gets_no_feedback_stays() -> None:
    method = DirectFeedbackAlignment(0)
    method.feedback(0, 8, 8)
    method._matrices[0] = np.zeros((8, 8))
    found = gradients(method, 2)
    for name in ("layers.0.theta", "layers.0.gain", "encoder.coef"):
        assert not found[name].any()
    assert found["layers.1.theta"].any()


def test_sharpness_without_a_step_is_the_other_method() -> None:
    assert_same(gradients(SharpnessAware(ExactGradient(), rho=0.0), 2), gradients(ExactGradient(), 2))


def test_sharpness_is_the_gradient_uphill() -> None:
    rho = 0.3
    plain = gradients(ExactGradient(), 2)
    length = np.sqrt(sum(np.square(part).sum() for part in plain.values()))
    apparatus, loss_of = set_up(2)
    with torch.no_grad():
        for name, part in plain.items():
            apparatus.weights[name] += torch.from_numpy(rho / length * part)
    ExactGradient().loss_and_gradient(loss_of, apparatus)
    uphill = {name: apparatus.weights[name].grad.numpy() for name in plain}
    assert_same(gradients(SharpnessAware(ExactGradient(), rho=rho), 2), uphill)


def test_sharpness_leaves_the_weights_where_they_were_even_if_the_device_fails() -> None:
    apparatus, loss_of = set_up(1)
    before = {name: weight.detach().clone() for name, weight in apparatus.weights.items()}
    calls = [0]

    def measure(batch: Any, layer: int, unit: int) -> Any:
        calls[0] += 1
        if calls[0] == 2:
            raise RuntimeError("the lamp broke")
        return answer(batch, layer, unit)

    apparatus.measure = measure
    with pytest.raises(RuntimeError, match="the lamp broke"):
        SharpnessAware(ExactGradient()).loss_and_gradient(loss_of, apparatus)
    for name, weight in before.items():
        assert torch.equal(apparatus.weights[name], weight)


def test_sharpness_asks_the_other_method_whether_the_device_will_do() -> None:
    with pytest.raises(NoExactGradientError):
        SharpnessAware(ExactGradient()).check_device(object())
    with pytest.raises(ValueError, match="'rho' parameter of SharpnessAware"):
        SharpnessAware(rho=-1.0).check_device(LASER)


@pytest.mark.parametrize(
    ("method", "dtype"),
    mostly_slow(
        zip(FACTORS, [np.float32, np.float64, np.float32, np.float64], strict=True), FACTORS, [np.float32, np.float64]
    ),
    ids=str,
)
def test_each_trains_and_costs_what_the_plan_says(method: tuple[Any, int], dtype: type) -> None:
    gradient, factor = method
    network = PhysicalNetworkClassifier(
        SecondHarmonicLaser(16, 8, n_steps=2), NeuralTwin((16,), max_iter=5, n_refine_steps=1), n_layers=2, gradient=gradient,
        max_iter=5, learning_rate_init=0.04, n_calibration_shots=200, n_iter_no_change=99, random_state=0,
    )  # fmt: skip
    network.fit(X.astype(dtype), Y)
    assert network.shots_["training"] == network.plan(X).training == 5 * 2 * factor * len(X)
    assert network.score(X.astype(dtype), Y) > 0.7
    again = clone(network).fit(X.astype(dtype), Y)
    for name, weight in network.weights_.items():
        np.testing.assert_array_equal(weight, again.weights_[name])


@pytest.mark.parametrize("gradient", ["physics_aware", "sharpness_aware"])
def test_the_plan_counts_what_the_checks_of_the_gradient_take(gradient: str) -> None:
    network = PhysicalNetworkClassifier(
        SecondHarmonicLaser(16, 8, n_steps=2), NeuralTwin((8,), max_iter=5, n_refine_steps=1), n_layers=2, gradient=gradient,
        max_iter=40, batch_size=75, n_calibration_shots=40, n_iter_no_change=99, random_state=0,
    )  # fmt: skip
    network.fit(X, Y)
    assert len(network.alignments_) == 3
    plan, spent = network.plan(X).calibration, network.shots_["calibration"]
    assert 0.9 * plan < spent <= plan  # what has been measured already is not asked again


@pytest.mark.parametrize("method", [SPSA, FiniteDifferences])
def test_moves_below_the_steps_of_the_weights_are_told(method: Any) -> None:
    X_, y_ = X[::2][:40], Y[::2][:40]

    def fit(bits: int, perturbation: float) -> None:
        device = Quantized(SecondHarmonicLaser(6, 4, n_steps=2), control_bits=bits)
        gradient = method(perturbation=perturbation)
        how = {"encoder": "direct", "control_split": ControlSplit(n_inputs=4), "max_iter": 1, "random_state": 0}
        PhysicalNetworkClassifier(device, gradient=gradient, **how).fit(X_, y_)

    told = rf"of {method.__name__} must span .* Got 0.1 of a range, and steps of up to 0.33: .*\(perturbation=0.7\)"
    with pytest.warns(UserWarning, match=told):
        fit(2, 0.1)
    fit(2, 0.7)  # a warning would be an error
    fit(4, 0.1)
