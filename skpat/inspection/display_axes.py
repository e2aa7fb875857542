"""What the displays share: axes to draw on, labels with units, and colours that everybody can tell apart."""

from __future__ import annotations

from textwrap import shorten, wrap
from typing import Any

import numpy as np

__all__ = ["BLUE", "COLORS", "GREY", "SKY", "VERMILLION", "axes_for", "heading", "number_ticks", "plain", "with_units"]

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


def plain(text: str, most: int = 10_000) -> str:
    """A text that is drawn as it stands, a dollar sign included, and cut between words, or within one, to ``most`` characters.

    Examples
    --------
    >>> from skpat.inspection.display_axes import plain
    >>> plain("2 $/h"), plain("a lamp and a lens", 14), plain("a" * 30, 13)
    ('2 \\\\$/h', 'a lamp and […]', 'aaaaaaaaa […]')
    """
    if len(text) > most:
        cut = shorten(text, most, placeholder=" […]")
        text = cut if cut.strip() != "[…]" else f"{text[: most - 4]} […]"
    return text.replace("$", r"\$")


def heading(text: str, inches: float, font_size: float = 10.0, most: int = 10_000) -> str:
    """A title as it stands, cut to ``most`` characters, in as many lines as it needs in that width."""
    in_line = max(int(inches * 72 / (0.55 * font_size)), 20)  # characters, of average width
    return "\n".join(wrap(plain(text, most), in_line))


def number_ticks(axis: Any) -> None:
    """Whole numbers only on an x axis or y axis that counts channels or outputs, however short it is."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))


def with_units(text: str, units: Any) -> str:
    """A label with its units in brackets, where there are any.

    Examples
    --------
    >>> from skpat.inspection.display_axes import with_units
    >>> with_units("channel 3", "V"), with_units("channel 3", "")
    ('channel 3 (V)', 'channel 3')
    """
    return f"{text} ({units})" if units else text
