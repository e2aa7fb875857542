"""A frozen model's weights stay what they were, and one copy of them serves all who say the same."""

from __future__ import annotations

import gc
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.utils import estimator_html_repr
from torch import nn

from skpat import ControlSplit, PhysicalNetworkClassifier
from skpat.devices import IdentityDevice
from skpat.devices import frozen_model as room

from .frozen_network import N_DATA, N_PROMPT, all_weights, built, drawn, frozen, network, rows

pytestmark = pytest.mark.usefixtures("nothing_built")


# ---- frozen ----


@pytest.mark.parametrize("gradient", ["physics_aware", "exact"])
def test_training_leaves_the_weights_bit_for_bit(gradient: str) -> None:
    device = frozen()
    device.measure(rows())
    device.measure(rows().astype(np.float32))
    modules = {key: module for key, module in room._models[network].items()}
    before = {key: all_weights(module) for key, module in modules.items()}
    X = rows(60, N_DATA)
    classifier = PhysicalNetworkClassifier(
        device,
        control_split=ControlSplit(device.data_index),
        encoder="direct",
        gradient=gradient,
        n_calibration_shots=20,
        max_iter=2,
        random_state=0,
    ).fit(X, X[:, 0] > X[:, 1])
    assert classifier.weights_["layers.0.theta"].shape == (1, N_PROMPT)
    assert built == [(0, 16)]  # the estimator's clone of the device asked the same module
    for key, module in room._models[network].items():
        assert module is modules[key]
        assert all_weights(module) == before[key]
        assert not module.training
        assert not any(part.training for part in module.modules())
        assert not any(p.requires_grad for p in module.parameters())


def test_what_the_factory_returned_is_not_touched() -> None:
    own = network()
    before = all_weights(own)

    def the_users_own() -> nn.Module:
        return own

    frozen(factory=the_users_own).measure(rows())
    assert own.training
    assert all(p.requires_grad and p.dtype == torch.float32 for p in own.parameters())
    assert all_weights(own) == before
    measured = frozen(factory=the_users_own).measure(rows())
    with torch.no_grad():
        own[0].weight.zero_()
    np.testing.assert_array_equal(frozen(factory=the_users_own).measure(rows()), measured)


def test_torchs_generator_and_modes_are_left_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    outputs = frozen(factory=drawn).measure(rows())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32
    room._models.clear()
    torch.manual_seed(6)  # another process stands elsewhere, and gets the same model
    np.testing.assert_array_equal(frozen(factory=drawn).measure(rows()), outputs)


def test_the_generator_is_put_back_when_the_factory_fails() -> None:
    def broken() -> nn.Module:
        raise RuntimeError("no weights here")

    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="no weights here"):
        frozen(factory=broken).measure(rows())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_factory_may_train_whoever_asks(mode) -> None:
    def trained() -> nn.Module:
        module = nn.Linear(5, 4)
        module(torch.ones(1, 5)).sum().backward()
        return module

    device = frozen(factory=trained)
    with mode():
        device.measure(rows())
    assert all(p.grad is None for module in room._models[trained].values() for p in module.parameters())
    controls = torch.from_numpy(rows()).requires_grad_()
    device.forward(controls).sum().backward()
    assert controls.grad.abs().min() > 0


# ---- one copy for each (factory, parameters, place, precision) ----


def test_nothing_is_built_before_it_is_measured() -> None:
    device = frozen()
    for use in (clone, repr, estimator_html_repr, IdentityDevice.like, lambda d: pickle.loads(pickle.dumps(d))):
        use(device)
    PhysicalNetworkClassifier(device)
    assert built == []
    device.measure(rows())
    assert built == [(0, 16)]


def test_devices_that_say_the_same_share_one_module() -> None:
    for device in (frozen(), clone(frozen()), pickle.loads(pickle.dumps(frozen()))):
        device.measure(rows())
        device.measure(rows().astype(np.float32))
    assert built == [(0, 16)]


def test_factories_and_parameters_do_not_mix() -> None:
    def other() -> nn.Module:
        return network(seed=3)

    outputs = [
        frozen(**how).measure(rows())
        for how in (
            {},
            {"factory_params": {"seed": 1}},
            {"factory_params": {"seed": 1, "width": 8}},
            {"factory": other},
            {"factory": drawn},
        )
    ]
    for i, first in enumerate(outputs):
        for second in outputs[:i]:
            assert (first != second).all()
    device = frozen()
    for seed, expected in ((1, outputs[1]), (0, outputs[0])):
        np.testing.assert_array_equal(device.set_params(factory_params={"seed": seed}).measure(rows()), expected)
    device.factory_params["seed"] = 1  # in place
    np.testing.assert_array_equal(device.measure(rows()), outputs[1])
    assert sorted(set(built)) == [(0, 16), (1, 8), (1, 16), (3, 16)]


def test_only_so_many_are_kept() -> None:
    device = frozen()
    for seed in range(20):
        device.set_params(factory_params={"seed": seed}).measure(rows())
    assert len(room._models[network]) <= room._MODELS_PER_FACTORY
    built.clear()
    device.measure(rows())
    assert built == []


def test_a_factory_that_is_gone_takes_its_modules_along() -> None:
    device = frozen(factory=lambda: network(seed=8))
    device.measure(rows())
    assert len(room._models) == 1
    del device
    gc.collect()
    assert len(room._models) == 0


def test_two_threads_build_one_module() -> None:
    started = threading.Barrier(4)
    calls = []

    def slow() -> nn.Module:
        calls.append(threading.get_ident())
        time.sleep(0.05)
        return network()

    def measure(_: int) -> np.ndarray:
        started.wait()
        return frozen(factory=slow).measure(rows())

    with ThreadPoolExecutor(4) as pool:
        outputs = list(pool.map(measure, range(4)))
    assert len(calls) == 1
    for other in outputs[1:]:
        np.testing.assert_array_equal(other, outputs[0])
