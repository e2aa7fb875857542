"""Inside scikit-learn's meta-estimators, on real data: each result is beyond what a dummy, or a broken composition, reaches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import randint
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_linnerud, load_wine
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    BaggingRegressor,
    StackingClassifier,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_selection import RFE, SequentialFeatureSelector
from sklearn.frozen import FrozenEstimator
from sklearn.inspection import partial_dependence, permutation_importance
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, recall_score
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    TunedThresholdClassifierCV,
    cross_validate,
    learning_curve,
    train_test_split,
    validation_curve,
)
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier, MultiOutputRegressor, RegressorChain
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, StandardScaler

from skpat import PhysicalNetworkClassifier, PhysicalNetworkRegressor
from skpat.devices import SecondHarmonicLaser

LASER = SecondHarmonicLaser(24, 16, n_steps=2)


def classifier(**params: Any) -> PhysicalNetworkClassifier:
    defaults: dict[str, Any] = {"gradient": "exact", "max_iter": 8, "learning_rate_init": 0.05, "random_state": 0}
    return PhysicalNetworkClassifier(LASER, **(defaults | params))


def regressor(**params: Any) -> PhysicalNetworkRegressor:
    defaults: dict[str, Any] = {"gradient": "exact", "max_iter": 8, "learning_rate_init": 0.05, "random_state": 0}
    return PhysicalNetworkRegressor(LASER, **(defaults | params))


def halves(load: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scaled data of two halves: X_train, X_test, y_train, y_test."""
    X, y = load(return_X_y=True)
    stratify = y if y.ndim == 1 and len(np.unique(y)) < 5 else None
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.5, random_state=0, stratify=stratify)
    scaler = StandardScaler().fit(X_train)
    return scaler.transform(X_train), scaler.transform(X_test), y_train, y_test


IRIS, WINE, CANCER = halves(load_iris), halves(load_wine), halves(load_breast_cancer)
DIABETES, LINNERUD = halves(load_diabetes), halves(load_linnerud)


# ---- pipelines and columns ----


def test_pipeline() -> None:
    X, y = load_wine(return_X_y=True)  # columns from 0.1 to 1700: hopeless without the scaler
    assert make_pipeline(StandardScaler(), classifier()).fit(X[::2], y[::2]).score(X[1::2], y[1::2]) > 0.9


def test_column_transformer_of_numbers_and_names() -> None:
    X, y = load_iris(return_X_y=True)
    frame = pd.DataFrame(X[:, :2], columns=["length", "width"])
    frame["petal"] = np.where(X[:, 2] > 4.9, "long", np.where(X[:, 2] > 2.5, "middle", "short"))
    columns = ColumnTransformer(
        [("numbers", StandardScaler(), ["length", "width"]), ("names", OneHotEncoder(), ["petal"])]
    )
    pipeline = make_pipeline(columns, classifier()).fit(frame[::2], y[::2])
    assert pipeline.score(frame[1::2], y[1::2]) > 0.85  # the two numbers alone allow 0.8
    assert pipeline[-1].n_features_in_ == 5


# ---- searches and curves ----


def test_grid_search() -> None:
    X_train, X_test, y_train, y_test = IRIS
    search = GridSearchCV(classifier(), {"learning_rate_init": [1e-6, 0.05]}, cv=2).fit(X_train, y_train)
    assert search.best_params_ == {"learning_rate_init": 0.05}
    assert search.score(X_test, y_test) > 0.85


def test_randomized_search() -> None:
    X_train, X_test, y_train, y_test = IRIS
    space = {"max_iter": randint(1, 12), "learning_rate_init": [1e-6, 0.05]}
    search = RandomizedSearchCV(classifier(), space, n_iter=4, cv=2, random_state=0).fit(X_train, y_train)
    assert {params["learning_rate_init"] for params in search.cv_results_["params"]} == {1e-6, 0.05}
    assert search.best_params_["learning_rate_init"] == 0.05
    assert search.score(X_test, y_test) > 0.85


