"""Which rows are measured together."""

from __future__ import annotations

import numpy as np

__all__ = ["batches_of"]


def batches_of(sample_weight: np.ndarray, n_batches: int, rng: np.random.RandomState | None) -> list[np.ndarray]:
    """The rows of each batch of an epoch.

    Where rows have different weights, the heavy ones are dealt out: each batch has about its share of them. In batches drawn
    without regard to the weights a few heavy rows would make large steps, and most steps would know nothing of them.

    Parameters
    ----------
    sample_weight : ndarray of shape (n_rows,)
    n_batches : int
        Their sizes differ by at most one row.
    rng : RandomState or None
        For the order of rows, and of batches. None: the rows stay in order.

    Returns
    -------
    list of ndarray of int
    """
    n_rows = len(sample_weight)
    if rng is None:
        return np.array_split(np.arange(n_rows), n_batches)
    order = rng.permutation(n_rows)
    if n_batches == 1 or (sample_weight == sample_weight[0]).all():
        return np.array_split(order, n_batches)
    places = np.argsort(-sample_weight[order], kind="stable")  # equal weights stay in random order
    dealt = [order[np.sort(places[batch::n_batches])] for batch in range(n_batches)]
    return [dealt[batch] for batch in rng.permutation(n_batches)]
