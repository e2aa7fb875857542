"""What two passes over the same settings, references in the course of the run, and moved channels say about a device."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from scipy.stats import f as f_distribution

from skpat.inspection.device_report import DeviceReport
from skpat.inspection.repeats import Settling, settling, trace_and_squares

__all__ = ["Readings", "silent_units", "summarize"]

_CERTAIN = 4.0  # standard deviations: a collective effect
_ALONE = 5.0  # of one channel on one output, among thousands
_BY_CHANCE = 2e-4  # probability of a drift where there is none
_SURELY_CARRIED = 6.0  # standard errors
_BEYOND_NOISE = 3.0  # times a difference of two readings in a row
_FAR_APART = 0.3  # of the response
_MOSTLY = 0.75
_MOST_OUTPUTS = 512  # whose covariance is computed
_MOST_OF_PRODUCTS = 3.0  # of the variance that noise alone makes


@dataclass
class Readings:
    """All outputs, in the device's units.

    Attributes
    ----------
    references : ndarray of shape (n_rounds, n_references, 2, n_outputs)
        Reference settings, twice in a row in every round.
    places : ndarray of shape (n_probes, n_units)
        Settings, from -1 to 1.
    first, second : ndarray of shape (n_probes, n_outputs)
        Both passes.
    rounds : ndarray of int, shape (2, n_probes)
        When each was measured.
    before : ndarray of int, shape (2, n_probes)
        The setting measured before it; -1 if that is none of them.
    moved : ndarray of int, shape (n_pairs,)
        The unit that moves in each pair.
    pairs : ndarray of shape (n_pairs, 2, n_outputs)
    silent_groups : list of ndarray of int
        Units that, moved together, had no effect.
    untested : ndarray of int
        Units without an effect so far, for whose test the shots did not do.
    n_stale : int
        Rows that were answered with the answer of the row before.
    suspects : ndarray of int, shape (n,)
        Unsteady settings that were measured again, twice in a row.
    suspected : ndarray of shape (n, 2, n_outputs)
    """

    references: np.ndarray
    places: np.ndarray
    first: np.ndarray
    second: np.ndarray
    rounds: np.ndarray
    before: np.ndarray
    moved: np.ndarray
    pairs: np.ndarray
    silent_groups: list[np.ndarray] = field(default_factory=list)
    untested: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=int))
    n_stale: int = 0
    suspects: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=int))
    suspected: np.ndarray = field(default_factory=lambda: np.empty((0, 2, 0)))

    @cached_property
    def scale(self) -> np.ndarray:
        """Standard deviation of each output's readings; 1 for constant ones."""
        everything = np.concatenate([self.first, self.second])
        spread = everything.std(axis=0)
        rounding = 1e-12 * np.abs(everything).max(axis=0)
        return np.where(spread > rounding, spread, 1.0)

    @cached_property
    def constant(self) -> np.ndarray:
        """Outputs that never changed but for rounding."""
        everything = np.concatenate([self.first, self.second])
        return everything.std(axis=0) <= 1e-12 * np.abs(everything).max(axis=0)

    @cached_property
    def reference_differences(self) -> np.ndarray:
        """Second less first reading of a reference, in units of the outputs' spread; (n, n_outputs)."""
        difference = (self.references[:, :, 1] - self.references[:, :, 0]) / self.scale
        return difference.reshape(-1, difference.shape[2])

    @cached_property
    def settling(self) -> Settling:
        """What the references say about the row before; that of the first one is another in every round."""
        readings = self.references.copy()
        readings[:, 0, 0] = np.nan
        return settling(readings)

    @cached_property
    def noise(self) -> np.ndarray:
        """Variance of one reading of each output, divided by the square of its spread: from the references alone."""
        if self.settling.share > 0:
            return self.settling.noise / np.square(self.scale)
        return np.square(self.reference_differences).mean(axis=0) / 2

    @cached_property
    def reference_means(self) -> np.ndarray:
        """Level of the references in every round (n_rounds, n_kept, n_outputs), in units of the outputs' spread.

        Where the row before is in an answer: second readings alone, and not of the first reference, which comes after another
        row in every round.
        """
        first = 1 if self.settling.share > 0 else 0
        return self.references[:, first:, first:].mean(axis=2) / self.scale

    @cached_property
    def passes(self) -> np.ndarray:
        """Both passes (2, n_probes, n_outputs), centred, in units of the spread, less the common drift."""
        outputs = np.stack([self.first, self.second]) / self.scale
        if self.drift_variance > 0:
            level = self.reference_means.mean(axis=1)
            outputs = outputs - (level - level.mean(axis=0))[self.rounds]
        return outputs - outputs.mean(axis=1, keepdims=True)

    @cached_property
    def apart(self) -> np.ndarray:
        """How far the answers of the two passes to each setting lie apart, in units of the outputs' spread: (n_probes,)."""
        change = (self.passes[0] - self.passes[1])[:, ~self.dead_outputs]
        if not change.size:
            return np.zeros(len(self.places))
        return np.sqrt(np.square(change - np.median(change, axis=0)).mean(axis=1))

    @cached_property
    def is_unsteady(self) -> np.ndarray:
        """Settings whose answers lie apart as no two readings of a reference in a row do, and far: (n_probes,)."""
        live = ~self.dead_outputs
        size = float(np.sqrt(self.signal[live].mean())) if live.any() else 0.0
        in_a_row = np.sqrt(np.square(self.reference_differences[:, live]).mean(axis=1)).max() if live.any() else 0.0
        return (self.apart > max(_BEYOND_NOISE * in_a_row, _FAR_APART * size)) & (size > 0)

    @property
    def unsteady_share(self) -> float:
        """Share of such settings; 0 unless some were measured again, twice in a row, and agreed: then it is no noise."""
        if not len(self.suspects):
            return 0.0
        again = (self.suspected[:, 1] - self.suspected[:, 0])[:, ~self.dead_outputs] / self.scale[~self.dead_outputs]
        agree = np.sqrt(np.square(again).mean(axis=1)) * _BEYOND_NOISE < self.apart[self.suspects]
        return float(self.is_unsteady.mean()) if agree.mean() > _MOSTLY else 0.0

    @cached_property
    def drift_variance(self) -> float:
        """Variance of a reference between rounds beyond the noise, averaged over outputs, in units of their spread.

        0 if chance alone would make as much, both in the mean of all references and in each: a drift may move all of them
        alike, or each in its own way.
        """
        live = ~self.constant
        if not live.any():
            return 0.0
        means = self.reference_means
        n_rounds, n_references = means.shape[:2]
        noise = float(self.noise[live].mean()) * (2 if self.settling.share > 0 else 1)  # of fewer readings
        each, together = self._n_independent
        found = 0.0
        for moving, n_averaged, independent in (
            (means.mean(axis=1, keepdims=True), n_references, together),
            (means, 1, each),
        ):
            chance = noise / (2 * n_averaged)
            variance = float(moving.var(axis=0, ddof=1).mean(axis=0)[live].mean()) - chance
            ratio = f_distribution.isf(_BY_CHANCE, independent * (n_rounds - 1), each * n_rounds)
            if found or variance > max(chance * (ratio - 1), 1e-12):
                found = max(found, variance)
        return found

    @property
    def _n_independent(self) -> tuple[float, float]:
        """Effective number of independent readings (Satterthwaite), per round.

        With C the covariance of the noise between outputs it is trace(C)^2 / trace(C^2). First of all references and outputs
        together, then of the outputs of the references' mean; the latter is 1 where all outputs share their noise.
        """
        differences = ((self.references[:, :, 1] - self.references[:, :, 0]) / self.scale)[:, :, ~self.constant]
        n, n_references, k = differences.shape
        of_references = [differences[:, reference] for reference in range(n_references)]
        found = []
        for groups in (of_references, [differences.reshape(n * n_references, k)]):
            totals, squares = [], []
            for group in groups:
                trace, square = trace_and_squares(group, len(group))
                totals.append(trace)
                squares.append(square)
            found.append(sum(totals) ** 2 / sum(squares) if sum(squares) else 1.0)
        return found[0], found[1]

    def effect(self, pairs: np.ndarray) -> float:
        """How many standard deviations the mean squared change of pairs (n, 2, n_outputs) lies above that of repeats."""
        live = self._noisy
        quiet = ~self.constant & ~live
        change = (pairs[:, 1] - pairs[:, 0]) / self.scale
        if np.abs(change[:, quiet]).max(initial=0.0) > 1e-10:
            return np.inf
        if not live.any():
            return 0.0
        repeats = self._repeats
        squares = (np.square(change[:, live]) / self.noise[live]).mean(axis=1)
        return float((squares.mean() - repeats.mean()) / (repeats.std() / np.sqrt(len(squares)) + 1e-12))

    def pairs_to_see(self, share: float) -> float:
        """How many pairs show an effect that makes a share of the response's variance; infinite where there is none."""
        live = self._noisy
        if not live.all() and not (self.constant | live).all():
            return 1.0  # an output without noise shows everything
        excess = 2 * share * float((self.signal[live] / self.noise[live]).mean()) if live.any() else 0.0
        return (2 * _CERTAIN * float(self._repeats.std()) / excess) ** 2 if excess > 0 else np.inf

    @cached_property
    def signal(self) -> np.ndarray:
        """Variance of each output's noise-free response, in units of its spread."""
        covariance = (self.passes[0] * self.passes[1]).sum(axis=0) / (len(self.places) - 1)
        return np.where(self.constant, 0.0, np.maximum(covariance, 0.0))

    @cached_property
    def _noisy(self) -> np.ndarray:
        return ~self.constant & (self.noise > 0)

    @cached_property
    def _repeats(self) -> np.ndarray:
        """Mean squared difference of two readings of a setting, in noise variances of one."""
        return (np.square(self.reference_differences[:, self._noisy]) / self.noise[self._noisy]).mean(axis=1)

    @cached_property
    def linear(self) -> dict[str, np.ndarray]:
        """Least squares on the places: residuals of both passes, t-values (n_units, n_outputs), F and its probability."""
        n, q = self.places.shape
        design = np.hstack([np.ones((n, 1)), self.places])
        basis, triangle = np.linalg.qr(design)
        mean = self.passes.mean(axis=0)
        coefficients = np.linalg.lstsq(triangle, basis.T @ mean, rcond=None)[0]
        residual = mean - design @ coefficients
        n_left = max(n - q - 1, 1)
        variance = np.square(residual).sum(axis=0) / n_left
        inverse = np.linalg.pinv(triangle)
        spread = np.sqrt(np.square(inverse).sum(axis=1)[1:, None] * np.maximum(variance, 1e-24))
        explained = np.square(mean).sum(axis=0) - np.square(residual).sum(axis=0)
        ratio = explained / q / np.maximum(variance, 1e-24)
        residuals = self.passes - basis @ (basis.T @ self.passes)
        return {
            "residuals": residuals,
            "t": coefficients[1:] / spread,
            "coefficients": coefficients[1:],
            "probability": f_distribution.sf(ratio, q, n_left),
            "excess": (ratio - 1) * np.sqrt(q / 2) / np.sqrt(1 + q / n_left),
            "missed": (residuals[0] * residuals[1]).sum(axis=0) / n_left,
        }

    @cached_property
    def covariance_excess(self) -> np.ndarray:
        """Agreement of the two passes of each output, in standard deviations of chance."""
        first, second = self.passes
        norm = np.linalg.norm(first, axis=0) * np.linalg.norm(second, axis=0)
        return np.sqrt(len(first)) * (first * second).sum(axis=0) / np.where(norm > 0, norm, 1.0)

    @cached_property
    def reference_excess(self) -> np.ndarray:
        """How far the references of each output lie apart, in standard deviations of chance (of few degrees of freedom)."""
        n_rounds, n_references = self.references.shape[:2]
        means = self.references.mean(axis=(0, 2)) / self.scale
        ratio = means.var(axis=0, ddof=1) * 2 * n_rounds / np.maximum(self.noise, 1e-24)
        return (ratio - 1) * np.sqrt((n_references - 1) / 2)

    @cached_property
    def n_effective(self) -> float:
        """Sum of the squared correlations between outputs, per output: 1 where they are independent."""
        kept = np.flatnonzero(~self.constant)[:_MOST_OUTPUTS]
        if not len(kept):
            return 1.0
        correlation = np.corrcoef(
            self.linear["residuals"][0][:, kept] - self.linear["residuals"][1][:, kept], rowvar=False
        )
        return float(np.square(np.nan_to_num(np.atleast_2d(correlation))).sum() / len(kept)) or 1.0

    @cached_property
    def dead_outputs(self) -> np.ndarray:
        """Outputs that answer to no control: constant, or indistinguishable from noise alone and together."""
        found = (self.covariance_excess > _ALONE) | (self.linear["probability"] < 1e-5)
        unsure = ~found & ~self.constant
        if unsure.any():
            together = np.sqrt(unsure.sum() * max(self.n_effective, 1.0))
            passes, linear, references = (
                excess[unsure].sum() / together
                for excess in (self.covariance_excess, self.linear["excess"], self.reference_excess)
            )
            if max(passes, linear, (passes + references) / np.sqrt(2), references - 1) > _CERTAIN:
                unsure[:] = False
        return self.constant | unsure

    @cached_property
    def unit_is_found(self) -> np.ndarray:
        """Units with an effect of their own that is beyond doubt."""
        n_units = self.places.shape[1]
        live = ~self.constant
        found = np.zeros(n_units, dtype=bool)
        if not live.any():
            return found
        level = _ALONE if n_units * live.sum() < 1e5 else _ALONE + 1
        found |= (np.abs(self.linear["t"][:, live]) > level).any(axis=1)
        squares = np.square(self.places)
        squares = squares - squares.mean(axis=0)
        residual = self.linear["residuals"].mean(axis=0)[:, live]
        norms = np.linalg.norm(squares, axis=0)[:, None] * np.linalg.norm(residual, axis=0)
        correlation = squares.T @ residual / np.where(norms > 0, norms, 1.0)
        found |= (np.abs(correlation) * np.sqrt(len(squares)) > level).any(axis=1)
        for unit in np.flatnonzero(~found):
            pairs = self.pairs[self.moved == unit]
            found[unit] = len(pairs) > 0 and self.effect(pairs) > _ALONE
        return found


