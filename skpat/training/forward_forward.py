"""Local training without a twin: each layer by a loss of its own measured outputs, two passes forward and none back."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval

from skpat.controls import ControlBatch, as_numpy
from skpat.network.forward import Network, Run
from skpat.training.dither import Dither
from skpat.training.gradient import Apparatus, GradientEstimator

if TYPE_CHECKING:
    import torch

__all__ = ["ForwardForward"]

_RIDGE = 0.1  # of a local readout, in units of an output's variance


class ForwardForward(GradientEstimator):
    r"""Two passes forward on the device, every channel of every row displaced one way and the other; nothing goes back.

    Layer :math:`l` has a loss :math:`\ell_l` of its own: the last layer that of the network, each earlier one the squared
    error of a linear readout of its own normalised outputs. With :math:`z` normal displacements of the controls :math:`c`,
    drawn anew for each row :math:`i`, channel :math:`j`, layer, unit and step, the derivative of a row's local loss is taken to
    be

    .. math::

        \frac{\partial \ell_{l,i}}{\partial c_{ij}} \approx
        \frac{\ell_{l,i}(c + s z) - \ell_{l,i}(c - s z)}{2 s}\, z_{ij} ,

    and carried on, exactly, to what is digital between the previous measurement and this one: ``theta``, ``gain``, ``offset``
    (and ``skip``) of the layer, for the first layer the encoder. All layers are displaced in the same two passes: what
    the displacements of other layers do to a layer's loss is independent of its own, noise that averages out.

    Needs from the device: ``measure``. Costs two shots per row, layer and unit. Weights that all rows share on the device
    are displaced row by row, too, unless the device names them as ``slow_controls``.

    Parameters
    ----------
    perturbation : float, default=0.03
        The standard deviation :math:`s` of the displacements, in parts of each channel's range.
    momentum : float, default=0.1
        How fast a local readout follows: the share of the newest batch in the moments that it is fitted to.
    random_state : int, RandomState instance or None, default=None
        For the displacements. None: seeded by the estimator.

    Notes
    -----
    How this departs from the papers. Hinton's goodness (the squared length of a layer's outputs, high for data with the right
    label and low for data with a wrong one) is replaced by a local readout's error, as in Nøkland and Eidnes: no wrong data
    are made, a prediction is one pass and not one for each label, and targets may be numbers. In Momeni et al. the physical
    layer is fixed and a digital matrix before it is trained, so that no derivative of the device is needed; here the
    device's own channels are trained, and displacements stand for the derivative. A layer knows nothing of
    the layers after it, which is what keeps such training from the accuracy of a gradient. With one layer nothing
    is local: it is the perturbation of each row's channels, with the loss of the network.

    References
    ----------
    Momeni, Rahmani, Malléjac, del Hougne, Fleury, Science 382, 1297 (2023), doi:10.1126/science.adi8474;
    Hinton, "The forward-forward algorithm" (2022), arXiv:2212.13345;
    Nøkland and Eidnes, "Training neural networks with local error signals", ICML (2019), arXiv:1901.06656.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skpat import PhysicalNetworkClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> network = PhysicalNetworkClassifier(gradient="forward_forward", n_layers=2, max_iter=1, random_state=0).fit(X, y)
    >>> network.shots_["training"] == 2 * 2 * len(X)
    True
    """

    shots_per_row = 2

    _parameter_constraints = {
        "perturbation": [Interval(Real, 0, 0.5, closed="right")],
        "momentum": [Interval(Real, 0, 1, closed="right")],
        "random_state": ["random_state"],
    }

    def __init__(self, perturbation=0.03, momentum=0.1, random_state=None):
        self.perturbation = perturbation
        self.momentum = momentum
        self.random_state = random_state

    def loss_and_gradient(self, loss_of: Callable[[Run], torch.Tensor], apparatus: Apparatus) -> torch.Tensor:
        """The mean loss of both passes; gradients as above."""
        import torch

        assert apparatus.network is not None
        assert apparatus.sample_weight is not None
        if not hasattr(self, "_seed"):
            self._seed = int(check_random_state(self.random_state).randint(2**31))
            self._n_calls = 0
            self._readouts: dict[int, _LocalReadout] = {}
        network = apparatus.network
        dither = Dither(network, apparatus.device, self._seed)
        passes = [_Pass(apparatus, dither, side * self.perturbation, self._n_calls) for side in (1.0, -1.0)]
        self._n_calls += network.n_calls
        total = torch.zeros(())
        for one in passes:
            loss = loss_of(one.run) / 2
            loss.backward()  # of the readout, and of the penalty: the device's answers are constants
            total = total + loss.detach().cpu()
        share = apparatus.sample_weight / apparatus.sample_weight.sum()
        width = np.where(dither.width > 0, 2 * self.perturbation * dither.width, np.inf)
        to_carry = torch.zeros(()).to(share)
        for layer in range(network.n_layers):
            up, down = self._local_losses(apparatus, layer, [one.normal(layer) for one in passes])
            for unit in range(network.n_calls_of(layer)):
                call = layer, unit
                moved = passes[0].displacement[call] - passes[1].displacement[call]
                slope = (share * (up - down))[:, None] * moved / moved.new_tensor(width) ** 2
                for one in passes:
                    to_carry = to_carry + (one.asked[call] * slope).sum() / 2
        to_carry.backward()
        return total

    def _local_losses(
        self, apparatus: Apparatus, layer: int, normals: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One number per row from a layer's normalised outputs, in both passes."""
        import torch

        network, targets, loss = apparatus.network, apparatus.targets, apparatus.loss
        assert network is not None
        assert targets is not None
        assert loss is not None
        with torch.no_grad():
            if layer == network.n_layers - 1:
                up, down = (loss(network.readout.read(apparatus.weights, normal), targets) for normal in normals)
                return up, down
            wanted = as_numpy(_as_columns(targets, network))
            readout = self._readouts.setdefault(layer, _LocalReadout())
            outputs = [as_numpy(normal).astype(float) for normal in normals]
            readout.learn((outputs[0] + outputs[1]) / 2, wanted, as_numpy(apparatus.sample_weight), self.momentum)
            errors = [np.square(readout.read(part) - wanted).mean(axis=1) / 2 for part in outputs]
            up, down = (torch.from_numpy(part).to(normals[0]) for part in errors)
            return up, down


