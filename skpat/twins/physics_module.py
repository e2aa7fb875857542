"""The torch side of a physics twin: a simulated device whose constants are parameters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize

from skpat.controls import ControlBatch, as_numpy
from skpat.exceptions import TwinError
from skpat.twins.base import for_torch

__all__ = ["PhysicsModule", "answer", "fit_constants", "make_optimizer", "step_constants"]

Shots = tuple[Any, np.ndarray, np.ndarray]  # controls (an array or a ControlBatch), outputs, weights

_CHUNK_ROWS = 256
_NOT_FINITE = (
    "The constants of a PhysicsTwin must have a finite gradient. Got NaN or infinity: the model has left the range it is made "
    "for. Start from constants nearer to the truth."
)


class PhysicsModule(torch.nn.Module):
    """``device.forward`` at constants ``start + unit * moved``.

    Parameters
    ----------
    device : Device
        With ``forward(controls, constants)``.
    start, unit, moved : dict of str to ndarray
        Where each constant starts, its unit, and how far it has moved in that.
    dtype : numpy dtype
    """

    learns_apart = True  # see respond: its parameters learn by losses of their own

    def __init__(
        self,
        device: Any,
        start: dict[str, np.ndarray],
        unit: dict[str, np.ndarray],
        moved: dict[str, np.ndarray],
        dtype: np.dtype,
    ):
        super().__init__()
        self.device = device
        self.names = list(start)
        for name in self.names:
            for kind, value in (("start", start), ("unit", unit)):
                self.register_buffer(f"{kind}_{name}", torch.from_numpy(np.asarray(value[name]).astype(dtype)))
            self.register_parameter(f"moved_{name}", torch.nn.Parameter(torch.from_numpy(moved[name].astype(dtype))))
        self.register_buffer("like", torch.zeros((), dtype=torch.float32 if dtype == np.float32 else torch.float64))
        if hasattr(device, "forward_batch"):
            self.forward_batch = self._forward_batch

    def constants(self) -> dict[str, torch.Tensor]:
        """The constants as they stand, differentiable."""
        return {
            name: getattr(self, f"start_{name}") + getattr(self, f"unit_{name}") * getattr(self, f"moved_{name}")
            for name in self.names
        }

    def forward(self, controls: torch.Tensor) -> torch.Tensor:
        return self.device.forward(controls, self.constants())

    def _forward_batch(self, batch: ControlBatch) -> torch.Tensor:
        return self.device.forward_batch(batch, self.constants())

    def constants_as_numpy(self) -> dict[str, np.ndarray]:
        return {name: as_numpy(value) for name, value in self.constants().items()}

    def moved_as_numpy(self) -> dict[str, np.ndarray]:
        return {name: as_numpy(getattr(self, f"moved_{name}")).copy() for name in self.names}


def answer(module: PhysicsModule, controls: ControlBatch | np.ndarray) -> torch.Tensor:
    """What the model answers; a batch is taken in parts where the model can, so that nothing shared is copied."""

    def tensor(array: Any) -> torch.Tensor:
        return torch.from_numpy(for_torch(np.array(array))).to(module.like)

    if isinstance(controls, ControlBatch) and hasattr(module, "forward_batch"):
        controls = controls.numpy()
        return module.forward_batch(replace(controls, varying=tensor(controls.varying), shared=tensor(controls.shared)))
    return module(tensor(controls))


def make_optimizer(module: PhysicsModule, learning_rate: float) -> torch.optim.Optimizer:
    """Adam on the constants."""
    return torch.optim.Adam(module.parameters(), lr=learning_rate)


def step_constants(module: PhysicsModule, optimizer: torch.optim.Optimizer, shots: Shots, scale: np.ndarray) -> None:
    """One step on all the given shots. It is undone if the model then refuses its constants, or answers the first shot with
    numbers that are not finite.

    Raises
    ------
    TwinError
        If the model's answer, or a gradient, is not finite where the step starts. The constants stay as they were.
    """
    optimizer.zero_grad()
    if not _is_finite(_backward(module, shots, scale), module):
        raise TwinError(_NOT_FINITE)
    before = [parameter.detach().clone() for parameter in module.parameters()]
    optimizer.step()
    if not _answers(module, _rows(shots[0], slice(1))):
        with torch.no_grad():
            for parameter, then in zip(module.parameters(), before, strict=True):
                parameter.copy_(then)


def fit_constants(module: PhysicsModule, shots: Shots, scale: np.ndarray, max_iter: int) -> int:
    """Fit the constants to all shots together by L-BFGS; returns the number of iterations.

    Raises
    ------
    TwinError
        If the model's answer, or a gradient, is not finite where the constants start.
    ValueError
        If the model refuses the constants that it starts from.
    """
    parameters = list(module.parameters())
    sizes = np.cumsum([0, *(parameter.numel() for parameter in parameters)])
    losses: list[float] = []

    def place(moved: np.ndarray) -> None:
        with torch.no_grad():
            for parameter, first, last in zip(parameters, sizes, sizes[1:], strict=False):
                parameter.copy_(torch.from_numpy(moved[first:last]).reshape(parameter.shape))
                parameter.grad = None

    def loss_at(moved: np.ndarray) -> tuple[float, np.ndarray]:
        place(moved)
        try:
            loss = _backward(module, shots, scale)
        except ValueError:  # constants that the model refuses
            if not losses:
                raise
            loss = np.nan
        if not _is_finite(loss, module):
            if not losses:
                raise TwinError(_NOT_FINITE)
            return 10 * max(losses), np.zeros_like(moved)  # a step too far: the line search goes back
        losses.append(loss)
        found = [
            np.zeros(p.numel()) if p.grad is None else as_numpy(p.grad).astype(np.float64).ravel() for p in parameters
        ]
        return loss, np.concatenate(found)

    start = np.concatenate([as_numpy(parameter).astype(np.float64).ravel() for parameter in parameters])
    result = minimize(loss_at, start, jac=True, method="L-BFGS-B", options={"maxiter": max_iter, "ftol": 1e-12})
    place(result.x)
    return int(result.nit)


def _backward(module: PhysicsModule, shots: Shots, scale: np.ndarray) -> float:
    """The weighted mean square, in units of the outputs' spread; its gradient is added to the constants' ``.grad``."""
    total, weight = 0.0, max(float(shots[2].sum()), np.finfo(np.float64).tiny)
    unit = torch.from_numpy(scale).to(module.like)
    for start in range(0, len(shots[0]), _CHUNK_ROWS):  # one graph at a time
        rows = slice(start, start + _CHUNK_ROWS)
        outputs, weights = (torch.from_numpy(np.ascontiguousarray(part[rows])).to(module.like) for part in shots[1:])
        with torch.enable_grad():
            residual = (answer(module, _rows(shots[0], rows)) - outputs) / unit
            loss = (residual.square().mean(dim=1) * weights).sum() / weight
            loss.backward()
        total += float(loss.detach())
    return total


def _rows(controls: ControlBatch | np.ndarray, rows: slice) -> ControlBatch | np.ndarray:
    return controls.rows(rows) if isinstance(controls, ControlBatch) else controls[rows]


def _answers(module: PhysicsModule, controls: ControlBatch | np.ndarray) -> bool:
    """Whether the model takes its constants as they stand, and answers with finite numbers."""
    try:
        with torch.no_grad():
            return bool(torch.isfinite(answer(module, controls)).all())
    except ValueError:
        return False


def _is_finite(loss: float, module: PhysicsModule) -> bool:
    gradients = (parameter.grad for parameter in module.parameters() if parameter.grad is not None)
    return bool(np.isfinite(loss)) and all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