def silent_units(readings: Readings) -> np.ndarray:
    """Units in which no effect was found so far."""
    return np.flatnonzero(~readings.unit_is_found)


def _error_of_missed(readings: Readings, chosen: np.ndarray) -> float:
    """What noise alone makes of the part that a linear model misses, mean of some outputs: its standard deviation.

    The part is a sum over settings of products of two passes, each with noise of its own: the squares of the products are its
    variance, if there is nothing but noise. What the response adds to them must not count. So they count up to three times what
    the differences of the two passes, in which it is not, tell of the noise (see :func:`_noise_of_products`).
    """
    first, second = readings.linear["residuals"][:, :, chosen]
    n, q = readings.places.shape
    n_left, n_outputs = max(n - q - 1, 1), int(chosen.sum())
    if not n_outputs:
        return 0.0
    of_products = float(np.square((first * second).mean(axis=1)).sum())
    some = np.linspace(0, n_outputs - 1, min(n_outputs, _MOST_OUTPUTS)).astype(int)
    of_noise = _noise_of_products((first - second)[:, some], n_outputs, n_left) * n / n_left
    return float(np.sqrt(min(of_products, _MOST_OF_PRODUCTS * of_noise)) / n_left)


def _noise_of_products(difference: np.ndarray, n_outputs: int, n_left: int) -> float:
    """What noise makes of the sum over settings of squared products of two passes, each the mean of ``n_outputs`` outputs.

    With a covariance C of the noise between k outputs at one setting it is the sum of the squares of C, over k squared, and
    settings add up. The noise may be larger at some settings than at others: where the correlation of two outputs is r, the
    squares of their differences d between the passes have a product of 4 C^2 (1 + 2 r^2) / r^2 on average.

    Parameters
    ----------
    difference : ndarray of shape (n_settings, k)
        Of all outputs, or of some of them.
    n_outputs, n_left : int
        Of all outputs; degrees of freedom.
    """
    n_some = difference.shape[1]
    squares = np.square(difference)
    norm = np.linalg.norm(difference, axis=0)
    direction = difference / np.where(norm > 0, norm, 1.0)
    r_squared = np.square(direction.T @ direction)
    without_chance = (r_squared - 1 / n_left) / max(1 - 1 / n_left, 0.5)
    single = float(np.square(squares).sum()) / 12
    total = float((without_chance / (1 + 2 * r_squared) * (squares.T @ squares)).sum()) / 4
    of_pairs = max(total - single, 0.0) * (n_outputs - 1) / max(n_some - 1, 1)
    return (single + of_pairs) / (n_some * n_outputs)


