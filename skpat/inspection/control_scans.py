"""Whether every control reaches the device as it was asked for: not rounded, not clipped, not ignored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skpat.inspection.driver_faults import ReferenceReadings
from skpat.inspection.findings import Finding, listed
from skpat.inspection.legal_settings import LegalSettings

__all__ = ["Scan", "check_integers", "check_scans", "check_steps", "scan_plan", "step_plan"]

_MOST_CHANNELS = 6
_NEAR_THE_END = 0.15  # of the range: how far from its end a clipped channel is looked for
_EXACT = 1e-12  # of an output's variance: equal but for rounding
_PAIRS = 4
_ACTS = 20.0
"""Squared step over the largest noise of a reading, of a channel that acts: noise alone makes it twice that noise."""
_CLEAR, _CLEAR_OF_MOST = 1000.0, 100.0
"""The same of the strongest, beside which a channel that shows nothing is said to do nothing, and beside which most channels
are: a few may well be weak, most are not."""
_STEP_OF_A_SHARE = 12 * (1 - 2 * _NEAR_THE_END) ** 2
"""Squared step over the middle of a channel's range, in parts of the variance that it makes, where the response is straight."""


def step_plan(legal: LegalSettings) -> np.ndarray | None:
    """Pairs of settings that differ, but not in any channel after rounding to whole numbers, down or to the nearest.

    Returns
    -------
    ndarray of shape (8, n_controls) or None
        Rows 0 and 1 are a pair, and so are 2 and 3, and so on. None where there is no room for them.
    """
    rng, n_controls = legal.rng, len(legal.low)
    half = (
        rng.permutation(np.arange(_PAIRS) % 2)[:, None] * 0.5
    )  # some pairs in the lower half of a unit, some in the upper
    first = np.ceil(legal.low - half - 0.03)
    room = np.floor(legal.high - half - 0.47) - first
    inside = (room >= 0) & (legal.steps < 0.05)
    if not inside.any(axis=1).all():
        return None
    start = first + half + np.floor(rng.uniform(size=(_PAIRS, n_controls)) * (np.maximum(room, 0) + 1))
    near, far = (rng.uniform(*ends, size=(_PAIRS, n_controls)) for ends in ((0.03, 0.13), (0.37, 0.47)))
    turned = rng.uniform(size=(_PAIRS, n_controls)) < np.array([0.0, 0.5, 0.0, 0.5])[:, None]
    pairs = np.stack([start + np.where(turned, far, near), start + np.where(turned, near, far)], axis=1)
    pairs, inside = pairs.reshape(2 * _PAIRS, n_controls), np.repeat(inside, 2, axis=0)
    pairs = np.where(inside, pairs, np.repeat(legal.draw(_PAIRS), 2, axis=0))
    pairs = np.where(legal.steps > 0, legal.from_unit((pairs - legal.low) / _width(legal)), pairs)
    if any(legal.veto(row) is not None for row in pairs):
        return None
    return pairs


def check_steps(
    legal: LegalSettings, readings: ReferenceReadings, pairs: np.ndarray | None, outputs: np.ndarray | None
) -> Finding:
    """Whether the pairs of :func:`step_plan` are told apart."""
    name = "control steps"
    if pairs is None or outputs is None:
        return Finding(name, "skipped", "No room for settings that differ by less than one.")
    moved = np.abs(pairs[1::2] - pairs[::2]) / _width(legal)
    expected = 2 * readings.signal * float(np.mean((moved / 0.408) ** 2))  # 0.408: two places drawn uniformly
    change = readings.in_scale(outputs[1::2]) - readings.in_scale(outputs[::2])
    seen = float(np.square(change).sum(axis=1).max())
    finding = Finding(
        name,
        "failed",
        "Controls that differ by less than one get the same answer: they are rounded to whole numbers on the way.",
        "Send floats (no int(...), no integer array). If the device has steps, state them as control_steps.",
    )
    if not readings.is_noisy:
        coarse = expected < max(9 * np.sum((_resolution(readings) / readings.scale) ** 2), 100 * _EXACT)
        if seen > _EXACT:
            return Finding(name, "passed", "Fractions of a unit reach the device.")
        return Finding(name, "skipped", "The outputs are too coarse to tell.") if coarse else finding
    if expected < 60 * readings.noise.max():
        return Finding(
            name,
            "skipped",
            "The noise would hide steps of one unit.",
            "If the device takes whole numbers only, state control_steps=1.",
        )
    if seen < 10 * readings.noise.max():
        return finding
    return Finding(name, "passed", "Fractions of a unit reach the device.")


