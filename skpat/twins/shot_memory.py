"""All shots that a twin has seen, standardised, to learn from again."""

from __future__ import annotations

import numpy as np
import torch

__all__ = ["ShotMemory"]


class ShotMemory:
    """Features, outputs and weights of shots; when it is full the oldest go first.

    Parameters
    ----------
    size : int
        Most shots kept.
    """

    def __init__(self, size: int):
        self.size = size
        self._x: torch.Tensor | None = None
        self._y: torch.Tensor | None = None
        self._weight = np.zeros(0)
        self._next = 0
        self.n_shots = 0

    def add(self, x: torch.Tensor, y: torch.Tensor, weight: np.ndarray) -> None:
        """Keep shots: features (n, n_features), outputs (n, n_outputs), weights (n,). Those of no weight take no room."""
        kept = torch.from_numpy(weight > 0)
        x, y, weight = x[kept], y[kept], weight[weight > 0]
        x, y, weight = x[-self.size :], y[-self.size :], weight[-self.size :]
        n = len(x)
        self._reserve(self._next + n, x, y)
        assert self._x is not None
        assert self._y is not None
        places = torch.from_numpy((self._next + np.arange(n)) % self.size)
        self._x[places], self._y[places], self._weight[places.numpy()] = x, y, weight
        self.n_shots = min(self.size, max(self.n_shots, self._next + n))
        self._next = (self._next + n) % self.size

    def draw(self, uniform: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Shots in proportion to their weights, for numbers (n,) in [0, 1): features and outputs."""
        assert self._x is not None
        assert self._y is not None
        rows = torch.from_numpy(drawn(self._weight[: self.n_shots], uniform))
        return self._x[rows], self._y[rows]

    def _reserve(self, n: int, x: torch.Tensor, y: torch.Tensor) -> None:
        room = 0 if self._x is None else len(self._x)
        if n <= room or room == self.size:
            return
        grown = min(self.size, max(2 * room, n, 1024))
        old_x, old_y, old_weight = self._x, self._y, self._weight
        self._x, self._y = x.new_zeros((grown, x.shape[1])), y.new_zeros((grown, y.shape[1]))
        self._weight = np.zeros(grown)
        if old_x is not None and old_y is not None:
            self._x[:room], self._y[:room], self._weight[:room] = old_x, old_y, old_weight


def drawn(weight: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Row numbers drawn in proportion to weights, for numbers in [0, 1): a row of weight 2 like two rows."""
    cumulative = np.cumsum(weight)
    return np.searchsorted(cumulative, uniform * cumulative[-1], side="right").clip(max=len(weight) - 1)
