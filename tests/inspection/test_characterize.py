"""The verdict is right on devices made for it; the numbers are those of the device; the budget is kept."""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

import numpy as np
import pytest

from skpat import Device, PhysicalNetworkClassifier, as_device, characterize
from skpat.devices import IdentityDevice, SecondHarmonicLaser
from skpat.exceptions import DeviceContractError, DeviceOutputError, ShotBudgetError
from skpat.inspection import DeviceReport
from skpat.inspection.device_report import VERDICTS
from skpat.inspection.response_statistics import Readings
from tests.inspection import drivers
from tests.inspection.random_devices import KINDS, RandomDevice


@pytest.mark.parametrize("kind", KINDS)
def test_devices_drawn_at_random_get_the_verdict_they_were_made_for(kind: str) -> None:
    reports = [characterize(RandomDevice(kind, seed), random_state=seed) for seed in range(900, 903)]
    assert [report.verdict for report in reports] == [kind] * 3
    assert max(report.n_shots for report in reports) <= 2000


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_nineteen_of_twenty_devices_are_judged_rightly(kind: str) -> None:
    seeds = range(10_000, 10_040)
    assert np.mean([characterize(RandomDevice(kind, s), random_state=s).verdict == kind for s in seeds]) >= 0.95


class Bank(Device):
    """Sums and products of channels of known variance, with noise, dead channels and a drift as asked for."""

    n_outputs = 3

    def __init__(
        self, noise=0.1, bend=1.0, n_dead=0, drift=0.0, n_controls=10, limit=None, leak=0.0, lag=0.0, seed=0, sizes=1.0
    ):
        self.noise = noise
        self.bend = bend
        self.n_dead = n_dead
        self.drift = drift
        self.n_controls = n_controls
        self.limit = limit
        self.leak = leak
        self.lag = lag
        self.seed = seed
        self.sizes = sizes

    @property
    def bounds(self):
        return np.tile([-1.0, 1.0], (self.n_controls, 1))

    def measure(self, batch):
        if not hasattr(self, "_stream"):
            self._stream, self._last = np.random.default_rng(self.seed), np.zeros((1, 3))
            self._before = np.zeros((1, self.n_controls))
        controls = np.asarray(batch)
        before, self._before = np.vstack([self._before, controls[:-1]]), controls[-1:]
        controls = controls + self.lag * (before - controls)
        live = controls[:, : self.n_controls - self.n_dead]
        n = live.shape[1]
        linear = live @ np.sign(np.sin(1 + np.arange(3 * n) ** 2)).reshape(n, 3) * np.sqrt(3 / n)
        products = 3 * live[:, 0:3] * live[:, 3:6]
        outputs = linear + self.bend * products + self.drift * self.in_time(batch).clock[:, None] / 2000
        outputs = outputs + self.noise * self._stream.standard_normal(outputs.shape)
        if self.limit is not None:
            outputs = np.clip(outputs, -self.limit, self.limit)
        if self.leak:
            outputs = outputs + self.leak * np.vstack([self._last, outputs[:-1]])
            self._last = (outputs[-1:] - 0.0) / (1 + self.leak)
        return outputs * self.sizes


@pytest.mark.parametrize("noise", [0.02, 0.3, 1.0])
def test_noise_and_signal_are_those_of_the_device(noise: float) -> None:
    report = characterize(Bank(noise=noise))
    np.testing.assert_allclose(report.noise, noise, rtol=0.25)
    np.testing.assert_allclose(report.signal, np.sqrt(2), rtol=0.15)  # linear part and products have variance 1 each
    assert report.overall_snr == pytest.approx(np.sqrt(2) / noise, rel=0.15)


@pytest.mark.parametrize(("n_controls", "tolerance"), [(8, 0.05), (150, 0.05)])
@pytest.mark.parametrize("bend", [0.0, 0.3, 1.0])
def test_the_share_that_a_linear_model_misses_has_no_bias(n_controls: int, bend: float, tolerance: float) -> None:
    shares = [
        characterize(Bank(noise=0.3, bend=bend, n_controls=n_controls, seed=s), random_state=s).nonlinear_share
        for s in range(2)
    ]
    assert np.mean(shares) == pytest.approx(bend**2 / (1 + bend**2), abs=tolerance)


