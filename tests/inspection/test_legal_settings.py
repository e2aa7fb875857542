"""Whatever is drawn from the box of legal settings may be sent in any order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from skpat import ControlBatch, Device, characterize
from skpat.inspection.legal_settings import LegalSettings, measured_in_runs
from skpat.lab.limits import Limits


class Stage(Device):
    """Two channels of unequal bounds."""

    n_controls = n_outputs = 2

    def __init__(self, bounds: Any, control_steps: Any = None, max_change: Any = None):
        self.bounds = bounds
        self.control_steps = control_steps
        self.max_change = max_change


@given(
    st.tuples(st.floats(-10, 10), st.floats(-10, 10)),
    st.tuples(st.floats(0.1, 20), st.floats(0.1, 20)),
    st.none() | st.tuples(st.sampled_from([0.0, 0.25, 0.1]), st.sampled_from([0.0, 1 / 7])),
    st.none() | st.floats(0.15, 1.5),
    st.booleans(),
)
@settings(max_examples=50)
def test_any_order_of_settings_in_the_box_is_legal(
    low: tuple[float, float], width: tuple[float, float], steps: Any, share: float | None, is_narrowed: bool
) -> None:
    bounds = np.column_stack([low, np.add(low, width)])
    change = None if share is None else share * np.array(width)
    if steps is not None:  # room for one step at least
        assume((np.array(steps) < 0.45 * np.array(width)).all())
        assume(change is None or (np.array(steps) < 0.99 * change).all())
    device = Stage(bounds, steps, change)
    own = (
        np.column_stack([bounds[:, 0] + 0.05 * np.array(width), bounds[:, 1]])
        if is_narrowed and steps is None
        else None
    )
    legal = LegalSettings(device, np.random.RandomState(0), own)
    corners = np.array([[0, 0], [1, 1], [0, 1], [1, 0], [0.5, 0.5], [1, 1], [0, 0]])
    sent = np.concatenate([legal.from_unit(corners), legal.draw(5)])
    limits = Limits(device, own)
    for row in sent:
        assert legal.veto(row) is None
    if change is not None:
        assert (np.abs(sent[:, None] - sent[None]) <= change * (1 + 1e-9)).all()
    assert ((sent >= limits.bounds[:, 0]) & (sent <= limits.bounds[:, 1])).all()
    assert np.ptp(sent, axis=0).min() > 0


def test_a_channel_that_may_change_by_one_step_is_not_called_dead() -> None:
    class Mixer(Stage):
        def measure(self, batch: ControlBatch) -> np.ndarray:
            one, other = np.asarray(batch).T
            return np.column_stack([one * other, one + other])

    found = characterize(Mixer([[0.0, 1.0]] * 2, control_steps=1 / 7, max_change=0.25), n_shots=400)
    assert found.dead_channels.tolist() == found.dead_outputs.tolist() == []
    assert any("max_change" in restriction for restriction in found.restrictions)


@pytest.mark.parametrize("offset", [0.0, 1e6, -1e6])
def test_rounding_of_large_bounds_moves_no_channel_too_far(offset: float) -> None:
    bounds = np.array([[offset, offset + 0.03]] * 2)
    box = LegalSettings(Stage(bounds, 0.003, 0.006), np.random.RandomState(0))
    assert (box.high - box.low <= 0.006 * (1 + 1e-9)).all()
    assert (box.high - box.low > 0.0029).all()


def test_the_share_of_the_range_is_that_of_the_steps_within() -> None:
    box = LegalSettings(Stage(np.array([[0.0, 1.0]] * 2), 0.1, 0.19), np.random.RandomState(0))
    assert box.restrictions == ["max_change: settings stay within 10% of the range of a channel"]


def test_channels_that_stand_still_have_one_legal_value() -> None:
    box = LegalSettings(Stage(np.array([[0.0, 1.0]] * 2), 0.25), np.random.RandomState(0), still=[1])
    drawn = box.draw(20)
    assert np.ptp(drawn, axis=0)[1] == 0 < np.ptp(drawn, axis=0)[0]
    assert drawn[0, 1] in (0, 0.25, 0.5, 0.75, 1)
    assert box.restrictions == []


def test_rows_that_agree_in_slow_channels_make_a_call_that_shares_them() -> None:
    controls = np.array([[0.0, 1, 2], [1, 1, 2], [2, 1, 3], [3, 1, 2], [4, 1, 2]])
    calls = []

    def measure(batch: ControlBatch) -> np.ndarray:
        calls.append((batch.row_keys.tolist(), batch.shot, batch.shared.tolist(), batch.shared_index.tolist()))
        return np.asarray(batch)

    named = ControlBatch.from_dense(controls).named(np.arange(5, dtype=np.uint64), 7)
    np.testing.assert_array_equal(measured_in_runs(measure, named, np.array([1, 2])), controls)
    assert calls == [([0, 1], 7, [1, 2], [1, 2]), ([2], 7, [1, 3], [1, 2]), ([3, 4], 7, [1, 2], [1, 2])]
    calls.clear()
    measured_in_runs(measure, named, np.empty(0, dtype=int))
    assert len(calls) == 1
