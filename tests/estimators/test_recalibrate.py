"""recalibrate: accuracy comes back on a device that has drifted, within the budget, and never gets worse."""

from __future__ import annotations

import pickle
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_iris, load_wine
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from skpat import PhysicalNetworkClassifier, PhysicalNetworkRegressor, as_device
from skpat.devices import AnalogCircuit, Drifting, SecondHarmonicLaser
from skpat.exceptions import DeviceOutputError, ShotBudgetError
from skpat.lab import Journal, Session
from skpat.network import PatchEncoder
from skpat.row_keys import hash_rows
from skpat.training import recalibration
from skpat.training.readout_fit import fit_readout
from skpat.training.recalibration import LEAST_ROWS, _is_better
from skpat.training.trainer import Data, Trainer
from skpat.twins import NeuralTwin
from tests.combinations import mostly_slow
from tests.estimators.small_network import IRIS, Watched, small

LATER = 10**6
LASER = SecondHarmonicLaser(30, 12, n_steps=2)
WINE, KINDS = load_wine(return_X_y=True)
WINE = StandardScaler().fit_transform(WINE)
X_TRAIN, X_TEST, Y_TRAIN, Y_TEST = train_test_split(WINE, KINDS, test_size=0.4, random_state=0, stratify=KINDS)


def drifting(device: Any, size: float) -> Drifting:
    """Nothing happens but one jolt, long after the training."""
    return Drifting(device, common=0.0, misalignment=size, misalignment_at=LATER, random_state=1)


TRAINED: dict[str, bytes] = {}


def untrained(size: float = 0.15, device: Any = None, **params: Any) -> PhysicalNetworkClassifier:
    defaults: dict[str, Any] = {
        "twin": NeuralTwin((16,), max_iter=5, n_refine_steps=1),
        "max_iter": 8,
        "random_state": 0,
    }
    made = drifting(LASER if device is None else device, size)
    return PhysicalNetworkClassifier(made, **(defaults | params))


def trained(*args: Any, **params: Any) -> PhysicalNetworkClassifier:
    """Trained once for all the tests that begin with it, and loaded; its twin has no memory."""
    network = untrained(*args, **params)
    described = repr(network)
    if described not in TRAINED:
        TRAINED[described] = pickle.dumps(network.fit(X_TRAIN, Y_TRAIN))
    return pickle.loads(TRAINED[described])


def jolted(network: PhysicalNetworkClassifier) -> PhysicalNetworkClassifier:
    network.ledger_.n_before += LATER
    return network


@pytest.mark.parametrize("device", [LASER, AnalogCircuit(30, 12)], ids=["laser", "circuit"])
def test_what_a_jolt_has_cost_is_restored(device: Any) -> None:
    network = untrained(0.4, device, encoder="direct", learning_rate_init=0.03).fit(X_TRAIN, Y_TRAIN)
    before = network.score(X_TEST, Y_TEST)
    after = jolted(network).score(X_TEST, Y_TEST)
    assert after < before - 0.08  # else there is nothing to restore
    network.recalibrate(X_TRAIN, Y_TRAIN, 1000)
    assert network.score(X_TEST, Y_TEST) > after + 0.6 * (before - after)
    assert network.recalibration_.kept != "nothing new"
    assert network.shots_["recalibration"] == network.recalibration_.shots <= 1000


@pytest.mark.parametrize("n_layers", [1, 2])
def test_a_readout_that_is_kept_has_the_lower_loss(n_layers: int) -> None:
    """Both losses are of the same rows: with several layers the old one is known of a quarter of them."""
    X, y = load_wine(return_X_y=True)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    device = Drifting(SecondHarmonicLaser(20, 10))
    network = PhysicalNetworkClassifier(device, n_layers=n_layers, gradient="exact", max_iter=4, random_state=5)
    network.fit(X, y)
    found = [network.recalibrate(X, y, n).recalibration_ for n in (100, 200, 446)]  # the last two begin with a good one
    kept = [one for one in found if one.kept == "readout"]
    assert kept
    assert all(found.loss_readout < found.loss_before for found in kept)


