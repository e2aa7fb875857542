"""Sharpness-aware training: weights whose neighbours are good, too, stand drift and mismatch."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils._param_validation import HasMethods, Interval

from skpat.nested_parameters import refuse_nested_of_plain
from skpat.network.forward import Network, Run
from skpat.training.gradient import Apparatus, GradientEstimator, Measurement
from skpat.training.physics_aware import PhysicsAware

if TYPE_CHECKING:
    import torch

    from skpat.training.trainer import Data, Trainer

__all__ = ["SharpnessAware"]


class SharpnessAware(GradientEstimator):
    r"""The gradient of another method, taken where a step uphill leads.

    .. math:: g = \nabla L(w + \rho\, \nabla L(w) / |\nabla L(w)|) .

    A flat minimum costs little accuracy when the device drifts. Needs from the device what the other method needs, and
    twice its shots: both gradients are measured. There are no anchored steps, whatever the other method's
    ``n_anchored_steps``: they would go on from answers at the weights uphill, not at those that the training moves.

    Parameters
    ----------
    gradient : GradientEstimator, default=None
        The other method. None: :class:`PhysicsAware`.
    rho : float, default=0.05
        Length of the step uphill, over all weights, in units of the network's weights.
    random_state : int, RandomState instance or None, default=None
        Handed to the other method where ``gradient`` is None. None: seeded by the estimator.

    References
    ----------
    Foret et al., "Sharpness-aware minimization for efficiently improving generalization", ICLR (2021), arXiv:2010.01412.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skpat import PhysicalNetworkClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> network = PhysicalNetworkClassifier(gradient="sharpness_aware", max_iter=1, random_state=0).fit(X, y)
    >>> network.shots_["training"] == 2 * len(X)
    True
    """

    _parameter_constraints = {
        "gradient": [HasMethods(["run", "loss_and_gradient"]), None],
        "rho": [Interval(Real, 0, None, closed="left")],
        "random_state": ["random_state"],
    }

    def __init__(self, gradient=None, rho=0.05, random_state=None):
        self.gradient = gradient
        self.rho = rho
        self.random_state = random_state

    @property
    def explorer(self) -> GradientEstimator:
        """The other method."""
        if self.gradient is not None:
            return self.gradient.explorer
        if not hasattr(self, "_inner"):
            self._inner = PhysicsAware(n_anchored_steps=0, pretrain=False, random_state=self.random_state)
        return self._inner

    @property
    def uses_twin(self) -> bool:  # type: ignore[override]  # an attribute of the base class, derived here
        return self.explorer.uses_twin

    @property
    def trains_on_device(self) -> bool:  # type: ignore[override]  # an attribute of the base class, derived here
        return self.explorer.trains_on_device

    @property
    def pretrain(self) -> bool | str:  # type: ignore[override]  # an attribute of the base class, derived here
        return self.explorer.pretrain

    @property
    def shots_per_row(self) -> float:
        return 2 * self.explorer.shots_per_row

    @property
    def step_factor(self) -> float:
        return self.explorer.step_factor

    @property
    def final_shots_per_row(self) -> int:  # type: ignore[override]  # an attribute of the base class, derived here
        return self.explorer.final_shots_per_row

    def prepare(self, network: Network) -> None:
        """What the other method does."""
        self.explorer.prepare(network)

    def finish(self, trainer: Trainer, data: Data) -> None:
        """What the other method does."""
        self.explorer.finish(trainer, data)

    def explores(self, twin: Any) -> bool:
        """What the other method says."""
        return self.explorer.explores(twin)

    def begins_in_silico(self, twin: Any) -> bool:
        """What the other method says."""
        return self.explorer.begins_in_silico(twin)

    def set_params(self, **params: Any) -> SharpnessAware:
        """Set parameters, those of the other method included.

        Raises
        ------
        NestedParameterError
            If a parameter of ``gradient`` is set while ``gradient`` is None.
        """
        refuse_nested_of_plain(self, params, {"gradient": "gradient=PhysicsAware()"})
        return super().set_params(**params)

    def check_device(self, device: Any) -> None:
        """Check the parameters, and whether the other method can work with the device; ValueError where it leaves no gradient
        (``leaves_gradient``)."""
        super().check_device(device)
        if isinstance(self.gradient, SharpnessAware):
            raise ValueError(
                f"'gradient' of SharpnessAware must be another method. Got {self.gradient!r}. Nothing was sent. Use one "
                "SharpnessAware with a larger rho."
            )
        if not self.explorer.leaves_gradient:
            raise ValueError(
                f"'gradient' of SharpnessAware must be a method with a gradient to climb. Got {self.explorer!r}, which moves "
                "the weights itself. Nothing was sent. Use SPSA(), say, which needs the same of the device."
            )
        self.explorer.check_device(device)

    def run(self, apparatus: Apparatus) -> Run:
        """That of the other method."""
        return self.explorer.run(apparatus)

    def after_batch(self, apparatus: Apparatus, measurements: list[Measurement]) -> None:
        """What the other method does, with the shots of both gradients."""
        self.explorer.after_batch(apparatus, measurements)

    def loss_and_gradient(self, loss_of: Callable[[Run], torch.Tensor], apparatus: Apparatus) -> torch.Tensor:
        """The loss at the weights; the gradient uphill from them."""
        import torch

        trained = list(apparatus.trainable.values())
        loss = torch.as_tensor(self.explorer.loss_and_gradient(loss_of, apparatus)).detach()
        slopes = [torch.zeros_like(w) if w.grad is None else w.grad for w in trained]
        length = float(np.sqrt(sum(float(slope.square().sum()) for slope in slopes)))
        start = [w.detach().clone() for w in trained]
        try:
            with torch.no_grad():
                for w, slope in zip(trained, slopes, strict=True):
                    w.add_(slope, alpha=self.rho / length if 0 < length < np.inf else 0.0)
                    w.grad = None
            self.explorer.loss_and_gradient(loss_of, apparatus)
        finally:
            with torch.no_grad():
                for w, before in zip(trained, start, strict=True):
                    w.copy_(before)
        return loss
