"""The contract of a twin: a regressor from controls to outputs with a differentiable torch module inside."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.metrics import r2_score

from skpat.controls import ControlBatch

if TYPE_CHECKING:
    import torch

__all__ = [
    "LEAST_TRUST",
    "TRUST_MOMENTUM",
    "Twin",
    "check_channels",
    "check_shots",
    "for_torch",
    "hold_out",
    "of_weight",
    "respond",
    "spread_of",
    "varies",
]

LEAST_TRUST = 0.02  # the least that ``trust_`` falls to: an output that is not predicted now may be predicted later
TRUST_MOMENTUM = 0.1  # of the running mean that ``trust_`` is


def respond(module: Any, controls: ControlBatch | torch.Tensor) -> torch.Tensor:
    """What a twin's module answers, with the dtype and torch device of the controls, whatever those of the module are.

    A batch (of tensors) is handed to the module in its two parts if that has ``forward_batch``: the shared channels, which may
    be too many to copy for each row, stay one row.
    """
    batch = controls if isinstance(controls, ControlBatch) else ControlBatch.from_dense(controls)
    asked, like = batch.varying, _any_tensor(module)
    if like is not None and like.is_floating_point() and (like.device, like.dtype) != (asked.device, asked.dtype):
        batch = batch.changed(varying=asked.to(like), shared=batch.shared.to(like))
    in_parts = isinstance(controls, ControlBatch) and hasattr(module, "forward_batch")
    with _without_parameters(module):
        answer: torch.Tensor = module.forward_batch(batch) if in_parts else module(batch.dense())
    return answer.to(asked)


@contextmanager
def _without_parameters(module: Any) -> Iterator[None]:
    """No gradient will reach the parameters of a module that learns from shots alone (``learns_apart``): none is computed."""
    wanted = [p for p in module.parameters() if p.requires_grad] if getattr(module, "learns_apart", False) else []
    try:
        for parameter in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


def _any_tensor(module: Any) -> torch.Tensor | None:
    """A tensor of the module, for its dtype and place; None if it has none."""
    return next(itertools.chain(module.parameters(), module.buffers()), None) if hasattr(module, "parameters") else None


class Twin(RegressorMixin, BaseEstimator):
    """Base class of digital twins.

    A twin is an unfitted specification like any estimator. A subclass defines :meth:`fit`, which must set
    ``n_features_in_`` (channels), and the property ``module_``, which gives what ``fit`` has made. With
    ``partial_fit(controls, outputs, sample_weight)`` it can go on learning during the training.

    Attributes
    ----------
    module_ : torch.nn.Module
        From controls (n_rows, n_controls), in the device's units, to outputs (n_rows, n_outputs); differentiable.
    score_ : float
        R² on held-out shots, the mean over outputs weighted by their variance; NaN without held-out shots.
    """

    score_: float

    explores = False
    """Whether the twin wants the training's shots displaced at random, to learn from them how outputs react. Its
    ``partial_fit`` then also takes ``pace``, a factor of its step size."""

    needs_shots = False
    """Whether ``fit`` needs at least one shot. A twin that needs none is taken to know the equations: a training may begin in
    silico with it. One that is learned from shots alone says True."""

    few_shots = False
    """Whether a few shots, over all settings, may tell the twin all that it can learn: an automatic calibration then begins
    small and ends when the twin predicts well, by its ``score_``."""

    def learn_specification(self, bounds: np.ndarray, periods: np.ndarray) -> None:
        """Told before ``fit`` what the device states of its channels. Default: nothing is done with it.

        Parameters
        ----------
        bounds : ndarray of shape (n_controls, 2)
        periods : ndarray of shape (n_controls,)
            0 where a channel is not periodic.
        """

    def check(self, n_controls: int, n_outputs: int) -> None:
        """Raise what :meth:`fit` would raise for a device with so many channels and outputs: asked before the first shot.

        Default: the parameters are held against ``_parameter_constraints``, if the twin has any.
        """
        if hasattr(self, "_parameter_constraints"):
            self._validate_params()

    @property
    def module_(self) -> torch.nn.Module:
        raise NotImplementedError(f"{type(self).__name__} must define the property module_.")

    def fit(self, controls: ControlBatch | np.ndarray, outputs: np.ndarray, sample_weight: Any = None) -> Twin:
        """Learn from measured shots.

        Parameters
        ----------
        controls : ControlBatch or array of shape (n_shots, n_controls)
            What the device received, in its units.
        outputs : array of shape (n_shots, n_outputs)
            What it answered.
        sample_weight : array of shape (n_shots,), default=None
            Weight of each shot.
        """
        raise NotImplementedError(f"{type(self).__name__} must define fit(controls, outputs).")

    def predict(self, controls: ControlBatch | np.ndarray) -> np.ndarray:
        """What the twin expects the device to answer, shape (n_rows, n_outputs)."""
        import torch

        dense = torch.from_numpy(for_torch(np.ascontiguousarray(controls)))
        check_channels(self, dense)
        like = _any_tensor(self.module_)
        with torch.no_grad():
            return self.module_(dense if like is None else dense.to(like)).cpu().numpy()

    def score(self, controls: ControlBatch | np.ndarray, outputs: np.ndarray, sample_weight: Any = None) -> float:
        """R² of the prediction, the mean over outputs weighted by their variance."""
        predicted = self.predict(controls)
        return float(r2_score(outputs, predicted, sample_weight=sample_weight, multioutput="variance_weighted"))

    def __getstate__(self) -> dict[str, Any]:
        return dict(super().__getstate__())  # a copy: a subclass may delete entries of it

    @property
    def is_loaded(self) -> bool:
        """Whether it came from a pickle and has not learned since, without what a pickle leaves out. Default: False."""
        return False

    def forget(self) -> None:
        """Drop what a pickle leaves out, such as stored shots; what has been learned stays. Default: does nothing."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Twin:
        """A copy that goes on learning as the twin would: with what a pickle leaves out, such as an optimizer's state."""
        twin = object.__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return twin


