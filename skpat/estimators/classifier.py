"""PhysicalNetworkClassifier."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.callback import with_callbacks
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target, unique_labels

from skpat.estimators.base import PhysicalNetwork
from skpat.estimators.parameters import describe

__all__ = ["PhysicalNetworkClassifier"]


@describe
class PhysicalNetworkClassifier(ClassifierMixin, PhysicalNetwork):
    """A physical system trained as a classifier.

    Parameters
    ----------
    {parameters}
    class_weight : dict, list of dict, "balanced" or None, default=None
        Weights of the classes, multiplied into ``sample_weight``, and into ``sample_weight_val``. With several labels a list
        with a dict for each label, or "balanced"; the weights of a row's labels are multiplied.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels. With several labels the numbers of the columns of y.
    multilabel_ : bool
        Whether y had several labels.
    {attributes}

    See Also
    --------
    PhysicalNetworkRegressor : The same for numbers.

    Notes
    -----
    An indicator matrix y (n_samples, n_labels) trains several labels at once, each with a sigmoid of its own score; the loss
    is the sum of their cross-entropies, the score the share of rows with every label right. {notes}

    References
    ----------
    {references}

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.model_selection import train_test_split
    >>> from skpat import PhysicalNetworkClassifier
    >>> X_train, X_test, y_train, y_test = train_test_split(*load_iris(return_X_y=True), random_state=0)
    >>> classifier = PhysicalNetworkClassifier(max_iter=7, random_state=0)  # a simulated laser
    >>> bool(classifier.fit(X_train, y_train).score(X_test, y_test) > 0.85)
    True
    """

    _y_checks = {"multi_output": True}
    _parameter_constraints = PhysicalNetwork._parameter_constraints | {
        "class_weight": [dict, list, StrOptions({"balanced"}), None]
    }

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
        warm_start=False,
        journal=None,
        torch_device="cpu",
        random_state=None,
        verbose=0,
        class_weight=None,
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
    def fit(self, X, y, sample_weight=None, *, X_val=None, y_val=None, sample_weight_val=None):
        """Train the device on labelled rows.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Data. float32 data are trained on in float32, unless the range of a channel is too narrow for its numbers (below
            1e-2 of the largest, about), all else in float64. A sparse matrix becomes an array as a whole
            (n_samples * n_features numbers): bring tens of thousands of words to fewer features first.
        y : array-like of shape (n_samples,), or array-like or sparse matrix of shape (n_samples, n_labels)
            Class labels, or zeros and ones that tell which labels a row has.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows. A row of weight 2 counts as two, in the loss and for a twin that learns; shots of the
            calibration weigh 1, so keep the mean near 1. A row of weight zero is never sent.
        X_val, y_val : array-like of shape (n_val, n_features) and (n_val,) or (n_val, n_labels), default=None
            Data to validate on after every epoch (this takes shots). The weights of the best score are kept.
        sample_weight_val : array-like of shape (n_val,), default=None
            Weights of these rows in the score. ``class_weight`` is multiplied in.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a parameter, X or y is not what it must be. Nothing was sent.
        DeviceContractError, NoExactGradientError
            If ``device`` is not a device, or ``gradient="exact"`` is asked of one that cannot be differentiated. Nothing was
            sent.
        ImportError
            If ``gradient="evolution_strategy"`` finds no cma. Nothing was sent.
        DeviceOutputError
            If the device goes on returning a wrong shape, NaN, infinity or saturated readings.
        DeviceConnectionError
            If the line to the device breaks and cannot be opened again. What was measured is in the journal.
        DeviceBusyError, DeviceIdentityError
            If somebody else holds the device's address for longer than it waits, or another instrument answers than before.
        JournalError
            If the journal is another device's, holds another course of the same fit, or cannot be written to. What was
            written before is safe.
        NonFiniteTrainingError
            If the loss or a gradient becomes NaN or infinite.
        """
        return self._fit(X, y, sample_weight, (X_val, y_val, sample_weight_val))

    def partial_fit(self, X, y, classes=None, sample_weight=None):
        """Go through the given rows once. The first call also calibrates.

        The step size is ``learning_rate_init`` as it stands, and does not fall.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Data.
        y : array-like of shape (n_samples,), or array-like or sparse matrix of shape (n_samples, n_labels)
            Class labels, or zeros and ones that tell which labels a row has.
        classes : array-like of shape (n_classes,), default=None
            All labels that will ever come; needed in the first call only, if its y lacks some. With several labels it may be
            left out.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If y has a label that is not among the classes, or for ``early_stopping=True`` and ``class_weight="balanced"``,
            which take all the rows at once. Nothing was sent. Errors of the device are those of :meth:`fit`.
        """
        return self._fit(X, y, sample_weight, incremental=True, classes=classes)

    def predict(self, X):
        """The likeliest class of each row, measured on the device; with several labels those of a probability above 1/2.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,), or of int, shape (n_samples, n_labels)

        Raises
        ------
        NotFittedError, ValueError
            If the network is not fitted, or X is not what it must be. Nothing was sent.
        DeviceBusyError, DeviceConnectionError, DeviceIdentityError, DeviceOutputError
            If the device cannot be reached, or does not answer as it must.
        """
        scores = self._predict_scores(X)
        return (scores > 0).astype(np.int64) if self.multilabel_ else self.classes_[scores.argmax(axis=1)]

    def decision_function(self, X):
        """Scores of the classes, measured on the device.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes), or (n_samples,) with two classes, or (n_samples, n_labels)
            With two classes the logarithm of the odds of ``classes_[1]``; with several labels that of each.
        """
        scores = self._predict_scores(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 and not self.multilabel_ else scores

    def predict_proba(self, X):
        """Probabilities of the classes: a softmax of the scores; with several labels a sigmoid of each.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes) or (n_samples, n_labels)
        """
        return np.exp(self.predict_log_proba(X))

    def predict_log_proba(self, X):
        """Logarithms of :meth:`predict_proba`.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes) or (n_samples, n_labels)
        """
        from scipy.special import log_expit, log_softmax

        scores = self._predict_scores(X)
        return log_expit(scores) if self.multilabel_ else log_softmax(scores, axis=1)

    def _encode_targets(self, y: Any, classes: Any, first: bool, name: str = "y") -> np.ndarray:
        kind = type_of_target(y, input_name=name, raise_unknown=True)
        if not first and classes is not None:
            self._check_same(classes)
        if first:
            check_classification_targets(y)
            self.multilabel_ = kind == "multilabel-indicator"
        if self.multilabel_:
            return self._encode_labels(y, classes, first, name)
        if kind.startswith("multilabel") or kind.endswith("-multioutput"):
            raise ValueError(
                f"'{name}' must hold one class for each row, or zeros and ones that tell which labels a row has. Got {kind} "
                f"of shape {y.shape}. Nothing was sent. Use "
                "sklearn.multioutput.MultiOutputClassifier for several classes of a row."
            )
        y = column_or_1d(y, warn=True)
        if first:
            self.classes_ = unique_labels(y) if classes is None else unique_labels(classes)
            if len(self.classes_) == 1:
                raise ValueError(
                    f"{'y' if classes is None else 'classes'!r} must hold two classes or more. Got one class only, "
                    f"{self.classes_.tolist()}: there is nothing to tell apart. Nothing was sent."
                )
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            if name == "y":
                remedy = "Name all labels in the first partial_fit, classes=[...], or fit anew."
            else:
                remedy = "Leave these rows out, or give rows of them to train with."
            raise ValueError(
                f"'{name}' must have the labels {self.classes_.tolist()} only. Got also {unknown.tolist()}. Nothing was sent. "
                f"{remedy}"
            )
        return np.searchsorted(self.classes_, y).astype(np.int64)

    def _check_same(self, classes: Any) -> None:
        if not np.array_equal(unique_labels(classes), self.classes_):
            raise ValueError(
                f"'classes' must be those of the first call, {self.classes_.tolist()}. Got {list(classes)}. Nothing was sent."
            )

    def _encode_labels(self, y: Any, classes: Any, first: bool, name: str) -> np.ndarray:
        """An indicator matrix as numbers, for the loss."""
        y = np.asarray(y.toarray() if hasattr(y, "toarray") else y)
        if first:
            self.classes_ = np.arange(y.shape[1]) if classes is None else unique_labels(classes)
        n_labels = len(self.classes_)
        if y.ndim != 2 or y.shape[1] != n_labels or not np.isin(y, (0, 1)).all():
            raise ValueError(
                f"'{name}' must be zeros and ones of shape (n_samples, {n_labels}), like the first y or the classes. Got shape "
                f"{y.shape}. Nothing was sent."
            )
        return y.astype(np.float64)

    def _prepare_targets(self, targets: np.ndarray, sample_weight: np.ndarray | None, dtype: Any) -> np.ndarray:
        return targets.astype(dtype) if self.multilabel_ else targets

    def _check_incremental(self) -> None:
        super()._check_incremental()
        if isinstance(self.class_weight, str):
            raise ValueError(
                f"'class_weight' must be weights or None for partial_fit: a part of the rows does not tell how frequent a "
                f"class is. Got {self.class_weight!r}. Nothing was sent. Use a dict of label and weight, or with several "
                "labels a list of them; sklearn.utils.class_weight.compute_class_weight('balanced', classes=..., y=...) tells "
                "the weights for a y as a whole."
            )

    def _weigh_labels(self, labels: np.ndarray, sample_weight: np.ndarray) -> np.ndarray:
        """Weights of rows (n_rows, n_labels), the product over labels; "balanced" counts a row as often as its weight says."""
        if self.class_weight != "balanced":
            return compute_sample_weight(self.class_weight, labels)
        weight = np.ones(len(labels))
        for label in labels.T:
            classes, numbers = np.unique(label, return_inverse=True)
            weight *= compute_class_weight("balanced", classes=classes, y=label, sample_weight=sample_weight)[numbers]
        return weight

    def _reweight(self, y: np.ndarray, sample_weight: np.ndarray) -> np.ndarray:
        if self.class_weight is None:
            return sample_weight
        if self.multilabel_ and hasattr(y, "toarray"):
            y = y.toarray()
        if isinstance(self.class_weight, list) and not self.multilabel_:
            raise ValueError(
                f"'class_weight' must be a dict, 'balanced' or None where a row has one label. Got {self.class_weight!r}. "
                "Nothing was sent. Use {label: weight, ...}."
            )
        kept = sample_weight > 0  # rows without a weight count for nothing
        if not kept.any():
            return sample_weight
        of_class = np.zeros(len(kept))
        if self.multilabel_:
            of_class[kept] = self._weigh_labels(np.asarray(y)[kept], sample_weight[kept])
        else:
            labels, numbers = np.unique(np.asarray(y).ravel()[kept], return_inverse=True)
            wanted = self.class_weight
            if isinstance(wanted, dict) and set(wanted) <= set(self.classes_.tolist()):
                wanted = {label: wanted.get(label, 1.0) for label in labels.tolist()}  # rows of some classes may be all
            of_label = compute_class_weight(
                wanted, classes=labels, y=labels[numbers], sample_weight=sample_weight[kept]
            )
            of_class[kept] = of_label[numbers]
        if not (np.isfinite(of_class) & (of_class >= 0)).all():
            raise ValueError(
                f"'class_weight' must be finite and not negative. Got {self.class_weight!r}. Nothing was sent."
            )
        return (sample_weight * of_class).astype(sample_weight.dtype)

    def _count_scores(self) -> int:
        return len(self.classes_)

    def _loss(self) -> Any:
        from skpat.training.loss import binary_cross_entropy, cross_entropy

        return binary_cross_entropy if self.multilabel_ else cross_entropy

    def _strata(self, targets: np.ndarray) -> np.ndarray | None:
        return None if self.multilabel_ else self.classes_[targets]

    def _score_targets(self, scores: np.ndarray, targets: np.ndarray, sample_weight: np.ndarray) -> float:
        if self.multilabel_:
            right = ((scores > 0) == (targets > 0.5)).all(axis=1)
        else:
            right = scores.argmax(axis=1) == targets
        return float(np.average(right, weights=sample_weight))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
