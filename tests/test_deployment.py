"""The deployed network gives the estimator's numbers, refuses wrong data, streams, and needs no torch."""

from __future__ import annotations

import pickle
import subprocess
import sys
import textwrap
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array

from skpat import ControlBatch, ControlSplit, PhysicalNetworkClassifier, PhysicalNetworkRegressor, deployment
from skpat.deployment import DeployedNetwork
from skpat.devices import Drifting, Quantized
from skpat.exceptions import ControlBoundsError
from skpat.lab import Ledger
from skpat.lab.row_names import BatchNamedOnDemand
from skpat.network.forward import forward
from skpat.network.settled import SettledNetwork
from skpat.row_keys import hash_rows

from .deployed_bank import LASER, SMALL, Bank, data, environment, trained

STREAMABLE = ("predict", "predict_proba", "predict_log_proba", "decision_function")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "network.skpat"


# ---- the same numbers ----


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"n_layers": 2, "n_units": 2, "skip": "input", "n_shots": 2},
        {"n_layers": 3, "skip": "previous"},
        {"encoder": "direct", "readout": "bins", "n_units": 2},
        {"control_split": ControlSplit("random", fixed={2: 0.25, 5: 1.0}, random_state=1)},
        {"device": Quantized(LASER, control_bits=6)},
        {"device": Drifting(LASER, common=0.05, interval=10, random_state=1), "n_shots": 2},
    ],
    ids=["plain", "wide", "deep", "direct", "fixed", "steps", "drifting"],
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_noisy_device_gives_the_deployed_network_the_estimators_numbers(
    params: dict[str, Any], dtype: Any, path: Path
) -> None:
    X, y = data(dtype=dtype)
    network = PhysicalNetworkClassifier(**({"device": LASER} | SMALL | params)).fit(X, y)
    network.deploy().save(path)
    for method in STREAMABLE:  # anew for each: the clock of a drifting device goes on
        deployed = network.deploy()
        deployed.save(path)
        loaded = deployment.load(path, network.device_)
        expected = getattr(network, method)(X)
        for other in (deployed, loaded):
            found = getattr(other, method)(X)
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)


def test_a_deployed_network_says_what_it_is() -> None:
    X, y = data()
    classifier = PhysicalNetworkClassifier(device=LASER, n_layers=2, **SMALL).fit(X, y)
    name, n_classes = type(LASER).__name__, len(classifier.classes_)
    assert repr(classifier.deploy()) == (
        f"<DeployedNetwork on {name}: {X.shape[1]} features, {n_classes} classes, 2 layers, float64>"
    )
    regressor = PhysicalNetworkRegressor(device=LASER, **SMALL).fit(X.astype(np.float32), X[:, :2])
    assert ": 4 features, 2 targets, 1 layer, float32>".replace("4", str(X.shape[1])) in repr(regressor.deploy())


@pytest.mark.parametrize("ndim", [1, 2])
def test_a_regressors_targets_come_back_on_their_own_scale(ndim: int, path: Path) -> None:
    X, _ = data()
    y = 1000 * X[:, 0] if ndim == 1 else 1000 * X[:, :2] + 7
    network = PhysicalNetworkRegressor(LASER, **SMALL).fit(X, y)
    network.deploy().save(path)
    loaded = DeployedNetwork.load(path, network.device_)
    np.testing.assert_array_equal(loaded.predict(X), network.predict(X))
    assert loaded.predict(X).shape == y.shape
    assert not hasattr(loaded, "predict_proba")
    assert not hasattr(loaded, "classes_")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_more_rows_than_one_device_call_carries(dtype: Any) -> None:
    few, many = data(dtype=dtype), data(2500, dtype)[0]
    network = PhysicalNetworkClassifier(LASER, n_layers=2, **SMALL).fit(*few)
    found = network.deploy().decision_function(many)
    assert found.dtype == network.decision_function(few[0]).dtype == dtype
    np.testing.assert_array_equal(network.deploy().decision_function(many), network.decision_function(many))


def test_a_device_call_carries_no_more_rows_than_those_of_an_estimator() -> None:
    X, _ = data(2500)
    deployed = trained().deploy()
    deployed.predict(X)
    assert deployed.device_.most_rows == 1024


