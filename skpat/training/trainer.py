"""A network being trained: one minibatch, one step of Adam, running output statistics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from skpat.controls import ControlBatch, as_numpy
from skpat.exceptions import NonFiniteTrainingError
from skpat.lab.session import Session
from skpat.network.forward import Network, Run, forward, is_trainable
from skpat.network.layers import OutputStatistics
from skpat.training.batches import batches_of
from skpat.training.far_reading import warn_of_far_reading
from skpat.training.gradient import Apparatus, GradientEstimator, Measurement, half_cosine
from skpat.training.method_contract import check_gradient, check_loss, check_outputs, check_shots
from skpat.twins.base import Twin

__all__ = ["Data", "Settings", "Trainer", "threads_for"]

_STATISTICS_MOMENTUM = 0.1
_FINAL_STEP_FRACTION = 0.01
_ONE_THREAD_UP_TO = 1 << 15


def threads_for(batch_values: int) -> AbstractContextManager[Any]:
    """One thread for training on small batches, within this context and the calling thread only.

    A second thread gains nothing on arrays this small, and on a processor that has anything else to do (another fit of a
    grid search, say) the threads wait for each other at every operation: ten times slower was measured.

    Parameters
    ----------
    batch_values : int
        Numbers in one batch of controls.
    """
    return threadpool_limits(1, user_api="openmp") if batch_values <= _ONE_THREAD_UP_TO else nullcontext()


@dataclass(frozen=True)
class Settings:
    """Numbers of a training run; the names and meanings are those of the estimators' parameters."""

    batch_size: int
    max_iter: int
    learning_rate_init: float
    alpha: float
    tol: float
    n_iter_no_change: int
    shuffle: bool = True
    early_stopping: bool = False
    verbose: int = 0


@dataclass(frozen=True)
class Data:
    """Rows to train on: X (n, n_features), targets (n,) or (n, n_targets), weights (n,) and row keys (n,)."""

    X: np.ndarray
    targets: np.ndarray
    sample_weight: np.ndarray
    row_keys: np.ndarray

    def __len__(self) -> int:
        return len(self.X)

    def rows(self, selection: np.ndarray) -> Data:
        """The data of some of the rows."""
        return Data(*(part[selection] for part in (self.X, self.targets, self.sample_weight, self.row_keys)))

    def weighed_alike(self) -> Data:
        """The same rows, of weight 1: rows that were drawn in proportion to their weights have had their due."""
        return replace(self, sample_weight=np.ones_like(self.sample_weight))


