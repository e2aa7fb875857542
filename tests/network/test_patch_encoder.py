"""Images in patches: what goes where, and that it is what a loop over patches gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV

from skpat import ControlSplit, PhysicalNetworkClassifier, deployment
from skpat.devices import IdentityDevice, SecondHarmonicLaser
from skpat.exceptions import NestedParameterError
from skpat.inspection import ControlMapDisplay
from skpat.network import PatchEncoder
from skpat.network.description import network_from_dict, network_to_dict
from skpat.network.forward import Network, forward, is_trainable
from skpat.training import DirectFeedbackAlignment, ExactGradient
from skpat.twins import NeuralTwin

X, y = load_digits(return_X_y=True)
X = X[:100].astype(np.float32)
y = y[:100]


def wiring(encoder: Any, n_features: int = 16, **shape: Any) -> Network:
    """Ten channels, of which five take data; three outputs."""
    split = ControlSplit("interleaved", fixed={3: 0.1}, n_inputs=5).resolve(10)
    bounds = np.column_stack([np.linspace(-2, -1, 10), np.linspace(0.5, 3, 10)])
    return Network(
        split=split, bounds=bounds, n_features=n_features, n_outputs=3, n_targets=2, encoder=encoder, **shape
    )


def toy(batch: Any, layer: int = 0, unit: int = 0) -> Any:
    c = batch.dense()
    return c[:, :3] * c[:, 4:7] + c[:, 7:] ** 2


def start(network: Network, n_features: int = 16) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.RandomState(0)
    rows = rng.standard_normal((7, n_features))
    weights = network.initial_weights(rows, np.ones(7), rng)
    for name, value in weights.items():  # so that nothing is one or zero by chance
        if not name.startswith("encoder"):
            weights[name] = value + rng.uniform(0.1, 0.5, value.shape)
    return rows, weights


def tensors(weights: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value).requires_grad_(is_trainable(name)) for name, value in weights.items()}


def small(**params: Any) -> PhysicalNetworkClassifier:
    params = {"encoder": "patch", "gradient": "exact", "max_iter": 2, "random_state": 0} | params
    twin = NeuralTwin((8,), max_iter=5, n_refine_steps=1)
    return PhysicalNetworkClassifier(SecondHarmonicLaser(20, 6, n_steps=2), twin, **params)


# ---- what goes where ----


@st.composite
def cuts(draw: Any) -> tuple[PatchEncoder, tuple[int, ...]]:
    n_axes = draw(st.sampled_from([1, 2]))
    block = draw(st.integers(1, 3))
    patch = tuple(draw(st.integers(1, 4)) for _ in range(n_axes))
    space = tuple(block * size * draw(st.integers(1, 3)) for size in patch)
    colours = draw(st.sampled_from([None, 2])) if n_axes == 2 else None
    image = space if colours is None else (*space, colours)
    return PatchEncoder(image, patch, downsample=block), image


@given(cuts(), st.integers(0, 40), st.integers(1, 3))
def test_every_pixel_is_in_exactly_one_patch(cut: tuple[PatchEncoder, tuple[int, ...]], spare: int, units: int) -> None:
    encoder, image = cut
    n_features = int(np.prod(image))
    n_numbers = int(np.prod(encoder.patch_shape)) * (image[2] if len(image) == 3 else 1)
    patches = encoder.resolve(n_features, n_numbers + spare, units)
    of_call = patches.source.reshape(patches.n_patches, units, n_numbers + spare)
    assert (of_call == of_call[:, :1]).all()  # all units of a patch see the same
    assert sorted(of_call[:, 0, :n_numbers].ravel()) == list(range(n_features // encoder.downsample ** len(image[:2])))
    assert sorted(patches.averaged.ravel()) == list(range(n_features))


def test_patches_are_the_tiles_of_the_image() -> None:
    image = np.arange(96.0).reshape(1, 6, 8, 2)
    encoder = PatchEncoder((6, 8, 2), (3, 4)).resolve(96, 30)
    drives = encoder.encode({"encoder.mean": np.zeros(1), "encoder.scale": np.ones(1)}, image.reshape(1, -1))
    tiles = [image[0, i : i + 3, j : j + 4].ravel() for i in (0, 3) for j in (0, 4)]
    np.testing.assert_array_equal(drives.reshape(4, 30), [np.resize(tile, 30) for tile in tiles])


def test_downsampling_averages_blocks() -> None:
    image = np.random.default_rng(0).normal(size=(3, 8, 12))
    encoder = PatchEncoder((8, 12), (4, 6), downsample=2).resolve(96, 24)
    drives = encoder.encode({"encoder.mean": np.zeros(1), "encoder.scale": np.ones(1)}, image.reshape(3, -1))
    np.testing.assert_allclose(drives, image.reshape(3, 4, 2, 6, 2).mean((2, 4)).reshape(3, 24), rtol=1e-12)


@pytest.mark.parametrize(
    ("n_features", "n_inputs", "shape", "n_patches"),
    [(64, 50, (8, 4), 2), (784, 50, (7, 7), 16), (64, 64, (8, 8), 1), (12, 5, (4,), 3), (13, 5, (1,), 13)],
)
def test_by_default_the_largest_patch_that_fits(n_features: int, n_inputs: int, shape: Any, n_patches: int) -> None:
    patches = PatchEncoder().resolve(n_features, n_inputs)
    assert (patches.patch_shape, patches.n_patches) == (shape, n_patches)


def test_all_pixels_have_one_scale() -> None:
    network = wiring("patch")
    rows = np.random.default_rng(0).uniform(-3, 5, (30, 16))
    rows[0, 0], rows[0, 1] = -3, 5
    weights = network.initial_weights(rows, np.ones(30), np.random.RandomState(0))
    assert weights["encoder.mean"].shape == weights["encoder.scale"].shape == (1,)
    drives = network.encoder.encode(weights, rows)
    assert drives.min() == -1
    assert drives.max() == 1


# ---- the forward pass ----

SHAPES = [
    (encoder, {"n_layers": layers, "n_units": units, "skip": skip, "readout": readout})
    for encoder in (
        PatchEncoder(patch_shape=2),
        PatchEncoder(patch_shape=2, shared=False),
        PatchEncoder(patch_shape=2, pooling="mean"),
        PatchEncoder(patch_shape=(1, 4), shared=False, pooling="mean"),
    )
    for layers, units, skip, readout in ((1, 1, None, "linear"), (1, 2, None, "bins"), (3, 2, "input", "linear"),
                                         (2, 1, "previous", "bins"))
]  # fmt: skip


@pytest.mark.parametrize(("encoder", "shape"), SHAPES, ids=str)
def test_numpy_and_torch_agree_and_every_weight_gets_a_gradient(encoder: PatchEncoder, shape: dict[str, Any]) -> None:
    network = wiring(encoder, **shape)
    rows, weights = start(network)
    moving = tensors(weights)
    scores = forward(network, moving, torch.from_numpy(rows), toy)
    np.testing.assert_allclose(forward(network, weights, rows, toy), scores.detach().numpy(), rtol=1e-11, atol=1e-12)
    (scores * torch.from_numpy(np.random.RandomState(1).standard_normal(scores.shape))).sum().backward()
    for name, tensor in moving.items():
        assert (tensor.grad is not None and bool(tensor.grad.abs().sum() > 0)) == is_trainable(name), name


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("pooling", [None, "mean"])
def test_one_layer_is_a_loop_over_patches(shared: bool, pooling: str | None) -> None:
    network = wiring(PatchEncoder(patch_shape=2, shared=shared, pooling=pooling), n_units=2)
    rows, w = start(network)
    image = ((rows - w["encoder.mean"]) / w["encoder.scale"]).reshape(7, 4, 4)
    mean, scale = w["layers.0.mean"].reshape(4, 2, 3), w["layers.0.scale"].reshape(4, 2, 3)
    handed_on = np.empty((7, 4, 2, 3))
    for patch, (i, j) in enumerate([(0, 0), (0, 2), (2, 0), (2, 2)]):
        tile = image[:, i : i + 2, j : j + 2].reshape(7, 4)[:, [0, 1, 2, 3, 0]]
        for unit in range(2):
            own = unit if shared else 2 * patch + unit
            gain, offset = (w[f"layers.0.{name}"].reshape(-1, 5)[own] for name in ("gain", "offset"))
            inputs = network.to_device(tile * gain + offset, network.split.input_index)
            settings = network.weights_on_device(w["layers.0.theta"][own])
            outputs = toy(network.split.assemble(inputs, settings))
            handed_on[:, patch, unit] = (outputs - mean[patch, unit]) / scale[patch, unit]
    handed_on = handed_on.mean(1) if pooling else handed_on
    expected = handed_on.reshape(7, -1) @ w["readout.coef"] + w["readout.intercept"]
    np.testing.assert_allclose(forward(network, w, rows, toy), expected, rtol=1e-12)


def test_shared_weights_get_the_sum_of_the_gradients_of_own_ones() -> None:
    shared, own = (wiring(PatchEncoder(patch_shape=2, shared=which), n_units=2) for which in (True, False))
    rows, weights = start(shared)
    apart = dict(weights)
    for name in ("theta", "gain", "offset"):
        value = weights[f"layers.0.{name}"]
        apart[f"layers.0.{name}"] = np.tile(value, (4, 1) if value.ndim == 2 else 4)
    found = []
    for network, w in ((shared, weights), (own, apart)):
        moving = tensors(w)
        forward(network, moving, torch.from_numpy(rows), toy).square().sum().backward()
        found.append({name: moving[f"layers.0.{name}"].grad.numpy() for name in ("theta", "gain", "offset")})
    for name, value in found[0].items():
        np.testing.assert_allclose(value, found[1][name].reshape(4, *value.shape).sum(0), rtol=1e-10)


def test_a_later_layer_gets_all_outputs_or_their_means() -> None:
    network = wiring(PatchEncoder(patch_shape=2), n_layers=2)  # 4 patches of 3 outputs on 5 slots
    handed_on = np.arange(12.0)[None]
    expected = [np.mean([s for s in range(12) if s * 5 // 12 == slot]) for slot in range(5)]
    np.testing.assert_allclose(network.feed(handed_on, 1)[0], expected)
    wide = wiring(PatchEncoder(patch_shape=2), n_layers=2, n_units=4)
    assert wide.n_sources(0) == 48
    assert wide.n_slots == 20
    roomy = wiring(PatchEncoder((8, 2), (4, 1)), n_layers=2, n_units=1)
    few = roomy.feed(np.arange(12.0)[None], 1)
    assert few.shape == (1, 5)


def test_one_patch_is_the_direct_encoder() -> None:
    rows = np.random.default_rng(0).uniform(-1, 1, (9, 4))
    rows[0], rows[1] = -1, 1
    patch, direct = (wiring(encoder, 4, n_layers=2, skip="input") for encoder in ("patch", "direct"))
    found = [
        forward(network, network.initial_weights(rows, np.ones(9), np.random.RandomState(0)), rows, toy)
        for network in (patch, direct)
    ]
    np.testing.assert_allclose(*found, rtol=1e-12)


# ---- in an estimator ----


@pytest.mark.parametrize(
    ("encoder", "n_layers", "n_units"), [("patch", 1, 1), (PatchEncoder(patch_shape=2, shared=False), 2, 2)]
)
@pytest.mark.parametrize("gradient", ["physics_aware", "exact"])
def test_the_plan_counts_the_shots_of_the_patches(encoder: Any, n_layers: int, n_units: int, gradient: str) -> None:
    network = small(encoder=encoder, n_layers=n_layers, n_units=n_units, gradient=gradient, n_calibration_shots=50)
    plan = network.plan(X[:50])
    n_patches = 8 if encoder == "patch" else 16  # 8 x 1 pixels on ten channels
    assert plan.prediction_per_row == n_units * (n_patches + n_layers - 1)
    network.fit(X[:50], y[:50])
    assert (plan.calibration, plan.training) == (network.shots_["calibration"], network.shots_["training"])
    network.predict(X[:3])
    assert network.shots_["prediction"] == 3 * plan.prediction_per_row


@pytest.mark.parametrize("gradient", ["in_silico", "spsa", "asymmetric", "sharpness_aware", DirectFeedbackAlignment()])
def test_every_method_trains_patches(gradient: Any) -> None:
    network = small(gradient=gradient, n_layers=2, n_units=2, n_calibration_shots=100).fit(X[:70], y[:70])
    assert np.isfinite(network.loss_)
    assert network.predict(X[:9]).shape == (9,)


@pytest.mark.slow  # 15 s
def test_patches_read_digits_that_one_call_has_no_room_for() -> None:
    X, y = load_digits(return_X_y=True)
    network = small(max_iter=6, learning_rate_init=0.03).set_params(device=SecondHarmonicLaser(20, 6, n_steps=2))
    network.fit(X[:400], y[:400])
    assert network.score(X[400:800], y[400:800]) > 0.75


@pytest.mark.parametrize("encoder", ["patch", PatchEncoder((8, 8), (4, 2), shared=False, pooling="mean")], ids=str)
def test_a_deployment_file_keeps_the_patches(encoder: Any, tmp_path: Path) -> None:
    network = small(encoder=encoder, n_layers=2, n_units=2).fit(X, y)
    network.deploy().save(tmp_path / "net.skpat")
    loaded = deployment.load(tmp_path / "net.skpat", network.device_)
    np.testing.assert_array_equal(loaded.decision_function(X), network.decision_function(X))
    here, there = (network_to_dict(each._network) for each in (network, loaded))
    assert here["encoder"] == there["encoder"]


def test_a_prediction_with_patches_needs_no_torch(tmp_path: Path) -> None:
    device = IdentityDevice(20, 6, bounds=[[0, 1]] * 20)
    PhysicalNetworkClassifier(
        device, encoder=PatchEncoder(pooling="mean"), n_layers=2, gradient="exact", max_iter=1, random_state=0
    ).fit(X, y).deploy().save(tmp_path / "net.skpat")
    program = (
        "import sys, numpy as np; from skpat import deployment; from skpat.devices.identity import IdentityDevice; "
        f"d = deployment.load({str(tmp_path / 'net.skpat')!r}, IdentityDevice(20, 6, bounds=[[0, 1]] * 20)); "
        "d.predict(np.zeros((2, 64))); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_same_fit_again_replays_the_journal(tmp_path: Path) -> None:
    one, two = (small(journal=str(tmp_path / "run.db"), encoder=PatchEncoder(patch_shape=(4, 2))) for _ in range(2))
    one.fit(X, y)
    two.fit(X, y)
    assert two.shots_["training"] == 0
    np.testing.assert_array_equal(one.weights_["layers.0.theta"], two.weights_["layers.0.theta"])


def test_parameters_of_the_encoder_are_searched_and_cloned() -> None:
    network = small(encoder=PatchEncoder(), max_iter=1)
    found = GridSearchCV(network, {"encoder__patch_shape": [(4, 2), (2, 2)]}, cv=2).fit(X, y)
    assert set(found.best_params_) == {"encoder__patch_shape"}
    fitted = clone(network).fit(X, y)
    fitted.encoder.set_params(patch_shape=2)  # what the user changes later does not change what was fitted
    assert fitted._network.made_with["encoder"].patch_shape is None
    with pytest.raises(NestedParameterError, match=r"Construct the .* with encoder=PatchEncoder\(\) first"):
        small().set_params(encoder__patch_shape=2)


def test_weights_of_patches_are_drawn() -> None:
    pytest.importorskip("matplotlib")
    display = ControlMapDisplay.from_estimator(small(encoder=PatchEncoder(shared=False), n_layers=2).fit(X, y))
    assert [len(of_layer) for of_layer in display.settings] == [8, 1]


def test_gradients_of_an_estimator_are_exact_through_patches() -> None:
    """The step of a fit is that of autograd through a device without noise."""
    device = SecondHarmonicLaser(20, 6, n_steps=2, noise=0, noise_floor=0, energy_jitter=0)
    first = small(max_iter=1, batch_size=100, shuffle=False, learning_rate_init=1e-3)
    first.set_params(device=device, gradient=ExactGradient()).fit(X.astype(np.float64), y)
    aware = clone(first).set_params(gradient="exact", encoder=PatchEncoder()).fit(X.astype(np.float64), y)
    np.testing.assert_array_equal(first.weights_["layers.0.theta"], aware.weights_["layers.0.theta"])


# ---- what is refused ----


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"image_shape": (8, 7)}, r"'image_shape' of PatchEncoder must have as many pixels as .*, 64. Got \(8, 7\)"),
        ({"image_shape": "8x8"}, r"'image_shape' of PatchEncoder must be an int or a tuple of ints .* Got '8x8'"),
        ({"image_shape": (2, 2, 4, 4)}, r"'image_shape' of PatchEncoder must be \(height, width\), .* Got \(2, 2, 4, 4\)"),
        ({"patch_shape": (3, 2)}, r"'patch_shape' of PatchEncoder must divide an image of 8 x 8 pixels. Got \(3, 2\)"),
        ({"patch_shape": (4,)}, r"'patch_shape' of PatchEncoder must divide an image of 8 x 8 pixels. Got \(4,\)"),
        ({"patch_shape": 0}, r"'patch_shape' of PatchEncoder must be an int or a tuple of ints of at least 1"),
        ({"patch_shape": 4}, r"'patch_shape' of PatchEncoder must fit the 10 input channels .* Got \(4, 4\), 16 numbers"),
        ({"image_shape": (2, 2, 16)}, r"'patch_shape' of PatchEncoder must fit .* Got 10 channels for the 16 colours"),
        ({"downsample": 3}, r"'downsample' of PatchEncoder must divide .* 8 x 8 pixels. Got 3. Use one of \[1, 2, 4, 8\]"),
        ({"downsample": True}, r"'downsample' of PatchEncoder must be an int of at least 1. Got True"),
        ({"shared": "yes"}, r"'shared' of PatchEncoder must be True or False. Got 'yes'"),
        ({"pooling": "max"}, r"'pooling' of PatchEncoder must be 'mean' or None. Got 'max'"),
    ],
)  # fmt: skip
def test_what_cannot_be_cut_is_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(encoder=PatchEncoder(**params)).fit(X, y)
    with pytest.raises(ValueError, match=message):
        small(encoder=PatchEncoder(**params)).plan(X)


def test_a_file_that_asks_for_too_many_patches_is_refused() -> None:
    network = wiring("patch")
    plain = network_to_dict(network)
    n_weights = sum(value.size for value in start(network)[1].values())
    assert network_from_dict(plain, n_weights).n_patches == 4
    with pytest.raises(ValueError, match="Got patches that need more"):
        network_from_dict(plain | {"n_features": 1 << 20}, n_weights)
    with pytest.raises(ValueError, match="'encoder' must be described by its parameters"):
        network_from_dict(plain | {"encoder": {"name": "patches", "colour": 1}}, n_weights)
