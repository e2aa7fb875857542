"""PhysicalNetworkRegressor."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.callback import with_callbacks
from sklearn.metrics import r2_score

from skpat.estimators.base import PhysicalNetwork
from skpat.estimators.parameters import describe
from skpat.network.encoders import weighted_mean_and_scale
from skpat.network.prediction_watch import FAR_BEYOND

__all__ = ["PhysicalNetworkRegressor"]


@describe
class PhysicalNetworkRegressor(RegressorMixin, PhysicalNetwork):
    """A physical system trained as a regressor.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    n_targets_ : int
        Columns of y.
    {attributes}

    See Also
    --------
    PhysicalNetworkClassifier : The same for classes.

    Notes
    -----
    The loss is half the squared error of the standardised targets, summed over them. A constant target is predicted as it is.
    {notes}

    References
    ----------
    {references}

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from skpat import PhysicalNetworkRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> regressor = PhysicalNetworkRegressor(max_iter=2, random_state=0)  # a simulated laser
    >>> bool(regressor.fit(X, y).score(X, y) > 0.4)
    True
    """

    _y_checks = {"multi_output": True, "y_numeric": True}
    _fewest_validated = 2

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
        self.warm_start = warm_start
        self.journal = journal
        self.torch_device = torch_device
        self.random_state = random_state
        self.verbose = verbose

    @with_callbacks
    def fit(self, X, y, sample_weight=None, *, X_val=None, y_val=None, sample_weight_val=None):
        """Train the device on rows with targets.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Data. float32 data are trained on in float32, unless the range of a channel is too narrow for its numbers (below
            1e-2 of the largest, about), all else in float64. A sparse matrix becomes an array as a whole
            (n_samples * n_features numbers): bring tens of thousands of words to fewer features first.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows. A row of weight 2 counts as two, in the loss and for a twin that learns; shots of the
            calibration weigh 1, so keep the mean near 1. A row of weight zero is never sent.
        X_val, y_val : array-like of shape (n_val, n_features) and (n_val,) or (n_val, n_targets), default=None
            Data to validate on after every epoch (this takes shots). The weights of the best score are kept.
        sample_weight_val : array-like of shape (n_val,), default=None
            Weights of these rows in the score.

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

    def partial_fit(self, X, y, sample_weight=None):
        """Go through the given rows once. The first call also calibrates, and sets the scales of features and targets.

        A target that has been constant so far gets its scale from the first rows in which it changes. Rows that lie far beyond
        the scales of the first call are warned of. The step size is ``learning_rate_init`` as it stands, and does not fall.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Data.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For ``early_stopping=True``, which takes all the rows at once. Nothing was sent. Other errors are those of
            :meth:`fit`.
        """
        return self._fit(X, y, sample_weight, incremental=True)

    def predict(self, X):
        """Targets of each row, measured on the device.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_targets)
            Like the y of ``fit``.
        """
        scores = self._predict_scores(X)
        targets = scores * self._target_scale + self._target_mean  # in float64: a mean may be large beside the scale
        return targets.ravel() if self._target_ndim == 1 else targets

    def _encode_targets(self, y: Any, classes: Any, first: bool, name: str = "y") -> np.ndarray:
        columns = np.asarray(y, dtype=np.float64).reshape(len(y), -1)
        if first:
            self._target_ndim, self.n_targets_ = np.ndim(y), columns.shape[1]
        elif columns.shape[1] != self.n_targets_:
            raise ValueError(
                f"'{name}' must have {self.n_targets_} columns, like the first y. Got {columns.shape[1]}. Nothing was sent."
            )
        return columns

    def _prepare_targets(self, targets: np.ndarray, sample_weight: np.ndarray | None, dtype: Any) -> np.ndarray:
        if sample_weight is not None:
            self._target_mean, self._target_scale = weighted_mean_and_scale(targets, sample_weight.astype(np.float64))
            self._scaled_late = np.zeros(len(self._target_scale), dtype=bool)
        varies = self._target_scale > 0  # a constant target is predicted as it is, and nothing is learned of it
        standard = (targets - self._target_mean) / np.where(varies, self._target_scale, 1.0)
        return np.where(varies, standard, 0.0).astype(dtype)

    def _scale_what_was_constant(self, data: Any) -> None:
        late = getattr(self, "_scaled_late", np.zeros(len(self._target_scale), dtype=bool))
        constant = self._target_scale == 0
        if not (constant | late).any():
            return
        mean, scale = weighted_mean_and_scale(data.targets, data.sample_weight.astype(np.float64))
        step = np.abs(mean - self._target_mean)
        step = np.where(step > 1e-12 * np.abs(mean), step, 0.0)  # to another constant
        outgrown = late & (np.maximum(scale, step) > FAR_BEYOND * self._target_scale)  # it had hardly begun to change
        new = (constant | outgrown) & (np.maximum(scale, step) > 0)
        self._target_mean = np.where(new & (scale > 0), mean, self._target_mean)
        self._target_scale = np.where(new, np.where(scale > 0, scale, step), self._target_scale)
        self._scaled_late = late | new

    def _count_scores(self) -> int:
        return self.n_targets_

    def _loss(self) -> Any:
        from skpat.training.loss import squared_error

        return squared_error

    def _score_targets(self, scores: np.ndarray, targets: np.ndarray, sample_weight: np.ndarray) -> float:
        scores = np.where(self._target_scale > 0, scores, 0.0)  # as in a prediction
        return float(r2_score(targets, scores, sample_weight=sample_weight))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.target_tags.single_output = True
        return tags
