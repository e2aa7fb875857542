"""The circuit is the one that ngspice simulates; without its transistor it is exact; its noise is what it says."""

from __future__ import annotations

import pickle
import re
import shutil
import subprocess
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lsim
from sklearn.base import clone

from skpat import ControlBatch
from skpat.devices import analog_circuit
from skpat.devices.analog_circuit import AnalogCircuit

from .device_checks import assert_standard_normal, named

THERMAL_VOLTAGE = 0.0258649
SILENT = {"noise": 0.0, "gain_jitter": 0.0}
CONSTANTS = {
    name: value
    for name, value in AnalogCircuit().get_params().items()
    if isinstance(value, float) and name not in ("sample_rate", "noise", "gain_jitter")
}


def small_circuit(n_controls: int = 10, n_outputs: int = 5, **parameters) -> AnalogCircuit:
    return AnalogCircuit(n_controls, n_outputs, **({"random_state": 0} | parameters))


def drive_for(circuit: AnalogCircuit, n_rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (n_rows, circuit.n_controls))


def forward(circuit: AnalogCircuit, controls: np.ndarray, **constants: float) -> np.ndarray:
    replaced = {name: torch.tensor(value, dtype=torch.float64) for name, value in constants.items()}
    return circuit.forward(torch.from_numpy(controls), replaced).numpy()


# ---- against ngspice ----

needs_ngspice = pytest.mark.skipif(shutil.which("ngspice") is None, reason="ngspice is not installed")


def ngspice(circuit: AnalogCircuit, row: np.ndarray) -> np.ndarray:
    """The output at the end of every sample."""
    netlist = circuit.netlist(row)
    done = subprocess.run(["ngspice", "-b"], input=netlist, capture_output=True, text=True, timeout=60, check=True)
    number = r"(-?\d\.\d+e[+-]\d+)"
    table = np.array(re.findall(rf"^\d+\s+{number}\s+{number}\s*$", done.stdout, re.MULTILINE), dtype=float)
    hop = 1e-3 / circuit.sample_rate
    np.testing.assert_allclose(table[:, 0], np.arange(circuit.n_controls + 1) * hop, atol=1e-6 * hop)
    return table[1:, 1]


@needs_ngspice
@pytest.mark.parametrize(("seed", "amplitude"), [(0, 1.0), (1, 1.0), (2, 0.5), (3, 0.5)])
def test_ngspice_finds_the_same_voltages(seed: int, amplitude: float) -> None:
    circuit = AnalogCircuit(n_outputs=100)
    controls = amplitude * drive_for(circuit, 1, seed)
    reference = ngspice(circuit, controls[0])
    for n_steps, tolerance in ((circuit.n_steps, 7e-3), (16, 3e-4)):
        found = forward(clone(circuit).set_params(n_steps=n_steps), controls)[0]
        assert np.sqrt(np.mean((found - reference) ** 2)) < tolerance * reference.std()


@needs_ngspice
@pytest.mark.parametrize(
    "parameters",
    [
        {"bias": 0.9, "reverse_gain": 0.5, "base_collector_capacitance": 0.1},  # deep in saturation, fed back
        {"supply": 9.0, "collector_resistance": 0.2, "saturation_current": 0.01, "forward_gain": 250.0},
        {name: value * 1.3 for name, value in CONSTANTS.items()},
    ],
)
def test_ngspice_finds_the_same_voltages_with_other_parts(parameters: dict) -> None:
    circuit = AnalogCircuit(60, 60, n_steps=16, **parameters)
    controls = drive_for(circuit, 1)
    reference = ngspice(circuit, controls[0])
    assert reference.std() > 0.1
    assert np.sqrt(np.mean((forward(circuit, controls)[0] - reference) ** 2)) < 1e-3 * reference.std()


# ---- against Kirchhoff and linear networks ----


