"""Physics-aware training: the device forward, the twin backward."""

from __future__ import annotations

import numpy as np

from skpat.network.forward import Run
from skpat.training.gradient import Apparatus, GradientEstimator, Measurement

__all__ = ["PhysicsAware"]


class PhysicsAware(GradientEstimator):
    """The forward pass runs on the device, the backward pass through the twin at the controls the device received.

    Needs from the device: ``measure``. Costs one shot per row, layer and unit, and the twin's calibration.

    Parameters
    ----------
    refine : bool, default=True
        Whether the twin goes on learning from the shots of the training itself, one step for each batch (for each device
        call where the twin takes batches in parts; a twin without ``partial_fit`` stays as it was calibrated). It costs no
        shots. False: the static twin of the paper.

    References
    ----------
    Wright, Onodera et al., Nature 601, 549 (2022), doi:10.1038/s41586-021-04223-6.
    """

    uses_twin = True

    def __init__(self, refine=True):
        self.refine = refine

    def run(self, apparatus: Apparatus) -> Run:
        """The bridge between the device's values and the twin's gradients."""
        from skpat.training.autograd_bridge import bridge  # here: a trained network is unpickled without torch

        module = apparatus.twin.module_
        if hasattr(module, "forward_batch"):
            return bridge(apparatus.measure, module.forward_batch, in_parts=True)
        return bridge(apparatus.measure, module)

    def after_batch(self, apparatus: Apparatus, measurements: list[Measurement]) -> None:
        """Let the twin learn from the shots of this batch."""
        twin = apparatus.twin
        if not self.refine or not hasattr(twin, "partial_fit"):
            return
        if hasattr(twin.module_, "forward_batch"):  # in parts: the shared channels may be too many to copy
            for made in measurements:
                twin.partial_fit(made.batch, made.outputs, made.sample_weight)
            return
        twin.partial_fit(
            np.concatenate([np.asarray(made.batch) for made in measurements]),
            np.concatenate([made.outputs for made in measurements]),
            np.concatenate([made.sample_weight for made in measurements]),
        )
