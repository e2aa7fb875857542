"""The bridge: the device's value, the model's gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from skpat import ControlSplit, as_device
from skpat.devices import SecondHarmonicLaser
from skpat.lab import Session
from skpat.training import bridge

N = 7


class TorchDevice:
    """A device that answers with a tensor, in single precision."""

    n_controls, n_outputs, bounds = N, 3, [[0, 1]] * N

    def measure(self, batch: Any) -> torch.Tensor:
        return torch.from_numpy(np.asarray(batch)).float().exp()[:, :3]


def numpy_answer(controls: np.ndarray) -> np.ndarray:
    return np.exp(controls[:, :3]) / 3


DEVICES = {
    "as_device": as_device(numpy_answer, n_controls=N, n_outputs=3, bounds=(0, 1)),
    "laser": SecondHarmonicLaser(N, 3, random_state=0),
    "torch": TorchDevice(),
}


def batch(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, Any]:
    generator = torch.Generator().manual_seed(0)
    split = ControlSplit().resolve(N)
    inputs = torch.rand(5, split.n_inputs, generator=generator, dtype=dtype).requires_grad_()
    weights = torch.rand(split.n_weights, generator=generator, dtype=dtype).requires_grad_()
    return inputs, weights, split.assemble(inputs, weights)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", DEVICES)
def test_the_forward_value_is_exactly_the_devices(name: str, dtype: torch.dtype) -> None:
    session = Session(DEVICES[name])
    measured = []

    def measure(controls: Any, layer: int, unit: int) -> np.ndarray:
        measured.append(session.measure(controls))
        return measured[-1]

    _, _, controls = batch(dtype)
    value = bridge(measure, lambda c: c[:, :3] * 1e6)(controls, 0, 0)
    assert value.dtype == dtype
    np.testing.assert_array_equal(value.detach().numpy(), measured[0].astype(value.detach().numpy().dtype))
    assert len(measured) == 1


def test_with_the_device_as_its_own_model_the_gradient_is_autograds() -> None:
    laser = SecondHarmonicLaser(N, 3, noise=0, noise_floor=0, energy_jitter=0)
    inputs, weights, controls = batch()
    run = bridge(lambda b, layer, unit: laser.measure(b), laser.forward)
    torch.sin(run(controls, 0, 0)).sum().backward()
    found = [inputs.grad.clone(), weights.grad.clone()]
    expected = torch.autograd.grad(torch.sin(laser.forward(controls.dense())).sum(), [inputs, weights])
    for a, b in zip(found, expected, strict=True):
        assert float((a - b).abs().max()) < 1e-10
        assert float(b.abs().max()) > 1e-3


def test_a_model_in_parts_gets_the_batch_and_gives_the_same_gradients() -> None:
    laser = SecondHarmonicLaser(N, 3, noise=0, noise_floor=0, energy_jitter=0)
    found = []
    for model, in_parts in ((laser.forward, False), (lambda b: laser.forward(b.dense()), True)):
        inputs, weights, controls = batch()
        run = bridge(lambda b, layer, unit: laser.measure(b), model, in_parts=in_parts)
        torch.sin(run(controls, 0, 0)).sum().backward()
        found.append((inputs.grad, weights.grad))
    for a, b in zip(*found, strict=True):
        assert float((a - b).abs().max()) < 1e-12
        assert float(b.abs().max()) > 1e-3


def test_the_gradient_is_the_models_at_the_controls_that_the_device_received() -> None:
    seen = []

    def model(controls: torch.Tensor) -> torch.Tensor:
        seen.append(controls.detach().clone())
        return controls[:, :3] ** 3

    inputs, _, controls = batch()
    value = bridge(lambda b, layer, unit: np.full((5, 3), 7.0), model)(controls, 0, 0)
    assert not seen  # the forward pass never asks the model
    value.sum().backward()
    torch.testing.assert_close(seen[0], controls.dense().detach())
    column = int(np.flatnonzero(ControlSplit().resolve(N).input_index == 1)[0])
    torch.testing.assert_close(inputs.grad[:, column], 3 * inputs.detach()[:, column] ** 2)


@pytest.mark.parametrize("in_parts", [False, True])
@pytest.mark.parametrize("needs", ["inputs", "weights"])
def test_only_what_needs_a_gradient_gets_one(needs: str, in_parts: bool) -> None:
    split = ControlSplit().resolve(N)
    parts = {"inputs": torch.rand(5, split.n_inputs).double(), "weights": torch.rand(split.n_weights).double()}
    parts[needs].requires_grad_()
    controls = split.assemble(parts["inputs"], parts["weights"])
    run = bridge(
        lambda b, layer, unit: np.zeros((5, 3)), (lambda b: b.dense()[:, :3]) if in_parts else lambda c: c[:, :3],
        in_parts=in_parts,
    )  # fmt: skip
    run(controls, 0, 0).sum().backward()
    channels = {"inputs": split.input_index, "weights": split.weight_index}[needs]
    expected = np.where(channels < 3, 1.0 if needs == "inputs" else 5.0, 0.0)  # of five rows for what they share
    np.testing.assert_array_equal(parts[needs].grad.reshape(-1, len(channels))[0], expected)
    other = parts["weights" if needs == "inputs" else "inputs"]
    assert other.grad is None
    assert not other.requires_grad  # the model is asked at tensors of its own


def test_grad_mode_is_left_as_it_was() -> None:
    inputs, _, controls = batch()
    run = bridge(lambda b, layer, unit: np.zeros((5, 3)), lambda c: c[:, :3])
    with torch.no_grad():
        assert not run(controls, 0, 0).requires_grad
        assert not torch.is_grad_enabled()
    run(controls, 0, 0).sum().backward()
    assert torch.is_grad_enabled()
    assert inputs.grad is not None
