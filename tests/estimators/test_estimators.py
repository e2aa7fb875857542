"""What a scikit-learn user expects of the two estimators, and what a user of a device is promised."""

from __future__ import annotations

import copy
import itertools
import pickle
import threading
import warnings
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris, load_linnerud
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skpat import ControlSplit, PhysicalNetworkClassifier, PhysicalNetworkRegressor, as_device
from skpat.devices import SecondHarmonicLaser
from skpat.row_keys import hash_rows
from skpat.training import PhysicsAware
from skpat.twins import NeuralTwin, Twin
from tests.estimators.noisy_bank import NoisyBank
from tests.estimators.small_network import IRIS, QUICK, Watched, same, small


def test_learns_iris_with_its_defaults() -> None:
    X, y = load_iris(return_X_y=True)
    network = PhysicalNetworkClassifier(random_state=0).fit(X[::3], y[::3])
    assert network.score(X[1::3], y[1::3]) > 0.85


def test_same_random_state_same_result_and_global_states_untouched() -> None:
    X, y = IRIS
    numpy_before, torch_before = np.random.get_state()[1].copy(), torch.get_rng_state()
    default_dtype, grad_mode, threads = torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()
    a, b, c = small().fit(X, y), small().fit(X, y), small(random_state=1).fit(X, y)
    small(random_state=None).fit(X, y)
    assert same(a.weights_, b.weights_)
    np.testing.assert_array_equal(a.decision_function(X), b.decision_function(X))
    assert not same(a.weights_, c.weights_)
    assert (np.random.get_state()[1] == numpy_before).all()
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert (torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()) == (
        default_dtype,
        grad_mode,
        threads,
    )


@pytest.mark.parametrize("backend", [pytest.param("loky", marks=pytest.mark.slow), "threading"])
def test_same_scores_in_parallel_as_alone(backend: str) -> None:
    X, y = IRIS
    network = make_pipeline(StandardScaler(), small(device=SecondHarmonicLaser(16, 12, n_steps=2)))
    alone = cross_val_score(network, X, y, cv=3, n_jobs=1)
    with joblib.parallel_backend(backend, n_jobs=2):
        together = cross_val_score(network, X, y, cv=3)
    np.testing.assert_array_equal(alone, together)


def test_none_is_another_noise_in_every_fit_and_one_noise_in_one_fit() -> None:
    X, y = IRIS
    a, b = (small(random_state=None).fit(X, y) for _ in range(2))
    np.testing.assert_array_equal(a.decision_function(X), a.decision_function(X))
    assert a.device_.random_state != b.device_.random_state
    assert small(device=NoisyBank(random_state=7)).fit(X, y).device_.random_state == 7


def test_a_prediction_does_not_depend_on_its_company() -> None:
    X, y = IRIS
    network = small().fit(X, y)
    together = network.decision_function(X)
    np.testing.assert_allclose(
        np.concatenate([network.decision_function(X[i : i + 1]) for i in range(20)]), together[:20]
    )
    order = np.random.RandomState(0).permutation(len(X))
    np.testing.assert_allclose(network.decision_function(X[order]), together[order], rtol=1e-9)
    other = NoisyBank(noise=0.0)
    network.device_ = other
    assert np.abs(network.decision_function(X) - together).max() > 1e-4  # the noise is on


def test_prediction_repeats_none_of_the_trainings_noise() -> None:
    X, y = IRIS
    network = small().fit(X, y)
    shots: list[int] = []

    class Recording(NoisyBank):
        def measure(self, batch: Any) -> np.ndarray:
            shots.append(batch.shot)
            return super().measure(batch)

    network.device_ = Recording(random_state=0)
    network.predict(X)
    assert min(shots) >= 2**32


