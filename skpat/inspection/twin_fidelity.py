"""The display of a twin: what it predicts against what the device answers."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import r2_score
from sklearn.utils import check_random_state

from skpat.controls import ControlBatch
from skpat.inspection.display_axes import BLUE, GREY, VERMILLION, axes_for, number_ticks, with_units
from skpat.inspection.fitted_network import fitted_network, rows_for
from skpat.lab.session import Session
from skpat.network.forward import forward
from skpat.row_keys import hash_rows
from skpat.value_checks import is_int

__all__ = ["TwinFidelityDisplay"]

_MOST_POINTS = 20_000
_GOOD = 0.9  # R²
_MOST_HATCHED = 60  # outputs


class TwinFidelityDisplay:
    """Outputs that the twin predicts against measured ones, and R² of each output.

    Use :meth:`from_estimator`.

    Parameters
    ----------
    measured, predicted : array-like of shape (n_calls, n_outputs)
        In the device's units.
    output_units : str, default=""

    Attributes
    ----------
    r2 : ndarray of shape (n_outputs,)
        NaN for an output that does not change, which has no bar.
    ax_ : ndarray of matplotlib Axes, shape (2,), or the one that was given
    figure_ : matplotlib Figure

    Notes
    -----
    Noise of the measurement counts against the twin: with noise even a perfect one stays below R² = 1.

    Examples
    --------
    >>> import numpy as np
    >>> from skpat.inspection import TwinFidelityDisplay
    >>> measured = np.array([[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]])
    >>> TwinFidelityDisplay(measured, measured + [0.0, 1.0]).r2
    array([ 1. , -0.5])
    """

    def __init__(self, measured: Any, predicted: Any, output_units: str = ""):
        self.measured = np.asarray(measured)
        self.predicted = np.asarray(predicted)
        self.output_units = output_units
        with np.errstate(all="ignore"):
            r2 = r2_score(self.measured, self.predicted, multioutput="raw_values", force_finite=False)
        changes = np.ptp(self.measured, axis=0) > 0 if len(self.measured) else False
        self.r2 = np.where(np.isfinite(r2) & changes, r2, np.nan)

    @classmethod
    def from_estimator(
        cls, est: Any, X: Any, *, n_rows: int = 200, random_state: Any = 0, ax: Any = None, **points: Any
    ) -> TwinFidelityDisplay:
        """Measure rows of X, in every layer and unit, and ask the twin about the same settings.

        Parameters
        ----------
        est : PhysicalNetworkClassifier, PhysicalNetworkRegressor, or a Pipeline that ends in one
            Fitted, with a twin.
        X : array-like or sparse matrix of shape (n_samples, n_features)
        n_rows : int, default=200
            Most rows to measure, drawn from X. They cost ``n_rows * n_layers * n_units * n_shots`` shots, counted in
            ``est.ledger_`` as calibration.
        random_state : int, RandomState instance or None, default=0
            For the rows.
        ax : matplotlib Axes, or array of two, default=None
        **points
            For the scatter of the points.

        Returns
        -------
        TwinFidelityDisplay

        Raises
        ------
        TypeError, NotFittedError
            If ``est`` is no fitted physical network.
        ValueError
            If it has no twin, or fewer than two rows are asked for. Nothing was sent.
        ImportError
            Without matplotlib.
        """
        network = fitted_network(est)
        if network.twin_ is None:
            raise ValueError(
                f"'est' must have a twin. Got one trained with gradient={network.gradient!r}, which uses none. Nothing was "
                "sent. Fit it with gradient='physics_aware'."
            )
        X = rows_for(est, X)
        if not is_int(n_rows) or min(n_rows, len(X)) < 2:
            raise ValueError(
                f"R² needs at least two rows. Got n_rows={n_rows!r} and {len(X)} rows of X. Nothing was sent."
            )
        if n_rows < len(X):
            X = X[np.sort(check_random_state(random_state).permutation(len(X))[:n_rows])]
        measured: list[np.ndarray] = []
        predicted: list[np.ndarray] = []
        with Session(network.device_, n_shots=network.n_shots, ledger=network.ledger_) as session:
            measure = session.run(hash_rows(X), "calibration")

            def run(batch: ControlBatch, layer: int, unit: int) -> np.ndarray:
                measured.append(measure(batch, layer, unit))
                predicted.append(network.twin_.predict(batch))
                return measured[-1]

            forward(network._network, network.weights_, X, run)
        units = getattr(network.device_, "output_units", "")
        return cls(np.concatenate(measured), np.concatenate(predicted), units).plot(ax, **points)

    def plot(self, ax: Any = None, **points: Any) -> TwinFidelityDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, or array of two, default=None
            With one, only predicted against measured is drawn. None: a new pyplot figure of two.
        **points
            For the points.

        Returns
        -------
        self

        Raises
        ------
        ImportError
            Without matplotlib.
        """
        alone = ax is not None and np.size(np.asarray(ax, dtype=object)) == 1
        axes = axes_for(ax, 1, 1 if alone else 2, size=(9.0, 4.2))
        self.ax_ = axes[0] if alone else axes
        self.figure_ = axes[0].figure
        self._draw_points(axes[0], points)
        if not alone:
            self._draw_r2(axes[1])
        return self

    def _draw_points(self, ax: Any, points: dict[str, Any]) -> None:
        every = -(-self.measured.size // _MOST_POINTS)
        x, y = self.measured.ravel()[::every], self.predicted.ravel()[::every]
        alpha = float(np.clip(600 / len(x), 0.08, 0.8))
        style = {"color": BLUE, "marker": "o", "markersize": 3.5, "linestyle": "none", "alpha": alpha}
        ax.plot(x, y, **(style | {"markeredgewidth": 0, "rasterized": len(x) > 5000} | points))
        low, high = float(self.measured.min()), float(self.measured.max())
        ax.plot([low, high], [low, high], color="black", linewidth=1.2, label="equal")
        middle = float(np.nanmedian(self.r2)) if np.isfinite(self.r2).any() else np.nan
        ax.set(
            xlabel=with_units("measured", self.output_units),
            ylabel=with_units("predicted by the twin", self.output_units),
            title=f"all outputs (median R² {middle:.2f})",
        )
        ax.locator_params(nbins=5)  # long numbers need room
        ax.ticklabel_format(scilimits=(-3, 4))
        ax.legend(loc="upper left")

    def _draw_r2(self, ax: Any) -> None:
        r2 = self.r2
        ax.axhline(1, color=GREY, linewidth=1, linestyle=":")
        few = len(r2) <= _MOST_HATCHED  # else a bar is narrower than the lines of a hatch
        bars = ax.bar(np.arange(len(r2)), np.clip(np.nan_to_num(r2), 0, 1), width=0.8 if few else 1.0, color=BLUE)
        low = r2 < _GOOD
        for bar in np.asarray(bars, dtype=object)[low]:
            bar.set(facecolor=VERMILLION, **({"hatch": "//", "edgecolor": "white"} if few else {}))
        below = np.flatnonzero(r2 <= 0)
        if len(below):
            ax.plot(below, np.zeros(len(below)), "v", color=VERMILLION, markersize=6 if few else 3, clip_on=False)
        said = [f"{low.sum()} below {_GOOD}{', hatched' if few and low.any() else ''}"]
        said += [f"{np.isnan(r2).sum()} constant"] if np.isnan(r2).any() else []
        ax.set(xlabel="output", ylabel="R²", ylim=(0, 1.05), title=f"R² of each output\n({'; '.join(said)})")
        ax.set_xlim(-0.7, len(r2) - 0.3)
        number_ticks(ax.xaxis)
