"""On a GPU: what a fit or a simulated device gives there is what the processor gives, up to rounding. ``pytest -m gpu``."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.preprocessing import StandardScaler

from skpat import PhysicalNetworkClassifier, PhysicalNetworkRegressor
from skpat.devices import (
    AnalogCircuit,
    CoupledOscillators,
    FrozenModel,
    MachZehnderMesh,
    OscillatingPlate,
    SecondHarmonicLaser,
)
from skpat.estimators.specification import GRADIENTS
from skpat.inspection import gradient_alignment
from skpat.twins import NeuralTwin, PhysicsTwin, ResidualTwin

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU"),
]

X, Y = load_iris(return_X_y=True)
X = StandardScaler().fit_transform(X)

DEVICES = [
    SecondHarmonicLaser(12, 8),
    OscillatingPlate(12, 8),
    AnalogCircuit(12, 8),
    CoupledOscillators(6, 3),
    MachZehnderMesh(4),
    FrozenModel(),
]

TWINS = {
    "learned": NeuralTwin(),
    "learned there": NeuralTwin(torch_device="cuda"),
    "equations": PhysicsTwin(SecondHarmonicLaser(12, 8, coupling=25.0), ["coupling"]),
    "equations there": PhysicsTwin(SecondHarmonicLaser(12, 8, coupling=25.0, torch_device="cuda"), ["coupling"]),
    "both": ResidualTwin(PhysicsTwin(SecondHarmonicLaser(12, 8, coupling=25.0), ["coupling"]), NeuralTwin()),
    "both there": ResidualTwin(
        PhysicsTwin(SecondHarmonicLaser(12, 8, coupling=25.0, torch_device="cuda"), ["coupling"]),
        NeuralTwin(torch_device="cuda"),
    ),
}


def network(torch_device: str, **changes: Any) -> PhysicalNetworkClassifier:
    how = {"device": SecondHarmonicLaser(12, 8), "n_layers": 2, "max_iter": 2, "random_state": 0}
    return PhysicalNetworkClassifier(**(how | changes), torch_device=torch_device)


def assert_same(one: Any, other: Any) -> None:
    """The same weights; Adam makes rounding large where a gradient is nearly nothing."""
    assert one.shots_ == other.shots_
    for name, weight in other.weights_.items():
        assert isinstance(one.weights_[name], np.ndarray)
        np.testing.assert_allclose(one.weights_[name], weight, rtol=1e-5, atol=1e-6, err_msg=name)


def places(twin: Any) -> set[str]:
    """Where the tensors of a twin's module live."""
    module = twin.module_
    return {tensor.device.type for tensor in (*module.parameters(), *module.buffers())}


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: type(device).__name__)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_system_answers_there_as_here(device: Any, dtype: type) -> None:
    low, high = np.broadcast_to(device.bounds, (device.n_controls, 2)).T
    controls = (low + (high - low) * np.random.default_rng(0).uniform(size=(20, device.n_controls))).astype(dtype)
    seed = {"random_state": 0} if "random_state" in device.get_params() else {}
    here = clone(device).set_params(**seed).measure(controls)
    there = clone(device).set_params(**seed, torch_device="cuda").measure(controls)
    assert there.dtype == dtype
    np.testing.assert_allclose(there, here, rtol=0, atol=(1e-3 if dtype == np.float32 else 1e-9) * np.abs(here).max())


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_every_method_trains_there_as_here(gradient: str) -> None:
    changes = {"gradient": gradient}
    if gradient == "evolution_strategy":
        pytest.importorskip("cma")
    assert_same(network("cuda", **changes).fit(X, Y), network("cpu", **changes).fit(X, Y))


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("gradient", ["physics_aware", "asymmetric", "in_silico", "direct_feedback_alignment"])
def test_every_twin_trains_there_as_here(twin: str, gradient: str) -> None:
    here = twin.removesuffix(" there")
    one = network("cuda", twin=TWINS[twin], gradient=gradient).fit(X, Y)
    other = network("cpu", twin=TWINS[here], gradient=gradient).fit(X, Y)
    assert_same(one, other)
    assert places(one.twin_) == ({"cuda"} if twin.endswith("there") else {"cpu"})