@dataclass(frozen=True)
class Scan:
    """Settings that differ from one base setting in one channel: its low end, near it, near its high end, the high end.

    Attributes
    ----------
    channels : ndarray of int, shape (k,)
    settings : ndarray of shape (4 k, n_controls)
    reaches : ndarray of bool, shape (k,)
        Whether the ends are the device's bounds.
    """

    channels: np.ndarray
    settings: np.ndarray
    reaches: np.ndarray


def scan_plan(legal: LegalSettings, base: np.ndarray) -> Scan:
    """The first, the last and some other channels, each over its range."""
    n_controls = len(base)
    inner = 1 + legal.rng.permutation(max(n_controls - 2, 0))[: _MOST_CHANNELS - 2]
    channels = np.unique(np.concatenate([[0], inner, [n_controls - 1]])).astype(int)
    kept, settings, reaches = [], [], []
    for channel in channels:
        for low, high in (
            (legal.bounds[channel, 0], legal.bounds[channel, 1]),
            (legal.low[channel], legal.high[channel]),
        ):
            at_bounds = bool(low == legal.bounds[channel, 0] and high == legal.bounds[channel, 1])
            if (
                at_bounds
                and getattr(legal.limits, "limits_changes", False)
                and high - low > width_in_box(legal, channel)
            ):
                continue
            rows = np.tile(base, (4, 1))
            inside = low + np.array([_NEAR_THE_END, 1 - _NEAR_THE_END]) * (high - low)
            rows[:, channel] = [low, *inside, high]
            rows[:, channel] = legal.on_steps(rows)[:, channel]
            if len(np.unique(rows[:, channel])) < 4 or any(legal.veto(row) is not None for row in rows):
                continue
            kept.append(channel)
            settings.append(rows)
            reaches.append(at_bounds)
            break
    stacked = np.concatenate(settings) if settings else np.empty((0, n_controls))
    return Scan(np.array(kept, dtype=int), stacked, np.array(reaches, dtype=bool))


def width_in_box(legal: LegalSettings, channel: int) -> float:
    """Largest distance of two settings of a channel in the box."""
    return float(legal.high[channel] - legal.low[channel])


def check_scans(scan: Scan, readings: ReferenceReadings, outputs: np.ndarray) -> list[Finding]:
    """Which channels are ignored, and which are cut off before they reach their bounds."""
    if not len(scan.channels):
        return [Finding("channels", "skipped", "No channel could be moved over its range.")]
    answers = readings.in_scale(outputs).reshape(len(scan.channels), 4, -1)
    steps = np.square(np.diff(answers, axis=1)).sum(axis=2)  # at the low end, over the middle, and at the high end
    acts, ignored = _effects(steps.max(axis=1), readings, len(scan.settings[0]))
    return [
        _report_effects(scan, acts, ignored, not readings.is_noisy),
        _report_ends(scan, readings, answers, steps, ignored),
    ]


def _effects(whole: np.ndarray, readings: ReferenceReadings, n_controls: int) -> tuple[np.ndarray, np.ndarray]:
    """Which channels are seen to act, and which do nothing where something else clearly does; (n_channels,) each. The others
    are not told from noise, or from the steps of the readings. ``whole`` is the largest squared step of each channel."""
    strongest = max(float(whole.max()), _STEP_OF_A_SHARE * readings.signal / n_controls)
    if readings.is_noisy:
        noise = readings.noise.max()
        silent = whole < 6 * noise
        clear = _CLEAR_OF_MOST if silent.sum() > max(len(whole) / 2, 2) else _CLEAR
        return whole > _ACTS * noise, silent & (strongest > clear * noise)
    fine = readings.scale > 0
    coarse = strongest < 100 * np.sum((_resolution(readings)[fine] / readings.scale[fine]) ** 2)
    return whole > _EXACT, np.asarray((whole <= _EXACT) & ~coarse)


def _report_effects(scan: Scan, acts: np.ndarray, ignored: np.ndarray, exact: bool) -> Finding:
    n_tried, n_controls = scan.channels.size, scan.settings.shape[1]
    some = f" ({n_tried} of {n_controls} channels tried)" if n_tried < n_controls else ""
    unclear, hidden = ~acts & ~ignored, "the steps of the readings" if exact else "noise"
    said = []
    if ignored.any():
        of_all = "" if some else f" of {n_tried} tried"
        visible = "" if exact else " that is seen in the noise"
        said.append(f"{listed('Channel', scan.channels[ignored])}{of_all} had no effect on any output{visible}")
    if acts.any():
        said.append(f"{listed('Channel', scan.channels[acts])} {'has' if acts.sum() == 1 else 'have'} an effect")
    if unclear.any():
        named = listed("Channel", scan.channels[unclear])
        said.append(f"{named} {'is' if unclear.sum() == 1 else 'are'} not told from {hidden}")
    said[0] += some
    seen = ". ".join(said) + "."
    if not ignored.any():
        return Finding("channels", "passed" if acts.any() else "skipped", seen)
    many = ignored.mean() > 0.5
    return Finding(
        "channels",
        "failed" if many and exact else "warning",
        seen,
        "Check that every channel is sent, the first and the last too, and that it is wired.",
    )