@pytest.mark.parametrize(("noise", "n_shots"), [(1.0, 200), (1.5, 2000)])
def test_noise_does_not_make_a_linear_device_nonlinear(noise: float, n_shots: int) -> None:
    reports = [characterize(Bank(noise, bend=0.0, seed=seed), n_shots, random_state=seed) for seed in range(1000, 1020)]
    verdicts = [report.verdict for report in reports]
    assert verdicts.count("suitable") <= 1
    assert verdicts.count("linear") >= 17
    errors = np.array([report.nonlinear_error for report in reports])
    shares = np.array([report.nonlinear_share for report in reports])
    assert (shares < 2.5 * errors).mean() >= 0.95
    assert any("no more of the response than noise can feign" in report.reason for report in reports)


def test_a_nonlinear_device_stays_suitable_and_its_share_has_an_error() -> None:
    reports = [characterize(Bank(1.0, bend=0.5, seed=seed), random_state=seed) for seed in range(10)]
    assert [report.verdict for report in reports] == ["suitable"] * 10
    shares = np.array([report.nonlinear_share for report in reports])  # of products 0.25 of 1.25
    assert 0.01 < np.mean([report.nonlinear_error for report in reports]) < 0.1
    assert np.abs(shares - 0.2).max() < 0.15
    assert np.mean(shares) == pytest.approx(0.2, abs=0.05)


@pytest.mark.parametrize("n_outputs", [1, 40])
def test_the_error_of_the_nonlinear_share_is_what_noise_makes_of_it(n_outputs: int) -> None:
    weights = np.random.default_rng(0).standard_normal((6, n_outputs))

    def linear(seed: int, shared: float) -> DeviceReport:
        rng = np.random.default_rng(seed)

        def bank(controls: np.ndarray) -> np.ndarray:
            noise = rng.standard_normal((len(controls), n_outputs)) + shared * rng.standard_normal((len(controls), 1))
            return controls @ weights + 2 * noise

        return characterize(
            as_device(bank, n_controls=6, n_outputs=n_outputs, bounds=(-1, 1)), 600, random_state=seed
        )  # fmt: skip

    for shared in (0.0, 1.0):
        reports = [linear(seed, shared) for seed in range(30)]
        excess = np.mean([report.nonlinear_share > report.nonlinear_error for report in reports])
        assert 0.01 < excess < 0.4  # 0.16 of a normal distribution
        assert np.mean([report.nonlinear_share > 2.5 * report.nonlinear_error for report in reports]) <= 0.1


def test_a_response_that_is_large_in_few_places_is_not_called_linear() -> None:
    weights = np.random.default_rng(0).standard_normal((6, 3))
    for power, n_shots in ((9, 200), (5, 400)):
        device = as_device(lambda c, p=power: (c @ weights) ** p, n_controls=6, n_outputs=3, bounds=(-1, 1))
        report = characterize(device, n_shots)
        assert report.verdict == "suitable"
        assert report.nonlinear_error == 0


def test_a_linear_device_of_many_channels_is_linear() -> None:
    weights = np.random.default_rng(0).normal(size=(3000, 5))
    report = characterize(as_device(lambda c: c @ weights, n_controls=3000, n_outputs=5, bounds=(-1, 1)))
    assert (report.verdict, report.grouped) == ("linear", True)
    assert report.nonlinear_share < 1e-6


def test_dead_channels_are_counted() -> None:
    assert characterize(Bank(n_dead=3)).dead_channels.tolist() == [7, 8, 9]
    report = characterize(Bank(n_controls=60, n_dead=40))
    assert report.verdict == "dead"
    assert report.reason == "40 of 60 control channels have no effect on any output."
    assert "40 dead channels of 60: 20, 21" in str(report)


def test_channels_that_act_in_products_only_are_not_dead() -> None:
    device = as_device(lambda c: c[:, :6] * c[:, 6:], n_controls=12, n_outputs=6, bounds=(-1, 1))
    assert len(characterize(device).dead_channels) == 0


def test_dead_outputs() -> None:
    def function(c: np.ndarray) -> np.ndarray:
        return np.column_stack([np.sin(2 * c[:, 0] + c[:, 1]), 0 * c[:, 0], c[:, 0] * c[:, 1]])

    report = characterize(as_device(function, n_controls=2, n_outputs=3, bounds=(-1, 1)))
    assert (report.verdict, report.dead_outputs.tolist()) == ("suitable", [1])
    everything = as_device(lambda c: np.ones((len(c), 3)), n_controls=2, n_outputs=3, bounds=(-1, 1))
    report = characterize(everything)
    assert (report.verdict, report.reason) == ("dead", "3 of 3 outputs answer to no control.")
    assert str(report)


