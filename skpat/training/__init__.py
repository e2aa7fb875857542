"""How a network is trained: gradient estimators (one per file), the autograd bridge, the loop."""

from skpat._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Apparatus": "skpat.training.gradient",
        "ExactGradient": "skpat.training.exact",
        "GradientEstimator": "skpat.training.gradient",
        "InSilico": "skpat.training.in_silico",
        "Measurement": "skpat.training.gradient",
        "PhysicsAware": "skpat.training.physics_aware",
        "SPSA": "skpat.training.spsa",
        "bridge": "skpat.training.autograd_bridge",
    },
)