def test_data_come_as_any_container() -> None:
    X, y = data()
    table = pd.DataFrame(X, columns=["a", "b", "c"])
    network = PhysicalNetworkClassifier(Bank(), **SMALL).fit(table, y)
    deployed = network.deploy()
    expected = network.decision_function(table)
    for same in (table, X, X.tolist(), csr_array(X), np.asfortranarray(X), X.astype(object)):
        np.testing.assert_array_equal(deployed.decision_function(same), expected)
    assert deployed.feature_names_in_.tolist() == ["a", "b", "c"]
    with pytest.raises(
        ValueError, match=r"must have the columns \['a', 'b', 'c'\], in this order. Got \['c', 'b', 'a'\]"
    ):
        deployed.predict(table[["c", "b", "a"]])


def test_what_becomes_of_the_estimator_does_not_touch_the_deployed_network() -> None:
    X, y = data()
    network = trained()
    deployed = network.deploy()
    before = deployed.decision_function(X)
    handed_over = [network.classes_, *network.weights_.values()]
    network.partial_fit(X, y)
    for value in (*handed_over, *network.weights_.values()):
        value[...] = 0
    np.testing.assert_array_equal(deployed.decision_function(X), before)
    assert deployed.classes_.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="read-only"):
        deployed.weights_["readout.coef"][0] = 1


def test_only_a_fitted_estimator_can_be_deployed() -> None:
    from sklearn.exceptions import NotFittedError

    with pytest.raises(NotFittedError, match="is not fitted yet"):
        PhysicalNetworkClassifier().deploy()


def test_a_deployed_network_can_be_pickled_while_it_is_in_use() -> None:
    X, _ = data()
    with trained(LASER).deploy() as deployed:
        expected = deployed.decision_function(X)
        copy = pickle.loads(pickle.dumps(deployed))
    np.testing.assert_array_equal(copy.decision_function(X), expected)
    with trained().deploy() as deployed:
        copy = pickle.loads(pickle.dumps(deployed))
    copy.device_.opened = 0
    copy.predict(X)
    copy.predict(X)
    assert copy.device_.opened == 2  # nobody holds the copy's device open


# ---- what it refuses ----


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (np.zeros(3), ValueError, r"must be an array of shape \(n_samples, 3\).* Got shape \(3,\)\. Use X.reshape"),
        (np.zeros((2, 4)), ValueError, r"Got shape \(2, 4\)"),
        (np.full((2, 3), np.nan), ValueError, "must hold finite numbers, as float64. Got NaN or infinity"),
        (np.array([["a", "b", "c"]]), ValueError, "must hold real numbers. Got dtype <U1"),
        (np.zeros((1, 3), dtype=complex), ValueError, "must hold real numbers. Got dtype complex128"),
        (pd.DataFrame([[1.0, 2.0, pd.NA]], dtype="Float64"), ValueError, "must hold real numbers. .* Impute or drop"),
        (iter([np.zeros((1, 3))]), TypeError, r"Got an iterator. Use predict_stream\(chunks\)"),
    ],
)
def test_wrong_data_are_refused_before_anything_is_sent(X: Any, error: type[Exception], message: str) -> None:
    deployed = trained().deploy()
    deployed.device_.rows = 0
    with pytest.raises(error, match=message):
        deployed.predict(X)
    assert deployed.device_.rows == 0
    assert deployed.predict(np.empty((0, 3))).shape == (0,)


def test_a_number_too_large_for_float32_is_refused() -> None:
    X, y = data(dtype=np.float32)
    deployed = PhysicalNetworkClassifier(Bank(), **SMALL).fit(X, y).deploy()
    with pytest.raises(ValueError, match="finite numbers, as float32"):
        deployed.predict(np.full((1, 3), 1e300))


def test_every_value_is_checked_against_the_bounds_as_they_are_now() -> None:
    deployed = trained(Bank(bounds=np.tile([-1.0, 1.0], (6, 1)))).deploy()
    X, _ = data()
    with deployed:
        deployed.predict(X)
        deployed.device_.rows = 0
        for channel in range(6):  # inputs and weights alike
            deployed.device_.bounds[:] = [-1.0, 1.0]
            deployed.device_.bounds[channel] = [0.999, 1.0]
            with pytest.raises(ControlBoundsError, match=rf"in channel {channel}.*Nothing was sent"):
                deployed.predict(X)
    assert deployed.device_.rows == 0
    assert deployed.shots_["prediction"] == len(X)


