"""Integrate-and-fire neurons against closed forms and against Brian2; background spikes against Poisson's law."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, poisson

from skpat.devices.spiking_network import SpikingNetwork

ALONE = np.zeros((1, 1))


def constant(current: float, time: float, dt: float, n_neurons: int = 1) -> list[np.ndarray]:
    return [np.full((1, n_neurons), current)] * round(time / dt)


def voltages(network: SpikingNetwork, current, **how) -> np.ndarray:
    """(n_steps, n_rows, n_neurons)"""
    return np.array([voltage.copy() for _, voltage in network.run(current, **how)])


def spike_times(network: SpikingNetwork, current, neuron: int = 0) -> np.ndarray:
    return network.dt * (1 + np.flatnonzero(network.spikes(current)[0, :, neuron]))


def random_weights(n_neurons: int, seed: int, strength: float = 1.0) -> np.ndarray:
    rng = np.random.RandomState(seed)
    weights = strength * rng.uniform(0, 1, (n_neurons, n_neurons)) * (rng.uniform(size=(n_neurons, n_neurons)) < 0.4)
    weights[int(0.75 * n_neurons) :] *= -2
    np.fill_diagonal(weights, 0)
    return weights


# ---- one neuron ----


@pytest.mark.parametrize("dt", [0.1, 0.4, 1.0])
def test_the_voltage_below_threshold_is_exact(dt: float) -> None:
    network = SpikingNetwork(ALONE, dt=dt)
    time = dt * np.arange(1, round(50 / dt) + 1)
    exact = 100 * 0.149 * (1 - np.exp(-time / 20))
    np.testing.assert_allclose(voltages(network, constant(0.149, 50, dt))[:, 0, 0], exact, rtol=1e-12)


@pytest.mark.parametrize(("sign", "tau"), [(1, 3.0), (-1, 6.0), (1, 20.0)])
def test_the_answer_to_one_spike_is_exact(sign: int, tau: float) -> None:
    """Also where the times of the membrane and of the synapse are equal."""
    network = SpikingNetwork(np.array([[0, sign * 0.25], [0, 0]]), dt=0.2, tau_excitatory=tau, tau_inhibitory=tau)
    current = np.zeros((300, 1, 2))
    current[0, 0, 0] = 100.0
    after = 0.2 * np.arange(300) - network.delay  # the spike is sent at the end of step 0
    if tau == 20.0:
        shape = after / 20 * np.exp(-after / 20)
    else:
        shape = tau / (20 - tau) * (np.exp(-after / 20) - np.exp(-after / tau))
    exact = np.where(after > 0, 100 * sign * 0.25 * shape, 0)
    np.testing.assert_allclose(voltages(network, current)[:, 0, 1], exact, atol=1e-9)


@pytest.mark.parametrize("current", [0.151, 0.2, 0.4, 1.5])
def test_the_rate_is_that_of_the_closed_form(current: float) -> None:
    dt = 0.01
    network = SpikingNetwork(ALONE, dt=dt, refractory=2.0)
    interval = 2.0 + 20 * np.log(100 * current / (100 * current - 15))
    times = spike_times(network, constant(current, 2.5 * interval, dt))
    assert times[0] == pytest.approx(interval - 2.0, abs=dt)
    assert times[1] - times[0] == pytest.approx(interval, abs=dt)


def test_a_neuron_that_just_reaches_the_threshold_spikes() -> None:
    current = constant(0.2, 10, 0.4)
    reached = voltages(SpikingNetwork(ALONE, threshold=1e9), current)[-1, 0, 0]
    assert SpikingNetwork(ALONE, threshold=reached).spikes(current)[0, :, 0].tolist() == [False] * 24 + [True]
    assert not SpikingNetwork(ALONE, threshold=np.nextafter(reached, 99)).spikes(current).any()


def test_a_current_that_cannot_reach_the_threshold_gives_no_spike() -> None:
    assert not SpikingNetwork(ALONE).spikes(constant(0.1499, 2000, 0.4)).any()


def test_spike_times_converge_with_the_step() -> None:
    """A chain of two, in which the second fires on the first one's account."""

    def second(dt: float) -> float:
        network = SpikingNetwork(np.array([[0, 2.0], [0, 0]]), dt=dt)
        return spike_times(network, [np.array([[0.4, 0.0]])] * round(30 / dt), neuron=1)[0]

    exact = second(0.001)
    errors = [second(dt) - exact for dt in (0.4, 0.2, 0.1, 0.05, 0.01)]
    for error, dt in zip(errors, (0.4, 0.2, 0.1, 0.05, 0.01), strict=True):
        assert -1e-2 < error <= 2 * dt + 1e-3  # each of two crossings is seen at the end of its step
    assert errors[-1] < 0.1 * errors[0]


