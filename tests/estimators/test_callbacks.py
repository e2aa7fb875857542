"""scikit-learn's callbacks in a fit: what they are given, what they cost, and that they change nothing else."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.datasets import load_diabetes, load_iris
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from skpat import PhysicalNetworkClassifier, PhysicalNetworkRegressor
from skpat.exceptions import ExchangedDeviceWarning, JournalError, UselessTwinWarning
from skpat.training import PhysicsAware
from skpat.twins import NeuralTwin
from tests.estimators.noisy_bank import NoisyBank

X, Y = (part[::2] for part in load_iris(return_X_y=True))


def small(kind: type = PhysicalNetworkClassifier, device: Any = None, **params: Any) -> Any:
    defaults: dict[str, Any] = {"max_iter": 3, "n_calibration_shots": 60, "random_state": 0}
    return kind(
        NoisyBank() if device is None else device, NeuralTwin((8,), max_iter=5, n_refine_steps=1), **(defaults | params)
    )


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(a[name], b[name]) for name in a)


class Recorder:
    """Notes every hook; ``act(self, fitted_estimator)`` is what it does at the end of an epoch."""

    def __init__(self, act: Any = None):
        self.act = act
        self.calls: list[str] = []
        self.copies: list[Any] = []
        self.given: list[Any] = []

    def setup(self, estimator: Any, context: Any) -> None:
        self.calls.append("setup")

    def teardown(self, estimator: Any, context: Any) -> None:
        self.calls.append("teardown")

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        self.calls.append(f"begin {context.task_name}")

    def on_fit_task_end(
        self, estimator: Any, context: Any, *, X: Any, y: Any, metadata: Any, fitted_estimator: Any
    ) -> Any:
        self.calls.append(f"end {context.task_name}")
        self.given.append((X, y, metadata))
        self.copies.append(fitted_estimator)
        if context.task_name == "epoch" and self.act is not None:
            return self.act(self, fitted_estimator)
        return None


def watched_by(act: Any = None, **params: Any) -> tuple[Any, Recorder]:
    recorder = Recorder(act)
    return small(**params).set_callbacks(recorder), recorder


def test_hooks_are_called_around_the_fit_and_every_epoch_with_what_fit_was_given() -> None:
    frame, weight = pd.DataFrame(X, columns=list("abcd")), np.ones(len(X))
    network, recorder = watched_by(max_iter=2)
    network.fit(frame, Y, sample_weight=weight)
    assert recorder.calls == [
        "setup",
        "begin fit",
        *["begin epoch", "end epoch"] * 2,
        "end fit",
        "teardown",
    ]
    for given_X, given_y, metadata in recorder.given:
        assert given_X is frame
        assert given_y is Y
        assert metadata["sample_weight"] is weight
    assert not [name for name in vars(network) if "callback" in name and name != "_skl_callbacks"]


def test_partial_fit_calls_no_hook() -> None:
    network, recorder = watched_by()
    network.partial_fit(X, Y)
    assert recorder.calls == []


def test_bad_parameters_are_found_before_any_hook() -> None:
    network, recorder = watched_by(max_iter=0)
    with pytest.raises(ValueError, match="'max_iter' parameter"):
        network.fit(X, Y)
    assert recorder.calls == []


@pytest.mark.parametrize("early_stopping", [False, True])
def test_callbacks_change_neither_weights_nor_shots_unless_they_measure(early_stopping: bool) -> None:
    alone = small(early_stopping=early_stopping).fit(X, Y)
    watched, _ = watched_by(early_stopping=early_stopping)
    measured, _ = watched_by(lambda _, copy: copy.predict(X) is None, early_stopping=early_stopping)
    watched.fit(X, Y)
    measured.fit(X, Y)
    spoiled, _ = watched_by(lambda _, copy: copy.weights_["readout.coef"].fill(0.0), early_stopping=early_stopping)
    spoiled.fit(X, Y)
    for network in (watched, measured, spoiled):
        assert same(alone.weights_, network.weights_)
    assert watched.shots_ == alone.shots_
    assert measured.shots_ == alone.shots_ | {"prediction": 3 * len(X)}


@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_copy_is_the_estimator_as_if_the_fit_had_ended_there(early_stopping: bool) -> None:
    network, recorder = watched_by(early_stopping=early_stopping)
    network.fit(X, Y)
    stopped, _ = watched_by(lambda recorder, _: recorder.calls.count("end epoch") == 2, early_stopping=early_stopping)
    stopped.fit(X, Y)
    assert stopped.n_iter_ == 2
    *_, second, third, whole = recorder.copies
    for copy, truth in ((second, stopped), (third, network), (whole, network)):
        assert same(copy.weights_, truth.weights_)
        assert (copy.n_iter_, copy.loss_) == (truth.n_iter_, truth.loss_)
        for name in ("loss_curve_", "shots_curve_", "validation_scores_", "best_validation_score_"):
            assert getattr(copy, name) == getattr(truth, name)
        np.testing.assert_array_equal(copy.predict_proba(X), truth.predict_proba(X))
    second.weights_["readout.coef"][:] = 0  # the copy's own
    assert network.weights_["readout.coef"].any()


def test_the_best_score_of_a_copy_is_the_best_so_far() -> None:
    network, recorder = watched_by(early_stopping=True, learning_rate_init=3.0, max_iter=6)
    network.fit(X, Y)
    scores = network.validation_scores_
    assert [copy.best_validation_score_ for copy in recorder.copies[:6]] == np.maximum.accumulate(scores).tolist()
    assert scores[-1] < max(scores)


def test_a_callback_knows_how_many_epochs_there_will_be_at_most() -> None:
    told: dict[str, Any] = {}

    class Expecting(Recorder):
        def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
            told.setdefault(context.task_name, context.max_subtasks)

    small(max_iter=2).set_callbacks(Expecting()).fit(X, Y)
    assert told["fit"] == 2


class Counted(NoisyBank):
    """Counts how it is opened."""

    opened: list[str] = []

    def open(self) -> None:
        self.opened.append("open")

    def close(self) -> None:
        self.opened.append("close")


def test_a_copy_measures_through_the_fits_session_and_afterwards_through_its_own() -> None:
    Counted.opened.clear()
    network, recorder = watched_by(lambda _, copy: copy.predict(X) is None, device=Counted())
    network.fit(X, Y)
    assert Counted.opened == ["open", "close"]
    recorder.copies[0].predict(X[:5])
    assert Counted.opened == ["open", "close"] * 2
    assert network.shots_["prediction"] == 3 * len(X) + 5


def test_a_copy_can_be_saved_and_must_not_be_trained_within_the_fit() -> None:
    saved: list[bytes] = []

    def checkpoint(_: Any, copy: Any) -> None:
        saved.append(pickle.dumps(copy))
        with pytest.raises(RuntimeError, match=r"must not be trained while the fit goes on.*clone\(fitted_estimator\)"):
            copy.fit(X, Y)
        with pytest.raises(RuntimeError, match="Got a call of fit, partial_fit or recalibrate"):
            copy.recalibrate(X, Y, 100)

    network, recorder = watched_by(checkpoint)
    recorder.lock = open(__file__)  # noqa: SIM115  # a callback that cannot be pickled is not part of the copy
    network.fit(X, Y)
    last = pickle.loads(saved[-1])
    np.testing.assert_array_equal(last.predict_proba(X), network.predict_proba(X))
    last.partial_fit(X, Y).fit(X, Y)
    recorder.lock.close()


def test_an_error_in_a_hook_ends_the_fit_tears_down_and_lets_go_of_the_device() -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("a bug in the callback")

    Counted.opened.clear()
    network, recorder = watched_by(fail, device=Counted())
    with pytest.raises(ZeroDivisionError, match="a bug in the callback"):
        network.fit(X, Y)
    assert recorder.calls[-1] == "teardown"
    assert Counted.opened == ["open", "close"]
    network.set_callbacks().fit(X, Y)


def test_a_clone_that_a_callback_trains_writes_no_part_of_the_run(tmp_path: Path) -> None:
    def train_clone(_: Any, copy: Any) -> None:
        if trained:
            return
        with pytest.raises(JournalError, match=r"one fit at a time.*journal=None"):
            clone(copy).set_callbacks().fit(X, Y)
        trained.append(clone(copy).set_params(journal=None).set_callbacks().fit(X, Y))

    trained: list[Any] = []
    network, _ = watched_by(train_clone, journal=tmp_path / "run.db", max_iter=2)
    network.fit(X, Y)
    assert same(trained[0].weights_, network.weights_)


def test_ctrl_c_in_a_hook_ends_the_fit_with_the_weights_so_far_and_no_further_shot() -> None:
    def interrupt(recorder: Recorder, _: Any) -> None:
        if recorder.calls.count("end epoch") == 2:
            raise KeyboardInterrupt

    network, recorder = watched_by(interrupt)
    with pytest.warns(UserWarning, match="interrupted"):
        network.fit(X, Y)
    assert network.n_iter_ == len(network.loss_curve_) == len(network.shots_curve_) == 2
    assert recorder.calls[-2:] == ["end fit", "teardown"]
    assert recorder.copies[-1] is None
    assert same(network.weights_, recorder.copies[1].weights_)


@pytest.mark.parametrize(("max_shots", "n_layers", "n_shots"), [(700, 2, 1), (1000, 2, 1), (1400, 2, 2)])
def test_predictions_of_callbacks_obey_the_budget_and_the_step_falls_in_time(
    max_shots: int, n_layers: int, n_shots: int
) -> None:
    whole = n_layers * n_shots * len(X)
    network, recorder = watched_by(
        lambda _, copy: copy.predict(X) is None, max_shots=max_shots, max_iter=100, n_layers=n_layers, n_shots=n_shots
    )
    network.fit(X, Y)
    assert 0 < network.shots_["prediction"] <= max_shots // 2
    assert max_shots - 1.5 * whole < sum(network.shots_.values()) <= max_shots
    assert network.shots_["prediction"] % whole == 0  # all layers of all rows, or nothing
    assert network.n_iter_ < 6
    assert recorder.calls[-2:] == ["end fit", "teardown"]
    step = network._optimizer_state["param_groups"][0]["lr"]
    assert step < 0.5 * network.learning_rate_init
    spent = sum(network.shots_.values()) - network.shots_["prediction"]
    assert network.shots_curve_[-1] == spent  # what callbacks predict is no training
    network.score(X, Y)


def test_a_callback_that_finds_no_shots_at_the_end_leaves_the_fit_whole() -> None:
    asked = []

    class Last(Recorder):
        def on_fit_task_end(self, estimator: Any, context: Any, *, fitted_estimator: Any, **given: Any) -> None:
            if context.task_name == "fit":
                asked.append(fitted_estimator)
                fitted_estimator.predict(X)

    network = small(max_shots=400, max_iter=100).set_callbacks(Last()).fit(X, Y)
    assert len(asked) == 1
    assert network.shots_["prediction"] == 0
    assert sum(network.shots_.values()) <= 400


def test_a_copy_that_is_kept_knows_the_instrument_that_it_was_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counted, "identify", lambda self: "number 1", raising=False)
    network, recorder = watched_by(device=Counted(), max_iter=1)
    network.fit(X, Y)
    monkeypatch.setattr(Counted, "identify", lambda self: "number 2", raising=False)
    with pytest.warns(ExchangedDeviceWarning, match=r"'number 1'\. Got 'number 2'"):
        recorder.copies[0].predict(X)


def test_a_resumed_fit_replays_the_callbacks_measurements_too(tmp_path: Path) -> None:
    class Restless(NoisyBank):
        """Answers the same question differently every time, as hardware does."""

        def measure(self, batch: Any) -> np.ndarray:
            outputs = super().measure(batch)
            return outputs + 0.01 * np.random.default_rng().standard_normal(outputs.shape)

    seen: list[np.ndarray] = []

    def look(_: Any, copy: Any) -> bool:
        seen.append(copy.predict_proba(X))
        return False

    def interrupt(recorder: Recorder, copy: Any) -> bool:
        if recorder.calls.count("end epoch") == 2:
            raise RuntimeError("power cut")
        return look(recorder, copy)

    params: dict[str, Any] = {"device": Restless(), "journal": tmp_path / "run.db", "random_state": None}
    # without dither, in one batch: the next epoch asks for the very settings that the callback has asked for
    params |= {"gradient": PhysicsAware(dither=0.0), "batch_size": len(X)}
    with pytest.raises(RuntimeError, match="power cut"):
        watched_by(interrupt, **params)[0].fit(X, Y)
    resumed = watched_by(look, **params)[0].fit(X, Y)
    assert resumed.ledger_.replayed["prediction"] == len(X)
    np.testing.assert_array_equal(seen[0], seen[1])
    again = watched_by(look, **params)[0].fit(X, Y)
    assert sum(again.shots_.values()) == 0
    np.testing.assert_array_equal(seen[3], seen[-1])
    without = small(**params).fit(X, Y)  # what a callback measured is not taken for what the fit measures
    assert sum(without.shots_.values()) == 0
    for other in (again, without):
        assert same(resumed.weights_, other.weights_)


def test_the_run_ends_when_a_callback_says_so_and_the_next_ones_are_still_called() -> None:
    first, second = Recorder(lambda *_: True), Recorder()
    network = small().set_callbacks(first, second).fit(X, Y)
    assert network.n_iter_ == 1
    assert first.calls == second.calls == ["setup", "begin fit", "begin epoch", "end epoch", "end fit", "teardown"]
    assert network.score(X, Y) > 0.3


def test_clones_share_callbacks_and_pickles_keep_them() -> None:
    network, recorder = watched_by()
    assert clone(network)._skl_callbacks == [recorder]
    network.set_callbacks(Recorder())
    assert len(pickle.loads(pickle.dumps(network))._skl_callbacks) == 1


@pytest.mark.parametrize("kind", [PhysicalNetworkClassifier, PhysicalNetworkRegressor])
def test_a_scoring_monitor_sees_the_score_of_every_epoch(kind: type) -> None:
    data, scoring = (X, Y), "accuracy"
    if kind is PhysicalNetworkRegressor:
        data, scoring = load_diabetes(return_X_y=True), "r2"
    monitor = ScoringMonitor(scoring=scoring)
    network = small(kind).set_callbacks(monitor).fit(*data, sample_weight=np.ones(len(data[0])))
    log = monitor.get_logs().data
    assert [row["task_name"] for row in log].count("epoch") == 3
    whole = next(row for row in log if row["task_name"] == "fit")
    assert whole[scoring] == network.score(*data)
    assert network.shots_["prediction"] == (3 + 1 + 1) * len(data[0])  # epochs, the whole, and the line above


@pytest.mark.parametrize("n_jobs", [1, pytest.param(2, marks=pytest.mark.slow)])  # 2: starts two processes
def test_a_scoring_monitor_works_in_a_pipeline_in_a_grid_search(n_jobs: int) -> None:
    monitor = ScoringMonitor(scoring="accuracy")
    pipeline = make_pipeline(StandardScaler(), small(max_iter=2).set_callbacks(monitor))
    grid = {"physicalnetworkclassifier__n_layers": [1, 2]}
    search = GridSearchCV(pipeline, grid, cv=2, n_jobs=n_jobs).fit(X, Y)
    log = monitor.get_logs().data
    assert len(log) == (2 * 2 + 1) * 3  # candidates and folds, and the final fit; two epochs, and the whole
    assert {row["estimator_name"] for row in log} == {"PhysicalNetworkClassifier"}
    alone = GridSearchCV(clone(pipeline), grid, cv=2)
    alone.estimator[-1].set_callbacks()
    alone.fit(X, Y)
    np.testing.assert_array_equal(alone.cv_results_["mean_test_score"], search.cv_results_["mean_test_score"])


@pytest.mark.parametrize("n_jobs", [1, pytest.param(2, marks=pytest.mark.slow)])  # 2: starts two processes
def test_a_progress_bar_reaches_from_a_search_down_to_the_epochs(n_jobs: int, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("rich", reason="scikit-learn's ProgressBar needs rich")
    pipeline = Pipeline([("scale", StandardScaler()), ("network", small(max_iter=2))])
    search = GridSearchCV(pipeline, {"network__n_layers": [1, 2]}, cv=2, n_jobs=n_jobs)
    search.set_callbacks(ProgressBar(max_propagation_depth=None)).fit(X, Y)
    text = capsys.readouterr().out
    assert text.count("PhysicalNetworkClassifier") >= 5
    assert "100%" in text
    assert not hasattr(search.best_estimator_["network"], "_skl_callbacks")


def test_a_useless_twin_is_told_where_fit_was_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skpat.training.useless_twin.is_useless", lambda alignments: True)
    monkeypatch.setattr("skpat.estimators.shot_counts._CHECK_SHARE", 10.0)
    with pytest.warns(UselessTwinWarning) as caught:
        small().fit(X, Y)
    assert caught[0].filename == __file__
