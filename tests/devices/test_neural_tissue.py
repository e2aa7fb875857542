"""The culture keeps its laws, its charge limit holds, its noise is named, and its answers carry information."""

from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.linear_model import RidgeClassifier

from skpat import ControlBatch, PhysicalNetworkClassifier
from skpat.devices import NeuralTissue
from skpat.devices.culture import grow
from skpat.exceptions import ControlBoundsError
from skpat.lab import Session

from .device_checks import named


def small_tissue(**parameters) -> NeuralTissue:
    """Few neurons, two pulses; the background needs no more than these."""
    return NeuralTissue(
        **{"n_electrodes": 9, "n_neurons": 40, "n_pulses": 2, "duration": 16.0, "random_state": 0} | parameters
    )


def settings_for(tissue: NeuralTissue, n_rows: int, seed: int = 0) -> np.ndarray:
    return tissue.max_amplitude * np.random.RandomState(seed).uniform(size=(n_rows, tissue.n_controls))


# ---- what it is ----


def test_it_has_no_gradient() -> None:
    assert not hasattr(NeuralTissue(), "forward")


@pytest.mark.parametrize(("n_electrodes", "n_windows"), [(1, 1), (9, 3), (60, 2)])
def test_it_counts_for_every_electrode_and_window(n_electrodes: int, n_windows: int) -> None:
    tissue = small_tissue(n_electrodes=n_electrodes, n_windows=n_windows)
    assert (tissue.n_controls, tissue.n_outputs) == (n_electrodes, n_electrodes * n_windows)
    np.testing.assert_array_equal(tissue.bounds, [[0, 10]] * n_electrodes)
    assert tissue.measure(settings_for(tissue, 3)).shape == (3, tissue.n_outputs)
    assert tissue.measure(np.empty((0, n_electrodes))).shape == (0, tissue.n_outputs)


def test_sixty_electrodes_are_a_grid_without_corners() -> None:
    places = NeuralTissue().grown().electrodes / 200.0
    grid = {(x - 3.5, y - 3.5) for x in range(8) for y in range(8)}
    assert grid - set(map(tuple, places)) == {(x, y) for x in (-3.5, 3.5) for y in (-3.5, 3.5)}