def test_probabilities_are_consistent() -> None:
    X, y = IRIS
    network = small().fit(X, y)
    np.testing.assert_allclose(network.predict_proba(X).sum(axis=1), 1)
    np.testing.assert_allclose(np.exp(network.predict_log_proba(X)), network.predict_proba(X))
    np.testing.assert_array_equal(network.classes_[network.predict_proba(X).argmax(axis=1)], network.predict(X))
    binary = small().fit(X[y < 2], np.array(["b", "a"])[y[y < 2]])
    assert binary.decision_function(X).shape == (len(X),)
    np.testing.assert_array_equal(binary.predict(X), np.where(binary.decision_function(X) > 0, "b", "a"))


def test_sparse_pandas_and_dense_input_are_one() -> None:
    X, y = IRIS
    frame = pd.DataFrame(X, columns=["a", "b", "c", "d"])
    dense, sparse_fit, named = small().fit(X, y), small().fit(sparse.csr_matrix(X), y), small().fit(frame, y)
    assert same(dense.weights_, sparse_fit.weights_)
    assert same(dense.weights_, named.weights_)
    assert named.feature_names_in_.tolist() == ["a", "b", "c", "d"]
    np.testing.assert_array_equal(dense.predict(X), sparse_fit.predict(sparse.csr_matrix(X)))
    with pytest.raises(ValueError, match="feature names"):
        named.predict(frame[["b", "a", "c", "d"]])


def test_float32_data_are_trained_on_in_float64_where_a_channel_is_too_narrow() -> None:
    X, y = IRIS[0].astype(np.float32), IRIS[1]

    def device(width: float) -> Any:
        def measure(controls: np.ndarray) -> np.ndarray:
            seen.append((controls.dtype, len(np.unique(controls[:, :8]))))
            return np.sin(3 * (controls[:, :4] - 5e9) / width + (controls[:, 4:8] - 5e9) / width)

        return as_device(measure, n_controls=12, n_outputs=4, bounds=(5e9, 5e9 + width))

    seen: list[tuple[np.dtype, int]] = []
    network = small(device=device(5e3), max_iter=10).fit(X, y)
    assert {kind for kind, _ in seen} == {np.dtype(np.float64)}
    assert max(n for _, n in seen) > 100  # in float32 eleven
    assert network.score(X, y) > 0.8
    network.partial_fit(X, y)
    assert network.predict_proba(X).dtype == network.deploy().predict_proba(X).dtype == np.float64
    seen.clear()
    small(device=device(1e9), max_iter=1).fit(X, y)
    in_steps = as_device(
        lambda c: np.sin(c[:, :4] + c[:, 4:8]), n_controls=12, n_outputs=4, bounds=(1e3, 1e3 + 9), control_steps=1
    )
    held = ControlSplit(fixed={0: 5e9 + 1})
    bounds = np.tile([[0.0, 1.0]], (12, 1))
    bounds[0] = 5e9, 5e9 + 2
    one_narrow = as_device(lambda c: np.sin(3 * c[:, 1:5] + c[:, 5:9]), n_controls=12, n_outputs=4, bounds=bounds)
    for network in (small(device=in_steps, max_iter=1), small(device=one_narrow, control_split=held, max_iter=1)):
        assert network.fit(X, y).weights_["readout.coef"].dtype == np.float32
    assert {kind for kind, _ in seen} == {np.dtype(np.float32)}


def test_single_precision_is_the_users_choice() -> None:
    X, y = IRIS
    network = small(device=SecondHarmonicLaser(16, 12, n_steps=2)).fit(X.astype(np.float32), y)
    assert {w.dtype for w in network.weights_.values()} == {np.dtype(np.float32)}
    assert network.predict_proba(X).dtype == np.float32
    assert small().fit(X, y).weights_["readout.coef"].dtype == np.float64


def test_single_precision_controls_stay_within_double_precision_bounds() -> None:
    bounds = np.tile([0.7, 0.8], (8, 1))  # rounded to single precision, both leave the interval
    device = as_device(lambda c: c * 2, n_controls=8, n_outputs=8, bounds=bounds)
    X, y = IRIS
    split = ControlSplit(fixed={0: 0.7, 7: 0.8})
    network = small(device=device, control_split=split).fit(1e6 * X.astype(np.float32), y)  # the Session would refuse
    assert network.score(1e6 * X.astype(np.float32), y) > 0