@pytest.mark.parametrize("device", [SecondHarmonicLaser(12, 8), OscillatingPlate(12, 8)])
def test_a_twin_that_is_not_given_lives_there(device: Any) -> None:
    est = network("cuda", device=device, n_layers=1, max_iter=1).fit(X, Y)
    assert isinstance(est.twin_, PhysicsTwin if device.equations else NeuralTwin)
    assert places(est.twin_) == {"cuda"}


@pytest.mark.parametrize("twin", [twin for twin in TWINS if twin.endswith("there")])
def test_a_twin_there_serves_a_network_here(twin: str) -> None:
    one = network("cpu", twin=TWINS[twin]).fit(X, Y)
    assert_same(one, network("cpu", twin=TWINS[twin.removesuffix(" there")]).fit(X, Y))


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: type(device).__name__)
@pytest.mark.parametrize("gradient", ["physics_aware", "exact"])
def test_every_system_is_trained_there_as_here(device: Any, gradient: str) -> None:
    changes = {"gradient": gradient, "n_layers": 1}
    one = network("cuda", device=clone(device).set_params(torch_device="cuda"), **changes).fit(X, Y)
    assert_same(one, network("cpu", device=device, **changes).fit(X, Y))


def test_twice_is_the_same_there() -> None:
    one, other = (network("cuda", twin=NeuralTwin(torch_device="cuda"), max_iter=5).fit(X, Y) for _ in range(2))
    for name, weight in other.weights_.items():
        np.testing.assert_array_equal(one.weights_[name], weight)


def test_float32_and_regression() -> None:
    target = X.astype(np.float32) @ np.ones((4, 2), dtype=np.float32)
    device = SecondHarmonicLaser(12, 8)
    regressor = PhysicalNetworkRegressor(device, max_iter=3, torch_device="cuda", random_state=0)
    predicted = regressor.fit(X.astype(np.float32), target).predict(X.astype(np.float32))
    assert predicted.dtype == np.float32
    assert np.isfinite(predicted).all()


def test_what_goes_on_after_a_fit() -> None:
    """Further training, the optimiser's state with it; recalibration; the check of the gradient."""
    fitted = []
    for place in ("cuda", "cpu"):
        est = network(place, warm_start=True).fit(X, Y)
        est.fit(X, Y)
        est.partial_fit(X, Y)
        est.recalibrate(X, Y, max_shots=900)
        fitted.append((est, gradient_alignment(est, X, Y, n_rows=16, n_directions=4, random_state=0).cosine))
    assert_same(fitted[0][0], fitted[1][0])
    assert fitted[0][1] == pytest.approx(fitted[1][1], abs=1e-3)


@pytest.mark.parametrize("twin", TWINS)
def test_what_was_trained_there_predicts_where_no_gpu_is(twin: str, tmp_path: Path) -> None:
    est = network("cuda", twin=TWINS[twin]).fit(X, Y)
    (tmp_path / "est.pickle").write_bytes(pickle.dumps(est))
    est.deploy().save(tmp_path / "est.skpat")
    np.savez(tmp_path / "expected.npz", X=X, proba=est.predict_proba(X))
    program = (
        "import pickle, sys, numpy as np\n"
        "here = sys.argv[1]\n"
        "with open(here + '/est.pickle', 'rb') as file: est = pickle.load(file)\n"
        "seen = np.load(here + '/expected.npz')\n"
        "np.testing.assert_array_equal(est.predict_proba(seen['X']), seen['proba'])\n"
        "from skpat.deployment import load\n"
        "deployed = load(here + '/est.skpat', est.device_)\n"
        "np.testing.assert_array_equal(deployed.predict_proba(seen['X']), seen['proba'])\n"
        "assert 'torch' not in sys.modules or not sys.modules['torch'].cuda.is_available()\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
