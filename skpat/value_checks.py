"""What the checks of parameters ask everywhere: is it an int, is it a number; a bool is neither."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np

__all__ = ["is_int", "is_number"]


def is_int(value: Any, least: float = -np.inf) -> bool:
    """Whether a value is an int, numpy's included, and not below ``least``.

    Examples
    --------
    >>> is_int(3), is_int(3, least=4), is_int(3.0), is_int(True)
    (True, False, False, False)
    """
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def is_number(value: Any, least: float = -np.inf, *, below: float | None = None) -> bool:
    """Whether a value is a real number, neither NaN nor below ``least`` nor, if it is given, at or above ``below``.

    Examples
    --------
    >>> is_number(0.5, 0), is_number(-0.5, 0), is_number(float("nan")), is_number("0.5"), is_number(True)
    (True, False, False, False, False)
    >>> is_number(float("inf"), 0), is_number(float("inf"), 0, below=float("inf"))
    (True, False)
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    return float(value) >= least and (below is None or float(value) < below)
