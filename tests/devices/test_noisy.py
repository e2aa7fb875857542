"""Noise has its size, is a function of row and shot, and is independent of every other noise."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone

from skpat import ControlBatch
from skpat.devices import IdentityDevice, Noisy

from .wrapped_bench import Bench, bench, in_parts, settings_of, wrapped


def test_noise_has_its_size() -> None:
    asked = np.full((20_000, 2), 0.5)
    outputs = Noisy(bench(2), noise=0.1, noise_floor=0.2, random_state=0).measure(asked)
    np.testing.assert_allclose(outputs.std(axis=0), np.hypot(0.05, 0.2), rtol=0.03)
    np.testing.assert_allclose(outputs.mean(axis=0), 0.5, atol=0.006)
    assert abs(np.corrcoef(outputs.T)[0, 1]) < 0.03
    outputs = Noisy(bench(2), control_noise=0.03, random_state=0).measure(asked)
    np.testing.assert_allclose(outputs.std(axis=0), 0.03, rtol=0.03)
    assert abs(np.corrcoef(outputs.T)[0, 1]) < 0.03


@pytest.mark.parametrize("named", [True, False])
def test_the_noise_of_what_is_set_and_of_what_is_read_are_independent(named: bool) -> None:
    asked = ControlBatch.from_dense(np.full((20_000, 2), 0.5))
    asked = asked.named(np.arange(20_000, dtype=np.uint64)) if named else asked

    def off(**noise: float) -> np.ndarray:
        return Noisy(bench(2), random_state=0, **noise).measure(asked) - 0.5

    both = off(control_noise=0.05, noise_floor=0.05)
    np.testing.assert_allclose(
        both.std(axis=0), 0.05 * np.sqrt(2), rtol=0.03
    )  # noise that is the same twice: twice 0.05
    set_alone, read_alone = off(control_noise=0.05), off(noise_floor=0.05)
    assert np.abs(np.corrcoef(set_alone.T, read_alone.T)[:2, 2:]).max() < 0.03


def test_noise_is_a_function_of_row_and_shot() -> None:
    device = wrapped([Noisy], Bench())
    batch = in_parts(settings_of(9), keys=True)
    whole = device.measure(batch)
    np.testing.assert_array_equal(device.measure(batch.rows(slice(3, 5))), whole[3:5])
    assert not np.isclose(device.measure(batch.named_shot(1)), whole).any()
    unnamed = in_parts(settings_of(9))
    assert not np.isclose(device.measure(unnamed), device.measure(unnamed)).any()
    np.testing.assert_array_equal(clone(device).measure(unnamed), clone(device).measure(unnamed))
    fresh = Noisy(Bench(), noise=0.1)
    assert (
        np.isclose(fresh.measure(batch), fresh.measure(batch)).mean() < 0.2
    )  # two of its numbers may be near each other


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("seeds", [(0, 0), (0, 1)])
def test_noises_are_independent_of_each_other(named: bool, seeds: tuple[int, int]) -> None:
    class OwnNoise(IdentityDevice):
        random_state = seeds[1]

        def measure(self, batch: Any) -> np.ndarray:
            batch = ControlBatch.from_dense(batch)
            return self.standard_normal(batch, 2)

    batch = ControlBatch.from_dense(np.zeros((4000, 2)))
    batch = batch.named(np.arange(4000, dtype=np.uint64)) if named else batch
    own = OwnNoise(2, 2, [[0, 1]] * 2)
    inner = Noisy(bench(2), noise_floor=1.0, random_state=seeds[0])
    outer = Noisy(inner, noise_floor=1.0, random_state=seeds[1])
    a, b, both = own.measure(batch), inner.measure(batch), clone(outer).measure(batch)
    of_outer = both - clone(inner).measure(batch)  # what the outer one adds
    for one, other in pairwise([a, b, of_outer, a]):
        assert abs(np.corrcoef(one.T, other.T)[:2, 2:]).max() < 0.06
    np.testing.assert_allclose(both.std(), np.sqrt(2), rtol=0.03)
