"""The oscillators obey their equations; shared couplings are never copied per row; the errors are what they say."""

from __future__ import annotations

import pickle
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.linalg import eigh
from scipy.special import ellipk
from scipy.stats import kstest
from sklearn.base import clone
from torch.utils._python_dispatch import TorchDispatchMode

from skpat import ControlBatch
from skpat.devices import CoupledOscillators, coupled_oscillators
from skpat.twins import PhysicsTwin

from .device_checks import assert_standard_normal, in_torch, named, split_into

SILENT = {"input_noise": 0.0, "noise": 0.0}


def make(n: int = 4, **parameters) -> CoupledOscillators:
    return CoupledOscillators(n, **({"random_state": 0} | parameters))


def settings_for(device: CoupledOscillators, n_rows: int, seed: int = 0) -> np.ndarray:
    low, high = device.bounds.T
    return low + (high - low) * np.random.default_rng(seed).random((n_rows, device.n_controls))


def couplings_of(device: CoupledOscillators, row: np.ndarray) -> np.ndarray:
    """The coupling matrix that the documentation promises, entry by entry."""
    n = device.n_oscillators
    matrix = np.zeros((n, n))
    channels = iter(device.coupling_index)
    for i in range(n):
        for j in range(i + 1, n):
            matrix[i, j] = matrix[j, i] = row[next(channels)]
    return matrix


def propagate(device: CoupledOscillators, controls: np.ndarray, **more) -> tuple[np.ndarray, np.ndarray]:
    q, v = device.propagate(torch.from_numpy(np.atleast_2d(controls)), **more)
    return q.numpy(), v.numpy()


# ---- physics ----


@pytest.mark.parametrize("nonlinearity_error", [0.0, 0.1])
def test_the_motion_is_that_of_the_equations(nonlinearity_error: float) -> None:
    device = make(5, duration=1.5, n_steps=200, nonlinearity_error=nonlinearity_error)
    row = settings_for(device, 1)[0]
    J, e = couplings_of(device, row), row[device.drive_index]

    def slopes(_: float, state: np.ndarray) -> np.ndarray:
        q, v = state[:5], state[5:]
        sine = np.sin((1 + nonlinearity_error) * q)
        pull = [sum(J[i, j] * (sine[j] - sine[i]) for j in range(5)) for i in range(5)]
        return np.concatenate([v, -sine + pull + e])

    start = np.concatenate([row[device.amplitude_index], np.zeros(5)])
    end = solve_ivp(slopes, (0, 1.5), start, rtol=1e-11, atol=1e-12).y[:, -1]
    q, v = propagate(device, row)
    np.testing.assert_allclose(np.concatenate([q[0], v[0]]), end, rtol=0, atol=1e-6 * abs(end).max())
    assert np.abs(end[:5] - start[:5]).max() > 0.5


@pytest.mark.parametrize("nonlinearity_error", [0.0, 0.1])
def test_an_energy_is_conserved_whatever_the_couplings(nonlinearity_error: float) -> None:
    """1/2 v' M^-1 v + sum (1 - cos nu q) / nu - e' M^-1 q, with M = 1 + graph Laplacian of J."""
    nu = 1 + nonlinearity_error

    def change(n_steps: int) -> np.ndarray:
        device = make(5, duration=1.0, n_steps=n_steps, nonlinearity_error=nonlinearity_error)
        controls = settings_for(device, 3)
        start = controls[:, device.amplitude_index], np.zeros((3, 5))
        energies = []
        for q, v in (start, propagate(device, controls)):
            of_rows = []
            for row, q_row, v_row in zip(controls, q, v, strict=True):
                J = couplings_of(device, row)
                mass = np.linalg.inv(np.eye(5) + np.diag(J.sum(axis=1)) - J)
                potential = np.sum(1 - np.cos(nu * q_row)) / nu - row[device.drive_index] @ mass @ q_row
                of_rows.append([0.5 * v_row @ mass @ v_row, potential])
            energies.append(np.array(of_rows))
        assert np.abs(energies[1][:, 0]).min() > 0.1  # a good part became kinetic
        return np.abs(energies[1].sum(axis=1) - energies[0].sum(axis=1))

    assert change(400).max() < 1e-7
    assert np.all(change(50) / change(100) > 2**4 * 0.8)


