"""Nothing outside the limits is sent: bounds of device and user, steps, changes, veto."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from skpat import ControlBatch, ControlSplit, Device, PhysicalNetworkClassifier, check_device
from skpat.devices import Noisy, Quantized
from skpat.exceptions import ControlBoundsError, DeviceConnectionError, DeviceContractError, DeviceOutputError
from skpat.lab import Session
from skpat.network.forward import Network


class Recorder(Device):
    """Its outputs are its controls; keeps what it received."""

    n_outputs = 2

    def __init__(self, n_controls: int = 2, bounds: Any = (0.0, 1.0), **about: Any):
        self.n_controls = n_controls
        self.bounds = bounds
        self.__dict__.update(about)
        self.received: list[np.ndarray] = []

    def measure(self, batch: ControlBatch) -> np.ndarray:
        self.received.append(np.array(batch))
        return self.received[-1][:, :2]


NUMBERS = st.floats(allow_nan=True, allow_infinity=True, width=64) | st.sampled_from(
    [0.0, -0.0, 5e-324, -5e-324, np.nan, np.inf, -np.inf, 1e308, 1.0, np.nextafter(1, 2)]
)


@st.composite
def settings_and_bounds(draw: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ends = st.floats(-1e6, 1e6)
    bounds = np.sort(np.array(draw(st.lists(st.tuples(ends, ends), min_size=2, max_size=2))), axis=1)
    bounds[:, 1] = np.maximum(bounds[:, 1], np.nextafter(bounds[:, 0], np.inf))
    own = np.sort(np.array(draw(st.lists(st.tuples(ends, ends), min_size=2, max_size=2))), axis=1)
    inside = st.floats(0, 1).map(lambda u: float(bounds[0, 0] + u * (bounds[0, 1] - bounds[0, 0])))
    shape = draw(st.sampled_from([(0, 2), (1, 2), (3, 2), (3, 1), (2, 3)]))
    dtype = draw(st.sampled_from(["float64", "float32"]))
    values = hnp.arrays("float64", shape, elements=NUMBERS | inside)
    with np.errstate(all="ignore"):
        return draw(values).astype(dtype), bounds, own


@given(settings_and_bounds(), st.booleans(), st.booleans())
def test_whatever_is_asked_for_nothing_outside_the_bounds_is_sent(
    case: tuple[np.ndarray, np.ndarray, np.ndarray], stricter: bool, in_parts: bool
) -> None:
    controls, bounds, own = case
    device = Recorder(bounds=bounds, max_batch=2)
    inner = np.column_stack([np.maximum(bounds[:, 0], own[:, 0]), np.minimum(bounds[:, 1], own[:, 1])])
    if stricter and (inner[:, 0] > inner[:, 1]).any():
        with pytest.raises(ValueError, match=r"must overlap those of Recorder.*Give bounds within these"):
            Session(device, bounds=own)
        return
    limits = inner if stricter else bounds
    batch: Any = controls
    if in_parts and len(controls) and controls.shape[1] == 2:
        batch = ControlBatch(controls[:, :1], np.array([1]), controls[0, 1:], np.array([0]))
        controls = np.asarray(batch)
    legal = controls.shape[1] == 2 and bool(((controls >= limits[:, 0]) & (controls <= limits[:, 1])).all())
    session = Session(device, bounds=own if stricter else None)
    if legal:
        session.measure(batch)
        assert sum(map(len, device.received)) == len(controls)
    else:
        with pytest.raises(ValueError, match="Nothing was sent"):
            session.measure(batch)
        assert device.received == []
    for received in device.received:
        assert ((received >= limits[:, 0]) & (received <= limits[:, 1])).all()


def test_stricter_bounds_of_the_wrong_shape_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"'bounds' must be \(low, high\) or have shape \(2, 2\)\. Got 'narrow'\. Use bounds=None"
    ):
        Session(Recorder(), bounds="narrow")


def test_stricter_bounds_are_told() -> None:
    with pytest.raises(
        ControlBoundsError, match=r"Got 0\.7 in channel 0, row 0 \(bounds 0 to 0\.5\)\. Nothing was sent"
    ):
        Session(Recorder(), bounds=(-3, 0.5)).measure([[0.7, 0.1]])


# ---- steps ----


def test_values_between_steps_are_refused() -> None:
    device = Recorder(bounds=[(-1.0, 1.0), (0.0, 10.0)], control_steps=[0.0, 2.5])
    Session(device).measure([[0.123, 7.5], [0.5, 0.0]])
    Session(device).measure(np.array([[0.123, 7.5]], dtype=np.float32))
    with pytest.raises(
        ControlBoundsError,
        match=r"must be whole steps above its lower bounds\. Got 3 in channel 1, row 1 \(step 2\.5 from 0\)",
    ):
        Session(device).measure([[0.1, 2.5], [0.1, 3.0]])
    assert len(device.received) == 2


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_network_sends_whole_steps_and_learns_through_them(dtype: Any) -> None:
    rng = np.random.RandomState(0)
    X = rng.uniform(-1, 1, (60, 2)).astype(dtype)
    y = X[:, 0] > 0
    device = Recorder(8, (-0.3, 1.0), control_steps=[0.1, 0.1, 0.1, 0.25, 0, 0, 0.1, 1.3])
    device.n_outputs = 2

    class Stepped(Recorder):
        received: list[np.ndarray] = []

        def __init__(self, n_controls=8, bounds=(-0.3, 1.0), control_steps=None):
            self.n_controls, self.bounds, self.control_steps = n_controls, bounds, control_steps

        def measure(self, batch):
            type(self).received.append(np.array(batch))
            c = np.asarray(batch)
            return np.column_stack([c[:, ::2].sum(axis=1), c[:, 1::2].sum(axis=1)])

    steps = np.array([0.1, 0.1, 0.1, 0.25, 0, 0, 0.1, 1.3])
    network = PhysicalNetworkClassifier(
        Stepped(control_steps=steps), max_iter=10, n_calibration_shots=80, random_state=0
    )
    assert network.fit(X, y).score(X, y) > 0.9
    sent = np.concatenate(Stepped.received).astype(np.float64)
    whole = (sent + 0.3)[:, steps > 0] / steps[steps > 0]
    np.testing.assert_allclose(whole, np.round(whole), atol=1e-4)
    assert len(np.unique(sent[:, 4])) > 50  # continuous channels stay so


# ---- changes from row to row ----


def test_too_large_a_change_is_refused_within_a_batch_and_after_it() -> None:
    device = Recorder(max_change=[0.2, np.float64(1.0)], control_units="V")
    session = Session(device)
    session.measure([[0.0, 0.0], [0.2, 1.0], [0.4, 0.0]])
    with pytest.raises(
        ControlBoundsError,
        match=r"change little enough from row to row\. Got 0\.7 in channel 0, row 1 \(0\.4 in the row before, .*0\.2 V",
    ) as error:
        session.measure([[0.4, 0.0], [0.7, 0.0]])
    assert (error.value.row, error.value.channel, error.value.value) == (1, 0, 0.7)
    with pytest.raises(
        ControlBoundsError, match=r"from the row sent before\. Got 0\.9 in channel 0, row 0 \(0\.4 was sent"
    ):
        session.measure([[0.9, 0.0]])
    assert len(device.received) == 1
    session.measure([[0.6, 1.0]])


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_rounded_numbers_may_change_by_the_largest_change(offset: float) -> None:
    rows = (offset + 0.1 * np.arange(11.0))[:, None] * np.ones(2)
    session = Session(Recorder(bounds=(offset, offset + 1), max_change=0.1))
    session.measure(rows.astype(np.float32))
    session.measure(rows[::-1].astype(np.float32))
    for dtype, share in ((np.float32, 1.001), (np.float64, 1 + 1e-6)):
        with pytest.raises(ControlBoundsError, match="change little enough"):
            session.measure((offset + 0.1 * np.array([[0.0, 0.0], [share, 0.0]])).astype(dtype))
    wide = Session(Recorder(bounds=(0, 1e9), max_change=1.0))  # what counts is the rounding of the values themselves
    with pytest.raises(ControlBoundsError, match="change little enough"):
        wide.measure(np.array([[0, 0], [1.001, 0]], dtype=np.float32))


def test_the_second_shot_of_a_batch_starts_from_its_last_row() -> None:
    device = Recorder(max_change=0.2)
    with pytest.raises(ControlBoundsError, match="from the row sent before"):
        Session(device, n_shots=2).measure([[0.0, 0.0], [0.2, 0.0], [0.4, 0.0]])
    assert device.received == []


@given(st.permutations(range(4)), st.integers(1, 4), st.integers(0, 3), st.sampled_from([0.999, 1.001]))
def test_each_channel_has_its_own_largest_change_however_a_batch_is_split(
    order: list[int], n_varying: int, moved: int, share: float
) -> None:
    limits = np.array([0.1, 0.2, 0.4, 0.8])
    rows = np.zeros((2, 4))
    rows[1, moved] = share * limits[moved]
    varying, shared = np.array(order[:n_varying]), np.array(order[n_varying:], dtype=int)
    if moved in varying:  # from row to row, else from call to call
        batches = [ControlBatch(rows[:, varying], varying, rows[0, shared], shared)]
    else:
        batches = [ControlBatch(row[None, varying], varying, row[shared], shared) for row in rows]
    device = Recorder(4, max_change=limits)
    session = Session(device)
    if share < 1:
        for batch in batches:
            session.measure(batch)
        return
    for batch in batches[:-1]:
        session.measure(batch)
    with pytest.raises(ControlBoundsError, match=f"change little enough .*in channel {moved}, .*max_change 0"):
        session.measure(batches[-1])
    assert all((received == 0).all() for received in device.received)


def test_stricter_bounds_leave_the_steps_where_the_device_has_them() -> None:
    device = Recorder(control_steps=0.25)
    session = Session(device, bounds=(0.1, 0.9))
    session.measure([[0.25, 0.75]])
    with pytest.raises(ControlBoundsError, match=r"whole steps above its lower bounds\. Got 0\.35 in channel 0"):
        session.measure([[0.35, 0.5]])
    assert len(device.received) == 1


def test_a_piece_is_held_against_what_another_session_sent_after_the_piece_before() -> None:
    class Visited(Recorder):
        def measure(self, batch: ControlBatch) -> np.ndarray:
            outputs = super().measure(batch)
            if len(self.received) == 2:
                visitor.measure([[0.0, 0.0]])
            return outputs

    device = Visited(max_change=0.2, max_batch=1)
    session, visitor = Session(device), Session(device)
    with pytest.raises(ControlBoundsError, match=r"Got 0\.4 in channel 0, row 0 \(0 was sent before"):
        session.measure([[0.0, 0.0], [0.2, 0.0], [0.4, 0.0]])
    assert [received[0, 0] for received in device.received] == [0.0, 0.2, 0.0]
    assert session.ledger.total == 2


# ---- the device's own veto ----


def test_a_veto_of_the_device_stops_a_batch_as_a_whole() -> None:
    class Fragile(Recorder):
        def check_controls(self, batch: ControlBatch) -> None:
            power = np.square(np.asarray(batch)).sum(axis=1)
            if (power > 1).any():
                raise ControlBoundsError(f"The power must be at most 1. Got {power.max():g}. Nothing was sent.")

    device = Fragile(max_batch=1)
    with pytest.raises(ControlBoundsError, match=r"The power must be at most 1\. Got 1\.28"):
        Session(device).measure([[0.1, 0.1], [0.8, 0.8]])
    assert device.received == []


@pytest.mark.parametrize("answer", [False, np.False_, True])
@pytest.mark.parametrize("wrap", [lambda device: device, Noisy, lambda device: Quantized(device)])
def test_a_veto_that_is_returned_and_not_raised_is_told(answer: Any, wrap: Any) -> None:
    class Answering(Recorder):
        def check_controls(self, batch: ControlBatch) -> Any:
            return answer

    device = Answering()
    with pytest.raises(
        DeviceContractError, match=r"must raise .*ControlBoundsError where it objects.*Nothing was sent"
    ):
        Session(wrap(device)).measure([[0.1, 0.1]])
    assert device.received == []
    assert "return nothing" in str(check_device(Answering(), on_fail=None)["veto"])


# ---- what a hostile reader found ----


def test_a_repeat_may_not_jump_back_either() -> None:
    class Blinking(Recorder):
        def measure(self, batch: ControlBatch) -> np.ndarray:
            return super().measure(batch) * np.nan

    device = Blinking(max_change=0.2)
    session = Session(device)
    with pytest.raises(DeviceOutputError, match=r"Got nan in output 0.*It was not repeated: the way back") as caught:
        session.measure(np.linspace(0, 1, 12).reshape(-1, 1) * [1, 1])
    assert len(device.received) == 1
    assert caught.value.shots_done["prediction"] == session.ledger.total == 12
    assert isinstance(caught.value.__cause__, ControlBoundsError)

    class Cut(Recorder):
        def measure(self, batch: ControlBatch) -> np.ndarray:
            super().measure(batch)
            raise ConnectionResetError("the cable was pulled")

    with pytest.raises(DeviceConnectionError, match=r"the cable was pulled\. It was not repeated: the way back"):
        Session(Cut(max_change=0.2)).measure(np.linspace(0, 1, 12).reshape(-1, 1) * [1, 1])


def test_a_driver_that_works_in_place_fails_instead_of_sending_something_else() -> None:
    class InPlace(Recorder):
        def measure(self, batch: ControlBatch) -> np.ndarray:
            batch.varying[...] *= 3
            return super().measure(batch)

    device = InPlace()
    controls = np.full((2, 2), 0.5)
    with pytest.raises(ValueError, match="read-only"):
        Session(device).measure(controls)
    assert (controls == 0.5).all()
    assert device.received == []


@pytest.mark.parametrize(("high", "bits"), [(10.0, 16), (1.0, 20)])
def test_float32_can_be_used_with_fine_steps(high: float, bits: int) -> None:
    step = 2 * high / (2**bits - 1)
    device = Recorder(bounds=(-high, high), control_steps=step)
    levels = np.random.RandomState(0).randint(0, 2**bits, (50, 2))
    Session(device).measure(np.clip(-high + levels * step, -high, high).astype(np.float32))
    with pytest.raises(ControlBoundsError, match="whole steps"):
        Session(device).measure(-high + (levels[:1] + 0.4) * step)


def test_channel_numbers_that_change_in_place_are_noticed() -> None:
    device = Recorder(bounds=[(0.0, 1.0), (0.0, 100.0)])
    session = Session(device)
    index, rest = np.array([1]), np.array([0])
    session.measure(ControlBatch(np.array([[100.0]]), index, np.array([0.5]), rest))
    index[0], rest[0] = 0, 1
    with pytest.raises(ControlBoundsError, match="Got 100 in channel 0"):
        session.measure(ControlBatch(np.array([[100.0]]), index, np.array([0.5]), rest))


@pytest.mark.parametrize("as_array", [False, True])
@pytest.mark.parametrize(
    ("limit", "wide", "narrow"),
    [
        ("bounds", [(0.0, 1.0)] * 2, [(0.0, 0.5), (0.0, 1.0)]),
        ("max_change", 0.5, 0.1),
        ("control_steps", [0.1, 0.1], [0.25, 0.1]),
    ],
)
def test_limits_that_narrow_while_a_session_is_open_are_obeyed(
    limit: str, wide: Any, narrow: Any, as_array: bool
) -> None:
    device = Recorder(**{limit: np.array(wide) if as_array else wide})
    session = Session(device)
    session.measure(np.array([[0.4, 0.0]]))
    if as_array:
        getattr(device, limit)[...] = narrow  # in place
    else:
        setattr(device, limit, narrow)
    with pytest.raises(ControlBoundsError, match=r"Nothing was sent"):
        session.measure(np.array([[0.4, 0.0], [0.7, 0.0]]))
    assert sum(map(len, device.received)) == 1


@pytest.mark.parametrize("bounds", [0.5, (0,), [[0]] * 2, [(0, 1)], (0, 0.5, 1)], ids=str)
def test_stricter_bounds_of_another_shape_are_refused(bounds: Any) -> None:
    device = Recorder()
    with pytest.raises(ValueError, match=r"'bounds' must be \(low, high\) or have shape \(2, 2\)"):
        Session(device, bounds=bounds)
    assert device.received == []


@given(
    low=st.floats(-100, 100), width=st.floats(1e-2, 100), bits=st.integers(1, 16), seed=st.integers(0, 2**31 - 1),
    dtype=st.sampled_from([np.float32, np.float64]),
)  # fmt: skip
@example(low=-1.1, width=2.2, bits=16, seed=0, dtype=np.float32)
@settings(max_examples=60, deadline=None)
def test_what_a_network_sends_in_steps_is_taken(low: float, width: float, bits: int, seed: int, dtype: type) -> None:
    device = Recorder(6, (low, low + width), control_steps=width / (2**bits - 1))
    made = Network(
        split=ControlSplit().resolve(6),
        bounds=np.array([[low, low + width]] * 6),
        control_steps=device.control_steps,
        n_features=2,
        n_outputs=2,
        n_targets=2,
    )
    controls = made.legal(made.uniform_on_device(np.random.default_rng(seed).uniform(size=(200, 6)).astype(dtype)))
    with Session(device) as session:
        session.measure(controls)
    np.testing.assert_array_equal(device.received[0], controls)


def test_a_value_that_lies_outside_by_a_rounding_is_told_with_all_digits() -> None:
    with pytest.raises(
        ControlBoundsError, match=r"Got 0\.09999999999999999 in channel 0, row 0 \(bounds 0\.1 to 3\.3\)"
    ):
        Session(Recorder(2, (0.1, 3.3))).measure(np.array([[np.nextafter(0.1, 0), 1.0]]))
