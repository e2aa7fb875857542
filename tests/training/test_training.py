"""Calibration, loop and gradient estimators."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skpat import ControlBatch, ControlSplit, PhysicalNetworkClassifier, PhysicalNetworkRegressor, as_device
from skpat.devices import SecondHarmonicLaser
from skpat.estimators.specification import GRADIENTS
from skpat.exceptions import FarReadingWarning, NoExactGradientError, NonFiniteTrainingError
from skpat.lab import Session
from skpat.network.forward import Network
from skpat.row_keys import hash_rows
from skpat.training import SPSA, Apparatus, ExactGradient, GradientEstimator, InSilico, bridge, device_alone
from skpat.training.calibration import _varied, draw_rows, on_policy_shots
from skpat.training.far_reading import far_reading, usual
from skpat.training.loss import cross_entropy, squared_error, weighted_mean
from skpat.training.trainer import Data
from skpat.twins import NeuralTwin, PhysicsTwin

LASER = SecondHarmonicLaser(16, 12, n_steps=3)


def data(n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.RandomState(0)
    X = rng.uniform(-1, 1, (n, 3))
    return X, (X[:, 0] + 0.3 * X[:, 1] > 0).astype(int)


def small(**params: Any) -> PhysicalNetworkClassifier:
    defaults: dict[str, Any] = {"max_iter": 3, "n_calibration_shots": 60, "random_state": 0}
    defaults["twin"] = NeuralTwin((16,), max_iter=5, n_refine_steps=1)
    return PhysicalNetworkClassifier(params.pop("device", LASER), **(defaults | params))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_drawn_rows_do_not_depend_on_order_and_weigh_like_repetitions(seed: int) -> None:
    rng = np.random.RandomState(seed)
    X, weight = rng.standard_normal((12, 2)), rng.randint(1, 4, 12)
    repeated = np.repeat(X, weight, axis=0)
    shuffled = rng.permutation(12)
    draw = {
        name: values[draw_rows(hash_rows(values), w.astype(float), 40, np.random.RandomState(1))]
        for name, values, w in (
            ("weighted", X, weight),
            ("shuffled", X[shuffled], weight[shuffled]),
            ("repeated", repeated, np.ones(len(repeated))),
        )
    }
    np.testing.assert_array_equal(draw["weighted"], draw["shuffled"])
    np.testing.assert_array_equal(draw["weighted"], draw["repeated"])


class Recorded(SecondHarmonicLaser):
    """Keeps every row that it is sent; what it keeps survives clones."""

    rows: list[np.ndarray] = []

    def measure(self, batch: Any) -> np.ndarray:
        self.rows.append(np.array(batch))
        return super().measure(batch)


@pytest.mark.parametrize("twin", ["learned", "equations"])
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_channel_that_is_held_never_moves(gradient: str, twin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if gradient == "evolution_strategy":
        pytest.importorskip("cma", reason="cma is not installed")
    monkeypatch.setattr(Recorded, "rows", [])
    X, y = data(40)
    made = PhysicsTwin(SecondHarmonicLaser(8, 4, n_steps=2, coupling=20.0), ["coupling"])
    network = small(
        device=Recorded(8, 4, n_steps=2), gradient=gradient, control_split=ControlSplit(fixed={2: 0.3, 5: 0.8}),
        encoder="direct", n_layers=2, max_iter=1, **({"twin": made} if twin == "equations" else {}),
    )  # fmt: skip
    network.fit(X, y)
    network.partial_fit(X[:20], y[:20])
    network.loss_ = -np.inf  # never good enough: the weights are trained, too
    network.recalibrate(X, y, 200)
    network.predict(X[:5])
    sent = np.concatenate(Recorded.rows)
    assert len(sent) == sum(network.shots_.values())
    assert all(network.shots_[kind] for kind in ("calibration", "prediction", "recalibration"))
    np.testing.assert_array_equal(np.unique(sent[:, [2, 5]], axis=0), [[0.3, 0.8]])
    assert (np.ptp(np.delete(sent, [2, 5], axis=1), axis=0) > 0).all()


def test_the_shots_where_a_training_begins_are_of_ever_other_rows() -> None:
    X = np.random.default_rng(0).uniform(-1, 1, (3, 2))
    network = Network(
        split=ControlSplit([0, 1]).resolve(4), bounds=np.array([[0.0, 1.0]] * 4), n_features=2, n_outputs=2, n_targets=2,
        n_layers=2, encoder="direct",
    )  # fmt: skip
    weights = network.initial_weights(X, np.ones(3), np.random.RandomState(0))
    controls, _ = on_policy_shots(
        network, weights, X, 5, lambda asked: asked, lambda batch: np.asarray(batch)[:, :2] ** 2
    )  # two rows in both layers, and the third in the first
    assert len(controls) == len(np.unique(controls, axis=0)) == 5


def test_a_calibration_varies_the_encoder_around_the_first_one() -> None:
    first = 3.0 * np.random.default_rng(0).standard_normal((100, 100))
    found = [_varied({"encoder.coef": first}, np.random.RandomState(seed))["encoder.coef"] for seed in range(20)]
    cosines = [np.corrcoef(first.ravel(), coef.ravel())[0, 1] for coef in found]
    np.testing.assert_allclose(cosines, 0.6, atol=0.05)
    logs = np.log([coef.std() / first.std() for coef in found])
    assert 0.2 < logs.std() < 0.6  # and its gain


class Glitching(SecondHarmonicLaser):
    """One row of all is wrong by far."""

    def __init__(self, at: Any = (), size: float = 1e5, n_controls: int = 16, n_outputs: int = 12):
        super().__init__(n_controls, n_outputs, n_steps=2)
        self.at = at
        self.size = size

    def measure(self, batch: Any) -> np.ndarray:
        outputs = super().measure(batch)
        first = self.__dict__.get("_n", 0)
        self._n = first + len(outputs)
        outputs = np.array(outputs)
        for at in self.at:
            if first <= at < self._n:
                outputs[at - first, 1] = self.size
        return outputs


@pytest.mark.parametrize(
    ("at", "n_units"),
    [([10], 1), ([10, 60], 1), ([140], 1), ([300], 1), ([400], 1), ([100], 2), ([700], 2), ([725], 2)],
)
def test_readings_far_beyond_the_others_are_told_once(at: list[int], n_units: int) -> None:
    X, y = data(100)
    with pytest.warns(FarReadingWarning, match=r"Got 100000 in output 1, .*State output_range") as caught:
        small(device=Glitching(at), n_units=n_units, max_iter=6).fit(X, y)
    told = [warning for warning in caught if isinstance(warning.message, FarReadingWarning)]
    assert [warning.filename for warning in told] == [__file__]  # where the user called fit


def test_what_a_twin_predicts_is_no_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("skpat.training.trainer.warn_of_far_reading", lambda *args: asked.append(args) or False)
    small(gradient="in_silico").fit(*data())
    assert not asked
    small().fit(*data())
    assert asked


@given(
    seed=st.integers(0, 2**32 - 1),
    unit=st.sampled_from([1e-9, 1.0, 1e9]),
    kind=st.sampled_from(["normal", "rare", "units"]),
)
@settings(max_examples=30, deadline=None)
def test_what_is_usual_is_not_far(seed: int, unit: float, kind: str) -> None:
    rng = np.random.default_rng(seed)
    outputs = rng.standard_normal((400, 5))
    if kind == "rare":
        outputs = (rng.uniform(size=(400, 5)) < 0.002).astype(float)
        outputs[0] = 1.0
    if kind == "units":
        outputs *= [1e-6, 1.0, 1e6, 1e3, 1.0]
    outputs = unit * (outputs + 5)
    assert far_reading(outputs, outputs.mean(axis=0), outputs.std(axis=0)) is None
    outputs[7, 2] += 2000 * outputs.std(axis=0).max()
    row, output, distance = far_reading(outputs, np.delete(outputs, 7, 0).mean(0), np.delete(outputs, 7, 0).std(0)) or (
        0,
        0,
        0,
    )
    assert (row, output) == (7, 2)
    assert distance > 100


def test_a_spike_is_found_beside_an_output_that_has_moved() -> None:
    outputs = 0.1 * np.random.default_rng(0).standard_normal((32, 3))
    mean, spread = np.zeros(3), np.full(3, 0.1)
    outputs[:, 0] += 50
    assert far_reading(outputs, mean, spread) is None
    outputs[7, 1] = 40
    found = far_reading(outputs, mean, spread)
    assert found is not None
    assert found[:2] == (7, 1)
    assert far_reading(outputs[6:8], mean, spread) is None  # of two rows, who is far?


@pytest.mark.parametrize("unit", [1e-9, 1.0])
def test_a_far_reading_is_a_hundred_spreads_from_the_mean(unit: float) -> None:
    mean, spread = np.full(4, 7.0 * unit), np.full(4, unit)
    for distance in (99.0, 101.0, -101.0):
        outputs = np.tile(mean, (5, 1))
        outputs[3, 2] += distance * unit
        wanted = None if abs(distance) < 100 else (3, 2, pytest.approx(101))
        assert far_reading(outputs, mean, spread) == wanted
    outputs[3, 0] += 102 * unit  # 204 common spreads
    assert far_reading(outputs, mean, spread * [0, 0, 0, 1]) == (3, 0, pytest.approx(204))
    outputs[3] = mean + 49 * unit
    assert far_reading(outputs, mean, spread * [0, 0, 0, 1]) is None
    assert far_reading(outputs[:0], mean, spread) is None
    assert far_reading(outputs, mean, 0 * spread) is None


def test_what_is_usual_does_not_hear_of_a_few_far_readings() -> None:
    outputs = np.random.default_rng(0).uniform(-1, 1, (400, 3))
    outputs[::40] = 1e9
    middle, spread = usual(outputs)
    np.testing.assert_allclose(middle, 0, atol=0.2)
    np.testing.assert_allclose(spread, 0.9, atol=0.1)


def test_a_row_of_weight_two_counts_like_two_rows() -> None:
    losses, weight = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 2.0, 1.0])
    assert float(weighted_mean(losses, weight)) == float(torch.tensor([1.0, 2.0, 2.0, 4.0]).mean())


def test_the_loss_of_an_epoch_is_the_mean_over_rows_by_their_weight() -> None:
    X, _ = data(40)
    y, weight = np.repeat([0.0, 10.0], 20), np.repeat([1.0, 50.0], 20)  # a batch of each
    how: dict[str, Any] = {"max_iter": 1, "gradient": "exact", "shuffle": False, "random_state": 0}
    how |= {"alpha": 0.0, "learning_rate_init": 1e-12}
    still = SecondHarmonicLaser(16, 12, n_steps=3, noise=0.0, energy_jitter=0.0, noise_floor=0.0)
    whole, parts = (
        PhysicalNetworkRegressor(still, batch_size=size, **how).fit(X, y, sample_weight=weight).loss_
        for size in (40, 20)
    )
    assert parts == pytest.approx(whole, rel=0.1)


def test_losses_match_their_definitions() -> None:
    scores = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets = torch.tensor([0, 2, 1, 1, 0])
    expected = -torch.log_softmax(scores, 1)[torch.arange(5), targets]
    torch.testing.assert_close(cross_entropy(scores, targets), expected)
    torch.testing.assert_close(squared_error(scores, scores + 2), torch.full((5,), 6.0, dtype=torch.float64))


def test_targets_never_broadcast_in_silence() -> None:
    with pytest.raises(ValueError, match=r"must have one shape. Got \(5, 1\) and \(5,\)\. .*reshape\(-1, 1\)"):
        squared_error(torch.zeros(5, 1), torch.zeros(5))


@pytest.mark.parametrize(
    ("gradient", "training", "twin"),
    [("physics_aware", 180, True), ("in_silico", 0, True), ("exact", 180, False)],
)
def test_each_method_spends_what_it_says(gradient: str, training: int, twin: bool) -> None:
    X, y = data()
    network = small(gradient=gradient)
    plan = network.plan(X)
    network.fit(X, y)
    assert network.shots_ == {
        "calibration": 60 + 60 * twin,
        "training": training,
        "validation": 0,
        "prediction": 0,
    }
    assert (plan.calibration, plan.training, plan.validation) == (60 + 60 * twin, training, 0)
    assert (network.twin_ is not None) == twin


@pytest.mark.parametrize("gradient", ["physics_aware", "in_silico", "exact"])
@pytest.mark.parametrize("shape", [{}, {"n_layers": 2, "n_units": 2, "n_shots": 2, "early_stopping": True}])
def test_plan_is_what_a_full_fit_takes(gradient: str, shape: dict[str, Any]) -> None:
    X, y = data()
    network = small(gradient=gradient, tol=0.0, n_iter_no_change=100, **shape)
    plan = network.plan(X)
    network.fit(X, y)
    assert {k: v for k, v in network.shots_.items() if k != "prediction"} == {
        "calibration": plan.calibration,
        "training": plan.training,
        "validation": plan.validation,
    }
    network.predict(X[:5])
    assert network.shots_["prediction"] == 5 * plan.prediction_per_row


@pytest.mark.parametrize("gradient", ["physics_aware", "in_silico", "exact"])
def test_training_lowers_the_loss_for_every_method(gradient: str) -> None:
    X, y = data(200)
    twin = NeuralTwin((16,), max_iter=20, n_refine_steps=1)
    network = small(twin=twin, gradient=gradient, max_iter=15, n_calibration_shots=200).fit(X, y)
    assert network.loss_curve_[-1] < 0.7 * network.loss_curve_[0]
    assert network.score(X, y) > 0.85


def test_the_step_falls_along_half_a_cosine_to_a_hundredth() -> None:
    X, y = data()
    network = small(gradient="exact", max_iter=1, learning_rate_init=0.2).fit(X, y)
    with Session(network.device_) as session:
        trainer = network._make_trainer(session, len(X))
        steps = []
        for progress in (0.0, 0.5, 1.0):
            trainer.set_step(progress)
            steps.append(trainer.optimizer.param_groups[0]["lr"])
    np.testing.assert_allclose(steps, [0.2, 0.101, 0.002])


@pytest.mark.parametrize("n_rows", [10, 40])
def test_a_short_batch_moves_the_statistics_less(n_rows: int) -> None:
    class Still(GradientEstimator):
        """Measures, and gives no gradient to the device's channels."""

        def run(self, apparatus: Apparatus) -> Any:
            return device_alone(apparatus)

    X, y = data(40)
    answered: list[np.ndarray] = []

    def answer(controls: np.ndarray) -> np.ndarray:
        answered.append(controls[:, :3] * controls[:, 3:])
        return answered[-1]

    device = as_device(answer, n_controls=6, n_outputs=3, bounds=(-1, 1))
    network = small(device=device, gradient=Still(), max_iter=1, batch_size=40).fit(X, y)
    before = network._statistics[0].mean.copy()
    with Session(network.device_) as session:
        trainer = network._make_trainer(session, 40)
        rows = Data(X, y, np.ones(40), hash_rows(X)).rows(np.argsort(X[:, 0])[:n_rows])  # unlike the mean of all
        trainer.epoch(rows, np.random.RandomState(0))
    moved = 0.1 * n_rows / 40 * (answered[-1].mean(axis=0) - before)
    np.testing.assert_allclose(trainer.statistics[0].mean, before + moved, rtol=1e-12)
    assert np.abs(moved).max() > 1e-5


