"""skpat: train a physical system the way you train any scikit-learn estimator.

``PhysicalNetworkClassifier`` and ``PhysicalNetworkRegressor`` do physics-aware training (doi:10.1038/s41586-021-04223-6)
inside ``fit``: the forward pass runs on the device, the backward pass through a digital twin of it.
"""

from skpat._lazy import attach

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "ControlBatch": "skpat.controls",
        "ControlSplit": "skpat.controls",
        "Device": "skpat.devices.base",
        "PhysicalNetworkClassifier": "skpat.estimators.classifier",
        "PhysicalNetworkRegressor": "skpat.estimators.regressor",
        "as_device": "skpat.devices.function",
        "characterize": "skpat.inspection.characterization",
        "check_device": "skpat.inspection.driver_check",
    },
)
