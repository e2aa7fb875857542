"""Whether what a device answered can be used."""

from __future__ import annotations

from typing import Any

import numpy as np

from skpat.controls import readings_of
from skpat.devices.specification import device_name
from skpat.exceptions import DeviceOutputError

__all__ = ["IncompleteAnswer", "advise", "explain_no_numbers", "inspect", "mask"]


class IncompleteAnswer(DeviceOutputError):
    """What a driver raises in place of an answer of the wrong shape, and a session treats as one."""


def inspect(device: Any, answer: Any, n_rows: int, first_row: int) -> tuple[np.ndarray, str | None, str]:
    """Look at an answer.

    Parameters
    ----------
    device : Device
    answer : array
        What its ``measure`` returned.
    n_rows : int
        Rows that were asked for.
    first_row : int
        The number of the first of them, for the message.

    Returns
    -------
    outputs : ndarray
        A copy (a driver may fill one buffer again and again), float32 or float64.
    fault : {None, "shape", "not_finite", "saturated"}
    message : str
        What is wrong, and what to do.
    """
    outputs = np.array(readings_of(answer))
    name, expected = device_name(device), (n_rows, device.n_outputs)
    if outputs.shape != expected:
        return (
            outputs,
            "shape",
            f"{name}.measure must return an array of shape (n_rows, n_outputs) = {expected}. {_seen(outputs, expected)}",
        )
    if outputs.dtype.kind not in "fiub":
        return (
            outputs,
            "shape",
            f"{name}.measure must return real numbers. {explain_no_numbers(outputs)}",
        )
    if outputs.dtype not in (np.float32, np.float64):
        outputs = outputs.astype(np.float64)
    if np.count_nonzero(np.isfinite(outputs)) != outputs.size:
        row, output = (int(i) for i in np.argwhere(~np.isfinite(outputs))[0])
        return (
            outputs,
            "not_finite",
            (
                f"{name}.measure must return finite numbers. Got {outputs[row, output]} in output {output}, row "
                f"{first_row + row}. Check the detector and its range."
            ),
        )
    limits = getattr(device, "output_range", None)
    if limits is not None:
        low, high = limits
        saturated = (outputs <= low) | (outputs >= high)
        if saturated.any():
            row, output = (int(i) for i in np.argwhere(saturated)[0])
            return (
                outputs,
                "saturated",
                (
                    f"{name}.measure must return readings within its output_range, {low:g} to {high:g}. Got "
                    f"{outputs[row, output]:g} in output {output}, row {first_row + row}: saturated. Lower the gain or the "
                    "bounds."
                ),
            )
    return outputs, None, ""


def mask(device: Any, outputs: np.ndarray) -> np.ndarray | None:
    """Put the mean of the good readings of an output in the place of its bad ones; without any, saturated ones stay.

    Parameters
    ----------
    device : Device
    outputs : ndarray of shape (n_rows, n_outputs)

    Returns
    -------
    ndarray or None
        None if an output has no good reading, and one that is not finite.
    """
    bad = _is_bad(device, outputs)
    n_good = (~bad).sum(axis=0)
    without = n_good == 0
    if not np.isfinite(outputs[:, without]).all():
        return None
    mean = np.where(bad, 0, outputs).sum(axis=0, dtype=np.float64) / np.maximum(n_good, 1)
    masked = np.where(bad, mean.astype(outputs.dtype), outputs)
    if without.any():  # an instrument that clips has told the end of its range, at least
        masked[:, without] = np.clip(outputs[:, without], *device.output_range)
    return masked


def _is_bad(device: Any, outputs: np.ndarray) -> np.ndarray:
    bad = ~np.isfinite(outputs)
    limits = getattr(device, "output_range", None)
    if limits is not None:
        with np.errstate(invalid="ignore"):
            bad |= (outputs <= limits[0]) | (outputs >= limits[1])
    return bad


def advise(device: Any, outputs: np.ndarray, policy: str, repeats: bool) -> str:
    """What to do where bad readings have ended a measurement: a sentence for the end of the message."""
    if policy == "mask":
        worst = (~_is_bad(device, outputs)).sum(axis=0) + np.isfinite(outputs).all(axis=0)
        where = f"output {int(np.argmin(worst))}"
        none = f"No row of the call had a good reading of {where} to put in the place of a bad one"
        return f"{none}: measure more rows at once, or leave the output out of the driver if it never has one."
    allow = "Allow it with on_bad_output='mask'"
    return f"{allow}, or lower max_batch: a repeat takes all {len(outputs)} rows." if repeats else f"{allow}."


def _seen(outputs: np.ndarray, expected: tuple[int, int]) -> str:
    """What came in place of so many rows and outputs, and what may have made it."""
    if outputs.shape == () and outputs.dtype.kind == "O" and outputs.item() is None:
        return "Got None. Is a 'return' missing?"
    if outputs.shape == expected[::-1]:
        return f"Got {outputs.shape}. Return outputs.T: one row for each row of controls."
    return f"Got {outputs.shape}. skpat.check_device(device) looks for the cause."


def explain_no_numbers(outputs: np.ndarray) -> str:
    """Of an answer (n_rows, n_outputs): what was read that is no number, and what to do."""
    if outputs.dtype.kind == "c":
        return f"Got dtype {outputs.dtype}. Return the real part, the magnitude, or both as outputs of their own."
    for (row, output), value in np.ndenumerate(outputs):
        where = f"in output {output}, row {row} of the call"
        if value is None:
            return (
                f"Got None {where}: no answer came. Raise a TimeoutError where a reading is None, and the call is repeated; "
                "np.nan stands for a single bad reading."
            )
        if isinstance(value, (str, bytes)) and not _is_numeral(value):
            return f"Got {str(value)!r} {where}. Return a float array; np.nan stands for a reading that is none."
    return f"Got dtype {outputs.dtype}. Return a float array."


def _is_numeral(text: str | bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
