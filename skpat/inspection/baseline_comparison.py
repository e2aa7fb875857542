"""compare_baselines: an estimator beside what it must be compared with, on the same folds."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import check_scoring
from sklearn.model_selection import KFold, StratifiedKFold, check_cv
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing, check_random_state
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.parallel import Parallel, delayed

from skpat.devices.identity import IdentityDevice
from skpat.devices.specification import device_name
from skpat.estimators.specification import default_device
from skpat.inspection.baselines import Baseline, make_baselines, physical_network
from skpat.inspection.comparison_report import BaselineComparison, ComparisonRow
from skpat.inspection.digital_cost import digital_cost, network_in
from skpat.seeding import LARGEST_SEED
from skpat.value_checks import is_int

__all__ = ["compare_baselines", "compared"]

_SEEDED_INSIDE = {"device", "twin", "control_split", "gradient"}  # a network derives these from its own random_state
_FIT_PURPOSES = ("calibration", "training", "validation")


def compare_baselines(
    est: Any,
    X: Any,
    y: Any,
    *,
    cv: Any = 5,
    baselines: Any = "classical",
    scoring: Any = None,
    n_jobs: int | None = None,
    random_state: Any = 0,
) -> BaselineComparison:
    r"""Score an estimator and its baselines on the same folds, and say what the device adds.

    For each fold :math:`i` the paired difference is :math:`d_i = s_i - b_i`, the estimator's score less the baseline's. Its
    standard error allows for the rows that the training sets of the folds share [1]_:
    :math:`\sqrt{(1/k + n_\mathrm{test}/n_\mathrm{train})\,\mathrm{var}(d)}`, but at least :math:`\sqrt{|d|(1 - |d|)/n}` for
    accuracies on :math:`n` rows in all. Student's t with :math:`k - 1` degrees of freedom decides, at 2.5 % to either side.

    Parameters
    ----------
    est : PhysicalNetworkClassifier, PhysicalNetworkRegressor, or a Pipeline that ends in one
        Only copies are fitted.
    X : array-like or sparse matrix of shape (n_samples, n_features)
        Or what the pipeline's first step takes.
    y : array-like of shape (n_samples,) or (n_samples, n_targets), or indicator matrix of shape (n_samples, n_labels)
    cv : int, splitter or iterable of (train, test), default=5
        A number gives that many folds, shuffled, stratified for a classifier. The rows of a fold are scored in random order.
    baselines : "classical", list of str, or dict of str to estimator, default="classical"
        Among "linear" (logistic or ridge regression), "svm" (radial basis functions), "gradient_boosting", "mlp" (one hidden
        layer with about as many trained parameters), "untrained" (the device with random weights and a fitted linear
        readout), "identity" (the same network, the device replaced by :class:`skpat.devices.IdentityDevice`, trained in the
        same way) and "in_silico" (trained on the twin, then the readout fitted on the device,
        :class:`skpat.training.InSilicoRefitted`). "classical" means all of them. Estimators of a dict are taken as they are.
    scoring : str or callable, default=None
        As in scikit-learn; None: accuracy or R².
    n_jobs : int, default=None
        Folds side by side. One instrument serves one fit at a time.
    random_state : int, RandomState instance or None, default=0
        For the folds of a number ``cv``, and for every estimator whose own ``random_state`` is None: one seed for each fold,
        the same for all estimators.

    Returns
    -------
    BaselineComparison
        Print it, or use ``to_pandas()``, ``plot()``, ``rows`` and ``sentences``.

    Raises
    ------
    TypeError
        If ``est`` is no physical network, or ``baselines`` is none of the above.
    ValueError
        If a name in ``baselines`` is unknown, or ``cv`` gives fewer than two splits.

    Notes
    -----
    Every baseline of a name takes the place of the pipeline's last step. Features are standardised for the first four, and so
    are the targets of SVM and MLP regressors; apart from that, and from more iterations where they need them, they have
    scikit-learn's default parameters, and are not searched over. ``class_weight`` is handed on to all but the MLP; with several
    labels, whose models are fitted one by one, only "balanced" is.

    With a ``scoring`` that asks for probabilities the SVM's are calibrated by five-fold cross-validation
    (:class:`~sklearn.calibration.CalibratedClassifierCV`). The first three, and estimators of a dict that have no device,
    are fitted and scored first: if they cannot be, that shows before a shot is taken.

    Shots: the estimator, the untrained device and the in-silico baseline are measured in every fold.
    :func:`skpat.inspection.plan_comparison` counts them before you begin. A ``max_shots`` of ``est`` holds for each of its
    fits and each of the in-silico baseline's; the untrained device measures every row once, whatever it says.

    The identity takes one step for each batch. The default estimator takes further ones without the device
    (:class:`skpat.training.PhysicsAware`), so that it may well be ahead.

    References
    ----------
    .. [1] Nadeau and Bengio, Machine Learning 52, 239 (2003), doi:10.1023/A:1024068626366.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skpat import PhysicalNetworkClassifier
    >>> from skpat.inspection import compare_baselines
    >>> X, y = load_iris(return_X_y=True)
    >>> classifier = PhysicalNetworkClassifier(max_iter=3, random_state=0)  # a simulated laser
    >>> comparison = compare_baselines(classifier, X, y, cv=2, baselines=["linear", "identity"])
    >>> [row.label for row in comparison.rows]
    ['PhysicalNetworkClassifier', 'logistic regression', 'identity device']
    >>> comparison["linear"].n_shots_fit, comparison["linear"].uses_device
    (0, False)
    """
    network = physical_network(est)
    if not (scoring is None or isinstance(scoring, str) or callable(scoring)):
        raise ValueError(f"'scoring' must be one name, one callable or None. Got {scoring!r:.80}. Nothing was sent.")
    scorer = check_scoring(est, scoring)
    probabilities = getattr(scorer, "_response_method", None) in (
        "predict_proba",
        ("predict_proba",),
        ["predict_proba"],
    )
    rng = check_random_state(random_state)
    y, splits, made = compared(est, X, y, cv, baselines, rng, probabilities)
    seeds = rng.randint(LARGEST_SEED, size=len(splits))
    calls = [delayed(_fold)(est, made, X, y, *parts, scorer) for parts in zip(splits, seeds.tolist(), strict=True)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of baselines that are used as they come
        folds = Parallel(n_jobs=n_jobs)(calls)
    ratio = float(np.mean([len(test) / len(train) for train, test in splits]))
    rows = [_row(baseline, results, ratio) for baseline, results in zip(made, zip(*folds, strict=True), strict=True)]
    device = default_device() if network.device is None else network.device
    metric = _metric(est, scoring)
    n_tested = len(np.unique(np.concatenate([test for _, test in splits]))) if metric == "accuracy" else None
    return BaselineComparison(device_name(device), metric, tuple(rows), ratio, n_tested)


def compared(
    est: Any, X: Any, y: Any, cv: Any, baselines: Any, rng: np.random.RandomState, probabilities: bool = False
) -> tuple[Any, list[tuple[np.ndarray, np.ndarray]], list[Baseline]]:
    """What a comparison is made of, as its arguments say: dense labels, rows to train on and to test on, fold by fold, and what
    is fitted to them, the estimator first."""
    y = y.toarray() if hasattr(y, "toarray") else y  # labels
    splits = _splits(est, X, y, cv, rng)
    made = make_baselines(est, baselines, *_count_targets(est, y), probabilities)
    return y, splits, [Baseline("estimator", type(physical_network(est)).__name__, lambda fitted: clone(est)), *made]


def _splits(est: Any, X: Any, y: Any, cv: Any, rng: np.random.RandomState) -> list[tuple[np.ndarray, np.ndarray]]:
    if is_int(cv, 2):
        stratified = is_classifier(est) and type_of_target(y) in ("binary", "multiclass")
        cv = (StratifiedKFold if stratified else KFold)(int(cv), shuffle=True, random_state=rng.randint(LARGEST_SEED))
    splits = [
        (_indices(train), _indices(test)) for train, test in check_cv(cv, y, classifier=is_classifier(est)).split(X, y)
    ]
    if len(splits) < 2:
        raise ValueError(
            f"'cv' must give at least two splits: one has no standard error. Got {len(splits)}. Use cv=5, for example."
        )
    return splits


def _indices(rows: Any) -> np.ndarray:
    """Numbers of rows, given as such or as a mask."""
    rows = np.asarray(rows)
    return np.flatnonzero(rows) if rows.dtype == bool else rows


def _count_targets(est: Any, y: Any) -> tuple[int, int]:
    """Outputs of a perceptron, and columns of y."""
    n_columns = 1 if np.ndim(y) < 2 else np.shape(y)[1]
    if not is_classifier(est) or n_columns > 1:
        return n_columns, n_columns
    n_classes = len(np.unique(np.asarray(y)))
    return (1 if n_classes == 2 else n_classes), n_columns


def _fold(
    est: Any, made: list[Baseline], X: Any, y: Any, split: tuple[Any, Any], seed: int, scorer: Any
) -> list[dict[str, Any]]:
    """Fit and score everything on one split: what needs no device, then the user's estimator, then those that take its size."""
    train, test = (
        split[0],
        np.random.RandomState(seed).permutation(split[1]),
    )  # a memory must not hand on the label before
    X_train, X_test, y_train, y_test = (_safe_indexing(data, rows) for data in (X, y) for rows in (train, test))
    results: dict[str, dict[str, Any]] = {}
    fitted: Any = None
    for baseline in sorted(made, key=lambda baseline: not baseline.alone):
        model = _seeded(baseline.build(fitted), seed)
        model.fit(X_train, y_train)
        network = network_in(model)
        fitted = network if baseline.name == "estimator" else fitted
        shots = None if network is None or isinstance(network.device_, IdentityDevice) else network.ledger_.asked
        alike = isinstance(model, Pipeline) and isinstance(est, Pipeline) and [*model.named_steps] == [*est.named_steps]
        cost = digital_cost(model.steps[-1][1] if alike else model)  # the steps before it are the same for all
        results[baseline.name] = {"score": float(scorer(model, X_test, y_test)), "shots": shots, "cost": cost} | {
            "per_prediction": 0 if shots is None else _shots_per_prediction(network)
        }
    return [results[baseline.name] for baseline in made]


