"""Names for rows: 64-bit keys that say which row of X, layer and unit a device call carries.

A key depends on the values of the row alone, never on its place in a batch. Noise keyed by it is therefore the
same whether a row is measured alone or among a thousand others, which is what scikit-learn expects of a prediction.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

__all__ = ["combine_keys", "hash_rows", "rank_among_equals", "splitmix64", "sum_of_columns"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_ALL = 0xFFFFFFFFFFFFFFFF
_BLOCK = 1 << 16  # numbers hashed at once: they stay in the processor's cache
_S30, _S27, _S31, _S32 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(32)


def splitmix64(x: np.ndarray) -> np.ndarray:
    """Scramble 64-bit integers: the finaliser of SplitMix64, a bijection with full avalanche.

    Parameters
    ----------
    x : ndarray of uint64, any shape

    Returns
    -------
    ndarray of uint64, same shape

    References
    ----------
    Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, doi:10.1145/2660193.2660195.

    Examples
    --------
    >>> import numpy as np
    >>> from skpat.row_keys import splitmix64
    >>> hex(int(splitmix64(np.zeros(1, np.uint64))[0]))  # the first output of SplitMix64 seeded with 0
    '0xe220a8397b1dcdaf'
    """
    x = np.asarray(x, dtype=np.uint64)
    if x.size == 1:  # faster than numpy, which also warns where a number that is no array overflows
        return np.array(_scramble(x.item()), dtype=np.uint64).reshape(x.shape)[()]
    z = x + _GOLDEN
    z ^= z >> _S30
    z *= _MIX_1
    z ^= z >> _S27
    z *= _MIX_2
    z ^= z >> _S31
    return z


def _scramble(x: int) -> int:
    """SplitMix64's finaliser for one number."""
    z = (x + int(_GOLDEN)) & _ALL
    z = ((z ^ (z >> 30)) * int(_MIX_1)) & _ALL
    z = ((z ^ (z >> 27)) * int(_MIX_2)) & _ALL
    return z ^ (z >> 31)


def hash_rows(X: np.ndarray) -> np.ndarray:
    """One key per row of X, a function of the row's values alone.

    Parameters
    ----------
    X : ndarray of shape (n_rows, n_features)
        Finite numbers. float32 and float64 rows of the same values get the same key.

    Returns
    -------
    ndarray of uint64, shape (n_rows,)

    Notes
    -----
    Every 64-bit pattern is combined with a constant of its column and scrambled; the sum over columns, modulo 2**64, is
    scrambled once more. Negative zero counts as zero.

    Examples
    --------
    >>> import numpy as np
    >>> from skpat.row_keys import hash_rows
    >>> X = np.arange(6.0).reshape(3, 2)
    >>> bool((hash_rows(X)[1:2] == hash_rows(X[1:2])).all())
    True
    """
    return splitmix64(_sum_of_scrambled(X, _constants_of_first(X.shape[1])))


def sum_of_columns(X: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """What :func:`hash_rows` scrambles last: sums of parts of the columns add up to that of all of them.

    Parameters
    ----------
    X : ndarray of shape (n_rows, k)
    columns : ndarray of int, shape (k,)
        Which columns of the whole these are.

    Returns
    -------
    ndarray of uint64, shape (n_rows,)
    """
    return _sum_of_scrambled(X, splitmix64(columns.astype(np.uint64)))


def _sum_of_scrambled(X: np.ndarray, constants: np.ndarray) -> np.ndarray:
    out = np.empty(len(X), dtype=np.uint64)
    n_rows = max(_BLOCK // max(X.shape[1], 1), 1)
    for start in range(0, len(X), n_rows):
        out[start : start + n_rows] = _sum_of_scrambled_block(X[start : start + n_rows], constants)
    return out


def _sum_of_scrambled_block(X: np.ndarray, constants: np.ndarray) -> np.ndarray:
    values = np.ascontiguousarray(X, dtype=np.float64) + 0.0  # -0.0 + 0.0 is 0.0
    bits = values.view(np.uint64)
    bits ^= constants
    bits ^= bits >> _S32
    bits *= _MIX_1
    bits ^= bits >> _S30  # without it few bits tell two values apart, and sums over columns collide
    bits *= _MIX_2
    bits ^= bits >> _S31
    return np.add.reduce(bits, axis=1)


@lru_cache(maxsize=16)
def _constants_of_first(n_columns: int) -> np.ndarray:
    constants = splitmix64(np.arange(n_columns, dtype=np.uint64))
    constants.flags.writeable = False
    return constants


def rank_among_equals(keys: np.ndarray) -> np.ndarray:
    """How many equal keys stand before each, shape (n_rows,)."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    ranks = np.arange(len(keys)) - np.repeat(starts, np.diff(np.r_[starts, len(keys)]))
    out = np.empty(len(keys), dtype=np.int64)
    out[order] = ranks
    return out


def combine_keys(keys: np.ndarray, *parts: int) -> np.ndarray:
    """Mix small integers (a layer, a unit, a seed) into row keys.

    Parameters
    ----------
    keys : ndarray of uint64, shape (n_rows,)
    *parts : int
        Non-negative; their order matters.

    Returns
    -------
    ndarray of uint64, shape (n_rows,)
    """
    return splitmix64(np.asarray(keys, dtype=np.uint64) ^ _salt(*map(int, parts)))


@lru_cache(maxsize=1024)
def _salt(*parts: int) -> np.uint64:
    salt = np.zeros(1, dtype=np.uint64)
    for part in parts:
        salt = splitmix64(salt ^ np.uint64(part & 0xFFFFFFFFFFFFFFFF))
    return salt[0]
