"""The exact gradient of a simulated device: the best that any twin could do."""

from __future__ import annotations

from typing import Any

from skpat.devices.specification import check_device_specification, device_name
from skpat.exceptions import NoExactGradientError
from skpat.network.forward import Run
from skpat.training.gradient import Apparatus, GradientEstimator

__all__ = ["ExactGradient"]


class ExactGradient(GradientEstimator):
    """The forward pass runs on the (noisy) device, the backward pass through its own noise-free equations.

    Needs from the device: ``forward(controls)``, differentiable; simulated devices have it. ``forward_batch(batch)``, which
    takes a ControlBatch of tensors, is used instead where there is one. Costs one shot per row, layer
    and unit. A reference for other methods, not something a laboratory can do.
    """

    def check_device(self, device: Any) -> None:
        """Refuse a device without ``forward``, or with one that autograd cannot follow."""
        if not hasattr(device, "forward"):
            raise NoExactGradientError(
                f"gradient='exact' needs a device with a differentiable forward(controls). Got {device_name(device)}, which "
                "has none. Use gradient='physics_aware'."
            )
        import torch

        setting = torch.from_numpy(check_device_specification(device).mean(axis=1, keepdims=True).T).requires_grad_()
        try:
            with torch.enable_grad():
                outputs = device.forward(setting)
        except Exception:  # it may want another precision, or another place: the training will tell
            return
        if isinstance(outputs, torch.Tensor) and not outputs.requires_grad:
            raise NoExactGradientError(
                f"gradient='exact' needs a device with a differentiable forward(controls). Got {device_name(device)}, whose "
                "outputs have no gradient with respect to the controls. Compute them with operations of torch, without "
                "detach(), numpy() or no_grad(), or use gradient='physics_aware'."
            )

    def run(self, apparatus: Apparatus) -> Run:
        """The bridge between the device's values and the gradients of its own equations."""
        from skpat.training.autograd_bridge import bridge  # here: a trained network is unpickled without torch

        device = apparatus.device
        if hasattr(device, "forward_batch"):
            return bridge(apparatus.measure, device.forward_batch, in_parts=True)
        return bridge(apparatus.measure, device.forward)