def test_halving_search_with_rows_as_the_resource() -> None:
    X_train, X_test, y_train, y_test = CANCER
    grid = {"learning_rate_init": [1e-6, 1e-5, 0.05]}
    search = HalvingGridSearchCV(classifier(max_iter=3), grid, factor=3, min_resources=60, cv=2, random_state=0)
    search.fit(X_train, y_train)
    assert search.n_resources_ == [60, 180]
    assert search.best_params_ == {"learning_rate_init": 0.05}
    assert search.score(X_test, y_test) > 0.85


def test_cross_validate() -> None:
    X_train, _, y_train, _ = WINE
    found = cross_validate(classifier(), X_train, y_train, cv=3, scoring=["accuracy", "neg_log_loss", "roc_auc_ovr"])
    assert found["test_accuracy"].min() > 0.8
    assert found["test_neg_log_loss"].min() > -0.7  # -1.1 for a dummy
    assert found["test_roc_auc_ovr"].min() > 0.95


def test_learning_curve_rises() -> None:
    X_train, _, y_train, _ = CANCER
    sizes, _, scores = learning_curve(
        classifier(max_iter=4), X_train, y_train, train_sizes=[8, 140], cv=2, shuffle=True, random_state=0
    )
    assert sizes.tolist() == [8, 140]
    assert scores[1].mean() > max(scores[0].mean(), 0.88)


def test_validation_curve_over_epochs() -> None:
    X_train, _, y_train, _ = IRIS
    _, scores = validation_curve(classifier(), X_train, y_train, param_name="max_iter", param_range=[1, 15], cv=2)
    assert scores[1].mean() > scores[0].mean() + 0.05
    assert scores[1].mean() > 0.85


# ---- looking inside ----


def test_permutation_importance_finds_the_feature_that_matters() -> None:
    X_train, X_test, y_train, y_test = IRIS
    rng = np.random.default_rng(0)
    with_noise = [np.column_stack([X[:, 2:], rng.standard_normal((len(X), 2))]) for X in (X_train, X_test)]
    network = classifier().fit(with_noise[0], y_train)
    found = permutation_importance(network, with_noise[1], y_test, n_repeats=3, random_state=0).importances_mean
    assert found[:2].sum() > 0.3
    assert np.abs(found[2:]).max() < 0.1


def test_partial_dependence_rises_with_the_body_mass_index() -> None:
    X_train, _, y_train, _ = DIABETES
    network = regressor().fit(X_train, y_train)
    found = partial_dependence(network, X_train[:40], [2], grid_resolution=5)["average"][0]
    assert found[-1] - found[0] > 20  # the targets' standard deviation is 77
    petals = IRIS[0][:, 2:]
    network = classifier(max_iter=15).fit(petals, IRIS[2])
    both = partial_dependence(network, petals, [0], grid_resolution=4, response_method="predict_proba")
    assert both["average"].shape == (3, 4)
    assert both["average"][0, 0] > both["average"][0, -1] + 0.2  # short petals: the first species
    np.testing.assert_allclose(both["average"].sum(axis=0), 1)


# ---- selection of features ----


def test_recursive_elimination_with_an_importance_getter() -> None:
    X_train, X_test, y_train, y_test = IRIS
    rng = np.random.default_rng(0)
    train, test = (np.column_stack([rng.standard_normal((len(X), 3)), X[:, 2:]]) for X in (X_train, X_test))

    def importance(network: PhysicalNetworkClassifier) -> np.ndarray:
        return np.linalg.norm(network.weights_["encoder.coef"], axis=1)

    selection = RFE(classifier(max_iter=15), n_features_to_select=2, importance_getter=importance).fit(train, y_train)
    assert selection.support_.tolist() == [False] * 3 + [True] * 2
    assert selection.score(test, y_test) > 0.8


