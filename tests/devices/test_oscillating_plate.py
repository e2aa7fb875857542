"""The plate has the clamped plate's frequencies, keeps its energy, stiffens as Duffing's oscillator; its noise is as stated."""

from __future__ import annotations

import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import ellipk
from sklearn.base import clone

from skpat import ControlBatch, PhysicalNetworkClassifier
from skpat.devices.oscillating_plate import OscillatingPlate, _beam_functions, _clamped_modes
from skpat.twins import PhysicsTwin

from .device_checks import assert_standard_normal, named

CONSTANTS = {"thickness": 0.2, "quality_factor": 8.0, "nonlinearity": 1.0, "force_per_volt": 4.0}
SILENT = {"noise": 0.0, "gain_jitter": 0.0}


def small_plate(n_controls: int = 12, n_outputs: int = 5, **parameters) -> OscillatingPlate:
    """Few modes, few samples, strongly driven."""
    return OscillatingPlate(n_controls, n_outputs, **({"n_modes": 4, "random_state": 0} | CONSTANTS | parameters))


def drive_for(plate: OscillatingPlate, n_rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (n_rows, plate.n_controls))


def forward(plate: OscillatingPlate, controls: np.ndarray, **constants: float) -> np.ndarray:
    replaced = {name: torch.tensor(value, dtype=torch.float64) for name, value in constants.items()}
    return plate.forward(torch.from_numpy(controls), replaced).numpy()


def shapes_at(plate: OscillatingPlate, position: tuple[float, float]) -> np.ndarray:
    """The modes at a point, from the beam functions and the mixture of the Ritz method."""
    mixture = _clamped_modes(plate.length / plate.width, plate.n_modes)[2]
    x, y = (_beam_functions(np.array([place]))[0][:, 0] for place in position)
    return np.kron(x, y) @ mixture


# ---- modes ----


@pytest.mark.parametrize(
    ("aspect", "published"),
    [  # Leissa 1973, omega a^2 sqrt(rho h / D) of the plate clamped on all sides
        (1.0, [35.992, 73.413, 73.413, 108.27, 131.64, 132.24]),
        (1.5, [60.772, 93.860, 148.82, 149.74, 179.66, 226.92]),
        (0.4, [23.648, 27.817, 35.446, 46.702, 61.554, 63.100]),
    ],
)
def test_the_frequencies_are_those_of_the_literature(aspect: float, published: list[float]) -> None:
    plate = OscillatingPlate(length=40.0, width=40.0 / aspect, n_modes=6)
    speed = plate.thickness / plate.length**2 * np.sqrt(116e9 / (12 * (1 - 0.32**2) * 4506.0))  # 1/ms: mm and m/s
    found = 2 * np.pi * plate.frequencies / speed
    np.testing.assert_allclose(found, published, rtol=1.5e-3)
    assert (found <= np.array(published) * 1.00001).all()  # Ritz with more functions than his 36: from above, and lower


def test_modes_are_orthonormal_and_clamped() -> None:
    _, _, mixture = _clamped_modes(1.25, 10)
    place, weight = np.polynomial.legendre.leggauss(60)
    values, _ = _beam_functions((place + 1) / 2)
    shapes = np.kron(values, values).T @ mixture
    np.testing.assert_allclose(shapes.T @ (np.kron(weight, weight)[:, None] / 4 * shapes), np.eye(10), atol=1e-9)
    for edge in _beam_functions(np.array([0.0, 1.0])):
        np.testing.assert_allclose(edge, 0, atol=1e-9)


def test_the_stretching_is_the_mean_square_slope() -> None:
    aspect, step = 1.25, 1e-5
    _, stiffness, mixture = _clamped_modes(aspect, 5)
    place, weight = np.polynomial.legendre.leggauss(50)
    place, weight = (place + 1) / 2, weight / 2
    values, ahead, behind = (_beam_functions(place + move)[0] for move in (0.0, step, -step))
    slopes = (ahead - behind) / (2 * step)
    along, across = np.kron(slopes, values).T @ mixture, aspect * np.kron(values, slopes).T @ mixture
    both = np.kron(weight, weight)[:, None]
    np.testing.assert_allclose(along.T @ (both * along) + across.T @ (both * across), stiffness, rtol=1e-4, atol=1e-4)


