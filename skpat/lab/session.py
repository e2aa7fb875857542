"""The one way to a device: everything sent is checked, batched, averaged and counted here."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np

from skpat.controls import ControlBatch, as_numpy
from skpat.devices.base import check_device_specification, device_name
from skpat.exceptions import ControlBoundsError, DeviceOutputError
from skpat.lab.ledger import Ledger, check_purpose
from skpat.row_keys import combine_keys

__all__ = ["Session"]


class Session:
    """Measure on a device: bounds first, then the device, then the count.

    Parameters
    ----------
    device : Device
        What to measure on. It is opened at the first measurement and closed with the session.
    n_shots : int, default=1
        Measurements of each row, averaged.
    ledger : Ledger, default=None
        Where shots are counted. None: a new one.

    Attributes
    ----------
    ledger : Ledger

    Notes
    -----
    The whole batch is checked before its first row is sent, so an illegal value means that nothing was sent. Rows are
    then sent in pieces of at most the device's ``max_batch``. A shot is counted when it has been asked for, whether or
    not its answer is usable.

    Shots are numbered so that a simulated device draws new noise for each: a batch measured without a number gets
    the session's next one.

    Examples
    --------
    >>> import numpy as np
    >>> from skpat import as_device
    >>> from skpat.lab import Session
    >>> device = as_device(lambda controls: controls**2, n_controls=2, n_outputs=2, bounds=(0, 1))
    >>> with Session(device, n_shots=3) as session:
    ...     outputs = session.measure(np.array([[0.5, 1.0]]))
    >>> outputs, session.ledger.shots["prediction"]
    (array([[0.25, 1.  ]]), 3)
    >>> session.measure(np.array([[0.5, 1.5]]))
    Traceback (most recent call last):
        ...
    skpat.exceptions.ControlBoundsError: The 'controls' passed to <lambda>.measure must lie within its bounds. Got 1.5 \
