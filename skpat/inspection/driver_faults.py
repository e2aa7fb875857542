"""Telling a driver's faults from noise and drift: what repeats, orders and companies of the same settings say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from skpat.inspection.repeats import Settling, count_stale, share_of_signal
from skpat.row_keys import hash_rows

__all__ = [
    "AGAIN",
    "ANOTHER_ANSWER",
    "Record",
    "ReferenceReadings",
    "Verdict",
    "company_fault",
    "memory_fault",
    "settling_fault",
    "square_is_transposed",
    "stale_fault",
]

_FAR = 30.0
"""How many noise variances a difference must have to count. Of several settings nearly all must: a false alarm is then
rarer than one in 10,000 devices, also where the noise of all outputs is one and the same."""
AGAIN = 9.0
"""The same when a difference has been seen already: three standard deviations."""
_DARK, _CLEAR = 4.0, 100.0
"""Variance between settings over that of repeats, of an output that tells nothing, where another one tells much."""
_LEAST_WEIGHT = 1e-6
_SEVERAL_OUTPUTS = 3
_ROUNDING = 1e-4  # of an output's spread: matrix products of another shape, float32 inside


@dataclass(frozen=True)
class Record:
    """Readings in the order in which they were made.

    Attributes
    ----------
    setting : ndarray of int, shape (n,)
        Which of the reference settings.
    context : ndarray of str, shape (n,)
        "batch", "single" or "mixed" (in another order).
    repeat : ndarray of int, shape (n,)
        The number of the block.
    place : ndarray of int, shape (n,)
        Row within its call.
    outputs : ndarray of shape (n, n_outputs)
    """

    setting: np.ndarray
    context: np.ndarray
    repeat: np.ndarray
    place: np.ndarray
    outputs: np.ndarray


@dataclass(frozen=True)
class Verdict:
    """Whether a fault was seen, and what it looks like."""

    found: bool
    seen: str = ""
    mend: str = ""


class ReferenceReadings:
    """Statistics of the readings of some settings, each output in units of its spread.

    Parameters
    ----------
    record : Record

    Attributes
    ----------
    live : ndarray of bool, shape (n_outputs,)
        Outputs that changed at all.
    dark : ndarray of int
        Live outputs that changed no more from setting to setting than from repeat to repeat, beside others that did.
    scale : ndarray of shape (n_live,)
        Spread of each live output, larger where noise makes it.
    means : ndarray of shape (n_settings, n_live)
        Mean answer to each setting sent alone, scaled.
    noise : ndarray of shape (n_settings,)
        Variance of the repeated batch, summed over outputs. Drift counts as noise.
    signal : float
        Variance between settings, summed over outputs, less the noise.
    """

    def __init__(self, record: Record):
        spread = record.outputs.std(axis=0)
        self.live = (record.outputs != record.outputs[0]).any(axis=0)
        self.scale = np.where(spread[self.live] > 0, spread[self.live], 1.0)
        self.record = record
        self.n_settings = int(record.setting.max()) + 1
        self.scaled = self.in_scale(record.outputs)
        self._weigh()
        self.means = self.mean_in("single")
        n_live = max(int(self.live.sum()), 1)
        self.floor = n_live * _ROUNDING**2
        self.noise = self._noise()
        batch = self.mean_in("batch")
        self.signal = max(float(batch.var(axis=0, ddof=1).sum() - self.noise.mean() / 3), 0.0)

    def _weigh(self) -> None:
        """Let outputs count for what they tell of the settings: dark ones change by their noise alone."""
        batch, single = (
            np.stack([self.of(context, setting) for setting in range(self.n_settings)])
            for context in ("batch", "single")
        )
        within = batch[1:].var(axis=1, ddof=1).mean(axis=0)  # but for the first, see below
        between = [answers.shape[1] * answers.mean(axis=1).var(axis=0, ddof=1) for answers in (batch, single)]
        ratio = np.maximum(*between) / np.maximum(within, 1e-300)
        n, n_repeats = batch.shape[:2]
        weights = share_of_signal(ratio, n - 1, (n - 1) * (n_repeats - 1))
        self.dark = np.flatnonzero(self.live)[(ratio < _DARK) & (ratio.max(initial=0.0) > _CLEAR)]
        if weights.any():
            self.scale = self.scale / np.sqrt(np.maximum(weights, _LEAST_WEIGHT))
            self.scaled = self.in_scale(self.record.outputs)

    def in_scale(self, outputs: np.ndarray) -> np.ndarray:
        return outputs[:, self.live] / self.scale

    def of(self, context: str, setting: int) -> np.ndarray:
        return self.scaled[(self.record.context == context) & (self.record.setting == setting)]

    def mean_in(self, context: str) -> np.ndarray:
        return np.stack([self.of(context, setting).mean(axis=0) for setting in range(self.n_settings)])

    def _noise(self) -> np.ndarray:
        each = np.array([self.of("batch", s).var(axis=0, ddof=1).sum() for s in range(self.n_settings)])
        each[0] = each[
            1:
        ].mean()  # the first row of a batch follows another row each time: that may be a fault, not noise
        return np.maximum(each, 0.3 * each.mean())  # three readings say little about one setting

    @property
    def is_noisy(self) -> bool:
        """Whether repeats differ by more than rounding."""
        return bool(self.noise.mean() > self.floor)

    @property
    def relative_noise(self) -> float:
        """Standard deviation of the noise in parts of the spread between settings."""
        return float(np.sqrt(self.noise.mean() / self.signal)) if self.signal > 0 else float("inf")

    @property
    def resolves(self) -> bool:
        """Whether two settings taken for one another would be seen in the noise."""
        return self.signal > 0.6 * _FAR * self.noise.max()

    def far(self, squares: np.ndarray, n_readings: float = 2.0, setting: np.ndarray | None = None) -> np.ndarray:
        """Which squared distances, of ``n_readings`` single readings' noise, are too large for noise and rounding."""
        noise = self.noise.max() if setting is None else self.noise[setting]
        return squares > _FAR * (n_readings * noise + self.floor)

    def differ(self, outputs: np.ndarray, others: np.ndarray, far: float = _FAR) -> bool:
        """Whether raw readings of some settings differ from others of the same settings, in at least half of the rows."""
        squares = np.square(self.in_scale(outputs) - self.in_scale(others)).sum(axis=1)
        one = 2 * self.noise.max() + self.floor
        return bool(squares.mean() > far * one and (squares > far / 3 * one).mean() >= 0.5)

    def differ_beyond_repeats(self, outputs: np.ndarray, others: np.ndarray) -> bool:
        """The same of two readings each, (2, n_rows, n_outputs): also by more than the two differ. Noise may be large there."""
        (one, two), (first, second) = outputs, others
        apart = np.square(self.in_scale(one + two - first - second) / 2).sum()
        repeats = np.square(self.in_scale(one - two)).sum() + np.square(self.in_scale(first - second)).sum()
        return self.differ(two, second, AGAIN) and bool(apart > 3 * repeats / 2)

    @staticmethod
    def nearly_all(far: np.ndarray) -> bool:
        return bool(far.sum() >= max(1, np.ceil(0.65 * len(far))))


