"""How a NeuralTwin is built and trained: its scales, its first solution, what it keeps, what it forgets, whom it draws."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.linear_model import Ridge

from skpat.twins import NeuralTwin, neural_module
from skpat.twins.shot_memory import drawn

BOUNDS = np.array([[-1.0, 1.0], [0.0, 10.0], [0.0, 2 * np.pi], [-180.0, 180.0]])
PERIODS = np.array([0.0, 0.0, 2 * np.pi, 360.0])


def shots(n: int = 200, seed: int = 0, share: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """In the lower ``share`` of each channel's range."""
    controls = BOUNDS[:, 0] + share * np.ptp(BOUNDS, axis=1) * np.random.default_rng(seed).uniform(size=(n, 4))
    angle = np.column_stack([controls[:, 2], np.deg2rad(controls[:, 3])])
    return controls, np.column_stack([controls[:, 0] * np.cos(angle[:, 0]), controls[:, 1] + np.sin(angle).sum(axis=1)])


# ---- scales ----


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_channels_are_scaled_by_their_bounds_wherever_the_shots_lie(share: float) -> None:
    twin = NeuralTwin((), max_iter=0, random_state=0)
    twin.learn_specification(BOUNDS, PERIODS)
    module = twin.fit(*shots(share=share)).module_
    everywhere = module.features(torch.from_numpy(shots(20_000)[0])).numpy()
    assert everywhere.shape == (20_000, 6)  # of an angle the cosine and the sine
    np.testing.assert_allclose(everywhere.mean(axis=0), 0, atol=0.03)
    np.testing.assert_allclose(everywhere.std(axis=0), 1, rtol=0.03)


def test_what_another_device_states_of_its_channels_is_not_used() -> None:
    controls, outputs = shots(50)
    told, plain = (NeuralTwin((8,), max_iter=2, random_state=0) for _ in range(2))
    told.learn_specification(BOUNDS, PERIODS)
    for twin in (told, plain):
        twin.fit(controls[:, :3], outputs)
    np.testing.assert_array_equal(told.predict(controls[:, :3]), plain.predict(controls[:, :3]))


def test_the_first_linear_path_is_that_of_ridge_regression() -> None:
    rng = np.random.default_rng(0)
    controls, outputs = rng.normal(size=(8, 20)), rng.normal(size=(8, 3))  # fewer shots than channels
    module = NeuralTwin((), max_iter=0, validation_fraction=0, random_state=0).fit(controls, outputs).module_
    x, y, _ = neural_module.standard_tensors(module, (controls, outputs, np.ones(8)))
    ridge = Ridge(alpha=0.1 * 20, fit_intercept=False).fit(x.numpy(), y.numpy())
    np.testing.assert_allclose(module.linear.weight.detach().numpy(), ridge.coef_, rtol=1e-9, atol=1e-12)


# ---- training ----


def test_a_step_without_a_gradient_shrinks_the_matrices_by_alpha_and_leaves_the_intercepts() -> None:
    module = NeuralTwin((8,), max_iter=1, random_state=0).fit(*shots(50)).module_
    before = [parameter.detach().clone() for parameter in module.parameters()]
    optimizer = neural_module.make_optimizer(module, learning_rate=0.02, alpha=0.1)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert {parameter.ndim for parameter in before} == {1, 2}
    for then, now in zip(before, module.parameters(), strict=True):
        torch.testing.assert_close(now.detach(), 0.9 * then if then.ndim == 2 else then)


def test_the_state_with_the_least_held_out_error_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[float] = []
    held_out: list[Any] = []
    own = neural_module._loss

    def noted(module: Any, *shots: Any) -> Any:
        loss = own(module, *shots)
        if not torch.is_grad_enabled():
            errors.append(float(loss))
            held_out[:] = shots
        return loss

    monkeypatch.setattr(neural_module, "_loss", noted)
    controls, _ = shots(60)
    noise = np.random.default_rng(1).normal(size=(60, 2))  # nothing to learn: sooner or later it is learned by heart
    twin = NeuralTwin((64,), max_iter=100, learning_rate_init=0.03, validation_fraction=0.5, n_iter_no_change=5)
    twin.set_params(random_state=0).fit(controls, noise)
    assert len(errors) == twin.n_iter_ == 1 + int(np.argmin(errors)) + 5
    assert errors[-1] > min(errors)
    with torch.no_grad():
        assert float(own(twin.module_, *held_out)) == pytest.approx(min(errors), rel=1e-12)


