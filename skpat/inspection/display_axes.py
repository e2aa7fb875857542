"""What the displays share: axes to draw on, labels with units, and colours that everybody can tell apart."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["BLUE", "COLORS", "GREY", "SKY", "VERMILLION", "axes_for", "with_units"]

# Okabe and Ito's colours, told apart in every common form of colour blindness.
BLUE, ORANGE, GREEN, VERMILLION, PINK, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
GREY = "#767676"
COLORS = (BLUE, VERMILLION, GREEN, PINK, ORANGE, SKY)


def axes_for(
    ax: Any, n_rows: int = 1, n_columns: int = 1, *, size: tuple[float, float] = (6.4, 4.0), **how: Any
) -> Any:
    """The axes that were given, or those of a new pyplot figure.

    Parameters
    ----------
    ax : None, Axes or array-like of Axes
        With axes, pyplot is not imported.
    n_rows, n_columns : int, default=1
        How many are needed.
    size : (float, float)
        Of a new figure, in inches.
    **how
        For ``pyplot.subplots``.

    Returns
    -------
    ndarray of Axes, shape (n_rows * n_columns,)

    Raises
    ------
    ImportError
        Without matplotlib.
    ValueError
        If another number of axes was given.
    """
    if ax is None:
        try:
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise ImportError('A figure needs matplotlib. Install it with: pip install "skpat[plot]"') from error
        _, ax = plt.subplots(n_rows, n_columns, figsize=size, layout="constrained", squeeze=False, **how)
    given = np.atleast_1d(np.asarray(ax, dtype=object)).ravel()
    if len(given) != n_rows * n_columns:
        n = n_rows * n_columns
        raise ValueError(
            f"'ax' must be {n} {'Axes' if n == 1 else 'Axes in an array'} here. Got {len(given)}. Use ax=None for a new "
            "figure."
        )
    return given


def with_units(text: str, units: Any) -> str:
    """A label with its units in brackets, where there are any.

    Examples
    --------
    >>> from skpat.inspection.display_axes import with_units
    >>> with_units("channel 3", "V"), with_units("channel 3", "")
    ('channel 3 (V)', 'channel 3')
    """
    return f"{text} ({units})" if units else text
