"""The methods that need only measured losses: finite differences, CMA-ES, and local training by displacements."""

from __future__ import annotations

import copy
import pickle
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.preprocessing import StandardScaler

from skpat import ControlSplit, PhysicalNetworkClassifier, PhysicalNetworkRegressor
from skpat.devices import Quantized, SecondHarmonicLaser
from skpat.inspection import gradient_alignment
from skpat.network.forward import Network, forward
from skpat.training import (
    Apparatus,
    EvolutionStrategy,
    ExactGradient,
    FiniteDifferences,
    ForwardForward,
    SharpnessAware,
)
from skpat.training.movable_weights import MovableWeights, count_movable

LASER = SecondHarmonicLaser(12, 8, n_steps=2)
X, Y = (part[::2] for part in load_iris(return_X_y=True))
X = StandardScaler().fit_transform(X)
METHODS = {
    "finite_differences": {"max_iter": 3, "learning_rate_init": 0.15},
    "evolution_strategy": {"max_iter": 6},
    "forward_forward": {"max_iter": 20},
}


def classifier(**params: Any) -> PhysicalNetworkClassifier:
    how: dict[str, Any] = {
        "device": SecondHarmonicLaser(12, 8, n_steps=2),
        "encoder": "direct",
        "learning_rate_init": 0.03,
    }
    return PhysicalNetworkClassifier(**(how | {"n_iter_no_change": 99, "random_state": 0} | params))


def network_of(n_layers: int, encoder: str = "auto", skip: str | None = None) -> Network:
    return Network(
        split=ControlSplit().resolve(12), bounds=np.asarray(LASER.bounds), n_features=4, n_outputs=8, n_targets=3,
        n_layers=n_layers, encoder=encoder, skip=skip,
    )  # fmt: skip


def set_up(network: Network, dtype: Any = np.float64) -> tuple[Apparatus, Any]:
    """A noise-free laser, and the loss of 20 rows."""
    first = network.initial_weights(X, np.ones(len(X)), np.random.RandomState(0))
    weights = {k: torch.from_numpy(v.astype(dtype)) for k, v in first.items()}
    for name, weight in weights.items():
        weight.requires_grad_(not name.endswith((".mean", ".scale")))

    def answer(batch: Any, layer: int, unit: int) -> np.ndarray:
        return LASER.forward(torch.from_numpy(np.asarray(batch.numpy()))).numpy()

    features, targets = torch.from_numpy(X[::8].astype(dtype)), torch.from_numpy(Y[::8])
    apparatus = Apparatus(
        answer, LASER, None, weights, network, np.arange(len(features), dtype=np.uint64),
        loss=lambda scores, t: torch.nn.functional.cross_entropy(scores, t, reduction="none"),
        targets=targets, sample_weight=torch.ones(len(features), dtype=features.dtype),
    )  # fmt: skip

    def loss_of(run: Any) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(forward(network, weights, features, run), targets)

    return apparatus, loss_of


def gradients(method: Any, network: Network) -> dict[str, np.ndarray]:
    apparatus, loss_of = set_up(network)
    method.loss_and_gradient(loss_of, apparatus)
    found = {k: w.grad.numpy().copy() for k, w in apparatus.weights.items() if w.grad is not None}
    return found


# ---- against autograd ----


@pytest.mark.parametrize("n_layers", [1, 2])
@pytest.mark.parametrize("skip", [None, "input"])
def test_finite_differences_are_the_gradient(n_layers: int, skip: str | None) -> None:
    network = network_of(n_layers, skip=skip)
    found, exact = gradients(FiniteDifferences(1e-4), network), gradients(ExactGradient(), network)
    assert found.keys() == exact.keys()
    for name in exact:
        np.testing.assert_allclose(found[name], exact[name], atol=1e-6, err_msg=name)
        assert np.abs(exact[name]).max() > 1e-4


def test_their_error_falls_with_the_square_of_the_step() -> None:
    exact = gradients(ExactGradient(), network_of(1))["layers.0.theta"]
    large, small = (
        np.abs(gradients(FiniteDifferences(step), network_of(1))["layers.0.theta"] - exact).max() for step in (0.2, 0.1)
    )
    assert 3.5 < large / small < 4.5


