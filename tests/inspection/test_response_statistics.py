"""Statistics of readings whose noise, response and limits are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from skpat.inspection import DeviceReport
from skpat.inspection.response_statistics import Readings, saturated_shares, summarize

N_PROBES, N_PAIRS, N_ROUNDS, N_REFERENCES = 4000, 3000, 12, 8
NOISE, SIZES = np.array([0.5, 2.0]), np.array([1.0, 10.0])  # of the two outputs


def response(places: np.ndarray) -> np.ndarray:
    """Two outputs of three units: the first moves three times as much as the second, the last is dead."""
    return SIZES * (3 * places[..., :1] + places[..., 1:2])


def readings_of(low: float = -np.inf, high: float = np.inf, **others: np.ndarray) -> Readings:
    """With noise, then cut off at low and high; ``others`` as they are."""
    rng = np.random.default_rng(0)

    def read(places: np.ndarray) -> np.ndarray:
        outputs = response(places)
        return np.clip(outputs + NOISE * rng.standard_normal(outputs.shape), low * SIZES, high * SIZES)

    places, references = rng.uniform(-1, 1, (N_PROBES, 3)), rng.uniform(-1, 1, (N_REFERENCES, 3))
    moved = np.arange(N_PAIRS) % 3
    pairs = np.repeat(rng.uniform(-1, 1, (N_PAIRS, 1, 3)), 2, axis=1)
    pairs[np.arange(N_PAIRS), 1, moved] = rng.uniform(-1, 1, N_PAIRS)
    rounds = np.broadcast_to(np.arange(N_PROBES) % N_ROUNDS, (2, N_PROBES))
    readings = {
        "references": read(np.tile(references[None, :, None], (N_ROUNDS, 1, 2, 1))),
        "places": places,
        "first": read(places),
        "second": read(places),
        "rounds": rounds,
        "before": np.full((2, N_PROBES), -1),
        "moved": moved,
        "pairs": read(pairs),
    }
    return Readings(**(readings | others))


def report(low: float = -np.inf, high: float = np.inf, output_range: Any = None) -> DeviceReport:
    about: dict[str, Any] = {"device": "rig", "n_controls": 3, "n_outputs": 2, "n_shots": 1, "shots_per_second": None}
    about |= {"output_units": "", "unit_of": np.arange(3), "restrictions": [], "output_range": output_range}
    return summarize(readings_of(low, high), about)


def test_noise_and_response_are_those_of_each_output_in_its_own_units() -> None:
    found = report()
    signal = SIZES * np.sqrt((3**2 + 1) / 3)  # a place has the variance 1/3
    np.testing.assert_allclose(found.noise, NOISE, rtol=0.2)
    np.testing.assert_allclose(found.signal, signal, rtol=0.05)
    np.testing.assert_allclose(found.snr, signal / NOISE, rtol=0.2)
    assert found.nonlinear_share == pytest.approx(0, abs=0.01)
    assert found.drift == 0.0


def test_the_sensitivity_of_a_channel_is_without_noise() -> None:
    first, second, dead = report().sensitivity
    assert first / second == pytest.approx(3, rel=0.1)
    assert first**2 + second**2 == pytest.approx(1, rel=0.1)  # parts of the variance: the response is additive
    assert dead < 0.05 * second


@pytest.mark.parametrize(("low", "high"), [(-1.0, np.inf), (-np.inf, 1.0), (-1.0, 1.0)])
def test_readings_stuck_at_either_end_are_counted(low: float, high: float) -> None:
    rng = np.random.default_rng(1)
    outputs = response(rng.uniform(-1, 1, (100_000, 3))) + NOISE * rng.standard_normal((100_000, 2))
    stuck = ((outputs <= low * SIZES) | (outputs >= high * SIZES)).mean(axis=0)
    np.testing.assert_allclose(report(low, high).saturated_shares, stuck, atol=0.03)


def test_readings_beyond_either_end_of_a_stated_range_are_stuck() -> None:
    found = report(output_range=(-1.0, 2.0))
    expected = ((found.readings <= -1) | (found.readings >= 2)).mean(axis=0)
    assert (expected > 0.3).all()
    np.testing.assert_allclose(found.saturated_shares, expected, atol=0.02)


def test_readings_stuck_in_the_device_are_counted_through_the_noise_of_the_reading() -> None:
    rng = np.random.default_rng(2)
    stuck = np.maximum(rng.uniform(-1, 1, (1, N_PROBES, 2)), -0.4)  # before they are read
    first, second = SIZES * (stuck + 0.01 * rng.standard_normal((2, N_PROBES, 2)))
    np.testing.assert_allclose(saturated_shares(readings_of(first=first, second=second), None), 0.3, atol=0.03)


def test_the_drift_is_that_of_all_references_or_of_each_whichever_is_larger() -> None:
    """Here the mean of the references is beyond chance, and none of them is by itself."""
    rng = np.random.default_rng(3)
    course = np.linspace(-1, 1, N_ROUNDS)[:, None, None, None] * np.linspace(0, 2, N_REFERENCES)[:, None, None]
    noise = rng.standard_normal((N_ROUNDS, N_REFERENCES, 2, 2))
    readings = readings_of(references=SIZES * (0.6 * course + noise))
    means = readings.references.mean(axis=2) / readings.scale
    of_noise = readings.noise.mean() / 2
    each = means.var(axis=0, ddof=1).mean() - of_noise
    together = means.mean(axis=1).var(axis=0, ddof=1).mean() - of_noise / N_REFERENCES
    assert each > 1.2 * together
    assert readings.drift_variance == pytest.approx(each)
