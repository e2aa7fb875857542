"""cost_report: every figure has a source, what is unknown stays unknown, and nothing is sent unless asked."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError

from skpat import Device, PhysicalNetworkClassifier, PhysicalNetworkRegressor, as_device
from skpat.devices import SecondHarmonicLaser
from skpat.estimators import cost_report
from skpat.inspection.digital_cost import digital_cost
from skpat.network import PatchEncoder
from skpat.training import PhysicsAware
from skpat.twins import NeuralTwin, PhysicsTwin, Twin, neural_module

X, Y = load_iris(return_X_y=True)
LABELS = np.stack([Y > 0, Y > 1, X[:, 0] > 5.8], axis=1).astype(int)
MIXING = np.random.default_rng(0).standard_normal((12, 6)) / 3
PARTS = ("device", "conversion", "encoder", "gains and normalisation", "readout")


def bench(**states: Any) -> Any:
    return as_device(
        lambda controls: np.tanh(controls @ MIXING), n_controls=12, n_outputs=6, bounds=(-1, 1), **({"name": "bench"} | states)
    )  # fmt: skip


def fitted(
    joules: float | None = 1e-12, seconds: float | None = 1e-6, data: Any = (X, Y), name: str = "bench", **params: Any
) -> PhysicalNetworkClassifier:
    defaults: dict[str, Any] = {
        "twin": NeuralTwin((8,), max_iter=3, n_refine_steps=1),
        "max_iter": 3,
        "random_state": 0,
    }
    device = bench(joules_per_shot=joules, seconds_per_shot=seconds, name=name)
    return PhysicalNetworkClassifier(device, **(defaults | params)).fit(*data)


def quick(data: Any = (X, Y), **params: Any) -> PhysicalNetworkClassifier:
    """Without a twin: trained for one epoch, for what does not depend on the training."""
    return fitted(data=data, **({"twin": None, "gradient": "spsa", "max_iter": 1} | params))


def regressor(data: Any, **params: Any) -> PhysicalNetworkRegressor:
    return PhysicalNetworkRegressor(bench(), max_iter=1, gradient="spsa", random_state=0, **params).fit(*data)


POOLED = PatchEncoder((2, 2), 1, pooling="mean")  # four patches of one pixel
CASES: list[tuple[dict[str, Any], tuple[int, int, int]]] = [  # encoder, gains and normalisation, readout; by hand
    ({}, (4 + 4 * 6, 6 + 6, 6 * 3)),
    ({"n_layers": 2, "skip": "input"}, (4 + 4 * 6, 2 * (6 + 6) + 6, 6 * 3)),
    ({"n_units": 2, "readout": "bins"}, (4 + 4 * 12, 2 * (6 + 6), 12)),
    ({"encoder": PatchEncoder((2, 2), 1)}, (4, 4 * (6 + 6), 24 * 3)),
    ({"encoder": PatchEncoder((2, 2), 1), "n_units": 2, "readout": "bins"}, (4, 8 * (6 + 6), 48)),
    ({"encoder": PatchEncoder((2, 2), 1), "n_layers": 2}, (4, 5 * (6 + 6) + 24, 6 * 3)),  # 24 outputs on 6 slots
    ({"encoder": PatchEncoder((2, 2), 1), "n_layers": 2, "n_units": 4}, (4, 20 * (6 + 6) + 96, 24 * 3)),
    ({"encoder": POOLED}, (4, 4 * (6 + 6) + 24, 6 * 3)),
    ({"encoder": POOLED, "readout": "bins"}, (4, 4 * (6 + 6) + 24, 6)),
    ({"encoder": POOLED, "n_layers": 3, "skip": "input"}, (4, 6 * (6 + 6) + 24 + 2 * (6 + 24), 6 * 3)),
    ({"encoder": POOLED, "n_layers": 3, "skip": "previous"}, (4, 6 * (6 + 6) + 24 + 2 * 6 + 24, 6 * 3)),
    ({"encoder": PatchEncoder((2, 2), downsample=2)}, (4 + 4, 6 + 6, 6 * 3)),
]


@pytest.mark.parametrize(("params", "counts"), CASES)
def test_the_digital_parts_are_those_of_digital_cost(params: dict[str, Any], counts: tuple[int, int, int]) -> None:
    network = quick(**params)
    report = network.cost_report(X)
    assert [report[name].count for name in ("encoder", "gains and normalisation", "readout")] == list(counts)
    assert digital_cost(network).operations == sum(counts)


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


@pytest.mark.parametrize(
    "params", [{}, {"twin": NeuralTwin((8,), max_iter=7)}, {"gradient": "direct_feedback_alignment"}]
)
@pytest.mark.parametrize("n_rows", [60, 150])
def test_the_twin_costs_what_its_steps_have_seen(
    params: dict[str, Any], n_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    step, refine = neural_module._step, neural_module.refine_module
    monkeypatch.setattr(neural_module, "_step", lambda *args: (seen.append(len(args[2])), step(*args)))
    monkeypatch.setattr(
        neural_module, "refine_module", lambda *args: (seen.extend(len(x) for x, _ in args[2]), refine(*args))
    )
    rows = np.random.default_rng(0).permutation(len(X))[:n_rows]
    network = fitted(data=(X[rows], Y[rows]), **params)
    n_weights = sum(parameter.numel() for parameter in network.twin_.module_.parameters())
    whole = network.cost_report(X)["twin"].count
    assert whole == 3 * n_weights * network.twin_.t_
    assert 0.8 * sum(seen) <= network.twin_.t_ <= sum(seen)  # what is held out, in whole rows


class Held(Device):
    """Knows what it was really sent: numbers for each row, and for all rows of a call."""

    n_controls, n_outputs, bounds = 12, 6, (-1.0, 1.0)
    joules_per_shot, seconds_per_shot, settling_seconds = 1e-12, 1e-6, 1e-3
    max_batch = 20

    def __init__(self, slow: tuple[int, ...] = ()):
        self.slow = slow

    @property
    def slow_controls(self) -> tuple[int, ...]:
        return self.slow

    def open(self) -> None:
        self.converted = self.changes = 0

    def set_shared(self, batch: Any) -> None:
        self.changes += 1
        self.converted += len(batch.shared_index)

    def measure(self, batch: Any) -> np.ndarray:
        self.converted += batch.n_rows * (len(batch.varying_index) + 6)
        return np.tanh(np.asarray(batch) @ MIXING)


@pytest.mark.parametrize("gradient", ["physics_aware", "in_silico", "spsa"])
@pytest.mark.parametrize("slow", [(), (0, 4)])
def test_the_training_converts_what_it_moves_and_waits_while_it_settles(gradient: str, slow: tuple[int, ...]) -> None:
    params: dict[str, Any] = {
        "gradient": gradient,
        "twin": None if gradient == "spsa" else NeuralTwin((8,), max_iter=3),
    }
    network = PhysicalNetworkClassifier(Held(slow), max_iter=3, n_calibration_shots=100, random_state=0, **params)
    assert "0.001 s more for each change" in str(network.plan(X))
    assert network.plan(X).settling_seconds == 1e-3
    network.fit(X, Y)
    device, report = network.device_, network.cost_report(X)
    assert report["conversion in training"].count == device.converted == sum(network.ledger_.conversions.values())
    assert report["settling in training"].seconds == pytest.approx(device.changes * 1e-3)
    assert network.ledger_.seconds == pytest.approx(device.changes * 1e-3 + 1e-6 * network.ledger_.total)
    network.predict(X)
    assert network.cost_report(X)["conversion in training"].count == report["conversion in training"].count
    assert network.cost_report(X)["settling in training"].seconds == report["settling in training"].seconds
    assert "settling" not in str(fitted(max_iter=1).cost_report(X))


class Fused(Held):
    """Breaks once, after so many shots."""

    settling_seconds = 0.0
    left: dict[str, float] = {}

    def measure(self, batch: Any) -> np.ndarray:
        self.left["shots"] -= batch.n_rows
        if self.left["shots"] < 0:
            raise RuntimeError("blown")
        return super().measure(batch)


@pytest.mark.parametrize("n_before", [500, 1e9])
def test_what_a_journal_answers_has_been_paid_for(n_before: float, tmp_path: Any) -> None:
    reports = []
    for journal, left in ((tmp_path / "one.db", 1e9), (tmp_path / "two.db", n_before), (tmp_path / "two.db", 1e9)):
        Fused.left["shots"] = left
        twin = NeuralTwin((8,), max_iter=3)
        network = PhysicalNetworkClassifier(Fused(), twin, max_iter=3, random_state=0, journal=journal)
        try:
            network.fit(X, Y)
        except RuntimeError:
            continue
        reports.append(network.cost_report(X, Y, score=0.8, accelerator_joules_per_operation=1e-3))
    first, again = reports[0], reports[-1]
    assert sum(network.ledger_.replayed.values()) > 0
    n_lost = sum(network.ledger_.asked.values()) - sum(row.count for row in first.training[:3])
    assert n_lost == (10 if n_before == 500 else 0)  # the batch that blew the fuse has been asked for, too
    assert again["training shots"].count == first["training shots"].count + n_lost
    assert again.n_break_even >= first.n_break_even > 0
    for one, other in zip(first.training, again.training, strict=True):
        assert one.name == other.name
        if not n_lost or one.name not in ("training shots", "conversion in training", "training in all"):
            assert (one.count, one.joules, one.seconds) == (other.count, other.joules, other.seconds)
    assert "of them came from the journal" in again["calibration shots"].source


@pytest.mark.parametrize("states", [{"joules": None}, {"seconds": None}, {"joules": None, "seconds": None}])
def test_unknown_is_never_zero(states: dict[str, None]) -> None:
    report = fitted(max_iter=1, **states).cost_report(X, Y, score=0.5)
    for kind in states:
        for name in ("device", "prediction in all", "training shots", "training in all"):
            assert getattr(report[name], kind) is None
        assert f"{kind}_per_shot" in report["device"].source
    assert report["device"].source.startswith("device's specification") == (len(states) == 1)
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


def test_the_clock_is_of_one_row_and_a_score_that_is_given_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    network = quick()
    clock = SimpleNamespace(perf_counter=iter([0.0, 30.0, 100.0, 160.0]).__next__)
    monkeypatch.setattr(cost_report, "time", clock)
    report = network.cost_report(X, Y, measure=True, score=0.5)
    assert report["whole prediction, by the clock"].seconds == pytest.approx(30 / len(X))
    assert "the device 0.500" in str(report)
    alone = network.cost_report(csr_matrix(X[:30]), measure=True)
    assert alone["whole prediction, by the clock"].seconds == pytest.approx(60 / 30)
    assert network.shots_["prediction"] == len(X) + 30


class Reticent(Twin):
    """Has weights, and does not tell how many steps it took."""

    def fit(self, controls: Any, outputs: Any, sample_weight: Any = None) -> Reticent:
        self.n_features_in_ = np.shape(controls)[1]
        self.module = torch.nn.Linear(self.n_features_in_, np.shape(outputs)[1], dtype=torch.float64)
        return self

    @property
    def module_(self) -> torch.nn.Module:
        return self.module


@pytest.mark.parametrize("device", [bench(), SecondHarmonicLaser(8, 4, n_steps=2)], ids=["own", "equations"])
def test_what_a_twin_does_not_tell_of_its_steps_is_unknown(device: Any) -> None:
    twin = PhysicsTwin(device, []) if isinstance(device, SecondHarmonicLaser) else Reticent()
    how: dict[str, Any] = {"gradient": PhysicsAware(pretrain=False), "max_iter": 1, "random_state": 0}
    report = PhysicalNetworkClassifier(device, twin, **how).fit(X, Y).cost_report(X)
    assert report["twin"].joules is None
    assert report["training in all"].joules is None
    assert "how many there were is not kept" in report["twin"].source


def test_a_device_that_costs_as_much_as_the_accelerator_never_pays() -> None:
    free = {"joules_per_operation": 0.0, "joules_per_conversion": 0.0}
    for joules in (1e-9, 0.0):
        report = quick(joules=joules).cost_report(
            X, Y, score=0.5, accelerator_joules_per_operation=joules / (4 + 4 * 3), **free
        )
        assert report.n_break_even == np.inf
        assert "never pays" in str(report)


def test_what_is_said_names_the_model_its_score_and_the_shots() -> None:
    report = quick().cost_report(X, Y, score=0.5)
    assert report.digital is not None
    assert report.digital.name == "digital equivalent (linear)"
    reached = float(re.search(r"equivalent scores (\S+) in 5 folds; the device 0\.500", str(report))[1])  # type: ignore[index]
    assert reached > 0.9
    assert re.search(r"device +1 shot +1e-12 J +1e-06 s +device's", str(report))


def test_a_page_shows_names_as_they_stand() -> None:
    html = quick(name="<b>A & B</b>").cost_report(X)._repr_html_()
    assert "&lt;b&gt;A &amp; B&lt;/b&gt;" in html
    assert "<b>A" not in html
    assert "device&#x27;s specification" in html


def test_without_y_the_report_says_why() -> None:
    report = fitted(max_iter=1).cost_report(X)
    assert report.digital is None
    assert report.n_break_even is None
    assert "it needs y" in str(report)


def test_the_smallest_equivalent_and_the_break_even(monkeypatch: pytest.MonkeyPatch) -> None:
    network = quick()
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
    monkeypatch.setattr(cost_report, "_WIDTHS", (0, 1))
    impossible = network.cost_report(X[:30], np.arange(30) % 3, score=1)
    assert impossible.digital is None
    assert "no perceptron of up to 1 hidden units reaches 1.000 in 5 folds of the 30 rows given" in str(impossible)


def test_the_digital_models_are_given_features_of_any_unit() -> None:
    rows = np.random.default_rng(0).uniform(-1, 1, (80, 2))
    rows, labels = rows * [1e-6, 1.0], rows[:, 0] > 0
    assert quick((rows, labels)).cost_report(rows, labels, score=0.9).digital_width == 0


def test_two_classes_need_one_score_and_every_row_right_is_reached_by_every_row_right() -> None:
    two = X[:100], Y[:100]  # which a plane divides
    report = quick(two).cost_report(*two, score=1)
    assert report.digital is not None
    assert report.digital_width == 0
    assert report.digital.count == 4 + 4 * 1


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_a_target_that_is_not_linear_has_an_equivalent_whatever_its_unit(
    unit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost_report, "_WIDTHS", (0, 8))
    rows = np.random.default_rng(0).uniform(-1, 1, (80, 2))
    curved = unit * np.abs(rows).sum(axis=1)
    reports = [
        regressor((rows, y)).cost_report(rows, y, score=0.5) for y in (curved, np.stack([curved, curved], axis=1))
    ]
    for n_targets, report in enumerate(reports, 1):
        assert report.digital_width == 8
        assert report.digital is not None
        assert report.digital.count == 2 + 8 * (2 + n_targets)


@pytest.mark.parametrize("make", [np.asarray, csr_matrix])
@pytest.mark.parametrize("n_labels", [2, 3])
def test_several_labels_have_an_equivalent_that_gets_all_of_them_right(make: Any, n_labels: int) -> None:
    labels = LABELS[:, :n_labels]
    network = quick((X, make(labels)))
    linear = network.cost_report(X, make(labels), score=0.8)
    assert linear.digital is not None
    assert linear.digital_width == 0
    assert linear.digital.count == 4 + 4 * n_labels
    measured = network.cost_report(csr_matrix(X), make(labels), measure=True)
    assert measured.digital is not None
    assert f"the device {network.score(X, labels):.3f}" in str(measured)
    assert network.shots_["prediction"] == 2 * len(X)


def test_several_labels_that_no_plane_divides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost_report, "_WIDTHS", (0, 16))
    rows = np.random.default_rng(0).uniform(-1, 1, (80, 2))
    labels = np.stack([np.abs(rows).sum(axis=1) > 1, rows[:, 0] > 0, rows[:, 0] > 3], axis=1).astype(
        int
    )  # the last: none
    report = quick((rows, labels)).cost_report(rows, labels, score=0.8)
    assert report.digital_width == 16


@pytest.mark.parametrize(
    ("rows", "n_folds"),
    [
        ([0, 1, 50, 51], 2),
        ([0, 1, 50, 51, 100], 2),
        ([*range(10), *range(50, 53)], 3),
        ([*range(5), *range(50, 57)], 5),
    ],
)
def test_few_rows_make_fewer_folds(rows: list[int], n_folds: int) -> None:
    report = quick().cost_report(X[rows], Y[rows], score=0.0)
    assert f"in {n_folds} folds" in str(report)
    of_targets = regressor((X[:, :3], X[:, 3])).cost_report(X[rows, :3], X[rows, 3], score=-1e9)
    assert f"in {min(len(rows) // 2, 5)} folds" in str(of_targets)
    of_labels = quick((X, LABELS)).cost_report(X[rows], LABELS[rows], score=0.0)
    assert f"in {min(len(rows), 5)} folds" in str(of_labels)


def test_a_regressor_and_other_methods() -> None:
    report = regressor((X[:, :3], X[:, 3])).cost_report(X[:, :3], X[:, 3], score=0.5)
    assert report.digital_width == 0
    assert "twin" not in str(report)
    in_silico = fitted(gradient="in_silico", max_iter=1).cost_report(X)
    assert in_silico["twin"].joules is None
    assert in_silico["twin"].source == "unknown (how many there were is not kept)"
    begun = fitted(gradient=PhysicsAware(pretrain=True), max_iter=1).cost_report(X)
    assert begun["twin"].joules is None  # it, too, has trained on its twin


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
        quick().cost_report(X, joules_per_operation=-1)


@pytest.mark.parametrize("measure", [False, True])
@pytest.mark.parametrize("score", [np.nan, np.inf, -np.inf, 95, "high", True])
def test_a_score_that_is_none_is_refused_before_a_shot(score: Any, measure: bool) -> None:
    for network, y, wanted in (
        (quick(), Y, "an accuracy between 0 and 1"),
        (regressor((X, X[:, 3])), X[:, 3], "a finite R² of at most 1"),
    ):
        with pytest.raises(ValueError, match=rf"'score' must be {wanted}\. Got {score!r}\. Nothing was sent\."):
            network.cost_report(X, y, score=score, measure=measure)
        assert network.shots_["prediction"] == 0
    with pytest.raises(ValueError, match=r"'score' must be an accuracy between 0 and 1\. Got -0\.1\."):
        quick().cost_report(X, Y, score=-0.1)


@pytest.mark.parametrize("asked", [{"score": 0.5}, {"measure": True}, {"score": 0.5, "measure": True}])
def test_data_that_the_network_does_not_know_are_refused_before_a_shot(asked: dict[str, Any]) -> None:
    network, of_labels, of_targets = quick(), quick((X, LABELS)), regressor((X, X[:, 3]))
    holes = np.where(X > 7, np.nan, X)
    refused: list[tuple[Any, Any, Any, str]] = [
        (network, X[:, :3], Y, "X has 3 features, but PhysicalNetworkClassifier is expecting 4"),
        (network, X[:, :3], None, "X has 3 features"),
        (network, holes, Y, "Input X contains NaN"),
        (network, X, Y[:50], "inconsistent numbers of samples"),
        (network, X, Y + 1, r"'y' must have the labels \[0, 1, 2\] only\. Got also \[3\]"),
        (network, X, LABELS, "'y' must hold one class for each row"),
        (of_labels, X, LABELS[:, :2], r"'y' must be zeros and ones of shape \(n_samples, 3\)"),
        (of_targets, X, X[:, :2], "'y' must have 1 columns"),
        (
            network,
            X[:9],
            Y[:9],
            r"'y' must have at least two classes of two rows or more: .* Got classes of 9 rows\. Nothing",
        ),
        (
            network,
            X[[0, 1, 60, 120]],
            Y[[0, 1, 60, 120]],
            r"Got classes of 2, 1, 1 rows\. Nothing was sent\. Give more rows",
        ),
        (of_labels, X[:1], LABELS[:1], r"'y' must have at least 2 rows: .* Got 1\. Nothing was sent"),
        (of_targets, X[:3], X[:3, 3], r"'y' must have at least 4 rows: .* Got 3\. Nothing was sent"),
    ]
    for est, rows, y, message in refused:
        with pytest.raises(ValueError, match=message):
            est.cost_report(rows, y, **asked)
        assert est.shots_["prediction"] == 0
    assert network.cost_report(X[:3], measure=True)["device"].count == 1  # rows without y need no folds
    assert network.cost_report(X[:3], Y[:3]).digital is None
