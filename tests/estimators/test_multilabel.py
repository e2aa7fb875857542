"""Several labels at once: independent sigmoids, and all that goes with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.datasets import load_linnerud, make_multilabel_classification
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_score
from sklearn.utils import get_tags

from skpat import PhysicalNetworkClassifier, deployment
from skpat.devices import SecondHarmonicLaser
from skpat.exceptions import DeploymentFileError
from skpat.lab.array_file import read_arrays, write_arrays
from skpat.training.loss import binary_cross_entropy, cross_entropy

X, Y = make_multilabel_classification(200, 10, n_classes=4, random_state=0)
LASER = SecondHarmonicLaser(16, 12, n_steps=2, noise=0, noise_floor=0, energy_jitter=0)


def labels(**params: Any) -> PhysicalNetworkClassifier:
    defaults: dict[str, Any] = {"gradient": "exact", "max_iter": 10, "learning_rate_init": 0.05, "random_state": 0}
    return PhysicalNetworkClassifier(LASER, **(defaults | params))


def test_every_label_is_learned() -> None:
    network = labels().fit(X[:140], Y[:140])
    auc = roc_auc_score(Y[140:], network.predict_proba(X[140:]), average=None)
    assert auc.min() > 0.7  # 0.5 without learning
    assert network.classes_.tolist() == [0, 1, 2, 3]
    assert network.multilabel_
    assert get_tags(network).classifier_tags.multi_label


def test_predictions_are_consistent_with_independent_probabilities() -> None:
    network = labels().fit(X, Y)
    scores, probabilities = network.decision_function(X), network.predict_proba(X)
    assert scores.shape == probabilities.shape == Y.shape
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-scores)))
    np.testing.assert_allclose(np.exp(network.predict_log_proba(X)), probabilities)
    np.testing.assert_array_equal(network.predict(X), (probabilities > 0.5).astype(int))
    assert network.score(X, Y) == (network.predict(X) == Y).all(axis=1).mean()
    assert np.ptp(probabilities.sum(axis=1)) > 0.5  # no softmax over the labels


def test_two_labels_are_not_two_classes() -> None:
    network = labels().fit(X, Y[:, :2])
    assert network.decision_function(X).shape == (200, 2)
    assert network.predict(X).shape == (200, 2)


def test_sparse_and_dense_labels_are_one() -> None:
    dense, from_sparse = labels(max_iter=2).fit(X, Y), labels(max_iter=2).fit(X, sparse.csr_matrix(Y))
    np.testing.assert_array_equal(dense.predict_proba(X), from_sparse.predict_proba(X))


def test_validation_early_stopping_partial_fit_and_class_weights() -> None:
    stopped = labels(early_stopping=True, max_iter=4).fit(X, Y)
    given = labels(max_iter=4).fit(X, Y, X_val=X[:50], y_val=Y[:50])
    assert len(stopped.validation_scores_) == len(given.validation_scores_) == 4
    assert given.best_validation_score_ == given.score(X[:50], Y[:50])  # without noise
    network = labels().partial_fit(X, Y)
    for _ in range(5):
        network.partial_fit(X, Y)
    assert roc_auc_score(Y, network.predict_proba(X)) > 0.75
    assert cross_val_score(labels(max_iter=3), X, Y, cv=2).shape == (2,)
    heavy = [{0: 1.0, 1: 20.0}] + [{0: 1.0, 1: 1.0}] * 3
    weighted = labels(class_weight=heavy).fit(X, sparse.csr_matrix(Y))
    assert weighted.predict(X)[:, 0].mean() > labels().fit(X, Y).predict(X)[:, 0].mean() + 0.1


def test_what_is_no_indicator_matrix_is_refused_before_anything_is_sent() -> None:
    rows, several = load_linnerud(return_X_y=True)
    with pytest.raises(ValueError, match=r"one class for each row.*Got multiclass-multioutput of shape \(20, 3\)"):
        labels().fit(rows, several.astype(int))
    network = labels(warm_start=True, max_iter=1).fit(X, Y)
    for wrong in (Y[:, :3], 2 * Y, Y[:, 0]):
        with pytest.raises(ValueError, match=r"zeros and ones of shape \(n_samples, 4\)"):
            network.fit(X, wrong)
    with pytest.raises(ValueError, match=r"zeros and ones of shape \(n_samples, 5\)"):
        labels().partial_fit(X, Y, classes=range(5))
    one = labels(warm_start=True, max_iter=1).fit(X, Y[:, 0])
    with pytest.raises(ValueError, match=r"one class for each row.*Got multilabel-indicator"):
        one.fit(X, Y)


@pytest.mark.parametrize("n_labels", [2, 4])  # two labels are not two classes
def test_a_deployed_network_knows_labels_too(n_labels: int, tmp_path: Path) -> None:
    network = labels(max_iter=2).fit(X, Y[:, :n_labels])
    network.deploy().save(tmp_path / "labels.skpat")
    deployed = deployment.load(tmp_path / "labels.skpat", LASER)
    for method in ("predict", "predict_proba", "decision_function"):
        np.testing.assert_array_equal(getattr(deployed, method)(X), getattr(network, method)(X))
    about, arrays = read_arrays(tmp_path / "labels.skpat")
    write_arrays(tmp_path / "forged.skpat", about | {"multilabel": "yes"}, arrays)
    with pytest.raises(DeploymentFileError, match="'multilabel' must be true or false"):
        deployment.load(tmp_path / "forged.skpat", LASER)


def test_a_probability_of_exactly_one_half_is_no_label_deployed_or_not() -> None:
    network = labels(max_iter=1).fit(X, Y)
    for name in ("readout.coef", "readout.intercept"):
        network.weights_[name][...] = 0
    np.testing.assert_array_equal(network.predict_proba(X), 0.5)
    for predict in (network.predict, network.deploy().predict):
        np.testing.assert_array_equal(predict(X), 0)


def test_one_label_is_the_logistic_loss_of_two_classes() -> None:
    score = torch.linspace(-30, 30, 7, dtype=torch.float64)
    target = torch.tensor([0, 1, 0, 1, 0, 1, 0])
    two = torch.stack([torch.zeros_like(score), score], dim=1)
    one = binary_cross_entropy(score[:, None], target[:, None].double())
    torch.testing.assert_close(one, cross_entropy(two, target))
    with pytest.raises(ValueError, match="must have one shape"):
        binary_cross_entropy(score[:, None], target.double())