@pytest.mark.parametrize("parameter", ["class_weight", "sample_weight"])
def test_weights_move_the_decision(parameter: str) -> None:
    rng = np.random.RandomState(0)
    X, y = rng.standard_normal((120, 2)), rng.randint(0, 2, 120)
    heavy = {"class_weight": {0: 1, 1: 20}} if parameter == "class_weight" else {}
    weight = np.where(y == 1, 20.0, 1.0) if parameter == "sample_weight" else None
    even = small(max_iter=10).fit(X, y)
    weighted = small(max_iter=10, **heavy).fit(X, y, sample_weight=weight)
    assert weighted.predict(X).mean() > even.predict(X).mean() + 0.2


@pytest.mark.parametrize("labels", [[0, 1, 2], ["a", "b", "c"], [[0, 1], [1, 0], [1, 1]]], ids=str)
def test_balanced_classes_count_the_weights_of_the_rows(labels: list) -> None:
    X, y = IRIS
    y = np.array(labels)[y]
    often = np.ones(len(X))
    often[:15], often[30:35] = 0, 2
    wanted = {"class_weight": "balanced", "gradient": "exact", "device": SecondHarmonicLaser(12, 8)}
    weighted = small(**wanted, batch_size=500).fit(X, y, sample_weight=often)
    repeated = small(**wanted, batch_size=500).fit(
        np.repeat(X, often.astype(int), axis=0), np.repeat(y, often.astype(int), axis=0)
    )
    np.testing.assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), atol=1e-6)


@pytest.mark.parametrize("wanted", ["balanced", {0: 1.0, 1: 2.0, 2: 3.0}], ids=str)
def test_class_weights_take_a_column(wanted: Any) -> None:
    X, y = IRIS
    plain, column = (small(class_weight=wanted, max_iter=1).fit(X, labels) for labels in (y, y[:, None]))
    assert same(plain.weights_, column.weights_)


@pytest.mark.parametrize("ended_by", ["max_iter", "max_shots"])
@pytest.mark.parametrize("given", [False, True])
def test_what_goes_on_begins_with_the_statistics_of_the_kept_weights(ended_by: str, given: bool) -> None:
    X, y = IRIS
    network = small(
        learning_rate_init=0.3,
        max_iter=12,
        n_iter_no_change=99,
        early_stopping=not given,
        max_shots=1900 if ended_by == "max_shots" else None,
    )
    network.fit(X, y, **({"X_val": X[::3], "y_val": y[::3]} if given else {}))
    scores = network.validation_scores_
    assert np.argmax(scores) < len(scores) - 1  # an earlier epoch is kept
    for layer, statistics in enumerate(network._statistics):
        np.testing.assert_array_equal(network.weights_[f"layers.{layer}.mean"], statistics.mean)
        np.testing.assert_array_equal(network.weights_[f"layers.{layer}.scale"], statistics.scale)


def test_rows_of_some_classes_go_on_with_the_class_weights() -> None:
    X, y = IRIS
    network = small(class_weight={0: 2.0, 1: 3.0}).fit(X, y)
    for rows in (y != 1, y == 2):
        network.partial_fit(X[rows], y[rows])
    with pytest.raises(ValueError, match=r"not in class_weight"):
        small(class_weight={0: 2.0, 7: 3.0}).fit(X, y)