@pytest.mark.parametrize("radius", [0.0, 150.0])
def test_the_outputs_are_the_spikes_that_the_electrodes_hear(radius: float) -> None:
    tissue = small_tissue(n_windows=3, recording_radius=radius)  # 40 steps: windows of 14, 13 and 13
    batch = named(settings_for(tissue, 5))
    raster, counts = tissue.spikes(batch), tissue.measure(batch)
    dish = tissue.grown()
    assert raster.any(axis=1).mean() > 0.2
    first_and_last = [np.flatnonzero(np.arange(40) * 3 // 40 == window)[[0, -1]] for window in range(3)]
    for window, (first, last) in enumerate(first_and_last):
        for electrode, place in enumerate(dish.electrodes):
            distance = np.linalg.norm(dish.neurons - place, axis=1)
            near = (distance <= radius) | (distance == distance.min())
            expected = raster[:, first : last + 1, near].sum(axis=(1, 2))
            np.testing.assert_array_equal(counts[:, window * 9 + electrode], expected)


@given(st.integers(0, 1000), st.sampled_from([np.float32, np.float64]))
@settings(max_examples=10)
def test_counts_are_whole_and_bounded_by_the_refractory_period(seed: int, dtype: type) -> None:
    tissue = small_tissue(culture=seed, sensitivity=3.0)
    counts = tissue.measure(named(settings_for(tissue, 4, seed).astype(dtype)))
    assert counts.dtype == dtype
    np.testing.assert_array_equal(counts, np.round(counts))
    assert counts.min() >= 0
    heard = np.maximum((tissue.grown().distance <= tissue.recording_radius).sum(axis=1), 1)
    assert (counts <= np.tile(heard * np.ceil(20 / 6), 2)).all()  # 20 steps of a window, one spike in 6 steps at most
    raster = tissue.spikes(named(settings_for(tissue, 4, seed).astype(dtype)))
    for row in raster.transpose(0, 2, 1).reshape(-1, raster.shape[1]):
        assert (np.diff(np.flatnonzero(row)) > 5).all()


def test_without_stimulus_and_background_it_is_silent() -> None:
    quiet = small_tissue(background_rate=0.0)
    assert not quiet.measure(np.zeros((2, 9))).any()
    assert quiet.measure(np.full((1, 9), 8.0)).any()
    assert not small_tissue(background_weight=0.0).measure(np.zeros((2, 9))).any()


def test_without_background_it_makes_no_noise() -> None:
    quiet = small_tissue(background_rate=0.0)
    controls = settings_for(quiet, 4)
    np.testing.assert_array_equal(quiet.measure(named(controls)), quiet.measure(named(controls, shot=1)))
    np.testing.assert_array_equal(quiet.measure(named(controls)), quiet.measure(controls))


def test_the_resting_culture_fires_now_and_then() -> None:
    tissue = NeuralTissue(random_state=0)
    rate = tissue.spikes(named(np.zeros((100, 60)))).mean() / (tissue.dt * 1e-3)
    assert 0.3 < rate < 5  # 1/s per neuron


# ---- stimulation ----


def membrane(tissue: NeuralTissue, amplitude: float) -> np.ndarray:
    """Voltage of the neurons after each step of a pulse train too weak to make spikes."""
    ((_, part, network),) = tissue._pieces(ControlBatch.from_dense(np.full((1, tissue.n_controls), amplitude)))
    train = tissue._train(part, tissue._array().of_amplitudes)
    return np.array([voltage[0].copy() for _, voltage in network.run(train)])


def test_a_pulse_is_two_phases_of_equal_charge() -> None:
    tissue = small_tissue(background_rate=0.0, pulse_duration=0.8)
    train = tissue._train(ControlBatch.from_dense(settings_for(tissue, 2)), tissue._array().of_amplitudes)
    assert len(train) == 40
    pulse = [i for i, current in enumerate(train) if current is not None]
    assert pulse == [0, 1, 2, 3, 16, 17, 18, 19]
    np.testing.assert_array_equal(sum(train[i] for i in pulse), 0)
    assert (train[0] > 0).all()
    np.testing.assert_array_equal(train[1], train[0])


def test_the_current_falls_off_with_the_distance() -> None:
    tissue = small_tissue(reach=100.0, sensitivity=0.7)
    controls = np.zeros((1, 9))
    controls[0, 4] = 2.0
    current = tissue._train(ControlBatch.from_dense(controls), tissue._array().of_amplitudes)[0]
    distance = np.linalg.norm(tissue.grown().neurons - tissue.grown().electrodes[4], axis=1)
    np.testing.assert_allclose(current[0], 0.7 * 2.0 / (1 + (distance / 100.0) ** 2) ** 1.5)


def test_a_pulse_below_threshold_leaves_next_to_nothing() -> None:
    voltage = membrane(small_tissue(background_rate=0.0), 0.5)
    assert voltage[0].min() > 0
    assert (np.abs(voltage[1]) < 0.05 * voltage[0]).all()


def test_the_response_grows_gradually() -> None:
    tissue = NeuralTissue(random_state=0)
    levels = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0])
    means = [tissue.spikes(named(np.full((30, 60), level))).sum(axis=1).mean() for level in levels]
    assert (np.diff(means) > 0).all()
    assert means[0] < 0.2  # not epileptic
    assert 1.5 < means[-1] < 10  # spikes per neuron; the refractory period allows 17


# ---- charge ----


def test_too_much_charge_is_refused_and_nothing_is_sent() -> None:
    tissue = small_tissue()
    measured = []
    tissue.measure = measured.append
    with Session(tissue) as session:
        controls = np.full((3, 9), 5.0)
        controls[2] = 9.0
        message = (
            r"^The 'controls' passed to NeuralTissue\.measure must carry at most 30\.6 nC per phase over all electrodes "
            r"\('max_charge'\)\. Got 32\.4 nC in row 2: lower the amplitudes\. Nothing was sent\.$"
        )
        with pytest.raises(ControlBoundsError, match=message) as caught:
            session.measure(controls)
        assert (caught.value.row, caught.value.value) == (2, pytest.approx(32.4))
        assert session.ledger.total == 0
    assert measured == []