@pytest.mark.parametrize("unit", [1e-12, 1.0, 1e9])
@pytest.mark.parametrize(
    ("sizes", "noise", "hidden"),
    [
        ([1, 1, 1], 0.01, []),
        ([1, 1, 1e3], 0.01, [0, 1]),
        ([1, 1e-2, 1], 0.01, [1]),
        ([1, 1e-2, 1], 0.0, [1]),
        ([1, 0.1, 1], 0.01, []),
        ([1, 1, 1e3], 1.0, []),  # what is hidden is noise
        ([1, 1, 0], 0.01, []),  # what is hidden is constant
    ],
)
def test_outputs_that_a_network_hardly_sees(unit: float, sizes: list[float], noise: float, hidden: list[int]) -> None:
    report = characterize(Bank(noise, sizes=unit * np.asarray(sizes)))
    assert report.hidden_outputs.tolist() == hidden
    told = [remark for remark in report.remarks if remark.startswith("A network hardly sees")]
    assert len(told) == bool(hidden)
    if hidden:
        assert f"hardly sees {len(hidden)} of 3 outputs" in told[0]
        assert f": {', '.join(map(str, hidden))}. If" in told[0]


def test_drift_is_measured() -> None:
    report = characterize(Bank(noise=0.05, drift=1.0))
    assert report.verdict == "drifting"
    assert report.drift == pytest.approx(0.92 * 1.0 / np.sqrt(2), rel=0.15)  # 1,840 of 2,000 rows
    assert report.drift_to_noise == pytest.approx(0.92 * 1.0 / 0.05, rel=0.25)
    assert report.nonlinear_share == pytest.approx(0.5, abs=0.05)  # which the drift does not spoil
    assert report.drift_course.argmin() in (5, 6)
    np.testing.assert_allclose(characterize(Bank(noise=0.05, drift=60.0)).signal, np.sqrt(2), rtol=0.12)
    assert characterize(Bank(noise=0.05)).drift == 0.0


@pytest.mark.parametrize("shares", ["one output", "added", "multiplied", "by the setting"])
@pytest.mark.parametrize("n_shots", [200, 2000])
def test_noise_that_all_outputs_share_is_no_drift(n_shots: int, shares: str) -> None:
    weights = np.random.default_rng(5).normal(size=(8, 1 if shares == "one output" else 6))
    drifted = []
    for seed in range(60 if n_shots == 200 else 20):
        stream = np.random.default_rng([1, seed])

        def measure(controls: np.ndarray, stream: np.random.Generator = stream) -> np.ndarray:
            noise = 0.3 * stream.normal(size=(len(controls), 1))  # a laser's energy, say
            answer = np.tanh(controls @ weights)
            if shares == "by the setting":  # a few references have nearly all of it
                return answer + 0.1 * np.exp(3 * controls[:, :1]) * noise
            return (2 + answer) * (1 + noise) if shares == "multiplied" else answer + noise

        device = as_device(measure, n_controls=8, n_outputs=weights.shape[1], bounds=(-1, 1))
        drifted.append(characterize(device, n_shots=n_shots, random_state=seed).verdict == "drifting")
    assert not any(drifted)


@pytest.mark.parametrize("n_outputs", [1, 6])
@pytest.mark.parametrize("together", [True, False])
def test_a_drift_shows_in_the_mean_of_the_references_where_each_is_noisy(n_outputs: int, together: bool) -> None:
    weights = np.random.default_rng(5).normal(size=(8, n_outputs))
    stream, clock = np.random.default_rng(0), [0]

    def measure(controls: np.ndarray) -> np.ndarray:
        time = (clock[0] + np.arange(len(controls)))[:, None] / 2000
        clock[0] += len(controls)
        noise = stream.normal(size=(len(controls), 1 if together else n_outputs))
        return np.tanh(controls @ weights) + 0.3 * time + 0.1 * noise

    device = as_device(measure, n_controls=8, n_outputs=n_outputs, bounds=(-1, 1))
    assert characterize(device).verdict == "drifting"


