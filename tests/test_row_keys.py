"""A row's key is a function of its values alone, and distinct rows get distinct keys."""

from __future__ import annotations

from itertools import combinations, islice, permutations, product

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from skpat.row_keys import combine_keys, hash_rows, splitmix64

TABLES = arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.floats(allow_nan=False))
NARROW = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.floats(-9, 9, width=32))


def n_lost(keys: np.ndarray) -> int:
    """How many keys were met before."""
    return keys.size - len(np.unique(keys))


def test_splitmix64_is_the_published_one() -> None:
    counter = np.arange(3, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]  # SplitMix64 seeded with 0
    assert splitmix64(counter).tolist() == published


@given(TABLES, st.data())
def test_a_key_depends_on_its_row_alone(X: np.ndarray, data: st.DataObject) -> None:
    keys = hash_rows(X)
    assert keys.dtype == np.uint64
    assert keys.shape == (len(X),)
    order = np.array(data.draw(st.permutations(range(len(X)))))
    kept = order[: data.draw(st.integers(0, len(X)))]
    np.testing.assert_array_equal(hash_rows(X[order]), keys[order])
    np.testing.assert_array_equal(hash_rows(X[kept]), keys[kept])


@given(TABLES)
def test_a_key_does_not_see_how_the_row_lies_in_memory(X: np.ndarray) -> None:
    spread = np.zeros((2 * X.shape[0], 3 * X.shape[1]))
    spread[::2, ::3] = X
    for same in (np.asfortranarray(X), spread[::2, ::3], X[::-1].copy()[::-1]):
        np.testing.assert_array_equal(hash_rows(same), hash_rows(X))


@given(NARROW)
def test_float32_and_float64_of_the_same_values_agree(X: np.ndarray) -> None:
    np.testing.assert_array_equal(hash_rows(X), hash_rows(X.astype(np.float64)))


def test_negative_zero_is_zero() -> None:
    np.testing.assert_array_equal(hash_rows(np.array([[-0.0, 1.0]])), hash_rows(np.array([[0.0, 1.0]])))


def test_hashing_leaves_the_data_alone() -> None:
    X = np.array([[-0.0, 1.5], [2.5, -3.0]])
    before = X.tobytes()
    hash_rows(X)
    assert X.tobytes() == before


@given(TABLES, st.data())
def test_changing_one_value_changes_the_key(X: np.ndarray, data: st.DataObject) -> None:
    row, column = data.draw(st.integers(0, X.shape[0] - 1)), data.draw(st.integers(0, X.shape[1] - 1))
    changed = X.copy()
    changed[row, column] = data.draw(
        st.one_of(st.floats(allow_nan=False), st.just(float(np.nextafter(X[row, column], 0.0))))
    )
    assume(changed[row, column] != X[row, column])
    assert (hash_rows(changed) != hash_rows(X)).tolist() == (np.arange(len(X)) == row).tolist()


@given(st.lists(st.floats(-9, 9), min_size=2, max_size=6, unique=True))
def test_the_order_of_the_columns_matters(values: list[float]) -> None:
    row = np.array([values])
    assert hash_rows(row) != hash_rows(np.roll(row, 1, axis=1))


def small_integers() -> np.ndarray:
    return np.array(list(product(range(8), repeat=6)), dtype=float)


def binary() -> np.ndarray:
    return (np.arange(2**18)[:, None] >> np.arange(18) & 1).astype(float)


def signs() -> np.ndarray:
    codes = np.unique(np.random.default_rng(0).integers(0, 2**24, 210_000))
    return 2.0 * (codes[:, None] >> np.arange(24) & 1) - 1.0


def few_hot() -> np.ndarray:
    rows = np.array(list(combinations(range(32), 5)))
    X = np.zeros((len(rows), 32))
    np.put_along_axis(X, rows, 1.0, axis=1)
    return X


def permuted() -> np.ndarray:
    return np.array(list(islice(permutations([0.0, 0.1, 0.2, 0.3, 0.5, 0.8, 1.3, 2.1, 3.4]), 200_000)))


def near_equal() -> np.ndarray:
    steps = 0.5 + np.arange(450) * np.spacing(0.5)
    return np.array(list(product(steps, steps)))


def powers_of_two() -> np.ndarray:
    return 2.0 ** np.array(list(product(range(-3, 5), repeat=6)))


def grey_levels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 17, (200_000, 16)) / 16


@pytest.mark.parametrize(
    "rows",
    [
        small_integers,
        binary,
        signs,
        few_hot,
        permuted,
        near_equal,
        powers_of_two,
        grey_levels,
    ],
)
def test_distinct_rows_get_distinct_keys(rows) -> None:
    X = rows()
    assert len(X) >= 200_000
    assert n_lost(hash_rows(X)) == 0


def test_keys_of_a_small_grid_use_every_bit() -> None:
    keys = hash_rows(np.array(list(product(range(20), repeat=3)), dtype=float))
    bits = (keys[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    assert abs(bits.mean(axis=0) - 0.5).max() < 5 * 0.5 / np.sqrt(len(keys))


# ---- combine_keys ----


def test_the_order_of_the_parts_matters() -> None:
    keys = np.arange(5, dtype=np.uint64)
    assert (combine_keys(keys, 1, 2) != combine_keys(keys, 2, 1)).all()


def test_every_layer_unit_and_row_gets_its_own_key() -> None:
    keys = np.arange(50, dtype=np.uint64)
    parts = [(), (0,), *product(range(20), repeat=2), (0, 0, 0), (2**64 - 1,), (-2,)]
    assert n_lost(np.concatenate([keys, *(combine_keys(keys, *p) for p in parts)])) == 0


@given(arrays(np.uint64, st.integers(1, 8)), st.lists(st.integers(0, 2**64 - 1), max_size=3), st.data())
def test_combining_works_row_by_row(keys: np.ndarray, parts: list[int], data: st.DataObject) -> None:
    row = data.draw(st.integers(0, len(keys) - 1))
    assert combine_keys(keys[row : row + 1], *parts)[0] == combine_keys(keys, *parts)[row]


def test_parts_may_be_numpy_integers() -> None:
    keys = np.arange(5, dtype=np.uint64)
    np.testing.assert_array_equal(combine_keys(keys, np.int64(3)), combine_keys(keys, 3))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (5, 70_000), (40_000, 3), (70_000, 1)])
def test_keys_do_not_depend_on_the_blocks_that_rows_are_hashed_in(shape: tuple[int, int]) -> None:
    X = np.random.default_rng(0).standard_normal(shape)
    keys = hash_rows(X)
    assert keys.shape == (len(X),)
    some = np.unique(np.linspace(0, len(X) - 1, 7).astype(int)) if len(X) else []
    for row in some:
        assert hash_rows(X[row : row + 1]) == keys[row]