def test_shared_channels_carry_charge_too() -> None:
    tissue = small_tissue(max_charge=20.0)
    batch = ControlBatch(np.full((2, 1), 10.0), np.array([3]), np.full(8, 5.0), np.array([0, 1, 2, 4, 5, 6, 7, 8]))
    tissue.check_controls(batch)  # 50 uA for 0.4 ms
    with pytest.raises(ControlBoundsError, match=r"at most 19\.9 nC .* Got 20 nC in row 0"):
        tissue.set_params(max_charge=19.9).check_controls(batch)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_just_as_much_as_is_legal_passes(dtype: type) -> None:
    tissue = NeuralTissue()
    tissue.check_controls(ControlBatch.from_dense(np.full((1, 60), 8.5, dtype=dtype)))
    with pytest.raises(ControlBoundsError, match="max_charge"):
        tissue.check_controls(ControlBatch.from_dense(np.full((1, 60), 8.51, dtype=dtype)))


def test_a_limit_that_is_no_number_lets_nothing_pass() -> None:
    with pytest.raises(ControlBoundsError, match="at most nan nC"):
        small_tissue(max_charge=float("nan")).check_controls(ControlBatch.from_dense(np.zeros((1, 9))))


@given(st.floats(0.01, 1.5), st.floats(0.05, 0.6))
@settings(max_examples=30, deadline=None)
def test_the_charge_is_that_of_the_pulse_as_it_is_played(duration: float, dt: float) -> None:
    tissue = small_tissue(pulse_duration=duration, dt=dt, n_pulses=1)
    controls = np.full((1, 9), 5.0)
    train = tissue._train(ControlBatch.from_dense(controls), tissue._array().of_amplitudes)
    played = dt * sum(current is not None for current in train) / 2 * 45.0  # ms uA in one phase
    tissue.set_params(max_charge=played).check_controls(ControlBatch.from_dense(controls))
    with pytest.raises(ControlBoundsError) as caught:
        tissue.set_params(max_charge=0.99 * played).check_controls(ControlBatch.from_dense(controls))
    assert caught.value.value == pytest.approx(played)
    by_default = clone(tissue).set_params(max_charge=None)
    by_default.check_controls(ControlBatch.from_dense(np.full((1, 9), 8.5)))
    with pytest.raises(ControlBoundsError, match="max_charge"):
        by_default.check_controls(ControlBatch.from_dense(np.full((1, 9), 8.51)))


def test_a_pulse_shorter_than_a_step_carries_the_charge_of_a_step() -> None:
    tissue = NeuralTissue(pulse_duration=0.1, max_charge=60.0)
    with pytest.raises(ControlBoundsError, match=r"at most 60 nC .* Got 240 nC in row 0"):
        tissue.check_controls(ControlBatch.from_dense(np.full((1, 60), 10.0)))


@pytest.mark.parametrize("n_electrodes", [12, 60])
def test_settings_drawn_at_random_pass(n_electrodes: int) -> None:
    tissue = NeuralTissue(n_electrodes)
    tissue.check_controls(ControlBatch.from_dense(settings_for(tissue, 20_000)))
    with pytest.raises(ControlBoundsError, match="max_charge"):
        tissue.check_controls(ControlBatch.from_dense(tissue.bounds.T[1:]))


# ---- noise ----


@given(st.lists(st.integers(0, 149), min_size=1, max_size=100, unique=True), st.integers(0, 5))
@settings(max_examples=10)
def test_a_row_does_not_depend_on_its_company(rows: list[int], shot: int) -> None:
    tissue = small_tissue()
    batch = named(settings_for(tissue, 150), shot)
    part = ControlBatch.from_dense(np.asarray(batch)[rows]).named(batch.row_keys[rows], shot)
    np.testing.assert_array_equal(tissue.measure(part), tissue.measure(batch)[rows])


@pytest.mark.parametrize("change", ["shot", "seed", "row"])
def test_another_name_gives_other_noise(change: str) -> None:
    tissue = small_tissue()
    controls = settings_for(tissue, 40)
    other = {
        "shot": lambda: tissue.measure(named(controls, shot=1)),
        "seed": lambda: clone(tissue).set_params(random_state=1).measure(named(controls)),
        "row": lambda: tissue.measure(named(controls, first_key=40)),
    }[change]()
    same = clone(tissue).measure(named(controls))
    np.testing.assert_array_equal(tissue.measure(named(controls)), same)
    assert (other != same).any(axis=1).mean() > 0.8


