"""The contract of a twin: a regressor from controls to outputs with a differentiable torch module inside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.metrics import r2_score

from skpat.controls import ControlBatch

if TYPE_CHECKING:
    import torch

__all__ = ["Twin"]


class Twin(RegressorMixin, BaseEstimator):
    """Base class of digital twins.

    A twin is an unfitted specification like any estimator. A subclass defines :meth:`fit`, which must set
    ``n_features_in_`` (channels), and :attr:`module_`. With ``partial_fit(controls, outputs, sample_weight)`` it can go on
    learning during the training.

    Attributes
    ----------
    module_ : torch.nn.Module
        From controls (n_rows, n_controls), in the device's units, to outputs (n_rows, n_outputs); differentiable.
    score_ : float
        R² on held-out shots, the mean over outputs weighted by their variance; NaN without held-out shots.
    """

    score_: float

    @property
    def module_(self) -> torch.nn.Module:
        raise NotImplementedError(f"{type(self).__name__} must define module_.")

    def fit(self, controls: ControlBatch | np.ndarray, outputs: np.ndarray, sample_weight: Any = None) -> Twin:
        """Learn from measured shots.

        Parameters
        ----------
        controls : ControlBatch or array of shape (n_shots, n_controls)
            What the device received, in its units.
        outputs : array of shape (n_shots, n_outputs)
            What it answered.
        sample_weight : array of shape (n_shots,), default=None
            Weight of each shot.
        """
        raise NotImplementedError(f"{type(self).__name__} must define fit(controls, outputs).")

    def predict(self, controls: ControlBatch | np.ndarray) -> np.ndarray:
        """What the twin expects the device to answer, shape (n_rows, n_outputs)."""
        import torch

        dense = np.asarray(controls)
        with torch.no_grad():
            return self.module_(torch.from_numpy(np.ascontiguousarray(dense)).to(self._tensor_kind())).cpu().numpy()

    def score(self, controls: ControlBatch | np.ndarray, outputs: np.ndarray, sample_weight: Any = None) -> float:
        """R² of the prediction, the mean over outputs weighted by their variance."""
        predicted = self.predict(controls)
        return float(r2_score(outputs, predicted, sample_weight=sample_weight, multioutput="variance_weighted"))

    def _tensor_kind(self) -> torch.Tensor:
        """A tensor of the module's dtype and place."""
        import itertools

        module = self.module_
        return next(itertools.chain(module.parameters(), module.buffers()))
