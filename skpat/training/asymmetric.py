"""Output-only training: the twin's own forward pass, with its last answer replaced by the device's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from skpat.controls import ControlBatch
from skpat.network.forward import Run
from skpat.training.gradient import Apparatus
from skpat.training.physics_aware import PhysicsAware
from skpat.twins.base import respond

if TYPE_CHECKING:
    import torch

__all__ = ["Asymmetric"]


class Asymmetric(PhysicsAware):
    """The device runs forward, but only its last outputs are used: the gradient is that of a forward pass on the twin.

    Of the device's answers the loss sees the last; the backward pass goes through the twin at the twin's own intermediate
    states, not at the controls that the device received. With one layer this is physics-aware training without
    displacements and anchored steps; with more, the twin's errors add up from layer to layer as in silico.

    Needs from the device: ``measure``. Costs one shot per row, layer and unit, and the twin's calibration.

    Parameters
    ----------
    refine : bool, default=True
        Whether the twin goes on learning from the shots of the training. It costs no shots.

    References
    ----------
    Wright, Onodera et al., Nature 601, 549 (2022), doi:10.1038/s41586-021-04223-6, who call for measured intermediate
    states instead.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skpat import PhysicalNetworkClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> network = PhysicalNetworkClassifier(gradient="asymmetric", max_iter=1, random_state=0).fit(X, y)
    >>> network.shots_["training"] == len(X)
    True
    """

    _parameter_constraints = {"refine": ["boolean"]}

    def __init__(self, refine=True):
        self.refine = refine

    def explores(self, twin: Any) -> bool:
        """Nothing is displaced."""
        return False

    def displaces(self, twin: Any) -> bool:
        """Nothing is displaced."""
        return False

    def count_further_steps(self, apparatus: Apparatus) -> int:
        """None."""
        return 0

    def run(self, apparatus: Apparatus) -> Run:
        """The twin."""
        module = apparatus.twin.module_
        return lambda batch, layer, unit: respond(module, batch)

    def loss_and_gradient(self, loss_of: Callable[[Run], torch.Tensor], apparatus: Apparatus) -> torch.Tensor:
        """The loss of the measured last outputs; its gradient through the twin's own states."""
        import torch

        assert apparatus.network is not None
        last, twin = apparatus.network.n_layers - 1, self.run(apparatus)
        measured: dict[int, torch.Tensor] = {}

        def on_device(batch: ControlBatch, layer: int, unit: int) -> torch.Tensor:
            outputs = torch.as_tensor(apparatus.measure(batch, layer, unit)).to(batch.varying)
            if layer == last:
                measured[unit] = outputs
            return outputs

        def on_twin(batch: ControlBatch, layer: int, unit: int) -> torch.Tensor:
            outputs = twin(batch, layer, unit)
            return outputs + (measured[unit] - outputs).detach() if layer == last else outputs

        with torch.no_grad():
            loss_of(on_device)
        loss = loss_of(on_twin)
        loss.backward()
        return loss
