"""characterize on devices that answer a setting otherwise at another moment."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from skpat import Device, as_device, characterize
from skpat.inspection import DeviceReport


class Latch(Device):
    """Its gain doubles, or so, from a setting above 0.5 on until one below -0.5 comes."""

    n_controls, n_outputs, bounds = 12, 6, (-1, 1)

    def __init__(self, jump=1.0, noise=0.0):
        self.jump = jump
        self.noise = noise

    def open(self) -> None:
        self._up, self._rng = False, np.random.default_rng(0)

    def measure(self, batch: Any) -> np.ndarray:
        controls, gains = np.asarray(batch), []
        for switch in controls[:, 0]:
            self._up = switch > 0.5 or (self._up and switch >= -0.5)
            gains.append(1 + self.jump * self._up)
        weights = np.random.default_rng(7).standard_normal((12, 6)) / 2
        clean = np.log1p(np.exp(4 * controls @ weights)) * np.array(gains)[:, None]
        return clean + self.noise * self._rng.standard_normal(clean.shape)


@pytest.mark.parametrize("n_shots", [400, 2000])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_a_state_that_switches_is_found(noise: float, n_shots: int) -> None:
    for seed in range(6):
        report = characterize(Latch(noise=noise), n_shots, random_state=seed)
        assert report.verdict == "drifting"
        assert report.unsteady_share > 0.05
        assert report.n_shots <= n_shots
    assert characterize(Latch(jump=0.0, noise=noise), n_shots).verdict == "suitable"


def test_noise_that_is_large_in_a_corner_is_no_state() -> None:
    def noisy(seed: int) -> DeviceReport:
        rng = np.random.default_rng(seed)
        weights = rng.standard_normal((12, 6)) / 2

        def bank(controls: np.ndarray) -> np.ndarray:
            clean = np.log1p(np.exp(4 * controls @ weights))
            return clean + np.where(controls[:, :1] > 0.85, 5.0, 0.01) * rng.standard_normal(clean.shape)

        return characterize(as_device(bank, n_controls=12, n_outputs=6, bounds=(-1, 1)), 1000, random_state=seed)

    assert [report.unsteady_share for report in map(noisy, range(12))] == [0.0] * 12