class OwnTwin(Twin):
    """As little as a twin must have: a linear model in double precision, which does not know how good it is."""

    def fit(self, controls: Any, outputs: Any, sample_weight: Any = None) -> OwnTwin:
        self.n_features_in_ = np.shape(controls)[1]
        coef = np.linalg.lstsq(np.asarray(controls, dtype=float), np.asarray(outputs, dtype=float), rcond=None)[0]
        self.module = torch.nn.Linear(*coef.shape, bias=False, dtype=torch.float64)
        self.module.weight.data = torch.from_numpy(coef.T.copy())
        return self

    @property
    def module_(self) -> torch.nn.Module:
        return self.module


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("gradient", ["physics_aware", "in_silico"])
def test_a_twin_with_no_more_than_its_contract_trains(dtype: type, gradient: str) -> None:
    X, y = IRIS[0].astype(dtype), IRIS[1]
    network = small(twin=OwnTwin(), gradient=gradient, max_iter=2, verbose=1).fit(X, y)
    assert np.isnan(network.twin_score_)
    assert network.weights_["layers.0.theta"].dtype == dtype


def test_a_twin_of_few_shots_that_does_not_know_how_good_it_is_gets_all_that_are_allowed() -> None:
    X, y = load_iris(return_X_y=True)
    of_few = type("FewTwin", (OwnTwin,), {"few_shots": True})()
    few, many = (
        small(twin=twin, n_calibration_shots="auto", max_iter=1, n_layers=2).fit(X, y).shots_["calibration"]
        for twin in (of_few, OwnTwin())
    )
    assert few == many


def test_what_was_sent_for_a_twin_that_does_not_go_on_learning_is_not_kept() -> None:
    X, y = IRIS
    network = small(twin=type("ExploringTwin", (OwnTwin,), {"explores": True})(), max_iter=2).fit(X, y)
    assert not network._gradient._sent


@pytest.mark.parametrize("unit", [1e-200, 1e200])
def test_data_and_targets_may_have_any_unit(unit: float) -> None:
    X, y = load_diabetes(return_X_y=True)
    network = small(PhysicalNetworkRegressor, max_iter=5).fit(X * unit, y * unit)
    assert r2_score(y, network.predict(X * unit) / unit) > 0.2


@pytest.mark.parametrize(("offset", "unit"), [(5e6, 0.1), (1.934e14, 1e6)])  # Hz, of a quartz balance and of light
def test_a_constant_that_doubles_hold_does_not_matter(offset: float, unit: float) -> None:
    X, y = load_diabetes(return_X_y=True)
    X, y = X[::2], (y[::2] - y.mean()) / y.std()
    network = small(PhysicalNetworkRegressor, NoisyBank(noise=0.0), max_iter=5).fit(
        offset + unit * X, offset + unit * y
    )
    np.testing.assert_allclose(network.weights_["encoder.scale"], unit * X.std(axis=0), rtol=1e-5)
    assert network.score(offset + unit * X, offset + unit * y) > 0.2


@pytest.mark.parametrize("validation_fraction", [0.2, np.float32(0.2)])
def test_the_part_held_out_may_be_any_real_number(validation_fraction: float) -> None:
    network = small(early_stopping=True, validation_fraction=validation_fraction, max_iter=1).fit(*IRIS)
    assert len(network.validation_scores_) == 1


def test_rows_without_weight_are_never_sent(watched: Watched) -> None:
    X, y = IRIS
    weight = np.zeros(len(X))
    weight[::3] = 1
    network = small(device=watched).fit(X, y, sample_weight=weight)
    assert network.shots_["training"] == 3 * 25


def test_multi_output_regression_and_single_output_shapes() -> None:
    X, Y = load_linnerud(return_X_y=True)
    network = small(PhysicalNetworkRegressor, max_iter=10).fit(X, Y)
    assert network.predict(X).shape == Y.shape
    assert small(PhysicalNetworkRegressor).fit(X, Y[:, 0]).predict(X).shape == (20,)
    assert small(PhysicalNetworkRegressor).fit(X, Y[:, :1]).predict(X).shape == (20, 1)


def test_regression_learns_diabetes() -> None:
    X, y = load_diabetes(return_X_y=True)
    assert PhysicalNetworkRegressor(NoisyBank(), QUICK, max_iter=6, random_state=0).fit(X, y).score(X, y) > 0.4