def test_sequential_selection() -> None:
    X_train, _, y_train, _ = IRIS
    rng = np.random.default_rng(0)
    train = np.column_stack([rng.standard_normal((len(X_train), 2)), X_train[:, 2:3]])
    selection = SequentialFeatureSelector(classifier(max_iter=4), n_features_to_select=1, cv=2).fit(train, y_train)
    assert selection.get_support().tolist() == [False, False, True]


# ---- around a classifier ----


@pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
def test_calibration(method: str) -> None:
    X_train, X_test, y_train, y_test = CANCER
    calibrated = CalibratedClassifierCV(classifier(max_iter=4), method=method, cv=2).fit(X_train, y_train)
    assert calibrated.score(X_test, y_test) > 0.9
    loss = log_loss(y_test, np.clip(calibrated.predict_proba(X_test), 0.01, 0.99))
    assert loss < 0.3  # 0.66 for a dummy


def test_frozen_estimator_is_not_trained_again() -> None:
    X_train, X_test, y_train, y_test = CANCER
    network = classifier(max_iter=4).fit(X_train, y_train)
    before = {name: value.copy() for name, value in network.weights_.items()}
    calibrated = CalibratedClassifierCV(FrozenEstimator(network)).fit(X_test, y_test)
    assert calibrated.score(X_train, y_train) > 0.9
    assert all(np.array_equal(before[name], value) for name, value in network.weights_.items())
    assert network.shots_["training"] == 4 * len(X_train)


def test_threshold_tuned_for_recall() -> None:
    X_train, X_test, y_train, y_test = CANCER
    rare = np.flatnonzero((y_train == 0) | (np.arange(len(y_train)) % 6 == 0))  # few of class 1
    plain = classifier(max_iter=3).fit(X_train[rare], y_train[rare])
    tuned = TunedThresholdClassifierCV(classifier(max_iter=3), scoring="balanced_accuracy", cv=3, random_state=0)
    tuned.fit(X_train[rare], y_train[rare])
    assert recall_score(y_test, tuned.predict(X_test)) >= recall_score(y_test, plain.predict(X_test))
    assert tuned.best_score_ > 0.8  # 0.5 for a dummy
    assert 0 < tuned.best_threshold_ < 1


def test_stacking() -> None:
    X_train, X_test, y_train, y_test = WINE
    stack = StackingClassifier(
        [("device", classifier()), ("linear", LogisticRegression())], LogisticRegression(), cv=2
    ).fit(X_train, y_train)
    assert stack.score(X_test, y_test) > 0.9
    assert stack.final_estimator_.coef_.shape == (3, 6)
    assert np.abs(stack.final_estimator_.coef_[:, :3]).max() > 0.3  # the device is listened to


def test_bagging() -> None:
    X_train, X_test, y_train, y_test = WINE
    bag = BaggingClassifier(classifier(), n_estimators=3, max_features=0.8, random_state=0, oob_score=False)
    assert bag.fit(X_train, y_train).score(X_test, y_test) > 0.9
    assert len({member.random_state for member in bag.estimators_}) == 3
    X_train, X_test, y_train, y_test = DIABETES
    assert (
        BaggingRegressor(regressor(), n_estimators=2, random_state=0).fit(X_train, y_train).score(X_test, y_test) > 0.3
    )


def test_voting() -> None:
    X_train, X_test, y_train, y_test = WINE
    members = [("one", classifier()), ("two", classifier(n_layers=2, random_state=1)), ("linear", LogisticRegression())]
    vote = VotingClassifier(members, voting="soft").fit(X_train, y_train)
    assert vote.score(X_test, y_test) > 0.9
    mean = np.mean([member.predict_proba(X_test) for member in vote.estimators_], axis=0)
    np.testing.assert_allclose(vote.predict_proba(X_test), mean)
    X_train, X_test, y_train, y_test = DIABETES
    both = VotingRegressor([("device", regressor()), ("linear", Ridge())]).fit(X_train, y_train)
    assert both.score(X_test, y_test) > 0.35