@pytest.mark.parametrize("bounds", [[-1.0, 1.0], [(-1.0, 1.0)] * 6, [[-1.0, 1.0] for _ in range(6)]])
def test_bounds_in_a_list_may_change_too(bounds: Any) -> None:
    deployed = trained(Bank(bounds=bounds)).deploy()
    X, _ = data()
    with deployed:
        deployed.predict(X)
        deployed.device_.bounds[-2:] = [0.998, 0.999] if np.ndim(bounds) == 1 else [[0.998, 0.999]] * 2
        with pytest.raises(ControlBoundsError, match="Nothing was sent"):
            deployed.predict(X)


def test_every_shot_is_counted_once() -> None:
    network = trained(n_layers=2, n_units=2, n_shots=3)
    deployed = network.deploy()
    X, _ = data(50)
    before = network.shots_
    deployed.device_.rows = 0
    with deployed:
        deployed.predict(X)
        deployed.predict_proba(X[:5])
    assert deployed.shots_["prediction"] == deployed.device_.rows == 55 * 2 * 2 * 3
    assert network.shots_ == before


# ---- sessions and streams ----


def test_within_a_with_block_the_device_is_opened_once() -> None:
    deployed = trained().deploy()
    X, _ = data()
    deployed.device_.opened = 0
    with deployed, deployed:
        for row in X[:5, None]:
            deployed.predict(row)
    assert deployed.device_.opened == 1
    deployed.predict(X)
    deployed.predict(X)
    assert deployed.device_.opened == 3


@pytest.mark.parametrize("method", STREAMABLE)
def test_a_stream_gives_chunk_by_chunk_what_the_chunks_give(method: str) -> None:
    network = trained(LASER)
    X, _ = data()
    asked: list[int] = []

    def chunks() -> Iterator[np.ndarray]:
        for start in range(0, 60, 20):
            asked.append(start)
            yield X[start : start + 20]

    found = network.deploy().predict_stream(chunks(), method)
    for number, part in enumerate(found):
        assert len(asked) == number + 1  # nothing is asked for ahead
        np.testing.assert_array_equal(part, getattr(network, method)(X[20 * number : 20 * number + 20]))
    assert len(asked) == 3


def test_a_stream_holds_the_device_until_it_ends() -> None:
    deployed = trained().deploy()
    X, _ = data()
    deployed.device_.opened = 0
    stream = deployed.predict_stream(iter([X, X, X]))
    next(stream)
    next(stream)
    assert deployed.device_.opened == 1
    stream.close()  # type: ignore[attr-defined]
    deployed.predict(X)
    assert deployed.device_.opened == 2


def test_a_stream_of_what_there_is_not_is_refused_at_once() -> None:
    X, _ = data()
    regressor = PhysicalNetworkRegressor(Bank(), **SMALL).fit(X, X[:, 0]).deploy()
    with pytest.raises(ValueError, match=r"'method' must be one of predict\. Got 'predict_proba'"):
        regressor.predict_stream(iter([X]), "predict_proba")
    with pytest.raises(ValueError, match="Got 'save'"):
        trained().deploy().predict_stream(iter([X]), "save")


