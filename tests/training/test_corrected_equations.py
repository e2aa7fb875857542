"""Where a device's equations leave something out that can be learned, the default twin learns it, and only there."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris

from skpat import ControlBatch, PhysicalNetworkClassifier
from skpat.devices import MachZehnderMesh, Noisy, SecondHarmonicLaser
from skpat.devices.wrapper import DeviceWrapper
from skpat.exceptions import TwinError
from skpat.twins import PhysicsTwin, ResidualTwin

X, Y = (part[::2] for part in load_iris(return_X_y=True))


class Bench(DeviceWrapper):
    """A laser with another crystal than was believed, read by a detector that saturates, or does not."""

    def __init__(self, saturates=True, random_state=None):
        super().__init__(SecondHarmonicLaser(12, 6, n_steps=2, coupling=28.0, random_state=0))
        self.saturates = saturates
        self.random_state = random_state

    @property
    def equations(self) -> Any:
        return SecondHarmonicLaser(12, 6, n_steps=2), ["coupling"]

    def transform_outputs(self, outputs: np.ndarray, batch: ControlBatch) -> np.ndarray:
        return 8 * np.tanh(outputs / 8) if self.saturates else outputs


def classifier(device: Any = None, **params: Any) -> PhysicalNetworkClassifier:
    defaults: dict[str, Any] = {"max_iter": 2, "random_state": 0, "n_layers": 2}
    return PhysicalNetworkClassifier(Bench() if device is None else device, **(defaults | params))


@pytest.mark.parametrize("n_calibration_shots", ["auto", 300])
def test_what_the_equations_leave_out_is_learned(n_calibration_shots: Any) -> None:
    network = classifier(n_calibration_shots=n_calibration_shots).fit(X, Y)
    assert isinstance(network.twin_, ResidualTwin)
    assert network.twin_score_ == network.twin_.score_ > network.twin_.physics_score_
    assert network.twin_score_ > 0.97
    assert network._gradient.explores(network.twin_)
    spent, plan = network.shots_["calibration"], network.plan(X).calibration
    assert spent <= plan
    if n_calibration_shots == 300:
        assert spent == 2 * len(X) + 300
        assert plan == spent + 2 * (2 * len(X) // 10 if len(X) >= 80 else 16)  # for a trial, which a correction has not
    again = clone(network).fit(X, Y)
    for name, weight in network.weights_.items():
        np.testing.assert_array_equal(weight, again.weights_[name])
    before = network.twin_.correction_.predict(np.full((1, 18), 0.5))
    loaded = pickle.loads(pickle.dumps(network)).partial_fit(X, Y)
    assert np.abs(loaded.twin_.correction_.predict(np.full((1, 18), 0.5)) - before).max() > 0


def test_right_equations_stay_alone_however_noisy_the_device_is() -> None:
    bench = Bench(saturates=False)
    spread = bench.measure(np.random.default_rng(0).uniform(size=(200, 12))).std(axis=0).mean()
    for noise in (0.0, 0.3, 1.0):
        network = classifier(Noisy(bench, noise_floor=noise * spread)).fit(X, Y)
        assert type(network.twin_) is PhysicsTwin
        assert (network.twin_score_ < 0.97) == (noise > 0)  # it is not for want of an error


@pytest.mark.parametrize(
    "params",
    [
        {"gradient": "in_silico"},
        {"gradient": "asymmetric"},
        {"n_calibration_shots": 0},
        {"twin": PhysicsTwin(SecondHarmonicLaser(12, 6, n_steps=2), ["coupling"])},
    ],
    ids=lambda params: next(iter(params)),
)
def test_who_asks_for_the_equations_or_for_nothing_that_learns_gets_them(params: dict[str, Any]) -> None:
    network = classifier(**params).fit(X, Y)
    assert type(network.twin_) is PhysicsTwin
    assert not network.twin_score_ > 0.97


def test_what_a_correction_cannot_hold_is_left_to_the_equations(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(self: Any, n_controls: int, n_outputs: int) -> None:
        raise TwinError(f"{n_controls} channels are too many.")

    monkeypatch.setattr(ResidualTwin, "check", check)
    assert type(classifier().fit(X, Y).twin_) is PhysicsTwin


def test_models_that_take_a_batch_in_parts_get_no_correction() -> None:
    class Read(DeviceWrapper):
        """A mesh whose detectors saturate; its equations say nothing of it."""

        equations = (MachZehnderMesh(4), ())

        def transform_outputs(self, outputs: np.ndarray, batch: ControlBatch) -> np.ndarray:
            return np.minimum(outputs, np.median(outputs))

    network = classifier(Read(MachZehnderMesh(4)), n_layers=1).fit(X, Y)
    assert network.twin_score_ < 0.9
    assert hasattr(network.twin_.module_, "forward_batch")
    assert type(network.twin_) is PhysicsTwin


@pytest.mark.parametrize("max_shots", [700, 1000])
def test_a_budget_holds_and_a_journal_goes_on(max_shots: int, tmp_path: Path) -> None:
    params = {"max_shots": max_shots, "max_iter": 3, "journal": tmp_path / "run.db"}
    network, again = (classifier(**params).fit(X, Y) for _ in range(2))
    assert sum(network.shots_.values()) <= max_shots
    assert network.shots_["calibration"] <= network.plan(X).calibration
    assert sum(again.shots_.values()) == 0
    assert type(again.twin_) is type(network.twin_)
    for name, weight in network.weights_.items():
        np.testing.assert_array_equal(weight, again.weights_[name])