_SETTLE = "Wait until the device has settled, empty buffers and reset filters before every row."


def memory_fault(readings: ReferenceReadings) -> Verdict:
    """Whether an answer depends on the row that was measured before it."""
    record = readings.record
    setting, before = record.setting[1:], record.setting[:-1]
    weight = 1 / np.sqrt(readings.noise[setting] + readings.floor)
    outputs = (readings.scaled[1:] - readings.scaled.mean(axis=0)) * weight[:, None]
    now, then = (np.eye(readings.n_settings)[labels] * weight[:, None] for labels in (setting, before))
    now_only, _ = _misfit(now, outputs)
    then_only, _ = _misfit(then, outputs)
    both, coefficients = _misfit(np.hstack([now, then[:, 1:]]), outputs)
    n, m = len(outputs), readings.n_settings
    ratio = (now_only - both) / (m - 1) / max(both / (n - 2 * m + 1), 1e-300)
    if ratio < _FAR or now_only - both < n:  # the second: within rounding
        return Verdict(False)
    if then_only < 0.1 * now_only:
        return Verdict(
            True, "Answers lag by one row: each belongs to the setting sent before it, a stale reading.", _SETTLE
        )
    own = coefficients[:m] - coefficients[:m].mean(axis=0)
    carried = np.vstack([np.zeros_like(own[:1]), coefficients[m:]])
    carried = carried - carried.mean(axis=0)
    share = float((own * carried).sum() / max((own**2).sum(), 1e-300))
    return Verdict(
        True,
        f"State is carried between rows: about {abs(share):.0%} of the answer to the row before is in each answer.",
        _SETTLE,
    )


def settling_fault(found: Settling) -> Verdict:
    """Whether settings that were measured twice in a row were answered otherwise the first time."""
    seen = f"The row before moves an answer by {found.share:.0%} of the step between: it has not settled."
    return Verdict(True, seen, _SETTLE) if found.share > 0 else Verdict(False)


def company_fault(readings: ReferenceReadings) -> Verdict:
    """Whether an answer depends on the rows that share its call, or on its place among them."""
    batch, single, mixed = (readings.mean_in(context) for context in ("batch", "single", "mixed"))
    settings = np.arange(readings.n_settings)
    if not any(
        readings.nearly_all(readings.far(np.square(other - batch).sum(axis=1), 1 / 2 + 1 / 3, settings))
        for other in (single, mixed)
    ):
        return Verdict(False)
    return _name_of(readings, batch, single)


