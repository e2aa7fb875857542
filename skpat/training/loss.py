"""Losses: one number per row from scores and targets; and their weighted mean."""

from __future__ import annotations

import torch

__all__ = ["binary_cross_entropy", "cross_entropy", "squared_error", "weighted_mean"]


def binary_cross_entropy(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of labels that come independently, each with the probability 1 / (1 + exp(-score)).

    Parameters
    ----------
    scores : tensor of shape (n_rows, n_labels)
    targets : tensor of shape (n_rows, n_labels)
        0 or 1, in the dtype of the scores.

    Returns
    -------
    tensor of shape (n_rows,)
        Sum over the labels.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    _check_one_shape(scores, targets)
    return torch.nn.functional.binary_cross_entropy_with_logits(scores, targets, reduction="none").sum(dim=1)


def cross_entropy(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of the classes under a softmax of the scores.

    Parameters
    ----------
    scores : tensor of shape (n_rows, n_classes)
    targets : tensor of int64, shape (n_rows,)

    Returns
    -------
    tensor of shape (n_rows,)
    """
    return torch.nn.functional.cross_entropy(scores, targets, reduction="none")


def squared_error(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Half the squared error.

    Parameters
    ----------
    scores, targets : tensor of shape (n_rows, n_targets)

    Returns
    -------
    tensor of shape (n_rows,)
        Sum over the targets.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    _check_one_shape(scores, targets)
    return 0.5 * (scores - targets).square().sum(dim=1)


def weighted_mean(losses: torch.Tensor, sample_weight: torch.Tensor) -> torch.Tensor:
    """sum(w * l) / sum(w), so that a row of weight 2 counts exactly like two rows."""
    return (sample_weight @ losses) / sample_weight.sum()


def _check_one_shape(scores: torch.Tensor, targets: torch.Tensor) -> None:
    if scores.shape != targets.shape:  # (n,) against (n, 1) would broadcast in silence
        raise ValueError(
            f"Scores and targets must have one shape. Got {tuple(scores.shape)} and {tuple(targets.shape)}. "
            "Make a single target a column: targets.reshape(-1, 1)."
        )
