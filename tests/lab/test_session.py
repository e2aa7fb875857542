"""Nothing illegal reaches the device, and all that does is batched, averaged and counted."""

from __future__ import annotations

import contextlib
import itertools
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from skpat import ControlBatch, Device, as_device
from skpat.devices import SecondHarmonicLaser
from skpat.exceptions import ControlBoundsError, DeviceContractError, DeviceOutputError
from skpat.lab import Ledger, Session
from skpat.row_keys import combine_keys


class Recorder(Device):
    """Three channels between 0 and 1; its outputs are its controls. Notes everything that happens to it."""

    control_units = "V"

    def __init__(
        self, n_controls=3, bounds=((0.0, 1.0),) * 3, max_batch=None, answer=None, on_bad_output="raise", **about
    ):
        self.n_controls = self.n_outputs = n_controls
        self.bounds = bounds
        self.max_batch = max_batch
        self.on_bad_output = on_bad_output
        self.__dict__.update(about)
        self.answer = answer  # what measure returns in place of the controls: a function of (batch, call number)
        self.events: list[str] = []
        self.batches: list[ControlBatch] = []
        self.sent: list[np.ndarray] = []

    def open(self) -> None:
        self.events.append("open")

    def close(self) -> None:
        self.events.append("close")

    def measure(self, batch):
        self.events.append("measure")
        self.batches.append(batch)
        self.sent.append(np.array(batch))
        return self.sent[-1] if self.answer is None else self.answer(batch, len(self.sent))


def controls_of(n_rows: int, n_controls: int = 3) -> np.ndarray:
    """Different legal values in every place."""
    return np.linspace(0, 1, n_rows * n_controls).reshape(n_rows, n_controls)


# ---- nothing outside the bounds is ever sent ----

NASTY = [float("nan"), float("inf"), float("-inf"), 5e-324, -5e-324, 1e-310, -0.0, 1.7e308, -1.7e308]


