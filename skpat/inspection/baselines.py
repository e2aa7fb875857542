"""What an estimator is compared with: classical models, and the same network with less of the device in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from sklearn.base import clone, is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC, SVR
from sklearn.utils.class_weight import compute_sample_weight

from skpat.controls import ControlSplit
from skpat.devices.identity import IdentityDevice
from skpat.estimators.base import PhysicalNetwork
from skpat.estimators.specification import default_device
from skpat.inspection.digital_cost import count_trained
from skpat.inspection.untrained_device import UntrainedDevice

__all__ = [
    "CLASSICAL",
    "Baseline",
    "ends_in_network",
    "hidden_width",
    "make_baselines",
    "physical_network",
    "with_last_step",
]


@dataclass(frozen=True)
class Baseline:
    """One thing to compare with.

    Attributes
    ----------
    name, label : str
        For code, and for people.
    build : callable
        ``build(fitted)`` -> an unfitted estimator; ``fitted`` is the user's network, fitted on the same rows.
    alone : bool
        Whether it needs neither the device nor ``fitted``: what is wrong with it shows before a shot is taken.
    """

    name: str
    label: str
    build: Callable[[PhysicalNetwork | None], Any]
    alone: bool = False


def physical_network(est: Any) -> PhysicalNetwork:
    """The network that an estimator is, or ends in.

    Raises
    ------
    TypeError
        If there is none.
    """
    last = _last_step(est)
    if not isinstance(last, PhysicalNetwork):
        raise TypeError(
            "The estimator must be a PhysicalNetworkClassifier or PhysicalNetworkRegressor, or a Pipeline that ends in "
            f"one. Got {type(last).__name__ if not isinstance(last, type) else last}. {_instead_of(last)}"
        )
    return last


def _instead_of(est: Any) -> str:
    if hasattr(est, "best_estimator_"):
        return "Give its best_estimator_."
    return "To compare other estimators, use sklearn.model_selection.cross_val_score."


def ends_in_network(est: Any) -> bool:
    """Whether there is a physical network in the last place."""
    return isinstance(_last_step(est), PhysicalNetwork)


def _last_step(est: Any) -> Any:
    return est.steps[-1][1] if isinstance(est, Pipeline) else est


def with_last_step(est: Any, last: Any) -> Any:
    """A copy of the estimator that ends in another model: the same steps before it."""
    return clone(est).set_params(**{est.steps[-1][0]: last}) if isinstance(est, Pipeline) else last


def hidden_width(n_parameters: int, n_features: int, n_outputs: int) -> int:
    """Units of one hidden layer that gives a perceptron about as many trained parameters.

    Examples
    --------
    >>> from skpat.inspection.baselines import hidden_width
    >>> hidden_width(1000, n_features=64, n_outputs=10)
    13
    >>> 13 * (64 + 1 + 10) + 10
    985
    """
    return max(1, round((n_parameters - n_outputs) / (n_features + 1 + n_outputs)))


def make_baselines(
    est: Any, baselines: Any, n_targets: int, n_columns: int, probabilities: bool = False
) -> list[Baseline]:
    """The baselines asked for.

    Parameters
    ----------
    est : estimator
        The user's, unfitted.
    baselines : "classical", list of str, or dict of str to estimator
    n_targets : int
        Outputs of a perceptron: 1 for two classes, else the classes or labels; the targets of a regressor.
    n_columns : int
        Columns of y, 1 for a vector.
    probabilities : bool, default=False
        Whether they will be asked for probabilities.

    Returns
    -------
    list of Baseline

    Raises
    ------
    ValueError, TypeError
        If ``baselines`` is none of these.
    """
    if isinstance(baselines, dict):
        if "estimator" in baselines:
            raise ValueError(
                "'baselines' must not name one 'estimator': that is the estimator itself. Use another name."
            )
        for name, model in baselines.items():
            if not isinstance(name, str) or not hasattr(model, "fit") or isinstance(model, type):
                raise TypeError(
                    f"'baselines' as a dict must map names to estimators. Got {model!r} for {name!r}. For example "
                    "{'forest': RandomForestClassifier()}."
                )
        return [
            Baseline(name, name, partial(_copy_of, model), alone=not ends_in_network(model))
            for name, model in baselines.items()
        ]
    names = list(CLASSICAL) if isinstance(baselines, str) and baselines == "classical" else baselines
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise TypeError(
            f"'baselines' must be \"classical\", a list of names, or a dict of name to estimator. Got {baselines!r}."
        )
    unknown = [name for name in names if name not in CLASSICAL]
    if unknown:
        raise ValueError(f"'baselines' must be among {', '.join(CLASSICAL)}. Got {', '.join(map(repr, unknown))}.")
    task = _Task(est, is_classifier(est), n_targets, n_columns, probabilities)
    return [_baseline(name, task) for name in dict.fromkeys(names)]


def _copy_of(model: Any, fitted: PhysicalNetwork | None) -> Any:
    return clone(model)


@dataclass(frozen=True)
class _Task:
    est: Any
    is_classifier: bool
    n_targets: int
    n_columns: int
    probabilities: bool

    @property
    def class_weight(self) -> dict[str, Any]:
        if not self.is_classifier:
            return {}
        weight = physical_network(self.est).class_weight
        return {"class_weight": weight if self.n_columns == 1 or weight == "balanced" else None}


def _linear(task: _Task) -> Any:
    if task.is_classifier:
        return _one_by_one(LogisticRegression(max_iter=1000, **task.class_weight), task)
    return Ridge()


def _svm(task: _Task) -> Any:
    if task.is_classifier:
        model = SVC(**task.class_weight)
        return _one_by_one(CalibratedClassifierCV(model, ensemble=False) if task.probabilities else model, task)
    return _of_scaled_targets(_one_by_one(SVR(), task))


def _gradient_boosting(task: _Task) -> Any:
    if task.is_classifier:
        return _one_by_one(_GradientBoosting(**task.class_weight), task)
    return _one_by_one(HistGradientBoostingRegressor(), task)


class _GradientBoosting(HistGradientBoostingClassifier):
    """With class weights for labels of any kind: scikit-learn's own takes the keys of a dict for 0, 1, 2 and so on."""

    def fit(self, X, y):
        wanted = self.get_params()["class_weight"]
        try:
            self.set_params(class_weight=None)
            return super().fit(X, y, compute_sample_weight(wanted, y))
        finally:
            self.set_params(class_weight=wanted)


