"""The budget of a fit is never exceeded, and what it buys is kept."""

from __future__ import annotations

import re
import warnings
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.datasets import load_iris

from skpat import PhysicalNetworkClassifier, as_device
from skpat.devices import SecondHarmonicLaser
from skpat.exceptions import ShotBudgetError, UselessTwinWarning
from skpat.lab import Session
from skpat.training import useless_twin
from skpat.training.trainer import Trainer
from skpat.twins import NeuralTwin, PhysicsTwin

X, Y = load_iris(return_X_y=True)


class Counter:
    """A device that counts what it is really asked."""

    def __init__(self) -> None:
        self.rows = 0
        self.mixing = np.random.default_rng(0).standard_normal((8, 5))

    def __call__(self, controls: np.ndarray) -> np.ndarray:
        self.rows += len(controls)
        return np.tanh(controls @ self.mixing)

    def __deepcopy__(self, memo: dict) -> Counter:
        return self


def counted(**params: object) -> tuple[Counter, PhysicalNetworkClassifier]:
    counter = Counter()
    device = as_device(counter, n_controls=8, n_outputs=5, bounds=(-1, 1))
    defaults: dict[str, object] = {"twin": NeuralTwin((16,), max_iter=5, n_refine_steps=1), "random_state": 0}
    return counter, PhysicalNetworkClassifier(device, **(defaults | params))


@given(
    max_shots=st.integers(300, 3000), n_shots=st.integers(1, 3), n_layers=st.integers(1, 2), early=st.booleans(),
    gradient=st.sampled_from(["physics_aware", "spsa", "in_silico"]),
)  # fmt: skip
@settings(max_examples=15, deadline=None)
def test_a_fit_never_exceeds_its_budget(max_shots: int, n_shots: int, n_layers: int, early: bool, gradient: str):
    counter, network = counted(
        max_shots=max_shots, n_shots=n_shots, n_layers=n_layers, early_stopping=early, gradient=gradient,
        max_iter=4, batch_size=10,
    )  # fmt: skip
    with suppress(ValueError), warnings.catch_warnings():  # less than the calibration and one batch take; see below
        warnings.filterwarnings("ignore", "What is held out must be scored at least once")
        network.fit(X, Y)
    if not hasattr(network, "loss_"):
        assert counter.rows == 0
        return
    assert counter.rows == sum(network.shots_.values()) <= max_shots
    assert sum(network.plan(X).__dict__[kind] for kind in ("calibration", "training", "validation")) <= max_shots
    assert network.predict(X).shape == Y.shape
    assert np.isfinite(network.loss_)


@pytest.mark.parametrize("n_layers", [1, 2])
@pytest.mark.parametrize("n_shots", [1, 3])
def test_a_calibration_takes_a_quarter_of_the_budget_and_the_statistics_an_eighth(n_shots: int, n_layers: int) -> None:
    max_shots = 960
    of_device = "asymmetric"  # a method whose training would take more than the budget
    _, network = counted(gradient=of_device, max_shots=max_shots, n_shots=n_shots, n_layers=n_layers, batch_size=10)
    plan = network.plan(X)
    network.fit(X, Y)
    n_calibration = network.shots_["calibration"] - network._shot_counts(len(X)).checks
    assert n_calibration == plan.calibration - network._shot_counts(len(X)).checks == max_shots / 4 + max_shots / 8
    assert sum(network.shots_.values()) <= max_shots


@pytest.mark.parametrize("n_layers", [1, 2])
@pytest.mark.parametrize("max_shots", [200, 431])
def test_what_a_training_has_no_use_for_goes_to_the_calibration(max_shots: int, n_layers: int) -> None:
    counter, network = counted(gradient="in_silico", max_shots=max_shots, n_layers=n_layers)
    assert network.plan(X).calibration == network.fit(X, Y).shots_["calibration"] == counter.rows
    assert max_shots - 2 * n_layers < counter.rows <= max_shots
    refitted = counted(gradient="in_silico_refitted", max_shots=max_shots + len(X) * n_layers, n_layers=n_layers)[1]
    assert refitted.fit(X, Y).shots_ == network.shots_ | {"training": len(X) * n_layers}


