"""scikit-learn's own checks: every one passes, with lasers and with a noisy numpy device."""

from __future__ import annotations

import pytest
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks

from skpat import PhysicalNetworkClassifier, PhysicalNetworkRegressor
from skpat.devices import SecondHarmonicLaser
from skpat.twins import NeuralTwin
from tests.estimators.noisy_bank import NoisyBank

# the same path with a smaller twin and fewer, larger steps on larger batches; the defaults take minutes
SMALL_TWIN = NeuralTwin(hidden_layer_sizes=(8,), max_iter=5, n_refine_steps=1)
QUICK = {"twin": SMALL_TWIN, "max_iter": 6, "batch_size": 75, "learning_rate_init": 0.1}
SMALL_LASER = SecondHarmonicLaser(16, 8, n_steps=2)
DEFAULTS = [PhysicalNetworkClassifier(), PhysicalNetworkRegressor()]
ESTIMATORS = [PhysicalNetworkClassifier(SMALL_LASER, **QUICK), PhysicalNetworkRegressor(NoisyBank(), **QUICK)]
OTHERS = [PhysicalNetworkClassifier(NoisyBank(), **QUICK), PhysicalNetworkRegressor(SMALL_LASER, **QUICK)]


@parametrize_with_checks(ESTIMATORS)
def test_scikit_learn_check(estimator, check) -> None:
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(OTHERS + DEFAULTS)
def test_scikit_learn_check_of_the_others(estimator, check) -> None:
    check(estimator)


@pytest.mark.parametrize("estimator", DEFAULTS, ids=str)
def test_noise_needs_no_excuse(estimator) -> None:
    assert not get_tags(estimator).non_deterministic
