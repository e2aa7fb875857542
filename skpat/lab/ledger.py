"""What the device was used for: shots, seconds and joules by purpose."""

from __future__ import annotations

import threading
from typing import Any

__all__ = ["PURPOSES", "Ledger", "check_purpose"]

PURPOSES = ("calibration", "training", "validation", "prediction")


def check_purpose(purpose: str) -> None:
    """Raise ValueError if ``purpose`` is not one of the four."""
    if purpose not in PURPOSES:
        raise ValueError(f"'purpose' must be one of {', '.join(PURPOSES)}. Got {purpose!r}.")


class Ledger:
    """Counts every shot, by purpose. Safe to use from several threads; can be pickled.

    Parameters
    ----------
    seconds_per_shot, joules_per_shot : float, default=None
        Cost of one shot, where the device states it.

    Examples
    --------
    >>> from skpat.lab import Ledger
    >>> ledger = Ledger(joules_per_shot=1e-6)
    >>> ledger.add("training", 500)
    >>> ledger.shots["training"], ledger.total, ledger.joules
    (500, 500, 0.0005)
    """

    def __init__(self, *, seconds_per_shot: float | None = None, joules_per_shot: float | None = None):
        self.seconds_per_shot = seconds_per_shot
        self.joules_per_shot = joules_per_shot
        self._shots = dict.fromkeys(PURPOSES, 0)
        self._lock = threading.Lock()

    @classmethod
    def of(cls, device: Any) -> Ledger:
        """An empty ledger with the costs that a device states."""
        costs = {name: getattr(device, name, None) for name in ("seconds_per_shot", "joules_per_shot")}
        return cls(**costs)

    def add(self, purpose: str, n_shots: int) -> None:
        """Count shots.

        Raises
        ------
        ValueError
            If ``purpose`` is not one of the four.
        """
        check_purpose(purpose)
        with self._lock:
            self._shots[purpose] += n_shots

    @property
    def shots(self) -> dict[str, int]:
        """Shots by purpose (a copy)."""
        with self._lock:
            return dict(self._shots)

    @property
    def total(self) -> int:
        """All shots."""
        return sum(self.shots.values())

    @property
    def seconds(self) -> float | None:
        """Time on the device by its specification; None where it states none."""
        return None if self.seconds_per_shot is None else self.total * self.seconds_per_shot

    @property
    def joules(self) -> float | None:
        """Energy by the device's specification; None where it states none."""
        return None if self.joules_per_shot is None else self.total * self.joules_per_shot

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["_lock"]
        state["_shots"] = self.shots
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        counts = ", ".join(f"{purpose}={count}" for purpose, count in self.shots.items())
        return f"Ledger({counts})"