@given(
    gradient=st.sampled_from(["physics_aware", "exact", "asymmetric", "in_silico", "in_silico_refitted", "spsa"]),
    n_layers=st.integers(1, 2), n_shots=st.integers(1, 2), validated=st.sampled_from(["no", "held out", "given"]),
    equations=st.booleans(), spare=st.integers(0, 50),
)  # fmt: skip
@settings(max_examples=8, deadline=None)
def test_a_budget_of_what_the_plan_says_changes_nothing(
    gradient: str, n_layers: int, n_shots: int, validated: str, equations: bool, spare: int
) -> None:
    laser = SecondHarmonicLaser(8, 5, n_steps=2, random_state=0)
    twin = PhysicsTwin(laser, ["coupling"], max_iter=2) if equations else NeuralTwin((8,), max_iter=2, n_refine_steps=1)
    network = PhysicalNetworkClassifier(
        laser, twin=twin, gradient=gradient, n_layers=n_layers, n_shots=n_shots, early_stopping=validated == "held out",
        max_iter=2, batch_size=40, random_state=0,
    )  # fmt: skip
    more = {"X_val": X[::7], "y_val": Y[::7]} if validated == "given" else {}
    plan = network.plan(X, X_val=more.get("X_val"))
    n_planned = plan.calibration + plan.training + plan.validation
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UselessTwinWarning)
        free = clone(network).fit(X, Y, **more)
        bound = clone(network).set_params(max_shots=n_planned + spare).fit(X, Y, **more)
    assert bound.plan(X, X_val=more.get("X_val")) == plan
    assert bound.shots_ == free.shots_
    for name, weight in free.weights_.items():
        np.testing.assert_array_equal(weight, bound.weights_[name])


@pytest.mark.parametrize(("n_rows", "n_layers"), [(30, 1), (30, 2), (150, 1), (150, 3), (4000, 1), (4000, 2)])
def test_a_calibration_without_a_budget_is_of_two_shots_for_each_call_within_limits(n_rows: int, n_layers: int) -> None:
    _, network = counted(gradient="in_silico", n_layers=n_layers)
    n_twin = np.clip(2 * n_rows * n_layers, 200, 10_000)
    assert network.plan(np.resize(X, (n_rows, 4))).calibration == n_twin + min(n_rows, 256) * n_layers


def test_a_budget_that_is_not_reached_changes_nothing() -> None:
    free, bounded = (counted(max_iter=2, n_calibration_shots=100, max_shots=m)[1].fit(X, Y) for m in (None, 10**6))
    for name, weight in free.weights_.items():
        np.testing.assert_array_equal(weight, bounded.weights_[name])


@pytest.mark.parametrize("n_missing", [1, 40, 300])
@pytest.mark.parametrize(
    ("n_rows", "validated", "equations"), [(150, True, False), (1000, False, True), (1000, True, True)]
)
def test_a_budget_a_little_below_the_plan_is_taken_from_the_calibration(
    n_missing: int, n_rows: int, validated: bool, equations: bool
) -> None:
    laser = SecondHarmonicLaser(8, 5, n_steps=2)
    twin = PhysicsTwin(laser, []) if equations else NeuralTwin((8,))  # with equations there is a trial
    network = PhysicalNetworkClassifier(laser, twin, max_iter=1, random_state=0)
    rows, held_out = np.resize(X, (n_rows, 4)), X[:30] if validated else None
    whole = network.plan(rows, X_val=held_out)
    n_whole = whole.calibration + whole.training + whole.validation
    bound = network.set_params(max_shots=n_whole - n_missing).plan(rows, X_val=held_out)
    kept_from_training = whole.training + whole.validation - bound.training - bound.validation
    assert (
        kept_from_training <= 0.2 * n_missing + 3
    )  # a part that has all it wants leaves the others' shares as they are
    assert whole.calibration - bound.calibration <= n_missing + 3  # each is rounded down


@given(
    n_layers=st.integers(1, 4), n_shots=st.integers(1, 3), n_twin=st.integers(1, 400), n_rows=st.integers(20, 300),
    gradient=st.sampled_from(["in_silico", "in_silico_refitted", "asymmetric"]),
)  # fmt: skip
@settings(max_examples=15, deadline=None)
def test_the_least_budget_is_the_least_with_a_fixed_calibration_too(
    n_layers: int, n_shots: int, n_twin: int, n_rows: int, gradient: str
) -> None:
    _, network = counted(
        gradient=gradient, n_layers=n_layers, n_shots=n_shots, n_calibration_shots=n_twin, batch_size=10, max_iter=3
    )
    rows = np.resize(X, (n_rows, 4))
    with pytest.raises(ValueError, match=r"the calibration and one batch, [\d,]+ shots in all") as refused:
        network.set_params(max_shots=1).plan(rows)
    least = int(re.search(r"one batch, ([\d,]+) shots", str(refused.value))[1].replace(",", ""))
    step = 10 * n_layers * n_shots * {"in_silico": 0, "in_silico_refitted": 1, "asymmetric": 1}[gradient]
    statistics = max(16 * n_layers * n_shots, least / 8)  # an eighth of a budget is theirs, and 16 rows at least
    checks = 0.1 * least + 1 if gradient == "asymmetric" else 0
    assert least <= statistics + n_shots * n_twin + step + checks
    for budget in (least - 1, least, least + 1, least + 7, 2 * least, 10 * least):
        network.set_params(max_shots=budget)
        if budget < least:
            with pytest.raises(ValueError, match="shots in all"):
                network.plan(rows)
        else:
            plan = network.plan(rows)
            assert plan.calibration + plan.training + plan.validation <= budget