def test_an_oscillator_alone_is_a_pendulum() -> None:
    device = make(1, duration=4.3, n_steps=400)
    (x, e) = 1.4, 0.3
    q, v = propagate(device, np.array([x, e]))
    np.testing.assert_allclose(0.5 * v**2 - np.cos(q) - e * q, -np.cos(x) - e * x, rtol=1e-9)
    assert abs(v) > 0.1


@pytest.mark.parametrize("amplitude", [0.1, 1.5, 3.0])
@pytest.mark.parametrize("nonlinearity_error", [0.0, 0.05])
def test_a_pendulum_is_back_after_its_period(amplitude: float, nonlinearity_error: float) -> None:
    nu = 1 + nonlinearity_error  # nu q obeys the pendulum's equation with the squared frequency nu
    amplitude /= nu
    period = 4 * ellipk(np.sin(nu * amplitude / 2) ** 2) / np.sqrt(nu)
    device = make(2, n_steps=1000, nonlinearity_error=nonlinearity_error, max_amplitude=3.1)
    controls = np.array([amplitude, -amplitude, 0, 0, 0])  # two of them, uncoupled
    q, v = propagate(device, controls, constants={"duration": torch.tensor(period)})
    np.testing.assert_allclose(q[0], [amplitude, -amplitude], rtol=1e-7)
    np.testing.assert_allclose(v, 0, atol=1e-6)
    q, _ = propagate(device, controls, constants={"duration": torch.tensor(period / 2)})
    np.testing.assert_allclose(q[0], [-amplitude, amplitude], rtol=1e-7)


def test_small_amplitudes_swing_in_normal_modes() -> None:
    device = make(6, duration=3.0, n_steps=600)
    row = settings_for(device, 1)[0]
    row[device.coupling_index] = np.abs(row[device.coupling_index]) / 4
    row[device.amplitude_index] *= 1e-4
    row[device.drive_index] *= 1e-4
    J, e, x = couplings_of(device, row), row[device.drive_index], row[device.amplitude_index]
    squared, modes = eigh(np.eye(6) + np.diag(J.sum(axis=1)) - J)
    rest = modes.T @ e / squared
    swing = rest + (modes.T @ x - rest) * np.cos(np.sqrt(squared) * 3.0)
    q, v = propagate(device, row)
    np.testing.assert_allclose(q[0], modes @ swing, rtol=0, atol=1e-6 * np.abs(q).max())

    # the quadratic energy, with the coupling's own potential J_ij (q_i - q_j)^2 / 4
    def energy(q: np.ndarray, v: np.ndarray) -> float:
        return 0.5 * v @ v + 0.5 * q @ q + 0.25 * np.sum(J * (q[:, None] - q) ** 2) - e @ q

    np.testing.assert_allclose(energy(q[0], v[0]), energy(x, np.zeros(6)), rtol=1e-6)


def test_time_runs_backwards_as_well() -> None:
    device = make(5, duration=1.0, n_steps=400)
    controls = settings_for(device, 2)
    q, v = propagate(device, controls)
    there = controls.copy()
    there[:, device.amplitude_index] = q
    back, at_rest = propagate(device, there, velocity=torch.from_numpy(-v))
    np.testing.assert_allclose(back, controls[:, device.amplitude_index], rtol=0, atol=1e-7)
    np.testing.assert_allclose(at_rest, 0, atol=1e-6)


def test_the_error_falls_with_the_fourth_power_of_the_step() -> None:
    controls = settings_for(make(5), 3)
    outputs = [np.hstack(propagate(make(5, n_steps=n), controls)) for n in (8, 16, 32, 64)]
    differences = [np.linalg.norm(fine - coarse) for coarse, fine in pairwise(outputs)]
    assert differences[-1] > 1e-12
    for coarse, fine in pairwise(differences):
        assert 14 < coarse / fine < 18