@pytest.mark.parametrize("constant", [0.0, 7.3, -1e9])
def test_a_constant_output_is_dead_and_nothing_else(constant: float) -> None:
    weights = np.random.default_rng(0).normal(size=(6, 3))
    device = as_device(
        lambda c: np.column_stack([np.tanh(c @ weights), np.full(len(c), constant)]),
        n_controls=6,
        n_outputs=4,
        bounds=(-1, 1),
    )
    report = characterize(device)
    assert report.dead_outputs.tolist() == report.constant_outputs.tolist() == [3]
    assert len(report.hidden_outputs) == report.snr[3] == report.signal[3] == 0
    assert report.remarks == ("1 dead output of 4: 3.",)


def test_channels_that_the_shots_do_not_tell_are_neither_dead_nor_forgotten() -> None:
    weights, stream = np.random.default_rng(1).normal(size=(3, 6)), np.random.default_rng(0)
    device = as_device(
        lambda c: np.tanh(2 * c[:, :3] @ weights) + 0.5 * stream.normal(size=(len(c), 6)),
        n_controls=8,
        n_outputs=6,
        bounds=(-1, 1),
    )
    report = characterize(device)
    assert report.dead_channels.tolist() == []
    assert report.untested_channels.tolist() == [3, 4, 5, 6, 7]
    assert "5 channels of 8 showed no effect; to call them dead takes more shots: 3, 4, 5, 6, 7." in report.remarks
    assert report.to_dict()["untested_channels"] == [3, 4, 5, 6, 7]
    certain = characterize(device, n_shots=20_000)
    assert certain.dead_channels.tolist() == [3, 4, 5, 6, 7]
    assert certain.untested_channels.tolist() == []


def test_outputs_that_cancel_within_a_group_are_spoken_of() -> None:
    detectors = as_device(
        lambda c: np.tanh(c[:, :100] - c[:, 100:]), n_controls=200, n_outputs=100, bounds=(-1, 1), name="detectors"
    )
    report = characterize(detectors, n_shots=200)
    assert len(report.dead_outputs)
    assert report.remarks[-1].endswith("and an output that answers only to differences within a group looks dead.")


def test_memory_is_told() -> None:
    report = characterize(Bank(noise=0.05, leak=0.2))
    assert report.verdict == "drifting"
    assert (
        report.reason
        == f"The row before moves an answer by {report.memory:.0%} of the step between: it has not settled."
    )
    assert 0.12 < report.memory < 0.25
    assert characterize(Bank(noise=0.05)).memory == 0


@pytest.mark.parametrize("n_shots", [400, 2000])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_settings_that_settle_slowly_are_memory_and_no_noise(noise: float, n_shots: int) -> None:
    report = characterize(Bank(noise=noise, lag=0.3), n_shots=n_shots)
    assert report.verdict == "drifting"
    assert 0.25 < report.memory < 0.5
    assert report.drift < 0.08
    np.testing.assert_allclose(report.noise, noise, rtol=0.3, atol=1e-12)
    slight = characterize(Bank(noise=noise, lag=0.05), n_shots=2000)
    assert slight.verdict == "suitable"
    assert 0.03 < slight.memory < 0.08
    assert f"by {slight.memory:.1%} of the step between: allow more time to settle." in slight.remarks[0]


def test_stuck_readings_are_counted() -> None:
    report = characterize(Bank(noise=0.05, limit=0.7))
    assert report.verdict == "saturated"
    assert report.saturation == pytest.approx(0.62, abs=0.06)
    assert "stuck at the end of an output's range" in report.reason


def test_saturated_readings_of_a_stated_range_do_not_stop_it() -> None:
    class Ranged(Bank):
        output_range = (-0.5, 0.5)

    assert characterize(Ranged(limit=0.5)).verdict == "saturated"


def test_the_rank_counts_directions() -> None:
    mixing = np.random.default_rng(0).normal(size=(3, 12))
    device = as_device(lambda c: np.sin(2 * c[:, :3]) @ mixing, n_controls=5, n_outputs=12, bounds=(-1, 1))
    report = characterize(device)
    assert report.n_significant == 3
    assert 1.5 < report.effective_rank <= 3
    one = as_device(lambda c: np.tile(np.sin(c @ [1.0, 2, 3]), (4, 1)).T, n_controls=3, n_outputs=4, bounds=(-1, 1))
    assert "All outputs say the same: the response has one direction." in characterize(one).remarks


