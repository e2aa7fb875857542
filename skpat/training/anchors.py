"""Steps without the device: what it answered in a batch, and what the twin says of the change since."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skpat.controls import ControlBatch
from skpat.network.forward import Run

if TYPE_CHECKING:
    import torch

__all__ = ["Anchors"]


class Anchors:
    r"""The answers of one batch, and a ``run`` that goes on from them.

    With :math:`c_0` the controls that the device received, :math:`y_0` what it answered and :math:`T` the twin, other
    controls :math:`c` of the same row are taken to give

    .. math:: y = y_0 + t \odot (T(c) - T(c_0)) ,

    with :math:`t` how far each output of the twin is trusted: the twin has to be right only about the difference that a step
    or two of the training has made.

    Parameters
    ----------
    twin : Twin
        Fitted, with a ``module_`` that takes all controls of each row. Its ``trust_``, shape (n_outputs,), is :math:`t`; 1
        without.
    """

    def __init__(self, twin: Any):
        self._model = twin.module_
        self._trust = getattr(twin, "trust_", None)
        self._calls: dict[tuple[int, int], tuple[Any, Any, torch.Tensor]] = {}

    def note(self, layer: int, unit: int, asked: ControlBatch, sent: ControlBatch, outputs: torch.Tensor) -> None:
        """Keep one call: the settings that the network asked for, those (displaced) that were sent, and the answers.

        Parameters
        ----------
        layer, unit : int
        asked, sent : ControlBatch
            Of tensors, n_rows rows.
        outputs : tensor of shape (n_rows, n_outputs)
        """
        import torch

        with torch.no_grad():
            controls = sent.dense()
            self._calls[layer, unit] = controls - asked.dense(), outputs.detach(), self._model(controls)

    def run(self) -> Run:
        """The ``run(batch, layer, unit)`` of a further step on the same rows; it measures nothing."""

        def run(batch: ControlBatch, layer: int, unit: int) -> torch.Tensor:
            displaced, outputs, predicted = self._calls[layer, unit]
            change = self._model(batch.dense() + displaced) - predicted
            return outputs + (change if self._trust is None else change * change.new_tensor(self._trust))

        run.measures = False  # type: ignore[attr-defined]
        return run
