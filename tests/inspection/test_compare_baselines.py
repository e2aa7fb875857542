"""An estimator beside its baselines: paired folds, counts, and what is said about the device."""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from typing import Any

import joblib
import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import make_regression
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.model_selection import RepeatedStratifiedKFold, StratifiedKFold, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputRegressor
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, StandardScaler
from sklearn.svm import SVC

from skpat import ControlSplit, PhysicalNetworkClassifier, PhysicalNetworkRegressor, as_device
from skpat.devices import IdentityDevice, SimulatedDevice
from skpat.inspection import BaselineComparison, compare_baselines
from skpat.inspection.baselines import CLASSICAL, hidden_width
from skpat.inspection.comparison_report import standard_error
from skpat.inspection.digital_cost import DigitalCost, digital_cost
from skpat.inspection.untrained_device import UntrainedDevice
from skpat.twins import NeuralTwin

from .compared_rows import row

WIRING = np.random.default_rng(3).normal(size=(8, 6)) / 2


def pairs(controls: np.ndarray) -> np.ndarray:
    """Products of neighbouring channels, mixed: what no linear model of the inputs gives."""
    return (controls[:, ::2] * controls[:, 1::2]) @ WIRING[:4]


BANK = as_device(pairs, n_controls=8, n_outputs=6, bounds=(-1, 1))


def products(n: int = 120) -> tuple[np.ndarray, np.ndarray]:
    X = np.random.default_rng(0).uniform(-1, 1, (n, 2))
    return X, (X[:, 0] * X[:, 1] > 0).astype(int)


def network(device: Any = BANK, **params: Any) -> PhysicalNetworkClassifier:
    defaults: dict[str, Any] = {
        "twin": NeuralTwin((4,), max_iter=5, n_refine_steps=1, random_state=0),
        "n_calibration_shots": 40,
        "max_iter": 2,
        "random_state": 0,
    }
    return PhysicalNetworkClassifier(device, **(defaults | params))


@pytest.fixture(scope="module")
def comparison() -> BaselineComparison:
    return compare_baselines(network(), *products(60), cv=2)


def test_everything_stands_in_the_table_the_estimator_first(comparison: BaselineComparison) -> None:
    assert [item.name for item in comparison.rows] == ["estimator", *CLASSICAL]
    assert all(item.scores.shape == (2,) for item in comparison.rows)
    assert comparison.metric == "accuracy"
    assert comparison.device == "pairs"


def test_the_estimators_scores_are_those_of_cross_validation_on_the_same_splits() -> None:
    X, y = products(60)
    splitter = StratifiedKFold(3, shuffle=True, random_state=4)
    found = compare_baselines(network(), X, y, cv=splitter, baselines=["linear"])
    np.testing.assert_array_equal(found["estimator"].scores, cross_val_score(network(), X, y, cv=splitter))
    linear = make_pipeline(StandardScaler(), LogisticRegression())
    np.testing.assert_array_equal(found["linear"].scores, cross_val_score(linear, X, y, cv=splitter))
    assert found.test_to_train == found["linear"].test_to_train == pytest.approx(20 / 40)


def test_differences_are_paired_and_their_errors_allow_for_shared_rows(comparison: BaselineComparison) -> None:
    paired = comparison["estimator"].scores - comparison["svm"].scores
    mean, error = comparison.difference("svm")
    assert mean == pytest.approx(paired.mean())
    assert error == pytest.approx(np.sqrt((1 / 2 + 1) * paired.var(ddof=1)))  # half to train on, half to test on
    plain = standard_error(paired, 0.0)
    assert plain == pytest.approx(paired.std(ddof=1) / np.sqrt(2))


def test_one_random_state_repeats_everything_and_another_one_changes_the_folds() -> None:
    X, y = products(60)
    what = {"cv": 2, "baselines": ["mlp", "untrained"]}
    est = network(random_state=None)
    first, again, other = (compare_baselines(est, X, y, random_state=seed, **what) for seed in (1, 1, 2))
    for name in ("estimator", "mlp", "untrained"):
        np.testing.assert_array_equal(first[name].scores, again[name].scores)
    assert any((first[name].scores != other[name].scores).any() for name in ("estimator", "mlp", "untrained"))


