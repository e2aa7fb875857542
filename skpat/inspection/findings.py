"""What a check of a driver found, as text and as HTML."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

__all__ = ["DeviceCheck", "Finding", "listed"]

_MARKS = {"failed": "FAILED ", "warning": "warning", "passed": "passed ", "skipped": "skipped"}
_COLOURS = {"failed": "#b3261e", "warning": "#8a5a00", "passed": "#1b6e3c", "skipped": "#5f6368"}


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes
    ----------
    name : str
        What was checked.
    status : {"passed", "failed", "warning", "skipped"}
    seen : str
        What was seen, in words.
    mend : str
        How to mend it; empty where nothing is wrong.
    """

    name: str
    status: str
    seen: str
    mend: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.seen} {self.mend}".rstrip()


class DeviceCheck:
    """What :func:`skpat.check_device` found.

    Attributes
    ----------
    device : str
        The device's name.
    findings : tuple of Finding
        One for each check, in the order in which they were made.
    n_shots : int
        Shots that were asked of the device.
    noise : float or None
        Standard deviation of repeated readings, in parts of the spread between settings; None if nothing was measured.
    """

    def __init__(self, device: str, findings: Sequence[Finding], n_shots: int = 0, noise: float | None = None):
        self.device = device
        self.findings = tuple(findings)
        self.n_shots = n_shots
        self.noise = noise

    @property
    def passed(self) -> bool:
        """Whether nothing failed. Warnings and skipped checks do not count."""
        return not self.failures

    @property
    def failures(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.status == "failed")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.status == "warning")

    def __getitem__(self, name: str) -> Finding:
        for finding in self.findings:
            if finding.name == name:
                return finding
        raise KeyError(f"There is no check {name!r}. There are: {', '.join(f.name for f in self.findings)}.")

    def __str__(self) -> str:
        lines = [self._headline()]
        width = max((len(finding.name) for finding in self.findings), default=0)
        for finding in self.findings:
            start = f"  {_MARKS[finding.status]}  {finding.name:<{width}}  "
            text = f"{finding.seen} {finding.mend}".rstrip()
            lines.append(textwrap.fill(text, 120, initial_indent=start, subsequent_indent=" " * len(start)))
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)

    def _headline(self) -> str:
        n_failed, n_warned = len(self.failures), len(self.warnings)
        verdict = "keeps the contract of a device" if self.passed else "does not keep the contract of a device"
        counts = [f"{self.n_shots} shots"]
        counts += [f"{n_failed} fault{'s' if n_failed > 1 else ''}"] if n_failed else []
        counts += [f"{n_warned} warning{'s' if n_warned > 1 else ''}"] if n_warned else []
        return f"{self.device} {verdict} ({', '.join(counts)})."

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<tr><td style="color:{_COLOURS[f.status]}"><b>{f.status}</b></td><td>{escape(f.name)}</td>'
            f'<td style="text-align:left">{escape(f.seen)} <i>{escape(f.mend)}</i></td></tr>'
            for f in self.findings
        )
        return f"<div><p><b>{escape(self._headline())}</b></p><table>{rows}</table></div>"


def listed(what: str, numbers: np.ndarray) -> str:
    """The first of some numbered things, in words."""
    shown = ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")
    return f"{what}{'s' if len(numbers) > 1 else ''} {shown}"
