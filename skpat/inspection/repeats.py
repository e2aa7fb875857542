"""What settings that are measured twice in a row say: does an answer depend on the row before, how independent is the noise?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import f as f_distribution

from skpat.controls import ControlBatch
from skpat.row_keys import splitmix64

if TYPE_CHECKING:
    from skpat.lab.ledger import Ledger

__all__ = ["Settling", "count_stale", "measured_settling", "settling", "share_of_signal", "trace_and_squares"]

_ROWS_BEFORE = (1, 2, 4)  # a round in which every setting is measured twice in a row

_BY_CHANCE = 1e-5  # highest probability that normal noise of one size alone makes such a pattern
_BY_ANY_CHANCE = 2e-4  # and that noise of whatever distribution does
_AT_FIRST = 1e-2  # the same of the first rounds: more are measured only if it is below this
_N_FLIPS = 20_000
_ROUNDING = 1e-4  # of an output's spread: matrix products of another shape, float32 inside
_MOST_STALE = 0.85  # of the rows
_LEAST_SHARE = 0.01  # of a step: below, a drift from row to row may look the same


@dataclass(frozen=True)
class Settling:
    """How far the first answer to a setting lies from the next, which follows the setting itself.

    Attributes
    ----------
    share : float
        Root mean square of that distance, noise taken off, in parts of the step from the answer before; 0 if noise can make it.
    resolution : float
        The share that would just have been seen; infinite where there is no step.
    noise : ndarray of shape (n_outputs,)
        Variance of one reading, without what the row before has left in it.
    """

    share: float
    resolution: float
    noise: np.ndarray


def settling(readings: np.ndarray, by_chance: float = _BY_ANY_CHANCE) -> Settling:
    """Judge readings of some settings, each twice in a row, the settings in the same order in every round.

    The two readings of a setting differ by noise, and by what the row before has left in the first; the latter is the same in
    every round. What all settings have in common is left out: a drift from row to row.

    Parameters
    ----------
    readings : ndarray of shape (n_rounds, n_settings, 2, n_outputs)
        The first setting is taken to follow the last; where it does not, ``readings[:, 0, 0]`` is NaN, and that setting only
        the one that the next steps from.
    by_chance : float, default=2e-4
        How often noise may be taken for what the row before has left, whatever its distribution.

    Returns
    -------
    Settling
    """
    n_rounds = len(readings)
    settled = readings[:, :, 1].mean(axis=0)
    spread = settled.std(axis=0)
    live = spread > 1e-12 * np.abs(settled).max(axis=0)
    scale = np.where(live, spread, 1.0)
    followed = np.isfinite(readings[:, :, 0]).all(axis=(0, 2))
    differences = ((readings[:, :, 0] - readings[:, :, 1]) / scale)[:, followed]
    left = differences.mean(axis=0)
    scatter = differences - left
    n_settings = len(left)
    within = np.square(scatter).sum(axis=(0, 1)) / (n_settings * (n_rounds - 1))
    noise = np.where(within > 1e-24, within / 2 * np.square(scale), 0.0)
    if not live.any() or n_settings < 2:
        return Settling(0.0, np.inf, noise)
    left, within = (left - left.mean(axis=0))[:, live], within[live] + _ROUNDING**2
    n_free = n_settings - 1
    between = n_rounds * np.square(left).sum(axis=0) / n_free
    n_within = n_settings * (n_rounds - 1)
    ratio = float((between / within).mean()) * (n_within - 2) / n_within  # the mean of a ratio of variances is 1
    independent = _n_independent(scatter[:, :, live] / np.sqrt(within)) / n_settings
    least = float(f_distribution.isf(_BY_CHANCE, n_free * independent, n_within * independent))
    n_all = len(settled)
    ratio_of_settled = n_all / (n_all - 1) * 2 * n_rounds / within  # settled answers are scaled to a variance of 1
    weights = share_of_signal(ratio_of_settled, n_all - 1, n_within)
    if not weights.any():
        return Settling(0.0, np.inf, noise)
    steps = ((settled - np.roll(settled, 1, axis=0)) / scale)[followed][:, live]
    # of a mean over the rounds of second readings, half the variance of a difference, for each of the two
    length = np.square(steps).sum(axis=0) @ weights - n_settings * (within @ weights) / n_rounds
    if length <= 0:
        return Settling(0.0, np.inf, noise)
    by_noise = n_free * (within @ weights) / n_rounds
    apart = differences - np.median(differences.mean(axis=0), axis=0)  # a noisy setting is not seen in the others
    seen = ratio > least and _chance(apart[:, :, live] / np.sqrt(within)) <= by_chance
    share = float(np.sqrt(max(np.square(left).sum(axis=0) @ weights - by_noise, 0.0) / length))
    resolution = max(float(np.sqrt((least - 1) * by_noise / length)), _LEAST_SHARE)
    return Settling(share if seen and share > _LEAST_SHARE else 0.0, resolution, noise)


def share_of_signal(ratio: np.ndarray, n_between: float, n_within: float) -> np.ndarray:
    """How much outputs count, by the ratio of their variances between settings and of repeats, of so many degrees of freedom.

    0 where noise alone makes such a ratio in more than one output of a thousand, near 1 where it is far above.
    """
    return np.maximum(1 - f_distribution.isf(1e-3, n_between, n_within) / np.maximum(ratio, 1e-300), 0.0)


def measured_settling(measure: Callable[[ControlBatch], np.ndarray], settings: np.ndarray) -> Settling:
    """Measure settings (n_settings, n_controls) in rounds, each twice in a row, and judge what comes back.

    Each round is a call, and begins with further rows of the last setting, another number in each: what comes with the place in
    a call, or with the hum of the mains, falls on other settings. Where something looks carried, all is measured once more, and
    judged together: three rounds alone are not certain, and it may have been a leap of the device.
    """
    n_settings = len(settings)
    twice = np.repeat(np.arange(n_settings), 2)
    outputs: list[np.ndarray] = []
    for by_chance in (_AT_FIRST, _BY_ANY_CHANCE):
        for n_before in _ROWS_BEFORE:
            rows = settings[np.concatenate([np.full(n_before, n_settings - 1), twice])]
            names = splitmix64(np.arange(len(rows), dtype=np.uint64))  # a setting twice in a call has its noise twice
            outputs.append(measure(ControlBatch.from_dense(rows).named(names))[n_before:])
        readings = np.stack(outputs)
        found = settling(readings.reshape(-1, n_settings, 2, readings.shape[2]), by_chance)
        if not found.share:
            break
    return found


def _chance(differences: np.ndarray) -> float:
    """Share of drawings of signs with which differences (n_rounds, n_settings, n_outputs) agree as much between rounds.

    Noise alone does not know which reading was the first, whatever its distribution in a setting and an output.
    """
    by_setting = differences.swapaxes(0, 1)
    signs = np.random.default_rng(0).integers(0, 2, (len(by_setting), _N_FLIPS, len(differences))) * 2.0 - 1.0
    agreement = by_setting @ by_setting.swapaxes(1, 2)
    drawn = np.einsum("sfi,sfi->f", signs @ agreement, signs)
    found = float(agreement.sum())
    return float((drawn >= found * (1 - 1e-9)).mean())


def _n_independent(scatter: np.ndarray) -> float:
    """Effective number of independent readings per round: of all settings and outputs together (Satterthwaite)."""
    free = len(scatter) - 1
    found = [trace_and_squares(scatter[:, setting], free) for setting in range(scatter.shape[1])]
    trace, squares = (sum(values) for values in zip(*found, strict=True))
    return max(trace**2 / squares, 1.0) if squares > 0 else float(scatter[0].size)


def trace_and_squares(noise: np.ndarray, n_free: int) -> tuple[float, float]:
    """Trace, and sum of squares less what chance adds to it, of ``noise.T @ noise``; noise is (n, k) with so many degrees of
    freedom."""
    n, k = noise.shape
    product = noise.T @ noise if k <= n else noise @ noise.T  # one norm, one trace
    trace = float(np.trace(product))
    return trace, max(float(np.square(product).sum()) - trace**2 / n_free, trace**2 / k)


def count_stale(keys: np.ndarray, another: np.ndarray, least: int = 2) -> int:
    """Rows that were answered with the answer of the row before, to the last bit, though the setting was another.

    Without noise, or where readings are coarse, settings may share an answer honestly. They then do so in rows that do not
    follow each other, too: there are far more pairs of these. Without any such pair, two pairs of neighbours are no chance. If
    nearly all rows are answered so, it is not old readings: the settings have no effect.

    Parameters
    ----------
    keys : ndarray of uint64, shape (n_rows,)
        A hash of each row's answer, in the order in which they were measured.
    another : ndarray of bool, shape (n_rows - 1,)
        Whether a row has another setting than the one before.
    least : int, default=2
        Fewer are taken for chance.

    Returns
    -------
    int
        0 where chance may have made them.
    """
    new = keys[1:] != keys[:-1]
    runs = keys[np.concatenate([[True], new])]
    n_stale = int((~new & another).sum())
    is_some = least <= n_stale <= _MOST_STALE * another.sum()
    return n_stale if is_some and len(np.unique(runs)) == len(runs) else 0


def has_masked(device: Any, ledger: Ledger) -> bool:
    """Whether a session has put means in the place of bad readings: rows of a call then share them, and are no old ones."""
    is_bad = any(ledger.faults[kind] for kind in ("not_finite", "saturated"))
    return is_bad and getattr(device, "on_bad_output", None) == "mask"