def test_each_fold_has_a_seed_of_its_own_that_all_estimators_share() -> None:
    class Tossed(DummyClassifier):
        seeds: list[int] = []

        def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
            self.seeds.append(self.random_state)
            return super().fit(X, y, sample_weight)

    two = {name: Tossed(strategy="uniform") for name in ("one", "other")}
    found = compare_baselines(network(max_iter=1), *products(60), cv=3, baselines=two | {"set": Tossed(random_state=7)})
    one, other, given = np.reshape(Tossed.seeds, (3, 3)).T.tolist()
    assert one == other
    assert len(set(one)) == 3
    assert given == [7, 7, 7]
    np.testing.assert_array_equal(found["one"].scores, found["other"].scores)


def test_a_class_without_weight_is_left_out_of_the_untrained_readout() -> None:
    X, y = products(90)
    y = y + 2 * (X[:, 0] > 0.3)  # four classes
    untrained = UntrainedDevice(network(class_weight={0: 1.0, 1: 0.0, 2: 1.0, 3: 1.0})).fit(X, y)
    assert untrained.network_.shots_["training"] == (y != 1).sum()
    predicted = untrained.predict(X)
    assert not (predicted == 1).any()
    assert (predicted == y)[y != 1].mean() > 0.6


def test_the_users_estimator_is_not_touched() -> None:
    X, y = products(60)
    est = network(random_state=None)
    before = {name: str(value) for name, value in est.get_params().items()}
    compare_baselines(est, X, y, cv=2, baselines=["identity", "untrained"])
    assert {name: str(value) for name, value in est.get_params().items()} == before
    assert not hasattr(est, "weights_")


def test_every_baseline_gets_what_the_pipelines_last_step_gets() -> None:
    X, y = products(60)
    X = np.column_stack([1000 * X + 5e5, np.full(len(X), 7.0)])
    pipeline = make_pipeline(MinMaxScaler((-1, 1)), network())
    found = compare_baselines(pipeline, sparse.csr_array(X).toarray(), y, cv=2)
    alone = compare_baselines(network(), MinMaxScaler((-1, 1)).fit_transform(X), y, cv=2, baselines=["identity"])
    assert found["identity"].operations == alone["identity"].operations  # the scaler is the same for all
    assert found["estimator"].label == "PhysicalNetworkClassifier"
    assert not hasattr(pipeline[-1], "weights_")


def test_sparse_rows_are_compared_too() -> None:
    X, y = products(40)
    found = compare_baselines(network(), sparse.csr_array(X), y, cv=2, baselines=["svm", "gradient_boosting"])
    assert np.isfinite(found["svm"].scores).all()


def test_regressors_of_two_targets_have_all_baselines() -> None:
    X, y = make_regression(40, 3, n_targets=2, noise=1.0, random_state=0)
    est = PhysicalNetworkRegressor(
        BANK,
        NeuralTwin((4,), max_iter=5, n_refine_steps=1, random_state=0),
        n_calibration_shots=40,
        max_iter=2,
        random_state=0,
    )
    found = compare_baselines(est, X, y, cv=2)
    assert found.metric == "R²"
    assert found["linear"].label == "ridge regression"
    assert found["linear"].mean > 0.98
    assert found["untrained"].n_parameters == (6 + 1) * 2
    assert all(item.operations is not None and item.n_parameters is not None for item in found.rows)
    assert compare_baselines(est, X, y[:, 0], cv=2, baselines=["svm"], scoring="r2").metric == "r2"


@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_several_labels_have_all_baselines(class_weight: Any) -> None:
    X, product = products(60)
    labels = np.column_stack([X[:, 0] > 0, X[:, 1] > 0.2, product]).astype(int)
    est = network(class_weight=class_weight)
    found = compare_baselines(est, X, labels, cv=2)
    assert [item.name for item in found.rows] == ["estimator", *CLASSICAL]
    assert found.metric == "accuracy"
    assert found["untrained"].n_parameters == (6 + 1) * 3
    assert found["mlp"].n_parameters == pytest.approx(found["estimator"].n_parameters, abs=4)
    assert all(item.operations is not None and item.n_parameters is not None for item in found.rows)
    again = compare_baselines(est, X, sparse.csr_array(labels), cv=2, baselines=["untrained"])
    np.testing.assert_array_equal(again["untrained"].scores, found["untrained"].scores)


