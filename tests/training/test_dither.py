"""Displacements: legal, a function of the row's name, and of the size that was asked for."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from skpat import ControlBatch, ControlSplit, Device, PhysicalNetworkClassifier, as_device
from skpat.devices import CoupledOscillators, Noisy, SimulatedDevice
from skpat.devices.specification import check_device_specification
from skpat.exceptions import ControlBoundsError, DeviceContractError
from skpat.lab import EpicsDevice, QcodesDevice, VisaDevice, adopt
from skpat.network.forward import Network
from skpat.training import Apparatus, PhysicsAware
from skpat.training.dither import TARGET_SHARE, Dither, measured_size
from skpat.training.gradient import Measurement, half_cosine
from skpat.training.physics_aware import trusted
from skpat.twins import NeuralTwin, PhysicsTwin

N = 6


def network(bounds: np.ndarray | None = None, steps: object = None, **split: object) -> Network:
    bounds = np.array([[0.0, 1.0]] * N) if bounds is None else bounds
    return Network(
        split=ControlSplit(**split).resolve(len(bounds)),
        bounds=bounds,
        control_steps=steps,
        n_features=2,
        n_outputs=3,
        n_targets=2,
    )


@given(
    low=st.floats(-100, 100), width=st.floats(1e-3, 100), size=st.floats(0, 0.5), seed=st.integers(0, 2**31 - 1),
    dtype=st.sampled_from([np.float32, np.float64]), steps=st.sampled_from([None, 0.01]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_what_is_displaced_stays_legal(low: float, width: float, size: float, seed: int, dtype: type, steps: object):
    made = network(np.array([[low, low + width]] * N), None if steps is None else steps * width)
    uniform = np.random.default_rng(seed).uniform(size=(20, N)).astype(dtype)
    controls = made.uniform_on_device(uniform)
    moved = Dither(made, object(), seed).displaced(controls, np.arange(20, dtype=np.uint64), 1, size)
    tensor = torch.from_numpy(controls).requires_grad_()
    of_tensor = Dither(made, object(), seed).displaced(tensor, np.arange(20, dtype=np.uint64), 1, size)
    assert torch.equal(torch.autograd.grad(of_tensor.sum(), tensor)[0], torch.ones_like(tensor))
    of_tensor = of_tensor.detach().numpy()
    assert (of_tensor.astype(np.float64) >= low).all()
    assert (of_tensor.astype(np.float64) <= low + width).all()
    if steps is not None:
        np.testing.assert_array_equal(of_tensor, moved)
    assert moved.dtype == dtype
    assert (moved.astype(np.float64) >= low).all()
    assert (moved.astype(np.float64) <= low + width).all()
    if steps is not None:
        whole = (moved.astype(np.float64) - low) / (steps * width)
        np.testing.assert_allclose(
            whole, whole.round(), atol=1e-3 + 8 * np.finfo(dtype).eps * (abs(low) + width) / (steps * width)
        )


def test_rows_of_one_name_move_alike_in_any_company() -> None:
    dither = Dither(network(), object(), 3)
    controls, keys = np.full((8, N), 0.5), np.array([5, 6, 7, 5, 8, 9, 10, 11], dtype=np.uint64)
    moved = dither.displaced(controls, keys, 2, 0.05)
    np.testing.assert_array_equal(moved[0], moved[3])
    np.testing.assert_array_equal(moved[4:5], dither.displaced(controls[4:5], keys[4:5], 2, 0.05))
    assert not np.array_equal(moved, dither.displaced(controls, keys, 3, 0.05))
    assert not np.array_equal(moved, Dither(network(), object(), 4).displaced(controls, keys, 2, 0.05))


def test_the_size_is_the_standard_deviation_in_parts_of_the_range() -> None:
    made = network(np.array([[-10.0, 30.0]] * N))
    moved = Dither(made, object(), 0).displaced(np.full((4000, N), 10.0), np.arange(4000, dtype=np.uint64), 0, 0.02)
    np.testing.assert_allclose(moved.std(axis=0), 0.02 * 40, rtol=0.05)


def test_fixed_and_slow_channels_and_those_with_a_largest_change() -> None:
    class Slow:
        slow_controls = [1, 3]
        max_change = np.array([0.0, np.inf, 0.1, np.inf, np.inf, np.inf])

    made = network(fixed={5: 0.25})
    controls = np.full((50, N), 0.5)
    controls[:, 5] = 0.25
    moved = Dither(made, Slow(), 0).displaced(controls, np.arange(50, dtype=np.uint64), 1, 0.05)
    np.testing.assert_array_equal(moved[:, [0, 2, 5]], controls[:, [0, 2, 5]])
    assert (np.ptp(moved[:, [1, 3]], axis=0) == 0).all()
    assert (moved[0, [1, 3]] != 0.5).all()
    assert (np.ptp(moved[:, 4]) > 0).all()


@pytest.mark.parametrize(("least", "expected"), [(0.006, None), (1e-6, 0.002)])
def test_where_a_displacement_is_vetoed_a_smaller_one_is_measured(least: float, expected: float | None) -> None:
    def measure(batch: ControlBatch) -> np.ndarray:
        return np.asarray(batch)[:, :3] ** 2

    class Careful(Device):
        n_controls, n_outputs, bounds = N, 3, (0.0, 1.0)

        def check_controls(self, batch: ControlBatch) -> None:
            if np.abs(np.asarray(batch) - controls).max() > 5 * least:
                raise ControlBoundsError("Too far.")

    controls = np.random.default_rng(0).uniform(0.3, 0.7, size=(40, N))
    keys = np.arange(40, dtype=np.uint64)
    size, free = (measured_size(Dither(network(), one, 0), controls, keys, measure) for one in (Careful(), object()))
    assert size == expected if expected else 0.5 * free < size < 2 * free


class Products(SimulatedDevice):
    """The equations of the heaters below."""

    n_controls, n_outputs, bounds = N, 3, (0.0, 1.0)

    def forward(self, controls: Any, constants: Any = None) -> Any:
        return controls[:, :3] * controls[:, 3:]


@pytest.mark.filterwarnings("ignore:The 'slow_controls' of")  # the first carries data
@pytest.mark.parametrize("wrap", [lambda device: device, Noisy], ids=["plain", "wrapped"])
@pytest.mark.parametrize(
    "gradient", ["physics_aware", "forward_forward", "in_silico", "asymmetric", PhysicsAware(refine=False)], ids=str
)
@pytest.mark.parametrize("states_equations", [False, True])
def test_slow_weights_are_shared_in_calibration_and_training(
    gradient: Any, wrap: Callable[[Device], Device], states_equations: bool
) -> None:
    seen, moved = [], []

    class Heaters(Device):
        n_controls, n_outputs, bounds = N, 3, (0.0, 1.0)
        slow_controls = (0, 3, 4)  # the first carries data: it changes with every row
        equations = (Products(), ()) if states_equations else None

        def set_shared(self, batch: ControlBatch) -> None:
            seen.append((set(batch.shared_index.tolist()), tuple(batch.shared)))

        def measure(self, batch: ControlBatch) -> np.ndarray:
            controls = np.asarray(batch)
            assert {3, 4} <= seen[-1][0]
            moved.append(controls[0, 3])
            return controls[:, :3] * controls[:, 3:]

    X = np.random.default_rng(0).uniform(size=(60, 3))
    network = PhysicalNetworkClassifier(
        wrap(Heaters()), control_split=ControlSplit([0, 1, 2]), gradient=gradient, max_iter=2, random_state=0
    )
    network.fit(X, X[:, 0] > 0.5)
    assert len(set(moved)) > 2 * (gradient != "asymmetric")  # by the same in all rows
    assert sum(network.shots_.values()) > 60 * (gradient != "in_silico")


def test_slow_channels_that_carry_data_are_told_before_anything_is_sent() -> None:
    device = as_device(lambda v: v[:, :3], n_controls=6, n_outputs=3, bounds=(0, 1), slow_controls=[1, 2, 5])
    X = np.random.default_rng(0).uniform(size=(20, 3))
    with pytest.warns(
        UserWarning, match=r"Got data on 2 of them \(channel 1, \.\.\.\): .*Use control_split=ControlSplit\("
    ):
        PhysicalNetworkClassifier(device, control_split=ControlSplit([0, 1, 2])).plan(X)
    with pytest.warns(UserWarning, match=r"Got data on 1 of them \(channel 5\): "):
        PhysicalNetworkClassifier(device, control_split=ControlSplit([0, 3, 5])).plan(X)
    PhysicalNetworkClassifier(device, control_split=ControlSplit([0, 3, 4])).plan(X)  # no warning


SIZES = {"n_controls": N, "n_outputs": 3, "bounds": (0.0, 1.0), "slow_controls": [3, 4]}
INSTRUMENTS = {
    "visa": lambda: VisaDevice("TCPIP::127.0.0.1::5025::SOCKET", **SIZES),
    "epics": lambda: EpicsDevice("LAB:", **SIZES),
    "qcodes": lambda: QcodesDevice(
        "nowhere:Nothing",
        controls=[f"in{i}" for i in range(N)],
        outputs=["a", "b", "c"],
        bounds=(0.0, 1.0),
        slow_controls=[3, 4],
    ),
    "adopted": lambda: adopt(object(), lambda handle, controls: controls[:, :3], **SIZES),
}


@pytest.mark.parametrize("make", INSTRUMENTS.values(), ids=INSTRUMENTS.keys())
def test_slow_weights_of_an_instrument(make: Callable[[], Device]) -> None:
    device = clone(make())
    check_device_specification(device)
    moved = Dither(network(), device, 0).displaced(np.full((50, N), 0.5), np.arange(50, dtype=np.uint64), 1, 0.05)
    np.testing.assert_array_equal(np.ptp(moved, axis=0) == 0, np.isin(np.arange(N), [3, 4]))
    with pytest.raises(DeviceContractError, match="'slow_controls' of"):
        check_device_specification(device.set_params(slow_controls=[N]))


def test_a_vetoed_displacement_is_not_sent() -> None:
    class Careful(Device):
        def check_controls(self, batch: object) -> None:
            if np.asarray(batch).sum(axis=1).max() > N / 2:
                raise ControlBoundsError("too much in all")

    controls = np.full((20, N), 0.5)
    moved = Dither(network(), Careful(), 0).displaced(controls, np.arange(20, dtype=np.uint64), 1, 0.05)
    np.testing.assert_array_equal(moved, controls)


def test_gradients_pass_as_if_nothing_had_happened() -> None:
    controls = torch.full((5, N), 0.5, dtype=torch.float64, requires_grad=True)
    moved = Dither(network(), object(), 0).displaced(controls, np.arange(5, dtype=np.uint64), 1, 0.1)
    moved.sum().backward()
    np.testing.assert_array_equal(controls.grad, np.ones((5, N)))
    assert not torch.equal(moved, controls)


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("gain", [1.0, 3.0])
def test_the_measured_size_adds_its_share_of_variance(gain: float, noise: float) -> None:
    def answer(controls: np.ndarray) -> np.ndarray:
        data, weights = controls[:, :2], controls[:, 2:]
        return np.column_stack([data.sum(1) + gain * weights.sum(1), data[:, 0] - gain * weights[:, 0]])

    n_rows = 20_000  # the noise has as much variance as the data
    rng = np.random.default_rng(0)
    controls = np.full((n_rows, N), 0.5)
    controls[:, :2] = rng.uniform(0.35, 0.65, (n_rows, 2))
    keys = np.arange(n_rows, dtype=np.uint64)
    dither = Dither(network(), object(), 1)
    noisy = as_device(
        lambda c: answer(c) + noise * rng.standard_normal((len(c), 2)), n_controls=N, n_outputs=2, bounds=(0, 1)
    )
    size = measured_size(dither, controls, keys, noisy.measure)
    assert 0.002 < size < 0.1  # not at an end
    added = answer(dither.displaced(controls, keys, 7, size)) - answer(controls)
    share = np.square(added).mean(0).sum() / answer(controls).var(0).sum()
    assert share == pytest.approx(TARGET_SHARE, rel=0.25 if noise else 0.05)


@pytest.mark.parametrize(("gain", "expected"), [(0.0, 0.1), (1e3, 0.002)])
def test_no_measured_size_leaves_its_range(gain: float, expected: float) -> None:
    controls, keys = np.full((40, N), 0.5), np.arange(40, dtype=np.uint64)
    controls[:, 0] = np.linspace(0.2, 0.8, 40)
    dither = Dither(network(fixed={0: 0.5}), object(), 1)  # the data's channel stays
    size = measured_size(dither, controls, keys, lambda b: np.asarray(b)[:, :1] + gain * np.asarray(b)[:, 1:2])
    assert size == expected


# ---- what the training makes of it ----


def test_the_gradient_through_an_output_is_shrunk_by_its_trust() -> None:
    controls = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
    outputs = trusted(lambda c: 2 * c, np.array([1.0, 0.25]))(controls)
    outputs.sum().backward()
    np.testing.assert_array_equal(controls.grad, [[2.0, 0.5]] * 3)


@pytest.mark.parametrize("explores", [True, False])
def test_what_goes_back_to_the_controls_is_shrunk_where_the_twin_explores(explores: bool) -> None:
    twin = SimpleNamespace(module_=lambda c: 2 * c, trust_=np.array([1.0, 0.25]), explores=explores)
    run = PhysicsAware().run(Apparatus(lambda batch, layer, unit: np.full((3, 2), 7.0), None, twin))
    controls = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
    outputs = run(ControlBatch.from_dense(controls), 0, 0)
    np.testing.assert_array_equal(outputs.detach(), np.full((3, 2), 7.0))  # the device's
    outputs.sum().backward()
    np.testing.assert_array_equal(controls.grad, [[2.0, 0.5 if explores else 2.0]] * 3)


@pytest.mark.parametrize("displaced", [True, False])
def test_what_the_twin_learns_from_a_batch_has_no_order_of_rows(displaced: bool) -> None:
    learned: list[tuple[np.ndarray, ...]] = []

    class Listens:
        module_ = staticmethod(lambda controls: controls)
        explores = False

        def partial_fit(self, *shots: np.ndarray) -> None:
            learned.append(shots)

    rng = np.random.default_rng(0)
    controls, outputs, weight = rng.uniform(size=(8, N)), rng.uniform(size=(8, 3)), rng.uniform(size=8)
    keys = rng.integers(0, 2**63, 8).astype(np.uint64)
    for order in (np.argsort(keys), rng.permutation(8)):
        method = PhysicsAware(dither=0.02 if displaced else "auto")
        sent = ControlBatch.from_dense(controls[order])
        method._sent = [(sent, outputs[order])] * 2
        made = [Measurement(layer, 0, sent, outputs[order], weight[order]) for layer in range(2)]
        method.after_batch(Apparatus(lambda *call: None, None, Listens(), row_keys=keys[order]), made)
    for first, second in zip(*learned, strict=True):
        np.testing.assert_array_equal(first, second)
    for part, whole in zip(learned[0], (controls, outputs, weight), strict=True):
        np.testing.assert_array_equal(part, np.concatenate([whole[np.argsort(keys)]] * 2))


def test_steps_shrink_while_the_twin_predicts_worse_than_it_did() -> None:
    method, factors = PhysicsAware(), []
    for r2 in (0.5, 0.9, 0.5, 0.95):
        method._watch(SimpleNamespace(trust_=np.array([r2, r2])))
        factors.append(method.step_factor)
    np.testing.assert_allclose(factors, [1.0, 1.0, 0.2 / 0.6, 1.0])


def test_a_step_is_as_long_as_its_factor_says() -> None:
    class Cautious(PhysicsAware):
        step_factor = 1e-6

    X = np.random.default_rng(0).uniform(size=(60, 3))
    device = as_device(lambda c: c[:, :3] * c[:, 3:], n_controls=N, n_outputs=3, bounds=(0, 1))
    moved = []
    for method in (PhysicsAware(), Cautious()):
        first, last = (
            PhysicalNetworkClassifier(device, gradient=method, max_iter=n, random_state=0).fit(X, X[:, 0] > 0.5)
            for n in (1, 5)
        )
        moved.append(np.abs(first.weights_["layers.0.theta"] - last.weights_["layers.0.theta"]).max())
    assert moved[1] < 1e-4 < 1e-2 < moved[0]


def test_a_step_that_is_shortened_leaves_the_next_ones_as_long_as_they_were() -> None:
    class Cautious(PhysicsAware):
        step_factor = 0.1

    X = np.random.default_rng(0).uniform(size=(60, 3))
    device = as_device(lambda c: c[:, :3] * c[:, 3:], n_controls=N, n_outputs=3, bounds=(0, 1))
    network = PhysicalNetworkClassifier(device, gradient=Cautious(), batch_size=10, max_iter=1, random_state=0)
    network.partial_fit(X, X[:, 0] > 0.5)
    assert network._optimizer_state["param_groups"][0]["lr"] == network.learning_rate_init


def test_displacements_and_the_twins_steps_fade_and_the_calibration_goes_twice_as_far() -> None:
    calls, paces = [], []

    class Paced(NeuralTwin):
        def partial_fit(self, *shots: Any, pace: float = 1.0) -> NeuralTwin:
            paces.append(pace)
            return super().partial_fit(*shots, pace=pace)

    def measure(controls: np.ndarray) -> np.ndarray:
        calls.append(controls[:, 3:].std(axis=0).mean())  # of the weights, which have one value but for displacements
        return controls[:, :3] * controls[:, 3:]

    X = np.random.default_rng(0).uniform(size=(300, 3))
    device = as_device(measure, n_controls=N, n_outputs=3, bounds=(0, 1))
    PhysicalNetworkClassifier(
        device,
        Paced((8,)),
        control_split=ControlSplit([0, 1, 2]),
        gradient=PhysicsAware(dither=0.02, n_anchored_steps=0),
        n_calibration_shots=200,
        batch_size=300,
        max_iter=10,
        random_state=0,
    ).fit(X, X[:, 0] > 0.5)
    calibration, training = calls[1], calls[-10:]
    expected = [half_cosine(epoch / 10) for epoch in range(10)]
    np.testing.assert_allclose(paces, expected)
    np.testing.assert_allclose(np.divide(training, 0.02), expected, rtol=0.15, atol=0.01)
    assert calibration == pytest.approx(0.04, rel=0.15)


class Known(SimulatedDevice):
    """Equations with one constant."""

    n_controls, n_outputs, bounds = N, 3, (0.0, 1.0)

    def __init__(self, gain: float = 1.0, random_state: Any = None):
        self.gain = gain
        self.random_state = random_state

    def forward(self, controls: Any, constants: Any = None) -> Any:
        gain = self.gain if constants is None else constants["gain"]
        return gain * controls[:, :3] * controls[:, 3:]


@pytest.mark.parametrize("dither", ["auto", 0.0, 0.02])
@pytest.mark.parametrize(
    ("model", "constant", "split"),
    [
        (Known(), "gain", ControlSplit([0, 1, 2])),
        (CoupledOscillators(6, 3), "nonlinearity_error", ControlSplit(CoupledOscillators(6, 3).amplitude_index[:3])),
    ],
    ids=["all controls of a row", "in parts"],
)
def test_a_size_that_is_given_displaces_for_equations_too(
    model: Any, constant: str, split: ControlSplit, dither: Any
) -> None:
    sent, learned = [], []

    class Watched(type(model)):
        def measure(self, batch: ControlBatch) -> np.ndarray:
            sent.append(np.asarray(batch))
            return super().measure(batch)

    class Watching(PhysicsTwin):
        def partial_fit(self, controls: Any, outputs: Any, sample_weight: Any = None) -> PhysicsTwin:
            learned.append(np.asarray(controls))
            return super().partial_fit(controls, outputs, sample_weight)

    X = np.random.default_rng(0).uniform(size=(300, 3))
    network = PhysicalNetworkClassifier(
        Watched(**model.get_params()), Watching(model, [constant]), control_split=split, batch_size=300, max_iter=3,
        gradient=PhysicsAware(dither=dither, pretrain=False), n_calibration_shots=50, random_state=0,
    ).fit(X, X[:, 0] > 0.5)  # fmt: skip
    whole = [controls for controls in sent if len(controls) == 300]
    assert len(whole) == len(learned) == 3
    for number, (asked, told) in enumerate(zip(whole, learned, strict=True)):
        np.testing.assert_array_equal(np.unique(asked, axis=0), np.unique(told, axis=0))  # what was sent is learned
        low, high = network._network.bounds.T
        assert (asked >= low).all()
        assert (asked <= high).all()
        spread = (asked.std(axis=0) / (high - low))[network._network.split.weight_index]
        expected = 0.02 * half_cosine(number / 3) if dither == 0.02 else 0.0
        np.testing.assert_allclose(np.median(spread), expected, rtol=0.1, atol=1e-12)