@pytest.mark.parametrize("n_iter_no_change", [1, 3])
def test_a_training_ends_after_so_many_epochs_that_gain_less_than_tol(n_iter_no_change: int) -> None:
    X, y = data()
    network = small(gradient="exact", max_iter=8, tol=10.0, n_iter_no_change=n_iter_no_change).fit(X, y)
    assert network.n_iter_ == 1 + n_iter_no_change
    assert (np.diff(network.loss_curve_) < 0).all()  # it fell, but by less


def test_spsa_is_right_on_average_and_costs_two_shots() -> None:
    w = torch.tensor([0.3, -0.2, 0.5, 0.1], dtype=torch.float64, requires_grad=True)
    after = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    weights = {"layers.0.theta": w, "readout.gain": after}
    calls: list[int] = []

    def measure(batch: Any, layer: int, unit: int) -> np.ndarray:
        calls.append(batch.n_rows)
        return np.sin(batch.dense().detach().numpy()) @ np.arange(1.0, 5.0)[:, None]

    def loss_of(run: Any) -> torch.Tensor:
        batch = ControlBatch(w[None, :], np.arange(4), w[:0], np.arange(0))
        return (run(batch, 0, 0) * after).square().sum()

    estimator = SPSA(1e-3, n_directions=2000, random_state=0)
    before = w.detach().clone()
    loss = estimator.loss_and_gradient(loss_of, Apparatus(measure, None, None, weights))
    y = float((np.sin(before.numpy()) * np.arange(1.0, 5.0)).sum())
    expected = 2 * 4 * y * np.cos(before.numpy()) * np.arange(1.0, 5.0)
    np.testing.assert_allclose(w.grad.numpy(), expected, atol=0.1 * np.abs(expected).max())
    assert abs(float(after.grad) - 2 * 2 * y**2) < 1e-3
    assert abs(float(loss) - 4 * y**2) < 1e-3
    assert torch.equal(w.detach(), before)
    assert len(calls) == 4000 == estimator.shots_per_row


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"perturbation": 0.0}, "'perturbation' parameter of SPSA"),
        ({"n_directions": 0}, "'n_directions' parameter of SPSA"),
    ],
)
def test_spsa_checks_its_parameters_before_anything_is_sent(parameters: dict[str, Any], message: str) -> None:
    X, y = data()
    with pytest.raises(ValueError, match=message):
        small(gradient=SPSA(**parameters)).fit(X, y)