@given(st.floats(0.4, 6.0), st.floats(0.2, 0.5), st.integers(0, 5))
@settings(max_examples=15)
def test_the_refractory_period_is_never_violated(refractory: float, dt: float, seed: int) -> None:
    network = SpikingNetwork(random_weights(8, seed, 1.0), dt=dt, refractory=refractory)
    current = np.random.RandomState(seed).uniform(0, 40, (150, 2, 8))
    raster = network.spikes(current, 2)
    assert raster.sum() > 50
    for row in raster.transpose(0, 2, 1).reshape(16, -1):
        apart = np.diff(np.flatnonzero(row))
        assert apart.size == 0 or apart.min() > network.steps(refractory)


def test_a_neuron_is_at_rest_while_it_is_refractory() -> None:
    network = SpikingNetwork(ALONE, refractory=2.0)
    voltage = voltages(network, constant(8.0, 8, 0.4))[:, 0, 0]
    np.testing.assert_array_equal(voltage[:6], 0)  # spikes in its first step, then 5 steps of 0.4 ms
    np.testing.assert_array_equal(network.spikes(constant(8.0, 8, 0.4))[0, :7, 0], [1, 0, 0, 0, 0, 0, 1])


# ---- many ----


def test_without_input_nothing_happens() -> None:
    assert not SpikingNetwork(random_weights(10, 0)).spikes([None] * 100).any()


def test_a_spike_arrives_after_the_delay_and_nowhere_else() -> None:
    network = SpikingNetwork(np.array([[0, 0.1, 0], [0, 0, 0], [0, 0, 0]]), delay=2.0)
    current = np.zeros((20, 1, 3))
    current[0, 0, 0] = 100.0
    voltage = voltages(network, current)
    np.testing.assert_array_equal(voltage[:6, 0, 1], 0)  # 5 steps of 0.4 ms after the end of the first
    assert (voltage[6:, 0, 1] > 0).all()
    np.testing.assert_array_equal(voltage[:, 0, 2], 0)


def test_a_neuron_that_both_excites_and_inhibits_is_refused() -> None:
    network = SpikingNetwork(np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.1, -0.1, 0.0]]))
    with pytest.raises(ValueError, match=r"'weights' of SpikingNetwork must have one sign.*Got both in row 2"):
        network.spikes([None])


@given(st.integers(0, 10), st.integers(1, 20))
@settings(max_examples=15)
def test_a_row_does_not_depend_on_its_company(seed: int, n_rows: int) -> None:
    network = SpikingNetwork(random_weights(40, seed), background_rate=500.0)
    current = np.random.RandomState(seed).uniform(0, 0.4, (60, n_rows, 40))
    keys = np.arange(n_rows, dtype=np.uint64)
    together = network.spikes(current, n_rows, keys)
    row = seed % n_rows
    alone = network.spikes(current[:, row : row + 1], 1, keys[row : row + 1])
    np.testing.assert_array_equal(together[row], alone[0])
    assert alone.any()


def test_the_order_of_the_neurons_does_not_matter_to_the_last_bit() -> None:
    """Sums over spikes are exact."""
    rng = np.random.RandomState(0)
    weights, order = np.exp(rng.standard_normal((80, 80))) * 0.1, rng.permutation(80)
    current = rng.uniform(0, 5, (40, 1, 80))
    straight = voltages(SpikingNetwork(weights), current)
    mixed = voltages(SpikingNetwork(weights[np.ix_(order, order)]), current[:, :, order])
    np.testing.assert_array_equal(mixed, straight[:, :, order])


def test_single_precision_gives_the_same_voltages() -> None:
    network = SpikingNetwork(random_weights(20, 0), threshold=1e3, background_rate=500.0)
    current = np.random.RandomState(0).uniform(0, 0.4, (60, 3, 20))
    keys = np.arange(3, dtype=np.uint64)
    wide = voltages(network, current, n_rows=3, noise_keys=keys)
    narrow = voltages(network, current.astype(np.float32), n_rows=3, noise_keys=keys, dtype=np.float32)
    assert (wide.dtype, narrow.dtype) == (np.float64, np.float32)
    np.testing.assert_allclose(narrow, wide, rtol=1e-4, atol=1e-4)


# ---- background ----


def test_background_spikes_follow_the_law_of_poisson() -> None:
    """With a synapse much shorter than a step, a step's spikes are read from the jump of the voltage."""
    network = SpikingNetwork(np.zeros((50, 50)), background_rate=1250.0, background_weight=1.0, tau_excitatory=1e-2)
    network = SpikingNetwork(**{**vars_of(network), "threshold": 1e9})
    voltage = voltages(network, [None] * 60, n_rows=20, noise_keys=np.arange(20, dtype=np.uint64))
    jump = voltage[1:] - voltage[:-1] * np.exp(-0.4 / 20)
    unit = 100 / 20 * np.exp(-0.4 / 20) / (1 / 1e-2 - 1 / 20) * (1 - np.exp(-0.4 * (1 / 1e-2 - 1 / 20)))
    counts = jump / unit
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-6)
    seen = np.bincount(np.round(counts).astype(int).ravel(), minlength=5)
    expected = poisson.pmf(np.arange(5), 0.5)
    assert (
        chisquare([*seen[:4], seen[4:].sum()], counts.size * np.array([*expected[:4], 1 - expected[:4].sum()]))[1]
        > 1e-3
    )
    for one, other in ((jump[1:], jump[:-1]), (jump[:, 1:], jump[:, :-1]), (jump[..., 1:], jump[..., :-1])):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 4 / np.sqrt(one.size)