in channel 1, row 0 (bounds 0 to 1). Nothing was sent.
    """

    def __init__(self, device: Any, *, n_shots: int = 1, ledger: Ledger | None = None):
        self._bounds = check_device_specification(device)
        if isinstance(n_shots, bool) or not isinstance(n_shots, (int, np.integer)) or n_shots < 1:
            raise ValueError(f"'n_shots' of a Session must be an int of at least 1. Got {n_shots!r}.")
        self.device = device
        self.n_shots = int(n_shots)
        self.ledger = Ledger.of(device) if ledger is None else ledger
        self._lock = threading.RLock()
        self._open = False
        self._next_shot = 0
        self._limits: tuple[tuple[np.ndarray, np.ndarray, np.ndarray], ...] | None = None

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the device if this session opened it. The session may be used again."""
        with self._lock:
            if self._open:
                self._open = False
                getattr(self.device, "close", _nothing)()

    def measure(
        self, batch: ControlBatch | np.ndarray, *, purpose: str = "prediction", shot: int | None = None
    ) -> np.ndarray:
        """Measure every row ``n_shots`` times and average.

        Parameters
        ----------
        batch : ControlBatch or array of shape (n_rows, n_controls)
            Settings in the device's units.
        purpose : {"calibration", "training", "validation", "prediction"}, default="prediction"
            What the shots are counted as.
        shot : int, default=None
            Number of the first shot, for noise that must repeat. None: the session's next.

        Returns
        -------
        ndarray of float, shape (n_rows, n_outputs)
            In the device's dtype where that is a float, else float64.

        Raises
        ------
        ControlBoundsError
            If a value lies outside its bounds or is not finite, or the device vetoes it. Nothing was sent.
        ValueError
            If the batch has the wrong number of channels. Nothing was sent.
        DeviceOutputError
            If the device returns a wrong shape, NaN or infinity.
        """
        check_purpose(purpose)
        batch = self._check(ControlBatch.from_dense(batch).numpy())
        with self._lock:
            if not self._open:
                getattr(self.device, "open", _nothing)()
                self._open = True
            first = self._next_shot if shot is None else shot
            if shot is None:
                self._next_shot += self.n_shots
            total = self._measure_once(batch, first, purpose)
            for number in range(first + 1, first + self.n_shots):
                total = total + self._measure_once(batch, number, purpose)
        return total / self.n_shots if self.n_shots > 1 else total

    def run(
        self, row_keys: np.ndarray, purpose: str, *, shot: int | None = None
    ) -> Callable[[ControlBatch, int, int], np.ndarray]:
        """A ``run(batch, layer, unit)`` for the network's forward pass: this device, every row named.

        Parameters
        ----------
        row_keys : ndarray of uint64, shape (n_rows,)
            Names of the rows of X; layer and unit are mixed in.
        purpose, shot
            As in :meth:`measure`.

        Returns
        -------
        callable
            Gives outputs (n_rows, n_outputs) in the dtype of the controls.
        """

        def run(batch: ControlBatch, layer: int, unit: int) -> np.ndarray:
            batch = batch.numpy().named(combine_keys(row_keys, layer, unit))
            return self.measure(batch, purpose=purpose, shot=shot).astype(batch.varying.dtype, copy=False)

        return run

    def _measure_once(self, batch: ControlBatch, shot: int, purpose: str) -> np.ndarray:
        limit = getattr(self.device, "max_batch", None) or max(batch.n_rows, 1)
        pieces = [
            self._measure_piece(batch.rows(slice(start, start + limit)).named_shot(shot), purpose, start)
            for start in range(0, batch.n_rows, limit)
        ]
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) if pieces else np.empty((0, self.device.n_outputs))

    def _measure_piece(self, piece: ControlBatch, purpose: str, first_row: int) -> np.ndarray:
        self.ledger.add(purpose, piece.n_rows)
        outputs = np.array(as_numpy(self.device.measure(piece)))  # a copy: a driver may fill one buffer again and again
        expected = (piece.n_rows, self.device.n_outputs)
        name = device_name(self.device)
        if outputs.shape != expected:
            raise DeviceOutputError(
                f"{name}.measure must return an array of shape (n_rows, n_outputs) = {expected}. Got {outputs.shape}.",
                shots_done=self.ledger.shots,
            )
        if outputs.dtype.kind not in "fiub":
            raise DeviceOutputError(
                f"{name}.measure must return real numbers. Got dtype {outputs.dtype}. Return the real part, the "
                "magnitude, or both as outputs of their own.",
                shots_done=self.ledger.shots,
            )
        if outputs.dtype not in (np.float32, np.float64):
            outputs = outputs.astype(np.float64)
        if not np.isfinite(outputs).all():
            row, output = (int(i) for i in np.argwhere(~np.isfinite(outputs))[0])
            raise DeviceOutputError(
                f"{name}.measure must return finite numbers. Got {outputs[row, output]} in output {output}, row "
                f"{first_row + row}. "
                "Check the detector and its range.",
                shots_done=self.ledger.shots,
            )
        return outputs

    def _check(self, batch: ControlBatch) -> ControlBatch:
        """The batch as floats, or an error if it is not legal as a whole; nothing has been sent."""
        bounds = np.asarray(self.device.bounds, dtype=np.float64)
        if not np.array_equal(bounds, self._bounds):  # changed since they were checked
            self._bounds, self._limits = check_device_specification(self.device), None
        name = device_name(self.device)
        n_controls = self.device.n_controls
        if batch.n_controls != n_controls:
            raise ValueError(
                f"The 'controls' passed to {name}.measure must have {n_controls} channels. Got {batch.n_controls}. "
                "Nothing was sent."
            )
        for part in (batch.varying, batch.shared):
            if part.dtype.kind not in "fiub":
                raise ControlBoundsError(
                    f"The 'controls' passed to {name}.measure must be real numbers. Got dtype {part.dtype}. "
                    "Nothing was sent."
                )
        if batch.varying.dtype.kind != "f" or batch.shared.dtype.kind != "f":
            batch = replace(batch, varying=batch.varying.astype(float), shared=batch.shared.astype(float))
        limits = self._limits_of(batch.varying_index, batch.shared_index)
        for values, (index, low, high) in zip((batch.varying, batch.shared[None, :]), limits, strict=True):
            if not values.size or (np.all(values >= low) and np.all(values <= high)):
                continue  # NaN fails both comparisons
            row, column = (int(i) for i in np.argwhere(~((values >= low) & (values <= high)))[0])
            channel, value = int(index[column]), float(values[row, column])
            units = getattr(self.device, "control_units", "")
            raise ControlBoundsError(
                f"The 'controls' passed to {name}.measure must lie within its bounds. Got {value:g} in channel {channel}, "
                f"row {row} (bounds {low[column]:g} to {high[column]:g}{' ' + units if units else ''}). Nothing was sent.",
                row=row,
                channel=channel,
                value=value,
            )
        getattr(self.device, "check_controls", _accept)(batch)
        return batch

    def _limits_of(self, *indices: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], ...]:
        """(channels, low, high) of both parts, worked out once for the same two index arrays."""
        known = self._limits
        if known is not None and all(index is part[0] for index, part in zip(indices, known, strict=True)):
            return known
        channels = np.concatenate(indices)
        if (np.bincount(channels, minlength=self.device.n_controls) != 1).any():
            raise ValueError(
                f"The 'controls' passed to {device_name(self.device)}.measure must set every channel once. "
                f"Got channels {channels.tolist()}. Nothing was sent."
            )
        self._limits = tuple((index, self._bounds[index, 0], self._bounds[index, 1]) for index in indices)
        return self._limits


def _nothing() -> None:
    pass


def _accept(batch: ControlBatch) -> None:
    pass
