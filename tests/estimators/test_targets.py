"""Targets of a regressor: constant ones, those that begin to change, of any unit, and many of them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import r2_score

from skpat import PhysicalNetworkClassifier, PhysicalNetworkRegressor, as_device
from skpat.deployment import load
from skpat.exceptions import FarReadingWarning
from skpat.inspection.untrained_device import UntrainedDevice
from skpat.twins import NeuralTwin

RNG = np.random.default_rng(0)
WIRING = RNG.normal(size=(8, 6)) / 2
X = RNG.uniform(-1, 1, (120, 3))
F = np.sin(2 * X[:, 0]) + X[:, 1]


def bench(controls: np.ndarray) -> np.ndarray:
    return np.tanh(controls @ WIRING)


def regressor(**params: Any) -> PhysicalNetworkRegressor:
    device = as_device(bench, n_controls=8, n_outputs=6, bounds=(-1, 1))
    defaults = {"twin": NeuralTwin((8,), max_iter=10), "n_calibration_shots": 60, "max_iter": 8, "random_state": 0}
    return PhysicalNetworkRegressor(device, **(defaults | {"learning_rate_init": 0.03} | params))


@given(st.floats(-1e9, 1e9, allow_subnormal=False))
@settings(max_examples=5)
def test_a_constant_target_is_predicted_as_it_is(level: float) -> None:
    fitted = regressor(max_iter=2).fit(X, np.full(len(X), level))
    np.testing.assert_array_equal(fitted.predict(X[:5]), level)


def test_a_constant_beside_others_costs_them_nothing(tmp_path: Any) -> None:
    y = np.column_stack([F, np.full(len(X), 1e-6)])
    fitted = regressor(early_stopping=True).fit(X, y)
    np.testing.assert_array_equal(fitted.predict(X)[:, 1], 1e-6)
    fitted.deploy().save(tmp_path / "net.skpat")
    deployed = load(tmp_path / "net.skpat", fitted.device_)
    np.testing.assert_array_equal(deployed.predict(X), fitted.predict(X))
    assert UntrainedDevice(regressor()).fit(X, y).predict(X)[:, 1] == pytest.approx(1e-6)
    validated = regressor().fit(X[:80], y[:80], X_val=X[80:], y_val=y[80:])
    expected = r2_score(y[80:] / [1, 1e-6], validated.predict(X[80:]) / [1, 1e-6])  # 1 for the constant
    assert validated.best_validation_score_ == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("n_rows", [120, 24_000])
def test_what_varies_little_varies_however_many_rows_there_are(n_rows: int) -> None:
    repeats = n_rows // len(X)
    y = 1e7 + 1e-4 * F
    fitted = regressor(gradient="in_silico", max_iter=1).fit(np.tile(X, (repeats, 1)), np.tile(y, repeats))
    assert fitted._target_scale[0] == pytest.approx(1e-4 * F.std(), rel=1e-3)


@pytest.mark.parametrize("size", [1e3, 1e-3])
def test_a_target_that_begins_to_change_is_learned_from_then_on(size: float) -> None:
    y = size * F
    streamed = regressor(batch_size=20).partial_fit(X[:40], np.zeros(40))
    assert (streamed.predict(X) == 0).all()
    for _ in range(10):
        streamed.partial_fit(X, y)
    assert streamed.score(X, y) > 0.5
    other = regressor().partial_fit(X[:20], np.zeros(20)).partial_fit(X[:20], np.full(20, 3.0))
    assert other._target_scale[0] == 3.0  # from one constant to another


def test_rows_far_beyond_the_first_ones_are_told() -> None:
    fitted = regressor(warm_start=True, max_iter=1).fit(X, F)
    with pytest.warns(UserWarning, match=r"The targets must stay on the scale .* Got target 0 at .* times that scale"):
        fitted.fit(X, 1000 * F + 500)
    idle = X.copy()
    idle[:, 2] = 5000.0
    streamed = regressor().partial_fit(idle, F)
    busy = idle.copy()
    busy[:, 2] += 1000 * X[:, 2]
    with pytest.warns(UserWarning, match=r"The features of X must stay on the scale .* Got feature 2 at"):
        streamed.partial_fit(busy, F)
    device = as_device(bench, n_controls=8, n_outputs=6, bounds=(-1, 1))
    classes = PhysicalNetworkClassifier(device, max_iter=1, random_state=0).partial_fit(X, F > 0, classes=[0, 1])
    classes.partial_fit(X + 2, F > 0)  # a warning would be an error
    classes.partial_fit(X[:4] + 200, F[:4] > 0)  # so few rows may be an exception


def test_a_recalibration_leaves_a_constant_target_alone() -> None:
    y = np.column_stack([F, np.full(len(X), 5.0)])
    fitted = regressor().fit(X, y)
    before = fitted.predict(X)
    now = np.column_stack([F, 1000 + F])
    fitted.recalibrate(X, now, max_shots=400)
    assert fitted.recalibration_.loss_before < 5
    np.testing.assert_array_equal(fitted.predict(X)[:, 1], 5.0)
    assert np.abs(fitted.predict(X)[:, 0] - before[:, 0]).max() < 1
    for _ in range(10):
        fitted.partial_fit(X, now)
    assert np.abs(fitted.predict(X)[:, 1] - 1000).max() < 10


def test_a_target_that_has_hardly_begun_to_change_gets_its_scale_later() -> None:
    streamed = regressor().partial_fit(X, np.full(len(X), 5.0))
    streamed.partial_fit(X, np.append(np.full(len(X) - 1, 5.0), 5.0 + 1e-9))
    assert 0 < streamed._target_scale[0] < 1e-9
    streamed.partial_fit(X, 5 + F)
    assert streamed._target_scale[0] == pytest.approx(F.std())
    with pytest.warns(UserWarning, match="The targets must stay on the scale"):
        regressor().fit(X, F).partial_fit(X, 1e4 + F)  # one that changed from the first has it for good


@pytest.mark.parametrize("with_journal", [False, True])
@pytest.mark.parametrize("at", [0, 1])
def test_a_call_that_fails_leaves_the_scale_that_the_weights_belong_to(
    with_journal: bool, at: int, tmp_path: Any
) -> None:
    calls: list[int] = []

    def failing(controls: np.ndarray) -> np.ndarray:
        calls.append(len(controls))
        if len(calls) == calls[0]:
            raise RuntimeError("the end")
        return bench(controls)

    device = as_device(failing, n_controls=8, n_outputs=6, bounds=(-1, 1))
    streamed = regressor(batch_size=20, journal=tmp_path / "run.db" if with_journal else None).set_params(device=device)
    calls.append(-1)
    streamed.partial_fit(X, np.full(len(X), 5.0))
    calls[:] = [at + 2]
    with pytest.raises(RuntimeError, match="the end"):
        streamed.partial_fit(X, 1000 + F)
    calls[:] = [-1]
    np.testing.assert_array_equal(streamed.predict(X), 5.0)
    streamed.partial_fit(X, 1000 + F)
    assert streamed._target_mean[0] == pytest.approx((1000 + F).mean())


# ---- far readings ----


@pytest.mark.parametrize("first", [np.ones((60, 3)), np.vstack([np.ones((59, 3)), X[:1]]), X[:1]])
def test_rows_that_were_alike_make_no_far_reading(first: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FarReadingWarning)
        fitted = regressor(max_iter=2).partial_fit(first, F[: len(first)])
        fitted.partial_fit(X, F)


def test_one_reading_among_others_is_still_far() -> None:
    class Spikes:
        calls = 0

        def __call__(self, controls: np.ndarray) -> np.ndarray:
            Spikes.calls += 1
            answer = bench(controls)
            if Spikes.calls == 12:
                answer[3, 2] = 1e4
            return answer

    device = as_device(Spikes(), n_controls=8, n_outputs=6, bounds=(-1, 1))
    with pytest.warns(FarReadingWarning, match="10000 in output 2"):
        regressor(max_iter=4, batch_size=30).set_params(device=device).fit(X, F)