@pytest.mark.slow  # 15 s
def test_the_weights_follow_where_the_readout_cannot() -> None:
    params = {"readout": "bins", "encoder": "direct", "n_units": 2, "learning_rate_init": 0.03, "max_iter": 20}
    network = jolted(trained(0.4, twin=None, **params))
    readout = pickle.loads(pickle.dumps(network))
    readout.loss_ = np.inf  # whatever it is, it is enough
    readout.recalibrate(X_TRAIN, Y_TRAIN, 6000)
    network.recalibrate(X_TRAIN, Y_TRAIN, 6000)
    assert network.recalibration_.kept == "readout and weights"
    assert network.recalibration_.loss_weights < readout.recalibration_.loss_readout
    theta = "layers.0.theta"
    assert not np.array_equal(network.weights_[theta], readout.weights_[theta])
    assert network.score(X_TEST, Y_TEST) >= readout.score(X_TEST, Y_TEST) - 0.03


@pytest.mark.parametrize(
    ("pooling", "kind", "n_layers"),
    [
        (None, PhysicalNetworkClassifier, 1),
        (None, PhysicalNetworkRegressor, 2),
        ("mean", PhysicalNetworkRegressor, 1),
        ("mean", PhysicalNetworkClassifier, 2),
    ],
)
def test_a_network_of_patches_is_recalibrated(pooling: str | None, kind: type, n_layers: int) -> None:
    X = np.random.default_rng(0).normal(size=(60, 32))
    y = (X[:, :16].mean(axis=1) > 0).astype(int)
    encoder = PatchEncoder(pooling=pooling)
    twin = NeuralTwin((8,), max_iter=2, n_refine_steps=1)
    made = drifting(SecondHarmonicLaser(12, 6), 0.4)
    network = kind(made, twin, encoder=encoder, n_layers=n_layers, max_iter=1, random_state=0).fit(X, y)
    n_calls, n_rows = network._network.n_calls, LEAST_ROWS + (LEAST_ROWS // 4) * (n_layers > 1)
    assert n_calls > n_layers
    least, spent = n_rows * n_calls, network.ledger_.total
    with pytest.raises(ShotBudgetError, match=rf"{least:,} shots in all. .* Use max_shots={least} or more"):
        network.recalibrate(X, y, least - 1)
    assert network.ledger_.total == spent
    jolted(network).recalibrate(X, y, least)
    assert network.recalibration_.n_rows == LEAST_ROWS
    assert network.recalibration_.shots == least
    network.loss_ = -np.inf  # never enough
    network.recalibrate(X, y, 20 * least)
    assert network.recalibration_.n_epochs
    assert np.isfinite(network.predict(X)).all()


def test_the_penalty_of_the_weights_does_not_pass_for_a_loss() -> None:
    network = trained(alpha=30.0, max_iter=20)
    X, y = X_TRAIN, Y_TRAIN
    cross_entropy = -np.log(network.predict_proba(X)[np.arange(len(y)), y]).mean()
    assert network.loss_ > 1.2 * cross_entropy  # else there is nothing to mistake
    assert network.loss_ - network._penalty == pytest.approx(cross_entropy, rel=0.1)
    network.loss_ = 10.0  # more than any measured here
    for penalty, tried in ((0.0, False), (10.0, True)):
        network._penalty = penalty
        network.recalibrate(X, y, 1000)
        assert (network.recalibration_.loss_weights is not None) == tried


def test_the_penalty_is_that_of_the_loss_whatever_the_rows_weigh() -> None:
    network = untrained(alpha=3.0, max_iter=1).fit(X_TRAIN, Y_TRAIN, sample_weight=np.full(len(X_TRAIN), 2.0))
    squares = sum(np.square(value).sum() for name, value in network.weights_.items() if name.endswith(".coef"))
    assert network._penalty == pytest.approx(0.5 * 3.0 * squares / (2 * len(X_TRAIN)))
    losses = [
        untrained(gradient="spsa", twin=None, alpha=alpha, max_iter=1, batch_size=len(X_TRAIN))
        .fit(X_TRAIN, Y_TRAIN, sample_weight=np.full(len(X_TRAIN), weight))
        .loss_
        for alpha, weight in ((300.0, 1.0), (600.0, 2.0))
    ]
    assert losses[0] == pytest.approx(losses[1])


@pytest.mark.parametrize(
    ("gradient", "how"),
    mostly_slow(
        [
            ("physics_aware", (100, 2)), ("physics_aware", (3000, 1)), ("physics_aware", (3000, 2)), ("spsa", (333, 1)),
            ("spsa", (3000, 2)), ("in_silico", (3000, 1)), ("exact", (333, 1)), ("exact", (3000, 2)),
        ],
        ["physics_aware", "spsa", "in_silico", "exact"],
        [(100, 2), (333, 1), (3000, 1), (3000, 2)],
    ),
)  # fmt: skip
def test_the_budget_holds_and_is_counted(gradient: str, how: tuple[int, int]) -> None:
    max_shots, n_layers = how
    network = trained(gradient=gradient, n_layers=n_layers, max_iter=1)
    network.loss_ = -np.inf  # never enough
    earlier, counted = network.shots_, network.ledger_.total
    network.recalibrate(X_TRAIN, Y_TRAIN, max_shots)
    assert 0 < network.shots_["recalibration"] == network.ledger_.total - counted <= max_shots
    assert {kind: n for kind, n in network.shots_.items() if kind != "recalibration"} == earlier
    n_first = len(X_TRAIN) * n_layers + -(-len(X_TRAIN) // 4) * (n_layers > 1)  # for a readout, of all rows
    trains = gradient != "in_silico" and max_shots > n_first
    assert (network.recalibration_.n_epochs > 0) == trains
    assert (network.recalibration_.loss_weights is not None) == trains


def test_whom_it_was_recalibrated_for_is_who_it_is_deployed_for() -> None:
    class Named(Watched):
        answers_as = "first"

        def identify(self) -> str:
            return self.answers_as

    X, y = IRIS
    network = small(device=Named(), gradient="spsa", max_iter=1).fit(X, y)
    Named.answers_as = "second"
    network.recalibrate(X, y, max_shots=100)
    deployed = network.deploy()
    assert deployed.identity == "second"
    np.testing.assert_array_equal(deployed.predict(X), network.predict(X))


def test_rows_that_are_not_scaled_as_before_are_warned_of() -> None:
    X, y = load_wine(return_X_y=True)
    network = untrained().fit(WINE, y)
    with pytest.warns(UserWarning, match=r"Got feature 12 at \d+ times that scale, .* scaled as it was for the fit"):
        network.recalibrate(X, y, max_shots=200)


def test_no_drift_no_change_for_the_worse() -> None:
    network = trained()
    before = network.score(X_TEST, Y_TEST)
    for _ in range(3):
        network.recalibrate(X_TRAIN, Y_TRAIN, 300)
    assert network.score(X_TEST, Y_TEST) >= before - 0.03


@pytest.mark.parametrize("max_shots", [40, 300])
def test_what_is_not_better_is_not_kept(max_shots: int) -> None:
    network = trained(device=SecondHarmonicLaser())  # trained so far that no readout is better
    weights = {name: value.copy() for name, value in network.weights_.items()}
    network.recalibrate(X_TRAIN, Y_TRAIN, max_shots)  # nothing has drifted
    assert network.recalibration_.kept == "nothing new"
    for name, value in weights.items():
        np.testing.assert_array_equal(network.weights_[name], value)
    same = np.array([0.3, 0.1, 0.2])
    assert not _is_better(same, same, np.ones(3))
    assert _is_better(same, same + 0.1, np.ones(3))
    assert not _is_better(same + np.array([0.5, -0.4, 0.0]), same, np.ones(3))


@pytest.mark.parametrize("n_layers", [1, 2])
def test_a_training_that_is_not_better_leaves_no_trace(n_layers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network = jolted(trained(n_layers=n_layers, max_iter=2))
    before = pickle.loads(pickle.dumps(network))
    compared: list[tuple[Any, ...]] = []
    monkeypatch.setattr(recalibration, "_is_better", lambda *losses: bool(compared.append(losses)))  # never
    network.loss_ = -np.inf  # never enough
    found = network.recalibrate(X_TRAIN, Y_TRAIN, 1000).recalibration_
    assert found.n_epochs
    assert found.kept == "nothing new"
    for name, value in before.weights_.items():
        np.testing.assert_array_equal(network.weights_[name], value)
    for now, then in zip(network._statistics, before._statistics, strict=True):
        np.testing.assert_array_equal([now.mean, now.variance], [then.mean, then.variance])
    (_, judged, _, level), (trained_further, of_check, *_) = compared
    assert level == 1 + 10 / len(judged)
    np.testing.assert_array_equal(of_check, judged[::4] if n_layers == 1 else judged)  # of rows that decide
    assert len(trained_further) == len(of_check) == -(-found.n_rows // 4)


def test_the_best_epoch_is_kept_and_the_fifth_without_progress_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    network = jolted(trained(max_iter=8))
    scored: list[dict[str, np.ndarray]] = []

    def worse_after_the_first(trainer: Trainer, weights: dict[str, np.ndarray], rows: Data) -> np.ndarray:
        scored.append(weights)
        return np.eye(3)[rows.targets] * (len(scored) == 1)

    monkeypatch.setattr(recalibration, "_scores", worse_after_the_first)
    monkeypatch.setattr(recalibration, "_is_better", lambda *losses: True)
    network.loss_ = -np.inf  # never enough
    found = network.recalibrate(X_TRAIN, Y_TRAIN, 2000).recalibration_
    assert (found.kept, found.n_epochs) == ("readout and weights", 6)
    for name, value in network.weights_.items():
        np.testing.assert_array_equal(value, scored[0][name])
    np.testing.assert_array_equal(network._statistics[0].mean, network.weights_["layers.0.mean"])
    assert network._optimizer_state is None  # those of the fit are of other weights
    assert (network._statistics[0].mean != scored[-1]["layers.0.mean"]).any()


@pytest.mark.parametrize(("max_shots", "n_rows"), [(200, 200), (400, 256), (600, 300)])
def test_half_of_a_large_budget_is_left_for_the_weights(max_shots: int, n_rows: int) -> None:
    network = trained(max_iter=2)
    network.loss_ = np.inf  # enough: they are not trained
    momenta = network._optimizer_state
    network.recalibrate(np.tile(X_TRAIN, (6, 1)), np.tile(Y_TRAIN, 6), max_shots)
    assert network.recalibration_.n_rows == network.recalibration_.shots == n_rows
    assert network._optimizer_state is momenta  # a training goes on with them


def test_what_is_left_for_one_epoch_is_left_for_its_score_too() -> None:
    network = trained(max_iter=2)
    network.loss_ = -np.inf  # never enough
    found = network.recalibrate(X_TRAIN[:64], Y_TRAIN[:64], 64 + 24 + 16).recalibration_  # 24 rows, judged by 16
    assert (found.n_epochs, found.shots) == (1, 104)
    assert found.loss_weights is not None


def test_the_same_again_is_the_same() -> None:
    one = jolted(untrained().fit(X_TRAIN, Y_TRAIN))
    other = pickle.loads(pickle.dumps(one))  # its twin has no memory
    for network in (one, other):
        network.loss_ = -np.inf
        network.recalibrate(X_TRAIN, Y_TRAIN, 2000)
    assert one.recalibration_.n_epochs
    for name, value in one.weights_.items():
        np.testing.assert_array_equal(value, other.weights_[name])
    np.testing.assert_array_equal(one.predict(X_TEST), other.predict(X_TEST))


def test_it_needs_no_more_than_it_takes() -> None:
    network = jolted(trained())
    network.loss_ = np.inf
    network.recalibrate(X_TRAIN, Y_TRAIN, 10**6)
    assert network.shots_["recalibration"] == len(X_TRAIN)
    assert "not tried" in str(network.recalibration_)


def test_a_budget_too_small_is_refused_before_anything_is_sent() -> None:
    network = trained(max_iter=1, n_shots=2)
    with pytest.raises(
        ShotBudgetError, match=r"must allow for 16 rows, 32 shots in all\. Got 31\. Nothing was sent\. Use "
    ):
        network.recalibrate(X_TRAIN, Y_TRAIN, 31)
    assert "recalibration" not in network.shots_
    assert network.recalibrate(X_TRAIN, Y_TRAIN, 32).shots_["recalibration"] == 32


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"max_shots": 0}, r"'max_shots' of recalibrate must be an int of at least 1\. Got 0\. Use"),
        (
            {"X": X_TRAIN[:9], "y": Y_TRAIN[:9]},
            r"at least 16 rows of positive weight\. Got 9\. Nothing was sent\. Give",
        ),
        (
            {"sample_weight": Y_TRAIN != 1},
            r"'y' of recalibrate must have every class the network knows\. \[1\] had no row of positive weight\. Nothing was",
        ),
        ({"y": Y_TRAIN + 1}, r"'y' must have the labels \[0, 1, 2\] only\. Got also \[3\]"),
    ],
)
def test_what_it_refuses(how: dict[str, Any], said: str) -> None:
    network = trained(max_iter=1)
    with pytest.raises(ValueError, match=said):
        network.recalibrate(**({"X": X_TRAIN, "y": Y_TRAIN, "max_shots": 500} | how))
    assert "recalibration" not in network.shots_
    assert not hasattr(network, "recalibration_")