@pytest.mark.parametrize(("trust", "n_steps"), [(1.0, 8), (0.5, 16)])
def test_a_twin_that_is_not_trusted_takes_twice_as_many_steps(
    trust: float, n_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[Any] = []
    monkeypatch.setattr(neural_module, "refine_module", lambda module, optimizer, draws, rate: steps.extend(draws))
    controls, _ = shots()
    twin = NeuralTwin((), random_state=0).fit(controls, controls[:, :2])  # a device that it knows
    twin.trust_ = np.full(2, trust)
    twin.partial_fit(controls, controls[:, :2])
    assert len(steps) == n_steps


# ---- forgetting ----


def test_a_second_fit_is_as_good_as_a_first() -> None:
    controls, outputs = shots(100)
    once = NeuralTwin((8,), max_iter=2, random_state=0)
    twice = clone(once).fit(controls, -5 * outputs).partial_fit(controls, -5 * outputs)
    for twin in (once, twice):
        twin.fit(controls, outputs).partial_fit(*shots(50, seed=1))
    np.testing.assert_array_equal(twice.predict(controls), once.predict(controls))


def test_to_forget_is_to_leave_what_a_pickle_leaves() -> None:
    twin = NeuralTwin((8,), max_iter=2, random_state=0).fit(*shots(100)).partial_fit(*shots(50, seed=1))
    pickled = pickle.loads(pickle.dumps(twin))
    before = twin.predict(shots()[0])
    twin.forget()
    np.testing.assert_array_equal(twin.predict(shots()[0]), before)  # what was learned stays
    for each in (twin, pickled):
        each.partial_fit(*shots(50, seed=2))
    np.testing.assert_array_equal(twin.predict(shots()[0]), pickled.predict(shots()[0]))


# ---- whom it draws ----


@given(st.lists(st.integers(0, 2), min_size=1, max_size=8).filter(any))  # as few that i / total * total is exact
def test_shots_are_drawn_as_often_as_their_weights_say(weights: list[int]) -> None:
    total = sum(weights)
    rows = drawn(np.array(weights, dtype=float), np.arange(total) / total)
    np.testing.assert_array_equal(rows, np.repeat(np.arange(len(weights)), weights))


def test_few_shots_of_many_channels_give_the_same_linear_path(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    controls, weight = rng.uniform(-1, 1, (30, 50)), rng.uniform(0, 2, 30)
    outputs = np.tanh(controls @ rng.normal(size=(50, 4)))
    made = []
    for most in (1000, 10):
        monkeypatch.setattr(neural_module, "_MOST_FEATURES_AT_ONCE", most)
        made.append(neural_module.build_module([50, 4], controls, outputs, weight, np.random.RandomState(0), "cpu"))
    by_feature, by_shot = (module.linear.weight.detach().numpy() for module in made)
    np.testing.assert_allclose(by_shot, by_feature, rtol=1e-9, atol=1e-12)
    assert np.abs(by_feature).max() > 0.1


def test_many_channels_of_few_shots_are_solved_by_the_shots(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, ...]] = []
    solve = torch.linalg.solve

    def noted(matrix: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        sizes.append(tuple(matrix.shape))
        return solve(matrix, right)

    monkeypatch.setattr(torch.linalg, "solve", noted)
    controls = np.random.default_rng(0).uniform(-1, 1, (50, 3000))
    neural_module.build_module([3000, 2], controls, controls[:, :2], np.ones(50), np.random.RandomState(0), "cpu")
    assert sizes == [(50, 50)]
