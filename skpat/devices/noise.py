"""Noise as a pure function of (seed, row key, shot, output), so that a prediction never depends on its company."""

from __future__ import annotations

import numpy as np

from skpat.row_keys import combine_keys, splitmix64

__all__ = ["standard_normal"]

_STRIDE = np.uint64(0xD1342543DE82EF95)  # odd: counters of neighbouring pairs never meet
_TWO_PI_OVER_2_32 = 2 * np.pi / 2**32
_S32 = np.uint64(32)


def standard_normal(seed: int, row_keys: np.ndarray, shot: int, n_values: int) -> np.ndarray:
    """Independent standard normal numbers, one row for each key.

    Parameters
    ----------
    seed : int
        The device's seed.
    row_keys : ndarray of uint64, shape (n_rows,)
        Names of the rows. Equal keys get equal numbers.
    shot : int
        Number of the measurement; another shot gets other numbers.
    n_values : int
        How many numbers each row gets.

    Returns
    -------
    ndarray of float64, shape (n_rows, n_values)
        Resolution 2**-32 in probability, so no number lies beyond 6.8.

    Notes
    -----
    Counter-based: SplitMix64 of (row, pair) gives 64 bits, whose halves go through the Box-Muller transform
    (doi:10.1214/aoms/1177706645). There is no state, so any part of the table can be made alone.

    Examples
    --------
    >>> import numpy as np
    >>> from skpat.devices.noise import standard_normal
    >>> keys = np.arange(5, dtype=np.uint64)
    >>> alone, together = standard_normal(7, keys[3:4], 0, 9), standard_normal(7, keys, 0, 9)
    >>> bool((alone == together[3]).all())
    True
    """
    n_pairs = (n_values + 1) // 2
    base = combine_keys(row_keys, seed, shot)
    with np.errstate(over="ignore"):
        bits = splitmix64(base[:, None] + _STRIDE * np.arange(n_pairs, dtype=np.uint64))
    uniform = ((bits >> _S32).astype(np.float64) + 0.5) * 2.0**-32
    radius = np.sqrt(-2.0 * np.log(uniform))
    angle = (bits & np.uint64(0xFFFFFFFF)).astype(np.float64) * _TWO_PI_OVER_2_32
    out = np.empty((len(base), 2 * n_pairs))
    np.multiply(radius, np.cos(angle), out=out[:, :n_pairs])
    np.multiply(radius, np.sin(angle), out=out[:, n_pairs:])
    return out[:, :n_values]