def test_without_a_transistor_every_step_is_exact() -> None:
    circuit = small_circuit(40, 40, saturation_current=1e-30, n_steps=1)
    controls = drive_for(circuit, 1)
    # nodal equations in V, mA, us: capacitances times the slopes of (v1, vb, vc, vo), inductances of (i1, i2)
    storage = np.zeros((6, 6))
    storage[:4, :4] = [[10, 0, 0, 0], [0, 0.11, -0.01, 0], [0, -0.01, 1.01, 0], [0, 0, 0, 2.2]]
    storage[4, 4], storage[5, 5] = 11.0, 22.0
    flows = np.array(
        [
            [-0.1, 0.1, 0, 0, 1, 0],
            [0.1, -0.1, 0, 0, 0, 0],
            [0, 0, -1, 0, 0, -1],
            [0, 0, 0, -1 / 22, 0, 1],
            [-1, 0, 0, 0, -0.3, 0],
            [0, 0, 1, -1, 0, 0],
        ]
    )
    enters = np.zeros((6, 2))
    enters[4, 0], enters[2, 1] = 1, 1  # source in volts; supply in mA
    rates, inputs = np.linalg.solve(storage, flows), np.linalg.solve(storage, enters)
    rest = -np.linalg.solve(rates, inputs @ [0.5, 5.0])
    waves = np.column_stack([0.5 + np.concatenate([[0], controls[0]]), np.full(41, 5.0)])
    system = (rates, inputs, np.eye(6), np.zeros((6, 2)))
    _, states, _ = lsim(system, waves, np.arange(41) * 5.0, X0=rest)  # exact for straight lines
    found = circuit.transient(torch.from_numpy(controls))[0].numpy()
    np.testing.assert_allclose(found[:, [1, 2, 3, 5, 0, 4]], states[1:], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("bias", [-1.0, 0.3, 0.7, 1.0, 3.0])
def test_the_operating_point_obeys_kirchhoffs_laws(bias: float) -> None:
    circuit = small_circuit(6, 1, bias=bias)
    states = circuit.transient(torch.zeros((1, 6), dtype=torch.float64))[0].numpy()
    np.testing.assert_allclose(states, states[:1] * np.ones((6, 1)), atol=1e-9)  # it stays there
    i1, v1, vb, vc, i2, vo = states[-1]
    e_be, e_bc = np.exp(vb / THERMAL_VOLTAGE), np.exp((vb - vc) / THERMAL_VOLTAGE)
    i_base = 1e-11 * ((e_be - 1) / 100 + (e_bc - 1) / 2)
    i_collector = 1e-11 * (e_be - e_bc - (e_bc - 1) / 2)
    np.testing.assert_allclose((bias - v1) / 0.3, i1, atol=1e-6)
    np.testing.assert_allclose((v1 - vb) / 10, i1, atol=1e-6)
    np.testing.assert_allclose(i_base, i1, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose((5 - vc) / 1.0, i_collector + i2, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose([vo, vo / 22], [vc, i2], rtol=1e-4, atol=1e-6)


def test_the_output_converges_with_the_square_of_the_step() -> None:
    controls = drive_for(small_circuit(30, 15), 3)
    outputs = [forward(small_circuit(30, 15, n_steps=n), controls) for n in (8, 16, 32, 64)]
    differences = [np.linalg.norm(fine - coarse) for coarse, fine in pairwise(outputs)]
    for coarse, fine in pairwise(differences):
        assert 3.6 < coarse / fine < 4.4


def test_the_transistor_distorts() -> None:
    circuit = AnalogCircuit()
    one, two = drive_for(circuit, 1, seed=1) / 2, drive_for(circuit, 1, seed=2) / 2
    nothing = forward(circuit, 0 * one)
    apart = forward(circuit, one) + forward(circuit, two) - nothing
    assert np.linalg.norm(apart - forward(circuit, one + two)) > 0.3 * np.linalg.norm(apart - nothing)


@given(st.lists(st.sampled_from([-1.0, -0.999, -0.3, 0.0, 0.2, 0.8, 1.0]), min_size=24, max_size=24))
@settings(max_examples=20)
def test_every_legal_drive_has_a_bounded_answer(values: list[float]) -> None:
    circuit = small_circuit(24, 12, n_steps=1)
    controls = np.array([values, np.repeat(values[:6], 4)])
    for precision, tolerance in ((np.float64, 0.0), (np.float32, 2e-3)):
        outputs = circuit.forward(torch.from_numpy(controls.astype(precision))).numpy()
        assert np.abs(outputs).max() < 30
        np.testing.assert_allclose(outputs, forward(circuit, controls), rtol=0, atol=tolerance)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 3))
@settings(max_examples=12)
def test_a_reading_does_not_depend_on_the_drive_after_it(n_controls: int, n_outputs: int, seed: int) -> None:
    n_outputs = min(n_outputs, n_controls)
    circuit = small_circuit(n_controls, n_outputs)
    controls = drive_for(circuit, 1, seed)
    ends = np.arange(1, n_outputs + 1) * n_controls // n_outputs
    assert ends[-1] == n_controls
    outputs = forward(circuit, controls)
    for reading in {0, n_outputs // 2, n_outputs - 1}:
        changed = controls.copy()
        changed[:, ends[reading] :] *= -0.5
        np.testing.assert_array_equal(forward(circuit, changed)[:, : reading + 1], outputs[:, : reading + 1])


def test_a_reading_depends_on_the_last_sample_before_it() -> None:
    circuit = small_circuit(10, 10)
    states = circuit.transient(torch.from_numpy(drive_for(circuit, 1)))
    changed = torch.from_numpy(drive_for(circuit, 1))
    changed[0, 6] += 0.5
    assert (circuit.transient(changed)[0, 6] != states[0, 6]).all()


def test_junction_voltages_that_are_not_found_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analog_circuit, "_MOST_ITERATIONS", 2)
    message = r"'n_steps' of AnalogCircuit must be larger .* not found in 2 iterations\. Use twice as many steps"
    with pytest.raises(ValueError, match=message):
        small_circuit().measure(np.ones((1, 10)))


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_junction_voltages_solve_their_equation_to_the_working_precision(precision: torch.dtype) -> None:
    """From far away, too: a supply is hundreds of thermal voltages, whose exponentials no number holds."""
    feedback = torch.tensor([[-1e-8, 3e-9], [5e-9, -2e-8]], dtype=precision)
    linear = torch.from_numpy(np.random.default_rng(0).uniform(-250, 250, (2, 300))).to(precision)
    v = analog_circuit._Junctions(feedback, "AnalogCircuit").solve(linear, torch.zeros_like(linear))
    missing = linear.double() + feedback.double() @ v.double().exp() - v.double()
    slope = 1 + feedback.double().abs() @ v.double().exp()  # by which an error of a voltage is seen here
    eps = torch.finfo(precision).eps
    assert (missing.abs() / slope).max() < eps**0.8 + 300 * eps  # Newton's last change, squared; and rounding


def test_nan_in_nan_out() -> None:
    controls = drive_for(small_circuit(), 2)
    controls[0, 0] = np.nan
    outputs = forward(small_circuit(), controls)
    assert np.isnan(outputs[0]).all()
    np.testing.assert_allclose(outputs[1:], forward(small_circuit(), controls[1:]), rtol=1e-12)


# ---- differentiation ----


def test_gradient_with_respect_to_the_controls() -> None:
    circuit = small_circuit(7, 4)
    controls = torch.from_numpy(drive_for(circuit, 2)).requires_grad_()
    assert torch.autograd.gradcheck(circuit.forward, (controls,))


def test_gradient_of_all_states_through_saturation() -> None:
    circuit = small_circuit(6, 1, bias=1.0)
    controls = torch.from_numpy(drive_for(circuit, 2)).requires_grad_()
    assert circuit.transient(controls.detach())[..., 3].min() < 0.2
    assert torch.autograd.gradcheck(circuit.transient, (controls,))


@pytest.mark.parametrize("name", CONSTANTS)
def test_gradient_with_respect_to_a_constant(name: str) -> None:
    circuit = small_circuit(6, 3, bias=1.5)  # from saturation and back
    controls = torch.from_numpy(drive_for(circuit, 1))
    value = circuit.get_params()[name]

    def outputs(stretch: torch.Tensor) -> torch.Tensor:  # relative, so that every slope has a size to check
        return circuit.forward(controls, {name: value * stretch})

    stretch = torch.ones((), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.grad(outputs(stretch).sum(), stretch)[0].abs() > 1e-3
    assert torch.autograd.gradcheck(outputs, (stretch,))


@pytest.mark.parametrize("name", CONSTANTS)
def test_a_constant_replaces_the_parameter(name: str) -> None:
    controls = drive_for(small_circuit(bias=0.8), 2)
    value = 0.7 * CONSTANTS[name]
    parameters = {"bias": 0.8} | {name: value}
    replaced = forward(small_circuit(bias=0.8), controls, **{name: value})
    np.testing.assert_allclose(replaced, forward(small_circuit(**parameters), controls), rtol=1e-9)
    assert not np.allclose(replaced, forward(small_circuit(bias=0.8), controls), rtol=1e-6)


def test_an_unknown_constant_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'constants' of AnalogCircuit must be among source_resistance, .*'n_steps'"):
        forward(small_circuit(), np.zeros((1, 10)), n_steps=3.0)


# ---- parameters, precision and kind ----


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_controls": 0}, "'n_controls' of AnalogCircuit must be an int of at least 1. Got 0"),
        ({"n_steps": 1.5}, "'n_steps' of AnalogCircuit must be an int of at least 1. Got 1.5"),
        ({"n_outputs": 11}, r"'n_outputs' .* must be an int from 1 to n_controls \(10\)\. Got 11\. Use a longer drive"),
        ({"sample_rate": 0.0}, "'sample_rate' of AnalogCircuit must be a finite number above 0. Got 0.0"),
        ({"base_emitter_capacitance": 0.0}, "'base_emitter_capacitance' .* must be a finite number above 0. Got 0.0"),
        ({"forward_gain": np.inf}, "'forward_gain' of AnalogCircuit must be a finite number above 0. Got inf"),
        ({"bias": np.nan}, "'bias' of AnalogCircuit must be a finite number. Got nan. Use bias=0.5, for example"),
    ],
)
def test_wrong_parameters_are_refused_when_used(wrong: dict, message: str) -> None:
    circuit = small_circuit(**wrong)
    with pytest.raises(ValueError, match=message):
        circuit.measure(np.zeros((1, 10)))
    with pytest.raises(ValueError, match=message):
        circuit.netlist(np.zeros(10))


