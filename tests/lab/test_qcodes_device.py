"""Parameters are set when they change, made anew after a fault, and never kept from being refused."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone

from skpat import ControlBatch
from skpat.exceptions import DeviceConnectionError, DeviceContractError, DeviceIdentityError, DeviceOutputError
from skpat.lab import Session
from skpat.lab.qcodes_device import QcodesDevice
from tests.lab.qcodes_station import CONTROLS, OUTPUTS, ROWS, Station, VisaIOError, make_new, sets, station


@pytest.fixture(autouse=True)
def _new_station(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SKPAT_LOCK_DIR", str(tmp_path))
    make_new(monkeypatch)


# ---- a specification ----


def test_nothing_is_made_before_open() -> None:
    device = station(instrument_arguments={"name": "a"}, safe="rest", trigger="fire")
    for same in (clone(device), copy.deepcopy(device), pickle.loads(pickle.dumps(device))):
        assert repr(same) == repr(device)
        assert (same.n_controls, same.n_outputs) == (2, 2)
        assert "Station" in same._repr_html_()
    assert Station.log == []


def test_an_open_instrument_stays_out_of_copies_and_pickles() -> None:
    device = station()
    device.open()
    for same in (clone(device), copy.copy(device), pickle.loads(pickle.dumps(device))):
        with pytest.raises(DeviceConnectionError, match="must be open before it is used"):
            same.measure(ROWS)
    device.close()
    device.close()
    assert Station.log == ["made", "close"]


@pytest.mark.parametrize("instrument", [Station, lambda name="station": Station(name)], ids=["class", "function"])
def test_the_instrument_may_be_any_callable(instrument) -> None:
    with Session(QcodesDevice(instrument, CONTROLS, OUTPUTS, bounds=(0, 5))) as session:
        np.testing.assert_array_equal(session.measure(ROWS), [[3, 2], [4, 3]])


# ---- what is sent ----


def test_only_what_changes_is_set() -> None:
    with Session(station()) as session:
        np.testing.assert_array_equal(session.measure(ROWS), [[3, 2], [4, 3]])
        assert sets() == ["left=1.0", "right=2.0", "right=3.0"]
        session.measure(ROWS[1:])
        assert sets() == ["left=1.0", "right=2.0", "right=3.0"]


def test_shared_channels_are_set_once_and_before_the_rows() -> None:
    batch = ControlBatch(np.array([[1.0], [2.0]]), np.array([0]), np.array([4.0]), np.array([1]))
    with Session(station()) as session:
        np.testing.assert_array_equal(session.measure(batch), [[5, 4], [6, 8]])
    assert sets() == ["right=4.0", "left=1.0", "left=2.0"]


def test_an_array_valued_parameter_is_set_and_read_whole() -> None:
    batch = ControlBatch(np.array([[1.0], [2.0]]), np.array([1]), np.array([3.0, 4.0]), np.array([0, 2]))
    with Session(station(("grid", 3), ("image", 6))) as session:
        outputs = session.measure(batch)
    np.testing.assert_array_equal(outputs, [[3, 6, 1, 2, 4, 8], [3, 6, 2, 4, 4, 8]])
    assert sets() == ["grid=[3. 1. 4.]", "grid=[3. 2. 4.]"]


def test_an_array_valued_parameter_may_keep_what_it_is_set_to() -> None:
    kept: list[np.ndarray] = []
    made = SimpleNamespace(grid=SimpleNamespace(set=kept.append), power=lambda: 1.0, close=lambda: None)
    with Session(QcodesDevice(lambda: made, ("grid", 2), ["power"], bounds=(0, 5))) as session:
        session.measure(ROWS)
    np.testing.assert_array_equal(kept, ROWS)


def test_an_array_settles_with_its_first_row(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = SimpleNamespace(sleep=lambda seconds: Station.log.append(f"{seconds} s"))
    monkeypatch.setattr("skpat.lab.connection.time", waited)
    batch = ControlBatch(np.array([[1.0], [2.0]]), np.array([1]), np.array([3.0, 4.0]), np.array([0, 2]))
    with Session(station(("grid", 3), ("image", 6), settling_seconds=0.5)) as session:
        session.measure(batch)
    assert [entry for entry in Station.log if entry == "0.5 s" or "=" in entry] == [
        "grid=[3. 1. 4.]", "0.5 s", "grid=[3. 2. 4.]",
    ]  # fmt: skip


@pytest.mark.parametrize(("trigger", "expected"), [("fire", "fire"), (("mode", "run"), "mode=run")])
def test_the_trigger_comes_between_setting_and_reading(trigger, expected) -> None:
    with Session(station(trigger=trigger)) as session:
        session.measure(ROWS[:1])
    assert Station.log[2:6] == ["left=1.0", "right=2.0", expected, "total?"]


def test_a_block_is_one_call() -> None:
    device = station(2, 2, measure_rows="run_rows")
    with Session(device) as session:
        np.testing.assert_array_equal(session.measure(ROWS), ROWS**2)
    assert Station.log == ["made", "idn", "rows (2, 2)", "close"]


def test_whole_channels_are_set_to_ints() -> None:
    with Session(station(bounds=[(0, 3), (0.5, 5.5)], control_steps=[1, 1])) as session:
        session.measure(np.array([[2.0, 1.5], [2.9999, 1.5]]))  # as near a step as it need be
    assert sets() == ["left=2", "right=1.5", "left=3"]


@pytest.mark.parametrize(
    ("safe", "expected"), [("rest", ["rest"]), ({"left": 0, "mode": "off"}, ["left=0", "mode=off"])]
)
def test_the_safe_state_comes_before_closing(safe, expected) -> None:
    with Session(station(safe=safe)) as session:
        session.measure(ROWS)
    assert Station.log[-1 - len(expected) :] == [*expected, "close"]


def test_after_the_safe_state_everything_is_set_again() -> None:
    device = station(safe={"left": 0})
    device.open()
    device.measure(ROWS[:1])
    device.safe_state()
    np.testing.assert_array_equal(device.measure(ROWS[:1]), [[3, 2]])
    device.close()


# ---- faults ----


@pytest.mark.parametrize("fault", [TimeoutError("no answer"), OSError("reset"), VisaIOError("VI_ERROR_TMO")])
def test_after_a_missing_answer_the_instrument_is_made_anew_and_set_again(fault) -> None:
    batch = ControlBatch(np.array([[1.0], [2.0]]), np.array([0]), np.array([4.0]), np.array([1]))
    with Session(station()) as session:
        session.measure(batch)
        Station.faults.append(fault)
        np.testing.assert_array_equal(session.measure(batch), [[5, 4], [6, 8]])
    assert Station.log.count("made") == 2
    assert sets()[-3:] == ["right=4.0", "left=1.0", "left=2.0"]


def test_a_missing_answer_is_named() -> None:
    device = station()
    device.open()
    Station.faults.append(VisaIOError("VI_ERROR_TMO"))
    with pytest.raises(
        DeviceConnectionError, match=r"must answer in QcodesDevice.measure. Got VisaIOError: VI_ERROR_TMO"
    ):
        device.measure(ROWS)
    device.close()


def test_a_line_that_will_not_close_does_not_keep_the_name() -> None:
    with Session(station()) as session:
        Station.refuses_to_close = True
        session.measure(ROWS)
        Station.faults.append(TimeoutError("no answer"))
        session.measure(ROWS[::-1])
        Station.refuses_to_close = False
    assert Station.log.count("made") == 2


def test_a_refusal_surfaces_unchanged() -> None:
    with Session(station()) as session:
        with pytest.raises(ValueError, match=r"4.0 is invalid; Parameter: left") as caught:
            session.measure(np.array([[4.0, 0.0]]))
        assert type(caught.value) is ValueError
        assert Station.log.count("made") == 1
        np.testing.assert_array_equal(session.measure(ROWS), [[3, 2], [4, 3]])


def test_what_was_refused_is_not_taken_for_set() -> None:
    device = station()
    device.open()
    device.measure(ROWS)
    with pytest.raises(ValueError, match="is invalid"):
        device.measure(np.array([[4.0, 0.0]]))
    before = len(sets())
    device.measure(ROWS[:1])
    assert sets()[before:] == ["left=1.0", "right=2.0"]  # left may be anywhere, although 1.0 was the last one accepted
    device.close()


def test_another_instrument_is_noticed_after_a_fault() -> None:
    with Session(station()) as session:
        session.measure(ROWS)
        Station.faults.append(TimeoutError("no answer"))
        Station.serial = "8"
        with pytest.raises(DeviceIdentityError, match=r"skpat, station, 7, .*skpat, station, 8, "):
            session.measure(ROWS[::-1])


def test_an_identity_that_was_not_answered_is_no_other_instrument() -> None:
    device = station()
    with Session(device) as session:
        session.measure(ROWS)
        Station.faults += [TimeoutError("no answer"), TimeoutError("no answer")]  # of a reading, then of *IDN?
        np.testing.assert_array_equal(session.measure(ROWS[::-1]), [[4, 3], [3, 2]])
    assert Station.log.count("made") == 3


def test_a_second_one_of_the_name_gets_advice() -> None:
    first, second = station(), station()
    first.open()
    with pytest.raises(KeyError, match="Another instrument has the name") as caught:
        second.open()
    assert "address=" in caught.value.__notes__[0]
    first.close()


# ---- wrong specifications ----


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        (
            {"controls": ["left", "middle"]},
            "'middle' must be a parameter or method of Station. Got no 'middle' in Station",
        ),
        ({"outputs": ["module.channels.4"]}, "'module.channels.4' must be .* Got no '4' in list"),
        ({"controls": 2, "outputs": 2}, "must name parameters, or 'measure_rows' a method"),
        ({"instrument": "numpy"}, "must be callable or \"package.module:Class\". Got 'numpy'"),
        ({"instrument": 3}, "must be callable .* Got 3. Give the class, or wrap .* skpat.lab.adopt"),
    ],
)
def test_open_tells_what_is_wrong_and_leaves_nothing_open(wrong, match) -> None:
    with pytest.raises(DeviceContractError, match=match):
        station().set_params(**wrong).open()
    assert Station.open_names == set()


@pytest.mark.parametrize("names", ["left", [], [1, 2], None, True])
def test_names_must_be_names(names) -> None:
    with pytest.raises(DeviceContractError, match="'controls' of QcodesDevice must be a list of parameter names"):
        Session(station(controls=names))


def test_an_array_of_another_size_is_told() -> None:
    with (
        Session(station(("grid", 3), ["image"])) as session,
        pytest.raises(DeviceOutputError, match=r"must give 1 num.* Got 6"),
    ):
        session.measure(np.ones((1, 3)))


class Flaky:
    """An array that comes short, or partly masked, the first times; a number that is masked as a whole."""

    def __init__(self) -> None:
        self.left, self.answers = SimpleNamespace(set=lambda value: None), []
        self.trace, self.level = SimpleNamespace(get=self.read), SimpleNamespace(get=lambda: np.ma.masked)

    def read(self) -> Any:
        return self.answers.pop(0) if self.answers else [1.0, 2.0]

    def close(self) -> None:
        pass


def flaky(instrument: Flaky, outputs: Any = ("trace", 2), **about: Any) -> QcodesDevice:
    return QcodesDevice(lambda: instrument, ["left"], outputs, bounds=(0, 5), **about)


@pytest.mark.parametrize(
    ("first", "kind"), [([1.0], "shape"), (np.ma.array([1.0, -9999.0], mask=[False, True]), "not_finite")]
)
def test_an_array_that_is_incomplete_once_is_read_again(first: Any, kind: str) -> None:
    instrument = Flaky()
    instrument.answers = [[1.0, 2.0], first]
    with Session(flaky(instrument)) as session:
        np.testing.assert_array_equal(session.measure(ROWS[:, :1]), [[1.0, 2.0]] * 2)
    assert session.ledger.faults[kind] == sum(session.ledger.faults.values()) == 1
    assert session.ledger.total == 4


def test_what_is_never_whole_ends_with_the_shots_that_were_spent() -> None:
    short = Flaky()
    short.answers = [[1.0]] * 9
    with (
        Session(flaky(short, max_retries=2)) as session,
        pytest.raises(DeviceOutputError, match=r"must give 2 numbers\. Got 1") as caught,
    ):
        session.measure(ROWS[:, :1])
    assert caught.value.shots_done["prediction"] == 6
    assert session.ledger.faults["shape"] == 3
    with Session(flaky(Flaky(), ["level"])) as session, pytest.raises(DeviceOutputError, match="Got nan in output 0"):
        session.measure(ROWS[:, :1])


# ---- the real thing ----

DUMMY = "qcodes.instrument_drivers.mock_instruments:"


def test_a_real_qcodes_instrument() -> None:
    pytest.importorskip("qcodes")
    device = QcodesDevice(
        DUMMY + "DummyInstrument",
        ["dac1", "dac2"],
        ["dac2", "dac1", "dac3"],
        bounds=(-1000, 1000),
        instrument_arguments={"name": "skpat_dac"},
        safe={"dac1": 0},
        address="skpat_dac",
    )
    with Session(device) as session:
        np.testing.assert_array_equal(session.measure(ROWS), [[2, 1, 0], [3, 1, 0]])
        with pytest.raises(ValueError, match=r"must be between -800 and 400 inclusive; Parameter: skpat_dac\.dac1"):
            session.measure(np.array([[401.0, 0.0]]))
        np.testing.assert_array_equal(session.measure(ROWS), [[2, 1, 0], [3, 1, 0]])
        assert device.identify().startswith("QCoDeS, ")
    with Session(clone(device)) as session:  # the name is free again
        session.measure(ROWS)


def test_channels_of_a_real_qcodes_instrument() -> None:
    pytest.importorskip("qcodes")
    device = QcodesDevice(
        DUMMY + "DummyChannelInstrument",
        ["A.temperature", "channels.1.temperature"],
        ["B.temperature", "channels.0.temperature"],
        bounds=(0, 300),
        instrument_arguments={"name": "skpat_channels"},
    )
    with Session(device) as session:
        np.testing.assert_array_equal(session.measure(ROWS), ROWS[:, ::-1])


def test_a_real_visa_time_out() -> None:
    qcodes = pytest.importorskip("qcodes")
    pyvisa = pytest.importorskip("pyvisa")
    answers: list[float | None] = [None, 5.0]
    commands: list[float] = []

    def read() -> float:
        answer = answers.pop(0)
        if answer is None:
            raise pyvisa.errors.VisaIOError(pyvisa.constants.StatusCode.error_timeout)
        return answer

    def make(name: str):
        instrument = qcodes.Instrument(name)
        instrument.add_parameter("volt", set_cmd=commands.append, vals=qcodes.validators.Ints(0, 9))
        instrument.add_parameter("power", get_cmd=read)
        return instrument

    device = QcodesDevice(
        make, ["volt"], ["power"], bounds=(0, 9), control_steps=1, instrument_arguments={"name": "skpat_visa"}
    )
    with Session(device) as session:
        assert session.measure(np.array([[7.0]])).tolist() == [[5.0]]
    assert commands == [7, 7]
