"""The torch side of a residual twin: the model's answer plus the correction's."""

from __future__ import annotations

import torch

from skpat.controls import ControlBatch
from skpat.twins.base import respond

__all__ = ["ResidualModule"]


class ResidualModule(torch.nn.Module):
    """``p + unit * correction([controls, p])`` with ``p = physics(controls)``.

    Parameters
    ----------
    physics : torch.nn.Module
        From controls (n_rows, n_controls) to outputs (n_rows, n_outputs). It stays the module of its twin.
    correction : torch.nn.Module
        The same, or with ``feed_physics`` from controls and outputs side by side, (n_rows, n_controls + n_outputs).
    unit : tensor of shape (n_outputs,)
        By which the correction's answers are multiplied, in the device's units.
    feed_physics : bool
        Whether the correction is given what the model answers.
    in_parts : bool
        Whether to offer ``forward_batch``, in which the model takes a batch in its two parts. ``physics`` must have it; the
        correction gets the array of all controls.
    """

    def __init__(
        self,
        physics: torch.nn.Module,
        correction: torch.nn.Module,
        unit: torch.Tensor,
        *,
        feed_physics: bool,
        in_parts: bool,
    ):
        super().__init__()
        self.physics = physics
        self.correction = correction
        self.unit = unit
        self.feed_physics = feed_physics
        if in_parts:
            self.forward_batch = self._forward_batch

    def forward(self, controls: torch.Tensor) -> torch.Tensor:
        """Controls (n_rows, n_controls) to outputs (n_rows, n_outputs), both in the device's units."""
        return self._corrected(respond(self.physics, controls), controls)

    def _forward_batch(self, batch: ControlBatch) -> torch.Tensor:
        return self._corrected(respond(self.physics, batch), batch.dense())

    def _corrected(self, expected: torch.Tensor, controls: torch.Tensor) -> torch.Tensor:
        seen = torch.cat([controls, expected.to(controls)], dim=1) if self.feed_physics else controls
        return expected + self.unit.to(expected) * respond(self.correction, seen)