@pytest.mark.parametrize("seed", [0, None])
def test_unnamed_rows_draw_from_the_stream_of_the_device(seed: int | None) -> None:
    controls = settings_for(small_tissue(), 100)
    tissue, other = small_tissue(random_state=seed), small_tissue(random_state=seed)
    first, second = tissue.measure(controls), tissue.measure(controls)
    assert (first != second).any(axis=1).mean() > 0.7
    assert (other.measure(controls) == first).all() == (seed == 0)
    if seed is None:
        assert (tissue.measure(named(controls)) != tissue.measure(named(controls))).any()


def test_a_shared_part_changes_nothing() -> None:
    tissue = small_tissue()
    controls = settings_for(tissue, 6)
    controls[:, 4:] = controls[0, 4:]
    dense = named(controls)
    split = ControlBatch(controls[:, :4], np.arange(4), controls[0, 4:], np.arange(4, 9), dense.row_keys)
    np.testing.assert_array_equal(tissue.measure(split), tissue.measure(dense))


def test_single_precision_gives_nearly_the_same_counts() -> None:
    tissue = small_tissue()
    controls = settings_for(tissue, 50).astype(np.float32)
    differs = tissue.measure(named(controls)) != tissue.measure(named(controls.astype(np.float64)))
    assert differs.mean() < 0.01  # a voltage that meets the threshold within the rounding


def test_copies_are_the_same_dish() -> None:
    tissue = small_tissue(culture=3)
    batch = named(settings_for(tissue, 4))
    counts = tissue.measure(batch)
    for copy in (clone(tissue), pickle.loads(pickle.dumps(tissue)), eval(repr(tissue))):
        np.testing.assert_array_equal(copy.measure(batch), counts)
    assert (tissue.set_params(culture=4).measure(batch) != counts).any()
    np.testing.assert_array_equal(tissue.set_params(culture=3).measure(batch), counts)


# ---- the dish ----


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
@settings(max_examples=10)
def test_a_neuron_excites_or_inhibits(number: int, excitatory_fraction: float) -> None:
    """Dale's law, at first and after long plasticity."""
    dish = grow(number, 50, 16, 200.0, excitatory_fraction, 0.5, 300.0, 0.2, 0.8)
    n_excitatory = round(50 * excitatory_fraction)
    for weights in (dish.weights, dish.weights_at(100_000, 0.1)):
        assert (weights[:n_excitatory] >= 0).all()
        assert (weights[n_excitatory:] <= 0).all()
        np.testing.assert_array_equal(weights.diagonal(), 0)
        np.testing.assert_array_equal(weights != 0, dish.weights != 0)


def test_near_neurons_are_connected_more_often() -> None:
    dish = grow(1, 300, 60, 200.0, 0.8, 0.5, 300.0, 0.2, 0.8)
    distance = np.sqrt(np.square(dish.neurons[:, None] - dish.neurons).sum(axis=-1))
    assert np.abs(dish.neurons).max() <= 800
    for low, high in ((0, 150), (250, 350), (550, 650)):
        pairs = (distance > low) & (distance < high)
        expected = 0.5 * np.exp(-distance[pairs] / 300.0).mean()
        assert (dish.weights != 0)[pairs].mean() == pytest.approx(expected, abs=4 * np.sqrt(0.25 / pairs.sum()))
    assert dish.weights[dish.weights > 0].mean() == pytest.approx(0.2, rel=0.03)
    assert dish.weights[dish.weights < 0].mean() == pytest.approx(-0.8, rel=0.05)


# ---- plasticity ----


def change(knot: int, spread: float = 1e-6, number: int = 0) -> np.ndarray:
    """The walk of all synapses, in steps of its own."""
    dish = grow(number, 60, 16, 200.0, 0.8, 0.5, 300.0, 0.2, 0.8)
    there = dish.weights != 0
    return np.log(dish.weights_at(knot, spread)[there] / dish.weights[there]) / spread


