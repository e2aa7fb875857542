"""What a fit will cost, before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["CostOfShots", "Plan", "amount", "settling_line", "time_on_device"]

_HOUR, _DAY = 3600.0, 86400.0


class CostOfShots:
    """What ``shots`` take of a device, by what it states of one."""

    @property
    def seconds(self: Any) -> float | None:
        """Time on the device, without settling; None where the device states no seconds_per_shot."""
        return None if self.seconds_per_shot is None else self.shots * self.seconds_per_shot

    @property
    def joules(self: Any) -> float | None:
        """Energy in the device; None where the device states no joules_per_shot."""
        return None if self.joules_per_shot is None else self.shots * self.joules_per_shot


@dataclass(frozen=True)
class Plan(CostOfShots):
    """The most that a fit can cost, and what a prediction will.

    Attributes
    ----------
    calibration, training, validation : int
        Shots of a fit, by purpose. Training that stops early takes fewer. Where ``max_shots`` ends it, what a calibration
        that takes all of its shots leaves to training and validation, epoch by epoch.
    prediction_per_row : int
        Shots of one predicted row.
    seconds_per_shot, joules_per_shot : float or None
        What the device states. ``seconds`` is time on the device; the computer's own, which a twin of many channels and outputs
        needs for each step, comes on top.
    settling_seconds : float
        What the device states: for so long it settles after each change of controls that all rows of a call share. How often
        that will be is not foreseen; ``ledger_.settling`` has it after a fit.
    device : str
        Its name.
    """

    device: str
    calibration: int
    training: int
    validation: int
    prediction_per_row: int
    seconds_per_shot: float | None = None
    joules_per_shot: float | None = None
    settling_seconds: float = 0.0

    @property
    def shots(self) -> int:
        """All shots of the fit."""
        return self.calibration + self.training + self.validation

    def __str__(self) -> str:
        lines = [
            f"A fit on {self.device} takes at most {self.shots:,} shots, repeats after faults aside:",
            f"  calibration {self.calibration:>12,}",
            f"  training    {self.training:>12,}",
            f"  validation  {self.validation:>12,}",
            "  time        " + time_on_device(self.seconds),
            "  energy      " + amount(self.joules, "J", "joules_per_shot"),
            *settling_line(self.settling_seconds),
            f"A prediction takes {self.prediction_per_row:,} per row. Nothing has been sent.",
        ]
        return "\n".join(lines)


def settling_line(seconds: float) -> list[str]:
    """What settling takes besides, as a line of a plan; none where nothing settles."""
    line = f"  settling    {seconds:>12.4g} s more for each change of what all rows of a call share"
    return [line] if seconds else []


def amount(value: float | None, unit: str, attribute: str) -> str:
    """A sum of what a device states for each shot, for a line of a plan; or that it states none."""
    return f"unknown (the device states no {attribute})" if value is None else f"{value:>12.4g} {unit}"


def time_on_device(seconds: float | None) -> str:
    """What all shots take of the device's time, for a line of a plan; where it is long in hours or days, too."""
    line = amount(seconds, "s", "seconds_per_shot")
    if seconds is None:
        return line
    if seconds >= 2 * _DAY:
        line += f" ({seconds / _DAY:,.2g} days)" if seconds < 100 * _DAY else f" ({seconds / _DAY:,.0f} days)"
    elif seconds >= 2 * _HOUR:
        line += f" ({seconds / _HOUR:.2g} hours)"
    return f"{line} on the device alone"
