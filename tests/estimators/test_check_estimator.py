"""scikit-learn's own checks: every one passes, with the default laser and with a noisy numpy device."""

from __future__ import annotations

import pytest
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks

from skpat import PhysicalNetworkClassifier, PhysicalNetworkRegressor
from tests.estimators.noisy_bank import NoisyBank

ESTIMATORS = [
    PhysicalNetworkClassifier(),
    PhysicalNetworkRegressor(),
    PhysicalNetworkClassifier(NoisyBank()),
    PhysicalNetworkRegressor(NoisyBank()),
]


@parametrize_with_checks(ESTIMATORS)
def test_scikit_learn_check(estimator, check) -> None:
    check(estimator)


@pytest.mark.parametrize("estimator", ESTIMATORS[:2], ids=str)
def test_noise_needs_no_excuse(estimator) -> None:
    assert not get_tags(estimator).non_deterministic
