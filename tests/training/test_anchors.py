"""Steps without the device go on from what it answered; a device that states its equations is trained with them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from skpat import ControlBatch, PhysicalNetworkClassifier, as_device
from skpat.devices import MachZehnderMesh, Noisy, SecondHarmonicLaser
from skpat.estimators.specification import default_twin
from skpat.exceptions import DeviceContractError
from skpat.training import Asymmetric, PhysicsAware
from skpat.training.anchors import Anchors
from skpat.training.calibration import calibrate_in_rounds
from skpat.twins import NeuralTwin, PhysicsTwin


def answers(controls: torch.Tensor) -> torch.Tensor:
    return torch.stack([controls[:, 0] * controls[:, 1], controls.sum(1).sin()], dim=1)


@pytest.mark.parametrize("trust", [None, np.array([1.0, 0.25])])
def test_a_further_step_adds_the_trusted_change_to_what_was_measured(trust: Any) -> None:
    about = {} if trust is None else {"trust_": trust}
    anchors = Anchors(SimpleNamespace(module_=answers, **about))
    asked, moved = torch.rand(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sent, measured = asked + 0.01, answers(asked + 0.01) + 7.0  # the device is not its twin
    anchors.note(0, 0, ControlBatch.from_dense(asked), ControlBatch.from_dense(sent), measured)
    run = anchors.run()
    assert not run.measures
    assert torch.equal(run(ControlBatch.from_dense(asked), 0, 0), measured)  # nothing moved: exactly what was measured
    change = answers(moved + (sent - asked)) - answers(sent)
    wanted = measured + change * (1.0 if trust is None else torch.from_numpy(trust))
    torch.testing.assert_close(run(ControlBatch.from_dense(moved), 0, 0), wanted)


def test_further_steps_cost_no_shots_and_are_taken() -> None:
    X, y = np.random.default_rng(0).uniform(size=(40, 4)), np.arange(40) % 2
    fitted = [
        PhysicalNetworkClassifier(
            SecondHarmonicLaser(8, 4), gradient=PhysicsAware(n_anchored_steps=n), max_iter=2, random_state=0
        ).fit(X, y)
        for n in (0, 1)
    ]
    assert fitted[0].shots_ == fitted[1].shots_
    assert not np.array_equal(fitted[0].weights_["layers.0.theta"], fitted[1].weights_["layers.0.theta"])
    assert PhysicsAware().count_further_steps(NeuralTwin()) == 1
    assert PhysicsAware(refine=False).count_further_steps(NeuralTwin()) == 0
    assert Asymmetric().count_further_steps(NeuralTwin()) == 0


def test_stated_equations_are_the_default_twin_without_the_specimens_errors() -> None:
    mesh = MachZehnderMesh(4, phase_error=0.1, splitter_error=0.05, device_seed=3)
    for device in (mesh, Noisy(mesh)):
        twin = default_twin(device)
        assert isinstance(twin, PhysicsTwin)
        assert not twin.device.phase_offsets.any()
        assert "phase_offsets" in twin.constants
    assert isinstance(default_twin(SecondHarmonicLaser()), NeuralTwin)
    assert "nonlinearity" not in default_twin(MachZehnderMesh(4, nonlinearity=0.0)).constants
    wrong = as_device(np.sin, n_controls=2, n_outputs=2, bounds=(0, 1), equations="none")
    with pytest.raises(DeviceContractError, match=r"'equations' of .* must be None or a simulated device"):
        default_twin(wrong)


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