def test_a_netlist_is_for_one_row() -> None:
    message = r"'controls' of AnalogCircuit.netlist must be one row, of shape \(10,\). Got shape \(1, 10\)"
    with pytest.raises(ValueError, match=message):
        small_circuit().netlist(np.zeros((1, 10)))


def test_a_batch_is_computed_in_the_precision_of_its_controls() -> None:
    circuit = AnalogCircuit(**SILENT)
    controls = drive_for(circuit, 3)
    narrow, wide = circuit.measure(controls.astype(np.float32)), circuit.measure(controls)
    assert (narrow.dtype, wide.dtype) == (np.float32, np.float64)
    assert small_circuit().measure(drive_for(small_circuit(), 2).astype(np.float32)).dtype == np.float32
    np.testing.assert_allclose(narrow, wide, atol=1e-3)
    assert np.abs(narrow - wide).max() > 0


# ---- bounds and time ----


def test_bounds_and_time() -> None:
    np.testing.assert_array_equal(small_circuit(6, 3).bounds, [[-1, 1]] * 6)
    drive = small_circuit(6, 3).seconds_per_shot - small_circuit(3, 3, n_steps=1).seconds_per_shot
    np.testing.assert_allclose(drive, 15e-6, rtol=1e-9)
    slow = small_circuit(6, 3, sample_rate=100.0).seconds_per_shot
    np.testing.assert_allclose(slow - small_circuit(6, 3).seconds_per_shot, 30e-6, rtol=1e-9)
    np.testing.assert_allclose(AnalogCircuit().seconds_per_shot, 0.835e-3, rtol=1e-3)