def test_quantised_and_counting_devices_come_out_sensibly() -> None:
    coarse = as_device(lambda c: np.round(8 * np.sin(3 * c)), n_controls=3, n_outputs=3, bounds=(-1, 1))
    assert characterize(coarse).verdict == "suitable"
    stream = np.random.default_rng(0)
    counts = as_device(
        lambda c: stream.poisson(3 * np.square(c[:, :4] + c[:, 4:])), n_controls=8, n_outputs=4, bounds=(0, 1)
    )
    report = characterize(counts)
    assert report.verdict in ("suitable", "linear")
    assert 0.5 < report.overall_snr < 2
    rare = as_device(lambda c: stream.poisson(0.02 * c), n_controls=3, n_outputs=3, bounds=(0, 1))
    assert characterize(rare).verdict in ("noisy", "dead")


@pytest.mark.parametrize("name", ["NeuralTissue", "OscillatingPlate", "CoupledOscillators", "MachZehnderMesh"])
def test_the_simulated_devices_are_suitable(name: str) -> None:
    try:
        device = getattr(importlib.import_module("skpat.devices"), name)()
    except ImportError:
        pytest.skip(f"{name} is not there")
    assert characterize(device, n_shots=1000).verdict == "suitable"


# ---- the budget, and what is sent ----


@pytest.mark.parametrize(("n_shots", "n_controls"), [(200, 6), (333, 500), (1000, 100), (2000, 6)])
def test_no_more_shots_are_spent_than_allowed(n_shots: int, n_controls: int) -> None:
    sent = []

    def function(controls: np.ndarray) -> np.ndarray:
        sent.append(controls)
        return np.sin(controls[:, :4])

    device = as_device(function, n_controls=n_controls, n_outputs=4, bounds=(0, 1), max_batch=37)
    report = characterize(device, n_shots=n_shots)
    assert 0.75 * n_shots < report.n_shots <= n_shots
    assert report.n_shots == sum(map(len, sent))


def test_a_group_is_tested_with_whole_pairs_and_only_where_these_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    for n_pairs, n_spent in ((15.75, 400), (16.25, 368)):  # of 401 shots 33 are left for groups: 16 pairs, not 17
        monkeypatch.setattr(Readings, "pairs_to_see", lambda self, share, n=n_pairs: n)
        assert characterize(Bank(n_dead=1), 401).n_shots == n_spent


def test_repeats_after_faults_count() -> None:
    class Flaky(Bank):
        max_retries = 500
        max_batch = 5
        n_rows = n_calls = 0
        always = False

        def measure(self, batch):
            outputs = super().measure(batch)
            type(self).n_rows += len(outputs)
            type(self).n_calls += 1
            if self.always or self.n_calls in (10, 20):
                outputs[0, 0] = np.nan
            return outputs

    characterize(Flaky(), n_shots=400)
    assert 300 < Flaky.n_rows <= 400
    Flaky.always = True
    with pytest.raises(DeviceOutputError, match=r"Flaky\.measure must return finite numbers"):
        characterize(Flaky(), n_shots=400)
    assert Flaky.n_rows <= 800


@pytest.mark.parametrize("first", range(1, 30))
def test_a_budget_is_not_blamed_where_no_repeat_is_wanted(first: int) -> None:
    class Strict(Bank):
        on_bad_output = "raise"
        n_calls = 0

        def measure(self, batch):
            outputs = super().measure(batch)
            type(self).n_calls += 1
            if self.n_calls >= first:
                outputs[0, 0] = np.nan
            return outputs

    try:
        characterize(Strict(), n_shots=200)
    except DeviceOutputError:
        return
    assert Strict.n_calls < first


@pytest.mark.parametrize("n_shots", [200, 500, 2000])
@pytest.mark.parametrize("n_faults", [1, 2, 20, 400])
def test_faults_never_cost_more_than_the_budget(n_shots: int, n_faults: int) -> None:
    class Flaky(Bank):
        n_rows = n_calls = 0

        def measure(self, batch):
            outputs = super().measure(batch)
            type(self).n_rows += len(outputs)
            type(self).n_calls += 1
            if self.n_calls % 2 == 0 and self.n_calls <= 2 * n_faults:
                outputs[0, 0] = np.nan
            return outputs

    if n_faults > 2:
        with pytest.raises(ShotBudgetError, match=rf"Got {n_shots:,}, of which too few .* must return finite numbers"):
            characterize(Flaky(), n_shots=n_shots)
    else:
        assert characterize(Flaky(), n_shots=n_shots).n_shots == Flaky.n_rows
    assert Flaky.n_rows <= n_shots


