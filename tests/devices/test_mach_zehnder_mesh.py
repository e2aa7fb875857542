"""The mesh conserves power, makes any unitary, and has the flaws that it says; its noise is what it says."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, unitary_group
from sklearn.base import clone

from skpat import ControlBatch
from skpat.devices import MachZehnderMesh
from skpat.devices.clements import decompose, mesh_columns, unitary
from skpat.twins import PhysicsTwin

from .device_checks import assert_standard_normal, in_torch, named, split_into

SILENT = {"noise": 0.0, "shot_noise": 0.0, "noise_floor": 0.0}
PERFECT = SILENT | {"nonlinearity": 0.0, "loss": 0.0}
FLAWED = {"phase_error": 0.1, "splitter_error": 0.1, "loss": 0.3, "crosstalk": 0.05, "phase_modulators": True}


def make(n_ports: int = 4, **parameters) -> MachZehnderMesh:
    return MachZehnderMesh(n_ports, **({"random_state": 0} | parameters))


def settings_for(device: MachZehnderMesh, n_rows: int, seed: int = 0) -> np.ndarray:
    low, high = device.bounds.T
    return low + (high - low) * np.random.default_rng(seed).random((n_rows, device.n_controls))


def phases_for(device: MachZehnderMesh, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.random.default_rng(seed).uniform(0, 2 * np.pi, (2, device.n_interferometers)))


def assert_unitary(matrix: np.ndarray) -> None:
    np.testing.assert_allclose(matrix @ matrix.conj().T, np.eye(len(matrix)), rtol=0, atol=1e-12)


# ---- the decomposition ----


@given(st.integers(2, 16), st.integers(0, 10**6))
@settings(max_examples=30)
def test_any_unitary_is_made_by_some_phases(n_ports: int, seed: int) -> None:
    wanted = unitary_group.rvs(n_ports, random_state=seed)
    phases = decompose(wanted)
    np.testing.assert_allclose(unitary(*phases), wanted, rtol=0, atol=1e-10)
    assert all(part.min() >= 0 and part.max() <= 2 * np.pi for part in phases)
    assert phases.theta.max() <= np.pi + 1e-12
    # the mesh makes it too, up to phases that no photodiode sees
    made = make(n_ports, **PERFECT).transfer_matrix(phases.theta, phases.phi).numpy()
    np.testing.assert_allclose(np.exp(1j * phases.output)[:, None] * made, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("n_ports", range(2, 10))
@pytest.mark.parametrize("kind", ["identity", "reversal", "fourier", "permutation", "real"])
def test_unitaries_with_zeros_are_decomposed_as_well(n_ports: int, kind: str) -> None:
    eye = np.eye(n_ports)
    rng = np.random.default_rng(0)
    wanted = {
        "identity": eye,
        "reversal": eye[::-1],
        "fourier": np.fft.fft(eye, norm="ortho"),
        "permutation": eye[rng.permutation(n_ports)],
        "real": np.linalg.qr(rng.standard_normal((n_ports, n_ports)))[0],
    }[kind]
    np.testing.assert_allclose(unitary(*decompose(wanted)), wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("n_ports", range(2, 9))
def test_the_columns_hold_every_interferometer_once(n_ports: int) -> None:
    columns = mesh_columns(n_ports)
    assert len(columns) == n_ports
    assert sum(map(len, columns)) == n_ports * (n_ports - 1) // 2
    for number, ports in enumerate(columns):
        np.testing.assert_array_equal(ports % 2, number % 2)
        assert np.all(ports + 1 < n_ports)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: decompose(np.ones((3, 2))), r"'matrix' of decompose must be square, .* Got shape \(3, 2\)"),
        (lambda: decompose(np.ones((1, 1))), r"'matrix' of decompose must be square, with at least two ports"),
        (lambda: decompose(np.ones((3, 3))), r"'matrix' of decompose must be unitary\. Got one with .* up to 3"),
        (lambda: decompose(np.full((2, 2), np.nan)), r"'matrix' of decompose must be unitary"),
        (lambda: unitary(np.zeros(4), np.zeros(4)), r"'theta' and 'phi' of a mesh must both have shape .* Got \(4,\)"),
        (lambda: unitary(np.zeros(3), np.zeros(1)), r"'theta' and 'phi' of a mesh must both .* Got \(3,\) and \(1,\)"),
        (lambda: unitary([], []), r"'theta' and 'phi' of a mesh must both have shape"),
        (lambda: unitary([0], [0], [0]), r"'output' of a mesh must have shape \(n_ports,\) = \(2,\)\. Got \(1,\)"),
    ],
)
def test_what_is_no_mesh_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# ---- physics ----


@given(st.integers(2, 9), st.integers(0, 99))
@settings(max_examples=20)
def test_without_flaws_the_mesh_is_the_product_of_its_interferometers(n_ports: int, seed: int) -> None:
    device = make(n_ports, **PERFECT)
    theta, phi = phases_for(device, seed)
    matrix = device.transfer_matrix(theta, phi).numpy()
    assert_unitary(matrix)
    np.testing.assert_allclose(matrix, unitary(theta, phi), rtol=0, atol=1e-12)
    amplitude = np.random.default_rng(seed).random((3, n_ports))
    controls = np.hstack([amplitude, np.tile(np.concatenate([theta, phi]), (3, 1))])
    np.testing.assert_allclose(
        device.measure(controls), np.abs(amplitude @ unitary(theta, phi).T) ** 2, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize(
    ("theta", "expected"),
    [(0.0, [0.2, 0.8]), (np.pi, [0.8, 0.2]), (np.pi / 2, [0.1, 0.9])],
    ids=["cross", "bar", "half"],
)
def test_one_interferometer(theta: float, expected: list[float]) -> None:
    """Powers 0.8 and 0.2: swapped, passed, and interfering: |sqrt(0.8) -+ sqrt(0.2)|^2 / 2."""
    device = make(2, **PERFECT)
    controls = np.array([[np.sqrt(0.8), np.sqrt(0.2), theta, 0.0], [np.sqrt(0.8), np.sqrt(0.2), theta, np.pi]])
    outputs = device.measure(controls)
    np.testing.assert_allclose(outputs[0], expected[::-1] if theta == np.pi / 2 else expected, atol=1e-12)
    np.testing.assert_allclose(outputs[1], expected, atol=1e-12)


@given(st.integers(2, 9), st.integers(0, 99))
@settings(max_examples=20)
def test_power_is_conserved_without_loss_whatever_the_other_flaws(n_ports: int, seed: int) -> None:
    device = make(n_ports, **PERFECT | FLAWED | {"loss": 0.0, "device_seed": seed})
    assert_unitary(device.transfer_matrix(*phases_for(device, seed)).numpy())
    controls = settings_for(device, 3, seed)
    power = np.sum(controls[:, device.amplitude_index] ** 2, axis=1)
    np.testing.assert_allclose(device.measure(controls).sum(axis=1), power, rtol=1e-12)


@given(st.integers(2, 9), st.integers(0, 99), st.floats(0, 3))
@settings(max_examples=20)
def test_every_interferometer_takes_its_share(n_ports: int, seed: int, loss: float) -> None:
    device = make(n_ports, **PERFECT | {"loss": loss})
    theta, phi = phases_for(device, seed)
    singular = np.linalg.svd(device.transfer_matrix(theta, phi).numpy(), compute_uv=False)
    fewest = n_ports // 2 if n_ports > 2 else 1  # along an edge every other column is empty
    assert 10 ** (-loss * n_ports / 20) - 1e-12 <= singular.min()
    assert singular.max() <= 10 ** (-loss * fewest / 20) + 1e-12
    # all in the bar state: a port's light stays, and crosses one interferometer per column that has one there
    crossed = np.zeros(n_ports)
    for ports in mesh_columns(n_ports):
        crossed[ports] += 1
        crossed[ports + 1] += 1
    bar = device.transfer_matrix(np.full(len(theta), np.pi), phi).numpy()
    np.testing.assert_allclose(np.abs(bar) ** 2, np.diag(10 ** (-loss * crossed / 10)), rtol=0, atol=1e-12)


def test_a_splitter_sends_more_one_way() -> None:
    device = make(2, **PERFECT)
    offsets = np.array([0.3, -0.2])  # of the first and the second splitter

    def splitter(e: float) -> np.ndarray:
        return np.array([[np.sqrt(1 + e), 1j * np.sqrt(1 - e)], [1j * np.sqrt(1 - e), np.sqrt(1 + e)]]) / np.sqrt(2)

    theta, phi = 0.7, 1.1
    expected = splitter(-0.2) @ np.diag([np.exp(1j * theta), 1]) @ splitter(0.3) @ np.diag([np.exp(1j * phi), 1])
    matrix = device.transfer_matrix(np.array([theta]), np.array([phi]), {"splitter_offsets": torch.tensor(offsets)})
    np.testing.assert_allclose(matrix.numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n_ports", [4, 7])
def test_crosstalk_heats_the_neighbours_in_the_column(n_ports: int) -> None:
    crosstalk = 0.1
    device = make(n_ports, **PERFECT | {"crosstalk": crosstalk})
    theta, phi = phases_for(device)
    heated = [phase.copy() for phase in (theta, phi)]
    begin = 0
    for ports in mesh_columns(n_ports):
        for i in range(len(ports)):
            for j in range(len(ports)):
                if i != j:
                    heated[0][begin + i] += crosstalk ** abs(i - j) * theta[begin + j]
                    heated[1][begin + i] += crosstalk ** abs(i - j) * phi[begin + j]
        begin += len(ports)
    np.testing.assert_allclose(device.transfer_matrix(theta, phi).numpy(), unitary(*heated), rtol=0, atol=1e-12)
    assert np.abs(unitary(*heated) - unitary(theta, phi)).max() > 0.1
    flawed = clone(device).set_params(phase_error=0.2)  # fixed errors heat nobody
    errors = np.split(flawed.phase_offsets, 2)
    expected = unitary(*(phase + error for phase, error in zip(heated, errors, strict=True)))
    np.testing.assert_allclose(flawed.transfer_matrix(theta, phi).numpy(), expected, rtol=0, atol=1e-12)


def test_fixed_errors_are_added_to_the_phases() -> None:
    device = make(5, **PERFECT | {"phase_error": 0.2})
    theta, phi = phases_for(device)
    of_theta, of_phi = np.split(device.phase_offsets, 2)
    np.testing.assert_allclose(
        device.transfer_matrix(theta, phi).numpy(), unitary(theta + of_theta, phi + of_phi), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("bias", [0.0, 1.0, np.pi])
def test_the_activation_is_that_of_williamson(bias: float) -> None:
    """Half way through the mesh, as the paper writes it; two ports have a second column without interferometers."""
    device = make(2, **PERFECT | {"nonlinearity": 3.0, "activation_bias": bias, "tap": 0.2})
    controls = settings_for(device, 4)
    z = np.array([unitary(row[2:3], row[3:4]) @ row[:2] for row in controls])
    half = 3.0 * np.abs(z) ** 2 / 2 + bias / 2
    activated = 1j * np.sqrt(1 - 0.2) * np.exp(-1j * half) * np.cos(half) * z
    np.testing.assert_allclose(device.measure(controls), np.abs(activated) ** 2, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n_ports", [5, 6])
def test_the_activation_stands_between_the_halves(n_ports: int) -> None:
    device = make(n_ports, **PERFECT | {"nonlinearity": 3.0, "activation_bias": 1.0, "tap": 0.2})
    row = settings_for(device, 1)[0]
    theta, phi = row[device.theta_index], row[device.phi_index]
    behind = sum(map(len, mesh_columns(n_ports)[: n_ports // 2]))  # the interferometers of the first half come first
    first = [np.where(np.arange(len(theta)) < behind, part, other) for part, other in ((theta, np.pi), (phi, 0.0))]
    second = [np.where(np.arange(len(theta)) >= behind, part, other) for part, other in ((theta, np.pi), (phi, 0.0))]
    bar = unitary(np.full(len(theta), np.pi), np.zeros(len(phi)))  # diagonal: an idle interferometer only turns signs
    assert np.count_nonzero(np.abs(bar) > 1e-12) == n_ports

    def idle(columns: slice) -> np.ndarray:
        signs = np.eye(n_ports, dtype=complex)
        for ports in mesh_columns(n_ports)[columns]:
            for port in ports:
                signs[port : port + 2] = np.diag([-1, 1]) @ signs[port : port + 2]
        return signs

    half = n_ports // 2
    z = np.linalg.inv(idle(slice(half, None))) @ unitary(*first) @ row[device.amplitude_index]
    angle = 3.0 * np.abs(z) ** 2 / 2 + 0.5
    z = 1j * np.sqrt(0.8) * np.exp(-1j * angle) * np.cos(angle) * z
    expected = np.abs(unitary(*second) @ np.linalg.inv(idle(slice(0, half))) @ z) ** 2
    np.testing.assert_allclose(device.measure(row[None])[0], expected, rtol=0, atol=1e-12)


def test_light_and_modulators() -> None:
    light = np.array([1.0, 2.0j, 0.5, 0.0])
    controls = settings_for(make(phase_modulators=True), 3)
    device = make(phase_modulators=True, input_field=light, **PERFECT)
    theta, phi = controls[:, device.theta_index], controls[:, device.phi_index]
    amplitude = controls[:, device.amplitude_index] * np.exp(1j * controls[:, device.input_phase_index])
    expected = [np.abs(unitary(*both) @ (light * a)) ** 2 for *both, a in zip(theta, phi, amplitude, strict=True)]
    np.testing.assert_allclose(device.measure(controls), expected, rtol=0, atol=1e-12)
    bare = make(input_modulators=False, input_field=light, **PERFECT)
    expected = [np.abs(unitary(*both) @ light) ** 2 for both in zip(theta, phi, strict=True)]
    np.testing.assert_allclose(bare.measure(np.hstack([theta, phi])), expected, rtol=0, atol=1e-12)


# ---- channels ----


@pytest.mark.parametrize("amplitudes", [True, False])
@pytest.mark.parametrize("input_phases", [True, False])
def test_the_channels_are_modulators_and_phases(amplitudes: bool, input_phases: bool) -> None:
    device = make(5, input_modulators=amplitudes, phase_modulators=input_phases)
    parts = [device.amplitude_index, device.input_phase_index, device.theta_index, device.phi_index]
    assert [len(part) for part in parts] == [5 * amplitudes, 5 * input_phases, 10, 10]
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(device.n_controls))
    highest = np.concatenate([np.ones(len(parts[0])), np.full(device.n_controls - len(parts[0]), 2 * np.pi)])
    np.testing.assert_array_equal(device.bounds, np.column_stack([0 * highest, highest]))
    assert device.n_outputs == 5


@given(st.sets(st.integers(0, 29)), st.sampled_from([0, 10]), st.integers(0, 99), st.integers(1, 5))
@settings(max_examples=30)
def test_any_split_into_parts_gives_the_same_outputs_and_gradients(
    varies: set[int], first: int, seed: int, n_rows: int
) -> None:
    device = make(5, **FLAWED)
    varies = {channel for channel in varies if channel >= first}  # often the modulators are shared, and phases are not
    controls = settings_for(device, n_rows, seed)
    batch = in_torch(split_into(controls, np.array(sorted(varies), dtype=int), shuffle=seed), requires_grad=True)
    dense = batch.dense().detach().requires_grad_()
    from_parts, from_dense = device.forward_batch(batch), device.forward(dense)
    assert from_parts.shape == (n_rows, 5)
    torch.testing.assert_close(from_parts, from_dense, rtol=1e-10, atol=1e-12)
    weights = torch.from_numpy(np.random.default_rng(seed).standard_normal(from_dense.shape))
    of_varying, of_shared = torch.autograd.grad(
        (from_parts * weights).sum(), (batch.varying, batch.shared), materialize_grads=True
    )
    (of_dense,) = torch.autograd.grad((from_dense * weights).sum(), dense)
    torch.testing.assert_close(of_varying, of_dense[:, batch.varying_index], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(of_shared, of_dense[:, batch.shared_index].sum(0), rtol=1e-9, atol=1e-11)


# ---- differentiation ----


@pytest.mark.parametrize("n_ports", [2, 3])
def test_gradient_with_respect_to_the_controls(n_ports: int) -> None:
    device = make(n_ports, **FLAWED)
    controls = torch.from_numpy(settings_for(device, 2)).requires_grad_()
    assert torch.autograd.gradcheck(device.forward, (controls,))


@pytest.mark.parametrize(
    ("name", "value"),
    [("loss", 0.5), ("crosstalk", 0.1), ("nonlinearity", 2.0), ("activation_bias", 0.5), ("tap", 0.3)],
)
def test_a_constant_replaces_the_parameter_and_has_a_gradient(name: str, value: float) -> None:
    controls = torch.from_numpy(settings_for(make(4), 2))
    given_value = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    replaced = make(4).forward(controls, {name: given_value})
    torch.testing.assert_close(replaced, make(4, **{name: value}).forward(controls), rtol=1e-12, atol=1e-12)
    assert (replaced - make(4).forward(controls)).abs().max() > 1e-3
    assert torch.autograd.gradcheck(lambda constant: make(4).forward(controls, {name: constant}), (given_value,))


@pytest.mark.parametrize("name", ["phase_offsets", "splitter_offsets"])
def test_offsets_replace_those_of_the_specimen_and_have_a_gradient(name: str) -> None:
    device = make(3, phase_error=0.1, splitter_error=0.1)
    other = clone(device).set_params(device_seed=1)
    controls = torch.from_numpy(settings_for(device, 2))
    offsets = {key: torch.tensor(getattr(other, key)) for key in ("phase_offsets", "splitter_offsets")}
    torch.testing.assert_close(device.forward(controls, offsets), other.forward(controls), rtol=1e-12, atol=1e-12)
    constant = offsets[name].requires_grad_()
    assert torch.autograd.gradcheck(lambda values: device.forward(controls, {name: values}), (constant,))


@pytest.mark.parametrize("name", ["crosstalk", "loss", "nonlinearity"])
def test_a_constant_that_is_zero_has_a_gradient_too(name: str) -> None:
    device = make(4, **PERFECT | {"nonlinearity": 2.0, "activation_bias": 0.5})
    zero = torch.zeros((), dtype=torch.float64, requires_grad=True)
    outputs = device.forward(torch.from_numpy(settings_for(device, 2)), {name: zero})
    (slope,) = torch.autograd.grad(outputs.square().sum(), zero)
    assert torch.isfinite(slope)
    assert slope != 0


@pytest.mark.parametrize("n_ports", [2, 4, 5])
def test_without_activation_its_gain_is_no_constant(n_ports: int) -> None:
    device = make(n_ports, **PERFECT)
    controls = settings_for(device, 20)
    message = (
        r"^'constants' of MachZehnderMesh must be without 'nonlinearity' where there is no activation\. "
        r"Got nonlinearity=0\.0 in the constructor\. Build the mesh with a nonlinearity above 0\.$"
    )
    for call in (
        lambda: device.forward(torch.from_numpy(controls), {"nonlinearity": torch.tensor(0.0)}),
        lambda: device.transfer_matrix(*phases_for(device), {"nonlinearity": torch.tensor(1.0)}),
        lambda: PhysicsTwin(device, ["nonlinearity"]).fit(controls, device.measure(controls)),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    # of an activation that is there, a gain of 0 is one among others
    there = make(n_ports, **PERFECT | {"nonlinearity": 1e-13, "tap": 0.0, "activation_bias": 0.0})
    found = there.forward(torch.from_numpy(controls), {"nonlinearity": torch.tensor(0.0)}).numpy()
    np.testing.assert_allclose(found, device.measure(controls), rtol=0, atol=1e-12)


def test_an_unknown_constant_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'constants' of MachZehnderMesh must be among loss, .*'n_ports'"):
        make().forward(torch.zeros((1, 16)), {"n_ports": torch.tensor(3)})


# ---- fixed errors ----


@pytest.mark.parametrize(
    ("name", "offsets"), [("phase_error", "phase_offsets"), ("splitter_error", "splitter_offsets")]
)
def test_the_fixed_errors_belong_to_the_specimen(name: str, offsets: str) -> None:
    device = make(40, **{name: 0.1}, device_seed=3)
    values = getattr(device, offsets)
    assert values.shape == (40 * 39,)
    assert kstest(values / 0.1, "norm").pvalue > 1e-3
    np.testing.assert_array_equal(getattr(pickle.loads(pickle.dumps(clone(device))), offsets), values)
    np.testing.assert_array_equal(getattr(clone(device).set_params(random_state=9), offsets), values)
    assert (getattr(clone(device).set_params(device_seed=4), offsets) != values).all()
    assert not getattr(clone(device).set_params(**{name: 0.0}), offsets).any()


def test_the_two_kinds_of_fixed_error_do_not_know_each_other() -> None:
    device = make(40, phase_error=1.0, splitter_error=0.1)
    related = np.corrcoef(device.phase_offsets, device.splitter_offsets)[0, 1]
    assert abs(related) < 4 / np.sqrt(40 * 39)


def test_a_splitter_sends_at_most_everything_one_way() -> None:
    device = make(6, splitter_error=5.0, **SILENT)
    assert np.abs(device.splitter_offsets).max() < 1
    assert np.isfinite(device.measure(settings_for(device, 3))).all()


def test_the_equations_are_those_of_the_design_and_find_the_specimen() -> None:
    device = make(3, phase_error=0.05, splitter_error=0.05, **SILENT)
    designed, unknown = device.equations
    assert (designed.phase_error, designed.splitter_error) == (0.0, 0.0)
    assert unknown == ("loss", "nonlinearity", "phase_offsets", "splitter_offsets")
    assert "nonlinearity" not in make(3, nonlinearity=0).equations[1]  # there is no activation to be found
    controls, fresh = settings_for(device, 300), settings_for(device, 100, seed=1)
    twin = PhysicsTwin(designed, unknown, random_state=0).fit(controls, device.measure(controls))
    of_twin, of_design = (
        np.abs(answers - device.measure(fresh)).max() for answers in (twin.predict(fresh), designed.measure(fresh))
    )
    assert of_twin < 0.05 * of_design


# ---- precision, kind and refusals ----


def test_a_batch_is_computed_in_the_precision_of_its_controls() -> None:
    controls = settings_for(make(**FLAWED), 3)
    assert make(**FLAWED).measure(controls.astype(np.float32)).dtype == np.float32
    assert make(**FLAWED).measure(controls).dtype == np.float64
    assert make(**FLAWED).forward(torch.from_numpy(controls).float()).dtype == torch.float32
    silent = make(**FLAWED, **SILENT)
    narrow = silent.measure(controls.astype(np.float32))
    np.testing.assert_allclose(narrow, silent.measure(controls), rtol=1e-4, atol=1e-5)
    assert np.abs(narrow - silent.measure(controls)).max() > 0


@pytest.mark.parametrize(
    "of",
    [
        list,
        np.array,
        torch.tensor,
        lambda phases: np.array(phases, dtype=np.int8),
        lambda phases: tuple(map(float, phases)),
    ],
    ids=["list", "array", "tensor", "small", "floats"],
)
def test_whole_numbers_are_phases_of_the_same_chip(of) -> None:
    device = make(4, **FLAWED)
    theta, phi = [0, 1, 2, 3, 4, 5], [5, 0, 3, 1, 0, 2]
    expected = device.transfer_matrix(np.array(theta, dtype=float), np.array(phi, dtype=float))
    found = device.transfer_matrix(of(theta), of(phi))
    assert found.dtype == torch.complex128
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_phases_of_single_precision_are_computed_in_it() -> None:
    device = make(4, **FLAWED)
    theta, phi = (phase.astype(np.float32) for phase in phases_for(device))
    wide = device.transfer_matrix(theta.astype(np.float64), phi)
    assert wide.dtype == torch.complex128
    for of in (np.asarray, torch.from_numpy):
        narrow = device.transfer_matrix(of(theta), of(phi))
        assert narrow.dtype == torch.complex64
        torch.testing.assert_close(narrow.to(wide.dtype), wide, rtol=0, atol=1e-5)


def test_no_rows_give_no_rows() -> None:
    assert make().measure(np.empty((0, 16))).shape == (0, 4)
    assert make().forward(torch.empty((0, 16))).shape == (0, 4)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_ports": 1}, r"'n_ports' of MachZehnderMesh must be an int of at least 2\. Got 1\. Use n_ports=16"),
        ({"device_seed": 0.5}, r"'device_seed' of MachZehnderMesh must be an int\. Got 0\.5\. Use device_seed=0"),
        ({"loss": -0.1}, r"'loss' of MachZehnderMesh must be a number of at least 0 and below inf\. Got -0\.1"),
        ({"crosstalk": 1.0}, r"'crosstalk' of MachZehnderMesh must be .* below 1\. Got 1\.0\. Use crosstalk=0"),
        ({"tap": np.nan}, r"'tap' of MachZehnderMesh must be a number of at least 0 and below 1\. Got nan"),
        ({"nonlinearity": -1.0}, r"'nonlinearity' of MachZehnderMesh must be a number of at least 0 .*\. Got -1\.0"),
        ({"activation_bias": np.inf}, r"'activation_bias' of MachZehnderMesh must be a finite number\. Got inf"),
        ({"noise": "low"}, r"'noise' of MachZehnderMesh must be a number .* Got 'low'"),
        ({"input_field": [1, 1]}, r"'input_field' of MachZehnderMesh must have shape .* = \(4,\)\. Got \(2,\)"),
    ],
)
def test_a_wrong_parameter_is_refused_when_used(parameters: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make().set_params(**parameters).forward(torch.zeros((1, 16)))


# ---- noise ----

N_ROWS = 4000


@pytest.mark.parametrize(
    ("name", "power"), [("noise", 1.0), ("shot_noise", 0.5), ("noise_floor", 0.0)]
)  # the power of the mean to which the spread is proportional
def test_the_noise_is_normal_and_independent(name: str, power: float) -> None:
    device = make(3, **SILENT | {name: 0.03})
    controls = np.tile(settings_for(device, 1), (N_ROWS, 1))
    true = device.forward(torch.from_numpy(controls)).numpy()
    first, second = ((device.measure(named(controls, shot)) - true) / (0.03 * true**power) for shot in (0, 1))
    for values in (first, second):
        assert_standard_normal(values)
    columns = np.column_stack([first[1:], second[1:], first[:-1]])
    assert np.abs(np.corrcoef(columns.T) - np.eye(9)).max() < 4.5 / np.sqrt(N_ROWS)


def test_the_noises_add_up_in_variance() -> None:
    device = make(3, noise=0.03, shot_noise=0.02, noise_floor=0.01)
    controls = np.tile(settings_for(device, 1), (N_ROWS, 1))
    true = device.forward(torch.from_numpy(controls)).numpy()
    expected = np.sqrt((0.03 * true[0]) ** 2 + 0.02**2 * true[0] + 0.01**2)
    np.testing.assert_allclose((device.measure(named(controls)) - true).std(axis=0), expected, rtol=0.05)


def test_darkness_is_measured_with_the_floor_alone() -> None:
    device = make(3)
    controls = settings_for(device, 500)
    controls[:, device.amplitude_index] = 0
    outputs = device.measure(named(controls))
    assert np.isfinite(outputs).all()
    np.testing.assert_allclose(outputs.std(), device.noise_floor, rtol=0.1)


@given(st.lists(st.integers(0, 39), min_size=1, max_size=40, unique=True), st.integers(0, 5), st.booleans())
@settings(max_examples=20)
def test_the_outputs_of_a_row_do_not_depend_on_its_company(rows: list[int], shot: int, share: bool) -> None:
    device = make(**FLAWED)
    controls = settings_for(device, 40)
    batch = split_into(controls, device.amplitude_index) if share else ControlBatch.from_dense(controls)
    batch = batch.named(np.arange(40, dtype=np.uint64), shot)
    np.testing.assert_allclose(
        device.measure(batch.rows(np.array(rows))), device.measure(batch)[rows], rtol=1e-12, atol=1e-13
    )


def test_many_rows_are_computed_in_pieces() -> None:
    device = make()
    controls = settings_for(device, 2 * device.chunk_rows + 5)
    pieces = [
        device.measure(named(controls[start : start + 100], first_key=start)) for start in range(0, len(controls), 100)
    ]
    np.testing.assert_allclose(np.concatenate(pieces), device.measure(named(controls)), rtol=1e-12, atol=1e-13)


def test_without_noise_a_measurement_is_the_forward_pass() -> None:
    device = make(**FLAWED, **SILENT)
    controls = settings_for(device, 7)
    np.testing.assert_array_equal(device.measure(controls), device.forward(torch.from_numpy(controls)).numpy())
