"""What is a usable answer, what stands in for a reading that is none, and which row is named."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from skpat import ControlBatch, as_device
from skpat.exceptions import DeviceOutputError
from skpat.lab import Journal, Session
from skpat.lab.answers import inspect, mask

from .recorded_device import POOL, Counter

LOW, HIGH = -1.0, 2.0
READINGS = hnp.arrays(
    st.sampled_from(["f4", "f8"]),
    st.tuples(st.integers(1, 4), st.just(2)),
    elements=st.sampled_from([-3.0, LOW, -0.5, 0.0, 0.25, 1.5, HIGH, 4.0, np.nan, np.inf, -np.inf]),
)


@given(READINGS, st.booleans())
def test_readings_at_an_end_of_the_range_are_bad_and_the_mean_of_the_good_ones_stands_in(
    outputs: np.ndarray, has_range: bool
) -> None:
    device = SimpleNamespace(name="scope", n_outputs=2, output_range=(LOW, HIGH) if has_range else None)
    finite = np.isfinite(outputs)
    good = finite & (outputs > LOW) & (outputs < HIGH) if has_range else finite
    found, fault, _ = inspect(device, outputs, len(outputs), 0)
    assert fault == ("not_finite" if not finite.all() else None if good.all() else "saturated")
    np.testing.assert_array_equal(found, outputs)
    masked = mask(device, outputs)
    if not finite[:, ~good.any(axis=0)].all():
        assert masked is None
        return
    assert masked is not None
    assert masked.dtype == outputs.dtype
    for column, readings, is_good in zip(masked.T, outputs.T, good.T, strict=True):
        if not is_good.any():  # saturated in all rows: at the end of the range
            np.testing.assert_array_equal(column, np.clip(readings, LOW, HIGH))
            continue
        np.testing.assert_array_equal(column[is_good], readings[is_good])
        np.testing.assert_allclose(column[~is_good], readings[is_good].mean(dtype=float), rtol=1e-6)


def test_a_bad_reading_is_found_in_its_row_where_other_rows_are_on_record(tmp_path: Path) -> None:
    class Blinking(Counter):
        def measure(self, batch: ControlBatch) -> Any:
            return super().measure(batch) * np.where(np.asarray(batch) == POOL[3, 0], np.nan, 1.0)[:, :2]

    device = Blinking(max_batch=1)
    with Journal(tmp_path / "run.db") as journal:
        with Session(device, journal=journal) as session:
            session.measure(POOL[:2])
        with Session(device, journal=journal) as session, pytest.raises(DeviceOutputError, match="output 0, row 3"):
            session.measure(POOL)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (None, r"shape \(n_rows, n_outputs\) = \(4, 2\)\. Got None\. Is a 'return' missing\?"),
        (np.ones((2, 4)), r"Got \(2, 4\)\. Return outputs\.T: one row for each row of controls\."),
        (np.ones((4, 3)), r"Got \(4, 3\)\. skpat\.check_device\(device\) looks for the cause\."),
        ([[1.0, None]] * 4, r"Got None in output 1, row 0 of the call: no answer came\. Raise a TimeoutError"),
        ([["1.0", "OVLD"]] * 4, r"Got 'OVLD' in output 1, row 0 of the call\. Return a float array; np\.nan stands"),
        ([["1.0", "2.0"]] * 4, r"Got dtype <U3\. Return a float array\."),
    ],
)
def test_what_came_instead_of_readings_is_told(answer: Any, told: str) -> None:
    device = as_device(lambda controls: answer, n_controls=1, n_outputs=2, bounds=(0, 1), on_bad_output="raise")
    with pytest.raises(DeviceOutputError, match=told):
        Session(device).measure(POOL[:4, :1])
