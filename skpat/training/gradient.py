"""The base class of gradient estimators: where the gradient of a batch's loss comes from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import validate_parameter_constraints

from skpat.controls import ControlBatch
from skpat.network.forward import Network, Run

if TYPE_CHECKING:
    import torch

__all__ = ["Apparatus", "GradientEstimator", "Measurement", "device_alone", "half_cosine"]


@dataclass
class Apparatus:
    """What a gradient estimator may use.

    Attributes
    ----------
    measure : callable
        ``measure(batch, layer, unit)`` -> ndarray (n_rows, n_outputs): the device. Counted as training shots; in a check of
        the twin as calibration, in ``recalibrate`` as recalibration. Set anew for each batch of data.
    device : Device
        The specification; only :class:`skpat.training.ExactGradient` needs more of it than its numbers.
    twin : Twin
        The fitted twin; None where the estimator asked for none.
    weights : dict of str to tensor
        All numbers of the network by name: ``encoder.*``, ``layers.0.theta`` (n_units, n_weights), ``.gain``, ``.offset``,
        ``.mean`` and ``.scale`` of each layer, ``readout.*``. Means and scales are statistics, not weights: see ``trainable``.
    network : Network
        The wiring.
    row_keys : ndarray of uint64, shape (n_rows,)
        Names of the batch's rows, from their values alone.
    progress : float
        How far the training has come, 0 to 1; 0 where it has no end, in ``partial_fit``.
    loss : callable
        ``loss(scores, targets)`` -> one number per row, for methods that judge more than the batch as a whole.
    targets, sample_weight : tensor
        What the loss compares with, and the weights (n_rows,), of the batch's rows.
    """

    measure: Callable[[ControlBatch, int, int], np.ndarray]
    device: Any
    twin: Any
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    network: Network | None = None
    row_keys: np.ndarray | None = None
    progress: float = 0.0
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    targets: torch.Tensor | None = None
    sample_weight: torch.Tensor | None = None

    @property
    def trainable(self) -> dict[str, torch.Tensor]:
        """Those of ``weights`` that are trained: a method leaves its gradient in their ``.grad``, or moves them in place."""
        return {name: weight for name, weight in self.weights.items() if weight.requires_grad}


def device_alone(apparatus: Apparatus) -> Run:
    """The ``run(batch, layer, unit)`` of a device whose answer is a constant to autograd: of methods that need no gradient
    of it.

    Parameters
    ----------
    apparatus : Apparatus

    Returns
    -------
    run : callable
        ``run(batch, layer, unit)`` -> tensor (n_rows, n_outputs).
    """
    import torch

    return lambda batch, layer, unit: torch.as_tensor(apparatus.measure(batch, layer, unit)).to(batch.varying)


@dataclass(frozen=True)
class Measurement:
    """One device call of a training step.

    Attributes
    ----------
    layer, unit : int
        Where in the network.
    batch : ControlBatch
        What was asked for.
    outputs : ndarray of shape (n_rows, n_outputs)
        What ``run`` has made of the device's answer; a run that measures nothing leaves no record. In silico the twin's answer.
    sample_weight : ndarray of shape (n_rows,)
        Weights of the rows.
    """

    layer: int
    unit: int
    batch: ControlBatch
    outputs: np.ndarray
    sample_weight: np.ndarray


class GradientEstimator(BaseEstimator):
    """Base class: subclass it to add a training method.

    The simplest subclass says how one device call is run during training (:meth:`run`) and leaves the rest to
    autograd. A method that needs several evaluations of the loss overrides :meth:`loss_and_gradient`.

    Attributes
    ----------
    uses_twin : bool
        Whether a twin is calibrated before the training.
    leaves_gradient : bool
        Whether ``loss_and_gradient`` leaves a gradient of the weights before a measurement; False if it moves them itself.
    pretrain : bool or "auto"
        Whether a fit that begins in silico (:meth:`begins_in_silico`) goes on from what it found there with this method.
        "auto": if a batch on the device confirms it.
    trains_on_device : bool
        Whether the forward pass of the training runs on the device. If not, validation runs on the twin, too, if there is one.
    shots_per_row : int or float
        Shots that one row of a batch costs, in each layer and unit, the mean over an epoch; known after :meth:`prepare`. Plans
        and ``max_shots`` go by it, and an epoch that takes more ends the fit.
    final_shots_per_row : int
        Shots that one row costs in :meth:`finish`, in each layer and unit, once in a training.

    Examples
    --------
    >>> from skpat.training import GradientEstimator, bridge
    >>> class StraightThrough(GradientEstimator):
    ...     "Pretend that every output is the mean of all controls."
    ...
    ...     def run(self, apparatus):
    ...         n_outputs = apparatus.device.n_outputs
    ...         return bridge(apparatus.measure, lambda c: c.mean(1, keepdim=True).expand(-1, n_outputs))
    """

    uses_twin = False
    pretrain = False
    trains_on_device = True
    leaves_gradient = True
    final_shots_per_row = 0
    _parameter_constraints: dict[str, Any] = {}

    @property
    def shots_per_row(self) -> float:
        return 1

    @property
    def validates_on_device(self) -> bool:
        """Whether validation scores are the device's, and not the twin's."""
        return self.trains_on_device or not self.uses_twin

    def check_device(self, device: Any) -> None:
        """Raise an error, a SkpatError or ValueError say, if this estimator cannot work with the device, or with its own
        parameters. Nothing has been sent yet. Default: any device will do; the parameters are held against
        ``_parameter_constraints``, if there are any."""
        validate_parameter_constraints(self._parameter_constraints, self.get_params(deep=False), type(self).__name__)

    def prepare(self, network: Network) -> None:
        """Called once before a training with its network: to count what a step costs, or raise a SkpatError or ValueError if
        there is too much to train for this method. Nothing has been sent yet. Default: nothing."""

    def run(self, apparatus: Apparatus) -> Run:
        """The ``run(batch, layer, unit)`` of the training's forward pass."""
        raise NotImplementedError(f"{type(self).__name__} must define run(apparatus) or loss_and_gradient(...).")

    @property
    def explorer(self) -> Any:
        """The method that knows the size of displacements; itself, unless it wraps another."""
        return self

    def explores(self, twin: Any) -> bool:
        """Whether the training itself displaces controls for this twin to learn from; its calibration is short then.
        Default: no. Only :class:`~skpat.training.PhysicsAware` and its subclasses say yes: their ``dither``, ``size`` and
        ``seed`` tell by how much."""
        return False

    def begins_in_silico(self, twin: Any) -> bool:
        """Whether a fit with this twin first trains in silico, without a shot, once the twin is calibrated. Default: with
        any twin, if ``pretrain`` says so."""
        return bool(self.pretrain)

    @property
    def step_factor(self) -> float:
        """What the step size is multiplied with; a method that mistrusts its gradients goes slower. Default: 1."""
        return 1.0

    def count_further_steps(self, apparatus: Apparatus) -> int:
        """Steps on the same rows that follow each measured one, with the loss of :meth:`run_further`. Default: 0."""
        return 0

    def run_further(self, apparatus: Apparatus) -> Run:
        """The ``run(batch, layer, unit)`` of these steps, which measures nothing."""
        raise NotImplementedError(
            f"{type(self).__name__} must define run_further(apparatus) for count_further_steps(apparatus)."
        )

    def after_batch(self, apparatus: Apparatus, measurements: list[Measurement]) -> None:
        """Called after each step with what was measured for it, in order. Default: nothing."""

    def finish(self, trainer: Any, data: Any) -> None:
        """Called once at the end of ``fit``, with the weights that will be kept, unless Ctrl-C or the budget has ended the
        training. Shots may be taken with ``trainer.session``, new weights are set with ``trainer.set_weights``.
        Default: nothing.

        Parameters
        ----------
        trainer : skpat.training.trainer.Trainer
            Holds the network, its weights and statistics, the loss, the session and the twin.
        data : skpat.training.trainer.Data
            All rows of the training.
        """

    def loss_and_gradient(self, loss_of: Callable[[Run], torch.Tensor], apparatus: Apparatus) -> torch.Tensor:
        """Evaluate one batch's loss and leave the gradient in the weights' ``.grad``.

        A method that moves weights to evaluate the loss elsewhere moves them back. It need not do so after an error: whatever
        ends it (``max_shots``, a Ctrl-C, a fault of the device), the weights are then set to what they were.

        Parameters
        ----------
        loss_of : callable
            ``loss_of(run)`` -> scalar tensor, the batch's loss with that ``run``.
        apparatus : Apparatus

        Returns
        -------
        scalar tensor, or float
            The loss.
        """
        loss = loss_of(self.run(apparatus))
        loss.backward()
        return loss


def half_cosine(progress: float) -> float:
    """From 1 at the start of a training to 0 at its end, as its step size falls: for what is to shrink with it.

    Examples
    --------
    >>> from skpat.training import half_cosine
    >>> half_cosine(0.0), half_cosine(1.0)
    (1.0, 0.0)
    """
    return 0.5 * (1 + math.cos(math.pi * progress))
