"""What the device was used for: shots, seconds and joules by purpose, and what went wrong on the way."""

from __future__ import annotations

import json
import logging
import os
from typing import Any

from skpat.lab.address_lock import address_file
from skpat.lab.fork import ForkSafeLock

__all__ = ["FAULTS", "PURPOSES", "AddressTotals", "Ledger", "check_purpose"]

_log = logging.getLogger("skpat.lab")
_ALWAYS_SHOWN = ("calibration", "training", "validation", "prediction")
PURPOSES = (*_ALWAYS_SHOWN, "recalibration")
FAULTS = ("connection", "shape", "not_finite", "saturated")


def check_purpose(purpose: str) -> None:
    """Raise ValueError if ``purpose`` is not one of the five."""
    if purpose not in PURPOSES:
        raise ValueError(f"'purpose' must be one of {', '.join(PURPOSES)}. Got {purpose!r}.")


class Ledger:
    """Counts every shot, by purpose, and every fault. Safe to use from several threads; can be pickled.

    A shot counts when it has been asked for, whether or not its answer came and was usable: repeats after a fault count.
    Rows that a journal answered cost no shot and are counted apart. So are the numbers that were converted on the way to the
    device and back, and the time for which shared controls were let settle. The purposes are calibration, training, validation
    and prediction, and from the first such shot on recalibration.

    Parameters
    ----------
    seconds_per_shot, joules_per_shot : float, default=None
        Cost of one shot, where the device states it.
    n_before : int, default=0
        How many rows the device had answered before: where the clock of a simulated device that drifts goes on.

    Examples
    --------
    >>> from skpat.lab import Ledger
    >>> ledger = Ledger(joules_per_shot=1e-6)
    >>> ledger.add("training", 500)
    >>> ledger.shots["training"], ledger.total, ledger.joules
    (500, 500, 0.0005)
    """

    def __init__(
        self, *, seconds_per_shot: float | None = None, joules_per_shot: float | None = None, n_before: int = 0
    ):
        self.seconds_per_shot = seconds_per_shot
        self.joules_per_shot = joules_per_shot
        self.n_before = n_before
        self._shots = dict.fromkeys(_ALWAYS_SHOWN, 0)
        self._replayed = dict.fromkeys(_ALWAYS_SHOWN, 0)
        self._conversions = dict.fromkeys(_ALWAYS_SHOWN, 0)
        self._settling = dict.fromkeys(_ALWAYS_SHOWN, 0.0)
        self._faults = dict.fromkeys(FAULTS, 0)
        self._in_vain = 0
        self._lock = ForkSafeLock()

    @classmethod
    def of(cls, device: Any, n_before: int = 0) -> Ledger:
        """An empty ledger with the costs that a device states."""
        costs = {name: getattr(device, name, None) for name in ("seconds_per_shot", "joules_per_shot")}
        return cls(**costs, n_before=n_before)

    def add(self, purpose: str, n_shots: int, *, conversions: int = 0, settling_seconds: float = 0.0) -> None:
        """Count shots, the numbers converted for them, and the time for which shared controls settled before them.

        Raises
        ------
        ValueError
            If ``purpose`` is not one of the five.
        """
        check_purpose(purpose)
        with self._lock:
            self._shots[purpose] = self._shots.get(purpose, 0) + n_shots
            self._conversions[purpose] = self._conversions.get(purpose, 0) + conversions
            self._settling[purpose] = self._settling.get(purpose, 0.0) + settling_seconds

    def add_conversions(self, purpose: str, n: int) -> None:
        """Count numbers that were converted for no row of their own: controls that all rows share."""
        check_purpose(purpose)
        with self._lock:
            self._conversions[purpose] = self._conversions.get(purpose, 0) + n

    def add_replayed(self, purpose: str, n_shots: int, *, conversions: int = 0, in_vain: int = 0) -> None:
        """Count rows that a journal answered, and shots on record that got no answer; ``in_vain`` of these ended a run."""
        check_purpose(purpose)
        with self._lock:
            self._in_vain += in_vain
            self._replayed[purpose] = self._replayed.get(purpose, 0) + n_shots
            self._conversions[purpose] = self._conversions.get(purpose, 0) + conversions

    def add_fault(self, kind: str) -> None:
        """Count a fault: a broken connection, a wrong shape, a reading that is not finite, or a saturated one."""
        with self._lock:
            self._faults[kind] += 1

    @staticmethod
    def at(address: str) -> dict[str, int]:
        """Shots by purpose of everybody who used an address on this computer since it was started.

        All estimators, threads and processes together, the workers of a grid search included.

        Parameters
        ----------
        address : str

        Returns
        -------
        dict of str to int
        """
        return AddressTotals(address).read()

    @property
    def replayed(self) -> dict[str, int]:
        """Rows answered by a journal, by purpose (a copy), and what repeats after faults had cost besides.

        They are not among ``shots``.
        """
        with self._lock:
            return dict(self._replayed)

    @property
    def asked(self) -> dict[str, int]:
        """Shots and replayed rows by purpose: what was asked for, whether the device answers or a journal does."""
        with self._lock:
            return {
                purpose: self._shots.get(purpose, 0) + self._replayed.get(purpose, 0)
                for purpose in PURPOSES
                if purpose in self._shots or purpose in self._replayed
            }

    @property
    def conversions(self) -> dict[str, int]:
        """Numbers converted, digital to analog and back, by purpose (a copy): for each row the controls that differ from row
        to row, and the outputs; those that all rows of a batch share, where they change. Replayed rows are among them."""
        with self._lock:
            return dict(self._conversions)

    @property
    def settling(self) -> dict[str, float]:
        """Seconds for which shared controls were let settle, by purpose (a copy)."""
        with self._lock:
            return dict(self._settling)

    @property
    def faults(self) -> dict[str, int]:
        """Faults survived or raised, by kind (a copy)."""
        with self._lock:
            return dict(self._faults)

    @property
    def asked_in_all(self) -> int:
        """All shots asked for, answered or not, by the device or a journal, those before included: how far a run has come."""
        with self._lock:
            return self.n_before + sum(self._shots.values()) + sum(self._replayed.values())

    @property
    def clock(self) -> int:
        """Rows before the next one, of a run that was never interrupted: what a device that drifts is told."""
        return self.asked_in_all - self._in_vain

    @property
    def asked_in_fit(self) -> int:
        """The same without predictions, such as those that callbacks make."""
        with self._lock:
            predicted = self._shots["prediction"] + self._replayed["prediction"]
        return self.asked_in_all - predicted

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
        """Time on the device by its specification, the settling of shared controls included; None where it states none."""
        of_shots = None if self.seconds_per_shot is None else self.total * self.seconds_per_shot
        return None if of_shots is None else of_shots + sum(self.settling.values())

    @property
    def joules(self) -> float | None:
        """Energy by the device's specification; None where it states none."""
        return None if self.joules_per_shot is None else self.total * self.joules_per_shot

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["_lock"]
        for name in ("shots", "replayed", "conversions", "settling", "faults"):
            state[f"_{name}"] = getattr(self, name)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__dict__.setdefault("_conversions", dict.fromkeys(_ALWAYS_SHOWN, 0))  # a ledger of an older version
        self.__dict__.setdefault("_settling", dict.fromkeys(_ALWAYS_SHOWN, 0.0))
        self.__dict__.setdefault("_in_vain", 0)
        self._lock = ForkSafeLock()

    def __repr__(self) -> str:
        counts = [f"{purpose}={count}" for purpose, count in self.shots.items()]
        for name, events in (("replayed", self.replayed), ("faults", self.faults)):
            counts += [f"{name}={sum(events.values())}"] if any(events.values()) else []
        return f"Ledger({', '.join(counts)})"