@pytest.mark.parametrize("parameters", [{}, {"bias": 0.8}, {"source_resistance": 2.0, "load_resistance": 50.0}])
def test_the_pause_is_as_long_as_the_circuit_needs_to_settle(parameters: dict) -> None:
    circuit = small_circuit(1000, 1, sample_rate=1000.0, n_steps=1, **parameters)
    pause = 1e6 * circuit.seconds_per_shot - 1000  # in samples of 1 us
    click = torch.zeros((2, 1000), dtype=torch.float64)
    click[1, :20] = 1e-3  # too weak to bend anything
    resting, ringing = circuit.transient(click)
    away = (ringing - resting)[500:].numpy()  # one damped oscillation is left, and d(t + 2h) = p d(t + h) - q d(t)
    h = 15
    before = np.column_stack([away[h:-h].ravel(), -away[: -2 * h].ravel()])
    (_, q), missed, *_ = np.linalg.lstsq(before, away[2 * h :].ravel(), rcond=None)
    assert missed < 1e-6 * np.sum(away**2)
    np.testing.assert_allclose(q ** (pause / (2 * h)), 0.01, rtol=1e-3)


def test_rows_that_follow_each_other_after_the_pause_do_not_know_of_each_other() -> None:
    circuit = AnalogCircuit(**SILENT)
    pause = round((circuit.seconds_per_shot - 0.5e-3) * 200e3)
    first, second = drive_for(circuit, 2)
    alone = forward(AnalogCircuit(100, 100, **SILENT), second[None])[0]

    def played(n_between: int) -> np.ndarray:
        row = np.concatenate([first, np.zeros(n_between), second])
        return forward(AnalogCircuit(len(row), len(row), **SILENT), row[None])[0, -100:]

    wrong = [np.linalg.norm(played(n) - alone) / np.linalg.norm(alone - alone.mean()) for n in (0, pause)]
    assert wrong[0] > 0.1
    assert wrong[1] < 0.01


