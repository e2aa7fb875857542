"""What may be sent: bounds, steps, changes from row to row, and the device's own veto."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from skpat.controls import ControlBatch
from skpat.devices.specification import ask_veto, check_device_specification, device_name
from skpat.exceptions import ControlBoundsError

__all__ = ["Limits"]

_STEP_TOLERANCE = 1e-3  # of a step: a grid value that went through float32 is still on the grid
_IN_STEPS = (
    " A network sets all channels anew in every row: for a training let measure itself go there in small steps, and state no "
    "max_change."
)
_CHANGE_TOLERANCE = 1e-9


class Limits:
    """Checks a batch as a whole, before its first value is sent.

    Parameters
    ----------
    device : Device
        Its ``bounds``, ``control_steps``, ``max_change`` and ``check_controls`` are read.
    bounds : (low, high) or array-like of shape (n_controls, 2), default=None
        Stricter bounds of the user's own, in the device's units. What is legal must lie within both.
    """

    def __init__(self, device: Any, bounds: Any = None):
        self.device = device
        self._own_bounds = bounds
        self._read()

    def _read(self) -> None:
        """Take the limits over from the device."""
        self._device_bounds = check_device_specification(self.device)
        self._stated = self._all_stated()
        shape = self._device_bounds.shape
        self.bounds = self._device_bounds
        if self._own_bounds is not None:
            try:
                own = np.asarray(self._own_bounds, dtype=np.float64)
            except (TypeError, ValueError):
                own = np.empty(0)
            if own.shape not in ((2,), shape):
                raise ValueError(
                    f"'bounds' must be (low, high) or have shape {shape}. Got {self._own_bounds!r}. "
                    "Use bounds=None for those of the device."
                )
            own = np.broadcast_to(own, shape)
            self.bounds = np.column_stack(
                [np.maximum(self._device_bounds[:, 0], own[:, 0]), np.minimum(self._device_bounds[:, 1], own[:, 1])]
            )
            empty = ~(self.bounds[:, 0] <= self.bounds[:, 1])
            if empty.any():
                channel = int(np.argmax(empty))
                raise ValueError(
                    f"'bounds' must overlap those of {device_name(self.device)}. Got {own[channel].tolist()} for channel "
                    f"{channel} (the device allows {self._device_bounds[channel].tolist()}). "
                    "Give bounds within these, or bounds=None for the device's own."
                )
        self._steps = _per_channel(getattr(self.device, "control_steps", None), len(self.bounds))
        self._max_change = _per_channel(getattr(self.device, "max_change", None), len(self.bounds))
        self._parts: tuple[tuple[np.ndarray, np.ndarray, np.ndarray], ...] | None = None
        self._names_of_parts: list[tuple[Any, ...]] = []

    def _all_stated(self) -> tuple[Any, ...]:
        return tuple(_content(getattr(self.device, name, None)) for name in ("bounds", "control_steps", "max_change"))

    def check(self, batch: ControlBatch) -> ControlBatch:
        """The batch as floats.

        Raises
        ------
        ControlBoundsError
            If a value is not legal. Nothing was sent.
        ValueError
            If the batch does not set every channel once. Nothing was sent.
        """
        if self._all_stated() != self._stated:  # changed since
            self._read()
        if batch.n_controls != len(self.bounds):
            raise ValueError(
                f"The 'controls' passed to {device_name(self.device)}.measure must have {len(self.bounds)} channels. "
                f"Got {batch.n_controls}. Nothing was sent."
            )
        for part in (batch.varying, batch.shared):
            if part.dtype.kind not in "fiub":
                raise ControlBoundsError(
                    f"The 'controls' passed to {device_name(self.device)}.measure must be real numbers. "
                    f"Got dtype {part.dtype}. Nothing was sent."
                )
        if batch.varying.dtype.kind != "f" or batch.shared.dtype.kind != "f":
            batch = replace(batch, varying=batch.varying.astype(float), shared=batch.shared.astype(float))
        parts = self._parts_of(batch.varying_index, batch.shared_index)
        for values, (index, low, high) in zip((batch.varying, batch.shared[None, :]), parts, strict=True):
            legal = (values >= low) & (values <= high)  # NaN fails both comparisons
            if np.count_nonzero(legal) != legal.size:
                self._refuse(values, ~legal, index, "lie within its bounds", lambda c: self._range_of(c))
            if self._steps is not None:
                self._check_steps(values, index)
        if self._max_change is not None:
            self.check_changes(batch, None)
        ask_veto(self.device, batch)
        return batch

    def check_changes(self, batch: ControlBatch, last_row: np.ndarray | None) -> None:
        """Raise ControlBoundsError if a channel changes by more than ``max_change`` between rows.

        Parameters
        ----------
        batch : ControlBatch
        last_row : ndarray of shape (n_controls,) or None
            The row that was sent before, where it is known.
        """
        if self._max_change is None or not batch.n_rows:
            return
        before = np.concatenate([batch.varying[:1], batch.varying[:-1]])
        jumps = self._are_too_far(batch.varying, before, batch.varying_index)
        if jumps.any():
            row_before = before[np.argwhere(jumps)[0][0]].tolist()
            was = dict(zip(batch.varying_index.tolist(), row_before, strict=True))
            self._refuse(
                batch.varying,
                jumps,
                batch.varying_index,
                "change little enough from row to row",
                lambda c: f"{was[c]:g} in the row before, {self._change_of(c)}",
                _IN_STEPS,
            )
        if last_row is not None:
            first = np.asarray(batch.rows(slice(0, 1)))
            jumps = self._are_too_far(first, last_row, np.arange(first.shape[1]))
            if jumps.any():
                self._refuse(
                    first,
                    jumps,
                    np.arange(first.shape[1]),
                    "change little enough from the row sent before",
                    lambda c: f"{last_row[c]:g} was sent before, {self._change_of(c)}",
                    _IN_STEPS,
                )

    def _are_too_far(self, values: np.ndarray, before: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Which values of the channels ``index`` differ by more than they may, and than two such values are rounded by."""
        assert self._max_change is not None
        rounding = np.spacing(np.maximum(np.abs(values), np.abs(before)).astype(values.dtype))
        return np.abs(values - before) > self._max_change[index] * (1 + _CHANGE_TOLERANCE) + rounding

    @property
    def limits_changes(self) -> bool:
        """Whether the device states a ``max_change``."""
        return self._max_change is not None

    def between_steps(self, values: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Which values, of shape (..., n_channels) for the channels ``index``, are not whole steps above the lower bounds."""
        if self._steps is None:
            return np.zeros(values.shape, dtype=bool)
        step = self._steps[index]
        step_or_one = np.where(step > 0, step, 1.0)
        whole = (values - self._device_bounds[index, 0]) / step_or_one
        rounding = 4 * np.finfo(values.dtype).eps * np.abs(self._device_bounds[index]).max(axis=1) / step_or_one
        return (np.abs(whole - np.round(whole)) > np.minimum(_STEP_TOLERANCE + rounding, 0.5)) & (step > 0)

    def _check_steps(self, values: np.ndarray, index: np.ndarray) -> None:
        off = self.between_steps(values, index)
        if off.any():
            self._refuse(values, off, index, "be whole steps above its lower bounds", self.step_of)

    def step_of(self, channel: int) -> str:
        """The steps of a channel that has some, in words."""
        assert self._steps is not None
        return f"step {self._steps[channel]:g} from {self._device_bounds[channel, 0]:g}{self._units}"

    def _refuse(
        self, values: np.ndarray, wrong: np.ndarray, index: np.ndarray, what: str, legal: Any, advice: str = ""
    ) -> None:
        row, column = (int(i) for i in np.argwhere(wrong)[0])
        channel, value = int(index[column]), float(values[row, column])
        limits, said = legal(channel), f"{value:g}"
        if said in limits:  # it differs in a later digit
            said = repr(value)
        raise ControlBoundsError(
            f"The 'controls' passed to {device_name(self.device)}.measure must {what}. Got {said} in channel {channel}, "
            f"row {row} ({limits}). Nothing was sent.{advice}",
            row=row,
            channel=channel,
            value=value,
        )

    def _range_of(self, channel: int) -> str:
        low, high = self.bounds[channel]
        return f"bounds {low:g} to {high:g}{self._units}"

    def _change_of(self, channel: int) -> str:
        assert self._max_change is not None
        return f"max_change {self._max_change[channel]:g}{self._units}"

    @property
    def _units(self) -> str:
        units = getattr(self.device, "control_units", "")
        return f" {units}" if units else ""

    def _parts_of(self, *indices: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], ...]:
        """(channels, low, high) of both parts, worked out once for equal index arrays."""
        names = [_content(index) for index in indices]
        if self._parts is not None and names == self._names_of_parts:
            return self._parts
        channels = np.concatenate(indices)
        if (np.bincount(channels, minlength=len(self.bounds)) != 1).any():
            raise ValueError(
                f"The 'controls' passed to {device_name(self.device)}.measure must set every channel once. "
                f"Got channels {channels.tolist()}. Nothing was sent."
            )
        self._parts = tuple((index.copy(), self.bounds[index, 0], self.bounds[index, 1]) for index in indices)
        self._names_of_parts = names
        return self._parts


def _content(values: Any) -> tuple[Any, ...]:
    """What to compare to see whether numbers have changed: for some hundred of them ten times as fast as with numpy."""
    if values is None:
        return ()
    if isinstance(values, np.ndarray):
        return values.dtype, values.shape, values.tobytes()
    try:
        return tuple(map(tuple, values))
    except TypeError:  # (low, high), or nothing that can be bounds
        return (np.asarray(values, dtype=object).tolist(),)


def _per_channel(value: Any, n_controls: int) -> np.ndarray | None:
    return None if value is None else np.broadcast_to(np.asarray(value, dtype=np.float64), (n_controls,))
