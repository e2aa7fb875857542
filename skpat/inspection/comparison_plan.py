"""plan_comparison: what compare_baselines will take of the device, worked out with nothing sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing, check_random_state

from skpat.devices.identity import IdentityDevice
from skpat.devices.specification import device_name
from skpat.estimators.base import PhysicalNetwork
from skpat.estimators.plan import CostOfShots, Plan, amount, settling_line, time_on_device
from skpat.estimators.specification import default_device
from skpat.inspection.baseline_comparison import compared
from skpat.inspection.baselines import physical_network
from skpat.inspection.untrained_device import UntrainedDevice

__all__ = ["ComparisonPlan", "PlannedRow", "plan_comparison"]


@dataclass(frozen=True)
class PlannedRow:
    """What one estimator of a comparison will take of the device.

    Attributes
    ----------
    name, label : str
        As in the comparison.
    fits : int
        Shots of its fits in all folds, at most.
    predictions : int
        Shots of the predictions that its scores need, in all folds.
    """

    name: str
    label: str
    fits: int
    predictions: int


@dataclass(frozen=True)
class ComparisonPlan(CostOfShots):
    """The most that a comparison can cost.

    Attributes
    ----------
    device : str
        Its name.
    n_folds : int
    rows : tuple of :class:`PlannedRow`
        Of those that use the device, the estimator first.
    seconds_per_shot, joules_per_shot : float or None
        What the device states.
    settling_seconds : float
        What the device states: see :class:`~skpat.estimators.plan.Plan`.
    """

    device: str
    n_folds: int
    rows: tuple[PlannedRow, ...]
    seconds_per_shot: float | None = None
    joules_per_shot: float | None = None
    settling_seconds: float = 0.0

    @property
    def shots(self) -> int:
        """Of all fits and predictions."""
        return sum(row.fits + row.predictions for row in self.rows)

    def __str__(self) -> str:
        width = max((len(row.label) for row in self.rows), default=0)
        return "\n".join(
            [
                f"A comparison on {self.device} in {self.n_folds} folds takes at most {self.shots:,} shots, repeats after "
                "faults aside:",
                f"  {'':{width}}  {'fits':>12}  {'predictions':>12}",
                *(f"  {row.label:{width}}  {row.fits:>12,}  {row.predictions:>12,}" for row in self.rows),
                "  time        " + time_on_device(self.seconds),
                *settling_line(self.settling_seconds),
                "  energy      " + amount(self.joules, "J", "joules_per_shot"),
                "Nothing has been sent.",
            ]
        )


def plan_comparison(
    est: Any, X: Any, y: Any, *, cv: Any = 5, baselines: Any = "classical", random_state: Any = 0
) -> ComparisonPlan:
    """Count the shots that :func:`compare_baselines` will take with the same arguments. Nothing is sent.

    Parameters
    ----------
    est, X, y, cv, baselines, random_state
        As of :func:`compare_baselines`.

    Returns
    -------
    ComparisonPlan
        Print it.

    Raises
    ------
    TypeError, ValueError
        As :func:`compare_baselines`, and as ``est.plan(X)``; and if a dict of ``baselines`` has a search or another
        estimator around a network, whose fits cannot be counted.

    Notes
    -----
    The steps of a pipeline before the network are fitted in every fold, as the number of features may depend on them. What a
    journal answers, and what ends early, takes fewer. Predictions are one pass over the rows to test on, which is what one
    score takes.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skpat import PhysicalNetworkClassifier
    >>> from skpat.inspection import plan_comparison
    >>> X, y = load_iris(return_X_y=True)
    >>> plan = plan_comparison(PhysicalNetworkClassifier(max_iter=3), X, y, cv=3, baselines=["linear", "untrained"])
    >>> [row.label for row in plan.rows], plan.rows[1].predictions
    (['PhysicalNetworkClassifier', 'untrained device'], 150)
    """
    network = physical_network(est)
    y, splits, made = compared(est, X, y, cv, baselines, check_random_state(random_state))
    rows = []
    for baseline in made:
        # the width of this one is that of a fitted network; it uses no device
        if baseline.name == "mlp" and not isinstance(baselines, dict):
            continue
        model = baseline.build(None)
        if not _uses_device(model):
            continue
        fits = predictions = 0
        for train, test in splits:
            plan = _plan(model, _safe_indexing(X, train), _safe_indexing(y, train))
            fits += plan.shots
            predictions += plan.prediction_per_row * len(test)
        rows.append(PlannedRow(baseline.name, baseline.label, fits, predictions))
    device = default_device() if network.device is None else network.device
    return ComparisonPlan(
        device=device_name(device),
        n_folds=len(splits),
        rows=tuple(rows),
        seconds_per_shot=getattr(device, "seconds_per_shot", None),
        joules_per_shot=getattr(device, "joules_per_shot", None),
        settling_seconds=float(getattr(device, "settling_seconds", None) or 0.0),
    )


def _plan(model: Any, X: Any, y: Any) -> Plan:
    if isinstance(model, Pipeline):
        if len(model.steps) > 1:
            X = clone(model[:-1]).fit_transform(X, y)
        model = model.steps[-1][1]
    return model.plan(X)


def _uses_device(model: Any) -> bool:
    """Whether a model ends in a network.

    Raises
    ------
    TypeError
        If there is one elsewhere in it.
    """
    last = model.steps[-1][1] if isinstance(model, Pipeline) else model
    network = last.network if isinstance(last, UntrainedDevice) else last
    if isinstance(network, PhysicalNetwork):
        return not isinstance(network.device, IdentityDevice)
    if any(isinstance(value, PhysicalNetwork) for value in model.get_params(deep=True).values()):
        raise TypeError(
            "A plan can count the shots of a network, or of a Pipeline that ends in one. Got one within a "
            f"{type(last).__name__}. Leave it out of 'baselines', and count its fits yourself: plan(X) is of one."
        )
    return False