def test_the_default_steps_are_fine_enough() -> None:
    device = CoupledOscillators(**SILENT)
    controls = settings_for(device, 50)
    error = device.measure(controls) - clone(device).set_params(n_steps=100).measure(controls)
    assert np.sqrt(np.mean(error**2)) < CoupledOscillators().noise


def test_equal_oscillators_do_not_feel_their_couplings() -> None:
    device = make(4, **SILENT)
    controls = settings_for(device, 1)
    controls[:, device.amplitude_index], controls[:, device.drive_index] = 0.7, 0.2
    alone = make(1, **SILENT).measure(np.array([[0.7, 0.2]]))
    np.testing.assert_allclose(device.measure(controls), np.full((1, 4), alone[0, 0]), rtol=1e-12)


# ---- channels ----


def test_the_channels_are_amplitudes_couplings_and_drives() -> None:
    device = make(4, max_amplitude=1.0, max_coupling=2.0, max_drive=3.0)
    parts = [device.amplitude_index, device.coupling_index, device.drive_index]
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(device.n_controls))
    assert [len(part) for part in parts] == [4, 6, 4]
    for part, largest in zip(parts, (1, 2, 3), strict=True):
        np.testing.assert_array_equal(device.bounds[part], [[-largest, largest]] * len(part))
    assert device.bounds.shape == (device.n_controls, 2)


def test_a_thousand_oscillators_have_half_a_million_channels() -> None:
    assert CoupledOscillators(1000).n_controls == len(CoupledOscillators(1000).bounds) == 501_500


def test_the_last_oscillators_are_read() -> None:
    controls = settings_for(make(), 3)
    every = make(**SILENT).measure(controls)
    device = make(n_measured=2, **SILENT)
    assert device.n_outputs == 2
    np.testing.assert_array_equal(device.measure(controls), every[:, 2:])
    assert make(n_measured=2).measure(controls).shape == (3, 2)
    assert make().n_outputs == 4


# ---- parts of a batch ----