def peak_of_a_stream(n_rows: int) -> int:
    """The most memory, in bytes, that a stream of so many rows takes."""
    deployed = trained(Bank(max_batch=512)).deploy()
    chunk = np.random.default_rng(0).uniform(-1, 1, (1000, 3))
    tracemalloc.start()
    try:
        n_seen = sum(len(part) for part in deployed.predict_stream(chunk for _ in range(n_rows // 1000)))
        assert n_seen == n_rows == deployed.shots_["prediction"]
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_stream_takes_constant_memory() -> None:
    peak_of_a_stream(2_000)
    assert peak_of_a_stream(40_000) < peak_of_a_stream(4_000) + 5e4 < 2e6  # a chunk is 24 kB, all of them 960 kB


@pytest.mark.slow
def test_a_million_rows_take_the_memory_of_a_thousand() -> None:
    peak_of_a_stream(2_000)
    assert peak_of_a_stream(1_000_000) < peak_of_a_stream(4_000) + 2e5  # numpy keeps some small blocks for later


# ---- without torch ----


BANK = '''
import numpy as np
from skpat import Device


class PlainBank(Device):
    """Without torch."""

    n_controls, n_outputs = 6, 4
    bounds = np.tile([-1.0, 1.0], (6, 1))

    def measure(self, batch):
        controls = np.asarray(batch)
        return np.tanh(controls[:, :4] + controls[:, 2:])
'''


def test_loading_and_predicting_import_no_torch(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path.parent / "plain_bank_of_a_test.py").write_text(BANK)
    monkeypatch.syspath_prepend(path.parent)
    import plain_bank_of_a_test as bank  # type: ignore[import-not-found]

    network = trained(bank.PlainBank())
    network.deploy().save(path)
    X, _ = data()
    np.save(path.with_name("X.npy"), X)
    code = f"""
        import sys, numpy as np
        sys.path.insert(0, {str(path.parent)!r})
        import skpat.deployment
        from plain_bank_of_a_test import PlainBank
        deployed = skpat.deployment.load({str(path)!r}, PlainBank())
        np.save({str(path.with_name("scores.npy"))!r}, deployed.predict_proba(np.load({str(path.with_name("X.npy"))!r})))
        deployed.predict(np.zeros((1, 3)))
        unwanted = ("torch", "skpat.training", "skpat.estimators", "skpat.twins", "sklearn.metrics", "sklearn.model_selection")
        print([name for name in unwanted if name in sys.modules])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    np.testing.assert_array_equal(np.load(path.with_name("scores.npy")), network.predict_proba(X))


# ---- what makes it fast ----


def test_a_settled_network_gives_the_same_numbers() -> None:
    network = trained(LASER, n_layers=2, n_units=2, skip="previous", control_split=ControlSplit(fixed={3: 0.5}))
    X, _ = data()
    sent: list[list[np.ndarray]] = [[], []]

    def run(number: int) -> Callable[[ControlBatch, int, int], np.ndarray]:
        def measure(batch: ControlBatch, layer: int, unit: int) -> np.ndarray:
            sent[number].append(np.asarray(batch))
            return np.sin(sent[number][-1][:, :12])

        return measure

    settled = SettledNetwork(network._network, network.weights_)
    a = forward(network._network, network.weights_, X, run(0))
    b = forward(settled, network.weights_, X, run(1))
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(sent[0], sent[1])


def test_rows_are_named_when_a_device_asks_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    deployed = trained().deploy()
    monkeypatch.setattr(deployment, "hash_rows", lambda X: pytest.fail("an instrument does not ask for names"))
    deployed.predict(data()[0])
    asked: list[int] = []

    def names() -> np.ndarray:
        asked.append(1)
        return np.arange(4, dtype=np.uint64)

    batch = BatchNamedOnDemand.of(ControlBatch.from_dense(np.zeros((4, 2))), names, shot=3)
    later = batch.changed(clock=np.arange(4)).read_only()
    assert (asked, later.shot) == ([], 3)
    assert pickle.loads(pickle.dumps(batch)).row_keys.tolist() == [0, 1, 2, 3]
    assert later.rows(slice(1, 3)).row_keys.tolist() == [1, 2]
    assert later.row_keys.tolist() == later.row_keys.tolist()
    assert len(asked) == 2  # of two batches, once each
    from dataclasses import replace

    assert replace(batch, varying=np.ones((4, 2))).row_keys.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(hash_rows(np.eye(3)), [hash_rows(row[None])[0] for row in np.eye(3)])


def test_the_clock_of_a_ledger_goes_on() -> None:
    ledger = Ledger(n_before=10)
    ledger.add("prediction", 3)
    assert (ledger.total, ledger.asked_in_all) == (3, 13)


def test_a_deployed_network_takes_the_clock_over_from_its_estimator() -> None:
    network = trained()
    network.ledger_.n_before += 1000  # rows of an earlier estimator, or from a journal
    assert network.deploy().ledger_.asked_in_all == network.ledger_.asked_in_all > 1000