@pytest.mark.parametrize("n_layers", [1, 2])
def test_displacements_find_the_gradient_of_each_layers_own_loss(n_layers: int) -> None:
    network = network_of(n_layers)
    exact, n_steps = gradients(ExactGradient(), network), 150
    method, apparatus_and_loss = ForwardForward(0.01, random_state=0), set_up(network)
    apparatus, loss_of = apparatus_and_loss
    total = {name: 0.0 for name in exact}
    for _ in range(n_steps):
        for weight in apparatus.weights.values():
            weight.grad = None
        method.loss_and_gradient(loss_of, apparatus)
        for name in exact:
            total[name] = total[name] + apparatus.weights[name].grad.numpy() / n_steps
    last = f"layers.{n_layers - 1}"
    for name in (f"{last}.theta", f"{last}.gain", f"{last}.offset"):
        cosine = (total[name] * exact[name]).sum() / np.linalg.norm(total[name]) / np.linalg.norm(exact[name])
        assert cosine > 0.9, name
        assert 0.7 < np.linalg.norm(total[name]) / np.linalg.norm(exact[name]) < 1.4, name
    for name in ("readout.coef", "readout.intercept"):
        np.testing.assert_allclose(total[name], exact[name], atol=0.02)


def test_an_earlier_layer_does_not_hear_of_later_ones() -> None:
    network, found = network_of(2), []
    for factor in (1.0, 50.0):
        apparatus, loss_of = set_up(network)
        with torch.no_grad():
            apparatus.weights["readout.coef"] *= factor
            apparatus.weights["layers.1.theta"] *= factor
        ForwardForward(random_state=0).loss_and_gradient(loss_of, apparatus)
        found.append({name: w.grad.numpy() for name, w in apparatus.weights.items() if w.grad is not None})
    for name in ("layers.0.theta", "layers.0.gain", "encoder.coef"):
        np.testing.assert_array_equal(found[0][name], found[1][name])
        assert found[0][name].any()
    assert np.abs(found[0]["layers.1.gain"] - found[1]["layers.1.gain"]).max() > 1e-6


def test_neither_way_of_a_displacement_comes_first() -> None:
    found = []
    for size in (0.05, -0.05):
        apparatus, loss_of = set_up(network_of(2))
        method = ForwardForward(size, random_state=0)
        for _ in range(2):
            for weight in apparatus.weights.values():
                weight.grad = None
            method.loss_and_gradient(loss_of, apparatus)
        found.append({name: w.grad.numpy() for name, w in apparatus.weights.items() if w.grad is not None})
    for name, gradient in found[0].items():
        np.testing.assert_allclose(gradient, found[1][name], rtol=1e-9, atol=1e-12, err_msg=name)
    assert np.abs(found[0]["layers.0.theta"]).max() > 1e-4


# ---- what the methods share ----


@pytest.mark.parametrize("n_layers", [1, 2])
@pytest.mark.parametrize("encoder", ["linear", "direct"])
@pytest.mark.parametrize("skip", [None, "previous"])
def test_the_movable_weights_are_all_before_a_measurement(n_layers: int, encoder: str, skip: str | None) -> None:
    network = network_of(n_layers, encoder, skip)
    apparatus, _ = set_up(network)
    movable = MovableWeights(apparatus.weights)
    n_trained = sum(w.numel() for name, w in apparatus.weights.items() if w.requires_grad and "readout" not in name)
    assert len(movable) == count_movable(network) == len(movable.get()) == n_trained
    there = np.random.default_rng(0).normal(size=len(movable))
    before = {name: weight.detach().clone() for name, weight in apparatus.weights.items()}
    with movable.moving() as start:
        movable.set(there)
        np.testing.assert_array_equal(movable.get(), there)
    np.testing.assert_array_equal(movable.get(), start)
    for name, weight in before.items():
        assert torch.equal(weight, apparatus.weights[name])


@pytest.mark.parametrize("method", [FiniteDifferences(), EvolutionStrategy(), ForwardForward()], ids=str)
def test_the_weights_are_where_they_were_if_the_device_fails(method: Any) -> None:
    apparatus, loss_of = set_up(network_of(1, "direct"))
    before = {name: weight.detach().clone() for name, weight in apparatus.weights.items()}
    measure, n_calls = apparatus.measure, [0]

    def broken(batch: Any, layer: int, unit: int) -> Any:
        n_calls[0] += 1
        if n_calls[0] == 2:
            raise RuntimeError("the lamp broke")
        return measure(batch, layer, unit)

    apparatus.measure = broken
    with pytest.raises(RuntimeError, match="the lamp broke"):
        method.loss_and_gradient(loss_of, apparatus)
    for name, weight in before.items():
        assert torch.equal(apparatus.weights[name], weight)


