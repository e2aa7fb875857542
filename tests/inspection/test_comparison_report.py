"""What a comparison says of scores that are known: what is certain, what may be chance, and what needs no device."""

from __future__ import annotations

import re

import numpy as np
import pytest

from skpat.inspection import BaselineComparison
from skpat.inspection.comparison_report import standard_error

from .compared_rows import row


@pytest.mark.parametrize(
    ("scores", "says"),
    [
        ([0.9, 0.92, 0.91], "Training adds 0.110 ± 0.000 of accuracy over the same network untrained"),
        (
            [0.8, 0.9, 0.7],
            r"No difference is seen between the trained network and the same network untrained, with a fitted linear "
            r"readout: 0\.000 ± 0\.0",
        ),
        ([0.7, 0.72, 0.71], "Training adds nothing over the same network untrained, .*: it is worse by 0.090 ± 0.000"),
        ([0.79, 0.81, 0.8], r"No difference is seen .*: 0\.000 ± 0\.000\."),
        (
            [0.79, np.nan, 0.8],
            "Nothing can be said of the trained network and the same network untrained, .*: a fold has",
        ),
        ([0.85, 0.95, 0.7], r"No difference is seen .*: 0\.033 ± 0\.09"),
        ([0.99, 0.71, 0.68], r"No difference is seen .*: -0\.007 ± 0\."),
        (
            [0.75, 0.65, 0.76],
            "The trained network may be worse than the same network untrained, with a fitted linear readout: by "
            r"0\.080 ± 0\.0.., but 3 folds do not make it certain",
        ),
        (
            [0.85, 0.95, 0.84],
            "Training may add something over the same network untrained, with a fitted linear readout: the "
            r"difference is 0\.080 ± 0\.04., but 3 folds do not make it certain",
        ),
    ],
)
def test_chance_decides(scores: list[float], says: str) -> None:
    base = [0.79, 0.81, 0.8]
    found = BaselineComparison("d", "accuracy", (row("estimator", scores), row("untrained", base)), 0.25)
    assert re.search(says, found.sentences[0])
    assert found.adds_over("untrained") == (" adds 0" in found.sentences[0])


@pytest.mark.parametrize(
    ("scores", "said"),
    [([0.99, 0.98, 0.99], True), ([0.93, 0.9, 0.99], False), ([0.7, 0.8, 0.7], False)],
)
def test_a_model_without_a_device_that_is_better_is_named(scores: list[float], said: bool) -> None:
    rows = (row("estimator", [0.9, 0.92, 0.91]), row("svm", scores), row("mlp", [0.5, 0.5, 0.5]))
    found = BaselineComparison("d", "accuracy", rows, 0.25).sentences
    assert found == ("No device is needed to do better: the svm one does, by 0.077 ± 0.012 of accuracy.",) * said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("linear", "the network and a linear model (the linear one)"),
        ("identity", "the network with the device and the same network with the identity in its place"),
        ("in_silico", "the training as it is and training in silico, with the readout refitted on the device"),
    ],
)
def test_where_chance_may_make_it_no_difference_is_seen(name: str, said: str) -> None:
    rows = row("estimator", [0.85, 0.95, 0.7]), row(name, [0.79, 0.81, 0.8])
    found = BaselineComparison("d", "accuracy", rows, 0.25)
    mean, error = found.difference(name)
    assert 0 < mean < error
    assert found.sentences == (f"No difference is seen between {said}: {mean:.3f} ± {error:.3f}.",)


def test_training_in_silico_has_its_sentence() -> None:
    rows = row("estimator", [0.9, 0.92, 0.91]), row("in_silico", [0.95, 0.96, 0.96])
    (said,) = BaselineComparison("d", "accuracy", rows, 0.25).sentences
    assert said.startswith("The training as it is adds nothing over training in silico, with the readout refitted")
    assert "it is worse by 0.047" in said


@pytest.mark.parametrize(("n_folds", "errors"), [(2, 12.7062), (3, 4.3027), (5, 2.7764), (10, 2.2622)])
def test_few_folds_ask_for_more_standard_errors(n_folds: int, errors: float) -> None:
    spread = np.linspace(-0.01, 0.01, n_folds)
    error = standard_error(spread, 0.25)
    for share, adds in ((0.999, False), (1.001, True)):
        rows = row("estimator", 0.5 + share * errors * error + spread), row("linear", np.full(n_folds, 0.5))
        assert BaselineComparison("d", "R²", rows, 0.25).adds_over("linear") == adds


def test_folds_that_agree_by_chance_make_no_certainty() -> None:
    rows = row("estimator", [0.9, 0.9, 0.9]), row("linear", [0.88, 0.88, 0.88])
    assert BaselineComparison("d", "R²", rows, 0.5).adds_over("linear")
    found = BaselineComparison("d", "accuracy", rows, 0.5, n_tested=150)
    assert found.difference("linear") == pytest.approx((0.02, np.sqrt(0.02 * 0.98 / 150)))  # three rows of 150
    assert not found.adds_over("linear")
    assert BaselineComparison("d", "accuracy", rows, 0.5, n_tested=15_000).adds_over("linear")
    perfect = row("estimator", [1.0, 1.0, 1.0]), row("linear", [0.0, 0.0, 0.0])
    assert BaselineComparison("d", "accuracy", perfect, 0.5, n_tested=30).adds_over("linear")


def test_large_scores_keep_their_digits() -> None:
    rows = (row("estimator", [-1234.5, -1236.5]), row("linear", [-2000.0, -2100.0]))
    assert "-1236 ±" in str(BaselineComparison("d", "neg_mean_squared_error", rows, 1.0))


# ---- representations ----
