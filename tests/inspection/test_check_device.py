"""check_device names the fault that was planted, and finds none where there is none."""

from __future__ import annotations

import importlib
import pickle
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import skpat
from skpat import as_device, check_device
from skpat.devices import IdentityDevice, SecondHarmonicLaser
from skpat.exceptions import ControlBoundsError, DeviceContractError
from skpat.inspection import DeviceCheck, Finding, driver_check
from tests.inspection import drivers

NOISE = 0.02  # of responses that spread by about 0.6

FAULTS = [
    ("MasksAnOutput", "finite", "Got nan in output 3"),  # driver, name of the check, what is said
    ("Transposed", "shape", "The outputs are transposed"),
    ("GuessesOrientation", "shape of a square batch", "as many rows as outputs"),
    ("Squeezed", "shape", "A single row was squeezed"),
    ("CarriesState", "rows before", "State is carried between rows"),
    ("SettlesSlowly", "rows before", "of the step between: it has not settled"),
    ("LagsOneRow", "rows before", "Answers lag by one row"),
    ("StaleBuffer", "shape", "the answer to the call before, of 6 rows: a stale buffer"),
    ("RepeatsFirstRow", "company", "gets the answer of its first row"),
    ("AveragesOverBatch", "company", "averages over rows"),
    ("NormalisesBatch", "company", "averages or normalisation over the batch"),
    ("ReversesRows", "company", "got the answers of rows 5, 4, 3, 2, 1, 0"),
    ("SortsRows", "company", "Rows come back in another order"),
    ("ShiftsRows", "company", "got the answers of rows 5, 0, 1, 2, 3, 4"),
    ("ReseedsEveryCall", "company", "noise that is seeded anew"),
    ("ReadsVaryingOnly", "shared channels", "Shared channels are in batch.shared"),
    ("PadsVarying", "shared channels", "answered differently when some channels are sent as shared"),
    ("ForgetsShared", "shared channels", "differ from those of the call before"),
    ("IgnoresIndexOrder", "shared channels", "channels listed in another order"),
    ("ModifiesControls", "batch", "works in place on its controls"),
    ("ForcesModification", "controls unchanged", "changes the controls"),
    ("NotANumber", "finite", "NotANumber.measure must return finite numbers. Got nan in output 1"),
    ("Objects", "dtype", "dtype object"),
    ("Complex", "dtype", "dtype complex128"),
    ("SmallBuffer", "shape", "Rows are missing.*state that as max_batch"),
    ("OpensInInit", "nothing opened", r"Constructing OpensInInit calls open\(\)"),
    ("HoldsAHandle", "nothing opened", "opens something: it holds lock"),
    ("OpensForPrinting", "nothing opened", r"Printing OpensForPrinting calls open\(\)"),
    ("ChangesParameters", "clone", "__init__ must store its parameters as they are"),
    ("SafeStateFails", "safe state", "raised AttributeError: no attribute 'ramp'"),
    ("CannotBeOpenedAgain", "open again", "the library was shut down"),
    ("AnotherAnswerAfterOpening", "open again", "The answers differ from those before"),
    ("NeedsItsPast", "unpickled copy", "The answers differ from those before"),
    ("Raises", "batch", "measure raised KeyError: 'detector 3'"),
    ("AllDead", "dead outputs", "No output changes"),
]
EXACT_FAULTS = [  # seen for certain only where there is hardly any noise
    ("TruncatesControls", "control steps", "rounded to whole numbers"),
    ("RoundsControls", "control steps", "rounded to whole numbers"),
    ("TruncatesUnitControls", "dead outputs", "Are they rounded to whole numbers"),
    ("ClipsControls", "range", "clipped on the way"),
    ("ClipsTheLowEnd", "range", "clipped on the way"),
    ("ClipsTheHighEnd", "range", "clipped on the way"),
    ("ClipsOneChannel", "range", "(?s)channel 3.*clipped on the way"),
    ("IgnoresMostChannels", "channels", "Channels 0, 1, 2, 3 of 5 tried had no effect"),
]
WARNINGS = [
    ("TruncatesOutputs", "output resolution", "are they rounded or truncated"),
    ("DeadOutput", "dead outputs", "Output 2 never changed"),
    ("IgnoresLastChannel", "channels", "Channel 4 of 5 tried had no effect"),
    ("OneBuffer", "buffers", "All answers are one buffer"),
    ("SometimesNotANumber", "finite", "repeating them helped"),
    ("ComputesInInit", "nothing opened", "sets more than its parameters: gain"),
    ("NotForOtherThreads", "threads", "call me from the main thread"),
    ("Breaks", "connection", "The line broke 1 times"),
]


