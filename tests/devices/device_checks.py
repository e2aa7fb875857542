"""What tests of several devices ask with, and what they ask of noise."""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import kstest

from skpat import ControlBatch


def named(controls: np.ndarray, shot: int = 0, first_key: int = 0) -> ControlBatch:
    keys = np.arange(first_key, first_key + len(controls), dtype=np.uint64)
    return ControlBatch.from_dense(controls).named(keys, shot)


def split_into(controls: np.ndarray, varies: np.ndarray, shuffle: int | None = None) -> ControlBatch:
    """The channels ``varies`` as they are, the others shared with the values of the first row."""
    shared = np.setdiff1d(np.arange(controls.shape[1]), varies)
    if shuffle is not None:
        rng = np.random.default_rng(shuffle)
        varies, shared = rng.permutation(varies), rng.permutation(shared)
    return ControlBatch(controls[:, varies], varies, controls[0, shared], shared)


def in_torch(batch: ControlBatch, requires_grad: bool = False) -> ControlBatch:
    varying, shared = (torch.tensor(part, requires_grad=requires_grad) for part in (batch.varying, batch.shared))
    return ControlBatch(varying, batch.varying_index, shared, batch.shared_index)


def assert_standard_normal(values: np.ndarray) -> None:
    """Four standard errors around mean 0 and spread 1, and the shape between."""
    assert abs(values.mean()) < 4 / np.sqrt(values.size)
    assert abs(values.std() - 1) < 4 / np.sqrt(2 * values.size)
    assert kstest(values.ravel(), "norm").pvalue > 1e-3
