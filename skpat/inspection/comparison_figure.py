"""The figure of a comparison with baselines."""

from __future__ import annotations

from typing import Any

import numpy as np

from skpat.inspection.display_axes import BLUE, GREY, VERMILLION, axes_for, heading, plain

__all__ = ["draw"]

_LONGEST_LABEL, _LONGEST_TITLE = 40, 120  # characters


def draw(comparison: Any, ax: Any = None) -> Any:
    """A line for each estimator: scores of the folds, their mean with its standard error, and the paired difference.

    Parameters
    ----------
    comparison : BaselineComparison
    ax : matplotlib Axes, default=None

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ImportError
        Without matplotlib.
    """
    rows = comparison.rows
    title = heading(comparison.device, 4.0, 12, _LONGEST_TITLE)
    (axis,) = axes_for(ax, size=(7.2, 0.9 + 0.45 * len(rows) + 0.2 * title.count("\n")))
    axis.axvline(rows[0].mean, color=VERMILLION, linewidth=1, linestyle=":", zorder=0)
    for place, row in enumerate(rows):
        color = VERMILLION if not place else BLUE if row.uses_device else GREY
        axis.plot(row.scores, np.full(len(row.scores), place), "|", color=color, markersize=9, alpha=0.5)
        axis.errorbar(
            row.mean, place, xerr=row.standard_error, color=color, marker="os"[not row.uses_device], capsize=4,
            markersize=7, linewidth=2,
        )  # fmt: skip
        if place:
            mean, error = comparison.difference(row.name)
            axis.text(
                1.02, place, f"{'+' if mean > 0 else ''}{comparison.number(mean)} ± {comparison.number(error)}", va="center",
                transform=axis.get_yaxis_transform(),
            )  # fmt: skip
    axis.text(1.02, -0.6, "difference", va="bottom", transform=axis.get_yaxis_transform())
    axis.set_yticks(range(len(rows)), [plain(row.label, _LONGEST_LABEL) for row in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    lines = [
        f"{comparison.metric}, mean ± standard error of {len(rows[0].scores)} folds",
        "circle: on the device, square: digital only, bars: folds",
    ]
    axis.set_xlabel("\n".join(lines))
    axis.set_title(title, pad=18)
    return axis