@pytest.mark.parametrize("noise", [0.0, NOISE])
@pytest.mark.parametrize(("driver", "name", "message"), FAULTS, ids=[fault[0] for fault in FAULTS])
def test_a_planted_fault_is_named(driver: str, name: str, message: str, noise: float) -> None:
    device = getattr(drivers, driver)(noise=noise)
    with pytest.raises(DeviceContractError, match=message):
        check_device(device)
    check = check_device(device, on_fail=None, random_state=2)
    assert [finding.name for finding in check.failures] == [name]  # that fault, and nothing else
    assert check[name].mend


@pytest.mark.parametrize(("driver", "name", "message"), EXACT_FAULTS, ids=[fault[0] for fault in EXACT_FAULTS])
def test_a_planted_fault_of_a_quiet_device_is_named(driver: str, name: str, message: str) -> None:
    with pytest.raises(DeviceContractError, match=message):
        check_device(getattr(drivers, driver)())
    noisy = check_device(getattr(drivers, driver)(noise=0.001), on_fail=None)
    assert {f.name for f in noisy.failures} <= {name}


@pytest.mark.parametrize(("driver", "name", "message"), WARNINGS, ids=[fault[0] for fault in WARNINGS])
def test_what_may_be_meant_is_a_warning(driver: str, name: str, message: str) -> None:
    check = check_device(getattr(drivers, driver)())
    assert check.passed
    assert [finding.name for finding in check.warnings] == [name]
    assert message in str(check[name])


@pytest.mark.parametrize("driver", ["TruncatesControls", "RoundsControls"])
def test_whole_numbers_are_seen_through_a_little_noise(driver: str) -> None:
    check = check_device(getattr(drivers, driver)(noise=0.005), on_fail=None)
    assert [finding.name for finding in check.failures] == ["control steps"]


@pytest.mark.parametrize("driver", ["ClipsControls", "IgnoresLastChannel"])
def test_noise_does_not_hide_a_strong_effect(driver: str) -> None:
    check = check_device(getattr(drivers, driver)(noise=0.003), on_fail=None)
    assert [finding.name for finding in check.warnings] == ["range" if driver == "ClipsControls" else "channels"]