def test_what_is_held_out_stays_so_when_a_fit_goes_on() -> None:
    X = np.random.default_rng(0).uniform(size=(40, 4))
    y = (X[:, 0] > 0.5).astype(int)
    network = small(warm_start=True, early_stopping=True, max_iter=1, validation_fraction=0.25)
    held: list[set[int]] = []
    for rows in (slice(None), slice(None, None, -1), slice(None, -5)):
        network.fit(X[rows], y[rows])
        held.append(set(network._held_out_keys.tolist()))
    assert held[0] == held[1]
    assert held[2] <= held[0]
    assert len(held[0]) == np.ceil(0.25 * len(X))
    network.fit(X + 0.25, y)  # all other rows: held out anew
    assert held[0].isdisjoint(network._held_out_keys.tolist())
    network.set_params(warm_start=False).fit(X, y)
    assert set(network._held_out_keys.tolist()) == held[0]  # the same seed, begun anew


def test_a_fit_that_goes_on_with_nothing_but_rows_that_were_held_out_holds_out_a_part_of_them() -> None:
    X = np.random.default_rng(0).uniform(size=(40, 4))
    y = np.arange(40) % 2
    network = small(warm_start=True, early_stopping=True, max_iter=1, validation_fraction=0.25).fit(X, y)
    rows = np.isin(hash_rows(X), network._held_out_keys)
    network.fit(X[rows], y[rows])
    assert 0 < len(network._held_out_keys) < rows.sum() == 10


def test_rows_that_are_held_out_count_by_their_weight() -> None:
    X, y = IRIS
    device = as_device(np.tanh, n_controls=8, n_outputs=8, bounds=(-1, 1))
    weight = np.where(y == 1, 50.0, 1.0)
    network = small(device=device, early_stopping=True, max_iter=1, validation_fraction=0.4)
    network.fit(X, y, sample_weight=weight)
    rows = np.isin(hash_rows(X), network._held_out_keys)
    assert network.validation_scores_ == [network.score(X[rows], y[rows], sample_weight=weight[rows])]
    assert network.validation_scores_ != [network.score(X[rows], y[rows])]


def test_a_fit_begun_anew_holds_out_what_it_would_have_without_an_earlier_one() -> None:
    X, y = IRIS
    network = small(early_stopping=True, max_iter=2)
    anew = clone(network).fit(X, y)
    again = network.fit(X[::3], y[::3]).fit(X, y)
    assert same(anew.weights_, again.weights_)
    assert anew.validation_scores_ == again.validation_scores_


def test_warm_start_goes_on() -> None:
    X, y = IRIS
    network = small(warm_start=True).fit(X, y)
    first, twin = network.shots_, network.twin_
    network.fit(X, y)
    assert network.twin_ is twin
    assert network.shots_["calibration"] == first["calibration"]
    assert network.shots_["training"] == 2 * first["training"]
    fresh = small().fit(X, y).fit(X, y)
    assert fresh.shots_ == first


@pytest.mark.parametrize(("n_rows", "sizes"), [(64, [64]), (65, [22, 22, 21])])
def test_up_to_64_rows_are_one_batch(n_rows: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Watched, "sent", [])
    X, y = IRIS
    small(device=Watched(), gradient="forward_forward", max_iter=1).fit(X[:n_rows], y[:n_rows])
    assert Watched.sent == [n_rows, *np.repeat(sizes, 2)]  # the first for the statistics, then both ways of each batch