def test_class_weights_are_those_of_the_labels_whatever_these_are_called() -> None:
    X, y = products(60)
    names = ["linear", "svm", "gradient_boosting"]
    scores = []
    for labels, weights in ((y, {0: 1.0, 1: 9.0}), (np.array(["no", "yes"])[y], {"no": 1.0, "yes": 9.0})):
        found = compare_baselines(network(class_weight=weights), X, labels, cv=2, baselines=names)
        scores.append([found[name].scores for name in names])
    np.testing.assert_array_equal(scores[0], scores[1])
    plain = compare_baselines(network(), X, y, cv=2, baselines=names)
    assert any((plain[name].scores != score).any() for name, score in zip(names, scores[0], strict=True))


def test_labels_that_a_linear_model_can_tell_are_told_by_it_and_by_the_untrained_device() -> None:
    X = np.random.default_rng(0).uniform(-1, 1, (120, 2))
    labels = np.column_stack([X > 0, np.ones(len(X)), np.zeros(len(X))]).astype(int)  # two that never change
    linear = as_device(lambda controls: controls @ WIRING, n_controls=8, n_outputs=6, bounds=(-1, 1))
    found = compare_baselines(network(linear), X, labels, cv=2, baselines=["untrained"])
    assert found["untrained"].mean > 0.85


def test_own_estimators_and_names() -> None:
    X, y = products(40)
    found = compare_baselines(
        network(), X, y, cv=2, baselines={"guess <b>": DummyClassifier(), "linear": RidgeClassifier()}
    )
    assert [item.label for item in found.rows[1:]] == ["guess <b>", "linear"]
    assert found["guess <b>"].operations is None
    assert "unknown" in str(found)
    assert found.sentences == ()  # a name of ours in somebody's dict means nothing to us


def test_folds_side_by_side_give_the_same() -> None:
    X, y = products(40)
    what: dict[str, Any] = {"cv": 2, "baselines": ["linear"]}
    one = compare_baselines(network(), X, y, **what)
    with joblib.parallel_config(backend="threading"):
        two = compare_baselines(network(), X, y, n_jobs=2, **what)
    np.testing.assert_array_equal(one["estimator"].scores, two["estimator"].scores)


# ---- counts ----


def test_shots_are_those_of_the_plan_and_rows_without_the_device_say_so(comparison: BaselineComparison) -> None:
    plan = network().plan(products(60)[0][:30])
    est = comparison["estimator"]
    assert (est.shots["training"], est.shots["validation"]) == (plan.training, 0)
    assert 0.9 * plan.calibration <= est.shots["calibration"] <= plan.calibration
    assert est.n_shots_per_prediction == plan.prediction_per_row
    assert comparison["untrained"].shots == {"calibration": 30, "training": 30, "validation": 0}
    silico = comparison["in_silico"]  # on the twin; then every row once, for the readout
    assert (silico.shots["training"], silico.shots["validation"]) == (30, 0)
    assert silico.label == "in silico, readout refitted"
    for name in ("linear", "svm", "gradient_boosting", "mlp", "identity"):
        assert not comparison[name].uses_device
        assert comparison[name].n_shots_fit == comparison[name].n_shots_per_prediction == 0
    lines = {line.split("  ")[1]: line for line in str(comparison).splitlines() if line.startswith("  ")}
    assert "no shots" in lines["identity device"]
    assert "no shots" not in lines["untrained device"]


def test_a_predicted_row_is_measured_in_every_layer_and_unit_as_often_as_asked_for() -> None:
    X, y = products(20)
    est = network(n_layers=2, n_units=2, n_shots=3, gradient="spsa", twin=None, max_iter=1)
    found = compare_baselines(est, X, y, cv=2, baselines=[])
    assert [item.n_shots_per_prediction for item in found.rows] == [12]
    assert est.plan(X).prediction_per_row == 12


