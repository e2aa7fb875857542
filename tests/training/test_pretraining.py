"""A training that begins in silico: the device goes on from what the twin has found, if it confirms that."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.preprocessing import StandardScaler

from skpat import PhysicalNetworkClassifier, PhysicalNetworkRegressor
from skpat.devices import SecondHarmonicLaser
from skpat.estimators.shot_counts import ShotCounts
from skpat.exceptions import NonFiniteTrainingError
from skpat.training import InSilico, PhysicsAware, SharpnessAware, pretraining
from skpat.training.pretraining import confirmed_part
from skpat.training.trainer import Trainer
from skpat.twins import NeuralTwin, PhysicsTwin, ResidualTwin

X, Y = (part[::2] for part in load_iris(return_X_y=True))
X = StandardScaler().fit_transform(X)
LASER = SecondHarmonicLaser(16, 8, n_steps=2, coupling=27.0)
TWIN = PhysicsTwin(SecondHarmonicLaser(16, 8, n_steps=2), ["coupling"])


AUTO = {"gradient": PhysicsAware(), "max_iter": 16, "batch_size": 75}


class Learned(PhysicsTwin):
    """A twin of somebody's own that knows nothing before it has seen shots."""

    needs_shots = True


def network(kind: type = PhysicalNetworkClassifier, **params: Any) -> Any:
    defaults: dict[str, Any] = {
        "gradient": PhysicsAware(pretrain=True),
        "encoder": "direct",
        "n_units": 2,
        "max_iter": 3,
    }
    defaults |= {"learning_rate_init": 0.05, "batch_size": 25, "random_state": 0}
    return kind(LASER, **({"twin": TWIN} | defaults | params))


def same_weights(one: Any, other: Any) -> bool:
    return all((weight == other.weights_[name]).all() for name, weight in one.weights_.items())


@pytest.mark.parametrize(
    "gradient", [PhysicsAware(pretrain=True), SharpnessAware(PhysicsAware(pretrain=True))], ids=str
)
def test_it_costs_no_shot_and_begins_where_the_twin_ended(gradient: Any) -> None:
    plain = clone(gradient).set_params(**{name: False for name in gradient.get_params() if name.endswith("pretrain")})
    begun, anew = network(gradient=gradient).fit(X, Y), network(gradient=plain).fit(X, Y)
    assert begun.shots_ == anew.shots_
    assert begun.plan(X) == anew.plan(X)
    assert begun.loss_curve_[0] < 0.9 * anew.loss_curve_[0]
    assert len(begun.loss_curve_) == 3
    assert same_weights(begun, network(gradient=gradient).fit(X, Y))


@pytest.mark.parametrize("kind", [PhysicalNetworkClassifier, PhysicalNetworkRegressor])
def test_the_device_goes_on_with_small_steps_from_the_weights_found_in_silico(
    kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, float]] = []
    weights: list[dict[str, np.ndarray]] = []
    epoch = Trainer.epoch

    def watched(self: Trainer, data: Any, rng: Any, progress: tuple[float, float]) -> float:
        seen.append((type(self.gradient).__name__, progress[0]))
        weights.append(self.weights_now())
        loss = epoch(self, data, rng, progress)
        weights.append(self.weights_now())
        return loss

    monkeypatch.setattr(Trainer, "epoch", watched)
    network(kind).fit(X, Y)
    assert [name for name, _ in seen] == ["InSilico"] * 6 + ["PhysicsAware"] * 3
    np.testing.assert_allclose(
        [start for _, start in seen], [i / 6 for i in range(6)] + [0.75 + i / 12 for i in range(3)]
    )
    first, in_silico, on_device = weights[0], weights[11], weights[12]
    for name, weight in on_device.items():
        np.testing.assert_array_equal(weight, in_silico[name])
    for name in (
        "layers.0.theta",
        "layers.0.mean",
        "readout.coef",
    ):  # the statistics are of the outputs at these weights
        assert np.abs(on_device[name] - first[name]).max() > 0


