"""Steps without the device: what it answered in a batch, and what the twin says of the change since."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skpat.controls import ControlBatch
from skpat.network.forward import Run
from skpat.twins.base import respond

if TYPE_CHECKING:
    import torch

__all__ = ["Anchors"]


class Anchors:
    r"""The answers of one batch, and a ``run`` that goes on from them.

    With :math:`c_0` the controls that the device received, :math:`y_0` what it answered and :math:`T` the twin, other
    controls :math:`c` of the same row are taken to give

    .. math:: y = y_0 + t \odot (T(c) - T(c_0)) ,

    with :math:`t` how far each output of the twin is trusted: the twin has to be right only about the difference that a few
    steps of the training have made. Where the twin does not say so itself, :math:`t` is its R² on the answers of the batch, at
    least 0.

    Parameters
    ----------
    twin : Twin
        Fitted. Its ``trust_``, shape (n_outputs,), is :math:`t`.
    sample_weight : tensor of shape (n_rows,), default=None
        Weights of the batch's rows, for R². None: all the same.
    """

    def __init__(self, twin: Any, sample_weight: torch.Tensor | None = None):
        self._module = twin.module_
        self._trust = getattr(twin, "trust_", None)
        self._weight = sample_weight
        self._calls: dict[tuple[int, int], tuple[Any, Any, torch.Tensor, torch.Tensor]] = {}

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
            displaced = None if sent is asked else sent.dense() - asked.dense()
            predicted = respond(self._module, sent)
            trust = self._r2(outputs, predicted) if self._trust is None else predicted.new_tensor(self._trust)
            self._calls[layer, unit] = displaced, outputs.detach(), predicted, trust

    def run(self) -> Run:
        """The ``run(batch, layer, unit)`` of a further step on the same rows; it measures nothing."""

        def run(batch: ControlBatch, layer: int, unit: int) -> torch.Tensor:
            displaced, outputs, predicted, trust = self._calls[layer, unit]
            if displaced is not None:
                batch = ControlBatch.from_dense(batch.dense() + displaced)
            return outputs + trust * (respond(self._module, batch) - predicted)

        return run

    def _r2(self, outputs: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
        """How well each output was predicted, 0 to 1: shape (n_outputs,)."""
        import torch

        weight = outputs.new_ones(len(outputs)) if self._weight is None else self._weight.to(outputs)
        share = weight / weight.sum()
        error = share @ (outputs - predicted).square()
        variance = share @ (outputs - share @ outputs).square()
        return (1 - error / variance.clamp_min(torch.finfo(variance.dtype).tiny)).clamp(0, 1)
