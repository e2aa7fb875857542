"""Finite differences: every weight moved up and down, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import TYPE_CHECKING

import numpy as np
from sklearn.utils._param_validation import Interval

from skpat.network.forward import Network, Run
from skpat.training.gradient import Apparatus, GradientEstimator, device_alone
from skpat.training.movable_weights import MovableWeights, count_movable, warn_of_coarse_steps

if TYPE_CHECKING:
    import torch

__all__ = ["FiniteDifferences"]


class FiniteDifferences(GradientEstimator):
    r"""Central differences of the measured loss, weight by weight: no twin, no equations, and no chance.

    With :math:`e_k` the unit vector of weight :math:`k`,

    .. math:: g_k = \frac{L(w + c\, e_k) - L(w - c\, e_k)}{2 c} + O(c^2) .

    Needs from the device: ``measure``. Costs two shots per row, layer, unit and *weight that stands before a measurement*
    (those of the encoder; ``theta``, ``gain``, ``offset`` and ``skip`` of each layer): it is for small devices, and what
    other methods can be checked with.

    Parameters
    ----------
    perturbation : float, default=0.1
        The size :math:`c` of the moves, in units of the network's weights (a device weight's whole range is about 6). The
        error from the device's curvature grows with its square, that from noise falls with its inverse.
    max_weights : int, default=500
        With more weights than these a training is refused.

    Notes
    -----
    The readout comes after the last measurement, so its gradient is known without error and taken as it is,
    averaged over the moved weights.

    References
    ----------
    Jabri and Flower, IEEE Trans. Neural Networks 3, 154 (1992), doi:10.1109/72.105429, who train analog chips so.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skpat import PhysicalNetworkClassifier
    >>> from skpat.devices import SecondHarmonicLaser
    >>> X, y = load_iris(return_X_y=True)
    >>> network = PhysicalNetworkClassifier(
    ...     SecondHarmonicLaser(8, 6), encoder="direct", gradient="finite_differences", max_iter=1, random_state=0
    ... ).fit(X, y)  # 4 weights, and 4 gains and 4 offsets of the inputs
    >>> network.shots_["training"] == 2 * 12 * len(X)
    True
    """

    _parameter_constraints = {
        "perturbation": [Interval(Real, 0, None, closed="neither")],
        "max_weights": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(self, perturbation=0.1, max_weights=500):
        self.perturbation = perturbation
        self.max_weights = max_weights

    @property
    def shots_per_row(self) -> int:
        """Two for each weight; known after :meth:`prepare`."""
        return 2 * getattr(self, "_n_weights", 0)

    def prepare(self, network: Network) -> None:
        """Count the weights; warn where their channels have steps that no move spans.

        Raises
        ------
        ValueError
            If there are more than ``max_weights``.
        """
        self._n_weights = count_movable(network)
        if self._n_weights > self.max_weights:
            raise ValueError(
                f"gradient='finite_differences' must have at most max_weights={self.max_weights:,} weights before a "
                f"measurement. Got {self._n_weights:,}, that is {2 * self._n_weights:,} shots for each row in each step, layer "
                "and unit. Nothing was sent. Use gradient='spsa', which moves all weights at once, fewer channels or "
                "encoder='direct', or FiniteDifferences(max_weights=...) if the shots are cheap."
            )
        warn_of_coarse_steps(network, self)

    def run(self, apparatus: Apparatus) -> Run:
        """The device; its answer is a constant to autograd."""
        return device_alone(apparatus)

    def loss_and_gradient(self, loss_of: Callable[[Run], torch.Tensor], apparatus: Apparatus) -> torch.Tensor:
        """The mean loss at the moved weights; gradients as above."""
        import torch

        movable, run = MovableWeights(apparatus.weights), self.run(apparatus)
        n_losses = 2 * len(movable)
        found = np.zeros((len(movable), 2))
        with movable.moving() as start:
            for k in range(len(movable)):
                for column, side in enumerate((1.0, -1.0)):
                    there = start.copy()
                    there[k] += side * self.perturbation
                    movable.set(there)
                    loss = loss_of(run) / n_losses
                    loss.backward()
                    found[k, column] = float(loss.detach()) * n_losses
        movable.set_gradient((found[:, 0] - found[:, 1]) / (2 * self.perturbation))
        return torch.tensor(found.mean())
