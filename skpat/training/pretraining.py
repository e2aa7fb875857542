"""A training that begins in silico: the twin alone, which costs no shots, and then the device."""

from __future__ import annotations

import numpy as np

from skpat.training.in_silico import InSilico
from skpat.training.loop import Data, History, Trainer, train

__all__ = ["BEGIN_AT", "pretrain"]

BEGIN_AT = 0.75
"""Where on the falling half cosine of the step size the training on the device begins; whole steps would undo the other."""


def pretrain(trainer: Trainer, data: Data, rng: np.random.RandomState) -> tuple[dict[str, np.ndarray], History]:
    """Train on the trainer's twin, as long as the training on the device may take.

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
    return train(trainer, data, rng)