def test_a_circuit_that_oscillates_by_itself_states_no_time() -> None:
    circuit = small_circuit(
        600, 600, bias=0.61, source_resistance=0.049, inductance=20.0, capacitance=0.32, base_resistance=0.37,
        base_emitter_capacitance=0.56, base_collector_capacitance=0.069, collector_resistance=4.2,
        output_inductance=9.0, output_capacitance=54.0, load_resistance=240.0, reverse_gain=41.0,
    )  # fmt: skip
    assert circuit.seconds_per_shot is None
    click = np.zeros((1, 600))
    click[0, 0] = 1e-3
    swing = np.abs(forward(circuit, click) - forward(circuit, 0 * click))[0]
    assert swing[:3].max() < 0.1
    assert swing.max() > 1


def test_a_wrong_parameter_has_no_time() -> None:
    with pytest.raises(ValueError, match=r"'inductance' of AnalogCircuit must be a finite number above 0\. Got 0\.0"):
        _ = small_circuit(inductance=0.0).seconds_per_shot


def test_a_copy_measures_the_same() -> None:
    circuit = small_circuit()
    batch = named(drive_for(circuit, 4))
    expected = circuit.measure(batch)
    for copy in (clone(circuit), pickle.loads(pickle.dumps(circuit))):
        np.testing.assert_array_equal(copy.measure(batch), expected)
    changed = clone(circuit).set_params(inductance=8.0)
    assert (changed.measure(batch) != expected).all()
    np.testing.assert_array_equal(changed.set_params(inductance=11.0).measure(batch), expected)


def test_no_rows_give_no_rows() -> None:
    assert small_circuit().measure(np.empty((0, 10))).shape == (0, 5)


# ---- noise ----


@given(st.lists(st.integers(0, 199), min_size=1, max_size=40, unique=True), st.integers(0, 5))
@settings(max_examples=10)
def test_a_row_does_not_depend_on_its_company(rows: list[int], shot: int) -> None:
    circuit = small_circuit()
    batch = named(drive_for(circuit, 200), shot)
    part = ControlBatch.from_dense(np.asarray(batch)[rows]).named(batch.row_keys[rows], shot)
    np.testing.assert_allclose(circuit.measure(part), circuit.measure(batch)[rows], rtol=1e-12)


def test_chunks_do_not_show() -> None:
    circuit = small_circuit()
    batch = named(drive_for(circuit, 300))
    whole = circuit.measure(batch)
    circuit.chunk_rows = 7
    np.testing.assert_allclose(circuit.measure(batch), whole, rtol=1e-12)


def test_without_noise_a_measurement_is_the_forward_pass_exactly() -> None:
    circuit = small_circuit(**SILENT)
    controls = drive_for(circuit, 7)
    assert circuit.n_noise_values == 0
    np.testing.assert_array_equal(circuit.measure(named(controls)), forward(circuit, controls))


def test_noise_of_the_digitiser() -> None:
    circuit = small_circuit(noise=0.03, gain_jitter=0.0)
    controls = np.tile(drive_for(circuit, 1), (2000, 1))
    first, second = ((circuit.measure(named(controls, shot)) - forward(circuit, controls)) / 0.03 for shot in (0, 1))
    assert_standard_normal(first)
    together = np.corrcoef(np.concatenate([first, second], axis=1).T) - np.eye(10)
    assert np.abs(together).max() < 4 / np.sqrt(2000)


def test_gain_jitter_scales_the_drive_and_not_the_bias() -> None:
    parts = {"saturation_current": 1e-30, "base_collector_capacitance": 1.0}  # no transistor: a gain shows as it is
    circuit = small_circuit(noise=0.0, gain_jitter=0.02, **parts)
    controls = np.tile(drive_for(circuit, 1), (2000, 1))
    resting, still = forward(circuit, 0 * controls), forward(circuit, controls)
    gain = (circuit.measure(named(controls)) - resting) / (still - resting)
    np.testing.assert_allclose(gain, gain[:, :1] * np.ones(5), rtol=1e-5)
    assert_standard_normal((gain[:, 0] - 1) / 0.02)


def test_the_gain_and_the_readings_have_noise_of_their_own() -> None:
    parts = {"saturation_current": 1e-30, "base_collector_capacitance": 1.0}  # no transistor: a gain shows as it is
    jittery, noisy = (
        small_circuit(**parts, noise=noise, gain_jitter=jitter) for noise, jitter in ((0, 0.02), (0.03, 0))
    )
    controls = np.tile(drive_for(noisy, 1), (2000, 1))
    gain = jittery.measure(named(controls))[:, 0]
    reading = noisy.measure(named(controls))
    assert np.abs(np.corrcoef(gain, reading.T)[0, 1:]).max() < 4 / np.sqrt(2000)
