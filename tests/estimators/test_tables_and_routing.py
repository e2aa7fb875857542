"""Tables of pandas and polars, set_output before the network, and scikit-learn's metadata routing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from skpat import PhysicalNetworkClassifier, PhysicalNetworkRegressor
from skpat.devices import SecondHarmonicLaser

X, Y = (part[::2] for part in load_iris(return_X_y=True))
NAMES = ["sepal length", "sepal width", "petal length", "petal width"]


def small(kind: type = PhysicalNetworkClassifier, **params: Any) -> Any:
    defaults: dict[str, Any] = {"gradient": "exact", "max_iter": 2, "learning_rate_init": 0.05, "random_state": 0}
    return kind(SecondHarmonicLaser(16, 12, n_steps=2, noise=0, noise_floor=0, energy_jitter=0), **(defaults | params))


@pytest.fixture
def routing() -> Iterator[None]:
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def table(library: str, columns: dict[str, np.ndarray]) -> Any:
    if library == "pandas":
        return pd.DataFrame(columns)
    return pytest.importorskip("polars", reason="a table of polars").DataFrame(columns)


@pytest.mark.parametrize("kind", [PhysicalNetworkClassifier, PhysicalNetworkRegressor])
@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_table_is_its_numbers_and_its_names(library: str, kind: type) -> None:
    frame, targets = table(library, dict(zip(NAMES, X.T, strict=True))), table(library, {"species": Y})["species"]
    plain, named = small(kind).fit(X, Y), small(kind).fit(frame, targets, X_val=frame, y_val=targets)
    assert named.feature_names_in_.tolist() == NAMES
    assert named.shots_["validation"] == 2 * len(X)
    np.testing.assert_array_equal(small(kind).fit(frame, targets).predict(frame), plain.predict(X))
    with pytest.raises(ValueError, match="feature names"):
        named.predict(frame[NAMES[::-1]])


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_scaler_with_set_output_hands_its_names_on(library: str) -> None:
    frame = table(library, dict(zip(NAMES, X.T, strict=True)))
    pipeline = Pipeline([("scale", StandardScaler()), ("network", small(max_iter=5))]).set_output(transform=library)
    pipeline.fit(frame, Y)
    assert pipeline["network"].feature_names_in_.tolist() == NAMES
    assert pipeline.score(frame, Y) > 0.5


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_table_of_labels(library: str) -> None:
    targets = table(library, {str(label): (label == Y).astype(int) for label in range(3)})
    assert small(max_iter=10).fit(X, targets).predict(X).shape == (75, 3)


def test_nothing_is_routed_that_was_not_asked_for(routing: None) -> None:
    with pytest.raises(ValueError, match="not explicitly set as requested or not requested"):
        cross_validate(small(), X, Y, params={"sample_weight": np.ones(len(X))}, error_score="raise")


def test_weights_reach_fit_and_score_through_a_search_of_a_pipeline(routing: None) -> None:
    network = small().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
    pipeline = Pipeline([("scale", StandardScaler().set_fit_request(sample_weight=False)), ("network", network)])
    only_two = (Y < 2).astype(float)  # the third class weighs nothing
    search = GridSearchCV(pipeline, {"network__max_iter": [10]}, cv=3).fit(X, Y, sample_weight=only_two)
    assert search.best_estimator_["network"].shots_["training"] == 10 * 50  # a row of no weight is never sent
    assert search.best_score_ > 0.95
    assert search.score(X, Y) < 0.7


def test_validation_data_go_through_the_steps_before_the_network(routing: None) -> None:
    network = small(max_iter=5).set_fit_request(X_val=True, y_val=True)
    pipeline = Pipeline([("scale", StandardScaler()), ("network", network)], transform_input=["X_val"])
    pipeline.fit(X[::2], Y[::2], X_val=X[1::2], y_val=Y[1::2])
    fitted = pipeline["network"]
    assert fitted.shots_["validation"] == 5 * 37
    assert fitted.best_validation_score_ == pipeline.score(X[1::2], Y[1::2])  # scaled in both, on a laser without noise


def test_partial_fit_routes_its_classes(routing: None) -> None:
    request = small().set_partial_fit_request(classes=True, sample_weight=True)._get_metadata_request()
    assert request.partial_fit.requests == {"classes": True, "sample_weight": True}
