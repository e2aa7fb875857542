"""A run of channels is that of the dense array, with its gradient, in whatever parts the batch comes."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from skpat import ControlBatch
from skpat.devices.channel_range import channel_range, varies


@given(st.permutations(range(7)), st.integers(0, 7), st.integers(0, 7), st.integers(0, 7), st.integers(1, 3))
def test_a_run_of_channels(order: list[int], n_varying: int, start: int, stop: int, n_rows: int) -> None:
    start, stop = sorted((start, stop))
    rng = np.random.default_rng(0)
    varying, shared = (
        torch.tensor(rng.random(shape), requires_grad=True) for shape in ((n_rows, n_varying), 7 - n_varying)
    )
    index = np.array(order)
    batch = ControlBatch(varying, index[:n_varying], shared, index[n_varying:])
    found, expected = channel_range(batch, start, stop), batch.dense()[:, start:stop]
    some_vary = bool(set(order[:n_varying]) & set(range(start, stop)))
    assert varies(batch, start, stop) == some_vary
    assert len(found) == (n_rows if some_vary else 1)
    torch.testing.assert_close(found.expand(n_rows, stop - start), expected, rtol=0, atol=0)
    if stop > start:
        weights = torch.tensor(rng.random((n_rows, stop - start)))
        slopes = (
            torch.autograd.grad((values * weights).sum(), (varying, shared), materialize_grads=True)
            for values in (found.expand(n_rows, stop - start), expected)
        )
        for one, other in zip(*slopes, strict=True):
            torch.testing.assert_close(one, other)


def test_a_dense_batch_is_not_copied() -> None:
    controls = torch.rand(4, 6)
    run = channel_range(ControlBatch.from_dense(controls), 2, 5)
    assert run.data_ptr() == controls[:, 2:].data_ptr()


def test_parts_of_different_precision_meet_in_the_higher() -> None:
    batch = ControlBatch(torch.zeros(2, 1), np.array([1]), torch.zeros(1, dtype=torch.float64), np.array([0]))
    assert channel_range(batch, 0, 2).dtype == torch.float64