def half_wired(live: list[int], noise: float, seed: int = 0) -> Any:
    """Twelve channels, of which some are wired."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(12, 8)) / 3
    weights[np.setdiff1d(np.arange(12), live)] = 0.0

    def bank(volts: np.ndarray) -> np.ndarray:
        mean = np.tanh(3 * volts @ weights + 0.3)
        return mean + noise * rng.standard_normal(mean.shape)

    return as_device(bank, n_controls=12, n_outputs=8, bounds=(-1, 1))


@pytest.mark.parametrize("noise", [0.0, 0.005, 0.02, 0.2])
@pytest.mark.parametrize("live", [[11], [3], [2, 7]])
@pytest.mark.parametrize("seed", range(2))
def test_no_effect_is_claimed_of_channels_that_are_not_wired(live: list[int], noise: float, seed: int) -> None:
    finding = check_device(half_wired(live, noise, seed), on_fail=None, random_state=seed)["channels"]
    acting = re.findall(r"([\d, ]+) (?:has|have) an effect", finding.seen)
    assert {int(channel) for group in acting for channel in group.split(",")} <= set(live)
    assert "(6 of 12 channels tried)." in finding.seen
    assert (finding.status != "passed") or "not told from noise" in finding.seen


def test_dead_channels_beside_a_live_one_are_named_through_noise() -> None:
    check = check_device(half_wired([11], 0.02), on_fail=None)
    assert check.passed
    assert check["channels"].status == "warning"
    assert re.fullmatch(
        r"Channels 0, \d, \d, \d, \d+ had no effect on any output that is seen in the noise "
        r"\(6 of 12 channels tried\)\. Channel 11 has an effect\.",
        check["channels"].seen,
    )


def test_where_noise_hides_every_channel_none_is_said_to_act_or_to_be_dead() -> None:
    device = drivers.Driver(noise=3.0)
    finding = check_device(device, on_fail=None)["channels"]
    assert finding.status == "skipped"
    assert finding.seen == "Channels 0, 1, 2, 3, 4 are not told from noise."


def test_of_channels_that_coarse_readings_hide_no_effect_is_claimed() -> None:
    weights = np.zeros((12, 8))
    weights[11] = 3.4
    coarse = as_device(
        lambda volts: np.round(volts @ weights), n_controls=12, n_outputs=8, bounds=(-1, 1), name="coarse"
    )
    finding = check_device(coarse, on_fail=None)["channels"]
    assert finding.status == "passed"
    assert finding.seen.startswith("Channel 11 has an effect (6 of 12 channels tried). Channels 0, 1, 5, ")
    assert finding.seen.endswith(" are not told from the steps of the readings.")


def test_noise_that_depends_on_the_company_is_a_fault() -> None:
    check = check_device(drivers.NoiseByCall(), on_fail=None)
    assert "depends on the rows that share its call" in str(check["noise by name"])
    assert [finding.name for finding in check.failures] == ["noise by name"]
    assert check_device(drivers.NoiseWithoutName())["noise by name"].status == "warning"


# ---- sound devices ----


def mixtures(volts: np.ndarray) -> np.ndarray:
    return np.tanh(volts @ np.sin(np.arange(24.0)).reshape(8, 3))


SOUND: dict[str, Any] = {
    "quiet": lambda seed: drivers.Driver(),
    "noisy": lambda seed: drivers.Driver(noise=0.05, seed=seed),
    "very noisy": lambda seed: drivers.Driver(noise=1.0, seed=seed),
    "function": lambda seed: as_device(mixtures, n_controls=8, n_outputs=3, bounds=(-1, 1)),
    "rows one by one": lambda seed: as_device(mixtures, n_controls=8, n_outputs=3, bounds=(-1, 1), max_batch=1),
    "rectifier": lambda seed: as_device(lambda v: np.maximum(v, 0), n_controls=3, n_outputs=3, bounds=(-1, 1)),
    "one channel": lambda seed: as_device(np.sin, n_controls=1, n_outputs=1, bounds=(-1, 1)),
    "counts": lambda seed: _Counting(seed=seed),
    "8-bit readings": lambda seed: as_device(
        lambda v: np.round(127 * mixtures(v)), n_controls=8, n_outputs=3, bounds=(-1, 1)
    ),
    "identity": lambda seed: IdentityDevice(6, 4, [[0, 1]] * 6),
    "identity, small": lambda seed: IdentityDevice(2, 1, [[0, 5]] * 2),
    "laser": lambda seed: SecondHarmonicLaser(12, 6, random_state=seed),
    "default laser": lambda seed: SecondHarmonicLaser(),
    "bench": lambda seed: drivers.Bench(),
    "noisy bench": lambda seed: drivers.Bench(noise=0.03, seed=seed),
    "veto": lambda seed: drivers.Charged(noise=0.02, seed=seed),
    "strong veto": lambda seed: _with(drivers.Charged(), most=1.5),
    "duck": lambda seed: drivers.Duck(),
    "drift": lambda seed: _Drifting(0.01, noise=0.01, seed=seed),
    "leap": lambda seed: _Leaping(noise=0.01, seed=seed),
}


def _with(device: Any, **attributes: Any) -> Any:
    device.__class__ = type(type(device).__name__, (type(device),), attributes)
    return device


class _Drifting(drivers.Driver):
    """Its offset and gain run away steadily."""

    def __init__(self, rate=0.01, noise=0.0, seed=0):
        super().__init__(noise, seed)
        self.rate = rate

    def measure(self, batch):
        clock = self.rate * self.in_time(batch).clock[:, None]
        return (1 + clock) * super().measure(batch) + clock


class _Counting(drivers.Driver):
    """Counts of a Poisson process, in an integer array."""

    def noisy(self, outputs):
        if not hasattr(self, "_stream"):
            self._stream = np.random.default_rng(self.seed)
        return self._stream.poisson(outputs)


class _Leaping(drivers.Driver):
    """Misaligned all of a sudden, after some rows."""

    def measure(self, batch):
        after = self.in_time(batch).clock[:, None] > 10 + 3 * self.seed
        return super().measure(batch) * np.where(after, 0.7, 1.0)


@pytest.mark.parametrize(("max_batch", "n_rows"), [(None, 24), (5, 5), (26, 26), (100, 28)])
def test_the_large_batch_is_as_large_as_the_device_takes(max_batch: int | None, n_rows: int) -> None:
    sizes = []

    def sums(volts: np.ndarray) -> np.ndarray:
        sizes.append(len(volts))
        return np.tanh(volts).sum(axis=1, keepdims=True)

    check = check_device(as_device(sums, n_controls=3, n_outputs=1, bounds=(-1, 1), max_batch=max_batch))
    assert f"{n_rows} rows in one batch." in str(check["large batch"])
    assert max(sizes) == n_rows


def test_a_large_batch_that_is_sent_in_pieces_is_called_so() -> None:
    check = check_device(as_device(np.tanh, n_controls=10, n_outputs=10, bounds=(-1, 1), max_batch=4))
    assert "10 rows, 4 at once." in str(check["large batch"])


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_device_passes(name: str) -> None:
    check = check_device(SOUND[name](3))
    assert check.passed
    assert 20 < check.n_shots < 200


@pytest.mark.parametrize("name", ["noisy", "very noisy", "counts", "laser", "noisy bench", "veto", "drift", "leap"])
@pytest.mark.parametrize(
    "seeds", [range(0, 60, 8), pytest.param(range(60), marks=pytest.mark.slow)], ids=["few", "all"]
)
def test_noise_and_drift_raise_no_false_alarm(name: str, seeds: range) -> None:
    for seed in seeds:
        if (name, seed) != ("leap", 44):  # between two sessions: as if close() had switched something off for good
            check_device(SOUND[name](seed), random_state=seed)


@pytest.mark.parametrize("seed", range(43, 49))
def test_a_leap_at_the_end_of_the_check_is_no_fault_of_a_copy(seed: int) -> None:
    check = check_device(SOUND["leap"](seed), random_state=seed, on_fail=None)
    assert [finding.name for finding in check.failures] == (["open again"] if seed == 44 else [])


NEIGHBOURS: dict[str, dict[str, Any]] = {
    "OscillatingPlate": {},
    "AnalogCircuit": {"n_controls": 20, "n_outputs": 10},
    "CoupledOscillators": {},
    "MachZehnderMesh": {},
    "NeuralTissue": {},
    "FrozenModel": {},
}
WRAPPERS: dict[str, dict[str, Any]] = {"Drifting": {}, "Quantized": {}, "Noisy": {}}


def _device(name: str) -> Any:
    try:
        return getattr(importlib.import_module("skpat.devices"), name)
    except ImportError:
        pytest.skip(f"{name} is not there")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "FrozenModel" else ()) for name in NEIGHBOURS]
)
def test_the_simulated_devices_pass(name: str) -> None:
    check = check_device(_device(name)(**NEIGHBOURS[name]))
    assert check.n_shots < 290


@pytest.mark.parametrize("name", WRAPPERS)
def test_the_wrappers_pass(name: str) -> None:
    check_device(_device(name)(SecondHarmonicLaser(10, 6), **WRAPPERS[name]))


def test_an_instrument_behind_a_line_passes() -> None:
    pytest.importorskip("pyvisa", reason="PyVISA is not installed")
    pytest.importorskip("pyvisa_py", reason="pyvisa-py is not installed")
    from skpat.lab import VisaDevice
    from skpat.lab.simulator import SimulatedInstrument

    with SimulatedInstrument(SecondHarmonicLaser(6, 4, random_state=0)) as instrument:
        visa = VisaDevice(instrument.address, n_controls=6, n_outputs=4, bounds=(0, 1), timeout=2.0)
        check = check_device(visa)
    assert (instrument.rows, instrument.violations) == (check.n_shots, 0)


# ---- what is sent ----


def test_only_legal_settings_are_sent_and_all_are_counted() -> None:
    sent = []

    def function(volts: np.ndarray) -> np.ndarray:
        sent.append(volts.copy())
        return np.sin(volts)

    device = as_device(function, n_controls=4, n_outputs=4, bounds=[(0, 1), (-1, 0), (5, 6), (0, 1e-3)])
    check = check_device(device, random_state=4)
    rows = np.concatenate(sent)
    low, high = np.array(device.bounds).T
    assert ((rows >= low) & (rows <= high)).all()
    assert len(rows) == check.n_shots


def test_the_same_seed_sends_the_same_settings() -> None:
    sent: list[list[np.ndarray]] = [[], []]
    for rows in sent:
        device = as_device(lambda v, rows=rows: rows.append(v) or np.sin(v), n_controls=3, n_outputs=3, bounds=(0, 1))
        check_device(device, random_state=7)
    np.testing.assert_array_equal(np.concatenate(sent[0]), np.concatenate(sent[1]))


def test_the_device_itself_is_left_alone() -> None:
    device = drivers.OpensForPrinting(noise=0.1)
    before = pickle.dumps(vars(device))
    check_device(device, on_fail=None)
    assert pickle.dumps(vars(device)) == before


def test_steps_and_vetoes_narrow_the_settings() -> None:
    check = check_device(_with(drivers.Charged(), most=1.0))
    assert "veto: settings stay within" in check["settings"].seen
    assert "max_change: settings stay within 30%" in check_device(drivers.Bench())["settings"].seen


def test_a_device_that_vetoes_everything_is_told() -> None:
    with pytest.raises(DeviceContractError, match="Every setting that was tried is vetoed: The power must not"):
        check_device(_with(drivers.Charged(), most=-1.0))


# ---- the result ----


def test_a_wrong_specification_is_one_finding() -> None:
    with pytest.raises(DeviceContractError, match=r"'n_outputs' of Driver must be an int of at least 1. Got 0"):
        check_device(_with(drivers.Driver(), n_outputs=0))
    check = check_device(drivers.Driver, on_fail=None)
    assert (check["specification"].status, check.n_shots, check.passed) == ("failed", 0, False)


def test_all_faults_are_in_one_error() -> None:
    class Worse(drivers.SafeStateFails, drivers.PadsVarying):
        pass

    with pytest.raises(DeviceContractError, match=r"(?s)Got 2 faults.*1\. shared channels.*2\. safe state"):
        check_device(Worse())


def one_row(volts: np.ndarray) -> np.ndarray:
    if volts.shape != (12,):
        raise ValueError("set 12 voltages")
    return np.tanh(volts[:8])


def test_a_function_of_one_row_is_told_to_loop() -> None:
    device = as_device(one_row, n_controls=12, n_outputs=8, bounds=(-1, 1))
    (fault,) = check_device(device, on_fail=None).failures
    assert str(fault).startswith(
        "batch: measure raised ValueError: set 12 voltages. It was given an array of shape (6, 12): loop over its rows, if it "
        "takes one at a time. Legal settings must be measured without an error; "
    )


def test_a_driver_that_has_answered_before_is_not_told_to_loop() -> None:
    class Overheats(drivers.Driver):
        def measure(self, batch):
            self.n_rows = getattr(self, "n_rows", 0) + len(np.asarray(batch))
            if self.n_rows > 40:
                raise RuntimeError("too hot!")
            return super().measure(batch)

    (fault, *_) = check_device(Overheats(), on_fail=None).failures
    assert "raised RuntimeError: too hot! Legal settings must" in str(fault)


def test_on_fail() -> None:
    with pytest.warns(UserWarning, match="The outputs are transposed"):
        check = check_device(drivers.Transposed(), on_fail="warn")
    assert not check.passed
    with pytest.raises(ValueError, match=r"'on_fail' must be 'raise', 'warn' or None. Got 'report'"):
        check_device(drivers.Driver(), on_fail="report")


def test_a_clone_that_cannot_be_made_is_a_fault() -> None:
    duck = drivers.Duck()
    duck.handle = sys._getframe()  # type: ignore[attr-defined]
    assert "cannot be copied" in str(check_device(duck, on_fail=None)["clone"])


def test_the_result_can_be_read() -> None:
    check = DeviceCheck("<b>", [Finding("shape", "failed", "seen <i>", "mend it"), Finding("x", "passed", "fine")], 12)
    assert str(check).split("\n") == [
        "<b> does not keep the contract of a device (12 shots, 1 fault).",
        "  FAILED   shape  seen <i> mend it",
        "  passed   x      fine",
    ]
    assert repr(check) == str(check)
    assert "&lt;b&gt;" in check._repr_html_()
    assert "<i>" not in check._repr_html_().replace("<i>mend it</i>", "").replace("<i></i>", "")
    with pytest.raises(KeyError, match=r"There is no check 'y'. There are: shape, x"):
        check["y"]


def test_a_slow_device_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_check, "_SLOW", 1e-9)
    seen = check_device(drivers.Driver())["speed"].seen
    found = re.search(r"A row takes (.*) s: a training of 10,000 shots takes (.*) hours", seen)
    assert found
    assert float(found[2]) == pytest.approx(1e4 * float(found[1]) / 3600, rel=0.1)


def test_an_error_of_the_line_that_stays_is_a_fault() -> None:
    class Dead(drivers.Driver):
        max_retries = 0

        def measure(self, batch):
            raise ConnectionResetError("the line is dead")

    with pytest.raises(DeviceContractError, match="DeviceConnectionError: the line is dead"):
        check_device(Dead())


def test_the_scale_of_the_box_is_an_error_when_nothing_is_legal() -> None:
    from skpat.inspection.legal_settings import LegalSettings

    with pytest.raises(ControlBoundsError, match="The power must not exceed"):
        LegalSettings(_with(drivers.Charged(), most=-1.0), np.random.RandomState(0))


def test_a_session_that_sends_illegal_values_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_check.Session, "measure", lambda self, batch, **about: batch)
    with pytest.raises(AssertionError, match="an illegal value was sent: a defect of skpat"):
        check_device(drivers.Driver())


def test_it_needs_neither_torch_nor_matplotlib() -> None:
    code = """