def test_spsa_learns_and_repeats_bit_for_bit() -> None:
    X, y = data(120)
    fits = [small(gradient="spsa", max_iter=40, batch_size=30, learning_rate_init=0.02).fit(X, y) for _ in range(2)]
    assert fits[0].score(X, y) > 0.8
    assert fits[0].shots_["training"] == 2 * len(X) * fits[0].n_iter_
    assert fits[0].plan(X).training >= fits[0].shots_["training"]
    for name, value in fits[0].weights_.items():
        np.testing.assert_array_equal(value, fits[1].weights_[name])


def test_a_perfect_twin_gives_the_exact_gradients_training() -> None:
    class Perfect(GradientEstimator):
        """The device's own equations in place of the twin; calibrated like the exact gradient."""

        def run(self, apparatus: Any) -> Any:
            return bridge(apparatus.measure, apparatus.device.forward)

    X, y = data()
    a = small(gradient=Perfect()).fit(X, y)
    b = small(gradient=ExactGradient()).fit(X, y)
    for name in a.weights_:
        np.testing.assert_array_equal(a.weights_[name], b.weights_[name])


def test_refinement_changes_the_twin_and_costs_no_shots() -> None:
    X, y = data()
    one, other = (small(twin=NeuralTwin((32,), max_iter=5, n_refine_steps=n_steps)).fit(X, y) for n_steps in (0, 8))
    assert one.shots_ == other.shots_
    before, after = (network.twin_.predict(np.full((1, 16), 0.5)) for network in (one, other))
    assert np.abs(before - after).max() > 1e-6


