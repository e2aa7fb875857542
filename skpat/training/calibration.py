"""Before the training: output statistics to start from, and shots from which a twin can learn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from skpat.controls import ControlBatch
from skpat.network.forward import Network, forward
from skpat.network.layers import OutputStatistics

__all__ = ["STATISTICS_ROWS", "calibration_shots", "draw_rows", "start_statistics"]

STATISTICS_ROWS = 256
"""Most rows that :func:`start_statistics` measures."""

_ROUNDS = 10  # as many different encoders and gains are tried during calibration
_BROAD_FRACTION = 0.25  # share of the calibration shots whose controls are uniform within the bounds

Measure = Callable[[ControlBatch, int, int], np.ndarray]
Weights = dict[str, np.ndarray]


def draw_rows(row_keys: np.ndarray, sample_weight: np.ndarray, n_rows: int, rng: np.random.RandomState) -> np.ndarray:
    """Draw row numbers with replacement, in proportion to the weights.

    Rows are taken in the order of their keys, so the drawn *values* do not depend on the order of the rows, and
    a row of weight 2 is drawn like two rows.

    Parameters
    ----------
    row_keys : ndarray of uint64, shape (n,)
    sample_weight : ndarray of shape (n,)
    n_rows : int
        How many to draw.
    rng : RandomState

    Returns
    -------
    ndarray of int, shape (n_rows,)
    """
    order = np.argsort(row_keys, kind="stable")
    cumulative = np.cumsum(sample_weight[order])
    return order[
        np.searchsorted(cumulative, rng.uniform(size=n_rows) * cumulative[-1], side="right").clip(max=len(order) - 1)
    ]


def start_statistics(
    network: Network,
    weights: Weights,
    X: np.ndarray,
    sample_weight: np.ndarray,
    row_keys: np.ndarray,
    rng: np.random.RandomState,
    measure_for: Callable[[np.ndarray], Measure],
) -> list[OutputStatistics]:
    """Measure some rows layer by layer with the first weights; set each layer's mean and scale before the next.

    Costs at most ``STATISTICS_ROWS`` shots per layer and unit. ``weights`` is updated in place.

    Parameters
    ----------
    measure_for : callable
        ``measure_for(row_keys)`` -> ``measure(batch, layer, unit)``.
    """
    if len(X) > STATISTICS_ROWS:
        rows = draw_rows(row_keys, sample_weight, STATISTICS_ROWS, rng)
        X, row_keys, sample_weight = X[rows], row_keys[rows], np.ones(STATISTICS_ROWS, dtype=X.dtype)
    measure = measure_for(row_keys)
    statistics = [OutputStatistics(network.n_units * network.n_outputs) for _ in range(network.n_layers)]
    collected: list[np.ndarray] = []

    def run(batch: ControlBatch, layer: int, unit: int) -> np.ndarray:
        outputs = np.asarray(measure(batch, layer, unit), dtype=X.dtype)
        collected.append(outputs)
        if unit == network.n_units - 1:  # the layer is complete: forward normalises by what stands here
            statistics[layer].update(np.concatenate(collected, axis=1), sample_weight, momentum=1.0)
            collected.clear()
            weights[f"layers.{layer}.mean"][:] = statistics[layer].mean
            weights[f"layers.{layer}.scale"][:] = statistics[layer].scale
        return outputs

    forward(network, weights, X, run)
    return statistics


def calibration_shots(
    network: Network,
    weights: Weights,
    X: np.ndarray,
    sample_weight: np.ndarray,
    row_keys: np.ndarray,
    n_shots: int,
    rng: np.random.RandomState,
    measure: Callable[[ControlBatch], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Measure controls like those that the training will send, and some uniform within the bounds.

    Real rows go through the network with varied encoders and gains, and with device weights drawn anew for every
    row; whatever the device then receives, in every layer, is a calibration shot.

    Parameters
    ----------
    n_shots : int
        Shots to spend, exactly.
    measure : callable
        ``measure(batch)`` -> outputs (n_rows, n_outputs).

    Returns
    -------
    controls : ndarray of shape (n_shots, n_controls)
    outputs : ndarray of shape (n_shots, n_outputs)
    """
    controls: list[np.ndarray] = []
    outputs: list[np.ndarray] = []
    left = n_shots

    def spend(dense: np.ndarray) -> np.ndarray:
        nonlocal left
        left -= len(dense)
        controls.append(dense)
        outputs.append(np.asarray(measure(ControlBatch.from_dense(dense)), dtype=dense.dtype))
        return outputs[-1]

    def run(batch: ControlBatch, layer: int, unit: int) -> np.ndarray:
        dense = batch.dense()
        theta = rng.standard_normal((len(dense), network.split.n_weights)).astype(dense.dtype)
        dense[:, network.split.weight_index] = network.weights_on_device(theta)
        return spend(dense)

    passes = network.n_layers * network.n_units
    n_rows = int(n_shots * (1 - _BROAD_FRACTION)) // (passes * _ROUNDS)
    for _ in range(_ROUNDS if n_rows else 0):
        rows = draw_rows(row_keys, sample_weight, n_rows, rng)
        forward(network, _varied(weights, rng), X[rows], run)
    dense = network.uniform_on_device(rng.uniform(size=(left, network.split.n_controls)).astype(X.dtype))
    dense[:, network.split.fixed_index] = network.split.fixed_values
    spend(dense)
    return np.concatenate(controls), np.concatenate(outputs)


def _varied(weights: Weights, rng: np.random.RandomState) -> Weights:
    """Weights as the training may meet them: another encoder of the same spread, other gains and offsets."""
    varied = dict(weights)
    for name, value in weights.items():
        if name == "encoder.coef":
            fresh = rng.standard_normal(value.shape) * value.std()
            varied[name] = (0.6 * value + 0.8 * fresh).astype(value.dtype) * np.exp(0.4 * rng.standard_normal())
        elif name.endswith(".gain"):
            varied[name] = (value * np.exp(0.4 * rng.standard_normal(value.shape))).astype(value.dtype)
        elif name.endswith(".offset"):
            varied[name] = (value + 0.3 * rng.standard_normal(value.shape)).astype(value.dtype)
    return varied
