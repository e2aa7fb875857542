"""What the tests of wrappers wrap: a bench that refuses what is illegal, and what it is asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from skpat import ControlBatch, Device
from skpat.devices import Drifting, IdentityDevice, Noisy, Quantized
from skpat.exceptions import ControlBoundsError

BOUNDS = np.array([[0.0, 0.3], [-1.0, 1.0], [5.0, 5.7], [-3.1, -0.1]])
LOW, HIGH = BOUNDS.T
WRAPPERS = [Drifting, Quantized, Noisy]


class Bench(Device):
    """Notes what it receives, and refuses what is illegal."""

    n_controls, n_outputs = 4, 3
    bounds = BOUNDS
    control_units, output_units = "V", "uA"
    max_batch, seconds_per_shot, joules_per_shot, address = 50, 0.1, 0.2, None
    max_change, output_range, on_bad_output, max_retries, settling_seconds = 9.0, (-99.0, 99.0), "raise", 2, 0.0
    slow_controls = (2,)
    opened = 0

    def __init__(self, control_steps=None):
        self.control_steps = control_steps
        self.calls: list[Any] = []

    def measure(self, batch: ControlBatch) -> np.ndarray:
        controls = np.asarray(batch)
        assert np.all(controls >= LOW)
        assert np.all(controls <= HIGH)
        if self.control_steps is not None:
            steps = np.broadcast_to(self.control_steps, 4)
            whole = (controls - LOW)[:, steps > 0] / steps[steps > 0]
            np.testing.assert_allclose(whole, np.round(whole), atol=1e-4)
        self.calls.append(batch)
        return controls[:, :3] + controls[:, 1:]

    def forward(self, controls: torch.Tensor, constants: Any = None) -> torch.Tensor:
        return (controls[:, :3] + controls[:, 1:]) * (1 if constants is None else constants["gain"])


class Noted(Bench):
    """An instrument with a line of its own, a veto, and shared channels that are sent apart."""

    def __init__(self):
        super().__init__()
        self.events: list[Any] = []

    def open(self) -> None:
        self.events.append("open")

    def close(self) -> None:
        self.events.append("close")

    def identify(self) -> str:
        return "bench 1"

    def safe_state(self) -> None:
        self.events.append("safe")

    def check_controls(self, batch: ControlBatch) -> None:
        if np.asarray(batch)[:, 1].max(initial=0) > 0.9:
            raise ControlBoundsError("too much in channel 1")

    def set_shared(self, batch: ControlBatch) -> None:
        self.events.append(np.array(batch.shared))


def settings_of(n_rows: int, dtype: Any = np.float64, seed: int = 0) -> np.ndarray:
    uniform = np.random.default_rng(seed).random((n_rows, 4))
    return np.clip(LOW + uniform * (HIGH - LOW), np.nextafter(LOW, 9), np.nextafter(HIGH, -9)).astype(dtype)


def in_parts(controls: np.ndarray, keys: bool = False) -> ControlBatch:
    batch = ControlBatch(controls[:, [3, 1]], np.array([3, 1]), controls[0, [0, 2]], np.array([0, 2]))
    return batch.named(np.arange(len(controls), dtype=np.uint64)) if keys else batch


def bench(n_channels: int = 1) -> IdentityDevice:
    """Outputs are the controls, from 0 to 1."""
    return IdentityDevice(n_channels, n_channels, bounds=[[0.0, 1.0]] * n_channels)


def wrapped(classes: list[type], device: Any, seed: int = 0, size: float = 0.1) -> Any:
    """The classes around a device, the first one outermost, all of them with an effect on controls and outputs."""
    parameters: dict[type, dict[str, Any]] = {
        Drifting: {
            "common": size, "independent": size, "misalignment": size, "misalignment_at": 5, "interval": 4,
            "random_state": seed,
        },
        Quantized: {"control_bits": 5, "output_bits": 12, "adc_range": (-20, 20)},
        Noisy: {"noise": size, "noise_floor": size, "control_noise": size, "random_state": seed},
    }  # fmt: skip
    for cls in reversed(classes):
        device = cls(device, **parameters[cls])
    return device
