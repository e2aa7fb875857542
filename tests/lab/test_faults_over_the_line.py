"""Fits through the real adapter over the loopback address, with every kind of fault at random moments."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyvisa", reason="needs PyVISA: pip install 'skpat[visa]'")

from sklearn.model_selection import GridSearchCV

from skpat import PhysicalNetworkClassifier
from skpat.devices import SecondHarmonicLaser
from skpat.lab import Journal, Ledger, SimulatedInstrument, VisaDevice
from skpat.twins import NeuralTwin

KINDS = ("late", "mute", "truncated", "nan", "saturated", "closed")
SMALL_TWIN = NeuralTwin((8,), max_iter=5, n_refine_steps=1)


@pytest.fixture(autouse=True)
def _own_locks_and_short_pauses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKPAT_LOCK_DIR", str(tmp_path / "locks"))
    monkeypatch.setattr("skpat.lab.session._FIRST_PAUSE", 0.001)


def laser(noise: float = 0.0) -> SecondHarmonicLaser:
    return SecondHarmonicLaser(
        12, 6, n_steps=2, noise=noise, noise_floor=noise / 10, energy_jitter=noise, random_state=0
    )


def visa(address: str, **more: Any) -> VisaDevice:
    return VisaDevice(
        address,
        n_controls=12,
        n_outputs=6,
        bounds=(0, 1),
        max_batch=4,
        output_range=(-1e3, 1e3),
        max_retries=20,
        **({"timeout": 2.0} | more),
    )


def data() -> tuple[np.ndarray, np.ndarray]:
    X = np.random.RandomState(0).uniform(-1, 1, (64, 3))
    return X, (X[:, 0] > X[:, 1] * X[:, 2]).astype(int)


def fit(device: Any, journal: Any = None, **more: Any) -> PhysicalNetworkClassifier:
    defaults = {"max_iter": 12, "n_calibration_shots": 60, "batch_size": 16, "random_state": 0, "tol": 0}
    network = PhysicalNetworkClassifier(device, SMALL_TWIN, journal=journal, **(defaults | more))
    return network.fit(*data())


def same_weights(one: Any, other: Any) -> bool:
    return all((one.weights_[name] == other.weights_[name]).all() for name in one.weights_)


@pytest.mark.parametrize(
    ("max_iter", "n_faults"), [pytest.param(3, 70, id="some"), pytest.param(12, 200, id="many", marks=pytest.mark.slow)]
)
def test_no_fault_changes_a_weight_and_no_bound_is_passed(max_iter: int, n_faults: int) -> None:
    with SimulatedInstrument(laser(), saturation=1e3) as instrument:
        clean = fit(visa(instrument.address), max_iter=max_iter)
    faults = dict.fromkeys(KINDS, 0.1)
    with SimulatedInstrument(
        laser(), faults=faults, seed=3, saturation=1e3, late_seconds=0.09, record=True
    ) as instrument:
        broken = fit(visa(instrument.address, timeout=0.06), max_iter=max_iter)
    assert sum(instrument.injected.values()) >= n_faults
    assert min(instrument.injected[kind] for kind in KINDS) >= n_faults / 15
    assert same_weights(clean, broken)  # every answer belongs to its row
    assert instrument.violations == 0
    assert instrument.overlaps == 0
    assert np.nanmin(instrument.lowest) >= 0
    assert np.nanmax(instrument.highest) <= 1
    found = broken.ledger_.faults
    assert found["not_finite"] == instrument.injected["nan"]
    assert found["saturated"] == instrument.injected["saturated"]
    assert found["connection"] >= sum(instrument.injected[kind] for kind in ("late", "mute", "truncated", "closed"))
    repeated = (
        broken.ledger_.total - clean.ledger_.total
    )  # every repeat is counted; a last piece may have fewer than 4 rows
    assert sum(found.values()) <= repeated <= 4 * sum(found.values())


def test_with_noise_the_weights_are_those_of_the_answers_that_were_accepted(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    with SimulatedInstrument(laser(0.02), faults={"nan": 0.1, "closed": 0.1, "truncated": 0.05}, seed=5) as instrument:
        device = visa(instrument.address, timeout=0.2)
        broken = fit(device, path, max_iter=4)
        measured = instrument.rows
        again = fit(device, path, max_iter=4)  # the same answers, and no fault
        assert instrument.rows == measured
    assert sum(broken.ledger_.faults.values()) > 5
    assert sum(again.ledger_.faults.values()) == again.ledger_.total == 0
    assert same_weights(broken, again)
    with Journal(path) as journal:
        assert journal.about["identity"].startswith("skpat,SecondHarmonicLaser")
        n_accepted = len(journal.to_arrays()["outputs"])
    assert (
        n_accepted < broken.ledger_.total == sum(again.ledger_.replayed.values())
    )  # repeats, too, have been asked for


@pytest.mark.usefixtures("fresh_workers")
def test_a_grid_search_and_threads_share_one_instrument() -> None:
    with SimulatedInstrument(laser(), record=True) as instrument:
        device = visa(instrument.address, control_units="V")
        network = PhysicalNetworkClassifier(
            device, SMALL_TWIN, max_iter=1, n_calibration_shots=20, random_state=0, batch_size=32
        )
        searches = [
            GridSearchCV(network, {"n_layers": [1, 2]}, cv=2, n_jobs=n_jobs, refit=False, error_score="raise")
            for n_jobs in (2, None)
        ]
        threads = [threading.Thread(target=search.fit, args=data()) for search in searches]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive()
        total = Ledger.at(instrument.address)
    assert searches[0].cv_results_["mean_test_score"].tolist() == searches[1].cv_results_["mean_test_score"].tolist()
    assert sum(total.values()) == instrument.rows
    assert instrument.overlaps == instrument.violations == 0