def test_frequencies_are_proportional_to_the_thickness_and_fall_with_the_area() -> None:
    reference = OscillatingPlate().frequencies
    np.testing.assert_allclose(OscillatingPlate(thickness=0.3).frequencies, 1.5 * reference)
    np.testing.assert_allclose(OscillatingPlate(length=80.0, width=64.0).frequencies, reference / 4)


# ---- energy ----


def struck(n_steps: int, **parameters) -> tuple[OscillatingPlate, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Driven at random for 20 samples, then left to itself."""
    plate = OscillatingPlate(80, 1, n_modes=8, quality_factor=np.inf, n_steps=n_steps, force_per_volt=5.0, **parameters)
    controls = torch.from_numpy(drive_for(plate, 3))
    controls[:, 20:] = 0
    return plate, controls, *plate.vibrate(controls)


def test_without_damping_the_energy_is_conserved_to_second_order() -> None:
    def error(n_steps: int) -> float:
        plate, _, displacement, velocity = struck(n_steps)
        energy = plate.energy(displacement, velocity)[:, 20:]
        return float((energy / energy[:, :1] - 1).abs().max())

    errors = [error(n) for n in (8, 16, 32)]
    assert errors[-1] < 1e-2
    for coarse, fine in pairwise(errors):
        assert 3.5 < coarse / fine < 4.6


def test_stretching_is_a_good_part_of_the_energy() -> None:
    plate, _, displacement, velocity = struck(8)
    linear = clone(plate).set_params(nonlinearity=0.0)
    stretched = 1 - linear.energy(displacement, velocity) / plate.energy(displacement, velocity)
    assert stretched[:, 20:].max() > 0.3


def test_the_work_of_the_coil_is_the_gain_in_energy() -> None:
    errors = []
    for n_steps in (8, 16):
        plate, controls, displacement, velocity = struck(n_steps)
        at_coil = displacement @ torch.from_numpy(shapes_at(plate, plate.drive_position)) * plate.thickness * 1e-3
        moved = torch.diff(at_coil, dim=1, prepend=torch.zeros_like(at_coil[:, :1]))
        work = (plate.force_per_volt * controls * moved).cumsum(dim=1)  # newton times metre
        energy = plate.energy(displacement, velocity)
        errors.append(float((work - energy).abs().max() / energy.max()))
    assert errors[1] < 2e-2
    assert 3.3 < errors[0] / errors[1] < 4.8


def test_damping_takes_energy_at_the_rate_of_the_quality_factor() -> None:
    plate = OscillatingPlate(60, 1, quality_factor=30.0, nonlinearity=0.0, n_modes=1)
    controls = torch.zeros((1, 60), dtype=torch.float64)
    controls[0, :10] = 1.0
    displacement, velocity = plate.vibrate(controls)
    energy = plate.energy(displacement, velocity)[0, 10:].numpy()
    time = np.arange(50) / plate.sample_rate
    rate = -np.polyfit(time, np.log(energy), 1)[0]
    np.testing.assert_allclose(rate, 2 * np.pi * plate.frequencies[0] / 30.0, rtol=0.01)


# ---- motion ----


def test_the_output_converges_with_the_square_of_the_step() -> None:
    controls = drive_for(small_plate(40, 20), 3)
    outputs = [forward(small_plate(40, 20, n_steps=n), controls) for n in (8, 16, 32, 64)]
    differences = [np.linalg.norm(fine - coarse) for coarse, fine in pairwise(outputs)]
    for coarse, fine in pairwise(differences):
        assert 3.7 < coarse / fine < 4.3


def test_a_weak_drive_is_convolved_with_the_impulse_responses_of_the_modes() -> None:
    plate = small_plate(30, 30, n_modes=3, quality_factor=20.0, force_per_volt=1e-6)
    controls = drive_for(plate, 2)
    per_mass = 1e-6 / (plate.density * 0.2e-3 * 40e-3 * 32e-3)  # N/V/kg
    from_drive, to_pickup = shapes_at(plate, plate.drive_position), shapes_at(plate, plate.pickup_position)
    hop = 1e-3 / plate.sample_rate
    expected = np.zeros((2, 30))
    for f, into, out in zip(plate.frequencies, from_drive, to_pickup, strict=True):
        omega = 2e3 * np.pi * f
        decay, turn = omega / 40, omega * np.sqrt(1 - 1 / 1600)

        def impulse(t: float, decay: float = decay, turn: float = turn) -> float:
            return np.exp(-decay * t) * np.sin(turn * t) / turn

        response = [quad(impulse, k * hop, (k + 1) * hop, epsabs=0, epsrel=1e-11)[0] for k in range(30)]
        deflection = np.array([np.convolve(row, response)[:30] for row in controls]) * per_mass * into * out
        expected += 413 * np.diff(deflection, prepend=0) / hop
    np.testing.assert_allclose(forward(plate, controls), expected, rtol=0, atol=1e-9 * abs(expected).max())


def test_a_linear_plate_superposes_and_a_stretching_one_does_not() -> None:
    for nonlinearity, same in ((0.0, True), (1.0, False)):
        plate = small_plate(40, 20, nonlinearity=nonlinearity)
        one, two = drive_for(plate, 1, seed=1) / 2, drive_for(plate, 1, seed=2) / 2
        apart, together = forward(plate, one) + forward(plate, two), forward(plate, one + two)
        assert np.allclose(apart, together, atol=1e-9 * abs(together).max()) is same
    assert np.linalg.norm(apart - together) > 0.1 * np.linalg.norm(together)


@pytest.mark.parametrize("force", [0.5, 3.0, 10.0])
def test_the_frequency_rises_with_the_amplitude_as_in_duffings_oscillator(force: float) -> None:
    plate = OscillatingPlate(
        3000, 1, sample_rate=400.0, n_modes=1, quality_factor=np.inf, force_per_volt=force, n_steps=2
    )
    controls = torch.zeros((1, 3000), dtype=torch.float64)
    controls[0, :60] = 1.0
    displacement = plate.vibrate(controls)[0][0, 60:, 0].numpy()
    rising = np.flatnonzero((displacement[:-1] < 0) & (displacement[1:] >= 0))
    crossing = rising - displacement[rising] / (displacement[rising + 1] - displacement[rising])
    found = (len(crossing) - 1) / (crossing[-1] - crossing[0]) * plate.sample_rate
    # q'' + w^2 q + 6 c^2 S^2 q^3 = 0 has the exact period 4 K(m) / sqrt(w^2 + k A^2), m = k A^2 / (2 (w^2 + k A^2))
    parameter, stiffness, _ = _clamped_modes(1.25, 1)
    omega = 2 * np.pi * plate.frequencies[0]
    cubic = 6 * (omega / parameter[0] * stiffness[0, 0]) ** 2 * abs(displacement).max() ** 2
    exact = np.sqrt(omega**2 + cubic) / (4 * ellipk(cubic / (2 * (omega**2 + cubic))))
    np.testing.assert_allclose(found, exact, rtol=1e-3)
    if force == 10.0:
        assert found > 1.3 * plate.frequencies[0]


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 3))
@settings(max_examples=20)
def test_a_reading_does_not_depend_on_the_drive_after_it(n_controls: int, n_outputs: int, seed: int) -> None:
    n_outputs = min(n_outputs, n_controls)
    plate = small_plate(n_controls, n_outputs)
    controls = drive_for(plate, 1, seed)
    ends = np.arange(1, n_outputs + 1) * n_controls // n_outputs
    assert ends[-1] == n_controls  # the last reading is at the end of the drive
    outputs = forward(plate, controls)
    for reading in {0, n_outputs // 2, n_outputs - 1}:
        changed = controls.copy()
        changed[:, ends[reading] :] *= -0.5
        np.testing.assert_array_equal(forward(plate, changed)[:, : reading + 1], outputs[:, : reading + 1])
        changed[:, ends[reading] - 1] += 0.5
        assert (forward(plate, changed)[:, reading] != outputs[:, reading]).all()


def test_a_reading_is_the_mean_pressure_since_the_one_before() -> None:
    """Also where the readings cannot be spread evenly: here after 2, 4, 7, 9 and 12 samples."""
    controls = drive_for(small_plate(), 3)
    at_every_sample = forward(small_plate(12, 12), controls)
    means = [at_every_sample[:, start:end].mean(axis=1) for start, end in pairwise([0, 2, 4, 7, 9, 12])]
    np.testing.assert_allclose(forward(small_plate(12, 5), controls), np.transpose(means), rtol=1e-9, atol=1e-9)


def test_no_drive_gives_silence() -> None:
    np.testing.assert_array_equal(forward(small_plate(), np.zeros((2, 12))), 0.0)


def test_the_hardest_drive_keeps_the_default_plate_stable() -> None:
    plate = OscillatingPlate(**SILENT)
    time = np.arange(196) / plate.sample_rate
    resonant = np.sign(np.sin(2 * np.pi * np.linspace(0.5, 10.0, 24)[:, None] * time))
    controls = torch.from_numpy(np.concatenate([resonant, np.sign(drive_for(plate, 8)), np.ones((1, 196))]))
    controls = controls.float()
    for _ in range(4):  # and what makes it louder still
        controls.requires_grad_()
        loudness = plate.forward(controls).square().mean(dim=1)
        (slope,) = torch.autograd.grad(loudness.sum(), controls)
        controls = torch.where(torch.rand(controls.shape, generator=torch.Generator().manual_seed(0)) < 0.3,
                               slope.sign(), controls).detach()  # fmt: skip
    assert loudness.max().sqrt() > 300
    assert loudness.max().sqrt() < 3000


def test_an_unstable_motion_is_refused() -> None:
    plate = small_plate(40, 20, force_per_volt=1e4, n_steps=1)
    message = r"'n_steps' of OscillatingPlate must be larger .* Got 1\. Use n_steps=2"
    with pytest.raises(ValueError, match=message):
        plate.measure(np.ones((1, 40)))


def test_nan_in_nan_out() -> None:
    assert np.isnan(forward(small_plate(), np.full((1, 12), np.nan))).all()


# ---- differentiation ----


def test_gradient_with_respect_to_the_controls() -> None:
    plate = small_plate()
    controls = torch.from_numpy(drive_for(plate, 2)).requires_grad_()
    assert torch.autograd.gradcheck(plate.forward, (controls,))


@pytest.mark.parametrize("name", CONSTANTS)
def test_gradient_with_respect_to_a_constant(name: str) -> None:
    plate = small_plate()
    controls = torch.from_numpy(drive_for(plate, 2))

    def outputs(stretch: torch.Tensor) -> torch.Tensor:  # relative, so that every slope has a size to check
        return plate.forward(controls, {name: CONSTANTS[name] * stretch})

    stretch = torch.ones((), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.grad(outputs(stretch).square().mean(), stretch)[0].abs() > 1
    assert torch.autograd.gradcheck(outputs, (stretch,))


def test_gradient_of_the_motion() -> None:
    plate = small_plate(5, 1, n_modes=2)
    controls = torch.from_numpy(drive_for(plate, 1)).requires_grad_()
    assert torch.autograd.gradcheck(plate.vibrate, (controls,))


@pytest.mark.parametrize("name", CONSTANTS)
def test_a_constant_replaces_the_parameter(name: str) -> None:
    controls = drive_for(small_plate(), 2)
    value = 0.7 * CONSTANTS[name]
    replaced = forward(small_plate(), controls, **{name: value})
    np.testing.assert_allclose(replaced, forward(small_plate(**{name: value}), controls), rtol=1e-9, atol=1e-9)
    assert not np.allclose(replaced, forward(small_plate(), controls), rtol=1e-3)


def test_an_unknown_constant_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'constants' of OscillatingPlate must be among thickness, .*'n_steps'"):
        forward(small_plate(), np.zeros((1, 12)), n_steps=3.0)


# ---- parameters, precision and kind ----


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_controls": 0}, "'n_controls' of OscillatingPlate must be an int of at least 1. Got 0"),
        ({"n_steps": 1.5}, "'n_steps' of OscillatingPlate must be an int of at least 1. Got 1.5"),
        ({"n_modes": True}, "'n_modes' of OscillatingPlate must be an int of at least 1. Got True"),
        ({"n_outputs": 13}, r"'n_outputs' .* must be an int from 1 to n_controls \(12\)\. Got 13\. Use a longer drive"),
        (
            {"thickness": 0.0},
            "'thickness' of OscillatingPlate must be a finite number above 0. Got 0.0. Use thickness=0.2",
        ),
        ({"poisson_ratio": 0.7}, "'poisson_ratio' .* must be above -1 and at most 0.5. Got 0.7"),
        ({"quality_factor": 0.5}, "'quality_factor' .* must be above 0.5. Got 0.5. Use np.inf for no damping"),
        ({"thickness_error": -1.0}, "'thickness_error' .* must be a finite number above -1. Got -1.0"),
        (
            {"quality_error": -0.95},
            r"'quality_error' .* must be finite, and leave more than 0.5 of .* \(8.0\). Got -0.95",
        ),
        ({"nonlinearity": -1.0}, "'nonlinearity' .* must be a finite number of at least 0. Got -1.0"),
        (
            {"n_modes": 90, "width": 10.0},
            "'n_modes' .* must be at most 32 for a plate of 40.0 mm by 10.0 mm. Got 90. Keep fewer modes",
        ),
        (
            {"drive_position": (0.5, 1.0)},
            r"'drive_position' .* must be a pair of numbers between 0 and 1\. Got \(0\.5, 1\.0\)\. Use drive_position=",
        ),
        ({"pickup_position": (0.5,)}, "'pickup_position' .* must be a pair of numbers between 0 and 1"),
    ],
)
def test_wrong_parameters_are_refused_when_used(wrong: dict, message: str) -> None:
    plate = small_plate(**wrong)
    with pytest.raises(ValueError, match=message):
        plate.measure(np.zeros((1, 12)))


def test_a_subclass_without_the_parameter_is_refused_by_name_too() -> None:
    class Thin(OscillatingPlate):
        def __init__(self):
            super().__init__(thickness=0.0)

    with pytest.raises(ValueError, match=r"'thickness' of Thin .* Got 0\.0\. See the parameters of Thin"):
        Thin().measure(np.zeros((1, 196)))


@given(st.floats(-0.3, 0.3), st.floats(-0.5, 0.5))
@settings(max_examples=10, deadline=None)
def test_a_specimen_is_the_plate_that_its_errors_make_of_it(thickness_error: float, quality_error: float) -> None:
    specimen = small_plate(thickness_error=thickness_error, quality_error=quality_error)
    as_built = small_plate(thickness=0.2 * (1 + thickness_error), quality_factor=8.0 * (1 + quality_error))
    controls = drive_for(specimen, 3)
    np.testing.assert_allclose(specimen.measure(named(controls)), as_built.measure(named(controls)), rtol=1e-9)
    np.testing.assert_allclose(specimen.frequencies, as_built.frequencies)
    np.testing.assert_allclose(specimen.seconds_per_shot, as_built.seconds_per_shot)
    motion = specimen.vibrate(torch.from_numpy(controls))
    np.testing.assert_allclose(specimen.energy(*motion), as_built.energy(*as_built.vibrate(torch.from_numpy(controls))))


def test_the_equations_are_those_of_the_design_and_find_the_specimen() -> None:
    plate = OscillatingPlate(60, 30, thickness_error=0.02, quality_error=-0.1, random_state=0)
    designed, unknown = plate.equations
    assert (designed.thickness_error, designed.quality_error) == (0.0, 0.0)
    controls = drive_for(plate, 300)
    twin = PhysicsTwin(designed, unknown).fit(controls, plate.measure(controls))
    np.testing.assert_allclose(twin.constants_["thickness"], 0.2 * 1.02, rtol=0.003)
    np.testing.assert_allclose(twin.constants_["quality_factor"], 50.0 * 0.9, rtol=0.05)
    np.testing.assert_allclose(
        [twin.constants_[name] for name in ("nonlinearity", "force_per_volt")], [1.0, 1.5], rtol=0.1
    )


def test_constants_that_are_nothing_are_not_looked_for() -> None:
    assert small_plate(nonlinearity=0.0, quality_factor=np.inf).equations[1] == ("thickness", "force_per_volt")


def test_a_batch_is_computed_in_the_precision_of_its_controls() -> None:
    plate = OscillatingPlate(**SILENT)
    controls = drive_for(plate, 3) / 2
    narrow = plate.measure(controls.astype(np.float32))
    assert narrow.dtype == np.float32
    assert small_plate().measure(drive_for(small_plate(), 2).astype(np.float32)).dtype == np.float32
    wide = plate.measure(controls)
    assert wide.dtype == np.float64
    np.testing.assert_allclose(narrow, wide, atol=1e-3 * wide.std())
    assert np.abs(narrow - wide).max() > 0


def test_bounds_and_time() -> None:
    plate = small_plate(6, 3, quality_factor=40.0)
    np.testing.assert_array_equal(plate.bounds, [[-1, 1]] * 6)
    silence = plate.seconds_per_shot - 6 / 20e3
    np.testing.assert_allclose(np.exp(-np.pi * 1e3 * plate.frequencies[0] * silence / 40.0), 0.01)
    np.testing.assert_allclose(small_plate(12, 3, quality_factor=40.0).seconds_per_shot - silence, 12 / 20e3)
    undamped = small_plate(6, 3, quality_factor=np.inf)  # never silent: the time is not known, and no plan counts it
    assert undamped.seconds_per_shot is None
    found = PhysicalNetworkClassifier(undamped, gradient="exact").plan(np.zeros((20, 2)))
    assert found.seconds is None
    assert "time        unknown" in str(found)


def test_a_copy_measures_the_same() -> None:
    plate = small_plate()
    batch = named(drive_for(plate, 4))
    expected = plate.measure(batch)
    for copy in (clone(plate), pickle.loads(pickle.dumps(plate))):
        np.testing.assert_array_equal(copy.measure(batch), expected)
    changed = clone(plate).set_params(width=30.0, drive_position=(0.5, 0.5))
    assert (changed.measure(batch) != expected).all()
    np.testing.assert_array_equal(changed.set_params(**plate.get_params()).measure(batch), expected)


def test_no_rows_give_no_rows() -> None:
    assert small_plate().measure(np.empty((0, 12))).shape == (0, 5)


# ---- noise ----


@given(st.lists(st.integers(0, 199), min_size=1, max_size=40, unique=True), st.integers(0, 5))
@settings(max_examples=15)
def test_a_row_does_not_depend_on_its_company(rows: list[int], shot: int) -> None:
    plate = small_plate()
    batch = named(drive_for(plate, 200), shot)
    part = ControlBatch.from_dense(np.asarray(batch)[rows]).named(batch.row_keys[rows], shot)
    np.testing.assert_allclose(plate.measure(part), plate.measure(batch)[rows], rtol=1e-9, atol=1e-9)


def test_chunks_do_not_show() -> None:
    plate = small_plate()
    batch = named(drive_for(plate, 300))
    whole = plate.measure(batch)
    plate.chunk_rows = 7
    np.testing.assert_allclose(plate.measure(batch), whole, rtol=1e-9, atol=1e-9)


def test_without_noise_a_measurement_is_the_forward_pass_exactly() -> None:
    plate = small_plate(**SILENT)
    controls = drive_for(plate, 7)
    assert plate.n_noise_values == 0
    np.testing.assert_array_equal(plate.measure(named(controls)), forward(plate, controls))


def test_noise_of_the_microphone() -> None:
    plate = small_plate(noise=3.0, gain_jitter=0.0)
    controls = np.tile(drive_for(plate, 1), (2000, 1))
    first, second = ((plate.measure(named(controls, shot)) - forward(plate, controls)) / 3.0 for shot in (0, 1))
    assert_standard_normal(first)
    together = np.corrcoef(np.concatenate([first, second], axis=1).T) - np.eye(10)
    assert np.abs(together).max() < 4 / np.sqrt(2000)


def test_gain_jitter_enters_before_the_plate() -> None:
    plate = small_plate(noise=0.0, gain_jitter=0.02, nonlinearity=0.0)
    controls = np.tile(drive_for(plate, 1), (2000, 1))
    gain = plate.measure(named(controls)) / forward(plate, controls)
    np.testing.assert_allclose(gain, gain[:, :1] * np.ones(5), rtol=1e-6)
    assert_standard_normal((gain[:, 0] - 1) / 0.02)
    stretching = clone(plate).set_params(nonlinearity=1.0)
    distorted = stretching.measure(named(controls)) / forward(stretching, controls)
    assert np.abs(distorted / distorted[:, :1] - 1).max() > 0.01


def test_the_gain_and_the_readings_have_noise_of_their_own() -> None:
    jittery, noisy = (
        small_plate(nonlinearity=0.0, noise=noise, gain_jitter=jitter) for noise, jitter in ((0.0, 0.02), (3.0, 0.0))
    )
    controls = np.tile(drive_for(noisy, 1), (2000, 1))
    gain, reading = jittery.measure(named(controls))[:, 0], noisy.measure(named(controls))
    assert np.abs(np.corrcoef(gain, reading.T)[0, 1:]).max() < 4 / np.sqrt(2000)
