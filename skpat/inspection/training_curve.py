"""The display of a training: loss and validation score against shots."""

from __future__ import annotations

from typing import Any

import numpy as np

from skpat.inspection.display_axes import BLUE, VERMILLION, axes_for
from skpat.inspection.fitted_network import fitted_network

__all__ = ["TrainingCurveDisplay"]


class TrainingCurveDisplay:
    """Loss and validation score against the shots spent; against epochs where the training took no shots.

    Use :meth:`from_estimator`.

    Parameters
    ----------
    loss_curve : array-like of shape (n_epochs,)
        Mean loss of each epoch.
    validation_scores : array-like of shape (n_scores,), default=None
        One for each epoch; the last may be missing.
    shots : array-like of shape (n_epochs,), default=None
        Shots spent after each epoch, calibration included. None: epochs are drawn instead.
    score_name : str, default="score"

    Attributes
    ----------
    ax_ : matplotlib Axes
        Of the loss.
    score_ax_ : matplotlib Axes or None
        Of the validation score, on the right.
    figure_ : matplotlib Figure
    line_, score_line_ : matplotlib Line2D
        ``score_line_`` is None without validation scores.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from sklearn.datasets import load_iris
    >>> from skpat import PhysicalNetworkClassifier
    >>> from skpat.inspection import TrainingCurveDisplay
    >>> classifier = PhysicalNetworkClassifier(max_iter=3, early_stopping=True, random_state=0)
    >>> classifier = classifier.fit(*load_iris(return_X_y=True))
    >>> display = TrainingCurveDisplay.from_estimator(classifier, ax=Figure().subplots())
    >>> display.ax_.get_xlabel()
    'shots'
    """

    def __init__(self, loss_curve: Any, validation_scores: Any = None, shots: Any = None, score_name: str = "score"):
        self.loss_curve = loss_curve
        self.validation_scores = validation_scores
        self.shots = shots
        self.score_name = score_name

    @classmethod
    def from_estimator(cls, est: Any, *, ax: Any = None, **line: Any) -> TrainingCurveDisplay:
        """The training of a fitted network. Nothing is sent.

        Parameters
        ----------
        est : PhysicalNetworkClassifier, PhysicalNetworkRegressor, or a Pipeline that ends in one
            Fitted.
        ax : matplotlib Axes, default=None
        **line
            For the loss's line.

        Returns
        -------
        TrainingCurveDisplay

        Raises
        ------
        TypeError, NotFittedError
            If ``est`` is no fitted physical network.
        ImportError
            Without matplotlib.
        """
        network = fitted_network(est)
        shots: Any = np.asarray(network.shots_curve_)
        if len(shots) != len(network.loss_curve_) or (len(shots) > 1 and shots[-1] == shots[0]):
            shots = None  # training on the twin
        score_name = "validation accuracy" if hasattr(network, "classes_") else "validation R²"
        score_name += "" if network._gradient.validates_on_device else " on the twin"
        return cls(network.loss_curve_, network.validation_scores_, shots, score_name).plot(ax, **line)

    def plot(self, ax: Any = None, **line: Any) -> TrainingCurveDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            None: a new pyplot figure.
        **line
            For the loss's line.

        Returns
        -------
        self

        Raises
        ------
        ImportError
            Without matplotlib.
        """
        (self.ax_,) = axes_for(ax)
        self.figure_, self.score_ax_, self.score_line_ = self.ax_.figure, None, None
        loss = np.asarray(self.loss_curve, dtype=float)
        x = 1 + np.arange(len(loss)) if self.shots is None else np.asarray(self.shots)
        marks = {"marker": "o", "markersize": 4} if len(loss) <= 40 else {}
        (self.line_,) = self.ax_.plot(x, loss, **({"color": BLUE, "label": "loss", **marks} | line))
        self.ax_.set_xlabel("epoch" if self.shots is None else "shots")
        self.ax_.set_ylabel("training loss", color=self.line_.get_color())
        if self.shots is not None:
            self.ax_.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        if self.validation_scores is not None and len(self.validation_scores):
            scores = np.asarray(self.validation_scores, dtype=float)
            self.score_ax_ = self.ax_.twinx()
            marks = {"marker": "s", "markersize": 4} if len(loss) <= 40 else {}
            (self.score_line_,) = self.score_ax_.plot(
                x[: len(scores)], scores, color=VERMILLION, linestyle="--", label=self.score_name, **marks
            )
            best = int(scores.argmax())
            self.score_ax_.plot(
                x[best], scores[best], "*", color=VERMILLION, markeredgecolor="black", markersize=13, label="best, kept"
            )
            side = -1 if best > len(scores) / 2 else 1  # towards the middle
            self.score_ax_.annotate(
                "best, kept",
                (x[best], scores[best]),
                xytext=(9 * side, -6),
                textcoords="offset points",
                ha="left" if side > 0 else "right",
                va="top",
                color=VERMILLION,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 1},
            )
            self.score_ax_.set_ylabel(self.score_name, color=VERMILLION)
        return self