def test_an_error_leaves_the_network_as_it_was() -> None:
    calls: list[int] = []
    mixing = np.random.default_rng(0).standard_normal((26, 12)) / 5

    def bench(controls: np.ndarray) -> np.ndarray:
        calls.append(len(controls))
        if broken:
            return np.full((len(controls), 12), np.nan)
        return np.tanh(controls @ mixing)

    broken = False
    device = as_device(bench, n_controls=26, n_outputs=12, bounds=(-1, 1))
    network = PhysicalNetworkClassifier(device, twin=NeuralTwin((8,), max_iter=2), max_iter=2, random_state=0)
    network.fit(X_TRAIN, Y_TRAIN)
    weights = {name: value.copy() for name, value in network.weights_.items()}
    broken = True
    with pytest.raises((DeviceOutputError, ShotBudgetError), match="500"):
        network.recalibrate(X_TRAIN, Y_TRAIN, 500)
    broken = False
    for name, value in weights.items():
        np.testing.assert_array_equal(network.weights_[name], value)
    assert network.recalibrate(X_TRAIN, Y_TRAIN, 500).predict(X_TEST).shape == Y_TEST.shape


@pytest.mark.parametrize(("faults", "restored"), [([2], True), ([1, 2], False)])
def test_one_fault_is_not_the_end_where_calls_are_short(faults: list[int], restored: bool) -> None:
    mixing = np.random.default_rng(0).standard_normal((26, 12)) / 5
    now: dict[str, Any] = {"call": 0, "faults": [], "offset": 0.0}

    def bench(controls: np.ndarray) -> np.ndarray:
        now["call"] += 1
        if now["call"] in now["faults"]:
            raise OSError("time-out")
        return np.tanh(controls @ mixing + now["offset"])

    about: dict[str, Any] = {"max_batch": 20, "clear_line": lambda: None}
    device = as_device(bench, n_controls=26, n_outputs=12, bounds=(-1, 1), **about)
    network = PhysicalNetworkClassifier(device, twin=NeuralTwin((8,), max_iter=2), max_iter=5, random_state=0)
    network.fit(X_TRAIN, Y_TRAIN)
    now.update(call=0, faults=faults, offset=1.0)
    if restored:
        before = network.score(X_TEST, Y_TEST)
        now.update(call=0)
        assert network.recalibrate(X_TRAIN, Y_TRAIN, max_shots=60).recalibration_.n_rows == 40
        assert network.ledger_.shots["recalibration"] <= 60
        assert network.score(X_TEST, Y_TEST) > before + 0.1
    else:
        message = (
            "must allow for repeats after faults. Got 60, and 2 faults of the device: .* The estimator is as it was"
        )
        with pytest.raises(ShotBudgetError, match=message):
            network.recalibrate(X_TRAIN, Y_TRAIN, max_shots=60)
        assert not hasattr(network, "recalibration_")