def test_plasticity_is_a_random_walk() -> None:
    np.testing.assert_array_equal(change(0), 0)
    knots = [1, 2, 3, 100, 101, 5000, 2**20, 2**30]
    walks = [change(0), *(change(knot) for knot in knots)]
    n = len(walks[0])
    passed = np.sqrt(np.diff([0, *knots]))
    increments = [(after - before) / root for (before, after), root in zip(pairwise(walks), passed, strict=True)]
    for increment in increments:
        assert abs(increment.mean()) < 4 / np.sqrt(n)
        assert abs(increment.std() - 1) < 4 / np.sqrt(2 * n)
    assert np.abs(np.corrcoef(increments) - np.eye(len(knots))).max() < 4.5 / np.sqrt(n)


def test_plasticity_is_a_function_of_the_dish_and_the_clock() -> None:
    np.testing.assert_array_equal(change(77), change(77))
    n = min(len(change(77)), len(change(77, number=1)))
    assert abs(np.corrcoef(change(77)[:n], change(77, number=1)[:n])[0, 1]) < 4 / np.sqrt(n)
    np.testing.assert_array_equal(change(2**40), change(2**30))  # the end of time


def test_plasticity_is_bounded() -> None:
    change_after_long = change(10_000_000, spread=0.1) * 0.1
    assert np.abs(change_after_long).max() <= np.log(4) + 1e-12
    assert np.abs(change_after_long).mean() > 1.2


def test_the_culture_drifts_with_the_clock() -> None:
    plastic, fixed = small_tissue(plasticity=0.1, plasticity_interval=10), small_tissue()
    batch = named(settings_for(plastic, 150))

    def at(clock: int) -> np.ndarray:
        return plastic.measure(replace(batch, clock=np.full(150, clock)))

    now = fixed.measure(batch)
    np.testing.assert_array_equal(at(0), now)
    np.testing.assert_array_equal(at(9), now)
    drift = [np.abs(at(clock) - now).mean() for clock in (10, 1000, 10_000)]
    assert 0 < drift[0] < drift[1] < drift[2]
    np.testing.assert_array_equal(at(1000), at(1009))
    for clock, knot in ((0, 0), (9, 0), (10, 1), (1000, 100)):
        np.testing.assert_array_equal(plastic.network(clock).weights, plastic.grown().weights_at(knot, 0.1))


def test_a_batch_over_several_knots_is_its_rows() -> None:
    tissue = small_tissue(plasticity=0.5, plasticity_interval=7)
    batch = named(settings_for(tissue, 30)).started_at(100)
    together = tissue.measure(batch)
    apart = [tissue.measure(batch.rows(slice(i, i + 1))) for i in range(30)]
    np.testing.assert_array_equal(together, np.concatenate(apart))
    np.testing.assert_array_equal(tissue.spikes(batch)[12:13], tissue.spikes(batch.rows(slice(12, 13))))


def test_without_a_session_the_device_counts_for_itself() -> None:
    tissue, other = (small_tissue(plasticity=0.5, plasticity_interval=20) for _ in range(2))
    batch = named(settings_for(tissue, 20))
    parts = [tissue.measure(batch), tissue.measure(batch)]
    assert (parts[0] != parts[1]).any()
    np.testing.assert_array_equal(other.measure(batch.started_at(20)), parts[1])
    with Session(small_tissue(plasticity=0.5, plasticity_interval=20)) as session:
        np.testing.assert_array_equal(session.measure(batch, shot=0), parts[0])
        np.testing.assert_array_equal(session.measure(batch, shot=0), parts[1])


# ---- is it of any use ----


def test_the_response_is_not_linear_in_the_controls() -> None:
    """Of the variance that is not noise, a linear model of the controls misses more than a fifth."""
    tissue = NeuralTissue(random_state=0)
    controls = settings_for(tissue, 900)
    one, other = (tissue.measure(named(controls, shot)) for shot in (0, 1))
    noise = np.square(one - other).mean(axis=0) / 2
    design = np.column_stack([controls, np.ones(900)])
    train, test = slice(0, 600), slice(600, 900)
    missed = 0.0
    for first, second in ((one, other), (other, one)):  # residuals of two shots share what is not noise
        fit = np.linalg.lstsq(design[train], (first + second)[train] / 2, rcond=None)[0]
        missed += ((first - design @ fit) * (second - design @ fit))[test].mean(axis=0) / 2
    # what the linear model lost by having been fitted to few rows is no nonlinearity
    missed /= 1 + 61 / 600
    signal = ((one - one.mean(axis=0)) * (other - other.mean(axis=0)))[test].mean(axis=0)
    assert missed.sum() / signal.sum() > 0.2
    assert signal.sum() > 2 * noise.sum()


