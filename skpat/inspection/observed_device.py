"""A device as it is, with everything noted that goes over the line."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from skpat.controls import ControlBatch, readings_of
from skpat.devices.specification import call_hook, device_name
from skpat.exceptions import DeviceContractError
from skpat.lab.answers import explain_no_numbers

__all__ = ["AnotherAnswerError", "DriverError", "ObservedDevice", "WrongAnswerError"]

_KEPT = 12  # answers held on to, to see whether a later call changes them


class WrongAnswerError(Exception):
    """An answer that no session could use. ``check`` names what is wrong with it, ``mend`` what to do."""

    def __init__(self, check: str, seen: str, mend: str):
        super().__init__(seen)
        self.check, self.seen, self.mend = check, seen, mend


class DriverError(Exception):
    """What a driver raised, and the shape of the array it was given if it has never answered."""

    def __init__(self, error: Exception, given: tuple[int, int] | None = None):
        super().__init__(str(error))
        self.error, self.given = error, given

    @property
    def seen(self) -> str:
        """What was raised, in a whole sentence."""
        if isinstance(self.error, DeviceContractError):  # in skpat's own words
            return str(self.error)
        said = f"measure raised {type(self.error).__name__}: {self.error}".rstrip(": ")
        return said if said.endswith((".", "!", "?")) else f"{said}."

    @property
    def mend(self) -> str:
        """What to do about an error that has no name of its own."""
        if isinstance(self.error, DeviceContractError):
            return ""
        rows = ""
        if self.given is not None and self.given[0] > 1 and not isinstance(self.error, OSError):
            rows = f"It was given an array of shape {self.given}: loop over its rows, if it takes one at a time. "
        return (
            f"{rows}Legal settings must be measured without an error; raise an OSError (a TimeoutError, say) only if the "
            "line is broken or no answer has come in time."
        )


class AnotherAnswerError(Exception):
    """After opening again the answers are others."""


class ObservedDevice:
    """Hands everything on to a device and notes what a session does not show: it copies answers and swallows errors.

    Parameters
    ----------
    device : Device

    Attributes
    ----------
    n_calls : int
        Calls of ``measure``.
    seconds : float
        Time spent in them.
    modified : bool
        Whether the driver wrote to the controls that it was handed.
    dtypes : set of dtype
        Of the answers.
    events : list of str
        "open", "safe_state" and "close", in order.
    errors : list of (str, Exception)
        What they raised.
    given : tuple of int or None
        Shape of what the last call was given, until there is an answer.
    """

    def __init__(self, device: Any):
        self.device = device
        self.n_calls, self.seconds, self.modified = 0, 0.0, False
        self.dtypes: set[np.dtype] = set()
        self.events: list[str] = []
        self.errors: list[tuple[str, Exception]] = []
        self._answers: list[tuple[np.ndarray, np.ndarray]] = []
        self._rows_before: int | None = None
        self.given: tuple[int, int] | None = None

    def __getattr__(self, name: str) -> Any:
        if name == "device":  # half-made, while it is copied
            raise AttributeError(name)
        return getattr(self.device, name)

    @property
    def name(self) -> str:
        return device_name(self.device)

    @property
    def max_retries(self) -> int:
        return min(getattr(self.device, "max_retries", 0) or 0, 2)

    def measure(self, batch: ControlBatch) -> np.ndarray:
        """The device's answer, looked at before anybody copies it."""
        self.n_calls += 1
        self.given = None if self.dtypes else (batch.n_rows, batch.n_controls)
        varying, shared = np.array(batch.varying), np.array(batch.shared)
        begun = time.perf_counter()
        try:
            answer = readings_of(call_hook(self.device, "measure", batch))
        finally:
            self.seconds += time.perf_counter() - begun
            self.modified |= not (np.array_equal(varying, batch.varying) and np.array_equal(shared, batch.shared))
        rows_before, self._rows_before = self._rows_before, batch.n_rows
        self._check(answer, batch, rows_before)
        self.given = None
        self.dtypes.add(answer.dtype)
        self._answers = [*self._answers[-_KEPT:], (answer, answer.copy())]
        return answer

    def _check(self, answer: np.ndarray, batch: ControlBatch, rows_before: int | None) -> None:
        name, n_outputs, shape = device_name(self.device), self.device.n_outputs, answer.shape
        if shape == () and answer.dtype.kind == "O" and answer.item() is None:
            raise WrongAnswerError("shape", f"{name}.measure returned None.", "Is a 'return' missing?")
        if answer.dtype.kind in "OUS" and answer.ndim == 2:
            raise WrongAnswerError("dtype", f"{name}.measure must return real numbers.", explain_no_numbers(answer))
        if answer.dtype.kind not in "fiub":
            raise WrongAnswerError(
                "dtype",
                f"{name}.measure returned numbers of dtype {answer.dtype}, which are not real numbers.",
                "Return a float array: the real part or the magnitude of complex readings, or both as outputs; "
                "np.array(readings, dtype=float) for a list of objects.",
            )
        if shape == (batch.n_rows, n_outputs):
            return
        seen = f"{name}.measure returned shape {shape} for {batch.n_rows} rows and {n_outputs} outputs."
        mend = "Return an array of shape (n_rows, n_outputs), one row for each row of controls."
        if shape == (n_outputs, batch.n_rows):
            seen += " The outputs are transposed."
            mend = "Return outputs.T: one row for each row of controls."
        elif batch.n_rows == 1 and shape == (n_outputs,):
            seen += " A single row was squeezed to one dimension."
            mend = "Return outputs.reshape(len(controls), -1), also for a single row."
        elif rows_before is not None and shape == (rows_before, n_outputs):
            seen += f" That is the answer to the call before, of {rows_before} rows: a stale buffer."
            mend = "Wait for the answer to this call, and clear the buffer before sending."
        elif len(shape) == 2 and shape[1] == n_outputs and shape[0] < batch.n_rows:
            seen += " Rows are missing."
            mend += " If the instrument takes fewer rows at once, state that as max_batch."
        raise WrongAnswerError("shape", seen, mend)

    def reuses_its_buffer(self) -> bool:
        """Whether a later call changed an answer given before."""
        return any(not np.array_equal(held, copy, equal_nan=held.dtype.kind == "f") for held, copy in self._answers)

    def open(self) -> None:
        self._hand_on("open")

    def close(self) -> None:
        self._hand_on("close")

    def safe_state(self) -> None:
        self._hand_on("safe_state")

    def set_shared(self, batch: ControlBatch) -> None:
        call_hook(self.device, "set_shared", batch)

    def identify(self) -> str:
        return call_hook(self.device, "identify") or ""

    def check_controls(self, batch: ControlBatch) -> Any:
        return call_hook(self.device, "check_controls", batch)

    def _hand_on(self, what: str) -> None:
        self.events.append(what)
        try:
            call_hook(self.device, what)
        except Exception as error:
            self.errors.append((what, error))
            raise