@pytest.fixture(scope="module")
def untrained() -> float:
    """Accuracy with the first weights and a trained readout: what the readout does alone."""
    return classifier(gradient="exact", max_iter=20, learning_rate_init=1e-12).fit(X, Y).score(X, Y)


@pytest.mark.parametrize(
    ("gradient", "dtype"),
    list(zip(METHODS, (np.float64, np.float32, np.float32), strict=True)),
)
def test_each_trains_costs_what_it_says_and_leaves_global_states_alone(
    gradient: str, dtype: type, untrained: float
) -> None:
    network, states = classifier(gradient=gradient, **METHODS[gradient]), []
    np.random.seed(3)
    for _ in range(2):
        states.append((np.random.get_state()[1].tobytes(), np.random.get_state()[2:], random.getstate()))
        states.append(torch.get_rng_state().numpy().tobytes())
        again, network = network, clone(network).fit(X.astype(dtype), Y)
    assert states[:2] == states[2:]
    for name, weight in network.weights_.items():
        np.testing.assert_array_equal(weight, again.weights_[name])  # the same seed, the same weights
        assert weight.dtype == dtype
    per_row = network._gradient.shots_per_row
    assert per_row == {"finite_differences": 2 * 18, "evolution_strategy": 12, "forward_forward": 2}[gradient]
    assert network.shots_["training"] == network.plan(X).training == network.max_iter * per_row * len(X)
    assert network.score(X.astype(dtype), Y) > max(0.85, untrained + 0.3)
    other = clone(network).set_params(random_state=1, max_iter=1).fit(X.astype(dtype), Y)
    assert np.abs(other.weights_["layers.0.theta"] - network.weights_["layers.0.theta"]).max() > 1e-3


@pytest.mark.parametrize("gradient", METHODS)
def test_a_budget_is_kept_and_a_journal_goes_on(gradient: str, tmp_path: Path) -> None:
    how = METHODS[gradient] | {"max_iter": 2, "batch_size": 15}
    whole = classifier(gradient=gradient, journal=tmp_path / "run.db", **how).fit(X[::5], Y[::5])
    again = classifier(gradient=gradient, journal=tmp_path / "run.db", **how).fit(X[::5], Y[::5])
    assert sum(again.shots_.values()) == 0
    for name, weight in whole.weights_.items():
        np.testing.assert_array_equal(weight, again.weights_[name])
    budget = sum(whole.shots_.values()) - 20
    short = classifier(gradient=gradient, max_shots=budget, **how).fit(X[::5], Y[::5])
    assert 0 < short.shots_["training"] < whole.shots_["training"]
    assert sum(short.shots_.values()) <= budget
    assert np.isfinite(short.loss_)


@pytest.mark.parametrize("gradient", METHODS)
def test_a_trained_network_can_be_pickled_and_goes_on(gradient: str) -> None:
    network = classifier(gradient=gradient, max_iter=1, warm_start=True).fit(X[::3], Y[::3])
    same = pickle.loads(pickle.dumps(network))
    deep = copy.deepcopy(network)
    for other in (same, deep):
        other.fit(X[::3], Y[::3])
    network.fit(X[::3], Y[::3])
    for name, weight in network.weights_.items():
        np.testing.assert_array_equal(weight, same.weights_[name])
        np.testing.assert_array_equal(weight, deep.weights_[name])


@pytest.mark.parametrize("gradient", METHODS)
def test_each_trains_a_regression_on_a_device_with_steps(gradient: str) -> None:
    device = Quantized(SecondHarmonicLaser(8, 6, n_steps=2), control_bits=6)
    n_epochs = 20 if gradient == "forward_forward" else 2
    network = PhysicalNetworkRegressor(
        device,
        gradient=gradient,
        encoder="direct",
        n_layers=2,
        max_iter=n_epochs,
        learning_rate_init=0.03,
        random_state=0,
    ).fit(X[::3, :2], X[::3, 2])
    assert np.isfinite(network.predict(X[:5, :2])).all()
    assert network.loss_curve_[-1] < network.loss_curve_[0]


