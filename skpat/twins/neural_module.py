"""The torch side of NeuralTwin: the module, and the loop that trains it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

__all__ = [
    "NeuralModule",
    "build_module",
    "make_optimizer",
    "module_from_state",
    "module_state",
    "refine_module",
    "standard_tensors",
    "train_module",
]

_OUTPUT_FLOOR = 0.01  # of the mean variance, added to each output's
_MOST_FEATURES_AT_ONCE = 1000  # of a linear path that is solved by them, however few the shots
_RIDGE = 0.1  # penalty of the first linear path per channel, in units of the standardised noise

Shots = tuple[np.ndarray, np.ndarray, np.ndarray]


class NeuralModule(nn.Module):
    """Standardise, add a linear path and a perceptron, and undo the standardisation.

    Parameters
    ----------
    widths : list of int
        Features (channels, and one more for each periodic one), hidden widths, outputs.
    periods : array-like of shape (n_controls,), default=None
        Periods of the channels, 0 for those that have none. A periodic channel enters as a sine and a cosine.
    """

    learns_apart = True  # see respond: its parameters learn by losses of their own

    def __init__(self, widths: list[int], periods: Any = None):
        super().__init__()
        self.widths = list(widths)
        self.periods = np.zeros(widths[0]) if periods is None else np.asarray(periods, dtype=np.float64)
        self.register_buffer("plain", torch.from_numpy(np.flatnonzero(self.periods == 0)), persistent=False)
        self.register_buffer("turning", torch.from_numpy(np.flatnonzero(self.periods > 0)), persistent=False)
        self.register_buffer("per_turn", torch.from_numpy(2 * np.pi / self.periods[self.periods > 0]), persistent=False)
        self.linear = nn.utils.skip_init(nn.Linear, widths[0], widths[-1])
        pairs = list(pairwise(widths)) if len(widths) > 2 else []
        self.hidden = nn.ModuleList(
            nn.utils.skip_init(nn.Linear, a, b, bias=i < len(pairs) - 1) for i, (a, b) in enumerate(pairs)
        )
        for name, size in (("control", widths[0]), ("output", widths[-1])):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_scale", torch.ones(size))

    def forward(self, controls: torch.Tensor) -> torch.Tensor:
        """Controls (n_rows, n_controls) to outputs (n_rows, n_outputs), both in the device's units."""
        return self.standard(self.features(controls)) * self.output_scale + self.output_mean

    def features(self, controls: torch.Tensor) -> torch.Tensor:
        """What the perceptron sees of the controls: shape (n_rows, widths[0]), standardised."""
        return (self.raw_features(controls) - self.control_mean) / self.control_scale

    def raw_features(self, controls: torch.Tensor) -> torch.Tensor:
        """Controls, the periodic ones replaced by cosine and sine."""
        if not len(self.turning):
            return controls
        angle = controls[:, self.turning] * self.per_turn
        return torch.cat([controls[:, self.plain], torch.cos(angle), torch.sin(angle)], dim=1)

    def standard(self, x: torch.Tensor) -> torch.Tensor:
        """The same between standardised quantities."""
        out = self.linear(x)
        if self.hidden:
            for layer in self.hidden[:-1]:
                x = nn.functional.silu(layer(x))
            out = out + self.hidden[-1](x)
        return out


def build_module(
    widths: list[int],
    controls: np.ndarray,
    outputs: np.ndarray,
    weight: np.ndarray,
    rng: np.random.RandomState,
    place: str,
    periods: Any = None,
    bounds: np.ndarray | None = None,
) -> NeuralModule:
    """A module with the shots' statistics, the linear path solved by ridge regression, and the other weights drawn from
    ``rng`` (torch's own generator is not touched). With ``bounds`` channels are scaled by these instead: the shots of a
    training move on, and must not leave the scale of the first ones."""
    module = NeuralModule(widths, periods).to(torch.from_numpy(controls).dtype)
    total = weight.sum()
    with torch.no_grad():
        features = module.raw_features(torch.from_numpy(np.ascontiguousarray(controls))).numpy()
        for name, values in (("control", features), ("output", outputs)):
            mean = weight @ values / total
            scale = np.sqrt(weight @ np.square(values - mean) / total)
            scale = _no_zeros(scale, mean)
            if name == "control" and bounds is not None:
                mean, scale = _scale_of_bounds(module, bounds)
            elif name == "output":  # outputs of little but noise shall not cost the others
                scale = np.sqrt(scale**2 + _OUTPUT_FLOOR * np.mean(scale**2))
            getattr(module, f"{name}_mean").copy_(torch.from_numpy(mean))
            getattr(module, f"{name}_scale").copy_(torch.from_numpy(scale))
        last = module.hidden[-1] if module.hidden else None
        for layer in [module.linear, *module.hidden]:
            spread = 0.1 if layer is last else 1.0
            shape = tuple(layer.weight.shape)
            layer.weight.copy_(torch.from_numpy(rng.standard_normal(shape) * spread / np.sqrt(shape[1])))
            if layer.bias is not None:
                layer.bias.zero_()
        module.linear.weight.copy_(_ridge(*standard_tensors(module, (controls, outputs, weight))).T)
    return module.to(place)