class Trainer:
    """One network being trained: its weights as tensors, its optimiser, its running statistics.

    Parameters
    ----------
    network : Network
    weights : dict of str to ndarray
        Where to start.
    statistics : list of OutputStatistics
        One per layer; updated after every batch.
    loss : callable
        ``loss(scores, targets)`` -> one number per row, on tensors.
    gradient : GradientEstimator
    session : Session
        The way to the device.
    twin : Twin or None
    settings : Settings
    torch_device : str
    optimizer_state : dict, default=None
        From an earlier trainer's :meth:`optimizer_state`.
    purpose : str, default="training"
        What the shots of the steps are counted as.
    """

    def __init__(
        self,
        network: Network,
        weights: dict[str, np.ndarray],
        statistics: list[OutputStatistics],
        *,
        loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        gradient: GradientEstimator,
        session: Session,
        twin: Twin | None,
        settings: Settings,
        torch_device: str = "cpu",
        optimizer_state: dict[str, Any] | None = None,
        purpose: str = "training",
    ):
        self.network = network
        self.statistics = statistics
        self.loss = loss
        self.gradient = gradient
        self.session = session
        self.twin = twin
        self.settings = settings
        self.torch_device = torch_device
        self.purpose = purpose
        self.loss_so_far = np.nan  # of the epoch that is under way
        self.progress = 0.0
        self._told = False  # of a far reading
        self._has_gradient = False  # some weight, in some batch
        self._n_asked = 0  # rows measured in this epoch
        self.weights = {name: torch.from_numpy(value.copy()).to(torch_device) for name, value in weights.items()}
        self.trainable = [w.requires_grad_() for name, w in self.weights.items() if is_trainable(name)]
        self._before = [torch.empty_like(weight, requires_grad=False) for weight in self.trainable]  # a batch
        self.penalised = [w for name, w in self.weights.items() if name.endswith(".coef")]
        self.optimizer = torch.optim.Adam(self.trainable, lr=settings.learning_rate_init, fused=True)
        if optimizer_state is not None:
            self.optimizer.load_state_dict(_map_arrays(optimizer_state, lambda array: torch.from_numpy(array.copy())))
            self.set_step(0.0)  # not the small one at which the training before has ended

    def set_step(self, progress: float) -> None:
        """Set the step size for a run that has come ``progress`` (0 to 1) of its way: half a cosine, falling."""
        low = _FINAL_STEP_FRACTION
        factor = low + (1 - low) * half_cosine(progress)
        self.progress = progress
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate_init * factor

    def epoch(self, data: Data, rng: np.random.RandomState, progress: tuple[float, float] | None = None) -> float:
        """Go through the data once.

        Parameters
        ----------
        data : Data
        rng : RandomState
            For the order of the rows.
        progress : (float, float), default=None
            How far the run is before and after this epoch, for the step size. None: the step stays.

        Returns
        -------
        float
            Weighted mean loss of the rows as they were met.
        """
        n_batches = -(-len(data) // self.settings.batch_size)
        self._mean_weight = float(data.sample_weight.mean())
        total = weight = 0.0
        self.loss_so_far, self._n_asked = np.nan, 0
        batches = batches_of(data.sample_weight, n_batches, rng if self.settings.shuffle else None)
        for number, rows in enumerate(batches):
            if progress is not None:
                self.set_step(min(progress[0] + (progress[1] - progress[0]) * number / n_batches, 1.0))
            total += self._batch(data, rows) * len(rows) * self._mean_weight
            weight += float(data.sample_weight[rows].sum())
            self.loss_so_far = total / weight
        check_gradient(self._has_gradient, self.gradient)
        check_shots(self._n_asked, len(data) * self.network.n_calls, self.gradient)
        return self.loss_so_far

    def _batch(self, data: Data, rows: np.ndarray) -> float:
        X, targets, sample_weight = (
            torch.from_numpy(array[rows]).to(self.torch_device) for array in (data.X, data.targets, data.sample_weight)
        )
        total_weight = data.sample_weight.sum()
        measurements: list[Measurement] = []

        def loss_of(run: Run) -> torch.Tensor:
            def recorded(batch: ControlBatch, layer: int, unit: int) -> torch.Tensor:
                n_before = self._n_asked
                outputs = run(batch, layer, unit)
                check_outputs(outputs, batch.varying, self.network.n_outputs, self.gradient)
                if self._n_asked > n_before or not self.gradient.trains_on_device:  # a twin's answer is no measurement
                    measurements.append(Measurement(layer, unit, batch, as_numpy(outputs), data.sample_weight[rows]))
                return outputs

            scores = forward(self.network, self.weights, X, recorded)
            of_all_rows = len(rows) * self._mean_weight  # what such a batch weighs on average, not this one
            loss = sample_weight @ self.loss(scores, targets) / of_all_rows
            for coef in self.penalised if self.settings.alpha else ():
                loss = loss + (0.5 * self.settings.alpha / float(total_weight)) * coef.square().sum()
            return loss

        measure = self.session.run(data.row_keys[rows], self.purpose)

        def counted(batch: ControlBatch, layer: int, unit: int) -> np.ndarray:
            self._n_asked += batch.n_rows
            return measure(batch, layer, unit)

        apparatus = Apparatus(
            measure=counted,
            device=self.session.device,
            twin=self.twin,
            weights=self.weights,
            network=self.network,
            row_keys=data.row_keys[rows],
            progress=self.progress,
            loss=self.loss,
            targets=targets,
            sample_weight=sample_weight,
        )
        n_further = self.gradient.count_further_steps(apparatus)
        with self._unmoved_by_an_error():
            loss = self._backward(lambda: self.gradient.loss_and_gradient(loss_of, apparatus))
        self._step(self.gradient.step_factor)
        if n_further:
            self._go_on(n_further, lambda: self._further_loss(loss_of, apparatus))
        self._update_statistics(measurements, data.sample_weight[rows])
        self.gradient.after_batch(apparatus, measurements)
        return loss

    @contextmanager
    def _unmoved_by_an_error(self) -> Iterator[None]:
        """The weights stay where they were if the block ends early, by the budget, say, or a Ctrl-C: a method may have moved
        them to see what they are worth elsewhere."""
        for weight, value in zip(self.trainable, self._before, strict=True):
            value.copy_(weight.detach())
        try:
            yield
        except BaseException:
            with torch.no_grad():
                for weight, value in zip(self.trainable, self._before, strict=True):
                    weight.copy_(value)
            raise

    def _backward(self, loss_and_gradient: Callable[[], torch.Tensor]) -> float:
        """The gradient of every weight; the loss."""
        for weight in self.trainable:
            weight.grad = None
        with torch.enable_grad():
            loss = check_loss(loss_and_gradient(), self.gradient)
        self._has_gradient = self._has_gradient or any(weight.grad is not None for weight in self.trainable)
        self._check_finite(loss)
        return loss

    def _go_on(self, n_steps: int, loss_and_gradient: Callable[[], torch.Tensor]) -> None:
        """Further steps on the same rows.

        Where the twin knows the equations they are shortened by as much as the slope along the way from the start of the
        batch has become flatter. A twin that is still learning is not asked for so much: its steps are whole.
        """
        first = [weight.grad for weight in self.trainable]
        for _ in range(n_steps):
            self._backward(loss_and_gradient)
            left = 1.0
            if not self.gradient.explores(self.twin):
                way = [weight.detach() - then for weight, then in zip(self.trainable, self._before, strict=True)]
                before, now = _along(way, first), _along(way, [weight.grad for weight in self.trainable])
                left = min(now / before, 1.0) if before < 0 else 0.0
            if left <= 0:
                return  # the way was too long already
            self._step(left * self.gradient.step_factor)

    def _further_loss(self, loss_of: Callable[[Run], torch.Tensor], apparatus: Apparatus) -> torch.Tensor:
        loss = loss_of(self.gradient.run_further(apparatus))
        loss.backward()
        return loss

    def _step(self, factor: float) -> None:
        steps = [group["lr"] for group in self.optimizer.param_groups]
        for group, step in zip(self.optimizer.param_groups, steps, strict=True):
            group["lr"] = step * factor
        self.optimizer.step()
        for group, step in zip(self.optimizer.param_groups, steps, strict=True):
            group["lr"] = step

    def _update_statistics(self, measurements: list[Measurement], sample_weight: np.ndarray) -> None:
        measured = {(made.layer, made.unit): made.outputs for made in measurements}
        momentum = _STATISTICS_MOMENTUM * min(1.0, len(sample_weight) / self.settings.batch_size)
        for layer, statistics in enumerate(self.statistics):
            calls = [(layer, unit) for unit in range(self.network.n_calls_of(layer))]
            if not all(call in measured for call in calls):
                continue  # a method need not measure everything in every batch
            units = [measured[call] for call in calls]
            outputs = units[0] if len(units) == 1 else np.concatenate(units, axis=1)
            if not self._told and statistics.started and self.gradient.trains_on_device:
                spread = np.sqrt(statistics.variance)
                self._told = warn_of_far_reading(outputs, statistics.mean, spread, self.network.n_outputs)
            statistics.update(outputs, sample_weight, momentum)
            for name, value in (("mean", statistics.mean), ("scale", statistics.scale)):
                self.weights[f"layers.{layer}.{name}"].copy_(torch.from_numpy(value))

    def _check_finite(self, loss: float) -> None:
        gradients = [w.grad for w in self.trainable if w.grad is not None]
        if math.isfinite(loss + sum(float(gradient.sum()) for gradient in gradients)):
            return  # a sum is finite only if everything in it is
        if math.isfinite(loss) and all(np.isfinite(as_numpy(gradient)).all() for gradient in gradients):
            return  # large enough for the sum to overflow
        raise NonFiniteTrainingError(
            f"The training must have a finite loss and finite gradients. Got loss {loss:g} after {self.session.ledger.total} "
            "shots. Use a smaller learning_rate_init, or scale X.",
            shots_done=self.session.ledger.shots,
            journal=None if self.session.journal is None else str(self.session.journal.path),
        )

    def set_weights(self, weights: dict[str, np.ndarray]) -> None:
        """Go on from these weights, all of them, statistics of the outputs included."""
        with torch.no_grad():
            for name, value in weights.items():
                self.weights[name].copy_(torch.from_numpy(value))

    def weights_now(self) -> dict[str, np.ndarray]:
        """A copy of the weights as numpy arrays."""
        return {name: as_numpy(weight).copy() for name, weight in self.weights.items()}

    def optimizer_state(self) -> dict[str, Any]:
        """The optimiser's state with numpy arrays, for going on later."""
        return _map_arrays(self.optimizer.state_dict(), lambda tensor: as_numpy(tensor).copy())


def _along(way: list[torch.Tensor], gradient: list[torch.Tensor | None]) -> float:
    return sum(float((w * g).sum()) for w, g in zip(way, gradient, strict=True) if g is not None)


def _map_arrays(state: Any, convert: Callable[[Any], Any]) -> Any:
    """Apply ``convert`` to every array in a nest of dicts and lists."""
    if isinstance(state, dict):
        return {key: _map_arrays(value, convert) for key, value in state.items()}
    if isinstance(state, list):
        return [_map_arrays(value, convert) for value in state]
    return convert(state) if hasattr(state, "shape") else state