@given(st.sets(st.integers(0, 13)), st.integers(0, 99), st.integers(1, 5))
@settings(max_examples=25)
def test_any_split_into_parts_gives_the_same_outputs_and_gradients(varies: set[int], seed: int, n_rows: int) -> None:
    device = make(4, coupling_error=0.3)
    controls = settings_for(device, n_rows, seed)
    batch = in_torch(split_into(controls, np.array(sorted(varies), dtype=int), shuffle=seed), requires_grad=True)
    dense = batch.dense().detach().requires_grad_()
    from_parts, from_dense = device.forward_batch(batch), device.forward(dense)
    torch.testing.assert_close(from_parts, from_dense, rtol=1e-12, atol=1e-12)
    weights = torch.from_numpy(np.random.default_rng(seed).standard_normal(from_dense.shape))
    of_varying, of_shared = torch.autograd.grad(
        (from_parts * weights).sum(), (batch.varying, batch.shared), materialize_grads=True
    )
    (of_dense,) = torch.autograd.grad((from_dense * weights).sum(), dense)
    torch.testing.assert_close(of_varying, of_dense[:, batch.varying_index], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(of_shared, of_dense[:, batch.shared_index].sum(0), rtol=1e-10, atol=1e-12)


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation made."""

    n_entries = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(tensor, torch.Tensor):
                # storage, not shape: an expanded view is no copy
                self.n_entries = max(self.n_entries, tensor.untyped_storage().nbytes() // tensor.element_size())
        return made


def test_a_thousand_oscillators_share_one_matrix() -> None:
    n, n_rows = 1000, 100
    device = make(n, n_steps=1, max_coupling=0.01)
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (n_rows, n)).astype(np.float32)
    couplings = rng.uniform(-0.01, 0.01, device.n_controls - n).astype(np.float32)
    batch = ControlBatch(x, device.amplitude_index, couplings, np.arange(n, device.n_controls))
    batch = batch.named(np.arange(n_rows, dtype=np.uint64))
    tracemalloc.start()
    try:
        with Largest() as largest:
            outputs = device.measure(batch)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert outputs.shape == (n_rows, n)
    assert largest.n_entries == n * n
    assert peak < 64e6  # numpy's part; one copy of the couplings for each row would be 200e6
    few = make(n, n_steps=1, **SILENT).measure(batch.rows(slice(0, 2)))
    dense = make(n, n_steps=1, **SILENT).measure(np.asarray(batch.rows(slice(0, 2))))
    np.testing.assert_allclose(few, dense, rtol=1e-4, atol=1e-5)


def test_training_through_shared_couplings_needs_one_matrix_too() -> None:
    device = make(100, n_steps=2)
    controls = settings_for(device, 40)
    with Largest() as largest:
        batch = in_torch(split_into(controls, device.amplitude_index), requires_grad=True)
        device.forward_batch(batch).sum().backward()
    assert batch.shared.grad.shape == (device.n_controls - 100,)
    assert largest.n_entries <= 100 * 100


def test_couplings_that_vary_are_taken_in_pieces() -> None:
    device = make(40, n_steps=1, **SILENT)
    controls = settings_for(device, 400)
    with Largest() as largest:
        together = device.measure(controls)
    assert largest.n_entries == controls.size  # the controls themselves; 400 matrices would be nearly twice that
    apart = [device.measure(controls[rows]) for rows in (slice(0, 1), slice(1, 170), slice(170, None))]
    np.testing.assert_allclose(np.concatenate(apart), together, rtol=1e-12, atol=1e-12)


def test_every_row_of_a_piece_keeps_its_own_start(monkeypatch: pytest.MonkeyPatch) -> None:
    device = make(3, coupling_error=0.1)
    controls = settings_for(device, 7)
    velocity, kick = (torch.from_numpy(part) for part in np.random.default_rng(1).standard_normal((2, 7, 3)))
    at_once = propagate(device, controls, velocity=velocity, kick=kick)
    noisy = device.measure(named(controls))
    monkeypatch.setattr(coupled_oscillators, "_ENTRIES", 2 * 3**2)  # two rows in a piece
    for whole, in_pieces in zip(at_once, propagate(device, controls, velocity=velocity, kick=kick), strict=True):
        np.testing.assert_allclose(in_pieces, whole, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(device.measure(named(controls)), noisy, rtol=1e-12, atol=1e-12)


# ---- differentiation ----


def test_gradient_with_respect_to_the_controls() -> None:
    controls = torch.from_numpy(settings_for(make(3), 2)).requires_grad_()
    assert torch.autograd.gradcheck(make(3, n_steps=2).forward, (controls,))


@pytest.mark.parametrize(
    ("name", "value"), [("duration", 0.4), ("nonlinearity_error", 0.05), ("coupling_offsets", [0.1, -0.2, 0.3])]
)
def test_a_constant_replaces_the_parameter_and_has_a_gradient(name: str, value) -> None:
    device = make(3)
    controls = torch.from_numpy(settings_for(device, 2))
    given_value = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    replaced = device.forward(controls, {name: given_value})
    if name == "coupling_offsets":
        shifted = controls.clone()
        shifted[:, device.coupling_index] += given_value.detach()
        expected = device.forward(shifted)
    else:
        expected = make(3, **{name: value}).forward(controls)
    torch.testing.assert_close(replaced, expected, rtol=1e-12, atol=1e-12)
    assert (replaced - device.forward(controls)).abs().max() > 1e-3
    assert torch.autograd.gradcheck(lambda constant: device.forward(controls, {name: constant}), (given_value,))


# ---- fixed errors ----


def test_the_coupling_error_is_added_to_both_ends_of_every_coupling() -> None:
    device, perfect = make(coupling_error=0.2, **SILENT), make(**SILENT)
    controls = settings_for(device, 3)
    shifted = controls.copy()
    shifted[:, device.coupling_index] += device.coupling_offsets
    np.testing.assert_allclose(device.measure(controls), perfect.measure(shifted), rtol=1e-12)
    assert np.abs(device.measure(controls) - perfect.measure(controls)).max() > 1e-3


def test_the_coupling_error_belongs_to_the_specimen() -> None:
    device = make(60, coupling_error=0.2, device_seed=3)
    offsets = device.coupling_offsets
    assert kstest(offsets / 0.2, "norm").pvalue > 1e-3
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(clone(device))).coupling_offsets, offsets)
    np.testing.assert_array_equal(clone(device).set_params(random_state=9).coupling_offsets, offsets)
    assert (clone(device).set_params(device_seed=4).coupling_offsets != offsets).all()
    np.testing.assert_allclose(clone(device).set_params(coupling_error=0.4).coupling_offsets, 2 * offsets)
    offsets[:] = 0  # the caller's own array
    assert device.coupling_offsets.any()


def test_the_nonlinearity_error_stretches_the_sine() -> None:
    """nu q obeys the perfect equations with couplings, drives and the pendulum's own force nu times as strong."""
    device, perfect = make(1, nonlinearity_error=0.1, n_steps=50), make(1, n_steps=50)
    q, _ = propagate(device, np.array([0.8, 0.3]))
    stretched, _ = propagate(
        perfect, np.array([1.1 * 0.8, 0.3]), constants={"duration": torch.tensor(0.5 * np.sqrt(1.1))}
    )
    np.testing.assert_allclose(1.1 * q, stretched, rtol=1e-9)


def test_the_equations_are_those_of_the_design_and_find_the_nonlinearity() -> None:
    device = make(4, nonlinearity_error=0.15, coupling_error=0.02, **SILENT)
    designed, unknown = device.equations
    assert (designed.nonlinearity_error, designed.coupling_error) == (0.0, 0.0)
    controls = settings_for(device, 60)
    twin = PhysicsTwin(designed, unknown, random_state=0).fit(controls, device.measure(controls))
    assert twin.constants_["nonlinearity_error"] == pytest.approx(0.15, abs=0.02)


# ---- precision, kind and refusals ----


def test_a_batch_is_computed_in_the_precision_of_its_controls() -> None:
    device = make(coupling_error=0.1)
    controls = settings_for(device, 3)
    assert device.measure(controls.astype(np.float32)).dtype == np.float32
    assert device.measure(controls).dtype == np.float64
    assert device.forward(torch.from_numpy(controls).float()).dtype == torch.float32
    silent = make(coupling_error=0.1, **SILENT)
    narrow = silent.measure(controls.astype(np.float32))
    np.testing.assert_allclose(narrow, silent.measure(controls), rtol=1e-4, atol=1e-5)
    assert np.abs(narrow - silent.measure(controls)).max() > 0


def test_no_rows_give_no_rows() -> None:
    assert make().measure(np.empty((0, 14))).shape == (0, 4)
    assert make().forward(torch.empty((0, 14))).shape == (0, 4)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_oscillators": 0}, r"'n_oscillators' of CoupledOscillators must be an int of at least 1\. Got 0\."),
        ({"n_steps": 2.5}, r"'n_steps' of CoupledOscillators must be an int of at least 1\. Got 2\.5\. Use n_steps=5"),
        (
            {"n_measured": 0},
            r"'n_measured' of CoupledOscillators must be an int of at least 1, or None for all\. Got 0",
        ),
        ({"n_measured": 5}, r"'n_measured' of CoupledOscillators must be at most n_oscillators = 4, .* Got 5"),
        ({"duration": -1.0}, r"'duration' of CoupledOscillators must be a finite number of at least 0\. Got -1\.0"),
        ({"max_coupling": 0}, r"'max_coupling' of CoupledOscillators must be a finite number above 0\. Got 0\."),
        ({"nonlinearity_error": -1}, r"'nonlinearity_error' of CoupledOscillators must be a .* above -1\. Got -1\."),
        ({"noise": -1.0}, r"'noise' of CoupledOscillators must be a finite number of at least 0\. Got -1\.0"),
        ({"input_noise": np.nan}, r"'input_noise' of CoupledOscillators must be a finite number .* Got nan"),
        ({"coupling_error": "x"}, r"'coupling_error' of CoupledOscillators must be a finite number .* Got 'x'"),
        ({"device_seed": None}, r"'device_seed' of CoupledOscillators must be an int: .* Got None"),
    ],
)
def test_a_wrong_parameter_is_refused_when_used(parameters: dict, message: str) -> None:
    device = make().set_params(**parameters)
    with pytest.raises(ValueError, match=message):
        device.forward(torch.zeros((1, 14)))