@pytest.mark.parametrize("device", [drivers.Bench(noise=0.02), drivers.Charged(noise=0.02)])
def test_limits_are_kept_and_told(device: Any) -> None:
    report = characterize(device, n_shots=600)
    assert report.restrictions
    assert "Settings did not reach the bounds" in str(report)


def test_stricter_bounds_are_kept() -> None:
    sent = []
    device = as_device(lambda c: sent.append(c) or np.sin(c), n_controls=2, n_outputs=2, bounds=(0, 1))
    characterize(device, n_shots=200, bounds=(0.4, 0.5))
    assert 0.4 <= np.concatenate(sent).min() <= np.concatenate(sent).max() <= 0.5


def test_the_same_seeds_give_the_same_report() -> None:
    first, second = (characterize(SecondHarmonicLaser(10, 5), n_shots=300, random_state=1) for _ in range(2))
    one, other = first.to_dict(), second.to_dict()
    one.pop("shots_per_second"), other.pop("shots_per_second")
    assert one == other


def test_a_characterization_and_a_fit_share_a_journal(tmp_path) -> None:
    device = SecondHarmonicLaser(10, 5)
    characterize(device, n_shots=300, journal=tmp_path / "run.db")
    X, y = np.random.default_rng(0).standard_normal((20, 3)), np.arange(20) % 2
    network = PhysicalNetworkClassifier(device, max_iter=1, n_calibration_shots=20, journal=tmp_path / "run.db").fit(
        X, y
    )
    again = characterize(device, n_shots=300, journal=tmp_path / "run.db")
    assert again.n_shots == 0
    assert sum(network.fit(X, y).ledger_.replayed.values()) > 0


def test_a_journal_answers_the_second_time(tmp_path) -> None:
    first = characterize(SecondHarmonicLaser(10, 5), n_shots=300, journal=tmp_path / "run.db")
    second = characterize(SecondHarmonicLaser(10, 5), n_shots=300, journal=tmp_path / "run.db")
    assert (first.n_shots > 0, second.n_shots) == (True, 0)
    assert second.overall_snr == first.overall_snr


def test_the_device_is_left_alone() -> None:
    device = SecondHarmonicLaser(6, 4)
    characterize(device, n_shots=200)
    assert device.random_state is None
    assert not hasattr(device, "_stream")


# ---- errors ----


@pytest.mark.parametrize("n_shots", [199, 300.0, True])
def test_too_few_shots(n_shots: Any) -> None:
    with pytest.raises(ValueError, match=f"'n_shots' must be an int of at least 200. Got {n_shots}"):
        characterize(SecondHarmonicLaser(), n_shots=n_shots)


def test_what_is_no_device() -> None:
    with pytest.raises(DeviceContractError, match=r"'device' must be a skpat\.Device"):
        characterize("laser")


# ---- the report ----


@pytest.fixture(scope="module")
def report() -> DeviceReport:
    return characterize(Bank(n_dead=1), n_shots=600)


def test_the_report_can_be_read(report: DeviceReport) -> None:
    assert report.verdict in VERDICTS
    lines = str(report).split("\n")
    assert lines[0].startswith("Bank: suitable. A linear model misses")
    assert "  signal-to-noise" in str(report)
    assert repr(report) == str(report)


def test_html_is_escaped() -> None:
    device = as_device(np.sin, n_controls=2, n_outputs=2, bounds=(0, 1), name="<script>", output_units="<i>")
    html = characterize(device, n_shots=200)._repr_html_()
    assert "&lt;script&gt;" in html
    assert "<script>" not in html
    assert "<i>" not in html


def test_the_dictionary_is_plain(report: DeviceReport) -> None:
    found = json.loads(json.dumps(report.to_dict()))
    assert found["verdict"] == report.verdict
    assert found["dead_channels"] == [9]


@pytest.mark.parametrize("device", [Bank(), IdentityDevice(400, 1, [[0, 1]] * 400)])
def test_the_figure_has_six_panels(device: Any) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    figure = characterize(device, n_shots=200).plot()
    assert len(figure.axes) == 6
    assert all(axes.has_data() for axes in figure.axes)


def test_without_matplotlib_the_figure_says_what_to_install(
    report: DeviceReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "skpat\[plot\]"'):
        report.plot()
