"""Warnings that point at the user's own line, however deep in the library they arise."""

from __future__ import annotations

import sys
import warnings

__all__ = ["warn_user"]

_BETWEEN = ("skpat", "sklearn", "joblib")  # packages whose frames are passed over


def warn_user(message: str | Warning, category: type[Warning] = UserWarning) -> None:
    """Warn at the first line, seen from here, that is not skpat's, scikit-learn's or joblib's.

    Parameters
    ----------
    message : str or Warning
    category : type of Warning, default=UserWarning
        Of a message that is a str.
    """
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in _BETWEEN:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
