"""The figure of a device's report."""

from __future__ import annotations

from typing import Any

import numpy as np

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
    figure.suptitle(f"{report.device}: {report.verdict}. {report.reason}", fontsize=10)
    ((a, b, c), (d, e, f)) = figure.subplots(2, 3)
    finite = report.snr[np.isfinite(report.snr)]
    top = finite.max() if len(finite) else 1.0
    a.bar(np.arange(report.n_outputs), np.where(np.isfinite(report.snr), report.snr, top))
    a.axhline(1, color="black", linewidth=0.8, linestyle=":")
    a.set(title="signal-to-noise", xlabel="output")
    order = np.arange(1, len(report.spectrum) + 1)
    floor = max(report.spectrum_floor, 1e-12 * max(float(report.spectrum.max()), 1e-300))
    b.semilogy(order, np.maximum(report.spectrum, floor), "o-", markersize=3)
    b.axhline(floor, color="tab:red", linewidth=0.8, label="noise floor")
    b.set(title=f"spectrum of the response (rank {report.effective_rank:.1f})", xlabel="direction")
    b.legend(fontsize=8)
    c.bar(np.arange(report.n_outputs), 1 - report.nonlinear_shares, color="tab:gray", label="linear")
    c.bar(
        np.arange(report.n_outputs),
        report.nonlinear_shares,
        bottom=1 - report.nonlinear_shares,
        color="tab:orange",
        label="missed",
    )
    c.set(title="explained by a linear model", xlabel="output", ylim=(0, 1))
    c.legend(fontsize=8)
    d.plot(report.drift_course, "o-", markersize=3)
    d.set(title="references: deviation from their mean", xlabel="round", ylim=(0, None))
    e.bar(np.arange(len(report.sensitivity)), report.sensitivity)
    e.set(title="sensitivity", xlabel="group of channels" if report.grouped else "channel")
    low, spread = report.readings.min(axis=0), np.ptp(report.readings, axis=0)
    f.hist(((report.readings - low) / np.where(spread > 0, spread, 1.0)).ravel(), bins=50)
    f.set(title=f"readings ({report.saturation:.0%} stuck)", xlabel="place in the output's range", yticks=[])
    return figure