def test_the_step_falls_to_its_end_within_the_budget() -> None:
    def last_step(network: PhysicalNetworkClassifier) -> float:
        return network._optimizer_state["param_groups"][0]["lr"] / network.learning_rate_init

    assert last_step(counted(max_iter=1000, max_shots=4000, n_iter_no_change=1000)[1].fit(X, Y)) < 0.05


def test_a_small_budget_is_refused_before_anything_is_sent() -> None:
    counter, network = counted(max_shots=20)
    with pytest.raises(ValueError, match=r"'max_shots' must allow .* Got 20\. Nothing was sent\."):
        network.fit(X, Y)
    assert counter.rows == 0


@given(
    n_layers=st.integers(1, 2), n_units=st.integers(1, 2), n_shots=st.integers(1, 3), batch_size=st.integers(1, 40),
    gradient=st.sampled_from(["physics_aware", "sharpness_aware", "in_silico_refitted", "evolution_strategy"]),
)  # fmt: skip
@settings(max_examples=15, deadline=None)
def test_the_number_that_a_refusal_names_is_enough(**params: object) -> None:
    counter, network = counted(max_shots=1, max_iter=2, **params)
    for call in (lambda: network.plan(X), lambda: network.fit(X, Y)):
        with pytest.raises(ValueError, match="calibration and one batch") as caught:
            call()
    assert counter.rows == 0
    least = int(re.search(r"one batch, ([\d,]+) shots", str(caught.value))[1].replace(",", ""))  # type: ignore[index]
    network.set_params(max_shots=least - 1)
    with pytest.raises(ValueError, match=f"one batch, {least:,} shots"):
        network.fit(X, Y)
    network.set_params(max_shots=least).fit(X, Y)
    assert counter.rows <= least
    assert np.isfinite(network.loss_)


@pytest.mark.parametrize("incremental", [False, True])
def test_a_fit_that_goes_on_needs_a_budget_for_one_batch(incremental: bool) -> None:
    counter, network = counted(max_iter=2, warm_start=True, batch_size=30)
    network.fit(X, Y)
    loss, spent = network.loss_, counter.rows
    for max_shots, enough in ((29, False), (30, True)):
        network.set_params(max_shots=max_shots)
        again = network.partial_fit if incremental else network.fit
        if enough:
            again(X, Y)
            assert np.isfinite(network.loss_)
            assert counter.rows == spent + 30
        else:
            with pytest.raises(
                ValueError,
                match=r"must allow for one batch, 30 shots in all\. Got 29\. .* or a smaller batch_size or n_shots",
            ):
                again(X, Y)
            assert (network.loss_, counter.rows) == (loss, spent)


def test_a_budget_that_repeats_have_used_up_before_the_first_step_is_told() -> None:
    X, y = load_iris(return_X_y=True)
    calls = [0]

    def faulty(controls: np.ndarray) -> np.ndarray:
        calls[0] += 1
        return np.full((len(controls), 3), np.nan if calls[0] == 1 else 1.0) * controls[:, :3]

    device = as_device(faulty, n_controls=8, n_outputs=3, bounds=(0, 1), name="faulty")
    network = PhysicalNetworkClassifier(device, gradient="spsa", max_shots=32, batch_size=8, max_iter=2, random_state=0)
    with pytest.warns(UserWarning, match=r"at least one step\. Got none: repeats after faults"):
        network.fit(X, y)
    assert network.ledger_.total <= 32
    assert network.predict(X).shape == y.shape


def test_the_best_weights_so_far_are_kept() -> None:
    _, network = counted(
        max_shots=2500, max_iter=100, early_stopping=True, n_iter_no_change=100, learning_rate_init=1.0
    )
    network.fit(X[::2], Y[::2], X_val=X[1::2], y_val=Y[1::2])
    assert network.validation_scores_[-1] < network.score(X[1::2], Y[1::2]) == max(network.validation_scores_)


def test_a_session_keeps_to_its_budget_also_in_repeats() -> None:
    counter, network = counted()
    with Session(network.device, max_shots=10) as session:
        session.measure(np.zeros((6, 8)))
        assert session.shots_left == 4
        with pytest.raises(ShotBudgetError, match=r"must not go beyond max_shots=10\. 5 more shots .* 4 are left"):
            session.measure(np.zeros((5, 8)))
        session.measure(np.zeros((4, 8)))
    assert counter.rows == session.ledger.total == 10


