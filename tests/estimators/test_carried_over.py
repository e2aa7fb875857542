"""A trained network is carried over to another specimen: set_params(device=specimen), then recalibrate."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skpat import Device, PhysicalNetworkClassifier, as_device
from skpat.devices import SecondHarmonicLaser
from skpat.exceptions import DeviceOutputError
from skpat.lab import Journal
from skpat.twins import NeuralTwin
from tests.estimators.small_network import IRIS

X, Y = IRIS
X = (X - X.mean(axis=0)) / X.std(axis=0)
BUDGET = 500


class Bench(Device):
    """Waves of its controls, which every specimen shifts by something else; all that any of them was sent is in ``SENT``."""

    n_controls, n_outputs = 12, 8
    bounds = (-1.0, 1.0)

    def __init__(self, specimen: int = 0, fails: bool = False):
        self.specimen = specimen
        self.fails = fails

    def measure(self, controls: Any) -> np.ndarray:
        sent = np.asarray(controls)
        SENT.setdefault(self.specimen, []).append(sent)
        rng = np.random.default_rng(7)
        mixed = sent @ rng.normal(size=(self.n_controls, self.n_outputs))
        mixed = mixed + np.random.default_rng(self.specimen).normal(size=self.n_outputs)
        return np.full_like(mixed, np.nan) if self.fails else np.sin(mixed)


SENT: dict[int, list[np.ndarray]] = {}


class Longer(Bench):
    n_controls = 13


class Wider(Bench):
    bounds = (-2.0, 1.0)


class MoreOutputs(Bench):
    n_outputs = 9


class Stepped(Bench):
    control_steps = 0.25


class Turning(Bench):
    periodic = 2.0


class InMillivolts(Bench):
    control_units = "mV"


class InAmperes(Bench):
    output_units = "A"


class Slow(Bench):
    slow_controls = (3,)


@pytest.fixture(scope="module")
def fitted() -> PhysicalNetworkClassifier:
    network = PhysicalNetworkClassifier(
        Bench(0), NeuralTwin((16,), max_iter=5, n_refine_steps=1), max_iter=15, learning_rate_init=0.03, random_state=0
    )
    return network.fit(X, Y)


@pytest.fixture
def network(fitted: PhysicalNetworkClassifier) -> PhysicalNetworkClassifier:
    made = copy.deepcopy(fitted)
    SENT.clear()
    return made


def n_sent(specimen: int) -> int:
    return sum(len(sent) for sent in SENT.get(specimen, []))


def accuracy_on(network: PhysicalNetworkClassifier, specimen: int) -> float:
    """Of the network as it is."""
    other = copy.deepcopy(network)
    other.device_ = Bench(specimen)
    return other.score(X, Y)


def test_it_works_as_well_there_and_only_the_new_one_is_asked(network: PhysicalNetworkClassifier) -> None:
    before, unadapted = network.score(X, Y), accuracy_on(network, 1)
    assert unadapted < before - 0.2  # else there is nothing to adapt
    SENT.clear()
    n_before = network.shots_
    assert network.set_params(device=Bench(1)).recalibrate(X, Y, BUDGET) is network
    assert n_sent(0) == 0
    assert n_sent(1) == network.shots_["recalibration"] <= BUDGET
    assert {kind: network.shots_[kind] for kind in n_before} == n_before
    assert network.score(X, Y) > unadapted + 0.6 * (before - unadapted)
    assert network.device_.specimen == 1
    assert n_sent(0) == 0


def test_it_goes_on_with_the_new_one(network: PhysicalNetworkClassifier) -> None:
    network.set_params(device=Bench(1)).recalibrate(X, Y, BUDGET)
    loaded = pickle.loads(pickle.dumps(network))
    assert loaded.deploy().device_.specimen == 1
    loaded.partial_fit(X, Y).recalibrate(X, Y, BUDGET)
    assert n_sent(0) == 0
    with pytest.raises(ValueError, match=r"Got others since: 'device__specimen'.*recalibrate carries a network over"):
        loaded.set_params(device__specimen=2).partial_fit(X, Y)


def test_until_then_it_stays_with_the_first(network: PhysicalNetworkClassifier) -> None:
    labels = network.predict(X)
    network.set_params(device=Bench(1))
    np.testing.assert_array_equal(network.predict(X), labels)
    assert n_sent(1) == 0


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (Longer(), "n_controls (13 here, 12 there)"),
        (Wider(), "bounds ([-2.  1.] here, [-1.  1.] there, in channel 0)"),
        (MoreOutputs(), "n_outputs (9 here, 8 there)"),
        (Stepped(), "control_steps (0.25 here, 0.0 there, in channel 0)"),
        (Turning(), "periodic"),
        (Slow(), "slow_controls"),
        (InMillivolts(), "control_units ('mV' here, '' there)"),
        (InAmperes(), "output_units ('A' here, '' there)"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_one_with_other_channels_is_refused(network: PhysicalNetworkClassifier, other: Any, what: str) -> None:
    state = vars(network).copy()
    said = rf"units of Bench\. Got {type(other).__name__}, which differs in its {re.escape(what)}\. Nothing was sent"
    with pytest.raises(ValueError, match=said):
        network.set_params(device=other).recalibrate(X, Y, BUDGET)
    assert not SENT
    assert {**vars(network), "device": None} == {**state, "device": None}


def test_what_else_has_changed_is_still_refused(network: PhysicalNetworkClassifier) -> None:
    with pytest.raises(ValueError, match="Got others since: 'n_layers'") as caught:
        network.set_params(device=Bench(1), n_layers=2).recalibrate(X, Y, BUDGET)
    assert "carries" not in str(caught.value)
    assert not SENT


def test_an_error_leaves_it_with_the_first(network: PhysicalNetworkClassifier) -> None:
    labels = network.predict(X)
    with pytest.raises(DeviceOutputError):
        network.set_params(device=Bench(1, fails=True)).recalibrate(X, Y, BUDGET)
    assert network.device_.specimen == 0
    np.testing.assert_array_equal(network.predict(X), labels)
    network.set_params(device=Bench(1)).recalibrate(X, Y, BUDGET)  # mended
    assert network.device_.specimen == 1


def test_the_given_device_stays_as_it_is(network: PhysicalNetworkClassifier) -> None:
    """The network works with a copy, as after a fit, and what is random in that repeats."""
    other = SecondHarmonicLaser(30, 12, n_steps=2)
    states = []
    for _ in range(2):
        laser = PhysicalNetworkClassifier(
            SecondHarmonicLaser(30, 12, n_steps=2, coupling=30.0), max_iter=1, random_state=0
        )
        laser.fit(X, Y).set_params(device=other).recalibrate(X, Y, 200)
        assert other.random_state is None
        assert isinstance(laser.device_.random_state, int)
        states.append(laser.weights_)
    for name, value in states[0].items():
        np.testing.assert_array_equal(value, states[1][name])


def test_functions_and_journals(tmp_path: Any) -> None:
    benches = [as_device(Bench(i).measure, n_controls=12, n_outputs=8, bounds=(-1, 1)) for i in range(2)]
    with Journal(tmp_path / "runs.db") as journal:
        network = PhysicalNetworkClassifier(benches[0], max_iter=1, random_state=0, journal=journal).fit(X, Y)
        SENT.clear()
        network.set_params(device=benches[1]).recalibrate(X, Y, 200)
        network.predict(X)
    assert n_sent(0) == 0
    assert n_sent(1) == network.shots_["recalibration"] + len(X)


@settings(max_examples=5, deadline=None)
@given(st.integers(60, 600), st.integers(1, 4))
def test_the_budget_holds_there_too(fitted: PhysicalNetworkClassifier, max_shots: int, specimen: int) -> None:
    network = copy.deepcopy(fitted).set_params(device=Bench(specimen))
    SENT.clear()
    network.recalibrate(X, Y, max_shots)
    assert n_sent(specimen) == network.shots_["recalibration"] <= max_shots
