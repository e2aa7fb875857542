"""Recalibrate with a twin that knows the equations: it finds the constants anew and trains the weights for no shot."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skpat import Device, PhysicalNetworkClassifier
from skpat.exceptions import TwinError
from skpat.training import recalibration, recalibration_in_silico
from skpat.training.pretraining import BEGIN_AT
from skpat.training.trainer import Trainer
from skpat.twins import NeuralTwin, PhysicsTwin
from tests.estimators.small_network import IRIS

X, Y = IRIS
X = (X - X.mean(axis=0)) / X.std(axis=0)
N_LAYERS = (1, 2)


class Waves(Device):
    """Standing waves of its controls; in each specimen every channel is shifted by something else, and in a ``strange`` one the
    outputs are no longer those of the equations."""

    n_controls, n_outputs = 12, 8
    bounds = (-1.0, 1.0)

    def __init__(self, specimen: int = 0, strange: bool = False):
        self.specimen = specimen
        self.strange = strange

    @property
    def shift(self) -> np.ndarray:
        return np.random.default_rng(self.specimen).normal(scale=0.25, size=self.n_controls)

    @property
    def equations(self) -> Any:
        return Waves(), ["shift"]

    def forward(self, controls: torch.Tensor, constants: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
        shift = torch.from_numpy(self.shift) if constants is None else constants["shift"]
        mixing = torch.from_numpy(np.random.default_rng(7).normal(size=(self.n_controls, self.n_outputs)))
        return torch.sin(torch.sin(2 * (controls + shift)) @ mixing)

    def measure(self, controls: Any) -> np.ndarray:
        sent = np.asarray(controls)
        SENT.append(len(sent))
        outputs = self.forward(torch.from_numpy(sent.astype(np.float64))).numpy()
        return np.abs(np.roll(outputs, 3, axis=1)) if self.strange else outputs


SENT: list[int] = []
TRAINED: dict[int, bytes] = {}


def trained(n_layers: int = 1, **device: Any) -> PhysicalNetworkClassifier:
    """On the first specimen, and then given another one."""
    if n_layers not in TRAINED:
        network = PhysicalNetworkClassifier(
            Waves(),
            n_layers=n_layers,
            n_units=2,
            readout="bins",
            encoder="direct",
            max_iter=15,
            learning_rate_init=0.03,
            random_state=0,
        )
        TRAINED[n_layers] = pickle.dumps(network.fit(X, Y))
    SENT.clear()
    return pickle.loads(TRAINED[n_layers]).set_params(device=Waves(**({"specimen": 1} | device)))


@pytest.fixture(autouse=True)
def _trained_before_anything_is_patched() -> None:
    for n_layers in N_LAYERS:
        trained(n_layers)


def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the twin knows no equations."""
    monkeypatch.setattr(recalibration, "_may_begin_in_silico", lambda *args: False)


