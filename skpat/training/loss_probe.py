"""The loss of a few rows on the device, with the weights as they are or moved; and the gradient a method gives there."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING

import numpy as np

from skpat.controls import ControlBatch, as_numpy
from skpat.network.forward import Network, Run, forward, is_trainable
from skpat.training.gradient import Apparatus
from skpat.twins.base import for_torch, respond

if TYPE_CHECKING:
    import torch

    from skpat.training.trainer import Data, Trainer

__all__ = ["LossProbe", "row_losses"]

_SMALLEST_MOVE, _LARGEST_MOVE = 1e-5, 0.05  # root mean square, in parts of the channels' ranges
_COARSEST = 0.25  # a channel of few steps is moved by no more
_ROUNDED = 4.0  # times the machine precision: error of a loss whose device has no noise
_NEAR = 0.05  # of a step
_SAME = 1e-5  # in parts of a channel's range: numpy and torch do not round alike


Answers = dict[tuple[int, int], tuple[ControlBatch, np.ndarray]]
"""What was asked and answered, by layer and unit."""


class LossProbe:
    """One batch of rows, measured twice with the weights as they are, and then with moved ones.

    Parameters
    ----------
    trainer : Trainer
        Its network, weights, loss, gradient estimator, twin and session; nothing of it is changed.
    data : Data
        The rows.

    Attributes
    ----------
    layer_names : list of list of str
        Names of the trained weights that stand before the measurements of each layer and behind those of the one before.
    gradient : dict of str to ndarray
        The method's, of the weighted mean of the rows' losses, with respect to these weights.
    second_gradient : dict of str to ndarray or None
        The same from the second measurement: what differs is the device's noise. None if it would take more shots.
    loss_variance : float
        Variance of that mean by the device's noise and by rounding.
    n_shots : int
        Shots so far.
    """

    def __init__(self, trainer: Trainer, data: Data):
        self.trainer, self.data = trainer, data
        self.weights = trainer.weights_now()
        self.n_shots = 0
        network = trainer.network
        self.layer_names = [self._names_before(layer) for layer in range(network.n_layers)]
        self._share = data.sample_weight.astype(float) / float(data.sample_weight.sum())
        self._measure = trainer.session.run(data.row_keys, "calibration")
        first: Answers = {}
        second: Answers = {}
        losses = self._losses(self.weights, self._recorded(first))
        noise = losses - self._losses(self.weights, self._recorded(second))
        self._first = first
        rounding = _ROUNDED * np.finfo(data.X.dtype).eps * losses
        self.loss_variance = float(self._share**2 @ (noise**2 / 2 + rounding**2))
        width = np.ptp(network.bounds, axis=1)
        self._width = np.where(width > 0, width, 1.0)
        coarse = min(math.sqrt(float(np.mean((network.control_steps / self._width) ** 2))), _COARSEST)
        self._least_move, self._most_move = max(_SMALLEST_MOVE, coarse), max(_LARGEST_MOVE, coarse)
        self._stepless = copy.copy(network)  # as if all channels were continuous
        self._stepless.control_steps = np.zeros_like(network.control_steps)
        self._stepless._known_intervals = []
        self._settings_here = self._settings(self.weights)
        self.gradient = self._gradient_of_method(first)
        self.second_gradient = self._gradient_of_method(second) if trainer.gradient.shots_per_row == 1 else None

    def _names_before(self, layer: int) -> list[str]:
        parts = (f"layers.{layer}.",) if layer else ("encoder.", "layers.0.")
        return [name for name in self.weights if name.startswith(parts) and is_trainable(name)]

    def slope(
        self, direction: np.ndarray, names: list[str], step: float, *, least: float = 0.0, most: float = np.inf
    ) -> tuple[float, float]:
        """The measured slope of the loss along a direction, by a central difference, and its variance.

        Costs two shots per row, layer and unit.

        Parameters
        ----------
        direction : ndarray of shape (n_weights,)
            A unit vector, over the weights of these names.
        names : list of str
        step : float
            How far the weights shall go, if the controls then go neither too far nor hardly at all.
        least, most : float
            Within what the controls shall go: root mean square in parts of their ranges, in the call they move most.
        """
        step = self._possible(direction, names, step, least, most)
        return self._difference(direction, names, step, self._measured), self.loss_variance / (2 * step**2)

    def foreseen_share(self, direction: np.ndarray, names: list[str], step: float) -> float:
        """The twin's slope over the measured step, divided by its slope over a tiny step; 0 to 1.

        Noise makes the measured steps long, and the loss bends. 1 without a twin, or where it slopes the other way. No shots.
        """
        twin = self.trainer.twin
        if twin is None:
            return 1.0
        import torch

        module = twin.module_

        def predicted(batch: ControlBatch, layer: int, unit: int) -> np.ndarray:
            parts = {name: torch.from_numpy(for_torch(getattr(batch, name))) for name in ("varying", "shared")}
            asked = batch.changed(**parts)
            with torch.no_grad():
                return as_numpy(respond(module, asked))

        step = self._possible(direction, names, step)
        here, there = (
            self._difference(direction, names, part * step, predicted, self._stepless) for part in (_NEAR, 1.0)
        )
        return min(max(there / here, 0.0), 1.0) if here > 0 else 1.0

    def _possible(
        self, direction: np.ndarray, names: list[str], step: float, least: float = 0.0, most: float = np.inf
    ) -> float:
        """The step, within what the controls may and must move."""
        least = max(least, self._least_move)
        most = max(min(most, self._most_move), least)
        return float(np.clip(step, *np.array([least, most]) / self._reach(direction, names)))

    def _difference(
        self, direction: np.ndarray, names: list[str], step: float, run: Run, network: Network | None = None
    ) -> float:
        up, down = (self._losses(self._moved(side * step * direction, names), run, network) for side in (1.0, -1.0))
        return float(self._share @ (up - down)) / (2 * step)

    def _reach(self, direction: np.ndarray, names: list[str]) -> float:
        """How far a unit step moves the controls."""
        step = 1e-3 * math.sqrt(len(direction))
        there = self._settings(self._moved(step * direction, names))
        squares = [np.square(b - a).mean() for a, b in zip(self._settings_here, there, strict=True) if a.size]
        return max(math.sqrt(float(max(squares))) / step, 1e-12)

    def _settings(self, weights: dict[str, np.ndarray]) -> list[np.ndarray]:
        """What the calls would send, in parts of the ranges, if the outputs stayed as they were measured."""
        parts: list[np.ndarray] = []

        def run(batch: ControlBatch, layer: int, unit: int) -> np.ndarray:
            parts.append(np.asarray(batch.varying, dtype=float) / self._width[batch.varying_index])
            parts.append(np.asarray(batch.shared, dtype=float) / self._width[batch.shared_index])
            return self._first[layer, unit][1]

        forward(self._stepless, weights, self.data.X, run)
        return parts

    def _moved(self, move: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
        """All weights, those of the names moved."""
        weights, start = dict(self.weights), 0
        for name in names:
            value = weights[name]
            own = move[start : start + value.size].reshape(value.shape)
            weights[name], start = (value + own).astype(value.dtype), start + value.size
        return weights

    def _losses(self, weights: dict[str, np.ndarray], run: Run, network: Network | None = None) -> np.ndarray:
        scores = forward(network or self.trainer.network, weights, self.data.X, run)
        return row_losses(self.trainer, scores, self.data.targets)

    def _measured(self, batch: ControlBatch, layer: int, unit: int) -> np.ndarray:
        self.n_shots += batch.n_rows * self.trainer.session.n_shots
        return self._measure(batch, layer, unit)

    def _recorded(self, answers: Answers) -> Run:
        """The device, and a note of what it was asked and what it answered."""

        def run(batch: ControlBatch, layer: int, unit: int) -> np.ndarray:
            outputs = self._measured(batch, layer, unit)
            answers[layer, unit] = batch, outputs
            return outputs

        return run

    def _gradient_of_method(self, answers: Answers) -> dict[str, np.ndarray]:
        """The method's gradient, at controls that are not displaced and with these answers."""
        import torch

        def remembered(batch: ControlBatch, layer: int, unit: int) -> np.ndarray:
            """What has been measured already where the same is asked again, else the device."""
            known, outputs = answers[layer, unit]
            asked = batch.numpy()
            same = np.array_equal(asked.varying_index, known.varying_index) and all(
                np.abs((getattr(asked, part) - getattr(known, part)) / self._width[index]).max(initial=0.0) < _SAME
                for part, index in (("varying", known.varying_index), ("shared", known.shared_index))
            )
            return outputs if same else self._measured(asked, layer, unit)

        trainer = self.trainer
        weights = {name: torch.from_numpy(w.copy()).to(trainer.torch_device) for name, w in self.weights.items()}
        for name, weight in weights.items():
            weight.requires_grad_(is_trainable(name))
        share = self._share.astype(self.data.X.dtype)
        X, targets, share = (
            torch.from_numpy(array).to(trainer.torch_device) for array in (self.data.X, self.data.targets, share)
        )

        def loss_of(run: Run) -> torch.Tensor:
            return share @ trainer.loss(forward(trainer.network, weights, X, run), targets)

        own = copy.deepcopy(trainer.gradient)  # it may keep count of what it is asked
        apparatus = Apparatus(
            remembered,
            trainer.session.device,
            trainer.twin,
            weights,
            trainer.network,
            loss=trainer.loss,
            targets=targets,
            sample_weight=share,
        )  # without row keys: nothing is displaced
        with torch.enable_grad():
            own.loss_and_gradient(loss_of, apparatus)
        return {
            name: np.zeros_like(self.weights[name]) if weights[name].grad is None else as_numpy(weights[name].grad)
            for names in self.layer_names
            for name in names
        }


def row_losses(trainer: Trainer, scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The training's loss of each row in float64, shape (n_rows,)."""
    import torch

    if targets.dtype.kind == "f":
        targets = targets.astype(np.float64)
    with torch.no_grad():
        return as_numpy(trainer.loss(torch.from_numpy(scores.astype(np.float64)), torch.from_numpy(targets)))
