"""What a comparison will take of the device, against what a device has counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, LeaveOneOut, RepeatedStratifiedKFold
from sklearn.pipeline import make_pipeline

from skpat import Device, PhysicalNetworkClassifier, PhysicalNetworkRegressor, as_device
from skpat.devices import IdentityDevice
from skpat.inspection import compare_baselines, plan_comparison
from skpat.inspection.untrained_device import UntrainedDevice
from skpat.twins import NeuralTwin

WIRING = np.random.default_rng(3).normal(size=(4, 6)) / 2
COUNTED: list[int] = []


class Bank(Device):
    """Products of neighbouring channels; counts its rows."""

    n_controls, n_outputs = 8, 6
    bounds = (-1.0, 1.0)
    seconds_per_shot = 0.02

    def measure(self, batch: Any) -> np.ndarray:
        controls = np.asarray(batch)
        COUNTED.append(len(controls))
        return (controls[:, ::2] * controls[:, 1::2]) @ WIRING


def data(n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    X = np.random.default_rng(0).uniform(-1, 1, (n, 3))
    return X, (X[:, 0] * X[:, 1] > 0).astype(int)


def network(kind: Any = PhysicalNetworkClassifier, **params: Any) -> Any:
    defaults: dict[str, Any] = {
        "twin": NeuralTwin((4,), max_iter=5, n_refine_steps=1, random_state=0),
        "n_calibration_shots": 40,
        "max_iter": 2,
        "random_state": 0,
    }
    return kind(Bank(), **(defaults | params))


@pytest.mark.parametrize(
    ("est", "arguments"),
    [
        (network(), {"cv": 2}),
        (network(n_layers=2, n_shots=2, early_stopping=True), {"cv": 3, "baselines": ["untrained", "in_silico"]}),
        (network(gradient="spsa"), {"cv": 2, "baselines": ["linear", "identity", "in_silico"]}),
        (make_pipeline(PCA(0.7), network(encoder="direct")), {"cv": 4, "baselines": ["untrained"]}),
        (make_pipeline(network()), {"cv": RepeatedStratifiedKFold(n_splits=2, n_repeats=2, random_state=1)}),
        (network(PhysicalNetworkRegressor), {"cv": 2}),
    ],
)
def test_a_comparison_takes_what_was_planned(est: Any, arguments: dict[str, Any]) -> None:
    X, y = data()
    COUNTED.clear()
    plan = plan_comparison(est, X, y, **arguments)
    assert not COUNTED
    found = compare_baselines(est, X, y, **arguments)
    assert sum(COUNTED) == plan.shots
    by_name = {row.name: row for row in plan.rows}
    assert by_name.keys() == {row.name for row in found.rows if row.uses_device}
    for name, row in by_name.items():
        assert row.label == found[name].label
        assert row.fits == plan.n_folds * found[name].n_shots_fit


def test_a_budget_holds_for_each_fit_but_the_untrained_devices() -> None:
    X, y = data()
    arguments = {"cv": 2, "baselines": ["untrained", "in_silico"]}
    free, bound = (plan_comparison(network(max_iter=9, max_shots=most), X, y, **arguments) for most in (None, 100))
    assert bound.rows[0].fits == 2 * 100 < free.rows[0].fits
    assert bound.rows[1] == free.rows[1]
    COUNTED.clear()
    compare_baselines(network(max_iter=9, max_shots=100), X, y, **arguments)
    assert sum(COUNTED) <= bound.shots  # a batch that no budget is left for is not begun


def test_a_dict_of_other_networks_is_counted_too() -> None:
    X, y = data()
    others = {
        "mlp": network(n_layers=2),
        "flat": network().set_params(device=IdentityDevice.like(Bank())),
        "linear": make_pipeline(PCA(2), LogisticRegression()),
    }
    plan = plan_comparison(network(), X, y, cv=2, baselines=others)
    assert [row.name for row in plan.rows] == ["estimator", "mlp"]
    assert plan.rows[1].predictions == 2 * plan.rows[0].predictions == 2 * len(X)
    assert plan.seconds == pytest.approx(0.02 * plan.shots)
    assert plan.joules is None


def test_a_plan_is_printed_as_it_is_read() -> None:
    X, y = data()
    plan = plan_comparison(network(), X, y, cv=2, baselines=["untrained"])
    first, _, estimator, untrained, time, energy, last = str(plan).splitlines()
    assert first.startswith(f"A comparison on Bank in 2 folds takes at most {plan.shots:,} shots")
    assert estimator.split() == ["PhysicalNetworkClassifier", f"{plan.rows[0].fits:,}", "60"]
    assert untrained.split()[-2:] == [f"{plan.rows[1].fits:,}", "60"]
    assert time.split() == ["time", f"{plan.seconds:.4g}", "s", *["on", "the", "device", "alone"]]
    assert energy.endswith("unknown (the device states no joules_per_shot)")
    assert last == "Nothing has been sent."


def test_what_has_no_device_takes_no_shots() -> None:
    X, y = data()
    plan = plan_comparison(
        network().set_params(device=IdentityDevice.like(Bank())), X, y, cv=2, baselines=["untrained"]
    )
    assert (plan.rows, plan.shots) == ((), 0)
    assert "at most 0 shots" in str(plan)


def test_settling_is_told() -> None:
    X, y = data()
    device = as_device(lambda c: c[:, :2], n_controls=8, n_outputs=2, bounds=(0, 1), settling_seconds=0.25)
    plan = plan_comparison(network().set_params(device=device), X, y, cv=2, baselines=[])
    assert "0.25 s more for each change" in str(plan)


def test_what_cannot_be_counted_is_refused() -> None:
    X, y = data()
    with pytest.raises(TypeError, match="Got one within a GridSearchCV"):
        plan_comparison(network(), X, y, baselines={"search": GridSearchCV(network(), {"n_layers": [1, 2]})})
    with pytest.raises(TypeError, match="The estimator must be"):
        plan_comparison(LogisticRegression(), X, y)
    with pytest.raises(ValueError, match="at least two splits"):
        plan_comparison(network(), X, y, cv=[(np.arange(40), np.arange(40, 60))])
    assert plan_comparison(network(), X[:12], y[:12], cv=LeaveOneOut(), baselines=["linear"]).n_folds == 12


def test_the_untrained_device_is_planned_by_itself() -> None:
    X, y = data()
    untrained = UntrainedDevice(network(max_shots=10))
    assert untrained.plan(X).shots == sum(untrained.fit(X, y).network_.shots_.values())
