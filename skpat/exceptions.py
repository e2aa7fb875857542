"""Every error that skpat raises on purpose, with the state needed to resume.

Each class also derives from the builtin exception a caller would expect, so ``except ValueError`` keeps working.
"""

from __future__ import annotations

__all__ = [
    "SkpatError",
    "ControlBoundsError",
    "ControlSplitError",
    "DeadDeviceWarning",
    "DeploymentFileError",
    "DeviceBusyError",
    "DeviceConnectionError",
    "DeviceContractError",
    "DeviceIdentityError",
    "DeviceOutputError",
    "ExchangedDeviceWarning",
    "FarReadingWarning",
    "JournalError",
    "NestedParameterError",
    "NoExactGradientError",
    "NonFiniteTrainingError",
    "ShotBudgetError",
    "TwinError",
    "UnclearedLineError",
    "UselessTwinWarning",
]


class SkpatError(Exception):
    """Base class of every error that skpat raises on purpose."""

    def __reduce__(self):
        return _rebuild, (type(self), self.args, self.__dict__)


class _CutShort(SkpatError):
    """Base of the errors that end a run: what had been measured by then, and where it is recorded."""

    def __init__(self, message: str, *, shots_done: dict[str, int] | None = None, journal: str | None = None):
        super().__init__(message)
        self.shots_done = dict(shots_done or {})
        self.journal = journal


class ControlBoundsError(SkpatError, ValueError):
    """A control value lies outside its bounds, or is not a number. Nothing was sent to the device.

    Attributes
    ----------
    row, channel : int
        Where the first offending value stands.
    value : float
        The offending value, in the device's units.
    """

    def __init__(self, message: str, *, row: int = -1, channel: int = -1, value: float = float("nan")):
        super().__init__(message)
        self.row = row
        self.channel = channel
        self.value = value


class ControlSplitError(SkpatError, ValueError):
    """The channels cannot be split into inputs, weights and fixed ones as asked."""


class DeploymentFileError(SkpatError, ValueError):
    """A file is no deployed network, or it is damaged. Nothing was run, and nothing was sent to a device."""


class DeviceBusyError(SkpatError, TimeoutError):
    """The instrument at an address is held by somebody else, and the time to wait for it is over. Nothing was sent.

    Attributes
    ----------
    holder : int or None
        Process id of who holds it, where known.
    """

    def __init__(self, message: str, *, holder: int | None = None):
        super().__init__(message)
        self.holder = holder


class DeviceConnectionError(_CutShort, ConnectionError):
    """A device did not answer, or the line to it broke.

    Drivers raise it (any ``OSError`` will do too); the session then opens the line anew and repeats the batch. It reaches
    the user when that has failed ``max_retries`` times.

    Attributes
    ----------
    shots_done : dict of str to int
        Shots measured so far, by purpose.
    journal : str or None
        Path of the journal that holds them: the same ``fit`` again goes on from there.
    """


class UnclearedLineError(DeviceConnectionError):
    """An old answer may be on the line to a device, and nothing is known that clears it: it is not asked again.

    Attributes
    ----------
    shots_done : dict of str to int
        Shots taken before, by purpose.
    journal : str or None
        Where they are recorded.
    """


class DeviceIdentityError(_CutShort, RuntimeError):
    """The instrument that answers is not the one that answered before, or cannot be reached from this process.

    Attributes
    ----------
    shots_done : dict of str to int
        Shots measured so far, by purpose.
    journal : str or None
        Path of the journal that holds them: the same ``fit`` again goes on from there.
    """


class DeviceContractError(SkpatError, TypeError):
    """An object given as a device lacks something that a device must have."""


class DeviceOutputError(_CutShort, RuntimeError):
    """A device returned something unusable: a wrong shape, NaN, infinity, or a saturated reading.

    Attributes
    ----------
    shots_done : dict of str to int
        Shots measured up to and including the faulty call, by purpose.
    journal : str or None
        Path of the journal that holds them: the same ``fit`` again goes on from there.
    """


class JournalError(SkpatError, ValueError):
    """A journal belongs to another device, is no journal, cannot be written, or a fit has left what it recorded."""


class NestedParameterError(SkpatError, ValueError):
    """``outer__inner`` was set while ``outer`` is a plain value that has no parameters."""


class NoExactGradientError(SkpatError, TypeError):
    """The exact gradient was asked of a device that cannot be differentiated."""


class NonFiniteTrainingError(_CutShort, ArithmeticError):
    """The loss or a gradient became NaN or infinite during training.

    Attributes
    ----------
    shots_done : dict of str to int
        Shots measured so far, by purpose.
    journal : str or None
        Path of the file in which they are recorded.
    """


class ShotBudgetError(SkpatError, RuntimeError):
    """Another shot would go beyond the budget. It was not sent.

    Attributes
    ----------
    max_shots : int
        The budget.
    """

    def __init__(self, message: str, *, max_shots: int = 0):
        super().__init__(message)
        self.max_shots = max_shots


class TwinError(SkpatError, ValueError):
    """A twin cannot stand for this device."""


class DeadDeviceWarning(UserWarning):
    """A device answered the same, whatever was sent to it: in the first rows of a fit, or in a prediction."""


class ExchangedDeviceWarning(UserWarning):
    """Another instrument answered than the one that a network was trained on."""


class FarReadingWarning(UserWarning):
    """A reading during a training lay far beyond all others of its output, or a prediction's beyond the training's."""


class UselessTwinWarning(UserWarning):
    """A training used gradients that have little to do with what the device does.

    Attributes
    ----------
    cosine, standard_error : float
        Cosine between the method's gradient and the device's, as measured.
    """

    def __init__(self, message: str, *, cosine: float = float("nan"), standard_error: float = float("nan")):
        super().__init__(message)
        self.cosine = cosine
        self.standard_error = standard_error


def _rebuild(cls: type, args: tuple, state: dict) -> Exception:
    """Rebuild a pickled error with its state (joblib sends errors between processes)."""
    error = cls(*args)
    error.__dict__.update(state)
    return error
