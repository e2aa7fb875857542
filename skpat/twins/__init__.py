"""Differentiable digital twins: one per file, how they are fitted and how far to trust them."""

from skpat._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "NeuralTwin": "skpat.twins.neural_twin",
        "PhysicsTwin": "skpat.twins.physics_twin",
        "ResidualTwin": "skpat.twins.residual_twin",
        "Twin": "skpat.twins.base",
        "gradient_cosine": "skpat.twins.fidelity",
    },
)
