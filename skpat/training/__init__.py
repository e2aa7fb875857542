"""How a network is trained: gradient estimators (one per file), the autograd bridge, the loop."""

from skpat._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Apparatus": "skpat.training.gradient",
        "Asymmetric": "skpat.training.asymmetric",
        "DirectFeedbackAlignment": "skpat.training.feedback_alignment",
        "EvolutionStrategy": "skpat.training.evolution_strategy",
        "ExactGradient": "skpat.training.exact",
        "FiniteDifferences": "skpat.training.finite_differences",
        "ForwardForward": "skpat.training.forward_forward",
        "GradientEstimator": "skpat.training.gradient",
        "InSilico": "skpat.training.in_silico",
        "InSilicoRefitted": "skpat.training.in_silico_refitted",
        "Measurement": "skpat.training.gradient",
        "PhysicsAware": "skpat.training.physics_aware",
        "SPSA": "skpat.training.spsa",
        "SharpnessAware": "skpat.training.sharpness_aware",
        "bridge": "skpat.training.autograd_bridge",
        "device_alone": "skpat.training.gradient",
        "half_cosine": "skpat.training.gradient",
    },
)
