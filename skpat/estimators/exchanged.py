"""Whether the instrument that answers is the one that a network was trained on."""

from __future__ import annotations

from typing import Any

from skpat.devices.specification import device_name
from skpat.exceptions import ExchangedDeviceWarning
from skpat.user_warning import warn_user

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
        warn_user(
            f"The instrument {device_name(estimator.device_)} should be the one that the network was trained on, "
            f"{trained_on!r}. Got {answering!r}. Another copy of a device answers differently: adapt the network with "
            "recalibrate(X, y, max_shots), or train it anew with fit.",
            ExchangedDeviceWarning,
        )
