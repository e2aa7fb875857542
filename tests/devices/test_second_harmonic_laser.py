"""The laser obeys its equations; its noise is what it says and a function of (seed, row, shot, output) alone."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from sklearn.base import clone

from skpat import ControlBatch
from skpat.devices import SecondHarmonicLaser

from .device_checks import assert_standard_normal, named

CONSTANTS = {"length": 0.2, "walk_off": 200.0, "phase_mismatch": 5.0, "chirp": 5000.0, "coupling": 25.0}
SILENT = {"noise": 0.0, "noise_floor": 0.0, "energy_jitter": 0.0}


def small_laser(n_controls: int = 6, n_outputs: int = 4, **parameters) -> SecondHarmonicLaser:
    """A laser of a few channels, with a phase mismatch, that makes no noise unless told to."""
    return SecondHarmonicLaser(n_controls, n_outputs, **({"phase_mismatch": 5.0, "random_state": 0} | parameters))


def settings_for(laser: SecondHarmonicLaser, n_rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((n_rows, laser.n_controls))


def forward(laser: SecondHarmonicLaser, controls: np.ndarray, **constants: float) -> np.ndarray:
    replaced = {name: torch.tensor(value, dtype=torch.float64) for name, value in constants.items()}
    return laser.forward(torch.from_numpy(controls), replaced).numpy()


# ---- physics ----


def frequency(laser: SecondHarmonicLaser, index: np.ndarray) -> np.ndarray:
    """Angular frequency, in rad/fs from the carrier, of a grid point: n // 2 channels lie below the carrier."""
    return 2e-3 * np.pi * laser.bandwidth / laser.n_controls * index


def open_source(laser: SecondHarmonicLaser) -> np.ndarray:
    """Amplitudes of a Gaussian whose power has a full width at half maximum of ``bandwidth``, of energy 1."""
    middle = (laser.n_controls - 1) / 2
    power = 0.5 ** (2 * (np.arange(laser.n_controls) - middle) / laser.n_controls) ** 2
    return np.sqrt(power / power.sum())


