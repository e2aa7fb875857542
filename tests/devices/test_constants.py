"""What a device is given in place of its constants changes nothing where it is what the device has already."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from skpat import ControlBatch
from skpat.devices import (
    AnalogCircuit,
    CoupledOscillators,
    IdentityDevice,
    MachZehnderMesh,
    OscillatingPlate,
    SecondHarmonicLaser,
)

DEVICES = [
    SecondHarmonicLaser(6, 4),
    SecondHarmonicLaser(6, 4, walk_off=0.0, chirp=0.0, phase_mismatch=3.0, n_steps=1),
    OscillatingPlate(6, 3),
    OscillatingPlate(6, 3, nonlinearity=0.0, quality_factor=np.inf),
    OscillatingPlate(6, 3, force_per_volt=0.0, thickness_error=0.1, quality_error=-0.2),
    AnalogCircuit(6, 3),
    AnalogCircuit(6, 3, bias=0.0, supply=0.0),
    AnalogCircuit(6, 3, bias=1.0, n_steps=1),
    CoupledOscillators(3),
    CoupledOscillators(3, duration=0.0),
    CoupledOscillators(3, nonlinearity_error=0.1, coupling_error=0.1),
    MachZehnderMesh(4),
    MachZehnderMesh(4, nonlinearity=0.0),
    MachZehnderMesh(4, nonlinearity=0, loss=0, tap=0, activation_bias=0),
    MachZehnderMesh(4, loss=0.0, tap=0.0, activation_bias=0.0, crosstalk=0.0),
    MachZehnderMesh(3, nonlinearity=0.0, crosstalk=0.1, phase_error=0.1, splitter_error=0.1, phase_modulators=True),
]


def constants_of(device) -> list[str]:
    """The names that the device itself tells when it is given another."""
    with pytest.raises(ValueError, match="must be among") as caught:
        device.forward(torch.zeros((1, device.n_controls)), {"charm": torch.tensor(0.0)})
    return re.search("must be among (.*)\\. Got", str(caught.value))[1].split(", ")


def settings_for(device, n_rows: int, seed: int = 0) -> np.ndarray:
    low, high = device.bounds.T
    return low + (high - low) * np.random.default_rng(seed).random((n_rows, device.n_controls))


def answers(device, controls: torch.Tensor, constants: dict[str, torch.Tensor] | None = None) -> list[torch.Tensor]:
    outputs = [device.forward(controls, constants)]
    if hasattr(device, "forward_batch"):  # with the last channels shared, as weights are
        n = device.n_controls // 2
        batch = ControlBatch(controls[:, :n], np.arange(n), controls[0, n:], np.arange(n, device.n_controls))
        outputs.append(device.forward_batch(batch, constants))
    return outputs


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: type(device).__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_that_the_device_has_changes_nothing(device, dtype: torch.dtype) -> None:
    controls = torch.from_numpy(settings_for(device, 3)).to(dtype)
    plain = answers(device, controls)
    own = {name: torch.tensor(getattr(device, name), dtype=torch.float64) for name in constants_of(device)}
    if isinstance(device, MachZehnderMesh) and not device.nonlinearity:
        with pytest.raises(ValueError, match="there is no activation"):
            device.forward(controls, {"nonlinearity": own.pop("nonlinearity")})
    assert len(own) >= 3
    for constants in ({}, own, *({name: value} for name, value in own.items())):
        for found, expected in zip(answers(device, controls, constants), plain, strict=True):
            assert torch.isfinite(found).all()
            rounding = 16 * torch.finfo(dtype).eps * float(expected.abs().max())  # a crosstalk of 0 is summed, too
            torch.testing.assert_close(found, expected, rtol=0, atol=rounding)


@given(st.sampled_from([*DEVICES, IdentityDevice(6, 4, bounds=[[0, 1]] * 6)]), st.data())
@limits(max_examples=40, deadline=None)
def test_whole_numbers_are_computed_as_numbers(device, data: st.DataObject) -> None:
    low, high = np.trunc(device.bounds).astype(int).T
    row = [data.draw(st.integers(*ends)) for ends in zip(low.tolist(), high.tolist(), strict=True)]
    whole = np.array([row, low, high])
    expected = device.forward(torch.from_numpy(whole.astype(np.float64)))
    torch.testing.assert_close(device.forward(torch.from_numpy(whole)), expected, rtol=0, atol=0)


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: type(device).__name__)
def test_a_batch_of_whole_numbers_is_measured_as_numbers(device) -> None:
    whole = np.ones((2, device.n_controls), dtype=int)
    keys, channels = np.arange(2, dtype=np.uint64), np.arange(device.n_controls)
    batch = ControlBatch(whole[:, 1:], channels[1:], whole[0, :1], channels[:1], keys)
    seeded = device.set_params(random_state=0)
    expected = seeded.measure(batch.changed(varying=whole[:, 1:].astype(float), shared=whole[0, :1].astype(float)))
    np.testing.assert_array_equal(seeded.measure(batch), expected)


def test_whole_numbers_are_computed_in_the_precision_of_the_other_channels() -> None:
    oscillators = CoupledOscillators(3, random_state=0)
    half = oscillators.n_controls // 2
    for dtype in (np.float32, np.float64):
        parts = np.full((2, half), 0.5, dtype), np.arange(half)
        n_shared = oscillators.n_controls - half
        shared = np.ones(n_shared, int), np.arange(half, oscillators.n_controls)
        keys = np.arange(2, dtype=np.uint64)
        answer = oscillators.measure(ControlBatch(*parts, *shared, keys))
        assert answer.dtype == dtype
        np.testing.assert_array_equal(
            answer, oscillators.measure(ControlBatch(*parts, shared[0].astype(dtype), shared[1], keys))
        )


@pytest.mark.parametrize(
    "device", [OscillatingPlate(6, 4), IdentityDevice(6, 4, [[0, 1]] * 6)], ids=["plate", "identity"]
)
def test_tensors_of_whole_numbers_are_computed_in_double_precision(device: Any) -> None:
    whole = torch.ones((2, 6), dtype=torch.int64)
    methods = [device.forward] + ([device.vibrate] if hasattr(device, "vibrate") else [])
    for method in methods:
        for mine, others in zip(
            *(answer if isinstance(answer, tuple) else (answer,) for answer in (method(whole), method(whole.double()))),
            strict=True,
        ):
            assert mine.dtype == torch.float64
            np.testing.assert_array_equal(mine.numpy(), others.numpy())
