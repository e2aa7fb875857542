"""What a training method owes the loop: the first thing that is wrong is told in the method's own name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from skpat.exceptions import DeviceContractError

__all__ = ["check_gradient", "check_loss", "check_outputs"]


def check_outputs(outputs: Any, n_rows: int, n_outputs: int, method: Any) -> None:
    """DeviceContractError if what a ``run`` returned is no tensor (n_rows, n_outputs)."""
    if isinstance(outputs, torch.Tensor) and outputs.shape == (n_rows, n_outputs):
        return
    got = f"a tensor {tuple(outputs.shape)}" if isinstance(outputs, torch.Tensor) else type(outputs).__name__
    raise DeviceContractError(
        f"The run(batch, layer, unit) of {type(method).__name__} must return a torch tensor of shape ({n_rows}, {n_outputs}): "
        f"a row for each of the batch, a column for each output of the device. Got {got}. "
        "skpat.training.device_alone(apparatus) is such a run, of the device without a gradient; "
        "bridge(apparatus.measure, model) gives it one."
    )


def check_loss(loss: Any, method: Any) -> float:
    """The loss as a number; DeviceContractError if ``loss_and_gradient`` returned anything but one."""
    if isinstance(loss, torch.Tensor) and loss.numel() == 1:
        return float(loss.detach())
    if isinstance(loss, float):
        return loss
    got = f"a tensor {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
    raise DeviceContractError(
        f"The loss_and_gradient(loss_of, apparatus) of {type(method).__name__} must return the batch's loss, a scalar tensor "
        f"or a float. Got {got}. Return what loss_of(run) gave."
    )


def check_gradient(trainable: Iterable[torch.Tensor], method: Any) -> None:
    """DeviceContractError if no weight has a gradient, and the method does not say that it moves them itself."""
    if method.leaves_gradient and all(weight.grad is None for weight in trainable):
        raise DeviceContractError(
            f"The loss_and_gradient(loss_of, apparatus) of {type(method).__name__} must leave a gradient in the .grad of the "
            "weights in apparatus.trainable. Got none in any of them, so that nothing would be trained. Call loss.backward() "
            "or set weight.grad; a method that moves the weights itself says leaves_gradient = False."
        )
