"""The trained network without training: numpy and the device, saved without pickle."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
from sklearn.utils.metaestimators import available_if

from skpat.devices.specification import check_device_specification, device_name
from skpat.exceptions import DeviceIdentityError
from skpat.lab.array_file import write_arrays
from skpat.lab.deployment_file import FORMAT, MOST_SHOTS, as_array_if_too_long, read_deployment
from skpat.lab.fingerprint import device_description
from skpat.lab.ledger import Ledger
from skpat.lab.other_device import channel_differences, stated_differences, stated_of
from skpat.lab.session import PREDICTION_ROWS, PREDICTION_SHOT, Session
from skpat.network.description import network_to_dict
from skpat.network.forward import Network, forward
from skpat.network.prediction_watch import PredictionWatch
from skpat.network.settled import SettledNetwork
from skpat.row_keys import hash_rows

__all__ = ["DeployedNetwork", "load"]

_STREAMED = ("predict", "predict_proba", "predict_log_proba", "decision_function")


def _is_classifier(deployed: DeployedNetwork) -> bool:
    return deployed.is_classifier


class DeployedNetwork:
    """What is left of a trained estimator when training is over: wiring, weights and the device.

    Made by ``estimator.deploy()`` and by :func:`load`. Predictions are those of the estimator, number for number, on the
    same device. They need neither torch nor a twin.

    Parameters
    ----------
    device : Device
        What to measure on; used as it is.
    network : Network
        The wiring.
    weights : dict of str to ndarray
        By the names of ``skpat.network.forward.Network.initial_weights``, all float64 or all float32. Copied.
    classes : ndarray of shape (n_classes,), default=None
        Labels of a classifier. None: a regressor.
    multilabel : bool, default=False
        Of a classifier: whether each of the classes is a label that a row has or has not.
    target_mean, target_scale : ndarray of float, shape (n_targets,), default=None
        Of a regressor: predictions are scores times the scale plus the mean.
    target_ndim : {1, 2}, default=None
        Of a regressor: dimensions of its predictions.
    feature_names : array-like of str, shape (n_features,), default=None
        Columns of the training data. A table with other columns is refused.
    n_shots : int, default=1
        Measurements of each row, averaged.
    identity : str, default=None
        What the device must answer when it is asked who it is. None: anybody.
    n_before : int, default=0
        Rows that the device had answered before: the clock of a simulated device that drifts goes on from there.

    Attributes
    ----------
    device_ : Device
    weights_ : dict of str to ndarray
        Read-only.
    classes_ : ndarray of shape (n_classes,)
        Of a classifier only.
    n_features_in_ : int
    feature_names_in_ : ndarray of str, shape (n_features,)
        Only if the training data had names.
    ledger_ : Ledger
        Shots of this object, from zero.

    Raises
    ------
    DeviceIdentityError
        If the device has other channels, outputs, bounds or steps than the network was trained for.

    Notes
    -----
    Each call opens the device and brings it into its safe state afterwards. ``with deployed:`` keeps it open in between.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn.datasets import load_iris
    >>> from skpat import PhysicalNetworkClassifier, deployment
    >>> from skpat.devices import SecondHarmonicLaser
    >>> X, y = load_iris(return_X_y=True)
    >>> classifier = PhysicalNetworkClassifier(SecondHarmonicLaser(), max_iter=5, random_state=0).fit(X, y)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     classifier.deploy().save(f"{folder}/iris.skpat")
    ...     deployed = deployment.load(f"{folder}/iris.skpat", SecondHarmonicLaser())
    >>> with deployed:
    ...     labels = [int(deployed.predict(row)[0]) for row in X[:2, None]]
    >>> labels, deployed.shots_["prediction"]
    ([0, 0], 2)
    """

    def __init__(
        self,
        device: Any,
        network: Network,
        weights: Mapping[str, np.ndarray],
        *,
        classes: Any = None,
        multilabel: bool = False,
        target_mean: Any = None,
        target_scale: Any = None,
        target_ndim: int | None = None,
        feature_names: Any = None,
        n_shots: int = 1,
        identity: str | None = None,
        n_before: int = 0,
    ):
        _refuse(device, channel_differences(network, device, check_device_specification(device)))
        self.device_ = device
        self.weights_ = {name: _frozen(value) for name, value in weights.items()}
        self._n_shots = n_shots
        self.identity = identity
        self.is_classifier = classes is not None
        self.multilabel_ = bool(multilabel)
        self.n_features_in_ = int(network.made_with["n_features"])
        if feature_names is not None:
            self.feature_names_in_ = np.array([str(name) for name in feature_names], dtype=object)
        dtype = self.weights_["layers.0.gain"].dtype
        if self.is_classifier:
            self.classes_ = np.array(classes)
        else:
            self._target_mean, self._target_scale = _frozen(target_mean), _frozen(target_scale)
            self._target_ndim = target_ndim
        self.ledger_ = Ledger.of(device, n_before)
        self._dtype = dtype
        self._network = network
        self._settled = SettledNetwork(network, self.weights_)
        self._n_users = 0
        self._kept_session: Session | None = None

    def __repr__(self) -> str:
        answers = "labels" if self.multilabel_ else "classes" if self.is_classifier else "targets"
        counts = f"{self.n_features_in_} features, {self._network.made_with['n_targets']} {answers}"
        n_layers = self._network.n_layers
        layers = f"{n_layers} layer{'s' if n_layers > 1 else ''}"
        return f"<DeployedNetwork on {device_name(self.device_)}: {counts}, {layers}, {self._dtype}>"

    def predict(self, X: Any) -> np.ndarray:
        """Classes or targets of each row, measured on the device.

        Parameters
        ----------
        X : array-like, DataFrame or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,), (n_samples, n_targets) or (n_samples, n_labels)

        Raises
        ------
        ValueError
            If X has another shape or other columns than the training data, or is not finite. Nothing was sent.
        ControlBoundsError, DeviceOutputError, DeviceConnectionError, DeviceBusyError, DeviceIdentityError
            As :meth:`skpat.lab.Session.measure` raises them.
        """
        scores = self._scores(X)
        if self.multilabel_:
            return (scores > 0).astype(np.int64)
        if self.is_classifier:
            return self.classes_[scores.argmax(axis=1)]
        targets = scores * self._target_scale + self._target_mean
        return targets.ravel() if self._target_ndim == 1 else targets

    @available_if(_is_classifier)
    def decision_function(self, X: Any) -> np.ndarray:
        """Scores of the classes, as the classifier's ``decision_function`` gives them: (n_samples,) for two classes."""
        scores = self._scores(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 and not self.multilabel_ else scores

    @available_if(_is_classifier)
    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the classes, shape (n_samples, n_classes): a softmax of the scores; a sigmoid of each for labels."""
        return np.exp(self.predict_log_proba(X))

    @available_if(_is_classifier)
    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Logarithms of :meth:`predict_proba`."""
        from scipy.special import log_expit, log_softmax

        scores = self._scores(X)
        return log_expit(scores) if self.multilabel_ else log_softmax(scores, axis=1)

    def predict_stream(self, chunks: Iterable[Any], method: str = "predict") -> Iterator[np.ndarray]:
        """Predictions for a stream that need never be in the memory as a whole.

        Parameters
        ----------
        chunks : iterable of array-like of shape (n_rows, n_features)
            A generator, say. Each chunk is asked for when the results before it have been taken.
        method : {"predict", "predict_proba", "predict_log_proba", "decision_function"}, default="predict"
            What to give for each chunk.

        Returns
        -------
        iterator of ndarray
            One for each chunk. The device stays open until the iterator ends, or is closed.

        Raises
        ------
        ValueError
            If ``method`` is none of these, or a regressor lacks it.
        """
        if method not in _STREAMED or not hasattr(self, method):
            known = [name for name in _STREAMED if hasattr(self, name)]
            raise ValueError(f"'method' must be one of {', '.join(known)}. Got {method!r}.")
        return self._stream(chunks, method)

    def _stream(self, chunks: Iterable[Any], method: str) -> Iterator[np.ndarray]:
        with self:
            for chunk in chunks:
                yield getattr(self, method)(chunk)

    @property
    def shots_(self) -> dict[str, int]:
        """Shots of this object so far, by purpose."""
        return self.ledger_.shots

    def __enter__(self) -> DeployedNetwork:
        self._n_users += 1
        return self

    def __exit__(self, *error: Any) -> None:
        self._n_users -= 1
        if not self._n_users:
            self.close()

    def close(self) -> None:
        """Bring the device into its safe state and free it. It is opened again when needed."""
        if self._kept_session is not None:
            self._kept_session.close()

    def _scores(self, X: Any) -> np.ndarray:
        """Scores (n_rows, n_targets), every layer measured on the device."""
        X = self._checked(X)
        session = self._kept_session
        if session is None:
            session = self._kept_session = Session(
                self.device_, n_shots=self._n_shots, ledger=self.ledger_, identity=self.identity
            )
        watch = PredictionWatch(self._settled, self.weights_)
        try:
            if 0 < len(X) <= PREDICTION_ROWS:
                return self._chunk_scores(session, X, watch)
            scores = np.empty((len(X), self._network.made_with["n_targets"]), dtype=self._dtype)
            for start in range(0, len(X), PREDICTION_ROWS):
                rows = slice(start, start + PREDICTION_ROWS)
                scores[rows] = self._chunk_scores(session, X[rows], watch)
            return scores
        finally:
            if not self._n_users:
                session.close()

    def _chunk_scores(self, session: Session, X: np.ndarray, watch: PredictionWatch) -> np.ndarray:
        run = session.run(cache(lambda: hash_rows(X)), "prediction", shot=PREDICTION_SHOT)
        return forward(self._settled, self.weights_, X, watch.over(X, run))

    def _checked(self, X: Any) -> np.ndarray:
        """X in the weights' dtype, of the right shape, finite."""
        if type(X) is not np.ndarray:
            X = self._as_array(X)
        if X.ndim != 2 or X.shape[1] != self.n_features_in_:
            raise ValueError(
                f"'X' must be an array of shape (n_samples, {self.n_features_in_}), or in a stream each chunk of it. Got "
                f"shape {X.shape}. Use X.reshape(1, -1) for a single row."
            )
        if X.dtype != self._dtype or not X.flags.c_contiguous:
            if X.dtype.kind not in "fiubO":
                raise ValueError(f"'X' must hold real numbers. Got dtype {X.dtype}.")
            try:
                with np.errstate(over="ignore"):
                    X = np.ascontiguousarray(X, dtype=self._dtype)
            except TypeError as error:  # what pandas puts where there is nothing, say
                raise ValueError(f"'X' must hold real numbers. {error}. Impute or drop what is missing.") from error
        if np.count_nonzero(np.isfinite(X)) != X.size:
            raise ValueError(
                f"'X' must hold finite numbers, as {self._dtype}. Got NaN or infinity. Impute or drop them."
            )
        return X

    def _as_array(self, X: Any) -> np.ndarray:
        if hasattr(X, "__next__"):
            raise TypeError("'X' must be an array. Got an iterator. Use predict_stream(chunks) for a stream.")
        names = getattr(self, "feature_names_in_", None)
        columns = list(getattr(X, "columns", []))
        named = bool(columns) and all(isinstance(name, str) for name in columns)
        if named and names is not None and columns != names.tolist():
            raise ValueError(f"'X' must have the columns {names.tolist()}, in this order. Got {columns}.")
        return np.asarray(X.toarray() if hasattr(X, "toarray") else X)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything but the device into one file, without pickle.

        Parameters
        ----------
        path : str or path
            Taken as it is. A file of that name is replaced, by a whole one or not at all.

        Raises
        ------
        ValueError
            If the classes are neither numbers, booleans nor strings, ``n_shots`` is above 65,536, or the file would be larger
            than what :func:`load` reads.
        OSError
            If the file cannot be written.

        See Also
        --------
        load : Read it.
        """
        if self._n_shots > MOST_SHOTS:
            raise ValueError(f"'n_shots' must be at most {MOST_SHOTS:,} to be saved. Got {self._n_shots:,}. Use fewer.")
        plain = network_to_dict(self._network)
        arrays = {f"network/{name}": value for name, value in plain.items() if isinstance(value, np.ndarray)}
        arrays |= {f"weights/{name}": value for name, value in self.weights_.items()}
        if self.is_classifier:
            classes = self.classes_
            as_objects = classes.dtype.kind == "O"
            if as_objects and not all(isinstance(label, str) for label in classes):
                raise ValueError(f"Classes must be numbers, booleans or strings to be saved. Got {classes!r}.")
            arrays["classes"] = classes.astype(str) if as_objects else classes
        else:
            arrays |= {"targets/mean": self._target_mean, "targets/scale": self._target_scale}
        names = self.feature_names_in_.tolist() if hasattr(self, "feature_names_in_") else None
        if names is not None and (long := as_array_if_too_long(names)) is not None:
            arrays["feature_names"], names = long, None
        about = {
            "format": FORMAT,
            "network": {name: value for name, value in plain.items() if not isinstance(value, np.ndarray)},
            "target_ndim": None if self.is_classifier else self._target_ndim,
            "feature_names": names,
            "n_shots": int(self._n_shots),
            "n_before": int(self.ledger_.clock),
            "identity": self.identity,
            "device": {"name": device_name(self.device_), "fingerprint": device_description(self.device_)}
            | stated_of(self.device_),
        }
        if self.multilabel_:
            about["multilabel"] = True
        write_arrays(path, about, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: Any, *, any_device: bool = False) -> DeployedNetwork:
        """What :func:`load` does."""
        network, parts, stated = read_deployment(path)
        found = channel_differences(network, device, check_device_specification(device)) + stated_differences(
            stated, device
        )
        if not any_device and not found:
            here, there = device_description(device), stated["fingerprint"]
            found = [f"its {name}" for name in sorted(here | there) if here.get(name) != there.get(name)]
            _refuse(
                device,
                found,
                " For a second copy of the device, or for code that was edited, use load(..., any_device=True).",
            )
        _refuse(device, found)
        return cls(device, network, **parts | ({"identity": None} if any_device else {}))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept_session": None, "_n_users": 0}


def load(path: str | os.PathLike[str], device: Any, *, any_device: bool = False) -> DeployedNetwork:
    """A deployed network from its file, on a device. Nothing is sent.

    Parameters
    ----------
    path : str or path
        What :meth:`DeployedNetwork.save` has written. It need not be trusted: nothing in it is executed.
    device : Device
        The one that the network was trained on.
    any_device : bool, default=False
        Whether another device of the same channels, outputs, bounds, steps and units will do: a second copy, or the same one
        at another address.

    Returns
    -------
    DeployedNetwork

    Raises
    ------
    DeploymentFileError
        If the file cannot be read, is damaged, or is no deployed network.
    DeviceIdentityError
        If the device differs from the one that the network was trained on. The message says in what.
    DeviceContractError
        If ``device`` is no device.
    """
    return DeployedNetwork.load(path, device, any_device=any_device)


def _frozen(values: Any) -> np.ndarray:
    """A copy that cannot be written to."""
    array = np.array(values, order="C")
    array.flags.writeable = False
    return array


# ---- which device ----


def _refuse(device: Any, differences: list[str], fix: str = "") -> None:
    if differences:
        raise DeviceIdentityError(
            f"The device {device_name(device)} must be the one that the network was trained on. Got one that differs in "
            f"{', '.join(differences)}. Nothing was sent. Attach the device of the training.{fix}"
        )
