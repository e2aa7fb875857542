"""Whether the periods that a device states are true: settings a whole period apart, which must be answered alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from skpat.inspection.driver_faults import ReferenceReadings
from skpat.inspection.findings import Finding
from skpat.inspection.legal_settings import LegalSettings

__all__ = ["PeriodPlan", "check_periods", "period_plan"]

_NAME = "periods"
_GROUPS = 2
_PAIRS = 3
_REPEATS = 4  # of a group that looks wrong; even, so that each order of a pair comes as often
_TRIES = 8
_MATTERS = 0.01  # of the spread between settings: less, a rounded period say, does no harm
_ROUNDING = 1e-9


@dataclass(frozen=True)
class PeriodPlan:
    """Pairs of settings between which the channels of one group move by whole periods, and no other moves.

    Attributes
    ----------
    groups : list of ndarray of int
        Neighbouring periodic channels.
    settings : ndarray of shape (n_groups, 3, 2, n_controls)
    untried : ndarray of int
        Periodic channels that have no two legal settings a period apart.
    """

    groups: list[np.ndarray]
    settings: np.ndarray
    untried: np.ndarray


def period_plan(legal: LegalSettings, periods: np.ndarray) -> PeriodPlan:
    """Draw the settings. Nothing is drawn where no channel is periodic."""
    low, high = legal.bounds.T  # all of them, if the device lets a channel change by that much
    if legal.limits.limits_changes:
        narrowed = legal.high - legal.low < (high - low) * (1 - 2e-6)
        low, high = np.where(narrowed, legal.low, low), np.where(narrowed, legal.high, high)
    periodic = np.flatnonzero(periods > 0)
    period, step = periods[periodic], legal.steps[periodic]
    stepped, step = step > 0, np.where(step > 0, step, 1.0)
    start, grid = low[periodic], legal.bounds[periodic, 0]
    first = np.where(stepped, grid + step * np.ceil((start - grid) / step - 1e-6), start)
    turns = np.floor((high[periodic] - first) / period * (1 + _ROUNDING))
    on_grid = ~stepped | (np.abs(period / step - np.round(period / step)) < 1e-6)
    fits = (turns >= 1) & on_grid
    groups, settings = [], []
    for group in np.array_split(np.flatnonzero(fits), min(_GROUPS, max(int(fits.sum()), 1))) if fits.any() else ():
        pairs = []
        for _ in range(_PAIRS * _TRIES):
            base = legal.draw(1)[0]
            # an odd number of turns: half of the true period would be true for even ones
            n_turns = 2 * np.floor(legal.rng.uniform(size=len(group)) * ((turns[group] + 1) // 2)) + 1
            moved = n_turns * period[group]
            end = high[periodic[group]]
            room = np.maximum(end - moved - first[group], 0.0)
            place = legal.rng.uniform(size=len(group))
            whole = step[group] * np.floor(place * (np.floor(room / step[group] + 1e-6) + 1))
            pair = np.stack([base, base])
            pair[0, periodic[group]] = first[group] + np.where(stepped[group], whole, place * room)
            pair[1, periodic[group]] = np.minimum(pair[0, periodic[group]] + moved, end)
            if all(legal.veto(row) is None for row in pair):
                pairs.append(pair)
            if len(pairs) == _PAIRS:
                groups.append(periodic[group])
                settings.append(np.stack(pairs))
                break
    tried = np.concatenate(groups) if groups else np.empty(0, int)
    stacked = np.stack(settings) if settings else np.empty((0, _PAIRS, 2, len(low)))
    return PeriodPlan(groups, stacked, np.setdiff1d(periodic, tried))


def check_periods(
    plan: PeriodPlan, readings: ReferenceReadings, measure: Callable[[np.ndarray], np.ndarray]
) -> list[Finding]:
    """Whether the pairs are answered alike; two shots for each of them, and eight more for those that look wrong.

    Parameters
    ----------
    plan : PeriodPlan
    readings : ReferenceReadings
    measure : callable
        ``measure(controls)`` -> outputs (n_rows, n_outputs).
    """
    if not plan.groups:
        return [Finding(_NAME, "skipped", "No two legal settings are a period apart.")]
    if readings.is_noisy and not readings.resolves:
        return [Finding(_NAME, "skipped", "The noise would hide a wrong period.")]
    wrong: list[tuple[np.ndarray, float]] = []
    rows = plan.settings.reshape(-1, plan.settings.shape[-1])
    changes = _changes(readings, measure(rows)).reshape(len(plan.groups), _PAIRS, -1)
    for group, pairs, change in zip(plan.groups, plan.settings, changes, strict=True):
        squares = np.square(change).sum(axis=1)
        if not readings.nearly_all(readings.far(squares) & _matters(squares, readings)):
            continue
        again = []
        for repeat in range(_REPEATS):  # each pair in both orders: a drift is no difference
            turned = pairs[:, ::-1] if repeat % 2 else pairs
            answers = _changes(readings, measure(turned.reshape(-1, turned.shape[-1])))
            again.append(-answers if repeat % 2 else answers)
        mean = np.mean(again, axis=0)
        scatter = np.var(again, axis=0, ddof=1).sum(axis=1) / _REPEATS  # the noise may depend on the setting
        squares = np.square(mean).sum(axis=1)
        far = readings.far(squares, 2 / _REPEATS) & (squares > 30 * scatter) & _matters(squares, readings)
        if readings.nearly_all(far):
            wrong.append((group, float(np.sqrt(squares.mean() / len(readings.scale)))))
    if wrong:
        which = " and ".join(_named(group) for group, _ in wrong)
        verb = "changes" if len(wrong) == 1 and len(wrong[0][0]) == 1 else "change"
        return [
            Finding(
                _NAME,
                "failed",
                f"Moved by whole periods, {which} {verb} the answer, by {max(size for _, size in wrong):.1g} of its spread "
                "between settings.",
                "State in 'periodic' the period of each channel in the device's units (2 * numpy.pi for rad, 360 for degrees), "
                "and 0 for channels that are not periodic.",
            )
        ]
    n_tried = sum(map(len, plan.groups))
    which = "the periodic channel leaves" if n_tried == 1 else f"{n_tried} periodic channels leave"
    untried = (
        f" (Not tried: {len(plan.untried)} without two legal settings a period apart.)" if len(plan.untried) else ""
    )
    return [Finding(_NAME, "passed", f"Moved by whole periods, {which} the answer alone.{untried}")]


def _changes(readings: ReferenceReadings, outputs: np.ndarray) -> np.ndarray:
    answers = readings.in_scale(outputs)
    return answers[1::2] - answers[::2]


def _matters(squares: np.ndarray, readings: ReferenceReadings) -> np.ndarray:
    return squares > len(readings.scale) * _MATTERS**2


def _named(group: np.ndarray) -> str:
    if len(group) == 1:
        return f"channel {group[0]}"
    return f"some of the channels {group[0]} to {group[-1]}"
