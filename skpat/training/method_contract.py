"""What a training method owes the loop: the first thing that is wrong is told in the method's own name."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np
import torch

from skpat.exceptions import DeviceContractError
from skpat.twins.base import respond

__all__ = ["check_gradient", "check_loss", "check_outputs", "check_shots", "check_twin"]


def check_outputs(outputs: Any, like: torch.Tensor, n_outputs: int, method: Any) -> None:
    """DeviceContractError if what a ``run`` returned is no tensor (n_rows, n_outputs) of the dtype of the controls ``like``."""
    n_rows = len(like)
    if isinstance(outputs, torch.Tensor) and outputs.shape == (n_rows, n_outputs) and outputs.dtype == like.dtype:
        return
    got = (
        f"a tensor {tuple(outputs.shape)} of {outputs.dtype}"
        if isinstance(outputs, torch.Tensor)
        else type(outputs).__name__
    )
    raise DeviceContractError(
        f"The run(batch, layer, unit) of {type(method).__name__} must return a torch tensor of shape ({n_rows}, {n_outputs}) "
        f"and of the controls' {like.dtype}: a row for each of the batch, a column for each output of the device. Got {got}. "
        "skpat.training.device_alone(apparatus) is such a run, of the device without a gradient; "
        "bridge(apparatus.measure, model) gives it one."
    )


def check_loss(loss: Any, method: Any) -> float:
    """The loss as a number; DeviceContractError if ``loss_and_gradient`` returned anything but one."""
    if isinstance(loss, torch.Tensor) and loss.numel() == 1:
        return float(loss.detach())
    if (isinstance(loss, Real) or getattr(loss, "shape", None) == ()) and not isinstance(loss, bool):
        return float(loss)
    got = f"a tensor {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
    raise DeviceContractError(
        f"The loss_and_gradient(loss_of, apparatus) of {type(method).__name__} must return the batch's loss, a scalar tensor "
        f"or a float. Got {got}. Return what loss_of(run) gave."
    )


def check_gradient(has_gradient: bool, method: Any) -> None:
    """DeviceContractError if no weight has had a gradient in an epoch, unless the method says that it moves them itself."""
    if method.leaves_gradient and not has_gradient:
        raise DeviceContractError(
            f"The loss_and_gradient(loss_of, apparatus) of {type(method).__name__} must leave a gradient in the .grad of the "
            "weights in apparatus.trainable. Got none in any batch of an epoch: nothing is trained. Call loss.backward() "
            "or set weight.grad; a method that moves the weights itself says leaves_gradient = False."
        )


def check_shots(n_asked: int, n_settings: int, method: Any) -> None:
    """DeviceContractError if the batches of an epoch, of so many settings (rows times device calls), were measured more often
    than the method says of itself."""
    if n_asked > math.ceil(method.shots_per_row * n_settings):
        raise DeviceContractError(
            f"The shots_per_row of {type(method).__name__} must be how often it measures each row, in each layer and unit. Got "
            f"{method.shots_per_row}, and {n_asked:,} measurements of {n_settings:,} settings in an epoch. plan(X) and "
            "max_shots go by it: state what it costs."
        )


def check_twin(twin: Any, bounds: np.ndarray, n_outputs: int) -> None:
    """DeviceContractError if a fitted twin's module does not turn two settings within the bounds (n_controls, 2) into two rows
    of outputs that have a gradient."""
    settings = np.stack([bounds.mean(axis=1), 0.75 * bounds[:, 0] + 0.25 * bounds[:, 1]])
    with torch.enable_grad():
        outputs = respond(twin.module_, torch.from_numpy(settings).requires_grad_())
    shape = tuple(outputs.shape)
    if shape != (2, n_outputs):
        raise DeviceContractError(
            f"The module_ of {type(twin).__name__} must turn controls of shape (n_rows, {len(bounds)}) into outputs of shape "
            f"(n_rows, {n_outputs}). Got {shape} for two rows. Its fit was given outputs of that shape."
        )
    if not outputs.requires_grad:
        raise DeviceContractError(
            f"The module_ of {type(twin).__name__} must be differentiable: its slopes are what a twin is for. Got outputs that "
            "have no gradient with respect to the controls. Compute them with operations of torch, without detach(), numpy() "
            "or no_grad()."
        )
