"""The network's one forward pass. Training, prediction and deployment differ only in the ``run`` they hand in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from skpat.controls import ChannelSplit, ControlBatch, inner_bounds
from skpat.network.encoders import make_encoder, route
from skpat.network.layers import array_module, snap, squash
from skpat.network.readouts import make_readout

__all__ = ["Network", "Run", "forward", "inner_interval", "is_trainable", "representable"]

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
    control_steps : float, array-like of shape (n_controls,) or None, default=None
        Steps of channels that are not continuous, from the lower bound. What is sent is what the twin sees: the nearest
        step; gradients pass straight through.
    n_features, n_outputs, n_targets : int
        Columns of X, outputs of the device, and scores.
    n_layers, n_units : int
        Device calls in a row, and side by side.
    encoder : str or PatchEncoder
        See :mod:`skpat.network.encoders`.
    readout : str
        See :mod:`skpat.network.readouts`.
    skip : {None, "input", "previous"}
        What is added to the drive of every layer after the first: nothing, the first layer's drive, or the
        previous layer's.
    """

    def __init__(
        self,
        *,
        split: ChannelSplit,
        bounds: np.ndarray,
        control_steps: Any = None,
        n_features: int,
        n_outputs: int,
        n_targets: int,
        n_layers: int = 1,
        n_units: int = 1,
        encoder: Any = "auto",
        readout: str = "linear",
        skip: str | None = None,
    ):
        self.made_with: dict[str, Any] = {
            "n_features": n_features,
            "n_outputs": n_outputs,
            "n_targets": n_targets,
            "n_layers": n_layers,
            "n_units": n_units,
            "encoder": encoder,
            "readout": readout,
            "skip": skip,
        }
        self.split = split
        self.bounds = bounds
        steps = 0.0 if control_steps is None else control_steps
        self.control_steps = np.broadcast_to(np.asarray(steps, dtype=np.float64), len(bounds))
        self.n_outputs = n_outputs
        self.n_layers = n_layers
        self.n_units = n_units
        self.skip = skip
        self.n_slots = n_units * split.n_inputs
        self._known_intervals: list[tuple[np.ndarray, Any, Any]] = []  # (index, dtype and place, interval), the latest
        self.encoder = make_encoder(encoder, n_features, split.n_inputs, n_units)
        self.n_patches = self.encoder.n_patches
        self.pools = self.n_patches > 1 and self.encoder.pooling is not None
        self.shares = self.n_patches > 1 and self.encoder.shared
        self.readout = make_readout(readout, self.n_sources(n_layers - 1), n_targets)

    def n_calls_of(self, layer: int) -> int:
        """Device calls of a layer: one for each unit, in the first layer one for each patch and unit."""
        return self.n_units * (1 if layer else self.n_patches)

    @property
    def n_calls(self) -> int:
        """Device calls of all layers together, for one row."""
        return sum(map(self.n_calls_of, range(self.n_layers)))

    def n_sources(self, layer: int) -> int:
        """How many numbers a layer hands on."""
        return self.n_outputs * (self.n_units if self.pools else self.n_calls_of(layer))

    def initial_weights(
        self, X: np.ndarray, sample_weight: np.ndarray, rng: np.random.RandomState
    ) -> dict[str, np.ndarray]:
        """Weights to start from: those of the encoder, of each layer (``layers.0.theta``, ...) and of the readout.

        ``theta`` (n_units, n_weights) are the device's own weights before squashing; ``gain`` and ``offset``
        (n_units * n_inputs,) drive its inputs, one number each; ``mean`` and ``scale`` (n_units * n_outputs,) normalise
        its outputs. A first layer that measures patches has one of each for every patch and unit, patch by patch. Where the
        patches share weights (``PatchEncoder(shared=True)``), there is a ``theta``, ``gain`` and ``offset`` for each unit
        only, which all patches use; ``mean`` and ``scale`` are of each patch and unit still.
        """
        weights = self.encoder.initial_weights(X, sample_weight, rng)
        for layer in range(self.n_layers):
            n_own = self.n_units if self.shares else self.n_calls_of(layer)
            weights[f"layers.{layer}.theta"] = rng.standard_normal((n_own, self.split.n_weights)) * 0.5
            weights[f"layers.{layer}.gain"] = np.ones(n_own * self.split.n_inputs)
            weights[f"layers.{layer}.offset"] = np.zeros(n_own * self.split.n_inputs)
            if layer and self.skip:
                weights[f"layers.{layer}.skip"] = np.ones(self.n_slots)
            weights[f"layers.{layer}.mean"] = np.zeros(self.n_calls_of(layer) * self.n_outputs)
            weights[f"layers.{layer}.scale"] = np.ones(self.n_calls_of(layer) * self.n_outputs)
        weights |= self.readout.initial_weights(rng)
        return weights

    @cached_property
    def wiring(self) -> np.ndarray:
        """Which of the previous layer's outputs (unit by unit) feeds each input slot: the units are interleaved."""
        interleaved = np.arange(self.n_units * self.n_outputs).reshape(self.n_units, self.n_outputs).T.ravel()
        return interleaved[route(self.n_slots, len(interleaved))]

    @cached_property
    def wiring_of_patches(self) -> np.ndarray:
        """The wiring from a first layer of patches that are not pooled to the second, as a matrix (n_sources, n_slots).

        With more outputs than input slots each slot gets the mean of neighbouring ones: nothing measured is thrown away.
        """
        source, slot = np.arange(self.n_sources(0)), np.arange(self.n_slots)
        if len(source) <= len(slot):
            member = source[:, None] == route(len(slot), len(source))
        else:
            member = (source * len(slot) // len(source))[:, None] == slot
        return member / member.sum(axis=0)

    def hand_on(self, normal: Any, layer: int) -> Any:
        """What the next layer, or the readout, gets of a layer's normalised outputs (n_rows, n_calls_of(layer) * n_outputs):
        their mean over the patches where the encoder pools, else all of them."""
        return self.over_patches(normal) if self.pools and not layer else normal

    def feed(self, handed_on: Any, layer: int) -> Any:
        """The drives (n_rows, n_slots) of a layer after the first, from what the one before handed on."""
        if layer > 1 or self.n_patches == 1 or self.pools:
            return handed_on[:, self.wiring]
        wiring = self.wiring_of_patches
        wiring = wiring.astype(handed_on.dtype) if isinstance(handed_on, np.ndarray) else handed_on.new_tensor(wiring)
        return handed_on @ wiring

    def over_patches(self, values: Any) -> Any:
        """The mean over the patches of numbers (n_rows, n_patches * n), shape (n_rows, n); unchanged if there are none."""
        if self.n_patches == 1:
            return values
        return values.reshape(len(values), self.n_patches, values.shape[1] // self.n_patches).mean(1)

    def of_layer(self, weights: dict[str, Any], layer: int) -> dict[str, Any]:
        """One layer's weights by their short names.

        Where patches share weights, ``gain`` and ``offset`` are repeated for each patch, to be as long as the drives.
        """
        names = ["theta", "gain", "offset", "mean", "scale", *(["skip"] if layer and self.skip else [])]
        found = {name: weights[f"layers.{layer}.{name}"] for name in names}
        if self.shares and not layer:  # theta is not repeated: ``forward`` takes the row of the unit
            xp = array_module(found["gain"])
            found |= {name: xp.tile(found[name], (self.n_patches,)) for name in ("gain", "offset")}
        return found

    def to_device(self, drive: Any, index: np.ndarray) -> Any:
        """Any drive squashed into the bounds of the channels ``index`` (last axis), in the device's units."""
        middle, half, *grid = self._interval(drive, index)
        values = squash(drive, middle, half)
        return snap(values, *grid) if grid else values

    def weights_on_device(self, theta: Any) -> Any:
        """The trainable channels' settings, in the device's units, for ``theta`` (last axis: n_weights)."""
        return self.to_device(theta, self.split.weight_index)

    def uniform_on_device(self, uniform: np.ndarray) -> np.ndarray:
        """Settings of all channels for numbers (n_rows, n_controls) in [0, 1], spread evenly over the bounds."""
        low, high = inner_bounds(self.bounds.T, uniform.dtype)
        values = np.clip(low + uniform * (high - low), low, high)
        return self.legal(values)

    def legal(self, values: np.ndarray) -> np.ndarray:
        """Settings (n_rows, n_controls) within the bounds, moved to the nearest step in channels that have steps."""
        return snap(values, *_grid(self.bounds.T, self.control_steps, values.dtype)) if self.has_steps else values

    @property
    def has_steps(self) -> bool:
        """Whether a channel is not continuous."""
        return bool(self.control_steps.any())

    def _interval(self, like: Any, index: np.ndarray) -> tuple[Any, ...]:
        kind = like.dtype, getattr(like, "device", None)
        for known, of_kind, interval in self._known_intervals:
            if known is index and of_kind == kind:
                return interval
        interval = inner_interval(self.bounds[index].T, like.dtype)
        if self.has_steps:
            interval += _grid(self.bounds[index].T, self.control_steps[index], like.dtype)
        if not isinstance(like, np.ndarray):
            interval = tuple(map(like.new_tensor, interval))
        if index is self.split.input_index or index is self.split.weight_index:
            self._known_intervals = [*self._known_intervals[-7:], (index, kind, interval)]
        return interval

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_known_intervals": []}  # tensors do not belong in a pickle


def representable(split: ChannelSplit, bounds: np.ndarray, dtype: Any) -> ChannelSplit:
    """The split with its fixed values as numbers of that precision, still within the bounds."""
    low, high = inner_bounds(bounds[split.fixed_index].T, dtype)
    return replace(split, fixed_values=np.clip(split.fixed_values.astype(low.dtype), low, high))


def inner_interval(bounds: np.ndarray, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """(middle, half width) within bounds (2, n), so that :func:`squash` stays legal whatever the rounding.

    Rounding is monotonic: a few units in the last place of room at the ends are enough for every drive.
    """
    low, high = inner_bounds(bounds, dtype)
    middle = np.clip(low / 2 + high / 2, low, high)
    precision = np.finfo(low.dtype)
    room = 8 * precision.eps * np.maximum(np.abs(low), np.abs(high)) + 8 * precision.smallest_subnormal
    return middle, np.maximum(np.minimum(high - middle, middle - low) - room, 0)


def _grid(bounds: np.ndarray, steps: np.ndarray, dtype: Any) -> tuple[np.ndarray, ...]:
    """(low, step, number of steps, high) within bounds (2, n), in that precision; for :func:`snap`."""
    low, high = inner_bounds(bounds, dtype)
    n_steps = np.floor((bounds[1] - bounds[0]) / np.where(steps > 0, steps, 1.0) * (1 + 1e-12))
    return low, steps.astype(low.dtype), n_steps.astype(low.dtype), high


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
        w, n_units = network.of_layer(weights, layer), network.n_calls_of(layer)
        if layer:
            added = {"input": first, "previous": drive, None: None}[network.skip]
            drive = network.feed(normal, layer)
            if added is not None:
                drive = drive + (added if added.shape == drive.shape else network.over_patches(added)) * w["skip"]
        drive = drive * w["gain"] + w["offset"]
        outputs = []
        for unit in range(n_units):
            own = drive if n_units == 1 else drive[:, unit * n_inputs : (unit + 1) * n_inputs]
            inputs = network.to_device(own, split.input_index)
            theta = w["theta"][unit % len(w["theta"])]  # call patch * n_units + unit; shared weights are one row a unit
            outputs.append(run(split.assemble(inputs, network.weights_on_device(theta)), layer, unit))
        measured = outputs[0] if n_units == 1 else xp.concatenate(outputs, axis=1)
        normal = network.hand_on((measured - w["mean"]) / w["scale"], layer)
    return network.readout.read(weights, normal)
