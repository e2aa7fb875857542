"""How well characterize knows what a linear model misses, whatever the noise."""

from __future__ import annotations

import numpy as np
import pytest

from skpat import as_device, characterize
from skpat.inspection.response_statistics import _noise_of_products


@pytest.mark.parametrize("n_outputs", [pytest.param(1, marks=pytest.mark.slow), 5])
def test_noise_that_grows_with_the_signal_does_not_make_a_linear_device_nonlinear(n_outputs: int) -> None:
    def verdict(seed: int) -> str:
        rng = np.random.default_rng(seed)
        weights = rng.standard_normal((6, n_outputs))
        weights /= np.linalg.norm(weights, axis=0) / np.sqrt(3)  # outputs of variance 1

        def bank(controls: np.ndarray) -> np.ndarray:
            clean = controls @ weights
            return clean + 0.55 * np.square(clean) * rng.standard_normal(clean.shape)

        device = as_device(bank, n_controls=6, n_outputs=n_outputs, bounds=(-1, 1))
        return characterize(device, random_state=seed).verdict

    verdicts = [verdict(seed) for seed in range(60)]
    assert verdicts.count("suitable") <= 3  # with the error of noise of one size everywhere 6 and 10
    assert verdicts.count("linear") >= 40


@pytest.mark.parametrize(("bend", "verdict"), [(1.0, "suitable"), (1e-3, "linear")])
def test_a_glitch_now_and_then_hides_no_response(bend: float, verdict: str) -> None:
    def glitching(seed: int) -> str:
        rng = np.random.default_rng(seed)
        weights = rng.standard_normal((8, 4)) / 2

        def bank(controls: np.ndarray) -> np.ndarray:
            clean = np.tanh(2 * bend * controls @ weights) / bend + 0.01 * rng.standard_normal((len(controls), 4))
            leaps = (rng.random(len(clean)) < 0.01) * 3 * rng.standard_normal(len(clean))
            return clean + leaps[:, None]

        return characterize(as_device(bank, n_controls=8, n_outputs=4, bounds=(-1, 1)), random_state=seed).verdict

    assert [glitching(seed) for seed in range(10)].count(verdict) >= 9


@pytest.mark.parametrize("shared", [0.0, 1.0])
def test_the_error_of_the_nonlinear_share_of_many_outputs_is_that_of_all(shared: float) -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((40, 200, 300)) + shared * rng.standard_normal((40, 200, 1))
    found = np.array([[_noise_of_products(one[:, ::step], 300, 199) for step in (1, 3)] for one in noise])
    truth = 200 * ((1 + shared**2) ** 2 / 300 + shared**4) / 4  # a difference has twice the variance of a reading
    np.testing.assert_allclose(found.mean(axis=0), truth, rtol=0.1)