@st.composite
def anything(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Bounds (n_controls, 2), and controls (n_rows, n_controls) that may or may not lie within them."""
    n_controls, n_rows = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    ends = st.floats(allow_nan=False, allow_infinity=False, width=draw(st.sampled_from([32, 64])))
    pairs = st.lists(ends, min_size=2, max_size=2, unique=True)
    bounds = np.array([sorted(draw(pairs)) for _ in range(n_controls)])
    careless = draw(st.booleans())

    def value(low: float, high: float) -> st.SearchStrategy[float]:
        legal = st.one_of(st.floats(low, high), st.sampled_from([low, high]))
        beyond = [math.nextafter(low, -math.inf), math.nextafter(high, math.inf)]
        return st.one_of(legal, st.sampled_from(beyond + NASTY), st.floats()) if careless else legal

    rows = [[draw(value(*ends)) for ends in bounds.tolist()] for _ in range(n_rows)]
    return bounds, np.array(rows)


@given(
    anything(),
    st.sampled_from(["dense", "list", "parts", "torch"]),
    st.booleans(),
    st.integers(1, 5),
    st.integers(1, 2),
)
@example((np.array([[0.0, 1.797e308]]), np.zeros((1, 1))), "dense", False, 1, 1)
@example((np.array([[-1.797e308, 1.797e308]]), np.zeros((1, 1))), "dense", False, 1, 1)
@settings(max_examples=300)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")  # of our own values, to float32
def test_nothing_illegal_is_ever_sent(drawn, kind: str, narrow: bool, max_batch: int, n_shots: int) -> None:
    bounds, controls = drawn
    device = Recorder(len(bounds), bounds, max_batch, answer=lambda batch, call: np.zeros((len(batch), len(bounds))))
    session = Session(device, n_shots=n_shots)
    if narrow and kind != "list":
        controls = controls.astype(np.float32)
    batch = controls
    if kind == "list":
        batch = controls.tolist()
    elif kind == "torch":
        batch = ControlBatch.from_dense(torch.from_numpy(controls))
    elif kind == "parts":  # the even channels are shared: as in the first row
        controls = controls.copy()
        controls[:, ::2] = controls[0, ::2]
        odd, even = np.arange(1, len(bounds), 2), np.arange(0, len(bounds), 2)
        batch = ControlBatch(controls[:, odd], odd, controls[0, even], even)
    illegal = [
        (row, channel)
        for row, values in enumerate(controls.tolist())
        for channel, value in enumerate(values)
        if not bounds[channel, 0] <= value <= bounds[channel, 1]
    ]
    if illegal:
        with pytest.raises(ControlBoundsError, match="Nothing was sent") as caught:
            session.measure(batch)
        error = caught.value
        assert (error.row, error.channel) in illegal
        np.testing.assert_equal(error.value, controls[error.row, error.channel])
        assert device.events == []  # not the legal rows before it either; not even opened
        assert session.ledger.total == 0
    else:
        session.measure(batch)
        np.testing.assert_array_equal(np.concatenate(device.sent), np.concatenate([controls] * n_shots))


@pytest.mark.parametrize("shape", [(2, 2), (2, 4), (0, 2), (3,), (), (1, 2, 3)])
def test_a_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    device = Recorder()
    with pytest.raises(ValueError, match=r"must have 3 channels\. Got .*Nothing was sent|shape \(n_rows, n_controls\)"):
        Session(device).measure(np.full(shape, 0.5))
    assert device.events == []


def test_the_refusal_says_what_where_and_why() -> None:
    message = (
        r"The 'controls' passed to Recorder\.measure must lie within its bounds\. Got 1\.27 in channel 2, row 1 "
        r"\(bounds -1 to 1 V\)\. Nothing was sent\."
    )
    with pytest.raises(ControlBoundsError, match=message):
        Session(Recorder(bounds=((-1.0, 1.0),) * 3)).measure(np.array([[0.5, 0.5, 0.5], [0.5, 0.5, 1.27]]))
    with pytest.raises(ValueError, match=r"passed to Recorder\.measure must have 3 channels\. Got 2\. Nothing was"):
        Session(Recorder()).measure(np.zeros((1, 2)))


def test_the_device_may_veto_a_legal_batch() -> None:
    class Fused(Recorder):
        def check_controls(self, batch):
            self.events.append(f"check {batch.n_rows} rows")
            if np.asarray(batch).sum(axis=1).max() > 2:
                raise ControlBoundsError("The total power is above 2 W. Nothing was sent.", row=1)

    device = Fused(max_batch=1)
    session = Session(device)
    with pytest.raises(ControlBoundsError, match="total power") as caught:
        session.measure(np.array([[0.1, 0.1, 0.1], [0.9, 0.9, 0.9]]))
    assert caught.value.row == 1
    assert device.events == ["check 2 rows"]
    assert session.ledger.total == 0
    session.measure(np.full((2, 3), 0.1))
    assert device.events[1:] == ["check 2 rows", "open", "measure", "measure"]


def test_a_class_is_not_a_device() -> None:
    with pytest.raises(DeviceContractError, match=r"must be an object, not a class.*Use Recorder\(\)"):
        Session(Recorder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("n_shots", value) for value in (0, -1, 1.5, True, "2")],
        *[("max_shots", value) for value in (-1, 2.5, False, "many")],
        *[("wait", value) for value in (-0.1, math.nan, True, "a minute")],
        ("ledger", {}),
        ("journal", 3),
        ("identity", 7),
    ],
)
def test_parameters_of_another_kind_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"'{name}' of a Session must be .* Got {value!r}\."):
        Session(Recorder(), **{name: value})


def test_a_batch_must_name_every_channel_once() -> None:
    device = Recorder()
    with pytest.raises(ValueError, match="channel"):
        Session(device).measure(ControlBatch(np.full((1, 3), 0.5), np.array([0, 0, 2]), np.empty(0), np.empty(0, int)))
    assert device.sent == []


def test_parts_of_different_precision_stay_within_the_bounds() -> None:
    device = Recorder(bounds=((0.0, 0.1),) * 3)
    batch = ControlBatch(np.zeros((1, 2), dtype=np.float32), np.array([0, 1]), np.array([0.1]), np.array([2]))
    Session(device).measure(batch)
    assert float(device.sent[0].max()) <= 0.1


def test_complex_controls_are_refused() -> None:
    device = Recorder()
    with pytest.raises((TypeError, ValueError), match="complex"):
        Session(device).measure(np.full((1, 3), 0.5 + 9j))


def test_values_under_a_mask_are_checked_too() -> None:
    device = Recorder()
    with pytest.raises(ValueError, match="Nothing was sent"):
        Session(device).measure(np.ma.masked_array([[0.5, 0.5, 99.0]], mask=[[False, False, True]]))


def test_a_device_that_works_in_place_cannot_change_the_next_shot() -> None:
    sent = []

    def scale_in_place(voltages):
        sent.append(voltages.copy())
        voltages *= 10
        return voltages.copy()

    controls = np.full((1, 3), 0.5)
    device = as_device(scale_in_place, n_controls=3, n_outputs=3, bounds=(0, 1))
    with contextlib.suppress(ValueError):  # a read-only array is a good answer too
        Session(device, n_shots=2).measure(controls)
    assert np.max(sent) <= 1
    np.testing.assert_array_equal(controls, 0.5)


# ---- batching and averaging ----


@given(st.integers(0, 12), st.integers(1, 5), st.integers(1, 4))
def test_splitting_keeps_the_order(n_rows: int, max_batch: int, n_shots: int) -> None:
    device = Recorder(max_batch=max_batch)
    controls = controls_of(n_rows)
    keys = np.arange(n_rows, dtype=np.uint64)
    session = Session(device, n_shots=n_shots)
    outputs = session.measure(ControlBatch.from_dense(controls).named(keys))
    np.testing.assert_allclose(outputs, controls, rtol=1e-15)
    assert outputs.shape == (n_rows, 3)
    assert all(1 <= len(piece) <= max_batch for piece in device.sent)
    assert len(device.sent) == n_shots * -(-n_rows // max_batch)
    for shot in range(n_shots):
        pieces = [batch for batch in device.batches if batch.shot == shot]
        assert [key for piece in pieces for key in piece.row_keys] == keys.tolist()
    assert session.ledger.total == n_rows * n_shots


def test_without_a_limit_a_batch_goes_in_one_piece() -> None:
    device = Recorder()
    Session(device).measure(controls_of(1000))
    assert [len(piece) for piece in device.sent] == [1000]


def test_the_shared_part_is_handed_on_to_every_piece() -> None:
    device = Recorder(max_batch=2)
    shared = np.array([0.25])
    Session(device, n_shots=2).measure(ControlBatch(controls_of(5, 2), np.array([0, 2]), shared, np.array([1])))
    assert len(device.batches) == 6
    assert all(np.shares_memory(batch.shared, shared) for batch in device.batches)


@given(st.integers(1, 5), st.integers(1, 3), st.integers(1, 3))
def test_shots_are_averaged(n_shots: int, n_rows: int, max_batch: int) -> None:
    device = Recorder(max_batch=max_batch, answer=lambda batch, call: np.asarray(batch) + 100.0 * batch.shot)
    outputs = Session(device, n_shots=n_shots).measure(controls_of(n_rows))
    np.testing.assert_allclose(outputs, controls_of(n_rows) + 100 * (n_shots - 1) / 2)


def test_rows_of_different_lengths_are_a_wrong_shape() -> None:
    n_calls = [0]

    def measure(controls: np.ndarray) -> list[list[float]]:
        n_calls[0] += 1
        rows = controls.tolist()
        return [*rows[:-1], rows[-1][:1]] if n_calls[0] < 3 else rows

    device = as_device(measure, n_controls=2, n_outputs=2, bounds=(0, 1), max_retries=2)
    with Session(device) as session:
        np.testing.assert_array_equal(session.measure(np.full((3, 2), 0.5)), np.full((3, 2), 0.5))
    assert session.ledger.faults["shape"] == 2
    n_calls[0] = -9
    with Session(device) as session, pytest.raises(DeviceOutputError, match=r"= \(3, 2\). Got \(3,\)"):
        session.measure(np.full((3, 2), 0.5))


@pytest.mark.parametrize("how", [{"max_batch": 1}, {"n_shots": 2}, {"calls": 2}])
def test_a_device_may_use_its_buffer_again(how: dict[str, int]) -> None:
    buffer = np.empty((how.get("max_batch", 3), 3))

    def fill(batch, call):
        buffer[:] = np.asarray(batch) + (batch.shot if "n_shots" in how else 0)
        return buffer

    session = Session(Recorder(max_batch=how.get("max_batch"), answer=fill), n_shots=how.get("n_shots", 1))
    outputs = session.measure(controls_of(3))
    if "calls" in how:
        session.measure(np.zeros((3, 3)))
    np.testing.assert_allclose(outputs, controls_of(3) + (0.5 if "n_shots" in how else 0))


# ---- numbering of shots ----


def test_shots_are_numbered_on() -> None:
    device = Recorder()
    session = Session(device, n_shots=3)
    session.measure(controls_of(1))
    session.measure(controls_of(1))
    session.measure(controls_of(1), shot=100)
    session.measure(controls_of(1))
    assert [batch.shot for batch in device.batches] == [0, 1, 2, 3, 4, 5, 100, 101, 102, 6, 7, 8]


def test_repeats_differ_and_a_numbered_shot_repeats() -> None:
    session = Session(SecondHarmonicLaser(6, 4, random_state=0), n_shots=2)
    batch = ControlBatch.from_dense(np.full((3, 6), 0.5)).named(np.arange(3, dtype=np.uint64))
    first, second = session.measure(batch), session.measure(batch)
    assert (first != second).all()
    np.testing.assert_array_equal(session.measure(batch, shot=5), session.measure(batch, shot=5))
    np.testing.assert_array_equal(session.measure(batch, shot=0), first)
    np.testing.assert_array_equal(session.measure(batch, shot=2), second)


# ---- counting ----


def test_shots_are_counted_under_their_purpose() -> None:
    ledger = Ledger()
    session = Session(Recorder(max_batch=2), n_shots=2, ledger=ledger)
    assert session.ledger is ledger
    for n_rows, purpose in enumerate(("calibration", "training", "validation", "prediction"), start=1):
        session.measure(controls_of(n_rows), purpose=purpose)
    assert ledger.shots == {"calibration": 2, "training": 4, "validation": 6, "prediction": 8}
    session.measure(controls_of(1))
    assert ledger.shots["prediction"] == 10


def test_an_unknown_purpose_sends_nothing() -> None:
    device = Recorder()
    with pytest.raises(ValueError, match=r"'purpose' must be one of .*Got 'play'"):
        Session(device).measure(controls_of(1), purpose="play")
    assert device.sent == []


# ---- what comes back ----


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.zeros((2, 2)), r"Recorder\.measure must return .*\(n_rows, n_outputs\) = \(2, 3\)\. Got \(2, 2\)"),
        (np.zeros((3, 3)), r"\(2, 3\)\. Got \(3, 3\)"),
        (np.zeros(6), r"\(2, 3\)\. Got \(6,\)"),
        (None, r"\(2, 3\)\. Got None\. Is a 'return' missing"),
        (np.array([[0, 0, 0], [0, np.nan, 0]]), r"must return finite numbers\. Got nan in output 1, row 1\. Check the"),
        (np.array([[0, 0, np.inf], [0, 0, 0]]), r"must return finite numbers\. Got inf in output 2, row 0"),
        (torch.full((2, 3), -torch.inf), r"must return finite numbers\. Got -inf in output 0, row 0"),
    ],
)
def test_a_useless_answer_is_an_error_that_knows_the_shots(answer, message: str) -> None:
    good = np.zeros((2, 3))
    session = Session(Recorder(answer=lambda batch, call: answer if call == 3 else good), n_shots=2)
    session.measure(np.zeros((2, 3)), purpose="calibration")
    with pytest.raises(DeviceOutputError, match=message) as caught:
        session.measure(np.zeros((2, 3)), purpose="training")  # its first shot is the third call
    assert caught.value.shots_done == {"calibration": 4, "training": 2, "validation": 0, "prediction": 0}


def test_a_useless_answer_is_found_in_its_row() -> None:
    device = Recorder(max_batch=1, answer=lambda batch, call: np.full((1, 3), np.nan if call == 3 else 0.0))
    with pytest.raises(DeviceOutputError, match="row 2"):
        Session(device).measure(controls_of(4))


@pytest.mark.filterwarnings("ignore::numpy.exceptions.ComplexWarning")
@pytest.mark.parametrize("answer", [np.full((1, 3), 1j), np.full((1, 3), "overload")], ids=["complex", "text"])
def test_an_answer_that_is_no_real_number_is_an_error(answer: np.ndarray) -> None:
    with pytest.raises(DeviceOutputError, match="must return"):
        Session(Recorder(answer=lambda batch, call: answer)).measure(controls_of(1))


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("int32", "float64"), ("uint8", "float64"), ("bool", "float64"), ("float16", "float64"), ("float32", "float32")],
)
@pytest.mark.parametrize("n_shots", [1, 2])
def test_outputs_are_floats(dtype: str, expected: str, n_shots: int) -> None:
    device = Recorder(answer=lambda batch, call: np.array([[0, 1, call]]).astype(dtype))
    outputs = Session(device, n_shots=n_shots).measure(controls_of(1))
    assert outputs.dtype == expected
    third = 1.0 if dtype == "bool" or n_shots == 1 else 1.5
    np.testing.assert_array_equal(outputs, [[0, 1, third]])


def test_a_device_may_answer_with_a_tensor_or_a_list() -> None:
    controls = controls_of(2)
    as_tensor = Session(Recorder(answer=lambda batch, call: torch.tensor(np.array(batch), requires_grad=True)))
    assert isinstance(as_tensor.measure(controls), np.ndarray)
    np.testing.assert_array_equal(as_tensor.measure(controls), controls)
    as_list = Session(Recorder(answer=lambda batch, call: np.asarray(batch).tolist()))
    np.testing.assert_array_equal(as_list.measure(controls), controls)


def test_tensors_reach_the_device_as_arrays() -> None:
    device = Recorder()
    tensor = torch.full((2, 3), 0.5, requires_grad=True)
    np.testing.assert_array_equal(Session(device).measure(ControlBatch.from_dense(tensor)), 0.5)
    assert isinstance(device.batches[0].varying, np.ndarray)


# ---- opening and closing ----


def test_a_device_is_opened_once_at_the_first_measurement_and_closed_once() -> None:
    device = Recorder()
    with Session(device) as session:
        assert device.events == []
        session.measure(controls_of(1))
        session.measure(controls_of(1))
    assert device.events == ["open", "measure", "measure", "close"]
    session.close()
    assert device.events[4:] == []
    session.measure(controls_of(1))
    assert device.events[4:] == ["open", "measure"]


def test_a_session_that_measured_nothing_closes_nothing() -> None:
    device = Recorder()
    with Session(device):
        pass
    assert device.events == []


def test_a_device_is_closed_after_a_fault() -> None:
    device = Recorder(answer=lambda batch, call: 1 / 0)
    with pytest.raises(ZeroDivisionError), Session(device) as session:
        session.measure(controls_of(1))
    assert device.events == ["open", "measure", "close"]
    assert session.ledger.total == 1


def test_a_device_that_would_not_open_is_opened_again() -> None:
    class Sticky(Recorder):
        def open(self):
            super().open()
            if len(self.events) == 1:
                raise RuntimeError("no licence")

    device = Sticky()
    session = Session(device)
    with pytest.raises(RuntimeError, match="no licence"):
        session.measure(controls_of(1))
    session.measure(controls_of(1))
    assert device.events == ["open", "close", "open", "measure"]


def test_a_device_need_not_be_a_subclass() -> None:
    class Bare:
        n_controls, n_outputs, bounds = 2, 1, [[0, 1], [0, 1]]

        def measure(self, batch):
            return np.asarray(batch)[:, :1]

    with Session(Bare()) as session:
        np.testing.assert_array_equal(session.measure([[0.25, 0.5]]), [[0.25]])
    with pytest.raises(ControlBoundsError, match=r"Bare\.measure .*Got 2 in channel 1, row 0 \(bounds 0 to 1\)"):
        session.measure([[0.25, 2.0]])


def test_one_thread_at_a_time() -> None:
    inside, overlaps = threading.Semaphore(1), []

    def measure_alone(batch, call):
        overlaps.append(not inside.acquire(blocking=False))
        time.sleep(0.001)
        inside.release()
        return np.asarray(batch)

    device = Recorder(max_batch=1, answer=measure_alone)
    session = Session(device, n_shots=2)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: session.measure(controls_of(2)), range(8)))
    assert not any(overlaps)
    assert device.events.count("open") == 1
    assert [batch.shot for batch in device.batches[::2]] == list(range(16))
    assert session.ledger.total == 32


# ---- run: what the network's forward pass calls ----


def test_run_names_the_rows_by_layer_and_unit() -> None:
    device = Recorder()
    session = Session(device)
    keys = np.array([7, 8], dtype=np.uint64)
    run = session.run(keys, "training", shot=4)
    for layer, unit in itertools.product(range(2), repeat=2):
        np.testing.assert_array_equal(run(ControlBatch.from_dense(controls_of(2)), layer, unit), controls_of(2))
        np.testing.assert_array_equal(device.batches[-1].row_keys, combine_keys(keys, layer, unit))
        assert device.batches[-1].shot == 4
    assert session.ledger.shots["training"] == 8
    assert len({key for batch in device.batches for key in batch.row_keys}) == 8


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_run_answers_in_the_precision_of_the_controls(dtype) -> None:
    run = Session(Recorder(answer=lambda batch, call: np.zeros((2, 3)))).run(np.arange(2, dtype=np.uint64), "training")
    for controls in (controls_of(2).astype(dtype), torch.from_numpy(controls_of(2).astype(dtype))):
        assert run(ControlBatch.from_dense(controls), 0, 0).dtype == dtype