def _ridge(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Ridge regression of outputs (n_shots, n_outputs) on features (n_shots, n_features): (n_features, n_outputs).

    Many features of fewer shots go by an equation for each shot, not for each feature: a camera's worth of channels would fill
    the memory.
    """
    n_shots, n_features = x.shape
    strength = _RIDGE * n_features
    if n_features <= _MOST_FEATURES_AT_ONCE or n_shots >= n_features:
        ridge = strength * torch.eye(n_features, dtype=x.dtype)
        return torch.linalg.solve((weight[:, None] * x).T @ x + ridge, (weight[:, None] * x).T @ y)
    root = weight.sqrt()[:, None]
    x, y = root * x, root * y
    return x.T @ torch.linalg.solve(x @ x.T + strength * torch.eye(n_shots, dtype=x.dtype), y)


def _no_zeros(scale: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """The scales, those of constant columns replaced by 1, or by the largest of the others if that is smaller."""
    varies = scale > max(1e-12, 4 * np.finfo(scale.dtype).eps) * np.abs(mean)
    return np.where(varies, scale, min(1.0, scale[varies].max()) if varies.any() else 1.0)


def make_optimizer(module: NeuralModule, learning_rate: float, alpha: float) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay on the matrices."""
    matrices = [p for p in module.parameters() if p.ndim > 1]
    vectors = [p for p in module.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": alpha / learning_rate}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True)


def train_module(
    module: NeuralModule,
    shots: Shots,
    held_out: Shots | None,
    *,
    rng: np.random.RandomState,
    alpha: float,
    batch_size: int,
    learning_rate: float,
    max_iter: int,
    n_iter_no_change: int,
) -> int:
    """Minibatch Adam with a falling step; keeps the state with the least held-out error. Returns the passes made."""
    x, y, w = standard_tensors(module, shots)
    held = None if held_out is None else standard_tensors(module, held_out)
    optimizer = make_optimizer(module, learning_rate, alpha)
    n = len(x)
    batch_size = min(batch_size, n)
    n_batches = -(-n // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, max_iter * n_batches), learning_rate / 100)
    best, best_state, since = np.inf, None, 0
    n_iter = 0
    while n_iter < max_iter:
        n_iter += 1
        for rows in np.array_split(rng.permutation(n), n_batches):
            rows = torch.from_numpy(rows).to(x.device)
            _step(module, optimizer, x[rows], y[rows], w[rows])
            schedule.step()
        if held is None:
            continue
        with torch.no_grad():
            error = float(_loss(module, *held))
        if error < best:
            best, since, best_state = error, 0, {name: value.clone() for name, value in module.state_dict().items()}
        else:
            since += 1
            if since >= n_iter_no_change:
                break
    if best_state is not None:
        module.load_state_dict(best_state)
    return n_iter


def refine_module(
    module: NeuralModule,
    optimizer: torch.optim.Optimizer,
    draws: list[tuple[torch.Tensor, torch.Tensor]],
    learning_rate: float,
) -> None:
    """A step on each of the given draws of standardised shots (features, outputs)."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    for x, y in draws:
        optimizer.zero_grad(set_to_none=True)
        with torch.enable_grad():
            (module.standard(x) - y).square().mean().backward()
        optimizer.step()


def _scale_of_bounds(module: NeuralModule, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation that each feature has where channels are spread evenly over their bounds."""
    middle, spread = bounds.mean(axis=1), (bounds[:, 1] - bounds[:, 0]) / np.sqrt(12)
    plain, n_turning = module.periods == 0, int((module.periods > 0).sum())
    mean = np.concatenate([middle[plain], np.zeros(2 * n_turning)])
    return mean, np.concatenate([spread[plain], np.full(2 * n_turning, np.sqrt(0.5))])


def module_state(module: NeuralModule) -> dict[str, Any]:
    """Widths and numpy arrays that :func:`module_from_state` takes."""
    arrays = {name: value.detach().cpu().numpy() for name, value in module.state_dict().items()}
    return {"widths": module.widths, "periods": module.periods, "arrays": arrays}


def module_from_state(state: dict[str, Any], place: str) -> NeuralModule:
    """The module whose state :func:`module_state` gave."""
    module = NeuralModule(state["widths"], state["periods"])
    arrays = {name: torch.from_numpy(array.copy()) for name, array in state["arrays"].items()}
    module.to(arrays["control_mean"].dtype).load_state_dict(arrays)
    return module.to(place)


def standard_tensors(module: NeuralModule, shots: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Shots (controls, outputs, weights) as standardised features and outputs, and weights."""
    x, y, w = (torch.from_numpy(np.ascontiguousarray(a)).to(module.control_mean) for a in shots)
    with torch.no_grad():
        return module.features(x), (y - module.output_mean) / module.output_scale, w


def _loss(module: NeuralModule, x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return (w @ (module.standard(x) - y).square().mean(dim=1)) / w.sum()


def _step(module: NeuralModule, optimizer: torch.optim.Optimizer, *shots: torch.Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    with torch.enable_grad():
        _loss(module, *shots).backward()
    optimizer.step()