def test_operations_and_parameters_of_a_network_are_those_of_its_maps() -> None:
    X, y = products(40)
    est = network(n_layers=2, n_units=2, skip="input", gradient="exact", device=IdentityDevice.like(BANK)).fit(X, y)
    n_slots, n_sources = 2 * 4, 2 * 6
    moved = 2 * (n_slots + n_sources) + n_slots  # gains and normalisation of two layers, one skip
    cost = digital_cost(est)
    assert cost.operations == 2 + 2 * n_slots + moved + n_sources * 2 + 2 * 2 * 8  # the last: the identity's averages
    encoder, layers, readout = 2 * n_slots + n_slots, 2 * (2 * 4 + 2 * n_slots) + n_slots, n_sources * 2 + 2
    assert cost.n_parameters == encoder + layers + readout
    direct = network(encoder="direct", readout="bins").fit(X, y)
    assert digital_cost(direct) == DigitalCost(2 + 4 + 6 + 6, 4 + 2 * 4 + 1 + 2)


CLASSES = np.arange(12) % 3
WITHOUT_STEPS = Pipeline([("none", "passthrough"), ("scale", MinMaxScaler()), ("ridge", Ridge())])
STUMPS = HistGradientBoostingClassifier(max_iter=4, max_leaf_nodes=2, min_samples_leaf=1)