def _mlp(task: _Task, fitted: PhysicalNetwork) -> Any:
    width = hidden_width(count_trained(fitted), fitted.n_features_in_, task.n_targets)
    if task.is_classifier:
        return MLPClassifier(hidden_layer_sizes=(width,), max_iter=500)
    return _of_scaled_targets(MLPRegressor(hidden_layer_sizes=(width,), max_iter=500))


def _one_by_one(model: Any, task: _Task) -> Any:
    """The model for each target or label, where there are several and it can do one only."""
    if task.n_columns == 1:
        return model
    return OneVsRestClassifier(model) if task.is_classifier else MultiOutputRegressor(model)


def _of_scaled_targets(model: Any) -> Any:
    return TransformedTargetRegressor(model, transformer=StandardScaler())


def _identity(task: _Task) -> Any:
    """Trained in the same way, so that the device alone is another one; a twin of the device itself is none of the identity."""
    from skpat.twins.neural_twin import NeuralTwin

    network = clone(physical_network(task.est))
    device = default_device() if network.device is None else network.device
    twin = network.twin if isinstance(network.twin, NeuralTwin) else None
    n_shots = 1 if network.max_shots is None else network.n_shots  # there is no noise
    split = network.control_split
    split = ControlSplit(split) if isinstance(split, str) else split
    if split.random_state is None:
        split = clone(split).set_params(random_state=0)  # which channels a random layout takes is the same to it
    identity = IdentityDevice.like(device, split)
    return network.set_params(device=identity, control_split=split, twin=twin, journal=None, n_shots=n_shots)


def _in_silico(task: _Task) -> Any:
    network = clone(physical_network(task.est)).set_params(gradient="in_silico_refitted")
    return network.set_params(n_calibration_shots="auto") if network.n_calibration_shots == 0 else network


def _scaled(model: Any) -> Any:
    return make_pipeline(FunctionTransformer(_dense, accept_sparse=True), StandardScaler(), model)


def _dense(X: Any) -> Any:
    return X.toarray() if hasattr(X, "toarray") else X


def _baseline(name: str, task: _Task) -> Baseline:
    label, make = CLASSICAL[name]
    if name == "linear":
        label = "logistic regression" if task.is_classifier else "ridge regression"
    return Baseline(name, label, lambda fitted: with_last_step(task.est, make(task, fitted)), alone=name in _ALONE)


_ALONE = {"linear", "svm", "gradient_boosting"}

CLASSICAL: dict[str, tuple[str, Callable[[_Task, Any], Any]]] = {
    "linear": ("linear model", lambda task, fitted: _scaled(_linear(task))),
    "svm": ("SVM (RBF)", lambda task, fitted: _scaled(_svm(task))),
    "gradient_boosting": ("gradient boosting", lambda task, fitted: _scaled(_gradient_boosting(task))),
    "mlp": ("MLP of the same size", lambda task, fitted: _scaled(_mlp(task, fitted))),
    "untrained": ("untrained device", lambda task, fitted: UntrainedDevice(clone(physical_network(task.est)))),
    "identity": ("identity device", lambda task, fitted: _identity(task)),
    "in_silico": ("in silico, readout refitted", lambda task, fitted: _in_silico(task)),
}
"""Names of the baselines, with their labels and how each is made from the task and the fitted network."""