def _report_ends(
    scan: Scan, readings: ReferenceReadings, answers: np.ndarray, steps: np.ndarray, ignored: np.ndarray
) -> Finding:
    if not scan.reaches.any():
        return Finding("range", "skipped", "The ends of the bounds were not tried.")
    flat, at_a_rail = _flat_ends(readings, answers, steps, scan.reaches & ~ignored)
    if not flat.any():
        return Finding("range", "passed", "The response goes on up to the bounds.")
    seen = f"Near the ends of the bounds nothing changes any more ({listed('channel', scan.channels[flat])}): the control is "
    if not readings.is_noisy and (flat & ~at_a_rail).any():
        mend = "Narrow 'bounds' to the range that is really sent; never clip silently."
        return Finding("range", "failed", f"{seen}clipped on the way.", mend)
    return Finding(
        "range",
        "warning",
        f"{seen}clipped on the way, or the device saturates, or its response is flat there.",
        "If it is clipped, narrow 'bounds' to the range that is really sent. A square is flat at 0: that is sound.",
    )


def _flat_ends(
    readings: ReferenceReadings, answers: np.ndarray, steps: np.ndarray, tried: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which of the channels tried do nothing near an end of their bounds, and which of these perhaps because all outputs that
    move at all stand at the end of what they ever read; (n_channels,) each."""
    low_end, middle, high_end = steps.T
    noise, exact = readings.noise.max(), not readings.is_noisy
    expected = (_NEAR_THE_END / (1 - 2 * _NEAR_THE_END)) ** 2 * middle
    resolution = np.sum((_resolution(readings) / readings.scale) ** 2)
    flat, at_a_rail = np.zeros(len(steps), bool), np.zeros(len(steps), bool)
    everything = np.concatenate([readings.scaled, answers.reshape(-1, answers.shape[2])])
    lowest, highest = everything.min(axis=0), everything.max(axis=0)
    change = np.abs(answers[:, 2] - answers[:, 1])
    moving = change > 0.05 * change.max(axis=1, keepdims=True)
    near = 1e-9 if exact else 3 * np.sqrt(noise / max(answers.shape[2], 1))
    for end, plateau in ((low_end, answers[:, 0]), (high_end, answers[:, 3])):
        is_flat = (
            (end <= _EXACT) & (expected > 9 * resolution) if exact else (end < 6 * noise) & (expected > 40 * noise)
        )
        railed = (plateau <= lowest + near) | (plateau >= highest - near)
        is_flat &= tried
        flat |= is_flat
        at_a_rail |= is_flat & (railed | ~moving).all(axis=1)
    return flat, at_a_rail


def check_integers(readings: ReferenceReadings, outputs: np.ndarray, dtypes: set[np.dtype]) -> Finding:
    """Whether outputs look as if they had been rounded to whole numbers."""
    live = outputs[:, readings.live]
    whole = bool((live == np.round(live)).all())
    span = float(np.median(np.ptp(live, axis=0))) if live.size else 0.0
    if whole and not readings.is_noisy and span <= 20:
        return Finding(
            "output resolution",
            "warning",
            f"All outputs are whole numbers, without noise, and span only {span:g}: are they rounded or truncated?",
            "Return floats; if the readings are counts, count longer.",
        )
    kind = "/".join(sorted(str(dtype) for dtype in dtypes))
    return Finding("output resolution", "passed", f"Outputs are {'whole numbers' if whole else 'fine'} ({kind}).")


def _resolution(readings: ReferenceReadings) -> np.ndarray:
    """Smallest step of each live output; 0 where hardly any two readings of different settings are equal."""
    live = readings.record.outputs[:, readings.live]
    steps = np.zeros(live.shape[1])
    for i, column in enumerate(live.T):
        values = np.unique(column)
        if len(values) < readings.n_settings:
            steps[i] = np.diff(values).min()
    return steps


def _width(legal: LegalSettings) -> np.ndarray:
    width = legal.high - legal.low
    return np.where(width > 0, width, 1.0)
