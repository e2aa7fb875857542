"""Noise and drift of the settings: a channel has its own, wherever in a batch it stands, shared or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from skpat import ControlBatch, Device
from skpat.devices import Drifting, IdentityDevice, Noisy

BOUNDS = np.array([[0.0, 1.0], [0.0, 10.0], [-100.0, 100.0], [5.0, 5.1]])
WIDTH = np.ptp(BOUNDS, axis=1)


class Echo(Device):
    """Answers with its settings."""

    n_controls, n_outputs, bounds = 4, 4, BOUNDS

    def measure(self, batch: ControlBatch) -> np.ndarray:
        return np.asarray(batch)


def in_the_middle(n_rows: int) -> ControlBatch:
    """Channels 3 and 1 vary, 2 and 0 are shared."""
    middle = BOUNDS.mean(axis=1)
    batch = ControlBatch(np.tile(middle[[3, 1]], (n_rows, 1)), np.array([3, 1]), middle[[2, 0]], np.array([2, 0]))
    return batch.named(np.arange(n_rows, dtype=np.uint64))


def test_the_noise_of_a_channel_is_a_share_of_its_own_range() -> None:
    device = Noisy(Echo(), control_noise=0.01, random_state=0)
    n_rows, n_shots = 1000, 400
    of_rows = (device.measure(in_the_middle(n_rows)) - BOUNDS.mean(axis=1)) / WIDTH
    np.testing.assert_allclose(of_rows[:, [1, 3]].std(axis=0), 0.01, rtol=4 / np.sqrt(2 * n_rows))
    assert (np.ptp(of_rows[:, [0, 2]], axis=0) == 0).all()  # set once for all rows
    one = in_the_middle(1)
    of_shots = [(device.measure(one.named_shot(shot))[0] - BOUNDS.mean(axis=1)) / WIDTH for shot in range(n_shots)]
    np.testing.assert_allclose(np.std(of_shots, axis=0), 0.01, rtol=4 / np.sqrt(2 * n_shots))
    assert np.abs(np.corrcoef(np.transpose(of_shots)) - np.eye(4)).max() < 4 / np.sqrt(n_shots)


@pytest.mark.parametrize(
    "kind", [{"common": 0.01}, {"independent": 0.01}, {"misalignment": 0.01, "misalignment_at": 0}]
)
def test_a_channel_has_the_drift_that_is_stated_for_it(kind: dict[str, Any]) -> None:
    device = Drifting(Echo(), **{"common": 0.0} | kind, random_state=0)
    batch = in_the_middle(1).started_at(700)
    drift = device.drift([700])
    assert (drift != 0).all()
    np.testing.assert_allclose(device.measure(batch), BOUNDS.mean(axis=1) + WIDTH * drift, rtol=1e-12)


def test_without_a_session_settings_are_those_of_the_devices_own_time() -> None:
    device = Drifting(Echo(), random_state=0)
    device.measure(in_the_middle(1000))
    expected = BOUNDS.mean(axis=1) + WIDTH * device.drift([1000])
    for _ in range(2):  # to ask is not to measure
        np.testing.assert_allclose(np.asarray(device.transform_controls(in_the_middle(1))), expected, rtol=1e-12)
    np.testing.assert_allclose(device.measure(in_the_middle(1)), expected, rtol=1e-12)


def test_a_walk_is_that_of_the_device_as_it_is_now() -> None:
    def drifting(n_channels: int = 2, seed: int = 0, within: bool = False) -> Drifting:
        bench: Device = IdentityDevice(n_channels, n_channels, bounds=[[0, 1]] * n_channels)
        bench = Drifting(bench, random_state=0) if within else bench
        return Drifting(bench, common=0.1, independent=0.1, random_state=seed)

    device = drifting()
    device.drift([2000])
    for other in (drifting(n_channels=3), drifting(seed=1), drifting(within=True), drifting()):
        device.set_params(device=other.device, random_state=other.random_state)
        np.testing.assert_array_equal(device.drift([900, 2000]), other.drift([900, 2000]))
    assert (drifting().drift([2000]) != drifting(within=True).drift([2000])).all()
