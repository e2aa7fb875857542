"""cost_report: every figure has a source, what is unknown stays unknown, and nothing is sent unless asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError

from skpat import PhysicalNetworkClassifier, PhysicalNetworkRegressor, as_device
from skpat.inspection.digital_cost import digital_cost
from skpat.training import PhysicsAware
from skpat.twins import NeuralTwin

X, Y = load_iris(return_X_y=True)
MIXING = np.random.default_rng(0).standard_normal((12, 6)) / 3
PARTS = ("device", "conversion", "encoder", "gains and normalisation", "readout")


def fitted(joules: float | None = 1e-12, seconds: float | None = 1e-6, **params: Any) -> PhysicalNetworkClassifier:
    device = as_device(
        lambda controls: np.tanh(controls @ MIXING), n_controls=12, n_outputs=6, bounds=(-1, 1), name="bench",
        joules_per_shot=joules, seconds_per_shot=seconds,
    )  # fmt: skip
    defaults: dict[str, Any] = {
        "twin": NeuralTwin((8,), max_iter=3, n_refine_steps=1),
        "max_iter": 3,
        "random_state": 0,
    }
    return PhysicalNetworkClassifier(device, **(defaults | params)).fit(X, Y)


@pytest.mark.parametrize("params", [{}, {"n_layers": 2, "skip": "input"}, {"n_units": 2, "readout": "bins"}])
def test_the_digital_parts_are_those_of_digital_cost(params: dict[str, Any]) -> None:
    network = fitted(max_iter=1, **params)
    report = network.cost_report(X)
    operations = sum(row.count or 0 for row in report.prediction if row.unit == "multiply-adds")
    assert operations == digital_cost(network).operations


def test_the_figures_are_what_they_say() -> None:
    network = fitted(n_layers=2, n_shots=3)
    report = network.cost_report(X, joules_per_conversion=1e-9, joules_per_operation=1e-10, seconds_per_conversion=0.5)
    assert report["device"].count == 6
    assert report["device"].joules == pytest.approx(6e-12)
    assert report["device"].seconds == pytest.approx(6e-6)
    assert report["device"].source == "device's specification"
    assert report["conversion"].count == 6 * (network.control_split_.n_inputs + 6)
    assert report["conversion"].joules == pytest.approx(report["conversion"].count * 1e-9)
    assert report["conversion"].seconds == pytest.approx(6)
    assert report["readout"].joules == pytest.approx(18 * 1e-10)
    assert report["prediction in all"].joules == pytest.approx(sum(report[name].joules or 0 for name in PARTS))
    for kind in ("calibration", "training", "validation"):
        assert report[f"{kind} shots"].count == network.shots_[kind]
        assert report[f"{kind} shots"].joules == pytest.approx(network.shots_[kind] * 1e-12)
    assert {report[name].source for name in ("conversion", "encoder", "readout", "twin")} == {"assumed"}
    assert report["twin"].count > network.shots_["calibration"]


@pytest.mark.parametrize("gradient", [PhysicsAware(refine=False), "direct_feedback_alignment"])
def test_a_twin_that_does_not_learn_on_costs_its_fit_alone(gradient: Any) -> None:
    counts = []
    for max_iter in (1, 3):
        network = fitted(gradient=gradient, n_calibration_shots=50, max_iter=max_iter)
        counts.append(network.cost_report(X)["twin"].count / network.shots_["calibration"])
    assert counts[0] == pytest.approx(counts[1], rel=1e-6)


@pytest.mark.parametrize("states", [{"joules": None}, {"seconds": None}, {"joules": None, "seconds": None}])
def test_unknown_is_never_zero(states: dict[str, None]) -> None:
    report = fitted(max_iter=1, **states).cost_report(X, Y, score=0.5)
    for kind in states:
        for name in ("device", "prediction in all", "training shots", "training in all"):
            assert getattr(report[name], kind) is None
        assert f"{kind}_per_shot" in report["device"].source
    assert (report["device"].joules is None) == ("joules" in states)
    assert "unknown" in str(report)
    if "joules" in states:
        assert report.n_break_even is None
        assert "Break-even unknown" in str(report)
        assert report.to_pandas()["joules"].isna()["device"]


def test_nothing_is_sent_unless_asked() -> None:
    network = fitted()
    earlier = network.shots_
    report = network.cost_report(X, Y)
    network._repr_html_()
    assert network.shots_ == earlier
    assert report.digital is None
    assert "needs the device's score" in str(report)
    measured = network.cost_report(X, Y, measure=True)
    assert network.shots_["prediction"] == earlier["prediction"] + len(X)
    row = measured["whole prediction, by the clock"]
    assert row.seconds > 0
    assert row.source.startswith("measured")
    assert measured.digital is not None or "reaches" in str(measured)


def test_without_y_the_report_says_why() -> None:
    report = fitted(max_iter=1).cost_report(X)
    assert report.digital is None
    assert report.n_break_even is None
    assert "it needs y" in str(report)


def test_the_smallest_equivalent_and_the_break_even() -> None:
    network = fitted()
    free = {"joules_per_operation": 0.0, "joules_per_conversion": 0.0}
    report = network.cost_report(X, Y, score=0.8, accelerator_joules_per_operation=1e-10, **free)
    assert report.digital is not None
    assert report.digital_width == 0  # a linear model is enough
    assert report.digital.count == 4 + 4 * 3
    spent = sum(n for kind, n in network.shots_.items() if kind != "prediction") * 1e-12
    assert report.n_break_even == pytest.approx(spent / (16e-10 - 1e-12))
    assert "has paid for its training after" in str(report)
    never = network.cost_report(X, Y, score=0.8)
    assert never.n_break_even == np.inf
    assert "never pays" in str(never)
    impossible = network.cost_report(X[:30], Y[::-1][:30] * 0 + np.arange(30) % 3, score=1.1)
    assert impossible.digital is None
    assert "no perceptron" in str(impossible)


def test_a_regressor_and_other_methods() -> None:
    regressor = PhysicalNetworkRegressor(fitted(max_iter=1).device, max_iter=1, gradient="spsa").fit(X[:, :3], X[:, 3])
    report = regressor.cost_report(X[:, :3], X[:, 3], score=0.5)
    assert report.digital_width == 0
    assert "twin" not in str(report)
    in_silico = fitted(gradient="in_silico", max_iter=1).cost_report(X)
    assert in_silico["twin"].joules is None
    assert "not known" in in_silico["twin"].source


def test_text_html_and_table_have_every_row() -> None:
    report = fitted(max_iter=1).cost_report(X, Y, score=0.8)
    table = report.to_pandas()
    for row in (*report.prediction, *report.training, report.digital):
        assert row.name in str(report)
        assert row.name in report._repr_html_()
        assert row.name in table.index
    assert "assumed" in set(table["source"])
    with pytest.raises(KeyError, match="'nonsense' is no row of this report"):
        report["nonsense"]


def test_what_it_refuses() -> None:
    with pytest.raises(NotFittedError):
        PhysicalNetworkClassifier().cost_report(X)
    with pytest.raises(ValueError, match=r"'joules_per_operation' must be a finite number of at least 0\. Got -1"):
        fitted(max_iter=1).cost_report(X, joules_per_operation=-1)
