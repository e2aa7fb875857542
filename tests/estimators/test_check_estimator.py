"""scikit-learn's own checks: every one passes, with the default laser and with a noisy numpy device."""

from __future__ import annotations

import pytest
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks

from skpat import PhysicalNetworkClassifier, PhysicalNetworkRegressor
from skpat.twins import NeuralTwin
from tests.estimators.noisy_bank import NoisyBank

QUICK = {"twin": NeuralTwin(hidden_layer_sizes=(64,), max_iter=20), "n_calibration_shots": 300}
ESTIMATORS = [
    PhysicalNetworkClassifier(),
    PhysicalNetworkRegressor(),
    PhysicalNetworkClassifier(NoisyBank()),
    PhysicalNetworkRegressor(NoisyBank(), **QUICK),
]


@parametrize_with_checks(ESTIMATORS)
def test_scikit_learn_check(estimator, check) -> None:
    check(estimator)


@pytest.mark.parametrize("estimator", ESTIMATORS[:2], ids=str)
def test_noise_needs_no_excuse(estimator) -> None:
    assert not get_tags(estimator).non_deterministic
