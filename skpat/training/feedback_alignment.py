"""Direct feedback alignment: the last error reaches every layer through a fixed random matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from sklearn.utils import check_random_state

from skpat.controls import ControlBatch
from skpat.network.forward import Run
from skpat.training.gradient import Apparatus, GradientEstimator, device_alone
from skpat.training.movable_weights import is_movable
from skpat.twins.base import respond

if TYPE_CHECKING:
    import torch

__all__ = ["DirectFeedbackAlignment"]


class DirectFeedbackAlignment(GradientEstimator):
    r"""No error goes backward from layer to layer: each gets the last one, multiplied with a fixed random matrix.

    With :math:`e` the gradient of the loss with respect to the last layer's normalised outputs, the earlier layer :math:`l` is
    trained as if the gradient with respect to its normalised outputs were :math:`e B_l`. Within a layer the twin's derivative
    of one device call is used. With one layer this is physics-aware training with a static twin.

    Needs from the device: ``measure``. Costs one shot per row, layer and unit, and the twin's calibration.

    Parameters
    ----------
    random_state : int, RandomState instance or None, default=None
        For the matrices. None: seeded by the estimator.

    References
    ----------
    Nøkland, "Direct feedback alignment provides learning in deep neural networks", NeurIPS (2016), arXiv:1609.01596.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skpat import PhysicalNetworkClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> network = PhysicalNetworkClassifier(
    ...     gradient="direct_feedback_alignment", n_layers=2, max_iter=1, random_state=0
    ... ).fit(X, y)
    >>> network.shots_["training"] == 2 * len(X)
    True
    """

    uses_twin = True
    _parameter_constraints = {"random_state": ["random_state"]}

    def __init__(self, random_state=None):
        self.random_state = random_state

    def run(self, apparatus: Apparatus) -> Run:
        """The device; its answer is a constant to autograd."""
        return device_alone(apparatus)

    def feedback(self, layer: int, n_errors: int, n_outputs: int) -> np.ndarray:
        """The fixed matrix (n_errors, n_outputs) of one layer."""
        if not hasattr(self, "_matrices"):
            self._seed = int(check_random_state(self.random_state).randint(2**31))
            self._matrices: dict[int, np.ndarray] = {}
        if layer not in self._matrices:
            rng = np.random.RandomState([self._seed, layer])
            self._matrices[layer] = rng.standard_normal((n_errors, n_outputs)) / np.sqrt(n_errors)
        return self._matrices[layer]

    def loss_and_gradient(self, loss_of: Callable[[Run], torch.Tensor], apparatus: Apparatus) -> torch.Tensor:
        """The measured loss; gradients as above."""
        import torch

        assert apparatus.network is not None
        network, weights, device_run = apparatus.network, apparatus.weights, self.run(apparatus)
        calls: dict[tuple[int, int], tuple[ControlBatch, torch.Tensor]] = {}

        def run(batch: ControlBatch, layer: int, unit: int) -> torch.Tensor:
            outputs = device_run(batch, layer, unit).detach().requires_grad_()  # the chain of layers ends here
            calls[layer, unit] = batch, outputs
            return outputs

        loss = loss_of(run)
        loss.backward(retain_graph=True)
        last = network.n_layers - 1
        at_end = torch.cat([calls[last, unit][1].grad for unit in range(network.n_calls_of(last))], dim=1)
        error = at_end * weights[f"layers.{last}.scale"]
        module = apparatus.twin.module_
        moved = [w for name, w in apparatus.trainable.items() if is_movable(name)]
        for layer in range(network.n_layers):
            signal = at_end
            if layer != last:
                n_outputs = network.n_calls_of(layer) * network.n_outputs
                matrix = torch.from_numpy(self.feedback(layer, error.shape[1], n_outputs)).to(error)
                signal = (error @ matrix) / weights[f"layers.{layer}.scale"]
            for unit, part in enumerate(signal.split(network.n_outputs, dim=1)):
                batch = calls[layer, unit][0]
                torch.autograd.backward(respond(module, batch), part, retain_graph=True, inputs=moved)
        return loss