def for_torch(array: np.ndarray) -> np.ndarray:
    """The array, or a copy of one that torch cannot take as it is: read-only, or of the other byte order."""
    return np.require(array, array.dtype.newbyteorder("="), "W")


def check_shots(
    controls: ControlBatch | np.ndarray, outputs: np.ndarray, sample_weight: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shots as finite arrays of one dtype, with a weight each; ValueError if they are not."""
    controls = np.asarray(controls)
    if controls.dtype not in (np.float32, np.float64):
        controls = controls.astype(np.float64)
    controls, outputs = for_torch(controls), for_torch(np.asarray(outputs, dtype=controls.dtype))
    if controls.ndim == 2 and not len(controls):
        raise ValueError(
            "A twin that learns from measurements needs at least one shot. Got none. Use a larger n_calibration_shots, or "
            "PhysicsTwin, which also takes its constants on trust."
        )
    if controls.ndim != 2 or outputs.ndim != 2 or len(controls) != len(outputs):
        raise ValueError(
            "A twin needs controls of shape (n_shots, n_controls) and outputs of shape (n_shots, n_outputs). "
            f"Got {controls.shape} and {outputs.shape}. A single output is a column: outputs.reshape(-1, 1)."
        )
    bad = ~(np.isfinite(controls).all(axis=1) & np.isfinite(outputs).all(axis=1))
    if bad.any():
        raise ValueError(
            f"A twin needs finite controls and outputs. Got NaN or infinity in {bad.sum():,} of {len(bad):,} shots, the first "
            f"in row {np.argmax(bad)}. Leave those shots out."
        )
    if sample_weight is None:
        return controls, outputs, np.ones(len(controls), dtype=controls.dtype)
    sample_weight = for_torch(np.asarray(sample_weight, dtype=controls.dtype))
    if sample_weight.shape != (len(controls),) or not (np.isfinite(sample_weight) & (sample_weight >= 0)).all():
        least = f", the least {sample_weight.min():g}" if sample_weight.size else ""
        raise ValueError(
            f"'sample_weight' must be finite and not negative, one for each of the {len(controls)} shots. "
            f"Got shape {sample_weight.shape}{least}. Use None where all shots count alike, and 0 for a shot to leave out."
        )
    return controls, outputs, sample_weight


def of_weight(
    controls: np.ndarray, outputs: np.ndarray, sample_weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The shots with a weight above 0; ValueError if there are none."""
    kept = sample_weight > 0
    if not kept.any():
        raise ValueError(
            "'sample_weight' of a twin must have a positive entry. Got zeros only. "
            "Use sample_weight=None where all shots count alike."
        )
    return (controls, outputs, sample_weight) if kept.all() else (controls[kept], outputs[kept], sample_weight[kept])


def hold_out(n_shots: int, fraction: float, rng: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers, sorted, of the shots that a twin learns from and of those held out to judge it.

    At least five are learned from; of fewer than ten shots none is held out.
    """
    order = rng.permutation(n_shots)
    n_held_out = min(round(fraction * n_shots), n_shots - 5) if n_shots >= 10 else 0
    return np.sort(order[n_held_out:]), np.sort(order[:n_held_out])


def spread_of(outputs: np.ndarray) -> np.ndarray:
    """Standard deviation of each output, (n_outputs,); exactly 0 where it never changes, whatever rounding makes of it."""
    return np.where(np.ptp(outputs, axis=0) > 0, outputs.std(axis=0), 0.0)


def varies(outputs: np.ndarray, sample_weight: np.ndarray) -> np.ndarray:
    """Which outputs (n_outputs,) change by more than rounding can."""
    total = sample_weight.sum()
    mean = sample_weight @ outputs / total
    variance = sample_weight @ np.square(outputs - mean) / total
    return np.asarray(variance > 1e-12 * mean**2 + np.finfo(outputs.dtype).tiny)


def check_channels(twin: Any, controls: Any, outputs: Any = None, n_outputs: int | None = None) -> None:
    """ValueError if controls, or the outputs to learn, are not those of the device that the twin was fitted to."""
    n_controls = getattr(twin, "n_features_in_", None)
    for name, array, n in (("controls", controls, n_controls), ("outputs", outputs, n_outputs)):
        if array is None or n is None:
            continue
        shape = (array.n_rows, array.n_controls) if isinstance(array, ControlBatch) else tuple(array.shape)
        if len(shape) != 2 or shape[1] != n:
            raise ValueError(
                f"The {name} must have the shape (n_shots, {n}), like those that this {type(twin).__name__} was fitted to. "
                f"Got {shape}. Give shots of that device, or fit a clone of the twin to the other one."
            )