def test_a_users_own_gradient_estimator() -> None:
    class Still(GradientEstimator):
        """Measures, and gives no gradient to the device's channels."""

        def run(self, apparatus: Any) -> Any:
            return lambda batch, layer, unit: torch.from_numpy(apparatus.measure(batch, layer, unit))

    X, y = data()
    network = small(gradient=Still()).fit(X, y)
    first = small(gradient=Still(), max_iter=1, learning_rate_init=1e-30).fit(X, y)
    np.testing.assert_array_equal(network.weights_["layers.0.theta"], first.weights_["layers.0.theta"])
    assert np.abs(network.weights_["readout.coef"] - first.weights_["readout.coef"]).max() > 1e-3


def test_the_exact_gradient_needs_a_differentiable_device() -> None:
    X, y = data()
    calls = []

    def function(controls: np.ndarray) -> np.ndarray:
        calls.append(len(controls))
        return controls

    device = as_device(function, n_controls=8, n_outputs=8, bounds=(0, 1))
    with pytest.raises(
        NoExactGradientError, match=r"needs a device with a differentiable forward.* Got function, which has none"
    ):
        small(device=device, gradient="exact").fit(X, y)
    assert not calls


def test_a_diverging_training_stops_with_a_named_error() -> None:
    class Broken(InSilico):
        """A twin whose values are finite and whose gradients are not."""

        def run(self, apparatus: Any) -> Any:
            return lambda batch, layer, unit: (batch.dense()[:, :12] * 0).sqrt()

    X, y = data()
    with pytest.raises(NonFiniteTrainingError, match="finite loss and finite gradients") as caught:
        small(gradient=Broken()).fit(X, y)
    assert caught.value.shots_done["calibration"] == 120