def summarize(readings: Readings, about: dict[str, Any]) -> DeviceReport:
    """The numbers of a report."""
    live = ~readings.dead_outputs
    noise = readings.noise
    signal = readings.signal
    missed = np.clip(readings.linear["missed"], 0.0, None)
    of_live = live if live.any() else ~readings.constant
    total_signal = float(signal[of_live].mean()) if of_live.any() else 0.0
    total_noise = float(noise[of_live].mean()) if of_live.any() else 0.0
    total_missed = float(readings.linear["missed"][of_live].mean()) if of_live.any() else 0.0
    missed_error = _error_of_missed(readings, of_live)
    dead_units = np.concatenate(readings.silent_groups) if readings.silent_groups else np.empty(0, dtype=int)
    rank, significant, spectrum, floor = _rank(readings, of_live)
    with np.errstate(divide="ignore", invalid="ignore"):
        snr = np.where(noise > 0, np.sqrt(signal / noise), np.where(signal > 0, np.inf, 0.0))
    means = readings.reference_means
    deviation = means - means.mean(axis=0)
    changes = (readings.pairs[:, 1] - readings.pairs[:, 0]) / readings.scale
    squares = np.square(changes[:, of_live]).mean(axis=1) / 2 - total_noise if of_live.any() else np.zeros(len(changes))
    counts = np.maximum(np.bincount(readings.moved, minlength=readings.places.shape[1]), 1)
    sensitivity = np.bincount(readings.moved, weights=squares, minlength=readings.places.shape[1]) / counts
    unit_of = about["unit_of"]
    grouped = bool(readings.places.shape[1] < (unit_of >= 0).sum())
    if not grouped:  # channels that stood still have none
        sensitivity = np.where(unit_of >= 0, sensitivity[unit_of], np.nan)
    return DeviceReport(
        device=about["device"],
        n_controls=about["n_controls"],
        n_outputs=about["n_outputs"],
        n_shots=about["n_shots"],
        shots_per_second=about["shots_per_second"],
        output_units=about["output_units"],
        noise=np.sqrt(noise) * readings.scale,
        signal=np.sqrt(signal) * readings.scale,
        snr=snr,
        overall_snr=float(np.sqrt(total_signal / total_noise))
        if total_noise > 0
        else (np.inf if total_signal else 0.0),
        nonlinear_share=float(np.clip(total_missed / total_signal, 0, 1)) if total_signal > 0 else 0.0,
        nonlinear_error=missed_error / total_signal if total_signal > 0 else 0.0,
        nonlinear_shares=np.clip(missed / np.where(signal > 0, signal, 1.0), 0, 1),
        effective_rank=rank,
        n_significant=significant,
        spectrum=spectrum,
        spectrum_floor=floor,
        drift=_ratio(np.sqrt(12 * max(readings.drift_variance, 0.0)), np.sqrt(total_signal)),
        drift_to_noise=_ratio(np.sqrt(12 * max(readings.drift_variance, 0.0)), np.sqrt(total_noise)),
        drift_course=np.sqrt(np.square(deviation[:, :, of_live]).mean(axis=(1, 2)))
        if of_live.any()
        else np.zeros(len(deviation)),
        memory=_memory(readings, of_live),
        dead_outputs=np.flatnonzero(readings.dead_outputs),
        constant_outputs=np.flatnonzero(readings.constant),
        dead_channels=np.flatnonzero(np.isin(unit_of, dead_units)),
        untested_channels=np.flatnonzero(np.isin(unit_of, readings.untested)),
        sensitivity=np.sqrt(np.maximum(sensitivity, 0.0)),
        saturated_shares=saturated_shares(readings, about["output_range"]),
        readings=readings.first,
        restrictions=tuple(about["restrictions"]),
        still_channels=np.asarray(about.get("still", ()), dtype=int),
        grouped=grouped,
        n_stale=readings.n_stale,
        unsteady_share=readings.unsteady_share,
    )


