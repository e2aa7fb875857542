"""Physics-aware training: the device forward, the twin backward."""

from __future__ import annotations

from skpat.network.forward import Run
from skpat.training.bridge import bridge
from skpat.training.gradient import Apparatus, GradientEstimator

__all__ = ["PhysicsAware"]


class PhysicsAware(GradientEstimator):
    """The forward pass runs on the device, the backward pass through the twin at the controls the device received.

    Needs from the device: ``measure``. Costs one shot per row, layer and unit, and the twin's calibration.

    References
    ----------
    Wright, Onodera et al., Nature 601, 549 (2022), doi:10.1038/s41586-021-04223-6.
    """

    uses_twin = True

    def run(self, apparatus: Apparatus) -> Run:
        """The bridge between the device's values and the twin's gradients."""
        return bridge(apparatus.measure, apparatus.twin.module_)