def _shots_per_prediction(network: Any) -> int:
    return network._network.n_calls * network.n_shots


def _seeded(model: Any, seed: int) -> Any:
    """The estimator, every open ``random_state`` set but those that a network seeds itself."""
    params = model.get_params(deep=True)
    names = [
        name
        for name, value in params.items()
        if value is None and name.split("__")[-1] == "random_state" and not _SEEDED_INSIDE & set(name.split("__"))
    ]
    return model.set_params(**dict.fromkeys(names, seed))


def _row(baseline: Baseline, results: tuple[dict[str, Any], ...], ratio: float) -> ComparisonRow:
    used = [result["shots"] for result in results if result["shots"] is not None]
    operations, parameters = (
        [getattr(result["cost"], name) for result in results] for name in ("operations", "n_parameters")
    )
    return ComparisonRow(
        name=baseline.name,
        label=baseline.label,
        scores=np.array([result["score"] for result in results]),
        uses_device=bool(used),
        shots={
            purpose: round(float(np.mean([shots[purpose] for shots in used]))) if used else 0
            for purpose in _FIT_PURPOSES
        },
        n_shots_per_prediction=int(results[0]["per_prediction"]),
        operations=None if None in operations else float(np.mean(operations)),
        n_parameters=None if None in parameters else round(float(np.mean(parameters))),
        test_to_train=ratio,
    )


def _metric(est: Any, scoring: Any) -> str:
    if scoring is None:
        return "accuracy" if is_classifier(est) else "R²"
    return scoring if isinstance(scoring, str) else getattr(scoring, "__name__", None) or str(scoring)