class _Pass:
    """One forward pass with displaced controls: what was asked for, by how much it was moved, what came back."""

    def __init__(self, apparatus: Apparatus, dither: Dither, size: float, first_number: int):
        self.apparatus, self.dither, self.size, self.first_number = apparatus, dither, size, first_number
        self.asked: dict[tuple[int, int], torch.Tensor] = {}
        self.displacement: dict[tuple[int, int], torch.Tensor] = {}
        self.outputs: dict[tuple[int, int], torch.Tensor] = {}

    def run(self, batch: ControlBatch, layer: int, unit: int) -> torch.Tensor:
        """The device, at displaced controls; its answer is a constant to autograd."""
        import torch

        keys, network = self.apparatus.row_keys, self.apparatus.network
        assert network is not None
        asked = batch.dense()
        number = self.first_number + len(self.asked)
        keys = np.arange(len(asked), dtype=np.uint64) if keys is None else keys
        sent = self.dither.displaced(asked.detach(), keys, number, self.size)
        answer = torch.as_tensor(self.apparatus.measure(self.dither.in_parts(sent, batch), layer, unit)).to(asked)
        call = layer, unit
        self.asked[call], self.displacement[call], self.outputs[call] = asked, sent - asked.detach(), answer
        return answer

    def normal(self, layer: int) -> torch.Tensor:
        """A layer's outputs as the next one gets them."""
        import torch

        weights, network = self.apparatus.weights, self.apparatus.network
        assert network is not None
        outputs = torch.cat([self.outputs[layer, unit] for unit in range(network.n_calls_of(layer))], dim=1)
        return network.hand_on((outputs - weights[f"layers.{layer}.mean"]) / weights[f"layers.{layer}.scale"], layer)


class _LocalReadout:
    """A ridge regression from one layer's outputs to the targets, fitted to running moments."""

    def learn(self, outputs: np.ndarray, wanted: np.ndarray, sample_weight: np.ndarray, momentum: float) -> None:
        """Move the moments towards those of a batch, and fit."""
        rows = np.concatenate([outputs, np.ones((len(outputs), 1))], axis=1)
        weighted = rows * (sample_weight / sample_weight.sum())[:, None]
        square, product = weighted.T @ rows, weighted.T @ wanted
        if not hasattr(self, "square"):
            self.square, self.product = square, product
        self.square = (1 - momentum) * self.square + momentum * square
        self.product = (1 - momentum) * self.product + momentum * product
        ridge = np.diag([_RIDGE] * outputs.shape[1] + [1e-9])
        self.coef = np.linalg.solve(self.square + ridge, self.product)

    def read(self, outputs: np.ndarray) -> np.ndarray:
        """Scores (n_rows, n_targets)."""
        return outputs @ self.coef[:-1] + self.coef[-1]


def _as_columns(targets: torch.Tensor, network: Network) -> torch.Tensor:
    """What a squared error compares with: numbers as they are, classes as columns of zeros and ones."""
    if targets.is_floating_point():
        return targets
    import torch

    return torch.nn.functional.one_hot(targets, network.made_with["n_targets"]).double()