def shaped(laser: SecondHarmonicLaser, controls: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Grid index and complex spectrum of the chirped pulse; fields go as exp(-i omega t)."""
    index = np.arange(laser.n_controls) - laser.n_controls // 2
    chirped = np.exp(0.5j * laser.chirp * frequency(laser, index) ** 2)
    return index, controls * open_source(laser) * chirped


@pytest.mark.parametrize("n_steps", [2, 100])
def test_energy_is_conserved(n_steps: int) -> None:
    laser = small_laser(20, n_steps=n_steps)
    controls = settings_for(laser, 3)
    a, b = (field.numpy() for field in laser.propagate(torch.from_numpy(controls)))
    energy_in = np.sum((controls * open_source(laser)) ** 2, axis=1)
    energy_out = np.sum(np.abs(a) ** 2 + np.abs(b) ** 2, axis=1)
    assert np.all(np.sum(np.abs(b) ** 2, axis=1) > 0.1 * energy_in)  # a good part was converted
    np.testing.assert_allclose(energy_out, energy_in, rtol=1e-9 if n_steps == 100 else 0.01)


def test_the_error_in_the_energy_falls_with_the_fourth_power_of_the_step_or_faster() -> None:
    def error(n_steps: int) -> float:
        laser = small_laser(20, n_steps=n_steps)
        a, b = laser.propagate(torch.ones((1, 20), dtype=torch.float64))
        return abs(float((a.abs() ** 2).sum() + (b.abs() ** 2).sum()) - 1)

    assert error(8) > 1e-8  # well above the rounding of a sum
    assert error(8) / error(16) > 2**4 * 0.9
    assert error(16) / error(32) > 2**4 * 0.9


def test_the_output_converges_with_the_square_of_the_step() -> None:
    controls = settings_for(small_laser(20), 2)
    outputs = [forward(small_laser(20, n_steps=n), controls) for n in (16, 32, 64, 128)]
    differences = [np.linalg.norm(fine - coarse) for coarse, fine in pairwise(outputs)]
    for coarse, fine in pairwise(differences):
        assert 3.8 < coarse / fine < 4.2


@pytest.mark.parametrize("amplitude", [1.0, 0.4])
def test_one_channel_is_converted_as_the_square_of_a_hyperbolic_tangent(amplitude: float) -> None:
    laser = SecondHarmonicLaser(1, 1, walk_off=0.0, coupling=4.0, length=0.3, n_steps=100)
    exact = 100 * amplitude**2 * np.tanh(4.0 * 0.3 * amplitude) ** 2
    np.testing.assert_allclose(forward(laser, np.array([[amplitude]])), [[exact]], rtol=1e-6)


@pytest.mark.parametrize("n_controls", [8, 9])
@pytest.mark.parametrize(("walk_off", "phase_mismatch"), [(0.0, 0.0), (200.0, 0.0), (0.0, 15.0), (-150.0, 15.0)])
def test_a_weak_crystal_gives_the_spectrum_of_the_square(
    n_controls: int, walk_off: float, phase_mismatch: float
) -> None:
    coupling = 1e-3
    laser = small_laser(n_controls, 4, walk_off=walk_off, phase_mismatch=phase_mismatch, coupling=coupling, n_steps=300)
    controls = settings_for(laser, 1)[0]
    index, pulse = shaped(laser, controls)
    # undepleted: dB/dz = i q B + (kappa / peak) (S * S), with q the mismatch at each frequency; B(0) = 0
    square = np.convolve(pulse, pulse)
    square_index = np.arange(2 * index[0], 2 * index[-1] + 1)
    q = phase_mismatch + walk_off * frequency(laser, square_index)
    z, weight = np.polynomial.legendre.leggauss(40)
    z, weight = laser.length * (z + 1) / 2, laser.length * weight / 2
    matching = np.exp(1j * np.outer(q, laser.length - z)) @ weight
    harmonic = coupling / open_source(laser).sum() * square * matching

    computed = laser.propagate(torch.from_numpy(controls[None]))[1][0].numpy()[square_index]
    np.testing.assert_allclose(computed, harmonic, rtol=0, atol=1e-4 * abs(harmonic).max())

    bin_of = ((square_index + n_controls + 0.5) * 4 / (2 * n_controls)).astype(int)  # a grid point fills its cell
    energy = np.bincount(bin_of, 100 * abs(harmonic) ** 2, minlength=4)
    np.testing.assert_allclose(forward(laser, controls[None])[0], energy, rtol=3e-4)


def test_products_of_the_fields_do_not_wrap_around() -> None:
    laser = small_laser(8, walk_off=0.0, phase_mismatch=0.0, coupling=0.05, n_steps=20)
    controls = settings_for(laser, 1)[0]
    index, pulse = shaped(laser, controls)
    # without walk-off A2 = kappa z A1^2, so that A1 loses (kappa L)^2 / 2 |A1|^2 A1: three times as wide as A1
    cube = np.convolve(np.convolve(pulse, pulse), pulse[::-1].conj())
    lost = 0.5 * (laser.coupling * laser.length / open_source(laser).sum()) ** 2 * cube
    fundamental = laser.propagate(torch.from_numpy(controls[None]))[0][0].numpy()
    fundamental[index] -= pulse
    found = -fundamental[np.arange(len(cube)) + 2 * index[0] - index[-1]]
    np.testing.assert_allclose(found, lost, rtol=0, atol=1e-3 * abs(lost).max())


def test_a_strong_crystal_agrees_with_an_integration_of_the_equations() -> None:
    laser = small_laser(4, n_steps=400)
    controls = settings_for(laser, 1)[0]
    index, pulse = shaped(laser, controls)
    a, b = (field[0].numpy() for field in laser.propagate(torch.from_numpy(controls[None])))
    n_grid = len(a)
    grid = np.arange(n_grid) - n_grid // 2
    fields = np.exp(-2j * np.pi * np.outer(np.arange(n_grid), grid) / n_grid) / open_source(laser).sum()  # -> time
    spectra = np.linalg.inv(fields)
    mismatch = laser.phase_mismatch + laser.walk_off * frequency(laser, grid)

    def slopes(z: float, both: np.ndarray) -> np.ndarray:
        a1, a2 = (fields @ part for part in np.split(both, 2))
        turned = 1j * mismatch * np.split(both, 2)[1]
        return np.concatenate(
            [spectra @ (-laser.coupling * a1.conj() * a2), turned + spectra @ (laser.coupling * a1**2)]
        )

    start = np.zeros(2 * n_grid, dtype=complex)
    start[index + n_grid // 2] = pulse
    end = solve_ivp(slopes, (0, laser.length), start, rtol=1e-9, atol=1e-11).y[:, -1]
    np.testing.assert_allclose(a[grid], end[:n_grid], atol=1e-4)
    np.testing.assert_allclose(b[grid], end[n_grid:], atol=1e-4)
    assert np.sum(abs(b) ** 2) > 0.1 * np.sum(abs(pulse) ** 2)


def test_a_weak_crystal_converts_with_the_square_of_the_energy() -> None:
    laser = small_laser(coupling=1e-3)
    controls = 0.5 * settings_for(laser, 2)
    expected = 9 * forward(laser, controls)
    np.testing.assert_allclose(forward(laser, np.sqrt(3) * controls), expected, atol=1e-6 * expected.max())
    np.testing.assert_allclose(forward(laser, controls, coupling=3e-3), expected, atol=1e-6 * expected.max())


def test_no_pulse_gives_no_harmonic() -> None:
    np.testing.assert_array_equal(forward(small_laser(), np.zeros((2, 6))), 0.0)


@given(st.integers(1, 12), st.integers(1, 8), st.integers(0, 3))
@settings(max_examples=30)
def test_outputs_share_out_the_whole_harmonic(n_controls: int, n_outputs: int, seed: int) -> None:
    laser = small_laser(n_controls, n_outputs, coupling=2.0)
    controls = settings_for(laser, 2, seed)
    harmonic = laser.propagate(torch.from_numpy(controls))[1].abs().square().sum(dim=1).numpy()
    outputs = forward(laser, controls)
    assert outputs.shape == (2, n_outputs)
    assert outputs.min() >= 0
    np.testing.assert_allclose(outputs.sum(axis=1), 100 * harmonic, rtol=1e-2)  # a cascade spreads a little further


# ---- differentiation ----


def test_gradient_with_respect_to_the_controls() -> None:
    controls = torch.from_numpy(settings_for(small_laser(), 2)).requires_grad_()
    assert torch.autograd.gradcheck(small_laser().forward, (controls,))


@pytest.mark.parametrize("name", CONSTANTS)
def test_gradient_with_respect_to_a_constant(name: str) -> None:
    laser = small_laser(**CONSTANTS)
    controls = torch.from_numpy(settings_for(laser, 2))

    def outputs(stretch: torch.Tensor) -> torch.Tensor:  # relative, so that every slope has a size to check
        return laser.forward(controls, {name: CONSTANTS[name] * stretch})

    stretch = torch.ones((), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.grad(outputs(stretch).square().sum(), stretch)[0].abs() > 0.1
    assert torch.autograd.gradcheck(outputs, (stretch,))


@pytest.mark.parametrize("name", CONSTANTS)
def test_a_constant_replaces_the_parameter(name: str) -> None:
    controls = settings_for(small_laser(), 2)
    value = 0.7 * CONSTANTS[name]
    replaced = forward(small_laser(**CONSTANTS), controls, **{name: value})
    np.testing.assert_allclose(replaced, forward(small_laser(**CONSTANTS | {name: value}), controls), rtol=1e-6)
    assert not np.allclose(replaced, forward(small_laser(**CONSTANTS), controls), rtol=1e-3)


def test_a_parameter_has_the_precision_of_the_controls() -> None:
    laser = small_laser(**CONSTANTS | {"length": 0.1})
    controls = settings_for(laser, 2)
    np.testing.assert_allclose(forward(laser, controls, length=0.1), forward(laser, controls), rtol=1e-13)


def test_an_unknown_constant_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'constants' of SecondHarmonicLaser must be among length, .*'n_steps'"):
        forward(small_laser(), np.zeros((1, 6)), n_steps=3.0)


# ---- parameters, precision and kind ----


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_controls": 0}, r"'n_controls' of SecondHarmonicLaser must be an int of at least 1\. Got 0\."),
        ({"n_steps": 0}, r"'n_steps' .* an int of at least 1\. Got 0\. Use n_steps=6, for example\."),
        ({"n_steps": 2.5}, r"'n_steps' .* an int of at least 1\. Got 2\.5\."),
        ({"n_outputs": 0}, r"'n_outputs' .* an int of at least 1\. Got 0\. Use n_outputs=50"),
        ({"n_outputs": 2.5}, r"'n_outputs' .* an int of at least 1\. Got 2\.5\."),
        ({"bandwidth": 0}, r"'bandwidth' .* a finite number above 0\. Got 0\. Use bandwidth=20\.0"),
        ({"length": 0.0}, r"'length' .* a finite number above 0\. Got 0\.0\."),
        ({"coupling": 0.0}, r"'coupling' .* a finite number above 0\. Got 0\.0\."),
        ({"coupling": "strong"}, r"'coupling' .* a finite number above 0\. Got 'strong'\."),
        ({"chirp": np.nan}, r"'chirp' .* a finite number\. Got nan\."),
        ({"walk_off": np.inf}, r"'walk_off' .* a finite number\. Got inf\. Use walk_off=200\.0"),
        ({"phase_mismatch": None}, r"'phase_mismatch' .* a finite number\. Got None\."),
        ({"noise": -0.5}, r"'noise' .* a finite number of at least 0\. Got -0\.5\."),
        ({"noise_floor": np.nan}, r"'noise_floor' .* a finite number of at least 0\. Got nan\."),
        ({"energy_jitter": -1}, r"'energy_jitter' .* a finite number of at least 0\. Got -1\."),
    ],
)
def test_wrong_parameters_are_refused_when_used(wrong: dict, message: str) -> None:
    laser = clone(small_laser().set_params(**wrong))
    controls = np.ones((1, 6))
    for call in (
        lambda: laser.measure(controls),
        lambda: laser.forward(torch.from_numpy(controls)),
        lambda: laser.propagate(torch.from_numpy(controls)),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_the_smallest_legal_parameters_give_numbers() -> None:
    laser = SecondHarmonicLaser(
        1, 2, n_steps=1, bandwidth=1, length=1e-9, coupling=1e-9, walk_off=0, phase_mismatch=0, chirp=0
    )
    outputs = forward(laser, np.ones((1, 1)))
    assert np.isfinite(outputs).all()
    assert 0 <= outputs.max() < 1e-12


def test_a_batch_is_computed_in_the_precision_of_its_controls() -> None:
    laser = small_laser(**SILENT)
    controls = settings_for(laser, 3)
    narrow = laser.measure(controls.astype(np.float32))
    assert narrow.dtype == np.float32
    assert laser.forward(torch.from_numpy(controls).float()).dtype == torch.float32
    assert small_laser().measure(controls.astype(np.float32)).dtype == np.float32
    assert laser.measure(controls).dtype == np.float64
    np.testing.assert_allclose(narrow, laser.measure(controls), rtol=1e-4)
    assert np.abs(narrow - laser.measure(controls)).max() > 0


def test_whole_numbers_are_legal_controls() -> None:
    laser = small_laser(**SILENT)
    np.testing.assert_allclose(laser.measure(np.ones((1, 6), dtype=int)), laser.measure(np.ones((1, 6))))


def test_bounds_are_zero_to_one() -> None:
    np.testing.assert_array_equal(small_laser(3).bounds, [[0, 1]] * 3)


def test_no_rows_give_no_rows() -> None:
    assert small_laser().measure(np.empty((0, 6))).shape == (0, 4)


# ---- noise: a function of (seed, row, shot, output) ----


@given(st.lists(st.integers(0, 39), min_size=1, max_size=40, unique=True), st.integers(0, 5))
@settings(max_examples=20)
def test_the_noise_of_a_row_does_not_depend_on_its_company(rows: list[int], shot: int) -> None:
    laser = small_laser()
    batch = named(settings_for(laser, 40), shot)
    part = ControlBatch.from_dense(np.asarray(batch)[rows]).named(batch.row_keys[rows], shot)
    np.testing.assert_allclose(laser.measure(part), laser.measure(batch)[rows], rtol=1e-12)


@pytest.mark.parametrize("change", ["shot", "seed", "row"])
def test_another_name_gives_other_noise(change: str) -> None:
    laser = small_laser(random_state=0)
    controls = settings_for(laser, 5)
    other = {
        "shot": lambda: laser.measure(named(controls, shot=1)),
        "seed": lambda: clone(laser).set_params(random_state=1).measure(named(controls)),
        "row": lambda: laser.measure(named(controls, first_key=5)),
    }[change]()
    same = clone(laser).measure(named(controls))
    np.testing.assert_array_equal(laser.measure(named(controls)), same)
    assert (other != same).all()


def test_without_noise_a_measurement_is_the_forward_pass_exactly() -> None:
    laser = small_laser(**SILENT)
    controls = settings_for(laser, 7)
    np.testing.assert_array_equal(laser.measure(named(controls)), forward(laser, controls))
    np.testing.assert_array_equal(laser.measure(controls), forward(laser, controls))


@pytest.mark.parametrize("names", [True, False])
def test_rows_computed_together_are_the_rows_computed_apart(names: bool) -> None:
    controls = settings_for(small_laser(), 300)
    batch = named(controls) if names else ControlBatch.from_dense(controls)
    laser = small_laser()
    pieces = [laser.measure(batch.rows(slice(*ends))) for ends in ((0, 7), (7, 140), (140, 300))]
    np.testing.assert_allclose(np.concatenate(pieces), small_laser().measure(batch), rtol=1e-12)


def test_bare_arrays_draw_from_the_stream_of_the_device() -> None:
    controls = settings_for(small_laser(), 3)
    laser, twin_of_it, fresh = small_laser(random_state=5), small_laser(random_state=5), small_laser(random_state=6)
    first, second = laser.measure(controls), laser.measure(controls)
    assert (first != second).all()
    np.testing.assert_array_equal(twin_of_it.measure(controls), first)
    np.testing.assert_array_equal(twin_of_it.measure(controls), second)
    np.testing.assert_array_equal(clone(laser).measure(controls), first)
    assert (fresh.measure(controls) != first).all()


def test_without_a_seed_noise_is_fresh_at_every_call() -> None:
    controls = settings_for(small_laser(), 3)
    laser = small_laser(random_state=None)
    assert (laser.measure(named(controls)) != laser.measure(named(controls))).all()
    assert (laser.measure(controls) != small_laser(random_state=None).measure(controls)).all()


def test_a_new_seed_starts_a_new_stream() -> None:
    controls = settings_for(small_laser(), 3)
    laser = small_laser(random_state=0)
    laser.measure(controls)
    laser.set_params(random_state=1)
    np.testing.assert_array_equal(laser.measure(controls), small_laser(random_state=1).measure(controls))


# ---- noise: how much, and of which kind ----

N_ROWS = 4000


def deviations(names: bool = True, **noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measurements of N_ROWS equal settings under different names (or none), twice, and their true value."""
    laser = small_laser(**SILENT | {"coupling": 1e-1} | noise)
    controls = np.tile(settings_for(laser, 1), (N_ROWS, 1))
    if names:
        shots = [laser.measure(named(controls, shot)) for shot in (0, 1)]
    else:
        shots = [laser.measure(controls) for _ in range(2)]
    return shots[0], shots[1], forward(laser, controls)


def assert_unrelated(*columns: np.ndarray) -> None:
    """Correlations of each pair, and of their sizes, below four standard errors."""
    for table in (np.stack(columns), np.abs(np.stack(columns))):
        correlation = np.corrcoef(table) - np.eye(len(columns))
        assert np.abs(correlation).max() < 4 / np.sqrt(columns[0].size)


def assert_independent(first: np.ndarray, second: np.ndarray) -> None:
    """Between outputs, between shots, and between neighbouring rows."""
    assert_unrelated(*first.T, *second.T)
    assert_unrelated(*first[:-1].T, *first[1:].T)


@pytest.mark.parametrize("names", [True, False])
def test_multiplicative_noise(names: bool) -> None:
    first, second, true = deviations(names, noise=0.03)
    first, second = (first / true - 1) / 0.03, (second / true - 1) / 0.03
    assert_standard_normal(first)
    assert_standard_normal(second)
    assert_independent(first, second)


@pytest.mark.parametrize("names", [True, False])
def test_additive_noise(names: bool) -> None:
    first, second, true = deviations(names, noise_floor=0.2)
    first, second = (first - true) / 0.2, (second - true) / 0.2
    assert_standard_normal(first)
    assert_standard_normal(second)
    assert_independent(first, second)


@pytest.mark.parametrize("names", [True, False])
def test_energy_jitter_enters_before_the_crystal(names: bool) -> None:
    first, second, true = deviations(names, energy_jitter=0.03)
    # a weak crystal squares the energy, the same for every output
    energies = np.sqrt(first / true), np.sqrt(second / true)
    for energy in energies:
        np.testing.assert_allclose(energy, energy[:, :1] * np.ones(4), rtol=1e-4)
        assert_standard_normal((energy[:, 0] - 1) / 0.03)
    assert_unrelated(energies[0][:, 0], energies[1][:, 0])
    assert_unrelated(energies[0][:-1, 0], energies[0][1:, 0])


def test_the_three_noises_do_not_know_each_other() -> None:
    jitter = np.sqrt(deviations(energy_jitter=0.03)[0] / deviations()[2])[:, 0]
    relative = (deviations(noise=0.03)[0] / deviations()[2]).T
    absolute = (deviations(noise_floor=0.2)[0] - deviations()[2]).T
    assert_unrelated(jitter, *relative, *absolute)


def test_a_strong_jitter_never_makes_a_negative_energy() -> None:
    first, second, _ = deviations(energy_jitter=2.0)
    assert np.isfinite(first).all()
    assert np.isfinite(second).all()
    assert 0.2 < np.mean(first[:, 0] == 0) < 0.45  # a pulse of energy 1 + 2 x is missing where x < -1/2


def test_darkness_is_measured_with_the_floor_alone() -> None:
    outputs = small_laser(noise=2.0, noise_floor=0.1, energy_jitter=0.5).measure(named(np.zeros((1000, 6))))
    np.testing.assert_allclose(outputs.std(), 0.1, rtol=0.1)
