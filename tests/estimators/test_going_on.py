"""What goes on with a fitted network: the step of ``partial_fit``, what it refuses, and which rows stay held out."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from skpat import PhysicalNetworkClassifier, PhysicalNetworkRegressor, as_device
from skpat.devices import SecondHarmonicLaser
from tests.estimators.small_network import IRIS, Watched, same, small


def last_step(network: Any) -> float:
    """The step size that the last batch was trained with."""
    return float(network._optimizer_state["param_groups"][0]["lr"])


@pytest.mark.parametrize("max_iter", [1, 3])
def test_the_step_of_a_partial_fit_is_the_parameter_whatever_came_before(max_iter: int) -> None:
    X, y = IRIS
    network = small(max_iter=max_iter, learning_rate_init=0.02).fit(X, y)
    assert last_step(network) < 0.01
    assert last_step(network.partial_fit(X, y)) == 0.02
    other = copy.deepcopy(network).set_params(learning_rate_init=0.5)
    assert last_step(other.partial_fit(X, y)) == 0.5
    assert not same(other.weights_, network.partial_fit(X, y).weights_)


def test_a_network_that_was_fitted_learns_other_labels_as_soon_as_one_that_was_not() -> None:
    X, y = load_iris(return_X_y=True)
    device = SecondHarmonicLaser(n_controls=16, n_outputs=8, n_steps=2)
    fitted = PhysicalNetworkClassifier(device, gradient="exact", max_iter=20, random_state=0).fit(X, y)
    for _ in range(20):
        fitted.partial_fit(X, (y + 1) % 3)
    assert fitted.score(X, (y + 1) % 3) > 0.8


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize(
    ("kind", "params", "message"),
    [
        (
            PhysicalNetworkClassifier,
            {"early_stopping": True},
            r"'early_stopping' must be False for partial_fit.*Got True",
        ),
        (
            PhysicalNetworkRegressor,
            {"early_stopping": True},
            r"'early_stopping' must be False for partial_fit.*Got True",
        ),
        (
            PhysicalNetworkClassifier,
            {"class_weight": "balanced"},
            r"'class_weight' must be weights or None for partial_fit",
        ),
    ],
)
def test_what_a_part_of_the_rows_cannot_give_is_refused(kind: type, params: Any, message: str, fitted: bool) -> None:
    X, y = IRIS
    device = Watched()
    network = small(kind, device=device)
    if fitted:
        network.fit(X, y)
    device.sent.clear()
    network.set_params(**params)
    with pytest.raises(ValueError, match=message):
        network.partial_fit(X, y)
    assert not device.sent
    assert hasattr(network, "weights_") == fitted


@given(copies=st.integers(1, 6), share=st.sampled_from([0.1, 0.25]), seed=st.integers(0, 3))
@settings(max_examples=8, deadline=None)
def test_of_equal_rows_as_many_stay_held_out_as_were(copies: int, share: float, seed: int) -> None:
    X, y = (np.repeat(part[::3], copies, axis=0) for part in IRIS)
    network = small(
        gradient="exact", device=SecondHarmonicLaser(6, 4, n_steps=2), warm_start=True, early_stopping=True,
        validation_fraction=share, max_iter=1, random_state=seed,
    )  # fmt: skip
    first = network.fit(X, y)._held_out_keys
    for rows in (slice(None), slice(None, None, -1)):
        again = network.fit(X[rows], y[rows])._held_out_keys
        np.testing.assert_array_equal(np.sort(again), np.sort(first))


def test_a_rare_class_is_named_as_the_user_does() -> None:
    X, _ = IRIS
    y = np.where(np.arange(len(X)) == 7, "rare", "common")
    with pytest.raises(ValueError, match=r"too few members are: \['rare'\]"):
        small(early_stopping=True).fit(X, y)


def test_after_a_fit_that_failed_nothing_calls_the_estimator_fitted() -> None:
    X, y = IRIS
    n_calls = 0

    def lamp(controls: np.ndarray) -> np.ndarray:
        nonlocal n_calls
        n_calls += 1
        if n_calls > 4:
            raise RuntimeError("the lamp is out")
        return np.tanh(controls)

    network = small(device=as_device(lamp, n_controls=6, n_outputs=6, bounds=(-1, 1)))
    with pytest.raises(RuntimeError, match="the lamp is out"):
        network.fit(X, y)
    assert ">Fitted<" not in network._repr_html_()
    for ask in (check_is_fitted, lambda network: network.predict(X)):
        with pytest.raises(NotFittedError):
            ask(network)


# ---- weights of the rows that a fit is judged by ----


@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 5.0, 2: 0.5}])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_score_of_given_rows_is_weighted_as_the_training_is(class_weight: Any, weighted: bool) -> None:
    X, y = IRIS
    X_val, y_val = X[::2], np.where(y[::2] == 1, 1, y[::2])
    X_val, y_val = X_val[: -len(X_val) // 3], y_val[: -len(X_val) // 3]
    weight = np.random.default_rng(0).uniform(0.1, 9.0, len(X_val)) if weighted else None
    device = as_device(np.tanh, n_controls=8, n_outputs=8, bounds=(-1, 1))
    network = small(device=device, class_weight=class_weight, max_iter=1, learning_rate_init=1e-4)
    network.fit(X, y, X_val=X_val, y_val=y_val, sample_weight_val=weight)
    of_rows = network._reweight(y_val, np.ones(len(X_val)) if weight is None else weight)
    if class_weight == "balanced" and not weighted:
        totals = [of_rows[y_val == label].sum() for label in np.unique(y_val)]
        np.testing.assert_allclose(totals, totals[0])
    assert network.validation_scores_ == [pytest.approx(network.score(X_val, y_val, sample_weight=of_rows))]


def test_given_rows_of_no_weight_are_not_sent_and_r2_takes_weights() -> None:
    X = load_iris().data
    network = small(PhysicalNetworkRegressor, max_iter=2)
    weight = np.where(np.arange(40) % 2, 3.0, 0.0)
    network.fit(X[40:], X[40:, 0], X_val=X[:40], y_val=X[:40, 0], sample_weight_val=weight)
    assert network.shots_["validation"] == 20 * 2
    alone = small(PhysicalNetworkRegressor, max_iter=2).fit(X[40:], X[40:, 0], X_val=X[1:40:2], y_val=X[1:40:2, 0])
    np.testing.assert_allclose(network.validation_scores_, alone.validation_scores_, rtol=1e-12)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sample_weight_val": [1.0]}, "'sample_weight_val' must come with 'X_val' and 'y_val'"),
        ({"X_val": IRIS[0]}, "'X_val' and 'y_val' must be given together"),
    ],
)
def test_weights_without_rows_and_rows_without_weight_are_refused(given: Any, message: str) -> None:
    device = Watched()
    device.sent.clear()
    with pytest.raises(ValueError, match=message):
        small(device=device).fit(*IRIS, **given)
    assert not device.sent


def test_given_rows_of_classes_without_weight_are_refused() -> None:
    X, y = IRIS
    device = Watched()
    device.sent.clear()
    with pytest.raises(ValueError, match=r"'X_val' must have a row of positive weight\. Got 0\. Nothing was sent"):
        small(device=device, class_weight={0: 0.0}).fit(X, y, X_val=X[y == 0], y_val=y[y == 0])
    assert not device.sent


def test_a_journal_tells_weights_of_validation_rows_apart_and_knows_a_fit_without_as_before(tmp_path: Any) -> None:
    X, y = IRIS
    rows = {"X_val": X[::3], "y_val": y[::3]}
    weights = (None, np.ones(25), np.arange(25.0) + 1)
    fits = [small(journal=tmp_path / "run.db").fit(X, y, **rows, sample_weight_val=weight) for weight in weights]
    assert all(network.ledger_.total for network in fits)  # each is another run
    for first, weight in zip(fits, weights, strict=True):
        again = small(journal=tmp_path / "run.db").fit(X, y, **rows, sample_weight_val=weight)
        assert again.ledger_.total == 0
        assert again.validation_scores_ == first.validation_scores_
    asked: list[Any] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("skpat.estimators.base.find_run", lambda *data, **how: asked.append(data[3]))
        small().fit(X, y, **rows)
    assert list(asked[0]) == ["sample_weight", "X_val", "y_val", "classes"]  # what the name of a run is made of


@pytest.mark.parametrize("weight", [[1.0, 2.0], np.full(25, -1.0), np.full(25, np.nan), np.zeros(25)])
def test_wrong_weights_of_validation_rows_are_named(weight: Any) -> None:
    X, y = IRIS
    device = Watched()
    device.sent.clear()
    with pytest.raises(
        ValueError, match=r"^'sample_weight_val' must be a weight for each of the 25 rows .*Nothing was sent"
    ):
        small(device=device).fit(X, y, X_val=X[::3], y_val=y[::3], sample_weight_val=weight)
    assert not device.sent


@pytest.mark.parametrize("gradient", ["physics_aware", "spsa"])
def test_a_journal_tells_an_estimator_that_was_loaded_from_the_one_that_was_saved(gradient: str, tmp_path: Any) -> None:
    """A twin that learns on has lost its shots: the training takes another course, which must not be taken for the first."""
    X, y = IRIS
    network = small(gradient=gradient, journal=tmp_path / "run.db").fit(X, y)
    saved = pickle.dumps(network)
    network.partial_fit(X, y)
    loaded, again = (pickle.loads(saved).partial_fit(X, y) for _ in range(2))
    assert same(loaded.weights_, again.weights_)
    assert same(loaded.weights_, network.weights_) == (gradient == "spsa")
    replayed = [made.ledger_.replayed["training"] for made in (network, loaded, again)]
    n_rows = len(X) * network._gradient.shots_per_row
    assert replayed == [0, n_rows if gradient == "spsa" else 0, n_rows]
