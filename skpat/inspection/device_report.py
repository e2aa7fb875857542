"""The report that characterize makes: numbers, a verdict with its reason, text, HTML and a figure."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from html import escape
from typing import Any

import numpy as np

__all__ = ["VERDICTS", "DeviceReport", "brief"]

VERDICTS = ("suitable", "linear", "dead", "saturated", "drifting", "noisy")

MOST_DEAD = 0.5  # share of channels, or of outputs
MOST_SATURATED = 0.35  # share of readings
LEAST_SNR = 0.5
MOST_DRIFT = 0.08  # of the spread of the response, over the run
MOST_DRIFT_TO_NOISE = 1.7
MOST_MEMORY = 0.1
MOST_UNSTEADY = 0.05  # share of the settings
LEAST_NONLINEAR = 0.04  # share of the variance of the response
SURELY_NONLINEAR = 2.5  # standard errors of that share
CLEAR_SNR = 3.0
LEAST_SPREAD = 0.03  # of the outputs' root-mean-square spread: a tenth of what a network's normalisation adds to each


def brief(number: float) -> str:
    """Two digits, and no exponent where plain figures are as short."""
    return f"{number:,.0f}" if 10 <= abs(number) < 1e6 else f"{number:.2g}"


def _first(numbers: np.ndarray) -> str:
    return ", ".join(map(str, numbers[:8])) + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")


@dataclass(frozen=True)
class DeviceReport:
    """What :func:`skpat.characterize` found.

    Attributes
    ----------
    device : str
    n_controls, n_outputs, n_shots : int
    shots_per_second : float or None
        As measured.
    output_units : str
    noise, signal : ndarray of shape (n_outputs,)
        Standard deviation of repeated readings, and of the noise-free response over the settings, in output units.
    snr : ndarray of shape (n_outputs,)
        ``signal / noise``.
    overall_snr : float
        Of all live outputs together, each in units of its spread: one that is nearly all noise counts for as much as any other.
    nonlinear_share : float
        Share of the variance of the noise-free response that a linear model of the controls misses, over all live outputs.
    nonlinear_error : float
        Its standard error by noise.
    nonlinear_shares : ndarray of shape (n_outputs,)
    effective_rank : float
        Participation ratio of the noise-corrected covariance of the outputs (each in units of its spread).
    n_significant : int
        Directions of the response above the noise floor.
    spectrum : ndarray, spectrum_floor : float
        Eigenvalues of that covariance, and the largest that noise alone makes.
    drift : float
        How far reference readings move over the run, in parts of the spread of the response; a steady drift gives the distance
        between first and last.
    drift_to_noise : float
        The same in standard deviations of one reading.
    drift_course : ndarray of shape (n_rounds,)
        Deviation of the references from their mean in each round, in parts of an output's spread. Noise is included.
    memory : float
        How far the row before moves an answer, in parts of the step between the answers of the two: what it leaves in the
        answer, in a setting that has not settled, or elsewhere. 0 if nothing was seen; below 0 where answers move away from it.
    dead_outputs, constant_outputs, dead_channels : ndarray of int
        Outputs that answer to nothing (the constant ones among them), and channels that nothing answers to.
    sensitivity : ndarray
        How much of the outputs' spread a channel (or a group of channels) makes: the root of half their mean square change
        when it alone moves to another place, noise taken off, in parts of the spread. Its square is the total effect of a
        variance-based analysis (Saltelli et al., Comput. Phys. Commun. 181, 259 (2010), doi:10.1016/j.cpc.2009.09.018).
    saturated_shares : ndarray of shape (n_outputs,)
        Share of readings stuck at the lowest or highest value.
    readings : ndarray of shape (n, n_outputs)
        Outputs of settings drawn uniformly, one shot each.
    restrictions : tuple of str
        Why settings did not reach the bounds; empty if they did.
    grouped : bool
        Whether channels were moved in groups: ``dead_channels`` then lists whole groups only, and ``dead_outputs`` may hold
        outputs that answer only to channels of one group which cancel each other.
    untested_channels : ndarray of int
        Channels that showed no effect, and were not tested again: with so much noise the shots do not tell whether
        they are dead.
    still_channels : ndarray of int
        Slow channels, which stood still: nothing is known of them, and their ``sensitivity`` is NaN.
    n_stale : int
        Rows that were answered with the answer of the row before, to the last bit, though the setting was another.
    unsteady_share : float
        Share of the settings that were answered otherwise the second time, at another moment: by more than 0.3 of the response,
        and three times as much as any two readings in a row. Of a state that switches, or of hysteresis.
    """

    device: str
    n_controls: int
    n_outputs: int
    n_shots: int
    shots_per_second: float | None
    output_units: str
    noise: np.ndarray
    signal: np.ndarray
    snr: np.ndarray
    overall_snr: float
    nonlinear_share: float
    nonlinear_shares: np.ndarray
    effective_rank: float
    n_significant: int
    spectrum: np.ndarray
    spectrum_floor: float
    drift: float
    drift_to_noise: float
    drift_course: np.ndarray
    memory: float
    dead_outputs: np.ndarray
    constant_outputs: np.ndarray
    dead_channels: np.ndarray
    sensitivity: np.ndarray
    saturated_shares: np.ndarray
    readings: np.ndarray
    restrictions: tuple[str, ...] = ()
    grouped: bool = False
    untested_channels: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=int))
    nonlinear_error: float = 0.0
    still_channels: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=int))
    n_stale: int = 0
    unsteady_share: float = 0.0

    @property
    def saturation(self) -> float:
        """Share of the live outputs' readings that are stuck at an end."""
        live = np.setdiff1d(np.arange(self.n_outputs), self.constant_outputs)
        return float(self.saturated_shares[live].mean()) if len(live) else 0.0

    @property
    def hidden_outputs(self) -> np.ndarray:
        """Outputs that answer clearly, but change so little beside the others that a network takes them for noise."""
        spread = np.hypot(self.signal, self.noise)
        common = np.sqrt(np.square(spread).mean())
        return np.flatnonzero((self.snr > CLEAR_SNR) & (spread < LEAST_SPREAD * common))

    @property
    def verdict(self) -> str:
        """Exactly one of "suitable", "linear", "dead", "saturated", "drifting", "noisy"."""
        return self._judged[0]

    @property
    def reason(self) -> str:
        """Why, in one sentence."""
        return self._judged[1]

    @property
    def _judged(self) -> tuple[str, str]:
        if len(self.dead_outputs) > MOST_DEAD * self.n_outputs:
            return "dead", f"{len(self.dead_outputs)} of {self.n_outputs} outputs answer to no control."
        if len(self.dead_channels) > MOST_DEAD * self.n_controls:
            return (
                "dead",
                f"{len(self.dead_channels)} of {self.n_controls} control channels have no effect on any output.",
            )
        if self.saturation > MOST_SATURATED:
            return "saturated", f"{self.saturation:.0%} of the readings are stuck at the end of an output's range."
        if self.overall_snr < LEAST_SNR:
            return "noisy", f"The response is only {brief(self.overall_snr)} of the noise of one reading."
        if self.drift > MOST_DRIFT and self.drift_to_noise > MOST_DRIFT_TO_NOISE:
            return "drifting", (
                f"Readings of the same settings moved by {brief(self.drift)} of the response "
                f"({brief(self.drift_to_noise)} times the noise) during the run."
            )
        if abs(self.memory) > MOST_MEMORY:
            moves = f"The row before moves an answer by {self.memory:.0%} of the step between"
            return "drifting", f"{moves}: it has not settled."
        if self.unsteady_share > MOST_UNSTEADY:
            otherwise = (
                f"{self.unsteady_share:.0%} of the settings were answered otherwise the second time, at another moment"
            )
            return "drifting", f"{otherwise}: by a state that switches, or leaps."
        if self.nonlinear_share < LEAST_NONLINEAR:
            explains = f"A linear model of the controls explains {1 - self.nonlinear_share:.1%} of the response"
            seen = (
                f" where it was seen ({'; '.join(self.restrictions)}). Further out nobody looked"
                if self.restrictions
                else ""
            )
            return "linear", f"{explains}{seen}."
        if self.nonlinear_share < SURELY_NONLINEAR * self.nonlinear_error:
            found = f"{self.nonlinear_share:.0%} ± {self.nonlinear_error:.0%}"
            return (
                "linear",
                f"A linear model of the controls misses no more of the response than noise can feign ({found}).",
            )
        noise = f"is {brief(self.overall_snr)} times the noise" if np.isfinite(self.overall_snr) else "has no noise"
        return "suitable", f"A linear model misses {self.nonlinear_share:.0%} of the response, which {noise}."

    @property
    def remarks(self) -> tuple[str, ...]:
        """What else is worth knowing."""
        remarks = [f"Settings did not reach the bounds ({restriction})." for restriction in self.restrictions]
        if len(still := self.still_channels):
            slow = f"{len(still)} slow channel{'s' if len(still) > 1 else ''} of {self.n_controls} stood still"
            remarks.append(f"{slow}; nothing is known of {'them' if len(still) > 1 else 'it'}: {_first(still)}.")
        if self.verdict != "dead" or len(self.dead_outputs) < self.n_outputs:
            for what, dead, n in (
                ("dead channel", self.dead_channels, self.n_controls),
                ("dead output", self.dead_outputs, self.n_outputs),
            ):
                if len(dead):
                    remarks.append(f"{len(dead)} {what}{'s' if len(dead) > 1 else ''} of {n}: {_first(dead)}.")
        if len(hidden := self.hidden_outputs):
            remarks.append(
                f"A network hardly sees {len(hidden)} of {self.n_outputs} outputs, whose changes are clear but far smaller "
                f"than the others': {_first(hidden)}. If they are in other units, let measure divide each by its usual size."
            )
        if len(untested := self.untested_channels):
            remarks.append(
                f"{len(untested)} channel{'s' if len(untested) > 1 else ''} of {self.n_controls} showed no effect; to call "
                f"them dead takes more shots: {_first(untested)}."
            )
        if self.grouped:
            remark = "Channels were moved in groups; single dead channels are not told apart"
            cancel = ", and an output that answers only to differences within a group looks dead"
            remarks.append(f"{remark}{cancel if len(self.dead_outputs) else ''}.")
        if self.saturation > 0.1 and self.verdict != "saturated":
            remarks.append(f"{self.saturation:.0%} of the readings are stuck at the end of an output's range.")
        if abs(self.memory) > 0 and self.verdict != "drifting":
            moves = f"The row before moves an answer by {self.memory:.1%} of the step between"
            remarks.append(f"{moves}: allow more time to settle.")
        if self.n_stale:
            remarks.append(
                f"{self.n_stale:,} rows were answered with the answer of the row before, to the last bit, and count as noise: "
                "wait for a new reading."
            )
        if self.n_significant == 1 and self.n_outputs > 1:
            remarks.append("All outputs say the same: the response has one direction.")
        return tuple(remarks)

    @property
    def _rows(self) -> list[tuple[str, str]]:
        units = f" {self.output_units}" if self.output_units else ""
        speed = "unknown" if self.shots_per_second is None else f"{self.shots_per_second:,.0f}"
        return [
            ("controls, outputs", f"{self.n_controls}, {self.n_outputs}"),
            ("shots", f"{self.n_shots:,}"),
            ("shots per second", speed),
            ("noise (median output)", f"{brief(np.median(self.noise))}{units}"),
            ("response (median output)", f"{brief(np.median(self.signal))}{units}"),
            (
                "signal-to-noise",
                f"{brief(self.overall_snr)} of all outputs together, {brief(np.median(self.snr))} of the median one",
            ),
            ("linear model misses", f"{self.nonlinear_share:.1%}"),
            ("effective rank", f"{self.effective_rank:.1f} ({self.n_significant} directions above the noise)"),
            ("drift", f"{brief(self.drift)} of the response, {brief(self.drift_to_noise)} of the noise"),
            ("memory of the row before", f"{self.memory:.1%}"),
            ("stuck readings", f"{self.saturation:.1%}"),
            ("dead channels, outputs", f"{len(self.dead_channels)}, {len(self.dead_outputs)}"),
        ]

    def __str__(self) -> str:
        lines = [f"{self.device}: {self.verdict}. {self.reason}"]
        lines += [f"  {name:<26}{value}" for name, value in self._rows]
        return "\n".join(lines + [f"  {remark}" for remark in self.remarks])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<tr><th style="text-align:left">{escape(name)}</th><td style="text-align:left">{escape(value)}</td></tr>'
            for name, value in self._rows
        )
        remarks = "".join(f"<li>{escape(remark)}</li>" for remark in self.remarks)
        return (
            f"<div><p><b>{escape(self.device)}: {self.verdict}.</b> {escape(self.reason)}</p>"
            f"<table>{rows}</table>" + (f"<ul>{remarks}</ul>" if remarks else "") + "</div>"
        )

    def to_dict(self) -> dict[str, Any]:
        """All numbers, with the verdict, as plain Python objects; readings are left out.

        Returns
        -------
        dict
        """
        found: dict[str, Any] = {"verdict": self.verdict, "reason": self.reason, "remarks": list(self.remarks)}
        for name in (item.name for item in fields(self) if item.name != "readings"):
            value = getattr(self, name)
            found[name] = value.tolist() if isinstance(value, np.ndarray) else value
        found["restrictions"] = list(self.restrictions)
        return found | {"saturation": self.saturation}

    def plot(self) -> Any:
        """A figure of six panels.

        Returns
        -------
        matplotlib.figure.Figure
            Unknown to pyplot: ``report.plot().savefig("report.png")`` saves it, ``plt.savefig`` an empty one.

        Raises
        ------
        ImportError
            Without matplotlib.
        """
        from skpat.inspection.report_figure import draw

        return draw(self)
