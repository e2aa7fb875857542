"""What the tests of frozen models freeze: a small network, a function, and the rows that they are asked for."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from skpat.devices import FrozenModel

N_DATA, N_PROMPT, N_OUTPUTS = 3, 2, 4
SHAPE = {"n_data": N_DATA, "n_prompt": N_PROMPT, "n_outputs": N_OUTPUTS}

built: list[tuple[int, int]] = []
"""What ``network`` was asked for."""


def network(seed: int = 0, width: int = 16) -> nn.Module:
    """A network that would drop units and follow the batch's statistics if it were left in training mode."""
    built.append((seed, width))
    generator = torch.Generator().manual_seed(seed)
    module = nn.Sequential(
        nn.Linear(N_DATA + N_PROMPT, width),
        nn.BatchNorm1d(width),
        nn.Tanh(),
        nn.Dropout(0.5),
        nn.Linear(width, N_OUTPUTS),
    )
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
        module[1].running_mean.copy_(torch.randn(width, generator=generator) * 0.1)
    return module


def drawn() -> nn.Module:
    """A factory that draws its weights from torch's global generator."""
    return nn.Linear(N_DATA + N_PROMPT, N_OUTPUTS)


def recall(inputs: np.ndarray) -> np.ndarray:
    data, prompt = inputs[:, :N_DATA], inputs[:, N_DATA:]
    return np.tanh(2 * data.sum(axis=1, keepdims=True) * prompt.sum(axis=1, keepdims=True) + np.arange(N_OUTPUTS) / 4)


def frozen(**parameters) -> FrozenModel:
    return FrozenModel(**({"factory": network} | SHAPE | parameters))


def asked(**parameters) -> FrozenModel:
    return FrozenModel(**({"function": recall} | SHAPE | parameters))


def rows(n_rows: int = 7, n_controls: int = N_DATA + N_PROMPT, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (n_rows, n_controls))


def all_weights(module: nn.Module) -> list[bytes]:
    return [value.numpy().tobytes() for value in module.state_dict().values()]
