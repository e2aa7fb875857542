"""The wiring once its weights have stopped changing: what depends on them alone is worked out once."""

from __future__ import annotations

from typing import Any

import numpy as np

from skpat.controls import ChannelSplit
from skpat.network.forward import Network

__all__ = ["SettledNetwork"]


class SettledNetwork(Network):
    """A network for :func:`skpat.network.forward.forward` with these weights only: the same numbers in less time.

    The device's own weights are held as what is sent, the fixed channels among them.

    Parameters
    ----------
    network : Network
    weights : dict of str to ndarray
        They must not change any more.
    """

    def __init__(self, network: Network, weights: dict[str, np.ndarray]):
        self.__dict__.update(network.__dict__)
        split, none = network.split, np.empty(0, dtype=np.intp)
        self.split = ChannelSplit(split.n_controls, split.input_index, split.shared_index, none, np.empty(0))
        self._known_intervals = []
        self._layers = [
            network.of_layer(weights, layer) | {"theta": self._settings(network, weights, layer)}
            for layer in range(network.n_layers)
        ]

    @staticmethod
    def _settings(network: Network, weights: dict[str, np.ndarray], layer: int) -> tuple[np.ndarray, ...]:
        """What is sent to the shared channels, in each call of a layer."""
        inputs = np.empty((0, network.split.n_inputs))
        theta = network.of_layer(weights, layer)["theta"]
        return tuple(network.split.assemble(inputs, network.weights_on_device(row)).shared for row in theta)

    def of_layer(self, weights: dict[str, Any], layer: int) -> dict[str, Any]:
        """One layer's weights by their short names; those of the device are settings already."""
        return self._layers[layer]

    def weights_on_device(self, theta: Any) -> Any:
        """The settings as they are."""
        return theta
