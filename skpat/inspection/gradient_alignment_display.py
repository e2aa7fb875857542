"""The display of a gradient's alignment: its cosine with the device's own, layer by layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from skpat.inspection.display_axes import BLUE, GREY, VERMILLION, axes_for

__all__ = ["GradientAlignmentDisplay"]


class GradientAlignmentDisplay:
    """Cosine of the trained-with gradient and the device's, of each layer and of all weights, with standard errors.

    Use :meth:`from_alignment` with what :func:`skpat.inspection.gradient_alignment` found, or :meth:`from_estimator`.

    Parameters
    ----------
    alignment : Alignment
        Anything with ``cosine``, ``standard_error``, ``layer_cosines`` and ``layer_standard_errors``.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    bars_ : matplotlib BarContainer

    Examples
    --------
    >>> from skpat.inspection import GradientAlignmentDisplay
    >>> from skpat.training.alignment import Alignment
    >>> found = Alignment(0.9, 0.03, 1.0, layer_cosines=(0.95, 0.6), layer_standard_errors=(0.02, 0.1))
    >>> GradientAlignmentDisplay(found).labels
    ['layer 0', 'layer 1', 'all']
    """

    def __init__(self, alignment: Any):
        self.alignment = alignment

    @property
    def labels(self) -> list[str]:
        """What the bars stand for."""
        n_layers = len(self.alignment.layer_cosines)
        return [*(f"layer {layer}" for layer in range(n_layers)), "all"]

    @classmethod
    def from_alignment(cls, alignment: Any, *, ax: Any = None, **bars: Any) -> GradientAlignmentDisplay:
        """What was found already. Nothing is sent.

        Parameters
        ----------
        alignment : Alignment
        ax : matplotlib Axes, default=None
        **bars
            For the bars.

        Returns
        -------
        GradientAlignmentDisplay
        """
        return cls(alignment).plot(ax, **bars)

    @classmethod
    def from_estimator(
        cls,
        est: Any,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        ax: Any = None,
        n_rows: int = 32,
        n_directions: int = 8,
        random_state: Any = 0,
    ) -> GradientAlignmentDisplay:
        """Measure with :func:`skpat.inspection.gradient_alignment`, and draw.

        Parameters
        ----------
        est : PhysicalNetworkClassifier, PhysicalNetworkRegressor, or a Pipeline that ends in one
            Fitted.
        X, y, sample_weight : array-like
            Rows like those of the training, with their labels or targets, and weights if it had any.
        ax : matplotlib Axes, default=None
        n_rows, n_directions, random_state
            As there; they say how many shots it takes.

        Returns
        -------
        GradientAlignmentDisplay

        Raises
        ------
        TypeError, NotFittedError
            If ``est`` is no fitted physical network.
        ImportError
            Without matplotlib.
        """
        from skpat.inspection.alignment import gradient_alignment

        found = gradient_alignment(
            est, X, y, sample_weight, n_rows=n_rows, n_directions=n_directions, random_state=random_state
        )
        return cls(found).plot(ax)

    def plot(self, ax: Any = None, **bars: Any) -> GradientAlignmentDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            None: a new pyplot figure.
        **bars
            For the bars.

        Returns
        -------
        self

        Raises
        ------
        ImportError
            Without matplotlib.
        """
        found, labels = self.alignment, self.labels
        cosines = np.append(found.layer_cosines, found.cosine).astype(float)
        errors = np.append(found.layer_standard_errors, found.standard_error).astype(float)
        (self.ax_,) = axes_for(ax, size=(max(4.8, 1.6 + 0.8 * len(labels)), 4.0))
        self.figure_ = self.ax_.figure
        color = [*[BLUE] * (len(labels) - 1), VERMILLION]
        style = {"color": color, "width": 0.6, "capsize": 5, "error_kw": {"linewidth": 1.8}}
        self.bars_ = self.ax_.bar(np.arange(len(labels)), cosines, yerr=errors, **(style | bars))
        for y, line in ((1.0, ":"), (0.0, "-")):  # perfect, and no better than chance
            self.ax_.axhline(y, color=GREY, linewidth=1, linestyle=line, zorder=0)
        self.ax_.set_xticks(np.arange(len(labels)), labels)
        low = min(0.0, float((cosines - errors).min()))
        self.ax_.set(ylabel="cosine with the device's gradient", ylim=(1.08 * low - 0.02 * (low < 0), 1.08))
        return self
