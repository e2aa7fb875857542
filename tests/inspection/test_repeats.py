"""Settings that are measured twice in a row: noise of any kind is not taken for a state that is carried."""

from __future__ import annotations

import numpy as np
import pytest

from skpat import characterize, check_device
from skpat.inspection.repeats import count_stale, measured_settling, settling
from tests.inspection.drivers import AllDead, AveragesOverBatch, ComesTwice, Driver, TruncatesUnitControls

N_OUTPUTS = 20
AT_FIRST = 1e-2  # what chance may do in three rounds, before a second look
SETTLED = np.random.default_rng(0).standard_normal((6, N_OUTPUTS))
STEPS = np.roll(SETTLED, 1, axis=0) - SETTLED


def readings(n_rounds: int, share: float = 0.0, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """Six settings; the first of two readings is a share of the step short of the second."""
    first = SETTLED + share * STEPS
    outputs = np.broadcast_to(np.stack([first, SETTLED], axis=1), (n_rounds, 6, 2, N_OUTPUTS))
    return outputs + noise * np.random.default_rng(seed).standard_normal(outputs.shape)


@pytest.mark.parametrize("n_rounds", [3, 12])
@pytest.mark.parametrize("share", [-0.2, 0.1, 0.4])
def test_the_share_and_the_noise_are_those_that_were_put_in(n_rounds: int, share: float) -> None:
    found = settling(readings(n_rounds, share, noise=0.05), AT_FIRST)
    assert found.share == pytest.approx(abs(share), rel=0.1)
    np.testing.assert_allclose(np.sqrt(found.noise).mean(), 0.05, rtol=0.1)
    quiet = settling(readings(n_rounds, share), AT_FIRST)
    assert quiet.share == pytest.approx(abs(share))
    assert not quiet.noise.any()


def test_the_resolution_is_where_shares_begin_to_be_seen() -> None:
    resolution = settling(readings(6, noise=0.2)).resolution
    assert 0.05 < resolution < 0.3
    seen = {
        factor: [settling(readings(6, factor * resolution, 0.2, seed)).share > 0 for seed in range(20)]
        for factor in (0.3, 2)
    }
    assert np.mean(seen[0.3]) < 0.1
    assert np.mean(seen[2]) > 0.9


def noise_of(kind: str, rng: np.random.Generator, n_rounds: int) -> np.ndarray:
    shape = (n_rounds, 6, 2, N_OUTPUTS)
    if kind == "shared by all outputs":
        return np.broadcast_to(rng.standard_normal((*shape[:3], 1)), shape)
    if kind == "of another size in each setting":
        return rng.standard_normal(shape) * np.exp(1.5 * rng.standard_normal((1, 6, 1, 1)))
    if kind == "with outliers":
        return rng.standard_t(1.5, shape)
    if kind == "rounded":
        return np.round(4 * (SETTLED[:, None] + 0.1 * rng.standard_normal(shape))) - 4 * SETTLED[:, None]
    rows = np.arange(n_rounds * 12).reshape(n_rounds, 6, 2, 1)
    return rng.standard_normal(shape) + 3 * rows * np.ones(N_OUTPUTS)  # a drift


@pytest.mark.parametrize("n_rounds", [3, 12])
@pytest.mark.parametrize(
    "kind",
    ["shared by all outputs", "of another size in each setting", "with outliers", "rounded", "a drift from row to row"],
)
def test_noise_is_not_taken_for_what_is_carried(kind: str, n_rounds: int) -> None:
    rng = np.random.default_rng(1)
    assert not any(settling(SETTLED[:, None] + 0.1 * noise_of(kind, rng, n_rounds)).share for _ in range(60))


def test_a_first_setting_that_follows_others_is_left_out() -> None:
    outputs = readings(12, 0.1, noise=0.01)
    outputs[:, 0, 0] += np.random.default_rng(2).standard_normal((12, N_OUTPUTS))
    assert settling(outputs).noise.max() > 0.01
    outputs[:, 0, 0] = np.nan
    assert settling(outputs).share == pytest.approx(0.1, rel=0.1)
    assert settling(outputs).noise.max() < 2e-4


def test_outputs_that_never_change_say_nothing() -> None:
    assert settling(np.ones((3, 6, 2, 4))).share == 0
    mixed = np.concatenate([readings(6, 0.2), np.ones((6, 6, 2, 4))], axis=3)
    assert settling(mixed).share == pytest.approx(0.2)
    assert settling(np.ones((3, 6, 2, 4))).resolution == np.inf


def test_every_setting_comes_twice_in_a_row_and_after_another_one() -> None:
    sent, sizes = [], []

    def measure(batch):
        sizes.append(len(batch))
        assert len(set(batch.row_keys.tolist())) == len(batch)  # each with a noise of its own
        sent.extend(np.asarray(batch)[:, 0].astype(int))
        return np.asarray(batch)

    found = measured_settling(measure, np.arange(6.0)[:, None])
    assert (found.share, sizes) == (0, [13, 14, 16])  # a setting has another place in each call
    twice = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert sent == [5, *twice, 5, 5, *twice, 5, 5, 5, 5, *twice]


def test_a_leap_is_looked_at_again() -> None:
    n_measured = 0

    def measure(batch):
        nonlocal n_measured
        clock = n_measured + np.arange(len(batch))
        n_measured += len(batch)
        settings = np.asarray(batch).astype(int)[:, 0]
        begun = np.searchsorted([0, 13, 27, 43], clock, side="right")
        place = clock - np.array([0, 1, 15, 31, 0])[begun]
        odd = (clock < 43) & (place % 2 == 0)  # the first readings of one look
        return SETTLED[settings] + 0.3 * odd[:, None] * STEPS[settings]

    assert measured_settling(measure, np.arange(6.0)[:, None]).share == 0
    assert n_measured == 2 * 43


@pytest.mark.parametrize("period", [2, 4, 5, 7, 8, 10, 12, 13, 14, 16, 20, 24])
def test_a_hum_is_not_taken_for_what_is_carried(period: int) -> None:
    n_measured = 0

    def measure(batch):
        nonlocal n_measured
        clock = n_measured + np.arange(len(batch))
        n_measured += len(batch)
        hum = np.sin(2 * np.pi * clock / period + 0.3)[:, None]
        return SETTLED[np.asarray(batch).astype(int)[:, 0]] + 0.2 * hum

    assert measured_settling(measure, np.arange(6.0)[:, None]).share == 0


# ---- readings that come twice ----


ONE, TWO, THREE, FOUR = range(4)


@pytest.mark.parametrize(
    ("keys", "least", "n_stale"),
    [
        ([ONE, TWO, TWO, THREE, FOUR, FOUR, 5, 6], 2, 2),
        ([ONE, TWO, TWO, THREE, FOUR, 5], 2, 0),  # a single one is chance
        ([ONE, TWO, TWO, THREE, FOUR, 5], 1, 1),
        ([ONE, TWO, TWO, THREE, FOUR, FOUR, ONE, 6], 2, 0),  # ONE comes again later: the readings are coarse
        ([ONE, TWO, TWO, TWO, TWO, THREE, FOUR, 5, 6, 7], 2, 3),  # the same old one for a while
        ([ONE] * 9, 2, 0),  # nothing has an effect
        ([ONE] * 20 + [TWO] * 20 + [THREE] * 20, 2, 0),  # an answer for each call
        ([ONE] * 3 + [TWO] * 3 + [THREE] * 3 + [FOUR] * 3, 2, 8),  # three frames for one
        ([ONE, TWO, THREE, FOUR], 1, 0),
    ],
)
def test_old_readings_are_repeats_of_neighbours_and_of_nobody_else(keys: list[int], least: int, n_stale: int) -> None:
    found = np.array(keys, dtype=np.uint64)
    another = np.ones(len(keys) - 1, dtype=bool)
    assert count_stale(found, another, least) == n_stale
    assert count_stale(found, ~another, least) == 0  # the same setting may well be answered alike


@pytest.mark.parametrize("device", [AllDead(), AveragesOverBatch(), AveragesOverBatch(0.05), TruncatesUnitControls()])
def test_settings_without_an_effect_are_no_old_readings(device: Driver) -> None:
    assert characterize(device, n_shots=400, random_state=0).n_stale == 0


def test_means_in_the_place_of_bad_readings_are_no_old_ones() -> None:
    class Bursts(Driver):
        on_bad_output = "mask"

        def measure(self, batch):
            readings = super().measure(batch)
            chance = self.__dict__.setdefault("_chance", np.random.default_rng(self.seed))
            for first in np.flatnonzero(chance.uniform(size=len(readings)) < 0.03):
                readings[first : first + 2] = np.nan
            return readings

    for seed in range(4):
        assert characterize(Bursts(0.05, seed), n_shots=400, random_state=seed).n_stale == 0
        check = check_device(Bursts(0.05, seed), on_fail=None, random_state=seed)
        assert "stale answers" not in [finding.name for finding in check.findings]


@pytest.mark.parametrize("share", [0.0, 0.03])
@pytest.mark.parametrize(("noise", "step"), [(0.05, 0.0), (0.05, 0.02), (0.0, 0.0), (0.0, 0.5)])
def test_a_report_counts_readings_that_come_twice(share: float, noise: float, step: float) -> None:
    device = ComesTwice(noise, 1, share, step)
    report = characterize(device, n_shots=400, random_state=1)
    told = [remark for remark in report.remarks if "to the last bit" in remark]
    assert bool(report.n_stale) == bool(told) == bool(share and noise)
    assert report.n_stale == report.to_dict()["n_stale"] <= 3 * 0.03 * 400