def test_they_can_be_wrapped() -> None:
    network = classifier(gradient=SharpnessAware(FiniteDifferences()), max_iter=1)
    assert network.plan(X).training == network.fit(X, Y).shots_["training"] > 2 * len(X)


def test_a_method_without_a_gradient_is_refused_where_one_is_needed() -> None:
    with pytest.raises(
        ValueError, match=r"'gradient' of SharpnessAware must be a method with a gradient.*EvolutionStrategy"
    ):
        classifier(gradient=SharpnessAware(EvolutionStrategy())).plan(X)
    network = classifier(gradient="evolution_strategy", max_iter=1).fit(X, Y)
    spent = dict(network.shots_)
    with pytest.raises(ValueError, match=r"must be trained with a method that has a gradient.*'evolution_strategy'"):
        gradient_alignment(network, X, Y)
    assert network.shots_ == spent


# ---- each on its own ----


def test_too_many_weights_are_refused_before_anything_is_sent() -> None:
    network = classifier(gradient=FiniteDifferences(max_weights=17))
    message = r"at most max_weights=17 weights before a measurement\. Got 18, .* Nothing was sent\. Use gradient='spsa'"
    with pytest.raises(ValueError, match=message):
        network.fit(X, Y)
    with pytest.raises(ValueError, match=message):
        network.plan(X)
    assert not hasattr(network, "ledger_")


def test_the_package_cma_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cma", None)
    network = classifier(gradient="evolution_strategy")
    with pytest.raises(ImportError, match=r'Nothing was sent\. Use pip install "skpat\[cma\]", or gradient=\'spsa\''):
        network.fit(X, Y)
    assert not hasattr(network, "ledger_")


@pytest.mark.parametrize("n_weights", [5, 100, 101, 3000])
def test_the_strategy_itself_draws_from_its_own_generator_only(n_weights: int) -> None:
    np.random.seed(3)
    before = np.random.get_state()
    goal = np.linspace(-1, 1, n_weights)
    method = EvolutionStrategy(random_state=0)
    weights = np.zeros(n_weights)
    for _ in range(12):
        strategy = method._strategy_at(weights)
        population = strategy.ask()
        strategy.tell(population, [float(np.square(member - goal).sum()) for member in population])
        weights = method._mean = strategy.mean
    after = np.random.get_state()
    assert before[1].tobytes() == after[1].tobytes()
    assert before[2:] == after[2:]
    assert np.square(weights - goal).sum() < np.square(goal).sum()
    assert strategy.opts["CMA_diagonal"] == (n_weights > 100)


def test_the_mean_follows_weights_that_somebody_has_set() -> None:
    method = EvolutionStrategy(random_state=0)
    apparatus, loss_of = set_up(network_of(1, "direct"))
    method.loss_and_gradient(loss_of, apparatus)
    with torch.no_grad():
        apparatus.weights["layers.0.theta"] += 100.0
    method.loss_and_gradient(loss_of, apparatus)
    assert (apparatus.weights["layers.0.theta"] > 90).all()
    assert apparatus.weights["layers.0.theta"].grad is None  # no step of the optimiser on top
    assert apparatus.weights["readout.coef"].grad is not None


def test_a_population_that_is_not_finite_changes_nothing() -> None:
    apparatus, loss_of = set_up(network_of(1, "direct"))
    apparatus.measure = lambda batch, layer, unit: np.full((batch.n_rows, 8), np.nan)
    before = apparatus.weights["layers.0.theta"].detach().clone()
    assert not np.isfinite(float(EvolutionStrategy(random_state=0).loss_and_gradient(loss_of, apparatus)))
    assert torch.equal(apparatus.weights["layers.0.theta"], before)


@pytest.mark.parametrize(
    ("method", "parameter"),
    [
        (FiniteDifferences(perturbation=0.0), "perturbation"),
        (EvolutionStrategy(population_size=2), "population_size"),
        (ForwardForward(momentum=2.0), "momentum"),
    ],
    ids=str,
)
def test_parameters_are_checked(method: Any, parameter: str) -> None:
    with pytest.raises(ValueError, match=f"'{parameter}' parameter of {type(method).__name__}"):
        method.check_device(LASER)
