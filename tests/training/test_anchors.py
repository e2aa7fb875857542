"""Steps without the device go on from what it answered; a device that states its equations is trained with them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.metrics import r2_score

from skpat import ControlBatch, PhysicalNetworkClassifier, as_device
from skpat.devices import MachZehnderMesh, Noisy, SecondHarmonicLaser
from skpat.estimators.specification import default_twin
from skpat.exceptions import DeviceContractError, TwinError
from skpat.training import Asymmetric, PhysicsAware
from skpat.training.anchors import Anchors
from skpat.training.calibration import calibrate_in_rounds
from skpat.training.gradient import Apparatus
from skpat.twins import NeuralTwin, PhysicsTwin


def answers(controls: torch.Tensor) -> torch.Tensor:
    return torch.stack([controls[:, 0] * controls[:, 1], controls.sum(1).sin()], dim=1)


def two_batches(n_rows: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    asked, moved = torch.rand(2, n_rows, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return asked, moved


def test_a_further_step_adds_the_trusted_change_to_what_was_measured() -> None:
    trust = np.array([1.0, 0.25])
    anchors = Anchors(SimpleNamespace(module_=answers, trust_=trust))
    asked, moved = two_batches()
    sent, measured = asked + 0.01, answers(asked + 0.01) + 7.0  # the device is not its twin
    anchors.note(0, 0, ControlBatch.from_dense(asked), ControlBatch.from_dense(sent), measured)
    run = anchors.run()
    assert torch.equal(run(ControlBatch.from_dense(asked), 0, 0), measured)  # nothing moved: exactly what was measured
    wanted = measured + (answers(moved + (sent - asked)) - answers(sent)) * torch.from_numpy(trust)
    torch.testing.assert_close(run(ControlBatch.from_dense(moved), 0, 0), wanted)


def test_a_twin_that_does_not_judge_itself_is_trusted_by_r2_on_the_batch() -> None:
    asked, moved = two_batches(20)
    weight = torch.arange(20, dtype=torch.float64)
    measured = answers(asked) * torch.tensor([1.0, -1.0])  # the second output is the opposite of what the twin says
    measured = measured + 0.1 * torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    anchors = Anchors(SimpleNamespace(module_=answers), weight)
    batch = ControlBatch.from_dense(asked)
    anchors.note(0, 0, batch, batch, measured)
    r2 = r2_score(measured, answers(asked), sample_weight=weight, multioutput="raw_values")
    assert 0 < r2[0] < 1
    assert r2[1] < 0
    wanted = measured + torch.from_numpy(r2.clip(0)) * (answers(moved) - answers(asked))
    torch.testing.assert_close(anchors.run()(ControlBatch.from_dense(moved), 0, 0), wanted)


@pytest.mark.parametrize("unit", [1e-20, 1.0, 1e20])
def test_r2_of_a_batch_has_no_unit(unit: float) -> None:
    rng = np.random.default_rng(0)
    answered, predicted = (torch.from_numpy(rng.normal(size=(20, 3))) for _ in range(2))
    predicted[:, 0] = answered[:, 0] + 0.1 * predicted[:, 0]
    anchors = Anchors(SimpleNamespace(module_=None))
    np.testing.assert_allclose(
        anchors._r2(unit * answered, unit * predicted), anchors._r2(answered, predicted), rtol=1e-9, atol=1e-12
    )


def test_a_model_that_takes_a_batch_in_parts_gets_it_in_parts() -> None:
    mesh = MachZehnderMesh(4)
    rng = np.random.default_rng(0)
    low, high = mesh.bounds.T
    n_ports = 4
    controls = low + (high - low) * rng.uniform(size=(6, mesh.n_controls))
    controls[:, n_ports:] = controls[0, n_ports:]
    twin = PhysicsTwin(mesh, []).fit(controls, mesh.measure(controls))
    index = np.arange(mesh.n_controls)
    varying, shared = torch.from_numpy(controls[:, :n_ports]), torch.from_numpy(controls[0, n_ports:])
    batch = ControlBatch(varying, index[:n_ports], shared, index[n_ports:], None)
    moved = batch.changed(varying=varying, shared=shared + 0.01)
    measured = twin.module_(batch.dense()).detach()
    anchors = Anchors(twin)
    with patch.object(ControlBatch, "dense", side_effect=AssertionError("all channels of all rows")):
        anchors.note(0, 0, batch, batch, measured)
        found = anchors.run()(moved, 0, 0)
    torch.testing.assert_close(found, twin.module_(moved.dense()))


@pytest.mark.parametrize(("learning_rate", "n_steps"), [(1e-7, 2.0), (1e3, 1.0)])
def test_with_known_equations_a_further_step_is_whole_where_nothing_bends_and_none_beyond_the_valley(
    learning_rate: float, n_steps: float
) -> None:
    X, y = np.random.default_rng(0).uniform(size=(40, 4)), np.arange(40) % 2
    device = SecondHarmonicLaser(8, 4, n_steps=2, random_state=0)
    how: dict[str, Any] = {
        "twin": PhysicsTwin(SecondHarmonicLaser(8, 4, n_steps=2), []),
        "max_iter": 1,
        "batch_size": 40,
    }
    how |= {"alpha": 0.0, "random_state": 0}

    def coefficients(n_anchored_steps: int, learning_rate: float) -> np.ndarray:
        network = PhysicalNetworkClassifier(
            device, gradient=PhysicsAware(n_anchored_steps=n_anchored_steps), learning_rate_init=learning_rate, **how
        )
        return network.fit(X, y).weights_["readout.coef"]

    start = coefficients(0, 1e-15)
    none, one = (coefficients(n, learning_rate) - start for n in (0, 1))
    np.testing.assert_allclose(one, n_steps * none, rtol=0.02)  # the twin is trusted to 0.99


def test_a_row_of_weight_two_is_two_rows_to_a_physics_twins_further_steps() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.uniform(size=(12, 4)), np.arange(12) % 2
    weight = rng.integers(1, 4, 12)
    how: dict[str, Any] = {"n_calibration_shots": 0, "batch_size": 100, "max_iter": 3, "random_state": 0, "alpha": 0.0}
    # not trusted fully: the weights matter to R²
    twin = PhysicsTwin(SecondHarmonicLaser(8, 4, n_steps=2, coupling=22.0), [])
    network = PhysicalNetworkClassifier(SecondHarmonicLaser(8, 4, n_steps=2, random_state=0), twin, **how)
    weighted = clone(network).fit(X, y, sample_weight=weight)
    repeated = clone(network).fit(np.repeat(X, weight, axis=0), np.repeat(y, weight))
    for name, value in weighted.weights_.items():
        np.testing.assert_allclose(value, repeated.weights_[name], rtol=1e-6, atol=1e-9, err_msg=name)


def test_further_steps_cost_no_shots_and_are_taken() -> None:
    X, y = np.random.default_rng(0).uniform(size=(40, 4)), np.arange(40) % 2
    fitted = [
        PhysicalNetworkClassifier(
            SecondHarmonicLaser(8, 4, n_steps=2), gradient=PhysicsAware(n_anchored_steps=n), max_iter=2, random_state=0
        ).fit(X, y)
        for n in (0, 1)
    ]
    assert fitted[0].shots_ == fitted[1].shots_
    assert not np.array_equal(fitted[0].weights_["layers.0.theta"], fitted[1].weights_["layers.0.theta"])


@pytest.mark.parametrize(
    ("r2", "progress", "n_steps"),
    [
        (0.94, 0.0, 1),
        (0.94, 0.9, 1),  # not good enough, however short the steps
        (1.0, 0.0, 1),  # long steps: more of them overshoot
        (1.0, 0.49, 1),
        (0.96, 0.5, 2),
        (0.98, 0.5, 5),
        (0.99, 0.5, 8),
        (0.96, 1.0, 8),
    ],
)
def test_the_better_a_learned_twin_predicts_the_further_it_is_followed(
    r2: float, progress: float, n_steps: int
) -> None:
    twin = NeuralTwin()
    twin.trust_ = np.full(3, r2)
    apparatus = Apparatus(lambda *a: np.zeros((1, 3)), None, twin, progress=progress)
    assert PhysicsAware().count_further_steps(apparatus) == n_steps
    assert PhysicsAware(n_anchored_steps=3).count_further_steps(apparatus) == 3
    assert PhysicsAware(refine=False).count_further_steps(apparatus) == 0
    assert Asymmetric().count_further_steps(apparatus) == 0


def test_equations_and_twins_that_nothing_is_known_of_get_one_further_step() -> None:
    undisplaced = NeuralTwin()  # it predicts well, but shots like these say nothing of its slopes
    undisplaced.explores, undisplaced.trust_ = False, np.ones(3)
    for twin in (NeuralTwin(), PhysicsTwin(SecondHarmonicLaser(8, 4, n_steps=2), []), undisplaced):
        apparatus = Apparatus(lambda *a: np.zeros((1, 3)), None, twin, progress=0.5)
        assert PhysicsAware().count_further_steps(apparatus) == 1


def test_stated_equations_are_the_default_twin_without_the_specimens_errors() -> None:
    mesh = MachZehnderMesh(4, phase_error=0.1, splitter_error=0.05, device_seed=3)
    for device in (mesh, Noisy(mesh)):
        twin = default_twin(device)
        assert isinstance(twin, PhysicsTwin)
        assert not twin.device.phase_offsets.any()
        assert "phase_offsets" in twin.constants
    assert isinstance(default_twin(SecondHarmonicLaser()), NeuralTwin)
    assert default_twin(SecondHarmonicLaser(), "cuda").torch_device == "cuda"
    assert default_twin(MachZehnderMesh(4), "cuda").device.torch_device == "cuda"
    assert "nonlinearity" not in default_twin(MachZehnderMesh(4, nonlinearity=0.0)).constants
    mesh = MachZehnderMesh(4)
    for wrong in ("none", (MachZehnderMesh, ["phase_offsets"]), (mesh,), (mesh, [], "more"), (np.sin, [])):
        device = as_device(np.sin, n_controls=2, n_outputs=2, bounds=(0, 1), equations=wrong)
        with pytest.raises(DeviceContractError, match=r"'equations' of .* must be None or a simulated device"):
            default_twin(device)
    anywhere = SimpleNamespace(forward=torch.sin)  # equations that know of no torch_device
    device = as_device(np.sin, n_controls=2, n_outputs=2, bounds=(0, 1), equations=(anywhere, []))
    assert default_twin(device, "cuda").device is anywhere
    laser = SecondHarmonicLaser(4, 2)
    device = as_device(np.sin, n_controls=4, n_outputs=2, bounds=(0, 1), equations=(laser, "coupling"))
    with pytest.raises(TwinError, match=r"must be a list of names. Got 'coupling'"):
        default_twin(device).check(4, 2)


@pytest.mark.parametrize(
    ("scores", "spent"), [([0.99], 300), ([0.5, 0.99], 600), ([0.5, 0.55], 600), ([0.1, 0.5, 0.9], 1000)]
)
def test_rounds_end_when_the_twin_is_good_or_more_does_not_help(scores: list[float], spent: int) -> None:
    class Twin:
        n_fits = 0

        def fit(self, controls: np.ndarray, outputs: np.ndarray) -> None:
            self.n_shots, self.score_ = len(controls), scores[self.n_fits]
            self.n_fits += 1

    twin = Twin()
    calibrate_in_rounds(twin, lambda n: (np.zeros((n, 2)), np.zeros((n, 1))), 1000)
    assert twin.n_shots == spent