def _ratio(value: float, unit: float) -> float:
    return float(value / unit) if unit > 0 else (float("inf") if value > 1e-9 else 0.0)


def _memory(readings: Readings, live: np.ndarray) -> float:
    """How far the row before moves an answer, in parts of the step between the two; 0 if nothing is certain.

    Negative where it moves away. What answers carry over shows most clearly in the two passes, other states in the references.
    """
    carried = _carried(readings, live)
    return carried if abs(carried) >= readings.settling.share else readings.settling.share


def _carried(readings: Readings, live: np.ndarray) -> float:
    """Share of the answer before that is in an answer; 0 if that is not certain.

    The two readings of a setting differ by noise, and by what the two settings measured before them left behind.
    """
    known = (readings.before >= 0).all(axis=0)
    if not live.any() or not known.any():
        return 0.0
    mean = readings.passes.mean(axis=0)[:, live]
    left = mean[readings.before[0, known]] - mean[readings.before[1, known]]
    change = (readings.passes[0] - readings.passes[1])[:, live][known]
    norm = np.square(left).sum()
    if norm <= 0:
        return 0.0
    share = float((change * left).sum() / norm)
    error = float(np.sqrt(np.square(((change - share * left) * left).sum(axis=1)).sum()) / norm)
    return share if abs(share) > _SURELY_CARRIED * max(error, 1e-9) else 0.0