def test_an_unknown_constant_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'constants' of CoupledOscillators must be among duration, .*'n_steps'"):
        make().forward(torch.zeros((1, 14)), {"n_steps": torch.tensor(3)})


# ---- noise ----

N_ROWS = 4000


def deviations(**noise: float) -> tuple[np.ndarray, np.ndarray]:
    """What noise adds to N_ROWS equal settings under different names, in two shots."""
    device = make(3, **SILENT | {"duration": 1e-9} | noise)  # read at once: outputs are the initial amplitudes
    controls = np.tile(settings_for(device, 1), (N_ROWS, 1))
    first, second = (device.measure(named(controls, shot)) - controls[:, :3] for shot in (0, 1))
    return first, second


@pytest.mark.parametrize("name", ["input_noise", "noise"])
def test_the_noise_is_normal_and_independent(name: str) -> None:
    first, second = (values / 0.03 for values in deviations(**{name: 0.03}))
    for values in (first, second):
        assert_standard_normal(values)
    columns = np.column_stack([first[1:], second[1:], first[:-1]])
    assert np.abs(np.corrcoef(columns.T) - np.eye(9)).max() < 4.5 / np.sqrt(N_ROWS)


def test_the_two_noises_do_not_know_each_other() -> None:
    both = deviations(input_noise=0.03, noise=0.04)[0]  # variances add up where there is no correlation
    np.testing.assert_allclose(both.std(axis=0), 0.05, rtol=4 / np.sqrt(2 * N_ROWS))