@pytest.mark.parametrize("n_layers", N_LAYERS)
def test_few_shots_are_enough(n_layers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network = trained(n_layers).recalibrate(X, Y, 400)
    found = network.recalibration_
    assert network.score(X, Y) >= 0.93
    assert found.kept == "readout and weights"
    assert found.n_epochs_in_silico > 0
    assert found.loss_weights < 0.8 * found.loss_readout
    assert f"{found.n_epochs_in_silico} in silico and {found.n_epochs} epoch" in str(found)
    np.testing.assert_allclose(network.twin_.constants_["shift"], Waves(1).shift, atol=0.01)
    assert network._optimizer_state is None  # that of the fit is of other weights
    without(monkeypatch)
    other = trained(n_layers).recalibrate(X, Y, 400)
    assert other.recalibration_.n_epochs_in_silico == 0
    assert "in silico" not in str(other.recalibration_)
    assert network.score(X, Y) > other.score(X, Y)


@settings(max_examples=5, deadline=None)
@given(st.integers(80, 900), st.sampled_from(N_LAYERS), st.booleans())
def test_the_budget_holds(max_shots: int, n_layers: int, strange: bool) -> None:
    network = trained(n_layers, strange=strange)
    assert sum(SENT) == 0
    network.recalibrate(X, Y, max_shots)
    assert sum(SENT) == network.recalibration_.shots <= max_shots


@pytest.mark.parametrize("n_layers", N_LAYERS)
def test_the_smallest_budget_is_for_the_readout(n_layers: int) -> None:
    """With too little for asking the device what it is worth there is no training in silico."""
    network = trained(n_layers)
    n_calls = network._network.n_calls
    least = recalibration.least_shots(network._network, 1)
    network.loss_ = -np.inf  # never enough
    assert network.recalibrate(X, Y, least).recalibration_.n_epochs_in_silico == 0
    network = trained(n_layers)
    network.loss_ = -np.inf
    found = network.recalibrate(X, Y, least + 4 * n_calls).recalibration_  # four rows decide
    assert found.n_epochs_in_silico
    assert found.n_rows == 16


def test_a_good_loss_is_enough() -> None:
    network = trained()
    network.loss_ = np.inf
    assert network.recalibrate(X, Y, 400).recalibration_.n_epochs_in_silico == 0
    network = trained()
    network.loss_ = np.inf
    loss_readout = network.recalibrate(X, Y, 800).recalibration_.loss_readout
    network = trained()
    network.loss_ = 0.7 * loss_readout  # not good enough: the weights are trained, in silico well enough
    found = network.recalibrate(X, Y, 800).recalibration_
    assert found.loss_weights < network.loss_
    assert found.n_epochs_in_silico
    assert found.n_epochs == 0


def test_what_the_device_confirms_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows on the device need not show by themselves what many rows on the twin have shown."""
    parts: list[tuple[float, ...]] = []
    promised: list[np.ndarray] = []  # of all rows that decide on the twin
    promised_to: list[float] = []  # of those that decide on the device
    part, losses = recalibration.confirmed_part, recalibration._Further._losses_on_twin

    def noted(further: Any, rows: Any) -> np.ndarray:
        n_deciding = len(further._deciding)
        np.testing.assert_array_equal(rows.row_keys[:n_deciding], further._deciding.row_keys)
        promised.append(losses(further, rows))
        promised_to.append(promised[-1][:n_deciding].mean())
        return promised[-1]

    monkeypatch.setattr(recalibration._Further, "_losses_on_twin", noted)
    monkeypatch.setattr(recalibration, "confirmed_part", lambda *of: parts.append(of) or part(*of))
    monkeypatch.setattr(recalibration, "_is_better", lambda new, *others: len(new) == 15)
    found = trained(2).recalibrate(X, Y, 100).recalibration_
    assert found.kept == "readout and weights"
    ((before, on_twin, held),) = parts
    assert on_twin == pytest.approx(promised_to[1])
    assert held == found.loss_weights < before
    assert [len(losses) for losses in promised] == [15, 15]  # four rows decide on the device


@pytest.mark.parametrize("max_shots", [100, 400])
def test_rows_that_decide_are_neither_fitted_to_nor_trained_on(max_shots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[np.ndarray] = []
    weighed: list[np.ndarray] = []
    deciding: set[int] = set()
    n_judged: list[int] = []
    n_trained: list[int] = []
    epoch, fit, losses = Trainer.epoch, PhysicsTwin.fit, recalibration._Further._losses_on_twin

    def asked_twin(further: Any, rows: Any) -> np.ndarray:
        n_judged.append(len(rows))
        deciding.update(rows.row_keys.tolist())
        assert set(further._deciding.row_keys.tolist()) <= set(rows.row_keys.tolist())
        return losses(further, rows)

    def noted(self: Any, data: Any, *args: Any) -> float:
        assert not deciding & set(data.row_keys.tolist())
        n_trained.append(len(data))
        return epoch(self, data, *args)

    def fit_noted(self: Any, controls: np.ndarray, outputs: np.ndarray, sample_weight: np.ndarray) -> Any:
        fitted.append(controls)
        weighed.append(sample_weight)
        return fit(self, controls, outputs, sample_weight)

    monkeypatch.setattr(recalibration._Further, "_losses_on_twin", asked_twin)
    monkeypatch.setattr(Trainer, "epoch", noted)
    monkeypatch.setattr(PhysicsTwin, "fit", fit_noted)
    network = trained(2)
    weight = np.arange(1.0, len(X) + 1)
    found = network.recalibrate(X, Y, max_shots, sample_weight=weight).recalibration_
    assert found.n_epochs_in_silico
    assert n_judged == 2 * [
        max(-(-found.n_rows // 4), len(X) // 5)
    ]  # before and after; with few shots on the twin alone
    assert n_trained[0] == len(X) - n_judged[0]
    n_fitted = found.n_rows - -(-found.n_rows // 4)
    n_calls = network._network.n_calls
    ((controls,), (of_shots,)) = fitted, weighed
    assert len(controls) == len(of_shots) == n_calls * n_fitted
    assert len(np.unique(of_shots)) == n_fitted
    assert set(of_shots) < set(weight)
    np.testing.assert_array_equal(of_shots, np.tile(of_shots[:n_fitted], n_calls))


def test_the_device_goes_on_with_small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    began: list[float] = []
    epoch = Trainer.epoch

    def noted(self: Trainer, data: Any, rng: Any, ends: tuple[float, float]) -> float:
        if self.gradient.trains_on_device:
            began.append(ends[0])
            assert not self.optimizer.state or len(began) > 1  # nothing from in silico
        return epoch(self, data, rng, ends)

    monkeypatch.setattr(Trainer, "epoch", noted)
    network = trained()
    network.loss_ = -np.inf
    found = network.recalibrate(X, Y, 2000).recalibration_
    assert found.n_epochs == len(began) > 0
    assert began[0] == BEGIN_AT


@pytest.mark.parametrize("where", ["on the twin", "on the device"])
def test_what_is_not_confirmed_leaves_no_trace(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The training on the device then begins where it would have begun; the device is asked only if the twin promises."""
    began: list[tuple[float, dict[str, np.ndarray], list[np.ndarray]]] = []
    n_sent: list[int] = []
    promises = iter([3.0, 0.1])
    train = recalibration._Further._train_on_device

    def noted(further: Any, begin_at: float) -> None:
        trainer = further._trainer
        began.append((begin_at, trainer.weights_now(), [s.mean.copy() for s in trainer.statistics]))
        n_sent.append(sum(SENT))
        train(further, begin_at)

    def promised(further: Any, rows: Any) -> np.ndarray:
        return np.full(len(rows), next(promises))

    def astray(trainer: Any, *args: Any) -> int:
        for weight in trainer.weights.values():
            weight.detach().add_(1.0)
        for statistics in trainer.statistics:
            statistics.mean[:] += 1
        return 3

    monkeypatch.setattr(recalibration._Further, "_train_on_device", noted)
    monkeypatch.setattr(recalibration, "train_in_silico", astray)
    if where == "on the device":
        monkeypatch.setattr(recalibration._Further, "_losses_on_twin", promised)
    network = trained()
    network.loss_ = -np.inf
    found = network.recalibrate(X, Y, 1500).recalibration_
    ((begin_at, weights, means),) = began
    n_check = -(-found.n_rows // 4) if where == "on the device" else 0
    assert n_sent == [(found.n_rows + n_check) * network._network.n_calls]
    assert (begin_at, found.n_epochs_in_silico) == (0.5, 3)
    np.testing.assert_array_equal(means[0], weights["layers.0.mean"])
    assert found.loss_weights is not None
    monkeypatch.undo()
    monkeypatch.setattr(recalibration._Further, "_train_on_device", noted)
    monkeypatch.setattr(recalibration, "refit_twin", lambda *args: False)
    network = trained()
    network.loss_ = -np.inf
    network.recalibrate(X, Y, 1500)
    for name, value in weights.items():
        np.testing.assert_array_equal(value, began[1][1][name])


def test_a_device_that_the_equations_do_not_describe(monkeypatch: pytest.MonkeyPatch) -> None:
    """What its rows do not show to be better is not kept."""
    network = trained(strange=True)
    network.recalibrate(X, Y, 1000)
    without(monkeypatch)
    plain = trained(strange=True).recalibrate(X, Y, 1000)
    assert network.score(X, Y) > plain.score(X, Y) - 0.05


def test_a_twin_that_predicts_no_better_stays_and_learns_on(monkeypatch: pytest.MonkeyPatch) -> None:
    learned: list[Any] = []
    weight = np.arange(1.0, len(X) + 1)
    partial_fit = PhysicsTwin.partial_fit

    def noted(self: Any, *shots: Any) -> Any:
        learned.extend(shots[2])
        return partial_fit(self, *shots)

    def fails(self: Any, *shots: Any) -> Any:
        raise TwinError("not finite")

    monkeypatch.setattr(PhysicsTwin, "partial_fit", noted)
    for fit in (fails, lambda self, *shots: self):
        network = trained()
        network.loss_ = -np.inf
        with monkeypatch.context() as patch:
            patch.setattr(PhysicsTwin, "fit", fit)
            found = network.recalibrate(X, Y, 130, sample_weight=weight).recalibration_
        assert found.n_epochs_in_silico == 0
        assert len(learned) == found.n_rows * network._network.n_calls
        assert len(np.unique(learned)) == found.n_rows
        assert set(learned) < set(weight)
        learned.clear()


def test_ctrl_c_in_silico_leaves_the_readout(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(recalibration_in_silico.InSilico, "run", interrupted)
    network = trained()
    with pytest.warns(UserWarning, match="recalibration was interrupted"):
        found = network.recalibrate(X, Y, 400).recalibration_
    assert found.kept in ("readout", "nothing new")
    assert found.loss_weights is None
    assert found.n_epochs == 0


def test_the_same_again_is_the_same() -> None:
    one, other = (trained(2).recalibrate(X, Y, 600) for _ in range(2))
    assert one.recalibration_ == other.recalibration_
    for name, value in one.weights_.items():
        np.testing.assert_array_equal(value, other.weights_[name])
    loaded = pickle.loads(pickle.dumps(one))
    np.testing.assert_array_equal(loaded.predict(X), one.predict(X))


def test_a_learned_twin_or_a_method_that_begins_on_the_device_does_not() -> None:
    for how in ({"twin": NeuralTwin((8,), max_iter=2)}, {"gradient": "spsa"}, {"gradient": "in_silico"}):
        network = PhysicalNetworkClassifier(Waves(), max_iter=2, random_state=0, **how).fit(X, Y)
        network.loss_ = -np.inf
        assert network.recalibrate(X, Y, 400).recalibration_.n_epochs_in_silico == 0