def test_early_stopping_keeps_the_best_weights() -> None:
    X, y = data(200)
    wrong = np.random.RandomState(1).uniform(size=200) < 0.3  # and long steps: the scores go up and down
    y = np.where(wrong, 1 - y, y)
    quiet = SecondHarmonicLaser(16, 12, n_steps=3, noise=0, noise_floor=0, energy_jitter=0)
    network = small(
        device=quiet, early_stopping=True, max_iter=12, n_iter_no_change=3, tol=1e-3, learning_rate_init=0.3
    )
    network.fit(X[:180], y[:180], X_val=X[180:], y_val=y[180:])
    assert network.validation_scores_[-1] < network.score(X[180:], y[180:]) == max(network.validation_scores_)
    assert network.best_validation_score_ == max(network.validation_scores_)
    assert len(network.validation_scores_) == network.n_iter_ <= 12
    assert network.shots_["validation"] == 20 * network.n_iter_


def test_validation_data_of_the_user_are_used_and_counted() -> None:
    X, y = data(80)
    network = small(tol=0.0)
    plan = network.plan(X, X[:10])
    network.fit(X, y, X_val=X[:10], y_val=y[:10])
    assert (plan.training, plan.validation) == (network.shots_["training"], network.shots_["validation"])
    assert len(network.validation_scores_) == 3
    assert network.shots_["validation"] == 30
    assert network.shots_["training"] == 240


def test_verbose_says_whose_score_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    X, y = data()
    for gradient, told in (("in_silico", " on the twin, "), ("exact", ", ")):
        small(verbose=1, max_iter=1, gradient=gradient).fit(X, y, X_val=X[:20], y_val=y[:20])
        assert re.search(rf"validation score [\d.]+{told}\d+", capsys.readouterr().out)


def test_verbose_prints_a_line_per_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    X, y = data()
    small(verbose=1).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[0] == "Calibration: at most 120 shots"
    assert re.fullmatch(r"Calibration: 120 shots, R² of the twin -?\d\.\d+", lines[1])
    assert re.fullmatch(r"Epoch 3/3: loss \d\.\d+, 300 shots, [\d,]+ shots/s, 0 s left", lines[-1])
