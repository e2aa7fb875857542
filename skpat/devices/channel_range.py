"""A run of neighbouring channels of a batch, without building the array of all controls of all rows."""

from __future__ import annotations

import numpy as np
import torch

from skpat.controls import ControlBatch

__all__ = ["channel_range", "varies"]


def varies(batch: ControlBatch, start: int, stop: int) -> bool:
    """Whether any channel from ``start`` up to ``stop`` differs from row to row."""
    return bool(((batch.varying_index >= start) & (batch.varying_index < stop)).any())


def channel_range(batch: ControlBatch, start: int, stop: int) -> torch.Tensor:
    """The channels from ``start`` up to ``stop``, differentiable.

    Parameters
    ----------
    batch : ControlBatch
        Its parts are tensors.
    start, stop : int

    Returns
    -------
    tensor of shape (n_rows, stop - start), or (1, stop - start) where all rows share every one of them

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skpat import ControlBatch
    >>> from skpat.devices.channel_range import channel_range
    >>> batch = ControlBatch(torch.zeros(5, 1), np.array([0]), torch.ones(3), np.array([1, 2, 3]))
    >>> channel_range(batch, 0, 2).shape, channel_range(batch, 2, 4).shape
    (torch.Size([5, 2]), torch.Size([1, 2]))
    """
    of_varying, of_shared = (
        np.flatnonzero((index >= start) & (index < stop)) for index in (batch.varying_index, batch.shared_index)
    )
    if (
        len(of_varying)
        and not len(of_shared)
        and np.array_equal(batch.varying_index[start:stop], np.arange(start, stop))
    ):
        return batch.varying[:, start:stop]  # a dense batch: nothing to sort
    kind = torch.promote_types(batch.varying.dtype, batch.shared.dtype) if len(batch.shared) else batch.varying.dtype
    out = batch.varying.new_empty((batch.n_rows if len(of_varying) else 1, stop - start), dtype=kind)
    if len(of_varying):
        out[:, batch.varying_index[of_varying] - start] = batch.varying[:, of_varying].to(kind)
    if len(of_shared):
        out[:, batch.shared_index[of_shared] - start] = batch.shared[of_shared].to(kind)
    return out