def test_what_goes_on_does_not_begin_in_silico(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = network(warm_start=True).fit(X, Y)

    def refuse(*args: Any) -> None:
        raise AssertionError("in silico again")

    monkeypatch.setattr(InSilico, "run", refuse)
    fitted.partial_fit(X, Y)
    fitted.fit(X, Y)


def test_what_goes_on_takes_whole_steps_again(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = network(warm_start=True).fit(X, Y)
    assert fitted.pretrained_
    starts: list[float] = []
    set_step = Trainer.set_step
    monkeypatch.setattr(Trainer, "set_step", lambda self, part: (starts.append(part), set_step(self, part)))
    fitted.fit(X, Y)
    assert starts[0] == 0  # as it is made
    np.testing.assert_allclose(starts[1:], [i / 9 for i in range(9)])  # three batches in each of three epochs


def test_the_noise_of_the_trial_is_not_met_again(monkeypatch: pytest.MonkeyPatch) -> None:
    met: dict[str, set[tuple[int, int]]] = {"trial": set(), "training": set()}
    during = ["training"]

    class Named(SecondHarmonicLaser):
        def measure(self, batch: Any) -> np.ndarray:
            met[during[0]] |= {(int(key), batch.shot) for key in batch.row_keys}
            return super().measure(batch)

    confirmed = pretraining.is_confirmed

    def tried(*args: Any) -> bool:
        during[0] = "trial"
        found = confirmed(*args)
        during[0] = "training"
        return found

    monkeypatch.setattr(pretraining, "is_confirmed", tried)
    made = network(**AUTO).set_params(device=Named(16, 8, n_steps=2, coupling=27.0)).fit(X, Y)
    made.predict(X)
    assert not met["trial"] & met["training"]
    assert {key for key, _ in met["trial"]} <= {key for key, _ in met["training"]}  # the same rows


def test_ctrl_c_in_silico_ends_the_fit_before_its_first_step_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    n_batches, run = [0], InSilico.run

    def interrupted(self: InSilico, apparatus: Any) -> Any:
        n_batches[0] += 1
        if n_batches[0] == 5:
            raise KeyboardInterrupt
        return run(self, apparatus)

    monkeypatch.setattr(InSilico, "run", interrupted)
    with pytest.warns(UserWarning, match=r"interrupted in epoch 2 of 6.*keeps the best weights"):
        found = network().fit(X, Y)
    assert not found.pretrained_  # no training on the device has gone on from there
    assert found.shots_["training"] == 0
    assert found.predict(X).shape == Y.shape
    assert len(found.loss_curve_) == 2


def test_after_ctrl_c_in_silico_the_device_is_not_asked_what_it_was_worth(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any) -> Any:
        found = pretrain(*args)
        found[1].interrupted = True
        return found

    asked: list[Any] = []
    pretrain = pretraining.pretrain
    monkeypatch.setattr(pretraining, "pretrain", interrupted)
    monkeypatch.setattr(pretraining, "is_confirmed", lambda *args: asked.append(args))
    found = network(**AUTO).fit(X, Y)
    assert not asked
    assert (found.pretrained_, found.shots_["training"]) == (False, 0)


def test_a_trial_never_takes_the_shots_of_the_first_step() -> None:
    made = network(**AUTO, n_calibration_shots=1700)
    with_trial = []
    for max_shots in range(2010, 2310, 50):
        plan = made.set_params(max_shots=max_shots).plan(X)
        assert plan.training >= 2 * 75
        assert plan.shots <= max_shots
        with_trial.append(plan.calibration > 1700 + 2 * 75)
    assert with_trial == [False] + [True] * 5  # 16 rows in both units where the budget reaches for them, too


def test_a_trial_takes_what_is_planned() -> None:
    made = network(**(AUTO | {"max_iter": 3}), n_calibration_shots=100)  # 22 rows of 225
    found = made.fit(X, Y)
    assert found.pretrained_
    assert found.shots_["calibration"] == made.plan(X).calibration == 100 + (75 + 22) * 2


@given(
    n_rows=st.integers(10, 2000), max_iter=st.integers(1, 30), share=st.floats(0.01, 2.0), n_layers=st.integers(1, 3)
)
def test_a_trial_takes_a_tenth_of_the_training(n_rows: int, max_iter: int, share: float, n_layers: int) -> None:
    """Of as many rows as it has shots for: 100 at most and 16 at least, if those are no more than a quarter."""
    made = network(gradient=PhysicsAware(), max_iter=max_iter, n_layers=n_layers, n_calibration_shots=50)
    counts = ShotCounts.of(made, made.gradient, TWIN, n_rows, 2 * n_layers)
    n_trained = n_rows * max_iter
    expected = 0 if n_trained < 64 else int(np.clip(n_trained // 10, 16, 100))
    assert counts.trial_rows == expected
    assert counts.trial == 2 * n_layers * expected
    budget = int(share * counts.training) + counts.calibration
    limited = replace(counts, max_shots=budget)
    assert limited.trial_rows in (0, *range(16, 101))
    if limited.trial:
        assert limited.trial <= 0.25 * limited.training
        assert limited.calibration + limited.first_step + limited.trial <= budget


@pytest.mark.parametrize("how", [{}, AUTO, AUTO | {"max_shots": 900}, {"max_shots": 900}], ids=str)
def test_budgets_and_journals_hold(how: dict[str, Any], tmp_path: Path) -> None:
    made = network(**how, journal=tmp_path / "run.db", early_stopping=True, n_calibration_shots=100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one, again = clone(made).fit(X, Y), clone(made).fit(X, Y)
    assert sum(again.shots_.values()) == 0 < sum(one.shots_.values()) <= how.get("max_shots", np.inf)
    assert same_weights(one, again)
    assert one.pretrained_ == again.pretrained_ is True


def test_what_the_device_confirms_is_kept_for_the_shots_of_a_hundred_rows() -> None:
    begun, anew = network(**AUTO).fit(X, Y), network(**(AUTO | {"gradient": PhysicsAware(pretrain=False)})).fit(X, Y)
    assert (begun.pretrained_, anew.pretrained_) == (True, False)
    assert begun.loss_curve_[0] < 0.5 * anew.loss_curve_[0]
    assert begun.shots_["calibration"] == anew.shots_["calibration"] + 2 * 100
    assert begun.shots_["training"] == anew.shots_["training"]
    assert begun.plan(X).calibration == anew.plan(X).calibration + 2 * 100


@pytest.mark.parametrize("n_shots", [1, 2])
def test_what_the_device_does_not_confirm_leaves_the_training_as_it_would_have_been(n_shots: int, capsys: Any) -> None:
    wrong = {
        "twin": PhysicsTwin(SecondHarmonicLaser(16, 8, n_steps=2, coupling=1.0)),
        "n_shots": n_shots,
    }
    tried = network(verbose=1, **(AUTO | wrong)).fit(X, Y)
    printed = capsys.readouterr().out
    assert re.search(r"In silico: \d+ epochs, loss \S+; not confirmed by the device, which begins anew\n", printed)
    lines = re.findall(r"^In silico (\d+)/(\d+): loss \d\.\d{5}, .* left$", printed, re.M)
    assert [int(epoch) for epoch, _ in lines] == list(range(1, len(lines) + 1))
    assert {int(most) for _, most in lines} == {2 * tried.max_iter}
    anew = network(**(AUTO | wrong | {"gradient": PhysicsAware(pretrain=False)})).fit(X, Y)
    assert not tried.pretrained_
    assert tried.shots_["calibration"] == anew.shots_["calibration"] + 2 * 100 * n_shots
    assert same_weights(tried, anew)
    assert tried.loss_curve_ == anew.loss_curve_


@pytest.mark.parametrize(
    "how",
    [
        {"gradient": PhysicsAware(refine=False)},
        {"gradient": SharpnessAware()},
        {"gradient": "asymmetric"},
        {"twin": NeuralTwin(max_iter=5)},
        {"twin": Learned(SecondHarmonicLaser(16, 8, n_steps=2), ["coupling"])},
        {"twin": ResidualTwin(TWIN, NeuralTwin(max_iter=5))},
        {"n_layers": 2, "max_iter": 1, "max_shots": 490},  # nothing is left for a trial
    ],
    ids=str,
)
def test_nothing_begins_in_silico_that_need_not(how: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError("in silico")

    monkeypatch.setattr(InSilico, "run", refuse)
    found = network(**(AUTO | how)).fit(X, Y)
    assert not found.pretrained_
    assert sum(found.shots_.values()) <= found.plan(X).shots


def test_ctrl_c_while_the_device_is_asked_keeps_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(pretraining, "is_confirmed", interrupted)
    with pytest.warns(UserWarning, match=r"interrupted before its first step on the device\. .* found in silico\."):
        found = network(**AUTO).fit(X, Y)
    assert (found.pretrained_, found.shots_["training"]) == (False, 0)
    assert found.score(X, Y) > 0.8


def test_numbers_that_end_in_silico_leave_the_training_as_it_would_have_been(monkeypatch: pytest.MonkeyPatch) -> None:
    def ends(trainer: Trainer, data: Any, rng: Any) -> None:
        trainer.gradient = InSilico()
        trainer.epoch(data, rng)
        raise NonFiniteTrainingError("The training must have a finite loss.")

    monkeypatch.setattr(pretraining, "pretrain", ends)
    tried, anew = network(**AUTO).fit(X, Y), network(**(AUTO | {"gradient": PhysicsAware(pretrain=False)})).fit(X, Y)
    assert tried.shots_ == anew.shots_
    assert same_weights(tried, anew)
    with pytest.raises(NonFiniteTrainingError):
        network().fit(X, Y)


def test_a_row_of_weight_two_counts_like_two_rows() -> None:
    some = {"max_iter": 60, "batch_size": 64, "n_calibration_shots": 100, "twin": PhysicsTwin(LASER)}
    rows, twice = slice(0, 57, 3), np.tile(np.arange(0, 57, 3), 2)
    weighted = network(**(AUTO | some)).fit(X[rows], Y[rows], sample_weight=np.full(19, 2.0))
    repeated = network(**(AUTO | some)).fit(X[twice], Y[twice])
    assert weighted.pretrained_
    assert repeated.pretrained_
    for name, weight in weighted.weights_.items():
        np.testing.assert_allclose(weight, repeated.weights_[name], atol=1e-9)


def test_no_budget_is_refused_for_what_would_tell() -> None:
    auto, plain = (network(**(AUTO | {"gradient": PhysicsAware(pretrain=pretrain)})) for pretrain in ("auto", False))
    changed = {"n_calibration_shots": 1090, "max_iter": 200}
    for max_shots in range(1300, 1800, 20):
        auto.set_params(**changed, max_shots=max_shots)
        plain.set_params(**changed, max_shots=max_shots)
        try:
            least = plain.plan(X)
        except ValueError:
            with pytest.raises(ValueError, match="'max_shots' must allow for"):
                auto.plan(X)
        else:
            assert least.shots <= auto.plan(X).shots <= max_shots
    auto.set_params(max_shots=1600).fit(X, Y)
    assert sum(auto.shots_.values()) <= 1600


@pytest.mark.parametrize("kind", [PhysicalNetworkClassifier, PhysicalNetworkRegressor])
def test_what_a_network_knows_is_held_against_the_best_constant(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    part = pretraining.confirmed_part
    monkeypatch.setattr(pretraining, "confirmed_part", lambda *losses: seen.append(losses[0]) or part(*losses))
    monkeypatch.setattr(pretraining, "TRIAL_ROWS", 1000)  # not these few alone
    rare = np.where(np.arange(75) % 25 == 0, 1, 0)
    how = {"max_iter": 150, "n_calibration_shots": 100, "n_iter_no_change": 2, "tol": 1.0}
    network(kind, **(AUTO | how)).fit(X, rare)
    share = 3 / 75
    of_classes = -share * np.log(share) - (1 - share) * np.log(1 - share)
    assert seen[0] == pytest.approx(of_classes if kind is PhysicalNetworkClassifier else 0.5, rel=0.3)


def test_a_budget_that_faults_have_used_up_confirms_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = pretraining.pretrain

    def and_then_none_left(trainer: Trainer, *args: Any) -> Any:
        trainer.session.max_shots = trainer.session.ledger.asked_in_all
        return begin(trainer, *args)

    monkeypatch.setattr(pretraining, "pretrain", and_then_none_left)
    with pytest.warns(UserWarning, match="must have shots for at least one step"):
        found = network(**AUTO).fit(X, Y)
    assert not found.pretrained_


@given(st.floats(1e-3, 1e3), st.floats(0.01, 0.99), st.floats(0.01, 10))
def test_the_part_that_is_confirmed_does_not_depend_on_the_scale_of_the_loss(
    scale: float, promised: float, held: float
) -> None:
    part = confirmed_part(1.0, promised, held)
    assert confirmed_part(scale, scale * promised, scale * held) == pytest.approx(part, abs=1e-6)
    assert confirmed_part(1.0, promised, promised) == 1
    assert confirmed_part(1.0, promised, 1.0) == 0 == confirmed_part(promised, 1.0, held)
    assert confirmed_part(1.0, promised, held * 1.01) < part