def test_retries_count() -> None:
    answers = iter([np.full((6, 5), np.nan), np.zeros((6, 5))])
    device = as_device(lambda controls: next(answers), n_controls=8, n_outputs=5, bounds=(-1, 1))
    with Session(device, max_shots=10) as session, pytest.raises(ShotBudgetError):
        session.measure(np.zeros((6, 8)))


@given(max_shots=st.integers(400, 1200), n_layers=st.integers(1, 2), n_val=st.integers(1, 20))
@settings(max_examples=10, deadline=None)
def test_a_plan_spends_the_budget_as_the_fit_does(max_shots: int, n_layers: int, n_val: int) -> None:
    rows, labels = X[::3], np.arange(len(X[::3])) % 3  # each class on either side, however many are held out
    _, network = counted(gradient="spsa", n_layers=n_layers, max_iter=5, batch_size=5, max_shots=max_shots)
    plan = network.plan(rows[n_val:], rows[:n_val])
    network.fit(rows[n_val:], labels[n_val:], X_val=rows[:n_val], y_val=labels[:n_val])
    assert network.shots_["calibration"] == plan.calibration
    assert network.shots_["validation"] <= plan.validation <= network.shots_["validation"] + n_val * n_layers
    assert network.shots_["training"] <= plan.training <= network.shots_["training"] + 2 * 5 * n_layers


@pytest.mark.parametrize("given", [False, True])
def test_a_budget_that_ends_before_anything_was_validated_is_told(given: bool) -> None:
    _, network = counted(early_stopping=not given, max_iter=5, batch_size=30, n_calibration_shots=20, max_shots=150)
    held_out = {"X_val": X[:20], "y_val": Y[:20]} if given else {}
    with pytest.warns(UserWarning, match=r"scored at least once\. Got no score: .*Use a larger max_shots"):
        network.fit(X, Y, **held_out)
    assert network.shots_["validation"] == 0 < network.shots_["training"]
    network.set_params(max_shots=400).fit(X, Y, **held_out)  # no warning
    assert network.validation_scores_


@pytest.mark.parametrize(("max_shots", "early_stopping"), [(4979, False), (4980, False), (4981, False), (5980, True)])
def test_the_last_check_is_made_wherever_the_budget_ends(max_shots: int, early_stopping: bool) -> None:
    network = PhysicalNetworkClassifier(
        SecondHarmonicLaser(20, 10, n_steps=2), NeuralTwin((8,), max_iter=3, n_refine_steps=1), n_calibration_shots=100,
        max_iter=40, max_shots=max_shots, n_iter_no_change=1000, early_stopping=early_stopping, random_state=0,
    )  # fmt: skip
    network.fit(X, Y)
    assert len(network.alignments_) == 3
    assert max_shots - 50 < sum(network.shots_.values()) <= max_shots


@pytest.mark.parametrize("max_iter", [40, 500])
@pytest.mark.parametrize("gradient", ["physics_aware", "sharpness_aware", "exact"])
def test_the_checks_of_the_twin_are_as_planned_and_leave_the_training_its_end(
    max_iter: int, gradient: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = []
    set_step = Trainer.set_step
    monkeypatch.setattr(Trainer, "set_step", lambda self, part: (progress.append(part), set_step(self, part)))
    network = PhysicalNetworkClassifier(
        SecondHarmonicLaser(20, 10, n_steps=2), NeuralTwin((8,), max_iter=3, n_refine_steps=1), gradient=gradient,
        max_iter=max_iter, max_shots=5000, n_iter_no_change=1000, random_state=0,
    )  # fmt: skip
    plan = network.plan(X)
    network.fit(X, Y)
    checks = network.alignments_
    n_checks = 3 if gradient == "physics_aware" else 0  # of the others they would take too much, or are not needed
    assert len(checks) == n_checks
    counted = network._shot_counts(len(X)).checks
    assert sum(check.n_shots for check in checks) == counted
    assert network.shots_["calibration"] <= plan.calibration
    assert 0.97 < progress[-1] < 1  # falls to the end, and not before it
    assert sum(network.shots_.values()) > 4900


def test_ctrl_c_in_the_last_check_ends_the_fit_with_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    _, network = counted(max_iter=1000, max_shots=5000, n_iter_no_change=1000)
    checks = []

    def check(*args: object, **kwargs: object) -> object:
        checks.append(check_alignment(*args, **kwargs))
        if len(checks) == 3:
            raise KeyboardInterrupt
        return checks[-1]

    check_alignment = useless_twin.check_alignment
    monkeypatch.setattr(useless_twin, "check_alignment", check)
    with pytest.warns(UserWarning, match="The training was interrupted"):
        network.fit(X, Y)
    assert network.predict(X).shape == Y.shape
