"""The figure of a device's report."""

from __future__ import annotations

from typing import Any

import numpy as np

from skpat.inspection.display_axes import heading, number_ticks

__all__ = ["draw"]


def draw(report: Any) -> Any:
    """Six panels: signal-to-noise, spectrum, linear share, drift, sensitivity, readings.

    Parameters
    ----------
    report : DeviceReport

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ImportError
        Without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('A figure needs matplotlib. Install it with: pip install "skpat[plot]"') from error
    figure = Figure(figsize=(11, 6), layout="constrained")
    figure.suptitle(heading(f"{report.device}: {report.verdict}. {report.reason}", 11), fontsize=10)
    ((a, b, c), (d, e, f)) = figure.subplots(2, 3)
    outputs, silent = np.arange(report.n_outputs), np.isinf(report.snr)
    top = 1.2 * max([2.0, *report.snr[~silent]])
    a.bar(outputs[~silent], report.snr[~silent])
    if silent.any():
        a.bar(outputs[silent], top, color="lightgray", label="infinite: no noise")
        a.legend(fontsize=8, loc="lower left")
    a.axhline(1, color="black", linewidth=0.8, linestyle=":")
    a.set(title="signal-to-noise", xlabel="output", ylabel="response / noise of a reading")
    order = np.arange(1, len(report.spectrum) + 1)
    floor = max(report.spectrum_floor, 1e-12 * max(float(report.spectrum.max()), 1e-300))
    b.semilogy(order, np.maximum(report.spectrum, floor), "o-", markersize=3)
    b.axhline(floor, color="tab:red", linewidth=0.8, label="noise floor")
    b.set(title=f"spectrum of the response (rank {report.effective_rank:.1f})", xlabel="direction", ylabel="variance")
    b.legend(fontsize=8)
    live = np.setdiff1d(outputs, report.dead_outputs)  # a dead one has nothing to explain
    missed = report.nonlinear_shares[live]
    c.bar(live, 1 - missed, color="tab:gray", label="linear")
    c.bar(live, missed, bottom=1 - missed, color="tab:orange", label="missed")
    c.set(title="explained by a linear model", xlabel="output", ylabel="share of the response", ylim=(0, 1.2))
    c.set_yticks(np.linspace(0, 1, 6))
    if len(live):
        c.legend(fontsize=8, loc="upper center", ncols=2)  # above the bars
    d.plot(report.drift_course, "o-", markersize=3)
    if (chance := _by_noise(report, live)) > 0:
        d.axhline(chance, color="tab:red", linewidth=0.8, label="noise alone")
        d.legend(fontsize=8, loc="lower left")
    d.set(
        title=f"references (drift {report.drift:.2g})",
        xlabel="round",
        ylabel="deviation / spread",
        ylim=(0, None),
    )
    e.bar(np.arange(len(report.sensitivity)), report.sensitivity)
    e.set(title="sensitivity", xlabel="group of channels" if report.grouped else "channel", ylabel="change / spread")
    readings = report.readings[:, live] if len(live) else report.readings
    low, spread = readings.min(axis=0), np.ptp(readings, axis=0)
    f.hist(((readings - low) / np.where(spread > 0, spread, 1.0)).ravel(), bins=50)
    f.set(
        title=f"readings ({report.saturation:.0%} stuck)",
        xlabel="place in the output's range",
        ylabel="readings",
        yticks=[],
    )
    for panel, n in ((a, report.n_outputs), (c, report.n_outputs), (e, len(report.sensitivity))):
        panel.set_xlim(-0.7, n - 0.3)
    for panel in (a, b, c, d, e):
        number_ticks(panel.xaxis)
    return figure


def _by_noise(report: Any, live: np.ndarray) -> float:
    """How far noise alone takes references of a round from their mean, in parts of an output's spread."""
    spread = np.hypot(report.signal, report.noise)[live]
    share = np.square(report.noise[live] / np.where(spread > 0, spread, 1.0))
    n_readings = 1 if report.memory else 2  # of each reference in a round, as far as the row before is not in them
    n_rounds = len(report.drift_course)
    return float(np.sqrt(share.mean() / n_readings * (1 - 1 / n_rounds))) if len(live) else 0.0
