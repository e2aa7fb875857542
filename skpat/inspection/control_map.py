"""The display of a network's channels: which carries data, which is a weight, and where the weights stand."""

from __future__ import annotations

from typing import Any

import numpy as np

from skpat.controls import ChannelSplit
from skpat.inspection.display_axes import BLUE, COLORS, SKY, axes_for, number_ticks, with_units
from skpat.inspection.fitted_network import fitted_network

__all__ = ["ControlMapDisplay"]

_MARKERS = "oD^svP"
_LIGHT_GREY = "#DDDDDD"
_MOST_UNEQUAL = 10  # widths of bounds


class ControlMapDisplay:
    """The channels of a device call with their bounds, and the learned weights, in the device's units.

    A panel for each layer; use :meth:`from_estimator`. Where the widest bounds are more than ten times the narrowest, one
    axis cannot show both: the settings are then drawn between the bounds of their channel, from 0 to 1.

    Parameters
    ----------
    split : ChannelSplit
        Which channel is what.
    bounds : array-like of shape (n_controls, 2)
        In the device's units.
    settings : sequence of n_layers array-likes of shape (n_units, n_weights)
        The weights on the device, in its units, in the order of ``split.weight_index``. A first layer whose patches have
        weights of their own has more units.
    control_units : str, default=""

    Attributes
    ----------
    ax_ : matplotlib Axes with one layer, else ndarray of shape (n_layers,)
    figure_ : matplotlib Figure

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from skpat import ControlSplit
    >>> from skpat.inspection import ControlMapDisplay
    >>> split = ControlSplit("interleaved", fixed={0: 0.5}).resolve(5)
    >>> display = ControlMapDisplay(split, [[0, 1]] * 5, [[[0.2, 0.9]]], "V")
    >>> display.plot(ax=Figure().subplots()).ax_.get_ylabel()
    'setting (V)'
    """

    def __init__(self, split: ChannelSplit, bounds: Any, settings: Any, control_units: str = ""):
        self.split = split
        self.bounds = np.asarray(bounds, dtype=float)
        self.settings = [np.asarray(of_layer) for of_layer in settings]
        self.control_units = control_units
        width = np.ptp(self.bounds, axis=1)
        self._in_bounds = bool(width.max() > _MOST_UNEQUAL * width.min())

    @classmethod
    def from_estimator(cls, est: Any, *, ax: Any = None) -> ControlMapDisplay:
        """The map of a fitted network. Nothing is sent.

        Parameters
        ----------
        est : PhysicalNetworkClassifier, PhysicalNetworkRegressor, or a Pipeline that ends in one
            Fitted.
        ax : matplotlib Axes, or array of one for each layer, default=None

        Returns
        -------
        ControlMapDisplay

        Raises
        ------
        TypeError, NotFittedError
            If ``est`` is no fitted physical network.
        ImportError
            Without matplotlib.
        """
        network = fitted_network(est)
        wiring = network._network
        layers = [network.weights_[f"layers.{layer}.theta"] for layer in range(wiring.n_layers)]
        settings = [wiring.weights_on_device(theta) for theta in layers]
        return cls(wiring.split, wiring.bounds, settings, getattr(network.device_, "control_units", "")).plot(ax)

    def plot(self, ax: Any = None) -> ControlMapDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, or array of one for each layer, default=None
            None: a new pyplot figure.

        Returns
        -------
        self

        Raises
        ------
        ImportError
            Without matplotlib.
        ValueError
            If the axes are not one for each layer.
        """
        n_layers = len(self.settings)
        size = (float(np.clip(3 + 0.18 * len(self.bounds), 7.4, 13.0)), 1.2 + 2.6 * n_layers)
        axes = axes_for(ax, n_layers, size=size, sharex=True)
        for layer, axis in enumerate(axes):
            self._draw_layer(axis, layer)
            if n_layers > 1:
                axis.set_ylabel(f"layer {layer}\n{axis.get_ylabel()}")
        axes[-1].set_xlabel("channel")
        axes[0].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
        self.ax_ = axes if n_layers > 1 else axes[0]
        self.figure_ = axes[0].figure
        return self

    def _draw_layer(self, ax: Any, layer: int) -> None:
        from matplotlib.collections import PolyCollection

        split, n_units = self.split, len(self.settings[layer])
        bounds = self._drawn(self.bounds, np.arange(len(self.bounds)))
        half = 0.45 if len(self.bounds) <= 60 else 0.5
        for index, color, label in (
            (split.input_index, SKY, "data: the whole range"),
            (split.weight_index, _LIGHT_GREY, "bounds of a weight"),
        ):
            low, high = bounds[index].T
            left, right = index - half, index + half
            corners = [(left, low), (left, high), (right, high), (right, low)]
            outline = np.stack([np.column_stack(corner) for corner in corners], axis=1)
            if len(index):
                ax.add_collection(PolyCollection(list(outline), facecolors=color, linewidths=0, label=label))
        size = 6 if len(self.bounds) <= 40 else 4 if len(self.bounds) <= 200 else 2
        told_apart = n_units <= len(COLORS)
        for unit in range(n_units if len(split.weight_index) else 0):
            shift = 0.7 * ((unit + 0.5) / n_units - 0.5)
            label = ("weight" if n_units == 1 else f"weight, unit {unit}") if told_apart else "weights of all units"
            ax.plot(
                split.weight_index + shift,
                self._drawn(self.settings[layer][unit], split.weight_index),
                linestyle="none",
                marker=_MARKERS[unit] if told_apart else "o",
                color=(*COLORS[1:], BLUE)[unit] if told_apart else COLORS[1],
                markersize=size if n_units == 1 else 0.75 * size,
                label=label if told_apart or not unit else None,
            )
        if len(split.fixed_index):
            ax.plot(
                split.fixed_index, self._drawn(split.fixed_values, split.fixed_index), "_", color="black",
                markersize=2 * size, markeredgewidth=2.5, label="fixed",
            )  # fmt: skip
        low, high = float(bounds.min()), float(bounds.max())
        room = 0.04 * (high - low)
        ax.set(
            xlim=(-0.7, len(self.bounds) - 0.3),
            ylim=(low - room, high + room),
            ylabel="place between the bounds" if self._in_bounds else with_units("setting", self.control_units),
        )
        number_ticks(ax.xaxis)

    def _drawn(self, values: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Values of some channels, a channel a row, as they are drawn."""
        if not self._in_bounds:
            return values
        low, width = self.bounds[index, 0], np.ptp(self.bounds[index], axis=1)
        return np.asarray(((np.asarray(values).T - low) / width).T)
