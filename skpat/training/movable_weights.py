"""The weights that stand before a measurement, as one vector that can be moved: for methods that ask for the loss only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from skpat.network.forward import Network, is_trainable
from skpat.user_warning import warn_user

if TYPE_CHECKING:
    import torch

__all__ = ["MovableWeights", "count_movable", "is_movable", "warn_of_coarse_steps"]


def is_movable(name: str) -> bool:
    """Whether a weight is trained and stands before a measurement; the readout stands after the last one."""
    return is_trainable(name) and not name.startswith("readout.")


def count_movable(network: Network) -> int:
    """How many numbers :class:`MovableWeights` has for a network.

    Parameters
    ----------
    network : Network

    Returns
    -------
    int
    """
    rows = np.zeros((1, network.made_with["n_features"]))
    weights = network.initial_weights(rows, np.ones(1), np.random.RandomState(0))
    return sum(weight.size for name, weight in weights.items() if is_movable(name))


def warn_of_coarse_steps(network: Network, method: Any) -> None:
    """Warn where a method's ``perturbation`` is too small to send another setting of most channels that carry weights.

    A weight moved by so much to either side spans at most this part of its channel's range.
    """
    index = network.split.weight_index
    width = np.ptp(network.bounds[index], axis=1)
    steps = network.control_steps[index] / np.where(width > 0, width, 1.0)
    if not len(index) or np.mean(steps > method.perturbation) <= 0.5:
        return
    name = type(method).__name__
    warn_user(
        f"The 'perturbation' of {name} must span the steps of the channels that carry weights. Got {method.perturbation:g} of "
        f"a range, and steps of up to {steps.max():.2g}: most moves change nothing that is sent, and these weights are hardly "
        f"trained. Use {name}(perturbation={2 * steps.max():.1g}), finer steps, or gradient='physics_aware'.",
    )


class MovableWeights:
    """The weights before a measurement, strung together in the order of their names.

    Parameters
    ----------
    weights : dict of str to tensor
        All weights of the network; those that are movable are set in place.
    """

    def __init__(self, weights: dict[str, torch.Tensor]):
        self.tensors = [weights[name] for name in sorted(weights) if is_movable(name)]

    def __len__(self) -> int:
        return sum(tensor.numel() for tensor in self.tensors)

    def get(self) -> np.ndarray:
        """Where they stand, float64, shape (n_weights,)."""
        return np.concatenate([tensor.detach().cpu().numpy().ravel() for tensor in self.tensors]).astype(np.float64)

    def set(self, flat: np.ndarray) -> None:
        """Move them to these values (n_weights,)."""
        import torch

        with torch.no_grad():
            for tensor, part in zip(self.tensors, self._parts(flat), strict=True):
                tensor.copy_(torch.from_numpy(part))

    def set_gradient(self, flat: np.ndarray | None) -> None:
        """Leave this gradient (n_weights,) in their ``.grad``; None: none, so that an optimiser leaves them alone."""
        import torch

        for tensor, part in zip(self.tensors, self._parts(flat), strict=True):
            tensor.grad = None if part is None else torch.from_numpy(part).to(tensor)

    @contextmanager
    def moving(self) -> Iterator[np.ndarray]:
        """Bring them back at the end, whatever happens; gives where they stood."""
        start = [tensor.detach().clone() for tensor in self.tensors]
        try:
            yield self.get()
        finally:
            for tensor, before in zip(self.tensors, start, strict=True):
                tensor.data.copy_(before)

    def _parts(self, flat: np.ndarray | None) -> list:
        if flat is None:
            return [None] * len(self.tensors)
        ends = np.cumsum([tensor.numel() for tensor in self.tensors])[:-1]
        return [
            part.reshape(tuple(tensor.shape)) for tensor, part in zip(self.tensors, np.split(flat, ends), strict=True)
        ]