def test_the_journal_records_and_never_replays(tmp_path: Any) -> None:
    network = untrained(max_iter=1, journal=tmp_path / "run.db").fit(X_TRAIN, Y_TRAIN)
    state = pickle.dumps(network)
    for _ in range(2):
        network = pickle.loads(state)
        network.recalibrate(X_TRAIN, Y_TRAIN, 50)
        assert network.shots_["recalibration"] == 50
        assert not network.ledger_.replayed.get("recalibration", 0)
    with Journal(tmp_path / "run.db") as journal:
        assert (journal.to_arrays()["purpose"] == "recalibration").sum() == 100


def test_a_row_of_no_weight_is_never_sent() -> None:
    network = trained(max_iter=1)
    weight = np.ones(len(X_TRAIN))
    weight[20:] = 0
    network.loss_ = np.inf
    assert network.recalibrate(X_TRAIN, Y_TRAIN, 500, sample_weight=weight).shots_["recalibration"] == 20
    assert network.recalibration_.n_rows == 20 >= LEAST_ROWS


def test_a_regressor_and_a_float32_network() -> None:
    X, _ = load_iris(return_X_y=True)
    X = X.astype(np.float32)
    device = drifting(LASER, 0.2)
    twin = NeuralTwin((16,), max_iter=5, n_refine_steps=1)
    regressor = PhysicalNetworkRegressor(device, twin, max_iter=10, random_state=0).fit(X[:, :3], X[:, 3])
    before = regressor.score(X[:, :3], X[:, 3])
    regressor.ledger_.n_before += LATER
    after = regressor.score(X[:, :3], X[:, 3])
    regressor.recalibrate(X[:, :3], X[:, 3], 600)
    assert regressor.score(X[:, :3], X[:, 3]) > after + 0.6 * (before - after)
    assert {value.dtype for value in regressor.weights_.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("readout", ["linear", "bins"])
def test_a_pull_holds_all_of_the_readout(readout: str) -> None:
    network = trained(readout=readout)
    with Session(network.device_, ledger=network.ledger_) as session:
        targets = network._encode_targets(Y_TRAIN[:30], None, first=False)
        rows = Data(X_TRAIN[:30], targets, np.ones(30), hash_rows(X_TRAIN[:30]))
        trainer = network._make_trainer(session, 30)
        normal = np.random.default_rng(0).standard_normal((30, network.device_.n_outputs))
        moves = []
        for pull in (0.0, 1e3, 1e6):
            found = fit_readout(trainer, network.weights_, normal, rows, pull)[0]
            moves.append(max(np.abs(found[name] - network.weights_[name]).max() for name in found))
    assert moves[0] > 10 * moves[1] > 100 * moves[2]


@dataclass
class Further:
    """What the further training of a recalibration began with, and how far down its steps were."""

    weights: dict[str, np.ndarray]
    readouts: list[tuple[set[int], dict[str, np.ndarray]]]  # row keys and weights of every fitted readout
    deciding: set[int]
    n_remembered: int
    progress: list[tuple[float, float]]


def further_training(network: PhysicalNetworkClassifier, monkeypatch: pytest.MonkeyPatch, max_shots: int) -> Further:
    """Recalibrate, whatever the loss, and look on."""
    readouts: list[Any] = []
    progress: list[tuple[float, float]] = []
    found: list[Further] = []
    train_on, epoch, refit = recalibration._Further._train_on_device, Trainer.epoch, recalibration.fit_readout

    def fitted(trainer: Trainer, fresh: Any, normal: np.ndarray, rows: Data, pull: float) -> Any:
        made = refit(trainer, fresh, normal, rows, pull)
        readouts.append((set(rows.row_keys.tolist()), made[0]))
        return made

    def begun(further: Any, begin_at: float) -> None:
        memory = getattr(further._trainer.twin, "_memory", None)
        n_remembered = 0 if memory is None else memory.n_shots
        deciding = set(further._deciding.row_keys.tolist())
        found.append(Further(further._trainer.weights_now(), readouts[:], deciding, n_remembered, progress))
        train_on(further, begin_at)

    def noted(self: Trainer, data: Data, rng: Any, ends: tuple[float, float]) -> float:
        assert not found[0].deciding & set(data.row_keys.tolist())
        progress.append(ends)
        return epoch(self, data, rng, ends)

    monkeypatch.setattr(recalibration, "fit_readout", fitted)
    monkeypatch.setattr(recalibration._Further, "_train_on_device", begun)
    monkeypatch.setattr(Trainer, "epoch", noted)
    network.loss_ = -np.inf  # never enough
    network.recalibrate(X_TRAIN, Y_TRAIN, max_shots)
    return found[0]


def test_the_further_training_begins_without_knowing_the_rows_that_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    made = further_training(jolted(trained(0.4)), monkeypatch, 300)
    known = [
        rows for rows, weights in made.readouts if all(np.array_equal(made.weights[k], weights[k]) for k in weights)
    ]
    assert known  # it begins with one of the refitted readouts
    assert all(len(rows) == len(X_TRAIN) - len(made.deciding) and not rows & made.deciding for rows in known)


def test_the_further_training_begins_with_a_twin_that_has_learned_half_way_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = jolted(trained())
    made = further_training(network, monkeypatch, 1000)
    assert made.n_remembered == len(X_TRAIN) == network.recalibration_.n_rows  # its twin had forgotten all others
    starts, ends = np.transpose(made.progress)
    n_most = round(0.5 / (ends[0] - starts[0]))
    np.testing.assert_allclose(starts, 0.5 + 0.5 * np.arange(len(starts)) / n_most)
    np.testing.assert_allclose(ends, starts + 0.5 / n_most)


def test_few_rows_must_tell_more(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def is_better(new: np.ndarray, old: np.ndarray, weight: np.ndarray, level: float = 1.0) -> bool:
        asked.append((len(new), level))
        return _is_better(new, old, weight, level)

    monkeypatch.setattr(recalibration, "_is_better", is_better)
    for n in (20, 100):
        jolted(trained()).recalibrate(X_TRAIN[:n], Y_TRAIN[:n], n)
        assert asked.pop(0) == (n, 1 + 10 / n)
        assert all(level == 1.0 for _, level in asked)
        asked.clear()
    fall = np.random.default_rng(0).standard_normal(20)
    fall = (fall - fall.mean()) / fall.std() / np.sqrt(20)
    for level in (1.0, 1.5):
        for size, better in ((0.95 * level, False), (1.05 * level, True)):
            assert _is_better(-size / 20 * np.ones(20), fall, np.ones(20), level) == better


def test_a_new_fit_forgets_the_recalibration() -> None:
    network = trained(max_iter=1).recalibrate(X_TRAIN, Y_TRAIN, 50)
    network.fit(X_TRAIN, Y_TRAIN)
    assert not hasattr(network, "recalibration_")
    assert "recalibration" not in network.shots_


@pytest.mark.parametrize("labels", [["iris", "rose", "tulip"], [3, 7, -1], [True, False]], ids=str)
def test_labels_of_any_kind(labels: list[Any]) -> None:
    y = np.array(labels)[Y_TRAIN % len(labels)]
    network = untrained(max_iter=1).fit(X_TRAIN, y)
    assert network.recalibrate(X_TRAIN, y, 50).shots_["recalibration"] <= 50
    of_one = y == y[0]
    others = sorted(set(labels) - {y[0].item()})
    with pytest.raises(ValueError, match=re.escape(f"{others} had no row of positive weight")):
        network.recalibrate(X_TRAIN, y, 50, sample_weight=of_one.astype(float))