class AddressTotals:
    """Shots by purpose of an address, in a file that outlives processes. Whoever writes holds the address's lock.

    Parameters
    ----------
    address : str
    """

    def __init__(self, address: str):
        self.address = address
        self._path = address_file(address, "shots")

    def read(self) -> dict[str, int]:
        """The totals as they stand now; a file that is damaged counts nothing."""
        try:
            known = json.loads(self._path.read_text())
        except OSError:  # nobody has used the address yet
            known = {}
        except ValueError:
            known = None
        if not isinstance(known, dict) or not all(type(n) is int and n >= 0 for n in known.values()):
            _log.warning(
                "The totals of %s are no counts any more: they begin anew. The file is %s.", self.address, self._path
            )
            known = {}
        return dict.fromkeys(_ALWAYS_SHOWN, 0) | known

    def add(self, purpose: str, n_shots: int) -> None:
        """Count shots, when they are about to be asked for: a process that is killed has counted them.

        A file that cannot be written to, on a full disk say, is no fault of the device and does not end a training: it is
        logged, and the shots are in the ledger only.
        """
        try:
            try:
                self._add(purpose, n_shots)
            except FileNotFoundError:  # somebody has tidied the folder away
                self._path = address_file(self.address, "shots")
                self._add(purpose, n_shots)
        except OSError as error:
            _log.warning("%s shots of %s are not in its totals: %s.", f"{n_shots:,}", self.address, error)

    def _add(self, purpose: str, n_shots: int) -> None:
        shots = self.read()
        shots[purpose] = shots.get(purpose, 0) + n_shots
        text = json.dumps(shots).ljust(160).encode()  # one write of one length: never half a number
        flags = os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0)
        try:
            file = os.open(self._path, flags)
        except FileNotFoundError:
            file = os.open(self._path, flags | os.O_CREAT, 0o666)
            if hasattr(os, "fchmod"):
                os.fchmod(file, 0o666)  # whatever the umask: the next user of the instrument counts here too
        try:
            os.write(file, text)
            os.ftruncate(file, len(text))  # a longer, damaged file has an end
        finally:
            os.close(file)
