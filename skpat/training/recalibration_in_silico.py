"""A recalibration with a twin that knows the equations: constants are found anew, and weights trained on it, for no shot."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from skpat.controls import ControlBatch
from skpat.exceptions import TwinError
from skpat.training.in_silico import InSilico
from skpat.training.loop import Patience
from skpat.training.pretraining import EPOCHS_IN_SILICO

if TYPE_CHECKING:
    from skpat.training.trainer import Data, Trainer

__all__ = ["Shots", "refit_twin", "train_in_silico"]

_MOST_SHOTS = 1000  # to find constants from

Shots = list[tuple[ControlBatch, np.ndarray]]
"""Controls and outputs of each call."""


def refit_twin(trainer: Trainer, sent: Shots, sample_weight: np.ndarray, check: np.ndarray) -> bool:
    """Fit a copy of the trainer's twin to the shots of a recalibration; it takes the twin's place if it predicts better.

    Parameters
    ----------
    trainer : Trainer
    sent : list of (ControlBatch, ndarray)
        Controls and outputs of each call, the same rows in all of them.
    sample_weight : ndarray of shape (n_rows,)
        Weights of these rows, for the fit.
    check : ndarray of int
        The rows by which the two are compared. The others are fitted to, up to some 1,000 shots.

    Returns
    -------
    bool
        Whether it is the new one.
    """
    n_rows = len(sent[0][1])
    others = np.setdiff1d(np.arange(n_rows), check)[: max(_MOST_SHOTS // len(sent), 1)]
    twin: Any = copy.deepcopy(trainer.twin)
    try:
        twin.fit(*_shots(sent, others), np.tile(sample_weight[others], len(sent)))
    except TwinError:  # from where its constants start there is no way to these shots
        return False
    controls, outputs = _shots(sent, check)
    before: Any = trainer.twin
    if twin.score(controls, outputs) <= before.score(controls, outputs):
        return False
    trainer.twin = twin
    return True


def train_in_silico(trainer: Trainer, data: Data, rng: np.random.RandomState, begin_at: float) -> int:
    """Train further on the trainer's twin, for twice as many epochs as a fit may take on the device.

    Parameters
    ----------
    trainer : Trainer
        Its weights and statistics are moved. Its method is afterwards as it was, and its optimizer begins anew.
    data : Data
    rng : RandomState
        For the order of the rows.
    begin_at : float
        How far the step size has fallen already, as a part of its way.

    Returns
    -------
    int
        How many epochs it took.
    """
    settings, gradient = trainer.settings, trainer.gradient
    patience = Patience(settings.n_iter_no_change, settings.tol)
    n_most = EPOCHS_IN_SILICO * settings.max_iter
    trainer.gradient = InSilico()
    try:
        for epoch in range(n_most):
            start, end = (begin_at + (1 - begin_at) * n / n_most for n in (epoch, epoch + 1))
            if patience.is_over(-trainer.epoch(data, rng, (start, end))):
                break
    finally:
        trainer.gradient = gradient
        trainer.optimizer.state.clear()
    return epoch + 1


def _shots(sent: Shots, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What was sent for these rows, and what came back, all calls one after the other."""
    controls = np.concatenate([np.asarray(batch.rows(rows).dense()) for batch, _ in sent])
    return controls, np.concatenate([outputs[rows] for _, outputs in sent])
