"""A report's verdict follows from its numbers: where each limit lies, and which of several faults is named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from skpat.inspection import DeviceReport

N = 10


def report(**numbers: Any) -> DeviceReport:
    """Of ten channels and ten outputs, suitable but for the numbers that are given."""
    none, ones = np.empty(0, dtype=int), np.ones(N)
    suitable: dict[str, Any] = {
        "device": "rig", "n_controls": N, "n_outputs": N, "n_shots": 2000, "shots_per_second": None, "output_units": "",
        "noise": 0.1 * ones, "signal": ones, "snr": 10 * ones, "overall_snr": 10.0, "nonlinear_share": 0.3,
        "nonlinear_shares": 0.3 * ones, "effective_rank": 5.0, "n_significant": 5, "spectrum": ones, "spectrum_floor": 0.01,
        "drift": 0.0, "drift_to_noise": 0.0, "drift_course": np.zeros(12), "memory": 0.0, "dead_outputs": none,
        "constant_outputs": none, "dead_channels": none, "sensitivity": ones, "saturated_shares": np.zeros(N),
        "readings": np.zeros((3, N)),
    }  # fmt: skip
    return DeviceReport(**(suitable | numbers))


FAULTS: dict[str, dict[str, Any]] = {  # in the order of precedence
    "dead": {"dead_outputs": np.arange(6)},
    "saturated": {"saturated_shares": np.full(N, 0.36)},
    "noisy": {"overall_snr": 0.49},
    "drifting": {"drift": 0.09, "drift_to_noise": 1.8},
    "linear": {"nonlinear_share": 0.039},
}


@pytest.mark.parametrize(
    ("numbers", "verdict"),
    [
        *((numbers, verdict) for verdict, numbers in FAULTS.items()),
        ({"dead_channels": np.arange(6)}, "dead"),
        ({"memory": 0.11}, "drifting"),
        ({"memory": -0.11}, "drifting"),
        ({"nonlinear_share": 0.2, "nonlinear_error": 0.085}, "linear"),
        ({"saturated_shares": np.r_[np.full(5, 0.7), np.zeros(5)], "constant_outputs": np.arange(9, 10)}, "saturated"),
        # just short of it
        ({"dead_outputs": np.arange(5)}, "suitable"),
        ({"dead_channels": np.arange(5)}, "suitable"),
        ({"saturated_shares": np.full(N, 0.34)}, "suitable"),
        ({"saturated_shares": np.r_[np.full(5, 0.69), np.zeros(5)]}, "suitable"),
        ({"overall_snr": 0.51}, "suitable"),
        ({"drift": 0.07, "drift_to_noise": 5.0}, "suitable"),
        ({"drift": 0.5, "drift_to_noise": 1.6}, "suitable"),
        ({"memory": 0.09}, "suitable"),
        ({"nonlinear_share": 0.041}, "suitable"),
        ({"nonlinear_share": 0.2, "nonlinear_error": 0.075}, "suitable"),
    ],
)
def test_where_the_limits_of_the_verdicts_are(numbers: dict[str, Any], verdict: str) -> None:
    assert report(**numbers).verdict == verdict


@pytest.mark.parametrize("n_mended", range(len(FAULTS) + 1))
def test_the_first_of_several_faults_is_the_verdict(n_mended: int) -> None:
    left = list(FAULTS)[n_mended:]
    found = report(**{name: value for verdict in left for name, value in FAULTS[verdict].items()})
    assert found.verdict == [*left, "suitable"][0]


def test_a_device_that_was_seen_in_part_is_linear_there_only() -> None:
    assert report(nonlinear_share=0.001).reason.endswith("explains 99.9% of the response.")
    partly = report(
        nonlinear_share=0.001, restrictions=("max_change: settings stay within 12% of the range of a channel",)
    )
    assert partly.verdict == "linear"
    assert (
        "where it was seen (max_change: settings stay within 12% of the range of a channel). Further out"
        in partly.reason
    )