def _rank(readings: Readings, live: np.ndarray) -> tuple[float, int, np.ndarray, float]:
    """Participation ratio, number of significant directions, singular spectrum and its noise floor.

    The covariance of the signal is that between the two passes; pairing settings wrongly shows what chance does to it.
    """
    kept = np.flatnonzero(live)[:_MOST_OUTPUTS]
    if not len(kept):
        return 0.0, 0, np.zeros(1), 0.0
    first, second = readings.passes[:, :, kept]
    n = len(first)

    def spectrum_of(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        cross = one.T @ other / n
        return np.linalg.eigvalsh((cross + cross.T) / 2)[::-1]

    spectrum = spectrum_of(first, second)
    if readings.noise[kept].max() > 0:
        half = (first - second) / 2
        floor = (
            max(float(np.abs(spectrum_of(half, np.roll(half, shift, axis=0))).max()) for shift in (1, 7, n // 2)) * 2
        )
    else:
        floor = 0.0
    floor = max(floor, 1e-10 * float(spectrum[0]))
    positive = spectrum[spectrum > floor]
    rank = float(positive.sum() ** 2 / np.square(positive).sum()) if len(positive) else 0.0
    return rank, len(positive), np.maximum(spectrum, 0.0), floor


def saturated_shares(readings: Readings, output_range: Any) -> np.ndarray:
    """Share of each output's readings that are stuck at its lowest or highest value.

    Readings pile up there: many more at the end itself, within the noise, than just beside it.

    Returns
    -------
    ndarray of shape (n_outputs,)
    """
    outputs = np.concatenate([readings.first, readings.second])
    shares = np.zeros(outputs.shape[1])
    for i, values in enumerate(outputs.T):
        if output_range is not None:
            shares[i] = np.mean((values <= output_range[0]) | (values >= output_range[1]))
        if not readings.constant[i]:
            shares[i] = max(shares[i], _piled_up(values) + _piled_up(-values))
    return shares


def _piled_up(values: np.ndarray) -> float:
    """Share of values that are stuck at the lowest one; values of two passes, one after the other."""
    levels = np.unique(values)
    if len(levels) < 3:
        return 0.0
    lowest, span = levels[0], levels[-1] - levels[0]
    exact = float(np.mean(values == lowest))
    if exact > 0.02:  # a limit of the instrument itself; beside it lie the next level and all within a few percent
        beside = np.mean((values > lowest) & (values <= max(levels[1], lowest + 0.03 * span)))
        if exact > 8 * beside:
            return exact
    first, second = np.split(values, 2)
    near = first <= lowest + span / 8
    sigma = (
        float(np.median(np.abs(first - second)[near])) / 0.954 if near.any() else 0.0
    )  # 0.954: of two normal readings
    width = max(6 * sigma, 0.01 * span, 3 * span / len(levels))
    if width > span / 8:
        return 0.0
    at_end = float(np.mean(values <= lowest + width))
    beside = float(np.mean((values > lowest + width) & (values <= lowest + 2 * width)))
    return at_end if at_end > 0.05 and at_end > 5 * beside else 0.0