@pytest.mark.parametrize(
    ("model", "y", "cost"),
    [
        (Ridge(), CLASSES, (5, 6)),
        (LogisticRegression(), CLASSES, (5 * 3, 6 * 3)),
        (WITHOUT_STEPS, CLASSES, (5 + 5, 6)),
        (make_pipeline(FunctionTransformer(), StandardScaler(), LogisticRegression()), CLASSES > 0, (5 + 5, 6)),
        (TransformedTargetRegressor(Ridge(), transformer=StandardScaler()), CLASSES, (5 + 1, 6)),
        (MultiOutputRegressor(Ridge()), np.eye(3)[CLASSES], (5 * 3, 6 * 3)),
        (OneVsRestClassifier(LogisticRegression()), CLASSES, (5 * 3, 6 * 3)),
        (
            MLPRegressor(hidden_layer_sizes=(4,), solver="lbfgs", alpha=10.0, tol=0.1, random_state=0),
            CLASSES,
            (5 * 4 + 4, 6 * 4 + 5),
        ),
        (SVC(C=1e-3), CLASSES, (12 * 5 + 12 * 2, 12 * 2 + 3)),  # every row is a support vector, with two weights
        (STUMPS, CLASSES > 0, (4 * 2, 4 * 3)),
        (KNeighborsClassifier(), CLASSES, (None, None)),
        (make_pipeline(StandardScaler(), KNeighborsClassifier()), CLASSES, (None, None)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_operations_and_parameters_of_a_model_are_counted_by_hand(model: Any, y: Any, cost: tuple[Any, Any]) -> None:
    X = np.random.default_rng(0).uniform(-1, 1, (12, 5))
    assert digital_cost(clone(model).fit(X, y)) == DigitalCost(*cost)


def test_of_an_untrained_device_the_readout_alone_is_learned() -> None:
    X, y = products(40)
    est = network(n_layers=2, gradient="exact", device=IdentityDevice.like(BANK), max_iter=1)
    of_all, of_readout = digital_cost(clone(est).fit(X, y)), digital_cost(UntrainedDevice(est).fit(X, y))
    assert of_readout.operations == of_all.operations
    assert of_readout.n_parameters == 6 * 2 + 2


def test_the_perceptron_is_about_as_large_as_the_network(comparison: BaselineComparison) -> None:
    size, of_perceptron = comparison["estimator"].n_parameters, comparison["mlp"].n_parameters
    assert size is not None
    assert of_perceptron is not None
    assert abs(of_perceptron - size) <= (2 + 1 + 1) / 2  # half a hidden unit
    for n_features, n_outputs in ((2, 1), (30, 7)):
        width = hidden_width(500, n_features, n_outputs)
        X, y = (
            np.eye(max(n_features, 8))[:, :n_features],
            np.arange(max(n_features, 8)) % (n_outputs + (n_outputs == 1)),
        )
        made = MLPClassifier((width,), max_iter=1)
        with pytest.warns(UserWarning, match="Maximum iterations"):
            made.fit(X, y)
        found = digital_cost(made).n_parameters
        assert found is not None
        assert abs(found - 500) <= (n_features + 1 + n_outputs) / 2


# ---- the untrained device ----


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_untrained_device_keeps_its_first_weights_and_fits_a_readout(dtype: type, n_classes: int) -> None:
    X, y = products(90)
    X, y = X.astype(dtype), y + (X[:, 0] > 0.5) * (n_classes - 2)
    est = network(n_layers=2, gradient="exact", device=IdentityDevice.like(BANK), max_iter=1, learning_rate_init=1e-12)
    untrained = UntrainedDevice(est).fit(X, y)
    start = clone(est).fit(X, y)
    for name, value in untrained.network_.weights_.items():
        assert value.dtype == dtype
        if name.endswith((".theta", ".coef")) and not name.startswith("readout"):
            np.testing.assert_allclose(value, start.weights_[name], atol=1e-6)
    assert untrained.predict_proba(X).shape == (90, n_classes)
    assert untrained.score(X, y) == pytest.approx(np.mean(untrained.predict(X) == y))
    np.testing.assert_array_equal(untrained.classes_, np.unique(y))


def test_its_readout_is_the_logistic_regression_of_what_the_device_answers() -> None:
    X, y = products(300)  # more than the output statistics start from
    made = network(control_split=ControlSplit("contiguous"), encoder="direct", n_layers=2)
    untrained = UntrainedDevice(made).fit(X, y)
    fitted = untrained.network_
    answers: list[np.ndarray] = []
    readout, fitted._network.readout = fitted._network.readout, Keep(answers)
    fitted.decision_function(X)
    fitted._network.readout = readout
    reference = make_pipeline(StandardScaler(), LogisticRegression()).fit(answers[0], y)
    np.testing.assert_allclose(fitted.decision_function(X), reference.decision_function(answers[0]), atol=1e-6)


class Keep:
    """In the place of a readout: keeps what it gets."""

    def __init__(self, seen: list[np.ndarray]):
        self.seen = seen

    def read(self, weights: Any, outputs: np.ndarray) -> np.ndarray:
        self.seen.append(outputs)
        return outputs[:, :2]


# ---- what is said ----


def test_a_device_that_multiplies_adds_over_a_linear_model() -> None:
    X, y = products(400)
    est = network(learning_rate_init=0.05, max_iter=12, n_calibration_shots=200)
    found = compare_baselines(est, X, y, cv=5, baselines=["linear"])
    assert found.n_tested == 400
    assert found.adds_over("linear")
    assert found.sentences[0].startswith("The network adds 0.")
    assert "over a linear model (logistic regression)" in found.sentences[0]


@pytest.mark.parametrize(
    "params", [{}, {"gradient": "spsa"}, {"max_shots": 400, "n_shots": 2}, {"twin": NeuralTwin((8,))}]
)
def test_an_identity_does_as_well_as_an_identity(params: dict[str, Any]) -> None:
    X, y = products(80)
    device = as_device(lambda controls: controls, n_controls=8, n_outputs=8, bounds=(-1, 1))
    found = compare_baselines(network(device, **params), X, y, cv=2, baselines=["identity"])
    np.testing.assert_array_equal(found["estimator"].scores, found["identity"].scores)


class Wire(SimulatedDevice):
    """The identity of its first eight channels; the others do nothing."""

    n_controls, n_outputs, bounds = 40, 8, (-1.0, 1.0)

    def forward(self, controls: Any, constants: Any = None) -> Any:
        return controls[:, :8]


@pytest.mark.parametrize(
    "split", [ControlSplit("contiguous", n_inputs=8), ControlSplit(np.arange(8)), ControlSplit([*range(7, -1, -1)])]
)
def test_a_wire_adds_nothing_wherever_the_data_lies(split: ControlSplit) -> None:
    X = np.random.default_rng(1).normal(size=(240, 8))
    y = (X @ np.random.default_rng(2).normal(size=(8, 3))).argmax(axis=1)
    est = network(Wire(), gradient="exact", control_split=split, max_iter=12, learning_rate_init=0.03, encoder="direct")
    found = compare_baselines(est, X, y, cv=3, baselines=["identity"])
    assert found["identity"].mean > 0.75
    assert abs(found.difference("identity")[0]) < 0.1


@pytest.mark.parametrize("layout", ["random", "interleaved", "contiguous"])
@pytest.mark.parametrize(("n_controls", "n_outputs", "n_inputs"), [(60, 7, 20), (60, 30, 12), (9, 4, 9), (12, 20, 6)])
def test_as_much_of_the_data_comes_through_as_there_is_room_for(
    layout: str, n_controls: int, n_outputs: int, n_inputs: int
) -> None:
    split = ControlSplit(layout, n_inputs=n_inputs, random_state=0)
    device = as_device(np.sin, n_controls=n_controls, n_outputs=n_outputs, bounds=(0, 1))
    identity = IdentityDevice.like(device, split)
    answers = identity.measure(np.eye(n_controls))
    of_data = answers[split.resolve(n_controls).input_index]
    assert np.linalg.matrix_rank(of_data) == min(n_inputs, n_outputs)
    np.testing.assert_allclose(answers.sum(axis=0), 1.0)
    legal = np.random.default_rng(0).uniform(0, 1, (5, n_controls))
    assert 0 <= identity.measure(legal).min() <= identity.measure(legal).max() <= 1


def test_a_random_split_of_an_identity_needs_its_seed() -> None:
    with pytest.raises(ValueError, match="must have a random_state where its layout is 'random'"):
        IdentityDevice.like(BANK, ControlSplit("random"))
    X, y = products(60)
    est = network(control_split=ControlSplit("random"))
    assert compare_baselines(est, X, y, cv=2, baselines=["identity"])["identity"].n_shots_fit == 0


def test_an_identity_is_said_to_add_nothing() -> None:
    X, y = products(120)
    y = (X[:, 0] + X[:, 1] > 0).astype(int)
    linear = as_device(lambda controls: controls @ WIRING, n_controls=8, n_outputs=6, bounds=(-1, 1))
    found = compare_baselines(network(linear), X, y, cv=3, baselines=["linear", "identity"])
    assert not found.adds_over("linear")
    unproven = "adds nothing", "No difference is seen", "do not make it certain"
    assert all(any(words in sentence for words in unproven) for sentence in found.sentences)
    assert len(found.sentences) == 2


def test_rows_that_are_tested_again_count_once() -> None:
    X, y = products(60)
    splits = RepeatedStratifiedKFold(n_splits=2, n_repeats=2, random_state=0)
    assert compare_baselines(network(), X, y, cv=splits, baselines=["linear"]).n_tested == 60
    assert compare_baselines(network(), X, y, cv=2, scoring="roc_auc", baselines=["linear"]).n_tested is None


class Cells(HTMLParser):
    """Tags and text of a piece of HTML."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_html_shows_everything_and_obeys_nobody() -> None:
    rows = (row("estimator", [0.5, 0.6]), row("<script>alert(1)</script>", [0.5, 0.6]))
    found = BaselineComparison("<img src=x>", "<i>", rows, 1.0)
    cells = Cells()
    cells.feed(found._repr_html_())
    assert not {"script", "img", "i"} & set(cells.tags)
    assert "the <script>alert(1)</script> one" in cells.text
    assert cells.tags.count("tr") == 3


def test_pandas_has_all_numbers(comparison: BaselineComparison) -> None:
    table = comparison.to_pandas()
    assert list(table.index) == [item.name for item in comparison.rows]
    assert table.loc["linear", "calibration_shots"] == 0
    assert not table.loc["linear", "uses_device"]
    assert table.loc["svm", "difference"] == comparison.difference("svm")[0]
    assert table["operations_per_prediction"].notna().all()


def test_the_figure_has_a_line_for_each(comparison: BaselineComparison) -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    axis = figure.subplots()
    assert comparison.plot(ax=axis) is axis
    assert [label.get_text() for label in axis.get_yticklabels()] == [item.label for item in comparison.rows]
    means = [container.lines[0].get_xdata()[0] for container in axis.containers]
    np.testing.assert_allclose(means, [item.mean for item in comparison.rows])
    assert "accuracy" in axis.get_xlabel()
    figure.canvas.draw()


def test_without_pandas_and_matplotlib_the_message_says_what_to_install(
    comparison: BaselineComparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"needs pandas\. Install it with"):
        comparison.to_pandas()
    with pytest.raises(ImportError, match=r'pip install "skpat\[plot\]"'):
        comparison.plot()


# ---- refusals ----


@pytest.mark.parametrize(
    "est", [LogisticRegression(), make_pipeline(MinMaxScaler(), Ridge()), PhysicalNetworkClassifier]
)
def test_only_physical_networks_are_compared(est: Any) -> None:
    with pytest.raises(
        TypeError, match="must be a PhysicalNetworkClassifier or PhysicalNetworkRegressor, or a Pipeline"
    ):
        compare_baselines(est, *products(40))


@pytest.mark.parametrize(
    ("baselines", "error", "message"),
    [
        (["linear", "lineal"], ValueError, "must be among linear, svm, .* Got 'lineal'"),
        ("linear", TypeError, 'must be "classical", a list of names, or a dict'),
        (3, TypeError, "Got 3"),
        ({"ridge": Ridge}, TypeError, "must map names to estimators"),
        ({"estimator": Ridge()}, ValueError, "must not name one 'estimator'"),
    ],
)
def test_baselines_are_checked_before_anything_is_sent(baselines: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        compare_baselines(network(), *products(40), baselines=baselines)


def test_one_split_is_too_few() -> None:
    X, y = products(40)
    with pytest.raises(ValueError, match="must give at least two splits"):
        compare_baselines(network(), X, y, cv=[(np.arange(20), np.arange(20, 40))])


def test_a_name_that_was_not_compared(comparison: BaselineComparison) -> None:
    with pytest.raises(KeyError, match=r"'forest' was not compared\. Got estimator, linear"):
        comparison["forest"]


@pytest.mark.parametrize("scoring", ["neg_log_loss", "roc_auc_ovr", "roc_auc", "neg_brier_score"])
def test_a_scoring_that_asks_for_probabilities_gets_them_from_all(scoring: str) -> None:
    X, y = products()
    y = y if scoring == "roc_auc" else y + (X[:, 0] > 0.5)
    names = ["linear", "svm", "gradient_boosting", "untrained"]
    comparison = compare_baselines(network(max_iter=1), X, y, cv=2, baselines=names, scoring=scoring)
    assert [row.name for row in comparison.rows] == ["estimator", *names]
    assert all(np.isfinite(row.scores).all() for row in comparison.rows)


def test_a_baseline_that_cannot_be_fitted_costs_no_shots() -> None:
    sent: list[int] = []

    def bank(controls: np.ndarray) -> np.ndarray:
        sent.append(len(controls))
        return pairs(controls)

    device = as_device(bank, n_controls=8, n_outputs=6, bounds=(-1, 1))
    X, y = products(60)
    with pytest.raises(ValueError, match="alpha"):
        compare_baselines(network(device), X, y, cv=2, baselines={"mine": MLPClassifier(alpha=-1.0)})
    assert not sent


def test_rows_of_one_class_are_not_scored_one_after_the_other() -> None:
    seen: list[Any] = []

    def scoring(model: Any, X: Any, y: Any) -> float:
        seen.append(y)
        return model.score(X, y)

    X, y = np.random.default_rng(0).standard_normal((80, 2)), np.repeat([0, 1], 40)
    half = np.arange(80) % 2 == 0
    for cv in (2, [(half, ~half), (~half, half)]):
        compare_baselines(network(max_iter=1), X, y, cv=cv, baselines=["linear"], scoring=scoring)
        assert [len(labels) for labels in seen[-4:]] == [40] * 4
    for one, other in zip(seen[::2], seen[1::2], strict=True):
        np.testing.assert_array_equal(one, other)
        assert np.abs(np.diff(one)).sum() > 10
