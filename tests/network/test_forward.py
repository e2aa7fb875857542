"""One forward pass for numpy and torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from skpat import ControlSplit
from skpat.controls import inner_bounds
from skpat.network.encoders import DirectEncoder, LinearEncoder, route, weighted_mean_and_scale
from skpat.network.forward import Network, forward, inner_interval, is_trainable
from skpat.network.layers import OutputStatistics, squash
from skpat.network.readouts import BinsReadout

BOUNDS = np.column_stack([np.linspace(-2, -1, 10), np.linspace(0.5, 3, 10)])


def make(n_features: int = 4, **shape: Any) -> Network:
    split = ControlSplit(fixed={3: 0.1}, input_fraction=0.6).resolve(10)
    return Network(split=split, bounds=BOUNDS, n_features=n_features, n_outputs=6, n_targets=3, **shape)


def toy(batch: Any, layer: int, unit: int) -> Any:
    """A device of correctly rounded operations only, so that numpy and torch must agree to the last bit."""
    c = batch.dense()
    return c[:, :6] * c[:, 4:] + (layer - unit) * c[:, 2:8]


def start(network: Network, n_features: int = 4) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.RandomState(0)
    X = rng.standard_normal((20, n_features))
    return X, network.initial_weights(X, np.ones(20), rng)


def as_tensors(weights: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in weights.items()}


SHAPES = [
    {"encoder": encoder, "readout": readout, "n_layers": layers, "n_units": units, "skip": skip}
    for encoder, readout in (("linear", "linear"), ("direct", "bins"), ("direct", "linear"))
    for layers, units, skip in ((1, 1, None), (3, 2, "input"), (2, 3, "previous"))
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_numpy_and_torch_agree(shape: dict[str, Any]) -> None:
    network = make(**shape)
    X, weights = start(network)
    sent: dict[str, list[np.ndarray]] = {"numpy": [], "torch": []}

    def run(kind: str) -> Any:
        def recorded(batch: Any, layer: int, unit: int) -> Any:
            sent[kind].append(np.array(batch))
            return toy(batch, layer, unit)

        return recorded

    a = forward(network, weights, X, run("numpy"))
    b = forward(network, as_tensors(weights), torch.from_numpy(X), run("torch")).numpy()
    # torch's vectorised square root is not correctly rounded, and a matrix product adds in the order its library likes:
    # these two may differ in their last bit, and nothing else does
    for x, y in zip(sent["numpy"], sent["torch"], strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


def test_numpy_and_torch_agree_to_the_last_bit_but_for_root_and_product(monkeypatch: pytest.MonkeyPatch) -> None:
    rounded = {"sqrt": lambda x: torch.from_numpy(np.sqrt(x.numpy())), "clip": torch.clip, "concatenate": torch.cat}
    monkeypatch.setattr("skpat.network.layers.array_module", lambda x: np if isinstance(x, np.ndarray) else MockTorch)
    for name, function in rounded.items():
        monkeypatch.setattr(MockTorch, name, staticmethod(function), raising=False)
    network = make(encoder="direct", n_layers=3, n_units=2, skip="input")
    X, weights = start(network)
    sent: list[list[np.ndarray]] = [[], []]
    for kind, (w, x) in enumerate(((weights, X), (as_tensors(weights), torch.from_numpy(X)))):
        forward(
            network, w, x, lambda batch, layer, unit, k=kind: (sent[k].append(np.array(batch)), toy(batch, 0, 0))[1]
        )
    for a, b in zip(*sent, strict=True):
        np.testing.assert_array_equal(a, b)


class MockTorch:
    """torch with a correctly rounded square root."""


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_trainable_weight_gets_a_gradient(shape: dict[str, Any]) -> None:
    network = make(**shape)
    X, weights = start(network)
    tensors = {k: v.requires_grad_(is_trainable(k)) for k, v in as_tensors(weights).items()}
    target = torch.from_numpy(np.random.RandomState(1).standard_normal((20, 3)))
    (forward(network, tensors, torch.from_numpy(X), toy) * target).sum().backward()
    for name, tensor in tensors.items():
        assert (tensor.grad is not None and bool(tensor.grad.abs().sum() > 0)) == is_trainable(name), name


def test_calls_the_device_once_per_layer_and_unit_with_legal_fixed_and_shared_controls() -> None:
    network = make(n_layers=2, n_units=3)
    X, weights = start(network)
    calls = []

    def run(batch: Any, layer: int, unit: int) -> Any:
        calls.append((layer, unit))
        controls = np.asarray(batch)
        assert ((controls >= BOUNDS[:, 0]) & (controls <= BOUNDS[:, 1])).all()
        assert (controls[:, 3] == 0.1).all()
        assert batch.varying.shape == (20, 5)
        assert batch.shared.shape == (5,)
        return toy(batch, layer, unit)

    forward(network, weights, X, run)
    assert calls == [(layer, unit) for layer in range(2) for unit in range(3)]


@pytest.mark.parametrize("skip", ["input", "previous"])
def test_skip_reaches_later_layers(skip: str) -> None:
    network = make(n_layers=3, skip=skip)
    X, weights = start(network)
    sent: dict[int, np.ndarray] = {}

    def dead(batch: Any, layer: int, unit: int) -> Any:
        sent[layer] = batch.varying
        return np.zeros((len(X), 6))

    forward(network, weights, X, dead)
    assert np.ptp(sent[2], axis=0).min() > 0  # the data arrive past a device that answers nothing


@given(st.lists(st.floats(allow_nan=False, width=32), min_size=1, max_size=30), st.booleans())
def test_any_drive_gives_a_legal_control(drive: list[float], single: bool) -> None:
    z = np.array(drive, dtype=np.float32 if single else np.float64)
    network = make()
    assert np.isfinite(squash(z)).all()
    assert (np.diff(squash(np.sort(z))) >= 0).all()
    for channel in (0, 9):
        for value in (z, torch.from_numpy(z)):
            controls = np.asarray(network.to_device(value, np.array([channel])), dtype=np.float64)
            assert ((controls >= BOUNDS[channel, 0]) & (controls <= BOUNDS[channel, 1])).all()


@given(
    st.tuples(*[st.floats(allow_nan=False, allow_infinity=False)] * 2).filter(lambda pair: pair[0] != pair[1]),
    st.sampled_from([np.float32, np.float64]),
)
@example(pair=(1.7976931348623153e308, -4.99e292), dtype=np.float64)
def test_the_ends_of_any_bounds_are_never_passed(pair: tuple[float, float], dtype: Any) -> None:
    bounds = np.sort(np.array([pair]), axis=1).T
    assume(dtype is np.float64 or (np.abs(bounds) < 1e38).all())
    low, high = inner_bounds(bounds, np.dtype(dtype))
    assume((low <= high).all())
    drives = np.array([[-np.inf], [-1e9], [-1.0], [0.0], [1.0], [1e9], [np.inf]], dtype=dtype)
    for kind in (np.asarray, torch.from_numpy):
        middle, half = map(kind, inner_interval(bounds, np.dtype(dtype)))
        controls = np.asarray(squash(kind(drives), middle, half), dtype=np.float64)
        assert ((controls >= bounds[0]) & (controls <= bounds[1])).all()
        ends = (
            controls[[0, -1], 0] / 2,
            np.array([low[0], high[0]], dtype=np.float64) / 2,
        )  # halves: widths may overflow
        reached, half_width = (end[1] - end[0] for end in ends)
        if half_width > 1e-3 * np.abs(bounds).max() and half_width > 1e-30:
            assert reached > 0.999 * half_width


def test_squash_has_slope_everywhere_it_matters() -> None:
    z = torch.linspace(-50, 50, 101, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(squash(z).sum(), z)
    assert bool((slope > 1e-6).all())


@given(st.integers(1, 40), st.integers(1, 40))
def test_route_uses_every_source_that_fits_equally_often(n_slots: int, n_sources: int) -> None:
    counts = np.bincount(route(n_slots, n_sources), minlength=n_sources)
    assert np.ptp(counts) <= 1
    assert counts.sum() == n_slots


def test_direct_encoder_trains_nothing_and_fills_every_channel() -> None:
    encoder = DirectEncoder(3, 7)
    X = np.array([[0.0, 5.0, 1.0], [10.0, 5.0, 2.0], [5.0, 5.0, 3.0]])
    weights = encoder.initial_weights(X, np.ones(3), np.random.RandomState(0))
    assert not any(is_trainable(name) for name in weights)
    drives = encoder.encode(weights, X)
    np.testing.assert_allclose(drives[:, 0], [-1, 1, 0])
    np.testing.assert_allclose(drives[:, 1], 0)  # a constant feature
    np.testing.assert_array_equal(drives[:, 3:6], drives[:, :3])


def test_direct_encoder_refuses_more_features_than_channels() -> None:
    with pytest.raises(ValueError, match=r"at least one input channel for each of the 8 features. Got 7"):
        DirectEncoder(8, 7)


def test_linear_encoder_standardises_by_weighted_statistics() -> None:
    X = np.array([[100.0], [101.0], [103.0]])
    weight = np.array([1.0, 2.0, 1.0])
    mean, scale = weighted_mean_and_scale(X, weight)
    repeated = np.array([[100.0], [101.0], [101.0], [103.0]])
    np.testing.assert_allclose([mean[0], scale[0]], [repeated.mean(), repeated.std()])
    weights = LinearEncoder(1, 5).initial_weights(X, weight, np.random.RandomState(0))
    np.testing.assert_allclose(LinearEncoder(1, 5).encode(weights, np.array([[mean[0]]])), 0)


@given(st.integers(-900, 900))
def test_mean_and_scale_follow_the_unit_of_a_feature(exponent: int) -> None:
    X, weight = np.array([[3.0, 7.0], [-1.0, 7.0], [0.5, 7.0]]), np.array([1.0, 2.0, 1.0])
    mean, scale = weighted_mean_and_scale(X, weight)
    mean_in_unit, scale_in_unit = weighted_mean_and_scale(X * 2.0**exponent, weight)
    np.testing.assert_array_equal(mean_in_unit, mean * 2.0**exponent)
    np.testing.assert_array_equal(scale_in_unit, [scale[0] * 2.0**exponent, 0.0])  # 0: of a constant


@given(st.integers(1, 400), st.floats(1e-3, 1e3), st.integers(0, 2**32 - 1))
def test_what_rounding_makes_of_a_constant_is_no_feature(n_rows: int, level: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    constant = np.full(n_rows, level)
    rounded = np.nextafter(constant, rng.choice([-np.inf, np.inf], n_rows))
    _, scale = weighted_mean_and_scale(np.column_stack([constant, rounded]), rng.uniform(0.1, 3, n_rows))
    np.testing.assert_array_equal(scale, 0.0)
    varying = level * (
        1 + 1e-13 * rng.choice([-1, 1], 400)
    )  # however many rows there are, and however little it varies
    assert weighted_mean_and_scale(varying[:, None], np.ones(400))[1] == pytest.approx(varying.std(), rel=1e-2)


def test_bins_readout_is_a_mean_of_disjoint_groups() -> None:
    readout = BinsReadout(10, 3)
    weights = {"readout.gain": np.ones(1), "readout.intercept": np.zeros(3)}
    one_hot = readout.read(weights, np.eye(10))
    assert ((one_hot > 0).sum(axis=1) == 1).all()
    np.testing.assert_allclose(readout.read(weights, np.ones((1, 10))), 1)


def test_bins_readout_refuses_more_classes_than_outputs() -> None:
    with pytest.raises(ValueError, match=r"at least one output for each of the 11 classes"):
        BinsReadout(10, 11)


def test_statistics_weigh_rows_and_start_with_the_first_batch() -> None:
    rng = np.random.RandomState(0)
    outputs, weight = rng.standard_normal((9, 4)) * [1, 2, 3, 0], rng.randint(1, 4, 9)
    weighted, repeated = OutputStatistics(4), OutputStatistics(4)
    for _ in range(2):
        weighted.update(outputs, weight.astype(float), 0.1)
        repeated.update(np.repeat(outputs, weight, axis=0), np.ones(weight.sum()), 0.1)
    np.testing.assert_allclose(weighted.mean, repeated.mean, atol=1e-14)
    np.testing.assert_allclose(weighted.variance, repeated.variance)
    np.testing.assert_allclose(weighted.mean, np.average(outputs, axis=0, weights=weight), atol=1e-14)
    assert (weighted.scale > 0).all()


@given(st.floats(0.01, 1))
def test_statistics_converge_to_those_of_a_steady_device(momentum: float) -> None:
    outputs = np.random.RandomState(3).standard_normal((50, 2)) + 5
    statistics = OutputStatistics(2)
    statistics.update(outputs * 3 - 40, np.ones(50), 1.0)
    for _ in range(int(30 / momentum)):
        statistics.update(outputs, np.ones(50), momentum)
    np.testing.assert_allclose(statistics.mean, outputs.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(statistics.variance, outputs.var(axis=0), rtol=1e-6)


def test_the_floor_of_a_scale_is_a_part_of_the_mean_variance() -> None:
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(50, 3)) * [10.0, 1.0, 1e-3]
    statistics = OutputStatistics(3)
    statistics.update(outputs, np.ones(50), momentum=1.0)
    variance = outputs.var(axis=0)
    np.testing.assert_allclose(statistics.scale, np.sqrt(variance + 0.1 * variance.mean()), rtol=1e-12)
    assert statistics.scale[2] > 1.0  # what carries little but noise is not blown up
