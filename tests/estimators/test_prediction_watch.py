"""What a prediction says of rows and readings that are nothing like those of the training."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skpat import Device, as_device
from skpat.controls import ChannelSplit
from skpat.exceptions import DeadDeviceWarning, FarReadingWarning
from skpat.network import PatchEncoder
from skpat.network.forward import Network, forward
from skpat.network.prediction_watch import PredictionWatch
from tests.estimators.small_network import IRIS, small

SWITCHES = {"gain": 1.0, "offset": 0.0}  # beside the device, as a knob on its front is


def measure(controls: np.ndarray) -> np.ndarray:
    return SWITCHES["gain"] * np.sin(3 * controls[:, :4] + controls[:, 4:8]) + SWITCHES["offset"]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in SWITCHES.items():
        monkeypatch.setitem(SWITCHES, name, value)
    return monkeypatch


def device() -> Device:
    return as_device(measure, n_controls=12, n_outputs=4, bounds=(0, 1))


def predictors(**params: Any) -> list[Any]:
    network = small(device=device(), max_iter=1, **params).fit(*IRIS)
    return [network, network.deploy()]


@pytest.mark.parametrize("encoder", ["linear", "direct"])
def test_rows_that_were_not_scaled_are_told(encoder: str, bench: pytest.MonkeyPatch) -> None:
    X = IRIS[0].copy()
    for network in predictors(encoder=encoder):
        network.predict(X)
        expected = network.predict_proba(X)
        X[:, 2] *= 1000
        with pytest.warns(UserWarning, match="Got feature 2 more than 30 times that scale from its mean") as caught:
            network.predict(X)
        assert [(warning.category, warning.filename) for warning in caught] == [(UserWarning, __file__)]
        network.predict(X[:7])  # too few to say so
        X[:, 2] /= 1000
        X[:30, 1] = 1e4  # less than half of them
        assert np.isfinite(network.predict_proba(X)).all()
        X[:] = IRIS[0]
        np.testing.assert_allclose(network.predict_proba(X), expected)


@pytest.mark.parametrize("n_layers", [1, 2])
def test_a_device_that_has_died_since_the_fit_is_told(n_layers: int, bench: pytest.MonkeyPatch) -> None:
    for network in predictors(n_layers=n_layers):
        bench.setitem(SWITCHES, "gain", 0.0)
        with pytest.warns(DeadDeviceWarning, match="same 4 outputs for 75 different rows, in layer 0 ") as caught:
            network.predict(IRIS[0])
        assert [warning.filename for warning in caught] == [__file__]  # once, not again in the second layer
        with pytest.warns(DeadDeviceWarning) as caught:
            network.predict(np.tile(IRIS[0], (20, 1)))
        assert len(caught) == 1  # of two pieces
        rng = np.random.default_rng(0)
        network.predict(
            IRIS[0][:1] + 1e-4 * rng.standard_normal((20, 4))
        )  # too near each other for a coarse instrument
        network.predict(np.repeat(IRIS[0][:1], 20, axis=0))  # equal rows may have equal answers
        network.predict(IRIS[0][:7])
        bench.setitem(SWITCHES, "gain", 1.0)
        network.predict(IRIS[0])


@pytest.mark.parametrize("alive", [[], [1], [0, 2]])
def test_a_unit_that_says_nothing_is_no_dead_device(alive: list[int]) -> None:
    split = ChannelSplit(6, np.arange(3), np.arange(3, 6), np.empty(0, dtype=int), np.empty(0))
    rng = np.random.default_rng(0)
    network = Network(split=split, bounds=np.array([[0.0, 1.0]] * 6), n_features=4, n_outputs=2, n_targets=2, n_units=3)
    X = rng.standard_normal((20, 4))
    weights = network.initial_weights(X, np.ones(20), np.random.RandomState(0))

    def run(batch: Any, layer: int, unit: int) -> np.ndarray:
        return rng.standard_normal((20, 2)) if unit in alive else np.zeros((20, 2))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        forward(network, weights, X, PredictionWatch(network, weights).over(X, run))
    assert [warning.category for warning in caught] == ([] if alive else [DeadDeviceWarning])


@pytest.mark.parametrize(("knob", "value"), [("gain", 1e3), ("offset", -1e3)])
def test_readings_on_another_scale_are_told(knob: str, value: float, bench: pytest.MonkeyPatch) -> None:
    for network in predictors(n_layers=2):
        bench.setitem(SWITCHES, knob, value)
        with pytest.warns(FarReadingWarning, match="output . in layer 0 .the first is 0. more than 30 times") as caught:
            network.predict(IRIS[0])
        assert [warning.filename for warning in caught] == [__file__]
        bench.setitem(SWITCHES, knob, {"gain": 1.0, "offset": 0.0}[knob])
        network.predict(IRIS[0])


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 3), st.booleans(), st.floats(-6, 6))
def test_readings_like_those_of_the_training_pass_unchanged(
    seed: int, n_layers: int, n_units: int, patches: bool, magnitude: float
) -> None:
    rng = np.random.default_rng(seed)
    split = ChannelSplit(6, np.arange(3), np.arange(3, 6), np.empty(0, dtype=int), np.empty(0))
    network = Network(
        split=split,
        bounds=np.array([[0.0, 1.0]] * 6),
        n_features=12,
        n_outputs=4,
        n_targets=2,
        n_layers=n_layers,
        n_units=n_units,
        encoder=PatchEncoder((1, 12), (1, 3)) if patches else "linear",
    )
    X = 10**magnitude * rng.standard_normal((40, 12))
    weights = network.initial_weights(X, np.ones(40), np.random.RandomState(seed % 1000))
    for layer in range(n_layers):
        size = weights[f"layers.{layer}.mean"].shape
        weights[f"layers.{layer}.mean"] = rng.standard_normal(size) * 10**magnitude
        weights[f"layers.{layer}.scale"] = 10 ** rng.uniform(-1, 1, size)

    def run(batch: Any, layer: int, unit: int) -> np.ndarray:
        of_unit = slice(4 * unit, 4 * unit + 4)
        noise = np.random.default_rng(layer + 7 * unit).standard_normal((batch.n_rows, 4))
        return weights[f"layers.{layer}.mean"][of_unit] + noise * weights[f"layers.{layer}.scale"][of_unit]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seen = forward(network, weights, X, PredictionWatch(network, weights).over(X, run))
    np.testing.assert_array_equal(seen, forward(network, weights, X, run))
