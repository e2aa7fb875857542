"""Before the training: output statistics to start from, and shots from which a twin can learn."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from skpat.controls import ControlBatch
from skpat.exceptions import DeadDeviceWarning, DeviceOutputError
from skpat.network.forward import Network, forward
from skpat.network.layers import OutputStatistics
from skpat.training.dither import Dither, measured_size, settled_weights
from skpat.training.far_reading import usual, warn_of_far_reading
from skpat.user_warning import warn_user

__all__ = [
    "DITHER_ROWS",
    "FITTED_ERROR",
    "STATISTICS_ROWS",
    "calibrate_in_rounds",
    "calibrate_on_policy",
    "calibration_shots",
    "draw_rows",
    "on_policy_shots",
    "size_of_dither",
    "start_statistics",
    "warn_of_first_far",
]

STATISTICS_ROWS = 256
"""Most rows that :func:`start_statistics` measures."""

DITHER_ROWS = 64
"""Most rows, each measured three times, that set the size of displacements."""

FITTED_ERROR = 0.02
"""Of the variance: below this error a twin that knows the equations has found them, and they leave nothing out."""

_GOOD_ERROR = 0.1  # below, the calibration of a learned twin ends
_SLOW_GAIN = 0.8  # so does any calibration where a round leaves more than this part of the error
_FIRST_ROUND = 300  # shots
_ROUNDS = 10  # as many different encoders and gains are tried during calibration
_BROAD_FRACTION = 0.25  # share of the calibration shots whose controls are uniform within the bounds

Measure = Callable[[ControlBatch, int, int], np.ndarray]
Weights = dict[str, np.ndarray]
Shots = tuple[np.ndarray, np.ndarray]

_ENOUGH_TO_COMPARE = 20  # rows
_NONE = np.zeros(0, dtype=int)
_KEPT_ROWS = 64
_MOST_KEPT_CHANNELS = 20_000  # beyond, copies of all channels of all rows would not fit


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
    n_rows: int = STATISTICS_ROWS,
) -> tuple[list[OutputStatistics], Shots]:
    """Measure some rows layer by layer with the first weights; set each layer's mean and scale before the next.

    Costs at most ``n_rows`` shots per layer and unit. ``weights`` is updated in place.

    Parameters
    ----------
    measure_for : callable
        ``measure_for(row_keys)`` -> ``measure(batch, layer, unit)``.
    n_rows : int, default=256
        Most rows.

    Returns
    -------
    statistics : list of OutputStatistics
    shots : tuple of ndarray
        What was sent and what came back, (n_shots, n_controls) and (n_shots, n_outputs); up to 64 rows of each call.
    """
    if len(X) > n_rows:
        rows = draw_rows(row_keys, sample_weight, n_rows, rng)
        X, row_keys, sample_weight = X[rows], row_keys[rows], np.ones(n_rows, dtype=X.dtype)
    measure = measure_for(row_keys)
    statistics = [OutputStatistics(network.n_calls_of(layer) * network.n_outputs) for layer in range(network.n_layers)]
    changes = [False] * network.n_layers
    collected: list[np.ndarray] = []
    sent: list[np.ndarray] = []
    received: list[np.ndarray] = []
    kept = np.argsort(row_keys, kind="stable")[:_KEPT_ROWS]

    def run(batch: ControlBatch, layer: int, unit: int) -> np.ndarray:
        outputs = np.asarray(measure(batch, layer, unit), dtype=X.dtype)
        changes[layer] |= bool((outputs != outputs[:1]).any())
        collected.append(outputs)
        if network.split.n_controls <= _MOST_KEPT_CHANNELS:
            sent.append(np.asarray(batch.rows(kept).dense()))
            received.append(outputs[kept])
        if unit == network.n_calls_of(layer) - 1:  # the layer is complete: forward normalises by what stands here
            together = np.concatenate(collected, axis=1)
            with np.errstate(over="ignore", invalid="ignore"):
                statistics[layer].update(together, sample_weight, momentum=1.0)
            _refuse_what_has_no_square(statistics[layer], collected)
            warn_of_first_far(together, network.n_outputs)
            collected.clear()
            weights[f"layers.{layer}.mean"][:] = statistics[layer].mean
            weights[f"layers.{layer}.scale"][:] = statistics[layer].scale
        return outputs

    forward(network, weights, X, run)
    _warn_if_dead(changes, network, X)
    empty = np.empty((0, network.split.n_controls), X.dtype), np.empty((0, network.n_outputs), X.dtype)
    return statistics, (np.concatenate(sent), np.concatenate(received)) if sent else empty


def _refuse_what_has_no_square(statistics: OutputStatistics, collected: list[np.ndarray]) -> None:
    """The outputs are squared, for their spread; what is too large for that, or too small, cannot be normalised."""
    kind = collected[0].dtype
    if not np.isfinite(statistics.variance).all():
        found, unit = f"{max(float(np.abs(outputs).max()) for outputs in collected):g}", "larger"
    elif statistics.variance.max() < np.finfo(kind).tiny:
        change = max(float(np.ptp(outputs, axis=0).max()) for outputs in collected)
        if not change:  # dead
            return
        found, unit = f"changes of {change:g}", "smaller"
    else:
        return
    raise DeviceOutputError(
        f"The device's outputs must have squares that {kind} can hold. Got {found}. Let measure return them in a {unit} unit."
    )


def warn_of_first_far(outputs: np.ndarray, n_outputs: int) -> bool:
    """Tell of a reading that lies far from nearly all others; whether there was one."""
    return len(outputs) >= _ENOUGH_TO_COMPARE and warn_of_far_reading(outputs, *usual(outputs), n_outputs)


def _warn_if_dead(changes: list[bool], network: Network, X: np.ndarray) -> None:
    """Tell if a layer's answers are the same for all rows: of a training through them nothing will come."""
    if all(changes) or not np.ptp(X, axis=0).any():
        return
    message = (
        f"The device must answer different rows differently. Got the same {network.n_outputs} outputs for {len(X)} "
        f"different rows, in layer {changes.index(False)} (the first is 0): nothing can be trained through them. "
        "Check power, trigger, cabling and 'bounds'; characterize(device) of skpat.inspection tells which channels act."
    )
    warn_user(message, DeadDeviceWarning)