def _name_of(readings: ReferenceReadings, batch: np.ndarray, single: np.ndarray) -> Verdict:
    """Which fault explains that a batch is answered differently from its rows one by one."""
    record = readings.record
    distance = np.square(batch[:, None] - single[None]).sum(axis=2)
    unexplained = 0.15 * np.trace(distance)
    square = len(batch) == len(readings.live) and readings.live.all()
    if square and np.square((batch * readings.scale).T / readings.scale - single).sum() < unexplained:
        return _TRANSPOSED
    if distance[:, 0].sum() < unexplained:
        return Verdict(
            True,
            "Every row of a batch gets the answer of its first row.",
            "Measure each row of the batch: loop over np.asarray(batch), not over its first entry.",
        )
    if np.square(batch - single.mean(axis=0)).sum() < unexplained:
        return Verdict(
            True,
            "Every row of a batch gets the mean over the batch: the driver averages over rows.",
            "Average over repeats of one row only (axis 1 of the raw data), never over rows.",
        )
    rows, columns = linear_sum_assignment(distance)
    if distance[rows, columns].sum() < unexplained:
        order = ", ".join(map(str, columns))
        return Verdict(
            True,
            f"Rows come back in another order: rows 0 to {len(rows) - 1} got the answers of rows {order}.",
            "Return answers in the order of the rows that were sent.",
        )
    outputs = readings.scaled - readings.scaled.mean(axis=0)
    now = np.eye(readings.n_settings)[record.setting]
    place = np.eye(int(record.place.max()) + 1)[record.place]
    of_setting, _ = _misfit(now, outputs)
    of_both, _ = _misfit(np.hstack([now, place[:, 1:]]), outputs)
    if of_both < 0.25 * of_setting:
        return Verdict(
            True,
            "An answer depends on the place of its row in the call, in the same way in every call: noise that is seeded "
            "anew each time, or an offset that grows along the batch.",
            "Do not seed a generator inside measure; use self.standard_normal(batch, n), or one generator for good.",
        )
    return ANOTHER_ANSWER


ANOTHER_ANSWER = Verdict(
    True,
    "The same setting is answered differently alone, in a batch and in another order.",
    "An answer must depend on its own row only. Look for averages or normalisation over the batch, for rows that are "
    "paired wrongly, for generators that are seeded in every call, and for settings that need longer to settle.",
)
_TRANSPOSED = Verdict(
    True,
    "The outputs are transposed when there are as many rows as outputs.",
    "Do not guess the orientation from the shape: always return (n_rows, n_outputs).",
)


def square_is_transposed(readings: ReferenceReadings, outputs: np.ndarray, setting: np.ndarray) -> Verdict:
    """Whether readings of as many rows as there are outputs fit better when they are turned over."""
    spread = readings.record.outputs.std(axis=0)[readings.live]  # all outputs alike
    spread = np.where(spread > 0, spread, 1.0)
    expected = readings.means[setting] * readings.scale / spread
    as_it_is = np.square(outputs[:, readings.live] / spread - expected).sum()
    turned = np.square(outputs.T[:, readings.live] / spread - expected).sum()
    return _TRANSPOSED if turned < 0.15 * as_it_is else Verdict(False)


def _misfit(design: np.ndarray, outputs: np.ndarray) -> tuple[float, np.ndarray]:
    coefficients = np.linalg.lstsq(design, outputs, rcond=None)[0]
    return float(np.square(outputs - design @ coefficients).sum()), coefficients


def stale_fault(readings: ReferenceReadings) -> Verdict:
    """Whether rows were answered with the answer of the row before: :func:`~skpat.inspection.repeats.count_stale`. A single one
    is no chance either, where none of several outputs has ever read the same twice."""
    outputs, setting = readings.record.outputs[:, readings.live], readings.record.setting
    keys, another = hash_rows(outputs), np.diff(setting) != 0
    first = np.sort(outputs[np.concatenate([[True], keys[1:] != keys[:-1]])], axis=0)
    never_twice = outputs.shape[1] >= _SEVERAL_OUTPUTS and bool(np.diff(first, axis=0).all())
    n_stale = count_stale(keys, another, 1 if never_twice else 2)
    if not n_stale:
        return Verdict(False)
    return Verdict(
        True,
        f"{n_stale} of {len(setting)} rows were answered with the answer of the row before, to the last bit.",
        "An old reading was taken for a new one, a frame that came twice, say. Wait for the new one, or compare its number or "
        "time with the last one's, and raise a TimeoutError where it has not moved.",
    )
