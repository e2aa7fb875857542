"""The scikit-learn face of skpat."""

from skpat._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "CostReport": "skpat.estimators.cost_report",
        "CostRow": "skpat.estimators.cost_report",
        "PhysicalNetworkClassifier": "skpat.estimators.classifier",
        "PhysicalNetworkRegressor": "skpat.estimators.regressor",
        "Plan": "skpat.estimators.plan",
    },
)
