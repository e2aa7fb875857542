"""The network's one forward pass. Training, prediction and deployment differ only in the ``run`` they hand in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from skpat.controls import ChannelSplit, ControlBatch
from skpat.network.encoders import make_encoder, route
from skpat.network.layers import array_module, squash
from skpat.network.readouts import make_readout

__all__ = ["Network", "Run", "forward", "is_trainable", "representable"]

Run = Callable[[ControlBatch, int, int], Any]
"""``run(batch, layer, unit)``: the outputs (n_rows, n_outputs) of one device call, of the same kind as the batch."""


def is_trainable(name: str) -> bool:
    """Whether a weight is trained (means and scales are statistics of the data or of the outputs)."""
    return not name.endswith((".mean", ".scale"))


class Network:
    """The wiring: how many layers and units, which channel is what, how data get in and scores out. No numbers.

    Parameters
    ----------
    split : ChannelSplit
        Channels of each device call.
    bounds : ndarray of shape (n_controls, 2)
        In the device's units.
    n_features, n_outputs, n_targets : int
        Columns of X, outputs of the device, and scores.
    n_layers, n_units : int
        Device calls in a row, and side by side.
    encoder, readout : str
        Names, see :mod:`skpat.network.encoders` and :mod:`skpat.network.readouts`.
    skip : {None, "input", "previous"}
        What is added to the drive of every layer after the first: nothing, the first layer's drive, or the
        previous layer's.
    """

    def __init__(
        self,
        *,
        split: ChannelSplit,
        bounds: np.ndarray,
        n_features: int,
        n_outputs: int,
        n_targets: int,
        n_layers: int = 1,
        n_units: int = 1,
        encoder: str = "auto",
        readout: str = "linear",
        skip: str | None = None,
    ):
        self.split = split
        self.bounds = bounds
        self.n_outputs = n_outputs
        self.n_layers = n_layers
        self.n_units = n_units
        self.skip = skip
        self.n_slots = n_units * split.n_inputs
        self._known_limits: list[tuple[np.ndarray, Any, Any]] = []  # bounds as arrays of each kind that came by
        self.encoder = make_encoder(encoder, n_features, self.n_slots)
        self.readout = make_readout(readout, n_units * n_outputs, n_targets)

    def initial_weights(
        self, X: np.ndarray, sample_weight: np.ndarray, rng: np.random.RandomState
    ) -> dict[str, np.ndarray]:
        """Weights to start from: those of the encoder, of each layer (``layers.0.theta``, ...) and of the readout.

        ``theta`` (n_units, n_weights) are the device's own weights before squashing; ``gain`` and ``offset``
        (n_units * n_inputs,) drive its inputs, one number each; ``mean`` and ``scale`` (n_units * n_outputs,) normalise
        its outputs.
        """
        weights = self.encoder.initial_weights(X, sample_weight, rng)
        for layer in range(self.n_layers):
            weights[f"layers.{layer}.theta"] = rng.standard_normal((self.n_units, self.split.n_weights)) * 0.5
            weights[f"layers.{layer}.gain"] = np.ones(self.n_slots)
            weights[f"layers.{layer}.offset"] = np.zeros(self.n_slots)
            if layer and self.skip:
                weights[f"layers.{layer}.skip"] = np.ones(self.n_slots)
            weights[f"layers.{layer}.mean"] = np.zeros(self.n_units * self.n_outputs)
            weights[f"layers.{layer}.scale"] = np.ones(self.n_units * self.n_outputs)
        weights |= self.readout.initial_weights(rng)
        return weights

    @cached_property
    def wiring(self) -> np.ndarray:
        """Which of the previous layer's outputs (unit by unit) feeds each input slot: the units are interleaved."""
        interleaved = np.arange(self.n_units * self.n_outputs).reshape(self.n_units, self.n_outputs).T.ravel()
        return interleaved[route(self.n_slots, len(interleaved))]

    def of_layer(self, weights: dict[str, Any], layer: int) -> dict[str, Any]:
        """One layer's weights by their short names."""
        names = ["theta", "gain", "offset", "mean", "scale", *(["skip"] if layer and self.skip else [])]
        return {name: weights[f"layers.{layer}.{name}"] for name in names}

    def to_device(self, unit_values: Any, index: np.ndarray) -> Any:
        """From [0, 1] to the device's units, for the channels ``index`` (last axis)."""
        low, high = self._limits(unit_values, index)
        return array_module(unit_values).clip(low + unit_values * (high - low), low, high)

    def weights_on_device(self, theta: Any) -> Any:
        """The trainable channels' settings, in the device's units, for ``theta`` (last axis: n_weights)."""
        return self.to_device(squash(theta), self.split.weight_index)

    def _limits(self, like: Any, index: np.ndarray) -> tuple[Any, Any]:
        kind = like.dtype, getattr(like, "device", None)
        for known, of_kind, limits in self._known_limits:
            if known is index and of_kind == kind:
                return limits
        limits = _inner(self.bounds[index].T, like.dtype)
        if not isinstance(like, np.ndarray):
            limits = tuple(map(like.new_tensor, limits))
        if index is self.split.input_index or index is self.split.weight_index:
            self._known_limits = [*self._known_limits[-7:], (index, kind, limits)]
        return limits

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_known_limits": []}  # tensors do not belong in a pickle


def representable(split: ChannelSplit, bounds: np.ndarray, dtype: Any) -> ChannelSplit:
    """The split with its fixed values as numbers of that precision, still within the bounds."""
    low, high = _inner(bounds[split.fixed_index].T, dtype)
    return replace(split, fixed_values=np.clip(split.fixed_values.astype(low.dtype), low, high))


def _inner(bounds: np.ndarray, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """Bounds in that precision, rounded inwards: a float32 control must be legal in float64 too."""
    if dtype.itemsize == 8:
        return bounds[0], bounds[1]
    low, high = bounds.astype(np.float32)
    low = np.where(low < bounds[0], np.nextafter(low, np.float32(np.inf)), low)
    high = np.where(high > bounds[1], np.nextafter(high, np.float32(-np.inf)), high)
    return low, high


def forward(network: Network, weights: dict[str, Any], X: Any, run: Run) -> Any:
    """Features to scores, through the device or whatever stands for it.

    Parameters
    ----------
    network : Network
    weights : dict of str to array
        All numpy, or all torch.
    X : array of shape (n_rows, n_features)
        Of the same kind and dtype as the weights.
    run : callable
        ``run(batch, layer, unit)`` gives the outputs (n_rows, n_outputs) of one device call.

    Returns
    -------
    array of shape (n_rows, n_targets)
    """
    xp = array_module(X)
    split, n_inputs = network.split, network.split.n_inputs
    first = drive = normal = network.encoder.encode(weights, X)
    for layer in range(network.n_layers):
        w = network.of_layer(weights, layer)
        if layer:
            added = {"input": first, "previous": drive, None: None}[network.skip]
            drive = normal[:, network.wiring]
            if added is not None:
                drive = drive + added * w["skip"]
        drive = drive * w["gain"] + w["offset"]
        outputs = []
        for unit in range(network.n_units):
            inputs = network.to_device(squash(drive[:, unit * n_inputs : (unit + 1) * n_inputs]), split.input_index)
            outputs.append(run(split.assemble(inputs, network.weights_on_device(w["theta"][unit])), layer, unit))
        measured = outputs[0] if network.n_units == 1 else xp.concatenate(outputs, axis=1)
        normal = (measured - w["mean"]) / w["scale"]
    return network.readout.read(weights, normal)
