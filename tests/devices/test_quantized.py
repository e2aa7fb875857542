"""Converters round to their levels, saturate at their ends, and let gradients go straight through."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skpat.devices import IdentityDevice, Quantized
from skpat.exceptions import ControlBoundsError, DeviceOutputError
from skpat.lab import Session

from .wrapped_bench import BOUNDS, Bench, bench, settings_of


@pytest.mark.parametrize("bits", [1, 2, 5, 8])
def test_a_converter_has_its_levels_and_reaches_both_ends(bits: int) -> None:
    device = Quantized(bench(), control_bits=bits)
    outputs = device.measure(np.linspace(0, 1, 5001)[:, None])
    assert len(np.unique(outputs.round(9))) == 2**bits
    assert (outputs.min(), outputs.max()) == (0, 1)
    device = Quantized(bench(), output_bits=bits, adc_range=(0.25, 0.5))
    outputs = device.measure(np.linspace(0, 1, 5001)[:, None])
    assert len(np.unique(outputs.round(9))) == 2**bits
    assert (outputs.min(), outputs.max()) == (0.25, 0.5)


@given(
    st.integers(1, 32),
    st.sampled_from([np.float32, np.float64]),
    st.floats(-1e3, 1e3),
    st.floats(1e-3, 1e3),
    st.integers(0, 2**32 - 1),
)
def test_rounding_is_idempotent_monotone_and_no_further_than_half_a_step(
    bits: int, dtype: Any, low: float, width: float, seed: int
) -> None:
    inner = IdentityDevice(1, 1, bounds=[[low, low + width]])
    device = Quantized(inner, control_bits=bits, output_bits=bits, adc_range=(low, low + width))
    values = np.sort(np.random.default_rng(seed).uniform(low - width, low + 2 * width, 50))[:, None].astype(dtype)
    once = device.measure(values)
    assert once.dtype == dtype
    rounding = 4 * np.finfo(dtype).eps * max(abs(low), abs(low + width))
    np.testing.assert_allclose(device.measure(once), once, rtol=0, atol=rounding)
    assert (np.diff(once[:, 0]) >= 0).all()
    inside = np.clip(values, low, low + width)
    assert np.abs(once - inside).max() <= 0.5 * width / (2**bits - 1) + rounding


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bits", [1, 4, 12, 16])
def test_a_session_takes_what_a_network_sends_to_a_converter(bits: int, dtype: Any) -> None:
    from skpat import ControlSplit
    from skpat.network.forward import Network

    device = Quantized(Bench(), control_bits=bits)
    split = ControlSplit().resolve(4)
    network = Network(
        split=split, bounds=BOUNDS, control_steps=device.control_steps, n_features=2, n_outputs=3, n_targets=2
    )
    controls = network.uniform_on_device(np.random.default_rng(0).random((40, 4)).astype(dtype))
    Session(device).measure(controls)
    received = np.asarray(device.device.calls[0])
    np.testing.assert_allclose(received, controls, rtol=0, atol=8 * np.finfo(dtype).eps)
    if bits == 4:
        with pytest.raises(
            ControlBoundsError, match=r"passed to Quantized\(Bench\)\.measure must be whole steps above"
        ):
            Session(device).measure(settings_of(2))


def test_a_converter_in_front_of_steps_has_steps_that_are_legal_for_both() -> None:
    device = Quantized(Bench((0.0, 0.25, 0.1, 0.0)), control_bits=2)
    np.testing.assert_allclose(device.control_steps, [0.1, 0.75, 0.3, 1.0])
    device.measure(settings_of(50))  # the bench checks
    fine = Quantized(Bench((0.0, 0.25, 0.1, 0.0)), control_bits=12)
    np.testing.assert_allclose(fine.control_steps[1:3], [0.25, 0.1])
    assert Quantized(Bench(0.1)).control_steps == 0.1


def test_a_converter_saturates_silently_and_hides_no_fault() -> None:
    class Broken(IdentityDevice):
        max_retries = 0

        def measure(self, batch: Any) -> np.ndarray:
            return np.where(np.asarray(batch) == 0.5, np.inf, np.asarray(batch) * 10)

    device = Quantized(Broken(2, 2, [[0, 1]] * 2), adc_range=[[0, 2], [1, 3]])
    assert device.output_range is None
    np.testing.assert_array_equal(Session(device).measure([[0.9, 0.9], [0.1, 0.0]]), [[2, 3], [1, 1]])
    with pytest.raises(DeviceOutputError, match="Got inf"):
        Session(device.set_params(output_bits=4)).measure([[0.5, 0.9]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_go_straight_through_converters_and_not_through_their_ends(dtype: torch.dtype) -> None:
    inner = IdentityDevice(5, 5, bounds=[[-1, 1]] * 5)
    device = Quantized(inner, control_bits=4, output_bits=3, adc_range=(-0.5, 0.5))
    controls = torch.tensor([[-2.0, -0.7, -0.3, 0.2, 1.5]], dtype=dtype, requires_grad=True)
    outputs = device.forward(controls)
    assert outputs.dtype == dtype
    np.testing.assert_array_equal(outputs.detach().numpy(), device.measure(controls.detach().numpy()))
    outputs.sum().backward()
    assert controls.grad.tolist() == [[0, 0, 1, 1, 0]]
    controls.grad = None
    device.set_params(adc_range=(-9, 9)).forward(controls).sum().backward()
    assert controls.grad.tolist() == [[0, 1, 1, 1, 0]]
