"""Searches as people do them: over everything, with shots as the resource, beside scores, on every backend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, ParameterGrid, cross_validate
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MinMaxScaler

from skpat import ControlSplit, PhysicalNetworkClassifier
from skpat.devices import Noisy, SecondHarmonicLaser
from skpat.inspection import shots_scorer
from skpat.twins import NeuralTwin
from tests.estimators.noisy_bank import NoisyBank

X, Y = (part[::2] for part in load_iris(return_X_y=True))
LASER = SecondHarmonicLaser(16, 12, n_steps=2)


def scaled(**params: Any) -> Pipeline:
    defaults: dict[str, Any] = {
        "device": LASER,
        "twin": NeuralTwin((8,), max_iter=3),
        "control_split": ControlSplit(),
        "n_calibration_shots": 60,
        "max_iter": 4,
        "learning_rate_init": 0.05,
        "random_state": 0,
    }
    return Pipeline([("scale", MinMaxScaler()), ("network", PhysicalNetworkClassifier(**(defaults | params)))])


@pytest.mark.parametrize(
    "grid",
    [
        {"control_split__layout": ["interleaved", "contiguous", [range(4), range(4, 16)]]},
        {"control_split__input_fraction": [0.25, 0.5], "n_layers": [1, 2]},
        {"device": [LASER, NoisyBank(), Noisy(NoisyBank(), noise=0.1)]},
        {"device__noise": [0.0, 0.1], "gradient": ["exact", "physics_aware", "in_silico"]},
        {"twin__hidden_layer_sizes": [(8,), (4, 4)]},
    ],
    ids=lambda grid: ", ".join(grid),
)
def test_a_grid_over_every_part(grid: dict[str, list[Any]]) -> None:
    named = {f"network__{name}": values for name, values in grid.items()}
    search = GridSearchCV(
        scaled(), named, cv=2, scoring={"accuracy": "accuracy", "shots": shots_scorer}, refit="accuracy"
    )
    search.fit(X, Y)
    assert len(search.cv_results_["params"]) == len(ParameterGrid(named))
    best = search.best_estimator_["network"]
    for name, value in search.best_params_.items():
        assert str(best.get_params()[name.removeprefix("network__")]) == str(value)
    assert search.best_score_ > 0.55
    if "n_layers" in grid:
        shots = {layers: 0.0 for layers in grid["n_layers"]}
        for params, spent in zip(search.cv_results_["params"], search.cv_results_["mean_test_shots"], strict=True):
            shots[params["network__n_layers"]] += spent
        assert shots[2] > 1.5 * shots[1]  # each layer is a call of the device


def test_the_shots_of_a_fit_stand_beside_its_scores() -> None:
    found = cross_validate(
        scaled(), X, Y, cv=2, return_estimator=True, scoring={"shots": shots_scorer, "accuracy": "accuracy"}
    )
    for shots, n_tested, pipeline in zip(found["test_shots"], (38, 37), found["estimator"], strict=True):
        spent = pipeline["network"].shots_
        assert spent["prediction"] == n_tested  # of the accuracy; not a part of the fit
        assert shots == sum(spent.values()) - n_tested > 4 * n_tested
    with pytest.raises(TypeError, match="must be a PhysicalNetworkClassifier"):
        shots_scorer(RandomForestClassifier(n_estimators=1).fit(X, Y))
    with pytest.raises(NotFittedError):
        shots_scorer(scaled())


def test_a_halving_search_gives_more_shots_to_fewer_candidates_and_none_exceeds_its_share() -> None:
    spent: list[int] = []

    def accuracy(est: Any, rows: Any, labels: Any) -> float:
        spent.append(shots_scorer(est))
        return est.score(rows, labels)

    grid = {"network__control_split__input_fraction": [0.25, 0.5], "network__n_layers": [1, 2]}
    search = HalvingGridSearchCV(
        scaled(gradient="exact", max_iter=100),
        grid,
        resource="network__max_shots",
        min_resources=400,
        max_resources=1600,
        factor=2,
        cv=2,
        scoring=accuracy,
        random_state=0,
    ).fit(X, Y)
    budgets = search.cv_results_["n_resources"]
    assert budgets.tolist() == [400] * 4 + [800] * 2 + [1600]
    fits = np.repeat(budgets, 4)  # two folds, on the training and the test rows
    assert len(spent) == len(fits)
    assert (np.array(spent) <= fits).all()
    assert (np.array(spent) > 0.75 * fits).all()
    assert search.best_score_ > 0.8
    assert search.best_estimator_["network"].max_shots == 1600


@contextmanager
def dask() -> Iterator[None]:
    distributed = pytest.importorskip("distributed", reason="joblib's dask backend needs distributed")
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None, silence_logs=40
        ) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config("dask"),
    ):
        yield


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # of dask's own parts
@pytest.mark.parametrize("backend", [pytest.param("loky", marks=pytest.mark.slow), "threading", "dask"])  # 15 s
def test_every_backend_finds_what_one_process_finds(backend: str) -> None:
    grid = {"network__control_split__layout": ["interleaved", "contiguous"], "network__device__noise": [0.0, 0.1]}
    scoring = {"accuracy": "accuracy", "shots": shots_scorer}

    def search() -> dict[str, np.ndarray]:
        found = GridSearchCV(scaled(gradient="exact", max_iter=2), grid, cv=2, scoring=scoring, refit=False).fit(X, Y)
        return found.cv_results_

    alone = search()
    with dask() if backend == "dask" else joblib.parallel_config(backend, n_jobs=2):
        together = search()
    for name in ("mean_test_accuracy", "mean_test_shots"):
        np.testing.assert_array_equal(alone[name], together[name])
    assert len(set(alone["mean_test_accuracy"])) > 1  # the candidates do differ
