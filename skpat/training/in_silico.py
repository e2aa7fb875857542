"""In-silico training: the twin forward and backward, the device only afterwards."""

from __future__ import annotations

import numpy as np

from skpat.controls import ControlBatch
from skpat.network.forward import Run
from skpat.training.gradient import Apparatus, GradientEstimator
from skpat.twins.base import Twin, respond

__all__ = ["InSilico", "through_twin"]


class InSilico(GradientEstimator):
    """The whole training runs on the twin; the device is used for its calibration, and for prediction.

    What physics-aware training is compared with: every error of the twin adds up from layer to layer.

    Needs from the device: ``measure``. Costs no shot beyond the twin's calibration. Validation runs on the twin as well:
    ``validation_scores_`` are what the twin promises, ``score`` is what the device does.

    References
    ----------
    Wright, Onodera et al., Nature 601, 549 (2022), doi:10.1038/s41586-021-04223-6.
    """

    uses_twin = True
    trains_on_device = False
    shots_per_row = 0

    def run(self, apparatus: Apparatus) -> Run:
        """The twin."""
        module = apparatus.twin.module_
        return lambda batch, layer, unit: respond(module, batch)


def through_twin(twin: Twin) -> Run:
    """The ``run(batch, layer, unit)`` of arrays, without gradients, that asks the twin in the device's place."""

    def run(batch: ControlBatch, layer: int, unit: int) -> np.ndarray:
        return twin.predict(batch)

    return run
