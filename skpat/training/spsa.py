"""SPSA: the gradient from the loss alone, at weights that are all moved at once."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import TYPE_CHECKING

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval

from skpat.network.forward import Network, Run
from skpat.training.gradient import Apparatus, GradientEstimator, device_alone
from skpat.training.movable_weights import is_movable, warn_of_coarse_steps

if TYPE_CHECKING:
    import torch

__all__ = ["SPSA"]


class SPSA(GradientEstimator):
    r"""Simultaneous perturbation stochastic approximation: no twin, no equations, two measurements of every row.

    With :math:`\Delta` a vector of random signs, one for each weight,

    .. math:: g = \frac{L(w + c \Delta) - L(w - c \Delta)}{2 c} \Delta .

    Needs from the device: ``measure``. Costs two shots per row, layer, unit and direction. The estimate is right on
    average for small ``perturbation``; its variance grows with the number of weights, so it takes many small steps. Use a
    ``learning_rate_init`` several times smaller than for the other methods, and more epochs.

    Parameters
    ----------
    perturbation : float, default=0.1
        The size :math:`c` of the moves, in units of the network's weights (a device weight's whole range is about 6).
    n_directions : int, default=1
        Directions averaged in each step.
    random_state : int, RandomState instance or None, default=None
        For the signs. None: seeded by the estimator.

    Notes
    -----
    The readout comes after the last measurement, so its gradient is known without error and taken as it is,
    averaged over the moved weights.

    References
    ----------
    Spall, IEEE Trans. Autom. Control 37, 332 (1992), doi:10.1109/9.119632.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skpat import PhysicalNetworkClassifier
    >>> from skpat.training import SPSA
    >>> X, y = load_iris(return_X_y=True)
    >>> network = PhysicalNetworkClassifier(gradient=SPSA(), max_iter=1, random_state=0).fit(X, y)
    >>> network.shots_["training"] == 2 * len(X)
    True
    """

    _parameter_constraints = {
        "perturbation": [Interval(Real, 0, None, closed="neither")],
        "n_directions": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
    }

    def __init__(self, perturbation=0.1, n_directions=1, random_state=None):
        self.perturbation = perturbation
        self.n_directions = n_directions
        self.random_state = random_state

    @property
    def shots_per_row(self) -> int:
        return 2 * self.n_directions

    def prepare(self, network: Network) -> None:
        """Warn where the channels of the weights have steps that no move spans."""
        warn_of_coarse_steps(network, self)

    def run(self, apparatus: Apparatus) -> Run:
        """The device; its answer is a constant to autograd."""
        return device_alone(apparatus)

    def loss_and_gradient(self, loss_of: Callable[[Run], torch.Tensor], apparatus: Apparatus) -> torch.Tensor:
        """The mean loss at the moved weights; gradients as above."""
        import torch

        moved = {name: w for name, w in apparatus.trainable.items() if is_movable(name)}
        if not hasattr(self, "_rng"):
            self._rng = check_random_state(self.random_state)
        n_losses = 2 * self.n_directions
        estimate = {name: torch.zeros_like(w) for name, w in moved.items()}
        total = torch.zeros(())
        for _ in range(self.n_directions):
            signs = {name: torch.from_numpy(self._signs(w)).to(w) for name, w in moved.items()}
            start = {name: w.detach().clone() for name, w in moved.items()}
            difference = 0.0
            try:
                for side in (1.0, -1.0):
                    with torch.no_grad():
                        for name, w in moved.items():
                            w.copy_(start[name] + side * self.perturbation * signs[name])
                    loss = loss_of(self.run(apparatus)) / n_losses
                    loss.backward()
                    difference += side * float(loss.detach()) * n_losses
                    total = total + loss.detach().cpu()
            finally:
                with torch.no_grad():
                    for name, w in moved.items():
                        w.copy_(start[name])
            slope = difference / (2 * self.perturbation * self.n_directions)
            for name, sign in signs.items():
                estimate[name] += slope * sign
        for name, w in moved.items():
            w.grad = estimate[name]
        return total

    def _signs(self, like: torch.Tensor) -> np.ndarray:
        return 2.0 * self._rng.randint(2, size=tuple(like.shape)) - 1.0
