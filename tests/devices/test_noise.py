"""Keyed noise is standard normal, independent in every direction, and any part of it can be made alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest, norm

from skpat.devices import noise
from skpat.devices.noise import standard_normal

KEYS = np.arange(20_000, dtype=np.uint64)


def keys(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint64)


@pytest.mark.parametrize("n_values", [1, 7, 10])
def test_moments(n_values: int) -> None:
    sample = standard_normal(3, KEYS, 0, n_values)
    assert sample.shape == (len(KEYS), n_values)
    assert sample.dtype == np.float64
    n = sample.size
    # five standard errors of each moment
    for power, moment, spread in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert abs(np.mean(sample**power) - moment) < 5 * np.sqrt(spread / n)


@pytest.mark.parametrize("column", [0, 4, 9])
def test_distribution(column: int) -> None:
    assert kstest(standard_normal(3, KEYS, 0, 10)[:, column], "norm").pvalue > 1e-3


def test_the_tails_are_there_and_end_where_they_should() -> None:
    sample = np.abs(standard_normal(3, np.arange(200_000, dtype=np.uint64), 0, 2))
    assert 4.4 < sample.max() < 6.8
    expected = 2 * norm.sf(3.9) * sample.size
    assert abs(np.sum(sample > 3.9) - expected) < 4 * np.sqrt(expected)


@pytest.mark.parametrize("bits", [0, 2**32 - 1, 2**63, 2**64 - 1])
def test_the_rarest_bits_give_a_number_too(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "splitmix64", lambda x: np.full_like(x, bits))
    assert np.abs(standard_normal(0, keys(1), 0, 4)).max() < 6.8


def test_a_row_alone_is_also_standard_normal() -> None:
    assert kstest(standard_normal(3, keys(17), 0, 20_000)[0], "norm").pvalue > 1e-3


def test_columns_shots_seeds_and_rows_are_independent() -> None:
    columns = np.column_stack(
        [
            standard_normal(0, KEYS, 0, 6),
            standard_normal(0, KEYS, 1, 6),
            standard_normal(1, KEYS, 0, 6),
            standard_normal(0, KEYS + np.uint64(1), 0, 6),  # each row beside its neighbour
            standard_normal(0, KEYS << np.uint64(40), 2, 6),
        ]
    )
    for table in (columns, np.abs(columns), columns**2 * np.sign(columns)):
        correlation = np.corrcoef(table.T) - np.eye(table.shape[1])
        assert np.abs(correlation).max() < 5 / np.sqrt(len(KEYS))


@given(
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**40),
    st.integers(1, 9),
    st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=8),
    st.data(),
)
def test_any_rows_can_be_made_alone(seed: int, shot: int, n_values: int, names: list[int], data: st.DataObject) -> None:
    whole = standard_normal(seed, keys(*names), shot, n_values)
    assert np.isfinite(whole).all()
    rows = data.draw(st.lists(st.integers(0, len(names) - 1), min_size=1))
    np.testing.assert_array_equal(standard_normal(seed, keys(*names)[rows], shot, n_values), whole[rows])


def test_seed_and_shot_do_not_stand_for_each_other() -> None:
    assert (standard_normal(1, KEYS, 2, 3) != standard_normal(2, KEYS, 1, 3)).all()
    assert (standard_normal(0, KEYS, 1, 3) != standard_normal(0, KEYS, 0, 3)).all()


def test_equal_keys_get_equal_numbers() -> None:
    twice = standard_normal(0, keys(5, 6, 5), 0, 4)
    np.testing.assert_array_equal(twice[0], twice[2])
    assert (twice[0] != twice[1]).all()


def test_no_rows_and_no_values() -> None:
    assert standard_normal(0, keys(), 0, 3).shape == (0, 3)
    assert standard_normal(0, keys(1, 2), 0, 0).shape == (2, 0)