import sys
import skpat, numpy as np
device = skpat.as_device(np.sin, n_controls=2, n_outputs=2, bounds=(0, 1))
skpat.check_device(device)
str(skpat.characterize(device, n_shots=200))
print([name for name in ("torch", "matplotlib") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert skpat.inspection.check_device is skpat.check_device
    assert skpat.inspection.characterize is skpat.characterize


@pytest.mark.parametrize("end", [1e-9, 1e5, 1e9])
def test_wide_and_narrow_bounds_raise_no_false_alarm(end: float) -> None:
    mixing = np.random.default_rng(0).normal(size=(6, 5))

    def bank(controls: np.ndarray) -> np.ndarray:
        return np.tanh(controls / end @ mixing)

    assert check_device(as_device(bank, n_controls=6, n_outputs=5, bounds=(0, end)), on_fail=None).passed


@pytest.mark.parametrize("noise", [0.0, 0.005])
def test_slow_channels_are_waited_for(noise: float) -> None:
    check = check_device(drivers.Heaters(noise))
    assert check["rows before"].status == "passed"
    assert check["slow channels"].seen == "Channels 1, 3 stood still but in the scan of each channel."
    assert check["channels"].seen == "Channels 0, 1, 2, 3, 4 have an effect."
    hasty = drivers.Heaters(noise)
    hasty.__class__ = type("Hasty", (drivers.Heaters,), {"slow_controls": None})
    assert [finding.name for finding in check_device(hasty, on_fail=None).failures] == ["rows before"]


def test_where_every_channel_is_slow_all_are_moved() -> None:
    check = check_device(drivers.HeatersAlone(), on_fail=None)
    assert not check.failures
    assert "slow channels" not in [finding.name for finding in check.findings]


def test_a_slow_channel_that_is_named_twice_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drivers.Heaters, "slow_controls", (3, 1, 3))
    assert check_device(drivers.Heaters()).passed


@pytest.mark.parametrize("noise", [0.0, 0.005])
@pytest.mark.parametrize(
    ("driver", "failures"),
    [
        ("TwoDark", []),
        ("TwoDarkAndTruncated", ["control steps"]),
        ("TwoDarkAndAveraged", ["company"]),
        ("TwoDarkAndSlow", ["rows before"]),
    ],
)
def test_dark_outputs_hide_no_fault(driver: str, failures: list[str], noise: float) -> None:
    check = check_device(getattr(drivers, driver)(noise), on_fail=None)
    assert [finding.name for finding in check.failures] == failures
    assert check["dead outputs"].seen == "Outputs 4, 5 showed little but noise."
    assert check["dead outputs"].status == "warning"
    assert check.noise < 0.1


def test_a_wholly_dark_device_is_no_fault_of_the_driver() -> None:
    check = check_device(drivers.AllDark(0.02), on_fail=None)
    assert not check.failures
    assert check["company"].status == "skipped"


# ---- readings that come twice ----


def found_stale(device: Any, seed: int) -> bool:
    check = check_device(device, on_fail=None, random_state=seed)
    found = [finding for finding in check.findings if finding.name == "stale answers"]
    assert all(finding.status == "failed" and "to the last bit" in finding.seen for finding in found)
    return bool(found)


def test_readings_that_come_twice_are_found_amid_noise() -> None:
    assert all(found_stale(drivers.ComesTwice(share=0.15, seed=seed), seed) for seed in range(8))
    assert sum(found_stale(drivers.ComesTwice(share=0.15, step=0.02, seed=seed), seed) for seed in range(8)) >= 5


@pytest.mark.parametrize("step", [0.0, 0.005, 0.05, 0.5])
@pytest.mark.parametrize("n_outputs", [1, 2, 4])
def test_coarse_readings_are_not_taken_for_old_ones(n_outputs: int, step: float) -> None:
    class Few(drivers.ComesTwice):
        def measure(self, batch):
            return super().measure(batch)[:, :n_outputs]

    Few.n_outputs = n_outputs
    assert sum(found_stale(Few(0.1, seed, 0.0, step), seed) for seed in range(12)) == 0


@pytest.mark.parametrize(("n_outputs", "found"), [(4, True), (3, True), (2, False)])
def test_a_single_reading_that_comes_twice_is_no_chance_where_several_outputs_agree(
    n_outputs: int, found: bool
) -> None:
    class Once(drivers.Driver):
        n_rows = 0

        def measure(self, batch):
            readings = super().measure(batch)[:, :n_outputs]
            for reading in readings:
                self.n_rows += 1
                reading[:] = self._last if self.n_rows == 20 else reading
                self._last = reading.copy()
            return readings

    Once.n_outputs = n_outputs
    assert [found_stale(Once(0.05, seed), seed) for seed in range(4)] == [found] * 4