def test_boosting_hands_on_its_weights() -> None:
    X_train, X_test, y_train, y_test = IRIS
    boosted = AdaBoostClassifier(classifier(max_iter=4), n_estimators=3, random_state=0).fit(X_train, y_train)
    assert len(boosted.estimators_) == 3
    first, second = (member.predict_proba(X_test) for member in boosted.estimators_[:2])
    assert np.abs(first - second).max() > 0.05  # other weights, another network
    assert boosted.score(X_test, y_test) > 0.85


@pytest.mark.parametrize(("kind", "n_members"), [(OneVsRestClassifier, 3), (OneVsOneClassifier, 3)])
def test_many_classes_from_two(kind: type, n_members: int) -> None:
    X_train, X_test, y_train, y_test = WINE
    network = kind(classifier()).fit(X_train, y_train)
    assert len(network.estimators_) == n_members
    assert all(len(member.classes_) == 2 for member in network.estimators_)
    assert network.score(X_test, y_test) > 0.9


# ---- several targets ----


def iris_labels() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two labels of an iris: whether it is a versicolor or virginica, whether its sepals are wide."""
    X_train, X_test, y_train, y_test = IRIS
    labels = [np.column_stack([y > 0, X[:, 1] > 0]).astype(int) for X, y in ((X_train, y_train), (X_test, y_test))]
    return X_train, X_test, labels[0], labels[1]


@pytest.mark.parametrize("kind", [ClassifierChain, MultiOutputClassifier])
def test_several_labels(kind: type) -> None:
    X_train, X_test, Y_train, Y_test = iris_labels()
    network = kind(classifier()).fit(X_train, Y_train)
    assert (network.predict(X_test) == Y_test).all(axis=1).mean() > 0.8  # at most 0.4 for one answer to all
    if kind is ClassifierChain:
        assert [member.n_features_in_ for member in network.estimators_] == [4, 5]


def test_several_labels_without_any_meta_estimator() -> None:
    X_train, X_test, Y_train, Y_test = iris_labels()
    assert classifier().fit(X_train, Y_train).score(X_test, Y_test) > 0.8


@pytest.mark.parametrize("kind", [RegressorChain, MultiOutputRegressor])
def test_several_numbers(kind: type) -> None:
    X, Y = load_linnerud(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    network = kind(regressor(max_iter=40)).fit(X, Y)
    assert network.predict(X).shape == Y.shape
    assert network.score(X, Y) > 0.15  # 20 athletes; 0 for a dummy
    if kind is RegressorChain:
        assert [member.n_features_in_ for member in network.estimators_] == [3, 4, 5]


def test_transformed_target() -> None:
    X_train, X_test, y_train, y_test = DIABETES
    logarithmic = TransformedTargetRegressor(regressor(), func=np.log, inverse_func=np.exp).fit(X_train, y_train)
    assert logarithmic.score(X_test, y_test) > 0.3
    assert logarithmic.predict(X_test).min() > 0
    scaled = TransformedTargetRegressor(regressor(max_iter=40), transformer=MinMaxScaler())
    X, Y = load_linnerud(return_X_y=True)
    assert scaled.fit(StandardScaler().fit_transform(X), Y).predict(X[:2]).shape == (2, 3)


def test_a_pipeline_within_a_search_within_a_vote() -> None:
    X, y = load_wine(return_X_y=True)
    pipeline = Pipeline([("scale", StandardScaler()), ("network", classifier(max_iter=4))])
    search = GridSearchCV(pipeline, {"network__n_layers": [1, 2]}, cv=2)
    vote = VotingClassifier([("device", search), ("linear", make_pipeline(StandardScaler(), LogisticRegression()))])
    assert vote.fit(X[::2], y[::2]).score(X[1::2], y[1::2]) > 0.85
