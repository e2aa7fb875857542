"""Whether the instrument that answers is the one that a network was trained on."""

from __future__ import annotations

import sys
import warnings
from typing import Any

from skpat.devices.specification import device_name
from skpat.exceptions import ExchangedDeviceWarning

__all__ = ["warn_if_exchanged"]


def warn_if_exchanged(estimator: Any, answering: str | None) -> None:
    """Warn, where skpat or scikit-learn was called, if another instrument answers than in the training.

    One that does not say who it is (``identify``) passes.

    Parameters
    ----------
    estimator : PhysicalNetwork
        Fitted.
    answering : str or None
        Who has answered now.
    """
    trained_on = estimator._identity
    if trained_on and answering and answering != trained_on:
        warnings.warn(
            f"The instrument {device_name(estimator.device_)} should be the one that the network was trained on, "
            f"{trained_on!r}. Got {answering!r}. Another copy of a device answers differently: adapt the network with "
            "recalibrate(X, y, max_shots), or train it anew with fit.",
            ExchangedDeviceWarning,
            stacklevel=_level_of_the_call(),
        )


def _level_of_the_call() -> int:
    """The ``stacklevel``, for who calls this, of the first frame that belongs neither to skpat nor to scikit-learn."""
    inner = {__name__.partition(".")[0], "sklearn"}
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in inner:
        frame, level = frame.f_back, level + 1
    return level
