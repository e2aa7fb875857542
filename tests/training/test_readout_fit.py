"""In-silico training with the readout refitted on the device: what is fitted, what it costs, and what stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from skpat import PhysicalNetworkClassifier, PhysicalNetworkRegressor, as_device
from skpat.devices import SecondHarmonicLaser
from skpat.lab import Session
from skpat.network.forward import forward
from skpat.row_keys import hash_rows
from skpat.training import GradientEstimator, InSilico, InSilicoRefitted, SharpnessAware
from skpat.training.readout_fit import refit_readout
from skpat.training.trainer import Data
from skpat.twins import NeuralTwin, PhysicsTwin

X, Y = load_iris(return_X_y=True)
X = StandardScaler().fit_transform(X)
LASER = SecondHarmonicLaser(12, 8, n_steps=2, random_state=0)
WRONG = PhysicsTwin(SecondHarmonicLaser(12, 8, n_steps=2, coupling=60.0))  # the device has 25


def classifier(**params: Any) -> PhysicalNetworkClassifier:
    how = {"device": LASER, "twin": WRONG, "gradient": "in_silico_refitted", "n_layers": 2, "n_calibration_shots": 0}
    how |= {"encoder": "direct", "max_iter": 4, "learning_rate_init": 0.03, "random_state": 0}
    return PhysicalNetworkClassifier(**(how | params))


def trainer_of(network: Any, session: Session, n_rows: int) -> Any:
    return network._make_trainer(session, n_rows)


def data_of(network: Any, sample_weight: np.ndarray | None = None) -> Data:
    weight = np.ones(len(X)) if sample_weight is None else sample_weight
    return Data(X, Y.astype(np.int64), weight, hash_rows(X))


@pytest.mark.parametrize("readout", ["linear", "bins"])
@pytest.mark.parametrize("n_units", [1, 2])
def test_only_the_readout_and_the_normalisation_are_fitted(readout: str, n_units: int) -> None:
    plain = classifier(gradient="in_silico", readout=readout, n_units=n_units).fit(X, Y)
    fitted = classifier(readout=readout, n_units=n_units).fit(X, Y)
    for name, weight in fitted.weights_.items():
        same = np.array_equal(weight, plain.weights_[name])
        assert same != name.startswith("readout.") or name.endswith((".mean", ".scale")), name
    assert fitted.score(X, Y) > plain.score(X, Y) + (0.1 if readout == "linear" else 0.02)
    assert fitted.shots_["training"] == 2 * n_units * len(X) == fitted.plan(X).training
    assert plain.shots_["training"] == 0


def test_the_outputs_are_normalised_as_they_are_measured() -> None:
    network = classifier().fit(X, Y)
    seen: dict[int, np.ndarray] = {}
    with Session(network.device_) as session:
        measure = session.run(hash_rows(X), "prediction", shot=0)

        def run(batch: Any, layer: int, unit: int) -> np.ndarray:
            seen[layer] = measure(batch, layer, unit)
            return seen[layer]

        forward(network._network, network.weights_, X, run)
    for layer, outputs in seen.items():
        np.testing.assert_allclose(network.weights_[f"layers.{layer}.mean"], outputs.mean(axis=0), rtol=0.05)
        assert network._statistics[layer].started


@pytest.mark.parametrize("readout", ["linear", "bins"])
@pytest.mark.parametrize("alpha", [0.0, 1.0, 100.0])
def test_the_loss_falls_to_its_minimum(readout: str, alpha: float) -> None:
    network = classifier(gradient="in_silico", readout=readout, alpha=alpha).fit(X, Y)
    with Session(network.device_) as session:
        trainer = trainer_of(network, session, len(X))
        before, after = refit_readout(trainer, data_of(network))
        assert session.ledger.shots["training"] == 2 * len(X)
        assert after < before
        session._next_shot = 0  # the same noise once more: there is nothing left to gain
        first, again = refit_readout(trainer, data_of(network))
    assert first == pytest.approx(after, rel=1e-9)
    assert again == pytest.approx(after, rel=1e-6)


def test_a_regression_is_ridges() -> None:
    wiring = np.random.default_rng(0).normal(size=(6, 5))
    device = as_device(lambda c: np.tanh(c @ wiring), n_controls=6, n_outputs=5, bounds=(-1, 1))
    y = np.stack([X[:, 0] * X[:, 1], X[:, 2]], axis=1)
    network = PhysicalNetworkRegressor(
        device, NeuralTwin((16,)), gradient="in_silico_refitted", max_iter=2, alpha=3.0, random_state=0
    ).fit(X, y)
    outputs: list[np.ndarray] = []

    def run(batch: Any, layer: int, unit: int) -> np.ndarray:
        outputs.append(np.tanh(np.asarray(batch) @ wiring))
        return outputs[0]

    forward(network._network, network.weights_, X, run)
    normal = (outputs[0] - network.weights_["layers.0.mean"]) / network.weights_["layers.0.scale"]
    targets = (y - y.mean(axis=0)) / y.std(axis=0)
    ridge = Ridge(alpha=3.0).fit(normal, targets)
    np.testing.assert_allclose(network.weights_["readout.coef"], ridge.coef_.T, atol=1e-5)


def test_a_row_of_weight_two_counts_like_two_rows() -> None:
    rng = np.random.RandomState(0)
    weight = rng.randint(0, 3, size=len(X)).astype(float)
    quiet = SecondHarmonicLaser(12, 8, n_steps=2, noise=0.0, noise_floor=0.0, energy_jitter=0.0)
    fits = []
    network = classifier(gradient="in_silico", device=quiet).fit(X, Y)
    for rows in (data_of(network, weight), None):
        if rows is None:
            repeated = np.repeat(np.arange(len(X)), weight.astype(int))
            rows = data_of(network).rows(repeated)
        else:
            rows = rows.rows(np.flatnonzero(weight))
        with Session(network.device_) as session:
            trainer = trainer_of(network, session, len(X))
            trainer.set_weights(network.weights_)
            refit_readout(trainer, rows)
            fits.append(trainer.weights_now())
    for name in fits[0]:
        np.testing.assert_allclose(fits[0][name], fits[1][name], rtol=1e-4, atol=1e-4, err_msg=name)


def test_the_order_of_the_rows_does_not_matter() -> None:
    network = classifier(gradient="in_silico").fit(X, Y)
    fits = []
    for order in (np.arange(len(X)), np.random.RandomState(1).permutation(len(X))):
        with Session(network.device_) as session:
            trainer = trainer_of(network, session, len(X))
            refit_readout(trainer, data_of(network).rows(order))
            fits.append(trainer.weights_now())
    for name in fits[0]:
        np.testing.assert_array_equal(fits[0][name], fits[1][name])


def test_what_the_budget_leaves_is_fitted_to() -> None:
    network = classifier(max_shots=320).fit(X, Y)  # 20 rows set the statistics
    assert sum(network.shots_.values()) <= 320
    assert 0 < network.shots_["training"] < 2 * len(X)
    assert network.shots_["training"] <= network.plan(X).training
    plain = classifier(gradient="in_silico", max_shots=320).fit(X, Y)
    assert network.score(X, Y) > plain.score(X, Y)
    with pytest.raises(ValueError, match="'max_shots' must allow for the calibration and one batch"):
        classifier(max_shots=60).fit(X, Y)


def test_a_fault_in_the_last_pass_changes_nothing_and_the_journal_goes_on(tmp_path: Path) -> None:
    class Broken(SecondHarmonicLaser):
        fails_at = 10**9
        n_measured = 0

        def measure(self, batch: Any) -> np.ndarray:
            Broken.n_measured += 1
            if Broken.n_measured == Broken.fails_at:
                raise RuntimeError("the lamp broke")
            return super().measure(batch)

    device = Broken(12, 8, random_state=0)
    whole = classifier(device=device, journal=tmp_path / "whole.db").fit(X, Y)
    n_calls, Broken.n_measured = Broken.n_measured, 0
    Broken.fails_at = n_calls  # the last layer of the last pass
    with pytest.raises(RuntimeError, match="the lamp broke"):
        classifier(device=device, journal=tmp_path / "broken.db").fit(X, Y)
    resumed = classifier(device=device, journal=tmp_path / "broken.db").fit(X, Y)
    assert resumed.shots_["training"] == len(X)  # the first layer stood in the journal
    for name, weight in whole.weights_.items():
        np.testing.assert_array_equal(weight, resumed.weights_[name])


def test_ctrl_c_in_the_last_pass_keeps_the_weights() -> None:
    class Interrupted(InSilicoRefitted):
        def finish(self, trainer: Any, data: Any) -> None:
            raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="The end of the training was interrupted"):
        stopped = classifier(gradient=Interrupted()).fit(X, Y)
    plain = classifier(gradient=InSilico()).fit(X, Y)
    assert stopped.loss_curve_ == plain.loss_curve_
    for name, weight in plain.weights_.items():
        np.testing.assert_array_equal(weight, stopped.weights_[name])


def test_the_best_weights_are_finished_and_wrappers_hand_on() -> None:
    seen = []

    class Watching(GradientEstimator):
        uses_twin, trains_on_device, shots_per_row = True, False, 0
        final_shots_per_row = 7

        def prepare(self, network: Any) -> None:
            seen.append(network.n_layers)

        def run(self, apparatus: Any) -> Any:
            return InSilico().run(apparatus)

        def finish(self, trainer: Any, data: Any) -> None:
            seen.append(trainer.weights_now())
            trainer.set_weights({"readout.intercept": np.array([1.0, 2.0, 3.0])})

    network = classifier(gradient=SharpnessAware(Watching()), early_stopping=True, max_iter=3).fit(X, Y)
    assert seen[0] == 2
    assert len(seen) == 2
    np.testing.assert_array_equal(network.weights_["readout.intercept"], [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(network.weights_["layers.0.theta"], seen[1]["layers.0.theta"])
    assert clone(network).plan(X).training == 135 * 2 * 7


def test_it_is_deterministic() -> None:
    one, two = (classifier().fit(X.astype(np.float32), Y) for _ in range(2))
    for name, weight in one.weights_.items():
        assert weight.dtype == np.float32
        np.testing.assert_array_equal(weight, two.weights_[name])
