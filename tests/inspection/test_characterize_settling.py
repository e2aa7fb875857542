"""What characterize says of slow channels, of settings that have not settled, of a hum and of dark outputs."""

from __future__ import annotations

import numpy as np
import pytest

from skpat import Device, characterize
from tests.inspection import drivers


def test_slow_channels_stand_still_and_are_spoken_of() -> None:
    report = characterize(drivers.Heaters(0.02), n_shots=1000)
    assert report.verdict == "suitable"
    assert (report.memory, report.drift) == (0, 0)
    assert report.restrictions == ()
    assert report.still_channels.tolist() == [1, 3]
    assert report.remarks[0] == "2 slow channels of 5 stood still; nothing is known of them: 1, 3."
    assert not report.grouped
    np.testing.assert_array_equal(np.isnan(report.sensitivity), [False, True, False, True, False])
    assert report.dead_channels.tolist() == report.untested_channels.tolist() == []


def test_where_every_channel_is_slow_all_are_moved_and_waited_for() -> None:
    report = characterize(drivers.HeatersAlone(0.02), n_shots=400)
    assert (report.verdict, report.memory, len(report.still_channels)) == ("suitable", 0, 0)


@pytest.mark.parametrize("noise", [0.0, 0.01])
@pytest.mark.parametrize("share", [0.1, 0.3])
def test_what_settles_exponentially_is_no_drift(share: float, noise: float) -> None:
    report = characterize(Slow(share, noise))
    assert report.drift < 0.02
    assert report.memory == pytest.approx(share, rel=0.5)


class Slow(Device):
    """A state that goes its share of the way to every row."""

    n_controls, n_outputs, bounds = 12, 6, (-1.0, 1.0)

    def __init__(self, share=0.3, noise=0.0):
        self.share = share
        self.noise = noise

    def measure(self, batch):
        if not hasattr(self, "_state"):
            self._state, self._stream = np.zeros(12), np.random.default_rng(1)
        states = []
        for row in np.asarray(batch):
            self._state = row + self.share * (self._state - row)
            states.append(self._state)
        outputs = np.tanh(np.stack(states) @ np.random.default_rng(3).normal(size=(12, 6)) / 3)
        return outputs + self.noise * self._stream.standard_normal(outputs.shape)


@pytest.mark.parametrize("n_shots", [400, 1000, 2000])
def test_a_hum_is_not_called_memory(n_shots: int) -> None:
    class Humming(Device):
        n_controls, n_outputs, bounds = 6, 4, (-1.0, 1.0)

        def measure(self, batch):
            hum = np.sin(2 * np.pi * (self.in_time(batch).clock[:, None] / 4 + 0.1))
            return np.tanh(np.asarray(batch) @ np.random.default_rng(3).normal(size=(6, 4))) + 0.1 * hum

    assert characterize(Humming(), n_shots=n_shots).memory == 0


def test_slow_channels_are_in_no_group() -> None:
    class Many(Device):
        n_controls, n_outputs, bounds, slow_controls = 300, 3, (-1.0, 1.0), (0, 299)

        def measure(self, batch):
            controls = np.asarray(batch)
            assert np.ptp(controls[:, [0, 299]], axis=0).max() == 0
            return np.sin(controls[:, 1:4] + controls[:, 4:7])

    report = characterize(Many(), n_shots=400)
    assert report.grouped
    assert not np.isin([0, 299], report.dead_channels).any()


@pytest.mark.parametrize("n_shots", [400, 2000])
def test_dark_outputs_do_not_count_as_memory(n_shots: int) -> None:
    assert characterize(drivers.TwoDark(0.02), n_shots=n_shots).memory == 0
    for share, verdict in ((0.04, "suitable"), (0.2, "drifting")):
        report = characterize(drivers.TwoDarkAndSlow(0.02, share=share), n_shots=n_shots)
        assert report.verdict == verdict
        assert report.memory == pytest.approx(share, rel=0.5, abs=0.02)
        assert report.dead_outputs.tolist() == [4, 5]