def vars_of(network: SpikingNetwork) -> dict:
    return {name: getattr(network, name) for name in network.__dataclass_fields__}


@pytest.mark.parametrize("step", [0, 49])
def test_the_voltage_under_background_is_that_of_campbell(step: int) -> None:
    """At the first step, from the initial state, as at a late one."""
    network = SpikingNetwork(np.zeros((50, 50)), dt=0.1, threshold=1e9, background_rate=800.0, background_weight=0.05)
    voltage = voltages(network, [None] * (step + 1), n_rows=400, noise_keys=np.arange(400, dtype=np.uint64))[step]
    per_ms, jump = 0.8, 100 * 0.05
    mean, spread = per_ms * jump * 3, np.sqrt(per_ms * jump**2 * 3**2 / (2 * (20 + 3)))
    assert voltage.mean() == pytest.approx(mean, rel=0.02)  # discrete time adds half a step of the synapse
    assert voltage.std() == pytest.approx(spread, rel=0.03)


def test_the_background_is_named() -> None:
    network = SpikingNetwork(random_weights(30, 0), background_rate=2000.0)
    keys = np.array([5, 6, 5], dtype=np.uint64)
    first, second, third = network.spikes([None] * 60, 3, keys)
    np.testing.assert_array_equal(first, third)
    assert (first != second).any()


def test_a_background_that_excites_never_inhibits() -> None:
    """So rare that a normal distribution of its mean and spread would often be below zero."""
    network = SpikingNetwork(np.zeros((50, 50)), threshold=1e9, background_rate=100.0, background_weight=0.05)
    first, second = voltages(network, [None] * 2, n_rows=40, noise_keys=np.arange(40, dtype=np.uint64))
    assert (second - first * np.exp(-network.dt / network.tau_membrane) > -1e-12).all()  # what the current adds


def test_nobody_starts_above_the_threshold() -> None:
    """A mean voltage at the threshold: without one, half of the neurons would be above."""
    network = SpikingNetwork(np.zeros((50, 50)), background_rate=1000.0, background_weight=0.05)
    share = network.spikes([None] * 20, 50, np.arange(50, dtype=np.uint64)).mean(axis=(0, 2))
    assert share[0] < 0.05
    assert share.sum() > 0.1


def test_so_rare_a_background_that_no_number_can_tell_is_none() -> None:
    network = SpikingNetwork(ALONE, background_rate=1e-3)
    assert not network.spikes([None] * 10, 1, np.zeros(1, dtype=np.uint64)).any()


def test_too_many_background_spikes_in_a_step_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"'background_rate' of SpikingNetwork must give 0 to 20 spikes.*Got 1000000.0"
    ):
        SpikingNetwork(ALONE, background_rate=1e6).spikes([None], 1, np.zeros(1, dtype=np.uint64))


# ---- an independent simulator ----


@pytest.mark.skipif(importlib.util.find_spec("brian2") is None, reason="Brian2 is not installed")
def test_brian2_gives_the_same_spikes(tmp_path: Path) -> None:
    rng = np.random.RandomState(3)
    n_neurons, n_steps = 24, 200
    network = SpikingNetwork(random_weights(n_neurons, 1, 0.4), dt=0.25, delay=1.25, refractory=2.0)
    current = np.repeat(rng.uniform(-0.1, 0.9, (n_steps // 20, n_neurons)), 20, axis=0)
    for start in (20, 60, 100):  # balanced pulses, as an electrode gives them
        pulse = rng.uniform(0, 15, n_neurons)
        current[start : start + 2] += pulse
        current[start + 2 : start + 4] -= pulse
    np.savez(tmp_path / "problem.npz", current=current, **vars_of(network))
    script = Path(__file__).with_name("brian2_reference.py")
    subprocess.run([sys.executable, script, tmp_path / "problem.npz", tmp_path / "spikes.npz"], check=True, timeout=300)
    reference = np.load(tmp_path / "spikes.npz")

    expected = np.zeros((n_steps, n_neurons), dtype=bool)
    expected[reference["step"].astype(int), reference["neuron"]] = True
    spikes = network.spikes(current[:, None])[0]
    np.testing.assert_array_equal(spikes, expected)
    np.testing.assert_allclose(voltages(network, current[:, None])[:, 0], reference["voltage"], atol=1e-4)
    assert spikes.sum() > 50
    for sign in (1, -1):  # both kinds of synapses matter
        without = np.where(np.sign(network.weights) == sign, 0, network.weights)
        assert (SpikingNetwork(**vars_of(network) | {"weights": without}).spikes(current[:, None])[0] != expected).any()