def on_policy_shots(
    network: Network,
    weights: Weights,
    X: np.ndarray,
    n_shots: int,
    move: Callable[[np.ndarray], np.ndarray],
    measure: Callable[[ControlBatch], np.ndarray],
    slow: np.ndarray = _NONE,
) -> Shots:
    """Measure what the training will send at its start, displaced: real data, weights around their first values.

    Parameters
    ----------
    X : ndarray of shape (n, n_features)
        Rows to send; at least ``n_shots / n_calls`` of them.
    n_shots : int
        Shots to spend, exactly.
    move : callable
        Displaces controls (n_rows, n_controls).
    measure : callable
        ``measure(batch)`` -> outputs (n_rows, n_outputs).
    slow : ndarray of int, default=()
        Numbers of the device's slow channels.

    Returns
    -------
    controls : ndarray of shape (n_shots, n_controls)
    outputs : ndarray of shape (n_shots, n_outputs)
    """
    controls: list[np.ndarray] = []
    outputs: list[np.ndarray] = []
    left = n_shots
    slow = settled_weights(network, slow)

    def run(batch: ControlBatch, layer: int, unit: int) -> np.ndarray:
        nonlocal left
        dense = move(np.asarray(batch.dense()))
        left -= len(dense)
        controls.append(dense)
        outputs.append(np.asarray(measure(ControlBatch.from_dense(dense, slow)), dtype=dense.dtype))
        if left < len(dense):
            raise _EnoughError
        return outputs[-1]

    while left:
        n_rows = max(left // network.n_calls, min(left, 1))
        with suppress(_EnoughError):
            forward(network, weights, X[:n_rows], run)
        X = np.roll(X, -n_rows, axis=0)
    return np.concatenate(controls), np.concatenate(outputs)


class _EnoughError(Exception):
    """No shots are left for another call."""


def size_of_dither(
    network: Network,
    weights: Weights,
    X: np.ndarray,
    dither: Dither,
    measure: Callable[[ControlBatch], np.ndarray],
) -> float:
    """The size of the training's displacements, measured on the first call's settings; three shots for each row of X."""
    seen: list[np.ndarray] = []

    def run(batch: ControlBatch, layer: int, unit: int) -> np.ndarray:
        seen.append(np.asarray(batch.dense()))
        raise _EnoughError

    with suppress(_EnoughError):
        forward(network, weights, X, run)
    return measured_size(dither, seen[0], np.arange(len(X), dtype=np.uint64), measure)


def calibrate_on_policy(twin: Any, more: Callable[[int], Shots], n_most: int) -> None:
    """Fit a twin to more and more shots, until it predicts the new ones well or they no longer help.

    Each round doubles the shots. What is new is first predicted: calibration ends when the error falls below a tenth of
    the variance, or when a round leaves more than four fifths of it.

    Parameters
    ----------
    twin : Twin
    more : callable
        ``more(n)`` -> n further shots.
    n_most : int
        Most shots in all.
    """
    n_first = min(n_most, max(100, n_most // 16))
    controls, outputs = more(n_first)
    twin.fit(controls, outputs)
    before = np.inf
    while len(controls) < n_most:
        new = more(min(len(controls), n_most - len(controls)))
        error = 1 - twin.score(*new) if len(new[0]) > 1 else before
        controls, outputs = np.concatenate([controls, new[0]]), np.concatenate([outputs, new[1]])
        twin.fit(controls, outputs)
        if error < _GOOD_ERROR or error > _SLOW_GAIN * before:
            return
        before = error


def calibrate_in_rounds(twin: Any, more: Callable[[int], Shots], n_most: int) -> Shots:
    """Fit a twin to more and more shots, until it predicts those held out well or more shots no longer help.

    Parameters
    ----------
    twin : Twin
        With ``score_`` after its fit, if it shall end early.
    more : callable
        ``more(n)`` -> n further shots.
    n_most : int
        Most shots in all.

    Returns
    -------
    controls : ndarray of shape (n_shots, n_controls)
    outputs : ndarray of shape (n_shots, n_outputs)
        What the twin was fitted to.
    """
    controls, outputs = more(min(n_most, _FIRST_ROUND))
    twin.fit(controls, outputs)
    before = np.inf
    while len(controls) < n_most:
        error = 1 - getattr(twin, "score_", np.nan)  # unknown: as many as are allowed
        if error < FITTED_ERROR or error > _SLOW_GAIN * before:
            break
        before = error
        new = more(min(len(controls), n_most - len(controls)))
        controls, outputs = np.concatenate([controls, new[0]]), np.concatenate([outputs, new[1]])
        twin.fit(controls, outputs)
    return controls, outputs


def calibration_shots(
    network: Network,
    weights: Weights,
    X: np.ndarray,
    sample_weight: np.ndarray,
    row_keys: np.ndarray,
    n_shots: int,
    rng: np.random.RandomState,
    measure: Callable[[ControlBatch], np.ndarray],
    slow: np.ndarray = _NONE,
) -> tuple[np.ndarray, np.ndarray]:
    """Measure controls like those that the training will send, and some uniform within the bounds.

    Real rows go through the network with varied encoders and gains, and with device weights drawn anew for every
    row (those of slow channels for every call); whatever the device then receives, in every layer, is a calibration shot.

    Parameters
    ----------
    n_shots : int
        Shots to spend, exactly.
    measure : callable
        ``measure(batch)`` -> outputs (n_rows, n_outputs).
    slow : ndarray of int, default=()
        Numbers of the device's slow channels.

    Returns
    -------
    controls : ndarray of shape (n_shots, n_controls)
    outputs : ndarray of shape (n_shots, n_outputs)
    """
    controls: list[np.ndarray] = []
    outputs: list[np.ndarray] = []
    left = n_shots
    slow = settled_weights(network, slow)

    def spend(dense: np.ndarray) -> np.ndarray:
        nonlocal left
        left -= len(dense)
        batch = ControlBatch.from_dense(dense, slow)
        controls.append(batch.dense())
        outputs.append(np.asarray(measure(batch), dtype=dense.dtype))
        return outputs[-1]

    def run(batch: ControlBatch, layer: int, unit: int) -> np.ndarray:
        dense = batch.dense()
        theta = rng.standard_normal((len(dense), network.split.n_weights)).astype(dense.dtype)
        dense[:, network.split.weight_index] = network.weights_on_device(theta)
        return spend(dense)

    n_rows = int(n_shots * (1 - _BROAD_FRACTION)) // (network.n_calls * _ROUNDS)
    for _ in range(_ROUNDS if n_rows else 0):
        rows = draw_rows(row_keys, sample_weight, n_rows, rng)
        forward(network, _varied(weights, rng), X[rows], run)
    dense = network.uniform_on_device(rng.uniform(size=(left, network.split.n_controls)).astype(X.dtype))
    dense[:, network.split.fixed_index] = network.split.fixed_values
    for part in np.array_split(dense, min(_ROUNDS, len(dense))) if len(slow) and len(dense) else [dense]:
        spend(part)
    return np.concatenate(controls), np.concatenate(outputs)


def _varied(weights: Weights, rng: np.random.RandomState) -> Weights:
    """Weights as the training may meet them: another encoder of the same spread, other gains and offsets."""
    varied = dict(weights)
    for name, value in weights.items():
        if name == "encoder.coef":
            fresh = rng.standard_normal(value.shape) * value.std()
            varied[name] = (0.6 * value + 0.8 * fresh).astype(value.dtype) * float(np.exp(0.4 * rng.standard_normal()))
        elif name.endswith(".gain"):
            varied[name] = (value * np.exp(0.4 * rng.standard_normal(value.shape))).astype(value.dtype)
        elif name.endswith(".offset"):
            varied[name] = (value + 0.3 * rng.standard_normal(value.shape)).astype(value.dtype)
    return varied
