"""Copies are seeded from one generator: a seed that was given stays, and nobody else's seed depends on it."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone

from skpat.devices import Drifting, Noisy, SecondHarmonicLaser
from skpat.seeding import seeded_copy

NAMES = ["random_state", "device__random_state", "device__device__random_state"]


@pytest.mark.parametrize("given", NAMES)
def test_a_seed_that_is_given_stays_and_moves_no_other(given: str) -> None:
    device = Noisy(Drifting(SecondHarmonicLaser(4, 2)))
    drawn = seeded_copy(device, np.random.RandomState(0)).get_params()
    assert len({drawn[name] for name in NAMES}) == 3
    own = clone(device).set_params(**{given: 7})
    seeded = seeded_copy(own, np.random.RandomState(0)).get_params()
    assert {name: seeded[name] for name in NAMES} == {name: drawn[name] for name in NAMES} | {given: 7}
    assert [own.get_params()[name] for name in NAMES if name != given] == [None, None]  # the user's stays as it was


def test_what_has_no_parameters_is_copied() -> None:
    plain = {"a": [1]}
    copy = seeded_copy(plain, np.random.RandomState(0))
    assert copy == plain
    assert copy is not plain