def test_partial_fit_learns_and_survives_pickling() -> None:
    X, y = IRIS
    network = small().partial_fit(X[:20], y[:20], classes=[0, 1, 2])
    assert network.classes_.tolist() == [0, 1, 2]
    for _ in range(3):
        network.partial_fit(X, y)
    twice = pickle.loads(pickle.dumps(network))
    network.partial_fit(X, y)
    twice.partial_fit(X, y)
    np.testing.assert_allclose(twice.weights_["readout.coef"], network.weights_["readout.coef"], rtol=0.05, atol=0.02)
    assert network.n_iter_ == 5
    assert len(network.loss_curve_) == len(network.shots_curve_) == 5
    assert network.shots_curve_[-1] == sum(network.shots_.values())
    with pytest.raises(ValueError, match=r"'y' must have the labels \[0, 1, 2\] only. Got also \[9\]"):
        network.partial_fit(X[:2], [0, 9])
    regressor = small(PhysicalNetworkRegressor).partial_fit(X, y.astype(float))
    with pytest.raises(ValueError, match=r"'y' must have 1 columns, like the first y. Got 2"):
        regressor.partial_fit(X, np.column_stack([y, y]))


@pytest.mark.parametrize("gradient", ["physics_aware", "exact", "evolution_strategy", "spsa", "forward_forward"])
def test_a_network_whose_arrays_are_mapped_goes_on_like_any_other(gradient: str, tmp_path: Any) -> None:
    if gradient == "evolution_strategy":
        pytest.importorskip("cma", reason="cma is not installed")
    X, y = IRIS
    fitted = small(device=SecondHarmonicLaser(12, 6, n_steps=2), max_iter=1, gradient=gradient).fit(X, y)
    joblib.dump(fitted, tmp_path / "network.joblib")
    network = joblib.load(tmp_path / "network.joblib")
    mapped = joblib.load(tmp_path / "network.joblib", mmap_mode="r")  # as joblib's workers get large ones
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for one in (mapped, network):
            one.partial_fit(X, y)
            one.recalibrate(X, y, max_shots=200)
            one.partial_fit(X, y)
    assert same(mapped.weights_, network.weights_)


@pytest.mark.parametrize("gradient", ["spsa", "physics_aware"])
def test_a_partial_fit_that_fails_leaves_weights_that_fit_each_other(gradient: str) -> None:
    X, y = IRIS
    network = small(batch_size=10, gradient=gradient, shuffle=False).partial_fit(X, y)
    copied = copy.copy(network)
    before = copy.deepcopy(network)
    measure, calls = network.device_.measure, itertools.count()

    def failing(batch: Any) -> np.ndarray:
        if next(calls) == 5:
            raise KeyboardInterrupt
        return measure(batch)

    network.device_.measure = failing
    with pytest.raises(KeyboardInterrupt):
        network.partial_fit(X, y)
    del network.device_.measure
    for left in (network, copied):
        assert same(left.weights_, before.weights_)
        np.testing.assert_array_equal(left.weights_["layers.0.mean"], left._statistics[0].mean)
        for number, moments in before._optimizer_state["state"].items():
            assert same(left._optimizer_state["state"][number], moments)


def test_pickles_predict_the_same() -> None:
    X, y = IRIS
    for device in (NoisyBank(), SecondHarmonicLaser(16, 12, n_steps=2)):
        network = small(device=device).fit(X, y)
        copy = pickle.loads(pickle.dumps(network))
        np.testing.assert_array_equal(network.decision_function(X), copy.decision_function(X))
        assert copy.shots_["prediction"] == len(X)


def test_fit_changes_nothing_that_the_user_passed() -> None:
    X, y = IRIS
    device, twin, split, gradient = NoisyBank(), NeuralTwin((8,)), ControlSplit("random"), PhysicsAware()
    before = [str(part.get_params()) for part in (device, twin, split, gradient)]
    network = small(device=device, twin=twin, control_split=split, gradient=gradient).fit(X, y)
    assert [str(part.get_params()) for part in (device, twin, split, gradient)] == before
    assert not hasattr(twin, "n_features_in_")
    assert network.device_ is not device