def test_input_noise_enters_before_the_motion() -> None:
    device = make(3, input_noise=0.1, noise=0.0, duration=2.0, n_steps=20)
    controls = settings_for(device, 1)
    kick = 0.1 * device.standard_normal(named(controls), 3)
    shifted = controls.copy()
    shifted[:, device.amplitude_index] += kick
    expected = clone(device).set_params(input_noise=0.0).measure(shifted)
    np.testing.assert_allclose(device.measure(named(controls)), expected, rtol=1e-12)


def test_amplitudes_that_all_rows_share_are_set_anew_for_every_row() -> None:
    device = make(3, noise=0.0)
    batch = split_into(settings_for(device, 5), device.drive_index)
    batch = batch.named(np.arange(5, dtype=np.uint64))
    np.testing.assert_allclose(device.measure(batch), device.measure(named(np.asarray(batch))), rtol=1e-12)


@given(st.lists(st.integers(0, 39), min_size=1, max_size=40, unique=True), st.integers(0, 5), st.booleans())
@settings(max_examples=20)
def test_the_outputs_of_a_row_do_not_depend_on_its_company(rows: list[int], shot: int, share: bool) -> None:
    device = make(coupling_error=0.1)
    controls = settings_for(device, 40)
    batch = split_into(controls, device.amplitude_index) if share else ControlBatch.from_dense(controls)
    batch = batch.named(np.arange(40, dtype=np.uint64), shot)
    np.testing.assert_allclose(
        device.measure(batch.rows(np.array(rows))), device.measure(batch)[rows], rtol=1e-12, atol=1e-13
    )


def test_without_noise_a_measurement_is_the_forward_pass() -> None:
    device = make(coupling_error=0.1, nonlinearity_error=0.1, **SILENT)
    controls = settings_for(device, 7)
    np.testing.assert_array_equal(device.measure(controls), device.forward(torch.from_numpy(controls)).numpy())
