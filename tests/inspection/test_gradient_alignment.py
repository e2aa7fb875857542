"""gradient_alignment: a fitted network's gradients against its device's."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skpat import PhysicalNetworkClassifier, PhysicalNetworkRegressor
from skpat.devices import SecondHarmonicLaser
from skpat.inspection import gradient_alignment
from skpat.lab import Session
from skpat.row_keys import hash_rows
from skpat.training import ExactGradient
from skpat.training.loss_probe import LossProbe
from skpat.training.trainer import Data
from skpat.twins import NeuralTwin, PhysicsTwin
from tests.combinations import mostly_slow

LASER = SecondHarmonicLaser(16, 12, n_steps=3)
SMALL_TWIN = NeuralTwin((8,), max_iter=5, n_refine_steps=1)


def data(n: int = 60, dtype: Any = np.float64) -> tuple[np.ndarray, np.ndarray]:
    X = np.random.RandomState(0).uniform(-1, 1, (n, 3)).astype(dtype)
    return X, (X[:, 0] * X[:, 1] > 0).astype(int)


def fitted(kind: type = PhysicalNetworkClassifier, dtype: Any = np.float64, **params: Any) -> Any:
    X, y = data(dtype=dtype)
    defaults = {"twin": SMALL_TWIN, "max_iter": 2, "n_calibration_shots": 300, "random_state": 0}
    return kind(LASER, **(defaults | params)).fit(X, y)


def test_a_pipeline_is_taken_too() -> None:
    X, y = data()
    alone = fitted(gradient="exact")
    pipeline = make_pipeline(FunctionTransformer(lambda X: X / 2), clone(alone)).fit(2 * X, y)
    found, same = gradient_alignment(pipeline, 2 * X, y), gradient_alignment(alone, X, y)
    assert (found.cosine, found.n_shots) == (same.cosine, same.n_shots)
    with pytest.raises(TypeError, match="must be a PhysicalNetworkClassifier"):
        gradient_alignment(FunctionTransformer(), X, y)


@pytest.mark.parametrize(
    ("encoder", "gradient"),
    [
        *mostly_slow(
            [("auto", "physics_aware"), ("auto", "spsa"), ("direct", "spsa"), ("patch", "physics_aware")],
            ["auto", "direct", "patch"],
            ["physics_aware", "spsa"],
        ),
        ("direct", "finite_differences"),  # the others have too many weights for them
    ],
)
def test_shots_are_those_that_the_documentation_says(encoder: str, gradient: str) -> None:
    X, y = np.random.default_rng(0).normal(size=(40, 12)), np.arange(40) % 2
    X = X[:, :3] if encoder == "direct" else X
    network = PhysicalNetworkClassifier(
        SecondHarmonicLaser(8, 6, n_steps=2), SMALL_TWIN, encoder=encoder, gradient=gradient, n_units=2, max_iter=1,
        n_calibration_shots=50, random_state=0,
    )  # fmt: skip
    network.fit(X, y)
    found = gradient_alignment(network, X, y, n_rows=20, n_directions=3)
    of_step = 0 if gradient == "physics_aware" else network._gradient.shots_per_row
    n_calls = network._network.n_calls
    assert found.n_shots <= 20 * (2 + 2 * 4 + of_step) * n_calls
    assert found.n_shots >= 20 * (2 + 2 * 4) * n_calls
    assert gradient_alignment(network, X, y, n_rows=16, n_directions=500).n_directions < 500


def true_cosine(network: Any, X: np.ndarray, y: np.ndarray) -> float:
    """With the exact gradient of the device without noise, over all rows."""
    targets = network._encode_targets(y, None, first=False)
    rows = network._ready(Data(X, targets, np.ones(len(X)), hash_rows(X)), set_scale=False)
    silent = copy.copy(network.device_).set_params(noise=0.0, energy_jitter=0.0, noise_floor=0.0)
    found = []
    for gradient in (None, ExactGradient()):
        with Session(network.device_ if gradient is None else silent) as session:
            trainer = network._make_trainer(session, len(X))
            trainer.gradient = trainer.gradient if gradient is None else gradient
            found.append(np.concatenate([part.ravel() for part in LossProbe(trainer, rows).gradient.values()]))
    a, b = found
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("gradient", ["physics_aware", "in_silico", "exact"])
@pytest.mark.parametrize("kind", [PhysicalNetworkClassifier, PhysicalNetworkRegressor])
def test_the_cosine_is_the_true_one_within_its_error(kind: type, gradient: str) -> None:
    X, y = data()
    network = fitted(kind, gradient=gradient, n_layers=2)
    found = gradient_alignment(network, X, y, n_rows=60, n_directions=12)
    assert abs(found.cosine - true_cosine(network, X, y)) < 3 * found.standard_error + 0.02
    assert found.standard_error < 0.2
    assert len(found.layer_cosines) == len(found.layer_standard_errors) == 2


def test_the_exact_gradient_is_aligned_and_a_twin_without_shots_is_not() -> None:
    X, y = data()
    exact = gradient_alignment(fitted(gradient="exact"), X, y, n_rows=60)
    wrong = SecondHarmonicLaser(16, 12, n_steps=3, chirp=0.0, walk_off=0.0, coupling=2.0)
    believed = gradient_alignment(fitted(twin=PhysicsTwin(wrong), n_calibration_shots=0), X, y, n_rows=60)
    assert exact.cosine > 0.85
    assert believed.cosine < exact.cosine - 2 * exact.standard_error
    assert "layer 0" in str(exact)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shots_are_counted_and_the_network_stays(dtype: Any) -> None:
    X, y = data(dtype=dtype)
    network = fitted(dtype=dtype, twin=SMALL_TWIN, n_units=2, n_shots=2)
    before = pickle.dumps((network.weights_, network.twin_.predict(np.full((2, 16), 0.5))))
    counted = network.shots_
    found = gradient_alignment(network, X.tolist(), y, n_rows=16, n_directions=3)
    assert found.n_shots == 16 * (2 + 2 * 4) * 2 * 2
    assert network.shots_ == counted | {"calibration": counted["calibration"] + found.n_shots}
    assert pickle.dumps((network.weights_, network.twin_.predict(np.full((2, 16), 0.5)))) == before


def test_weights_of_the_rows_count_as_in_the_training() -> None:
    X, y = data()
    network = fitted(gradient="exact")
    some = np.arange(len(X)) % 2 == 0
    alone = gradient_alignment(network, X[some], y[some], n_rows=len(X))
    weighted = gradient_alignment(network, X, y, 3.0 * some, n_rows=len(X))
    assert weighted.cosine == pytest.approx(alone.cosine, rel=1e-6)
    assert weighted.n_rows == some.sum()
    assert gradient_alignment(network, X, y, n_rows=len(X)).cosine != alone.cosine


def test_it_repeats_bit_for_bit_and_works_on_an_unpickled_network() -> None:
    X, y = data()
    network = fitted(twin=SMALL_TWIN)
    found = [gradient_alignment(pickle.loads(pickle.dumps(network)), X, y, random_state=1) for _ in range(2)]
    assert found[0] == found[1]
    assert gradient_alignment(network, X, y, random_state=None).n_shots == found[0].n_shots


def test_the_global_random_state_is_left_alone() -> None:
    X, y = data()
    network = fitted(twin=SMALL_TWIN)
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    gradient_alignment(network, X, y, random_state=None)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_rows": 15}, "'n_rows' of gradient_alignment must be an int of at least 16"),
        ({"n_directions": 1}, "'n_directions' of gradient_alignment"),
    ],
)
def test_parameters_are_checked_before_anything_is_sent(parameters: dict[str, Any], message: str) -> None:
    X, y = data()
    network = fitted(twin=SMALL_TWIN)
    counted = network.shots_
    with pytest.raises(ValueError, match=message):
        gradient_alignment(network, X, y, **parameters)
    assert network.shots_ == counted


def test_an_unfitted_network_is_refused() -> None:
    X, y = data()
    with pytest.raises(NotFittedError, match="not fitted"):
        gradient_alignment(PhysicalNetworkClassifier(LASER), X, y)


def test_rows_without_weight_are_refused() -> None:
    X, y = load_iris(return_X_y=True)
    network = PhysicalNetworkClassifier(
        LASER, gradient="exact", class_weight={0: 0.0, 1: 1.0, 2: 4.0}, max_iter=1, random_state=0
    ).fit(X, y)
    shots = network.ledger_.total
    with pytest.raises(ValueError, match="must have rows of positive weight"):
        gradient_alignment(network, X[y == 0], y[y == 0])
    assert network.ledger_.total == shots
    assert np.isfinite(gradient_alignment(network, X, y).cosine)
