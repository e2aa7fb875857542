"""From the last layer's normalised outputs to class scores or targets: one small class per readout."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["READOUTS", "BinsReadout", "LinearReadout", "make_readout"]

Weights = dict[str, Any]


class LinearReadout:
    """A trainable linear map."""

    def __init__(self, n_sources: int, n_targets: int):
        self.n_sources = n_sources
        self.n_targets = n_targets

    def initial_weights(self, rng: np.random.RandomState) -> Weights:
        coef = rng.standard_normal((self.n_sources, self.n_targets)) / np.sqrt(self.n_sources)
        return {"readout.coef": coef, "readout.intercept": np.zeros(self.n_targets)}

    def read(self, weights: Weights, outputs: Any) -> Any:
        return outputs @ weights["readout.coef"] + weights["readout.intercept"]


class BinsReadout:
    """The mean of a fixed group of neighbouring outputs for each target, times one gain: nothing digital is mixed."""

    def __init__(self, n_sources: int, n_targets: int):
        if n_targets > n_sources:
            raise ValueError(
                f"readout='bins' needs at least one output for each of the {n_targets} classes or targets. "
                f"Got {n_sources} (outputs times n_units). Use readout='linear'."
            )
        self.n_targets = n_targets
        group = np.arange(n_sources) * n_targets // n_sources
        member = group[:, None] == np.arange(n_targets)
        self.mixing = member / member.sum(axis=0)

    def initial_weights(self, rng: np.random.RandomState) -> Weights:
        return {"readout.gain": np.array([3.0]), "readout.intercept": np.zeros(self.n_targets)}

    def read(self, weights: Weights, outputs: Any) -> Any:
        mixing = self.mixing if isinstance(outputs, np.ndarray) else outputs.new_tensor(self.mixing)
        if isinstance(outputs, np.ndarray):
            mixing = mixing.astype(outputs.dtype)
        return (outputs @ mixing) * weights["readout.gain"] + weights["readout.intercept"]


READOUTS: dict[str, type[LinearReadout] | type[BinsReadout]] = {"linear": LinearReadout, "bins": BinsReadout}


def make_readout(name: str, n_sources: int, n_targets: int) -> LinearReadout | BinsReadout:
    """The readout of that name for ``n_sources`` outputs (all units together)."""
    return READOUTS[name](n_sources, n_targets)
