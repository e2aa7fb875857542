"""The method: forward through the device, backward through a model of it at the controls the device received."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch.autograd.function import once_differentiable

from skpat.controls import ControlBatch
from skpat.network.forward import Run

__all__ = ["bridge"]


class _PhysicsAwareFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, varying, shared, batch, measure, model, in_parts):
        ctx.save_for_backward(varying, shared)
        ctx.batch, ctx.model, ctx.in_parts = batch, model, in_parts
        return torch.as_tensor(measure(batch), dtype=varying.dtype, device=varying.device)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_outputs):
        varying, shared = (part.detach() for part in ctx.saved_tensors)
        if ctx.in_parts:
            with torch.enable_grad():
                parts = varying.requires_grad_(), shared.requires_grad_()
                outputs = _checked(ctx.model(ctx.batch.changed(varying=varying, shared=shared)), grad_outputs)
            return *torch.autograd.grad(outputs, parts, grad_outputs, materialize_grads=True), None, None, None, None
        controls = ctx.batch.changed(varying=varying, shared=shared).dense().requires_grad_()
        with torch.enable_grad():
            outputs = _checked(ctx.model(controls), grad_outputs)
        (found,) = torch.autograd.grad(outputs, controls, grad_outputs, materialize_grads=True)
        # copies: torch warns of an index that cannot be written to, as joblib maps them
        of_varying = found[:, np.array(ctx.batch.varying_index)] if ctx.needs_input_grad[0] else None
        of_shared = found[:, np.array(ctx.batch.shared_index)].sum(0) if ctx.needs_input_grad[1] else None
        return of_varying, of_shared, None, None, None, None


def _checked(outputs: Any, like: torch.Tensor) -> torch.Tensor:
    """The model's outputs, if they can stand for the device's."""
    if not isinstance(outputs, torch.Tensor):
        raise TypeError(
            f"The model of bridge must return a torch tensor of shape {tuple(like.shape)}. Got {type(outputs).__name__}."
        )
    if outputs.shape != like.shape:
        raise ValueError(
            f"The model of bridge must return as many rows and outputs as the device, shape {tuple(like.shape)}. Got "
            f"{tuple(outputs.shape)}."
        )
    return outputs


def bridge(
    measure: Callable[[ControlBatch, int, int], Any], model: Callable[[Any], torch.Tensor], *, in_parts: bool = False
) -> Run:
    """Make a ``run`` whose value is the device's and whose gradient is the model's.

    Parameters
    ----------
    measure : callable
        ``measure(batch, layer, unit)`` -> outputs (n_rows, n_outputs) of the device, numpy or torch.
    model : callable
        Differentiable: controls (n_rows, n_controls) to outputs (n_rows, n_outputs), on tensors.
    in_parts : bool, default=False
        Whether the model takes the ControlBatch itself, and never needs the array of all controls of all rows.

    Returns
    -------
    run : callable
        ``run(batch, layer, unit)`` -> tensor equal to the measurement, cast to the dtype of the controls.

    Raises
    ------
    TypeError
        If the model cannot be called. In the backward pass, if it returns no tensor.
    ValueError
        In the backward pass, if what the model returns has another shape than what was measured.

    Notes
    -----
    The model is only asked in the backward pass. It must be differentiable once; its value is never used.

    References
    ----------
    Wright, Onodera et al., Nature 601, 549 (2022), doi:10.1038/s41586-021-04223-6.
    """

    if not callable(model) or isinstance(model, BaseEstimator):
        raise TypeError(
            "The 'model' of bridge must be a function of controls, tensor (n_rows, n_controls), to outputs, tensor (n_rows, "
            f"n_outputs). Got {model!r}. Of a fitted twin that is twin.module_; a training method that wants one says "
            "uses_twin = True."
        )

    def run(batch: ControlBatch, layer: int, unit: int) -> torch.Tensor:
        def measure_here(controls: ControlBatch) -> Any:
            return measure(controls, layer, unit)

        return _PhysicsAwareFunction.apply(batch.varying, batch.shared, batch, measure_here, model, in_parts)

    return run
