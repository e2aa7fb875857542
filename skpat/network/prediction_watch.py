"""What the rows and the readings of a prediction tell of what has changed since the fit."""

from __future__ import annotations

from typing import Any

import numpy as np

from skpat.controls import ControlBatch
from skpat.exceptions import DeadDeviceWarning, FarReadingWarning
from skpat.network.forward import Network, Run
from skpat.user_warning import warn_user

__all__ = ["FAR_BEYOND", "PredictionWatch"]

FAR_BEYOND = 30.0
"""Scales of the rows that were fitted, or of the readings then: what lies further is on another scale."""

_FEWEST_ROWS = 8  # to say so
_MOST_ROWS = 32  # that are held against a scale
_CLEARLY = 0.05  # of a channel's range: settings that are told apart


class PredictionWatch:
    """Warns where rows or readings are nothing like those of the training: once in a prediction, however many rows it has.

    Parameters
    ----------
    network : Network
    weights : dict of str to ndarray
    """

    def __init__(self, network: Network, weights: dict[str, np.ndarray]):
        self.network = network
        self.weights = weights
        self.is_told = False

    def over(self, X: np.ndarray, run: Run) -> Run:
        """A ``run`` for these rows that hands on what ``run`` gives, and looks at it.

        Parameters
        ----------
        X : ndarray of shape (n_rows, n_features)
            Fewer than eight rows are not judged.
        run : callable

        Returns
        -------
        callable

        Warns
        -----
        UserWarning
            If more than half of the rows have a feature that lies thirty scales from its mean.
        DeadDeviceWarning
            If a layer's readings are the same for all rows, though the settings are quite different.
        FarReadingWarning
            If more than half of an output's readings lie thirty spreads from their mean of the training.
        """
        if len(X) < _FEWEST_ROWS or self.is_told:
            return run
        self.is_told = _warn_of_far_features(_some_of(X), self.weights)
        n_dead = 0

        def watching(batch: ControlBatch, layer: int, unit: int) -> Any:
            nonlocal n_dead
            outputs = run(batch, layer, unit)
            if not self.is_told:
                n_dead = (n_dead if unit else 0) + self._is_dead(batch, outputs)
                self.is_told = self._warn_of_far(outputs, layer, unit)
                if n_dead == self.network.n_calls_of(layer):
                    self.is_told = _warn_of_dead(outputs, layer)
            return outputs

        return watching

    def _is_dead(self, batch: ControlBatch, outputs: np.ndarray) -> bool:
        """Whether all readings of a call were the same, though the settings were quite different."""
        if (outputs[1] != outputs[0]).any() or (outputs != outputs[0]).any():
            return False
        low, high = self.network.bounds[batch.varying_index].T
        return bool((np.ptp(batch.varying, axis=0) > _CLEARLY * (high - low)).any())

    def _warn_of_far(self, outputs: np.ndarray, layer: int, unit: int) -> bool:
        """Whether an output reads elsewhere altogether."""
        of_unit = slice(unit * self.network.n_outputs, (unit + 1) * self.network.n_outputs)
        mean, scale = (self.weights[f"layers.{layer}.{name}"][of_unit] for name in ("mean", "scale"))
        output = _mostly_far(_some_of(outputs), mean, scale)
        if output is None:
            return False
        warn_user(
            f"The device's readings must stay where they were in the training. Got most of output {output} in layer {layer} "
            f"(the first is 0) more than {FAR_BEYOND:g} times their spread of then from their mean of then. Check gains, units "
            "and cabling; recalibrate(X, y, max_shots) if the device has drifted.",
            FarReadingWarning,
        )
        return True


def _some_of(rows: np.ndarray) -> np.ndarray:
    """Rows spread over all."""
    return rows[:: -(-len(rows) // _MOST_ROWS)]


def _mostly_far(values: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> int | None:
    """The first column of which more than half lies far beyond the scale; None if there is none."""
    share = (np.abs(values - mean) > FAR_BEYOND * scale).mean(axis=0)
    column = int(share.argmax())
    return column if share[column] > 0.5 else None


def _warn_of_far_features(X: np.ndarray, weights: dict[str, np.ndarray]) -> bool:
    """Whether a feature is on another scale."""
    feature = _mostly_far(X, weights["encoder.mean"], weights["encoder.scale"])
    if feature is None:
        return False
    warn_user(
        f"The features of X must stay on the scale of the rows that were fitted. Got feature {feature} more than "
        f"{FAR_BEYOND:g} times that scale from its mean in most rows: the network knows nothing of such rows. Give X "
        "scaled as it was for the fit; a Pipeline keeps scaler and network together."
    )
    return True


def _warn_of_dead(outputs: np.ndarray, layer: int) -> bool:
    warn_user(
        f"The device must answer different rows differently. Got the same {outputs.shape[1]} outputs for {len(outputs)} "
        f"different rows, in layer {layer} (the first is 0): these predictions say nothing. Check power, trigger and cabling.",
        DeadDeviceWarning,
    )
    return True