def test_the_counts_tell_an_exclusive_or() -> None:
    """Two bits on half of the electrodes, anything on the others: the classes lie on a cross."""
    tissue = NeuralTissue(random_state=0)
    rng = np.random.RandomState(0)
    bits = rng.randint(0, 2, (600, 2))
    controls = np.empty((600, 60))
    controls[:, 0::4], controls[:, 2::4] = np.where(bits[:, :1], 8.0, 2.0), np.where(bits[:, 1:], 8.0, 2.0)
    controls[:, 1::2] = rng.uniform(3, 7, 30)
    controls += rng.uniform(-1, 1, controls.shape)
    target = bits[:, 0] ^ bits[:, 1]

    def score(features: np.ndarray) -> float:
        return RidgeClassifier(10.0).fit(features[:400], target[:400]).score(features[400:], target[400:])

    assert score(controls) < 0.65
    assert score(tissue.measure(named(controls))) > 0.85


def test_a_training_stays_within_the_charge_limit() -> None:
    rng = np.random.RandomState(0)
    X, y = rng.uniform(-1, 1, (40, 4)), rng.randint(0, 2, 40)
    tissue = small_tissue(n_electrodes=16)
    est = PhysicalNetworkClassifier(
        tissue, max_iter=10, learning_rate_init=0.05, n_calibration_shots=200, random_state=0
    )
    assert est.fit(X, y).shots_["training"] == 400


# ---- wrong parameters ----


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_electrodes": 0}, r"'n_electrodes' of NeuralTissue must be an int of at least 1\. Got 0\."),
        ({"n_neurons": 2.5}, r"'n_neurons' .* Got 2\.5"),
        ({"n_windows": True}, "'n_windows' .* int"),
        ({"n_windows": 41}, "'n_windows' .* at most one for each of the 40 steps.*Use fewer windows"),
        ({"n_pulses": 0}, "'n_pulses' .* at least 1"),
        ({"plasticity_interval": 0}, "'plasticity_interval' .* at least 1"),
        ({"culture": -1}, r"'culture' .* 0 to 2\*\*32 - 1"),
        ({"dt": 0.0}, r"'dt' .* a number above 0\. Got 0\.0\. Use dt=0\.4, for example"),
        ({"tau_membrane": float("nan")}, "'tau_membrane' .* above 0"),
        ({"threshold": float("inf")}, "'threshold' .* above 0"),
        ({"plasticity": -0.1}, "'plasticity' .* at least 0"),
        ({"background_weight": -1.0}, "'background_weight' .* at least 0"),
        ({"excitatory_fraction": 1.1}, "'excitatory_fraction' .* from 0 to 1"),
        ({"connection_probability": -0.5}, "'connection_probability' .* from 0 to 1"),
        ({"pulse_interval": 0.5}, r"'pulse_interval' .* at least two phases long, 0\.8 ms"),
        ({"duration": 5.0}, r"'duration' .* as long as the train of pulses, 7\.2 ms.*Use a longer duration"),
        ({"background_rate": 1e6}, "'background_rate' of SpikingNetwork must give 0 to 20 spikes"),
    ],
)
def test_a_wrong_parameter_is_refused_when_used(parameters: dict, message: str) -> None:
    tissue = small_tissue(**parameters)
    with pytest.raises(ValueError, match=message):
        tissue.measure(np.ones((1, max(1, tissue.n_electrodes))))


def test_the_dish_and_the_network_check_too() -> None:
    wrong, batch = small_tissue(dt=-1.0), ControlBatch.from_dense(np.zeros((1, 9)))
    for look in (wrong.grown, wrong.network, lambda: wrong.check_controls(batch)):
        with pytest.raises(ValueError, match="'dt' of NeuralTissue"):
            look()
