"""A training that begins in silico: on the twin alone, which costs no shots, until the device is asked what that is worth."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from skpat.exceptions import ShotBudgetError
from skpat.network.forward import forward
from skpat.training.in_silico import InSilico, through_twin
from skpat.training.loop import History, train
from skpat.training.loss_probe import row_losses
from skpat.training.progress import ProgressInSilico
from skpat.training.trainer import Data, Trainer

__all__ = [
    "BEGIN_AT",
    "CONFIRMED",
    "EPOCHS_IN_SILICO",
    "FEWEST_TRIAL_ROWS",
    "TRIAL_ROWS",
    "confirmed_part",
    "is_confirmed",
    "pretrain",
]

BEGIN_AT = 0.75
"""After a training in silico the one on the device begins at this progress (0 to 1) of the half cosine along which the step
size falls: its steps are small from the first, for large ones would undo what was found in silico."""
TRIAL_ROWS = 100
"""Rows that are measured to see what a training in silico is worth on the device, at most."""
FEWEST_TRIAL_ROWS = 16
"""Where shots are few."""
CONFIRMED = 0.5
"""The part of :func:`confirmed_part` that is enough."""
EPOCHS_IN_SILICO = 2
"""Epochs in silico for each one on the device, where further steps follow the measured ones."""
_SHOT = 1 << 31  # number of the trial's shot, beyond those of a training, whose noise stays the same
_LEAST_LOSS = 1e-12  # a smaller one counts as this, for its logarithm


def pretrain(trainer: Trainer, data: Data, rng: np.random.RandomState) -> tuple[dict[str, np.ndarray], History]:
    """Train on the trainer's twin, for twice as many epochs as the training on the device may take.

    Parameters
    ----------
    trainer : Trainer
        With a fitted twin; its weights and statistics are moved, and its method becomes :class:`InSilico`.
    data : Data
    rng : RandomState

    Returns
    -------
    weights : dict of str to ndarray
    history : History
        ``interrupted`` after Ctrl-C.
    """
    trainer.gradient = InSilico()
    trainer.settings = replace(trainer.settings, max_iter=EPOCHS_IN_SILICO * trainer.settings.max_iter)
    return train(trainer, data, rng, note=ProgressInSilico(trainer.settings))


def is_confirmed(trainer: Trainer, data: Data) -> bool:
    """Whether the device holds half of what the twin has promised (:func:`confirmed_part`); False if the budget ends first.

    Parameters
    ----------
    trainer : Trainer
        With the weights that were found in silico; nothing of it is changed.
    data : Data
        The rows to measure, once, as calibration; they count alike.
    """
    assert trainer.twin is not None
    weights = trainer.weights_now()
    promised = forward(trainer.network, weights, data.X, through_twin(trainer.twin))
    on_device = trainer.session.run(data.row_keys, "calibration", shot=_SHOT)
    try:
        held = forward(trainer.network, weights, data.X, on_device)
    except ShotBudgetError:
        return False
    losses = (row_losses(trainer, scores, data.targets).mean() for scores in (promised, held))
    return confirmed_part(_least_constant_loss(trainer, held, data.targets), *map(float, losses)) >= CONFIRMED


def _least_constant_loss(trainer: Trainer, like: np.ndarray, targets: np.ndarray) -> float:
    """Mean loss of the best scores that are the same for all rows."""
    import torch

    scores = torch.zeros(like.shape[1:], dtype=torch.float64, requires_grad=True)
    rows = torch.from_numpy(targets)
    rows = rows.double() if rows.is_floating_point() else rows
    search = torch.optim.LBFGS([scores], max_iter=50, line_search_fn="strong_wolfe")

    def mean_loss() -> torch.Tensor:
        search.zero_grad()
        with torch.enable_grad():
            loss = trainer.loss(scores.expand(like.shape), rows).mean()
        loss.backward()
        return loss

    search.step(mean_loss)
    with torch.no_grad():
        return float(trainer.loss(scores.expand(like.shape), rows).mean())


def confirmed_part(untrained: float, promised: float, held: float) -> float:
    """How much of the fall of the loss in silico, on a logarithmic scale, there is on the device.

    Parameters
    ----------
    untrained : float
        Loss of the best scores that are the same for all rows: of a network that knows nothing of X.
    promised, held : float
        Losses of the trained one, on the twin and on the device.

    Returns
    -------
    float
        0 where nothing was promised.

    Examples
    --------
    >>> confirmed_part(1.0, 0.01, 0.1)
    0.5
    """
    untrained, promised, held = (math.log(max(loss, _LEAST_LOSS)) for loss in (untrained, promised, held))
    return (untrained - held) / (untrained - promised) if promised < untrained else 0.0