def test_searches_over_splits_devices_and_depth() -> None:
    X, y = IRIS
    network = small(control_split=ControlSplit(), twin=NeuralTwin((8,), max_iter=2), max_iter=1)
    grid = {
        "physicalnetworkclassifier__control_split__layout": ["interleaved", "contiguous"],
        "physicalnetworkclassifier__device__noise": [0.0, 0.5],
        "physicalnetworkclassifier__n_layers": [1, 2],
    }
    search = GridSearchCV(make_pipeline(StandardScaler(), network), grid, cv=2).fit(X, y)
    best = search.best_estimator_[-1]
    assert best.device_.noise == search.best_params_["physicalnetworkclassifier__device__noise"]
    assert len(search.cv_results_["params"]) == 8


def test_nothing_but_fit_and_predict_opens_the_device(watched: Watched) -> None:
    network = small(device=watched)
    clone(network)
    pickle.dumps(network)
    repr(network)
    network._repr_html_()
    print(network.plan(IRIS[0]))
    assert not watched.sent
    assert not watched.opened
    network.fit(*IRIS)
    network.predict(IRIS[0])
    assert watched.opened == ["open", "close", "open", "close"]
    network._repr_html_()
    pickle.dumps(network)
    assert watched.opened == ["open", "close", "open", "close"]


def test_the_device_is_closed_after_a_fault(watched: Watched) -> None:
    network = small(device=watched).fit(*IRIS)

    class Broken(Watched):
        max_retries = 1

        def measure(self, batch: Any) -> np.ndarray:
            raise TimeoutError("no answer")

    network.device_ = Broken()
    with pytest.raises(ConnectionError, match=r"no answer\. Tried 2 times"):
        network.predict(IRIS[0])
    assert watched.opened[-1] == "close"


def test_the_html_representation_names_the_device_and_the_twin() -> None:
    assert "device: SecondHarmonicLaser (default)" in PhysicalNetworkClassifier()._repr_html_()
    html = small(twin=NeuralTwin()).fit(*IRIS)._repr_html_()
    assert "device: NoisyBank" in html
    assert "twin: NeuralTwin" in html


def test_large_predictions_go_out_in_pieces(watched: Watched) -> None:
    X, y = IRIS
    network = small(device=watched).fit(X, y)
    watched.sent.clear()
    assert len(network.predict(np.tile(X, (20, 1)))) == 1500
    assert max(watched.sent) <= 1024
    assert sum(watched.sent) == 1500


def test_a_live_instruments_method_is_shared_and_never_copied() -> None:
    class Instrument:
        """Holds a lock, like every driver, and counts."""

        def __init__(self) -> None:
            self.lock, self.rows = threading.Lock(), 0

        def read(self, voltages: np.ndarray) -> np.ndarray:
            self.rows += len(voltages)
            return voltages[:, :6] * voltages[:, 6:]

    instrument = Instrument()
    device = as_device(instrument.read, n_controls=12, n_outputs=6, bounds=(-1, 1))
    network = small(device=device).fit(*IRIS)
    assert instrument.rows == sum(network.shots_.values())
    network.set_params(device__max_batch=7)
    assert network.device_.max_batch is None


def test_held_out_rows_do_not_enter_the_scaling() -> None:
    X, y = IRIS
    rng = np.random.RandomState(0)
    for seed in range(3):
        network = small(early_stopping=True, encoder="direct", max_iter=1, random_state=seed)
        far = X.copy()
        outlier = rng.randint(len(X))
        far[outlier] = 1e3
        scale = network.fit(far, y).weights_["encoder.scale"].max()
        held_out = small(early_stopping=True, encoder="direct", max_iter=1, random_state=seed)
        held_out.fit(far, y)
        assert scale == held_out.weights_["encoder.scale"].max()
        assert (scale > 100) == (outlier in _training_rows(network, far, y))


def _training_rows(network: Any, X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which rows the training sent, found by watching the keys of its data."""
    from skpat.training import trainer

    seen: list[np.ndarray] = []
    original = trainer.Trainer.epoch

    def watching(self: Any, data: Any, *args: Any) -> float:
        seen.append(data.row_keys)
        return original(self, data, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.Trainer, "epoch", watching)
        clone(network).fit(X, y)
    return np.flatnonzero(np.isin(hash_rows(X), seen[0]))
