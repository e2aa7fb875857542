"""A device drifts as its clock says: a random walk of a stated size, the same however its rows are divided."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from skpat import ControlBatch
from skpat.devices import Drifting, IdentityDevice, Noisy, Quantized
from skpat.exceptions import ControlBoundsError
from skpat.lab import Session

from .wrapped_bench import Bench, Noted, bench, in_parts, settings_of, wrapped


def test_the_drift_grows_with_the_square_root_of_the_number_of_rows() -> None:
    device = Drifting(bench(4000), common=0.0, independent=0.02, random_state=0)
    clock = [0, 100, 500, 1000, 4000]
    drift = device.drift(clock)
    assert (drift[0] == 0).all()
    expected = 0.02 * np.sqrt(np.array(clock[1:]) / 1000)
    np.testing.assert_allclose(drift[1:].std(axis=1), expected, rtol=0.05)
    np.testing.assert_allclose(drift[1:].mean(axis=1) / expected, 0, atol=0.06)
    increments = np.diff(device.drift(np.arange(0, 1001, 100)), axis=0)
    correlation = np.corrcoef(increments)[np.triu_indices(10, 1)]
    assert abs(correlation).max() < 0.07  # a random walk: what comes does not depend on what was
    between = device.drift([150])
    np.testing.assert_allclose(between, device.drift([100, 200]).mean(axis=0, keepdims=True))


def test_common_drift_is_that_of_all_channels_and_has_its_size() -> None:
    after = [Drifting(bench(3), common=0.03, random_state=seed).drift([1000])[0] for seed in range(400)]
    assert (np.ptp(after, axis=1) == 0).all()
    assert abs(np.std(after) / 0.03 - 1) < 0.1
    drift = Drifting(bench(2), common=0.0, independent=0.03, random_state=0).drift(np.arange(0, 200_000, 100))
    steps = np.diff(drift, axis=0)
    assert abs(np.corrcoef(steps.T)[0, 1]) < 0.07


def test_the_drift_is_a_fraction_of_the_range_and_stops_at_the_bounds() -> None:
    class Wide(IdentityDevice):
        pass

    inner = Wide(2, 2, bounds=[[0.0, 10.0], [-1.0, 0.0]])
    device = Drifting(inner, common=0.02, random_state=1)
    middle = np.tile([5.0, -0.5], (2000, 1))
    moved = device.measure(middle) - middle
    np.testing.assert_allclose(moved / [10.0, 1.0], device.drift(np.arange(2000)), atol=1e-12)
    assert np.ptp(moved[100:200, 0]) > 0  # from row to row
    ends = Drifting(inner, common=1.0, random_state=1).measure(middle)
    assert {ends[:, 0].min(), ends[:, 0].max()} & {0.0, 10.0}


def test_gains_drift_too() -> None:
    inner = IdentityDevice(2, 2, bounds=[[-1, 1]] * 2)
    asked = np.tile([0.5, -0.25], (300, 1))
    for on in ("control_gains", "outputs"):
        device = Drifting(inner, common=0.1, independent=0.1, on=on, random_state=0)
        drift = device.drift(np.arange(300))
        np.testing.assert_allclose(device.measure(asked), asked * (1 + drift))
        assert not np.allclose(drift[-1, 0], drift[-1, 1])


@pytest.mark.parametrize("in_two", [False, True])
def test_a_misalignment_comes_at_once_and_stays(in_two: bool) -> None:
    n = 500
    device = Drifting(bench(n), common=0.0, misalignment=0.05, misalignment_at=37, random_state=0)
    asked = np.full((60, n), 0.5)
    batch: Any = asked
    if in_two:
        batch = ControlBatch(asked[:, :200], np.arange(200), asked[0, 200:], np.arange(200, n))
    moved = device.measure(batch) - asked
    assert (moved[:37] == 0).all()
    assert (moved[37:] == moved[37]).all()
    assert abs(moved[37].std() / 0.05 - 1) < 0.1
    assert abs(moved[37, :200].std() / 0.05 - 1) < 0.15


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=5),
    st.booleans(),
    st.sampled_from(["controls", "control_gains", "outputs"]),
    st.integers(0, 500),
    st.sampled_from([[Drifting], [Quantized, Drifting], [Drifting, Drifting], [Drifting, Noisy, Drifting]]),
)
@settings(max_examples=20)
def test_the_same_clock_gives_the_same_answer_however_the_rows_are_divided(
    sizes: list[int], shared: bool, on: str, start: int, classes: list[type]
) -> None:
    n_rows = sum(sizes)
    controls = settings_of(n_rows)
    batch = in_parts(controls, keys=True) if shared else ControlBatch.from_dense(controls)
    batch = batch.named(np.arange(n_rows, dtype=np.uint64))

    def device() -> Any:
        return wrapped(classes, Bench()).set_params(on=on) if classes[0] is Drifting else wrapped(classes, Bench())

    whole = device().measure(batch.started_at(start))
    other, row, parts = device(), 0, []
    for size in sizes:
        parts.append(other.measure(batch.rows(slice(row, row + size)).started_at(start + row)))
        row += size
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    np.testing.assert_array_equal(other.measure(batch.started_at(start)), whole)  # the clock set back
    again = pickle.loads(pickle.dumps(other)).measure(batch.started_at(start))
    np.testing.assert_array_equal(again, whole)


def test_a_device_on_its_own_counts_its_rows() -> None:
    one, other = (Drifting(Bench(), random_state=0) for _ in range(2))
    controls = settings_of(300)
    parts = [one.measure(controls[:120]), one.measure(controls[120:])]
    np.testing.assert_array_equal(np.concatenate(parts), other.measure(controls))
    assert not np.array_equal(other.measure(controls), np.concatenate(parts))
    nested = Drifting(Drifting(Bench(), random_state=0), random_state=1)
    nested.measure(controls)
    (seen,) = nested.device.device.calls
    np.testing.assert_array_equal(seen.clock, np.arange(300))


def test_a_session_tells_the_time() -> None:
    device = Drifting(Bench(), common=0.05, random_state=0)
    controls = np.clip(settings_of(130), None, 5.4)
    session = Session(device)
    first, second = session.measure(controls[:60]), session.measure(controls[60:])  # the latter in pieces of 50 rows
    expected = clone(device).measure(ControlBatch.from_dense(controls).started_at(0))
    np.testing.assert_array_equal(np.concatenate([first, second]), expected)


def test_shared_channels_that_are_sent_apart_follow_the_drift() -> None:
    inner = Noted()
    device = Drifting(Quantized(inner, control_bits=16), independent=0.02, common=0.0, random_state=0)
    controls = np.tile([0.15, 0.0, 5.3, -2.0], (30, 1))
    batch = in_parts(device.device.legal(controls, np.arange(4), controls))
    with Session(device) as session:
        for _ in range(10):
            session.measure(batch)
    sent = [event for event in inner.events if not isinstance(event, str)]
    assert len(sent) == 3  # at rows 0, 100 and 200
    np.testing.assert_allclose(sent[0], [0.15, 5.3], atol=1e-4)
    expected = np.array([0.15, 5.3]) + device.drift([0, 100, 200])[:, [0, 2]] * [0.3, 0.7]
    np.testing.assert_allclose(sent, expected, atol=1e-4)
    received = [np.asarray(call)[0] for call in inner.calls]
    assert all(any((row[[0, 2]] == value).all() for value in sent) for row in received)
    assert len(pickle.loads(pickle.dumps(device)).device.device.events) == len(inner.events)


def test_what_drifts_beyond_a_veto_stops_the_measurement() -> None:
    device = Drifting(Noted(), common=0.0, misalignment=3.0, misalignment_at=0, random_state=2)
    assert device.drift([0])[0, 1] > 0
    with pytest.raises(ControlBoundsError, match="too much in channel 1"):
        Session(device).measure(np.tile([0.1, 0.85, 5.5, -1.0], (2, 1)))
    assert device.device.calls == []


def test_without_a_seed_every_object_has_a_drift_of_its_own() -> None:
    device = Drifting(bench(1), common=0.1)
    path = device.drift([1000])
    assert (device.drift([1000]) == path).all()
    assert (pickle.loads(pickle.dumps(device)).drift([1000]) == path).all()
    assert (clone(device).drift([1000]) != path).all()
    two = Drifting(Drifting(bench(1), random_state=0), random_state=0)
    assert two.drift([1000]) != two.device.drift([1000])


def test_a_long_walk_is_the_same_from_any_point() -> None:
    far = np.array([1_000_000, 1_000_050])
    steps, at_once = (Drifting(bench(40), independent=0.01, random_state=0) for _ in range(2))
    for clock in range(0, 1_000_000, 50_000):
        steps.drift([clock])
    np.testing.assert_array_equal(steps.drift(far), at_once.drift(far))
    np.testing.assert_array_equal(
        steps.drift([100]), Drifting(bench(40), independent=0.01, random_state=0).drift([100])
    )
