"""PhysicalNetworkClassifier."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.callback import with_callbacks
from sklearn.utils import column_or_1d
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets, unique_labels

from skpat.estimators.base import PhysicalNetwork
from skpat.estimators.parameters import describe

__all__ = ["PhysicalNetworkClassifier"]


@describe
class PhysicalNetworkClassifier(ClassifierMixin, PhysicalNetwork):
    """A physical system trained as a classifier.

    Parameters
    ----------
    {parameters}
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes, multiplied into ``sample_weight``.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels.
    {attributes}

    See Also
    --------
    PhysicalNetworkRegressor : The same for numbers.

    Notes
    -----
    {notes}

    References
    ----------
    {references}

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.model_selection import train_test_split
    >>> from skpat import PhysicalNetworkClassifier
    >>> X_train, X_test, y_train, y_test = train_test_split(*load_iris(return_X_y=True), random_state=0)
    >>> classifier = PhysicalNetworkClassifier(random_state=0)  # a simulated laser
    >>> bool(classifier.fit(X_train, y_train).score(X_test, y_test) > 0.85)
    True
    """

    _parameter_constraints = PhysicalNetwork._parameter_constraints | {"class_weight": [dict, str, None]}

    def __init__(
        self,
        device=None,
        twin=None,
        *,
        control_split="interleaved",
        n_layers=1,
        n_units=1,
        encoder="auto",
        skip=None,
        readout="linear",
        gradient="physics_aware",
        n_calibration_shots="auto",
        n_shots=1,
        max_shots=None,
        batch_size="auto",
        max_iter=30,
        learning_rate_init=0.01,
        alpha=1.0,
        tol=1e-4,
        shuffle=True,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=10,
        class_weight=None,
        warm_start=False,
        journal=None,
        torch_device="cpu",
        random_state=None,
        verbose=0,
    ):
        self.device = device
        self.twin = twin
        self.control_split = control_split
        self.n_layers = n_layers
        self.n_units = n_units
        self.encoder = encoder
        self.skip = skip
        self.readout = readout
        self.gradient = gradient
        self.n_calibration_shots = n_calibration_shots
        self.n_shots = n_shots
        self.max_shots = max_shots
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.learning_rate_init = learning_rate_init
        self.alpha = alpha
        self.tol = tol
        self.shuffle = shuffle
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.class_weight = class_weight
        self.warm_start = warm_start
        self.journal = journal
        self.torch_device = torch_device
        self.random_state = random_state
        self.verbose = verbose

    @with_callbacks
    def fit(self, X, y, sample_weight=None, *, X_val=None, y_val=None):
        """Train the device on labelled rows.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Data. float32 data are trained on in float32, all else in float64.
        y : array-like of shape (n_samples,)
            Class labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows. A row of weight zero is never sent.
        X_val, y_val : array-like of shape (n_val, n_features) and (n_val,), default=None
            Data to validate on after every epoch (this takes shots). The weights of the best score are kept.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a parameter, X or y is not what it must be. Nothing was sent.
        DeviceContractError
            If ``device`` is not a device. Nothing was sent.
        DeviceOutputError
            If the device goes on returning a wrong shape, NaN, infinity or saturated readings.
        DeviceConnectionError
            If the line to the device breaks and cannot be opened again. What was measured is in the journal.
        NonFiniteTrainingError
            If the loss or a gradient becomes NaN or infinite.
        """
        return self._fit(X, y, sample_weight, X_val, y_val)

    def partial_fit(self, X, y, classes=None, sample_weight=None):
        """Go through the given rows once. The first call also calibrates.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Data.
        y : array-like of shape (n_samples,)
            Class labels.
        classes : array-like of shape (n_classes,), default=None
            All labels that will ever come; needed in the first call only, if its y lacks some.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If y has a label that is not among the classes.
        """
        return self._fit(X, y, sample_weight, incremental=True, classes=classes)

    def predict(self, X):
        """The likeliest class of each row, measured on the device.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        scores = self._predict_scores(X)
        return self.classes_[scores.argmax(axis=1)]

    def decision_function(self, X):
        """Scores of the classes, measured on the device.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes), or (n_samples,) with two classes
            With two classes the logarithm of the odds of ``classes_[1]``.
        """
        scores = self._predict_scores(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict_proba(self, X):
        """Probabilities of the classes: a softmax of the scores.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        return np.exp(self.predict_log_proba(X))

    def predict_log_proba(self, X):
        """Logarithms of :meth:`predict_proba`.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        from scipy.special import log_softmax

        return log_softmax(self._predict_scores(X), axis=1)

    def _encode_targets(self, y: Any, classes: Any, first: bool) -> np.ndarray:
        y = column_or_1d(y, warn=True)
        if first:
            check_classification_targets(y)
            self.classes_ = unique_labels(y) if classes is None else unique_labels(classes)
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(f"'y' must have the labels {self.classes_.tolist()} only. Got also {unknown.tolist()}.")
        return np.searchsorted(self.classes_, y).astype(np.int64)

    def _reweight(self, y: np.ndarray, sample_weight: np.ndarray) -> np.ndarray:
        if self.class_weight is None:
            return sample_weight
        return (sample_weight * compute_sample_weight(self.class_weight, y)).astype(sample_weight.dtype)

    def _count_scores(self) -> int:
        return len(self.classes_)

    def _loss(self) -> Any:
        from skpat.training.loss import cross_entropy

        return cross_entropy

    def _strata(self, targets: np.ndarray) -> np.ndarray | None:
        return targets

    def _score_targets(self, scores: np.ndarray, targets: np.ndarray, sample_weight: np.ndarray) -> float:
        return float(np.average(scores.argmax(axis=1) == targets, weights=sample_weight))
