"""The result of compare_baselines: a table, what it says in sentences, and a figure."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from textwrap import wrap
from typing import Any

import numpy as np
from scipy.stats import t as student_t

__all__ = ["BaselineComparison", "ComparisonRow"]

_BY_CHANCE = 0.025  # probability of a difference, to one side, where there is none
_OVER = {  # what may add something, the model that has it, and the one without
    "linear": ("The network", "The network", "a linear model ({label})"),  # what is digital in it may do that alone
    "identity": ("The device", "The network with the device", "the same network with the identity in its place"),
    "untrained": ("Training", "The trained network", "the same network untrained, with a fitted linear readout"),
    "in_silico": (*2 * ("The training as it is",), "training in silico, with the readout refitted on the device"),
}


@dataclass(frozen=True)
class ComparisonRow:
    """One estimator of a comparison.

    Attributes
    ----------
    name, label : str
        For ``comparison[name]``, and for people.
    scores : ndarray of shape (n_folds,)
    uses_device : bool
        Whether the device was measured for it. If not, its shots are 0.
    shots : dict of str to int
        Shots of one fit by purpose (calibration, training, validation), mean of the folds.
    n_shots_per_prediction : int
        For each row.
    operations : float or None
        Digital multiply-adds for each predicted row, mean of the folds; None: unknown.
    n_parameters : int or None
        Trained parameters, mean of the folds; None: unknown.
    test_to_train : float
        Rows to test on for each row to train on.
    """

    name: str
    label: str
    scores: np.ndarray = field(repr=False)
    uses_device: bool
    shots: dict[str, int]
    n_shots_per_prediction: int
    operations: float | None
    n_parameters: int | None
    test_to_train: float

    @property
    def mean(self) -> float:
        """Mean score of the folds."""
        return float(self.scores.mean())

    @property
    def standard_error(self) -> float:
        """Of the mean score."""
        return standard_error(self.scores, self.test_to_train)

    @property
    def n_shots_fit(self) -> int:
        """Shots of one fit, all purposes."""
        return sum(self.shots.values())


def standard_error(values: np.ndarray, test_to_train: float) -> float:
    """Standard error of a mean over folds whose training sets overlap (Nadeau and Bengio 2003).

    Parameters
    ----------
    values : ndarray of shape (n_folds,)
    test_to_train : float
        Rows to test on for each row to train on.
    """
    return float(np.sqrt((1 / len(values) + test_to_train) * np.var(values, ddof=1)))


@dataclass(frozen=True)
class BaselineComparison:
    """What :func:`skpat.inspection.compare_baselines` found.

    Attributes
    ----------
    device : str
        Name of the device.
    metric : str
        What was scored; more is better.
    rows : tuple of :class:`ComparisonRow`
        The estimator first. ``comparison["linear"]`` gives the row of that name.
    test_to_train : float
        Rows to test on for each row to train on.
    n_tested : int, default=None
        Rows of all folds, each counted once, where a score is the share of rows that are right. A difference then has at least
        the error that it has where all rows in which the two models differ speak for one of them; None: no such bound.

    Examples
    --------
    >>> import numpy as np
    >>> from skpat.inspection.comparison_report import BaselineComparison, ComparisonRow
    >>> shots = {"calibration": 100, "training": 900, "validation": 0}
    >>> none = dict.fromkeys(shots, 0)
    >>> rows = (
    ...     ComparisonRow("est", "est", np.array([0.8, 0.9]), True, shots, 1, 40, 30, 1.0),
    ...     ComparisonRow("linear", "ridge", np.array([0.8, 0.9]), False, none, 0, 40, 30, 1.0),
    ... )
    >>> comparison = BaselineComparison("my device", "R²", rows, 1.0)
    >>> comparison.difference("linear")
    (0.0, 0.0)
    >>> comparison.sentences
    ('No difference is seen between the network and a linear model (ridge): 0.000 ± 0.000.',)
    """

    device: str
    metric: str
    rows: tuple[ComparisonRow, ...]
    test_to_train: float
    n_tested: int | None = None

    def __getitem__(self, name: str) -> ComparisonRow:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"{name!r} was not compared. Got {', '.join(row.name for row in self.rows)}.")

    def difference(self, name: str) -> tuple[float, float]:
        """The estimator's score less a baseline's, fold by fold: mean and standard error.

        Parameters
        ----------
        name : str

        Returns
        -------
        mean, standard_error : float
        """
        paired = self.rows[0].scores - self[name].scores
        mean, error = float(paired.mean()), standard_error(paired, self.test_to_train)
        if self.n_tested is not None:
            error = max(error, float(np.sqrt(abs(mean) * (1 - min(abs(mean), 1.0)) / self.n_tested)))
        return mean, error

    def adds_over(self, name: str) -> bool:
        """Whether the estimator is better than a baseline beyond chance: Student's t of the paired difference, 2.5 %."""
        return self._beyond_chance(name) > 0

    def _beyond_chance(self, name: str) -> int:
        """1 where the estimator is better than a baseline, -1 where it is worse, 0 where chance may make the difference."""
        mean, error = self.difference(name)
        sure = abs(mean) > max(student_t.isf(_BY_CHANCE, len(self.rows[0].scores) - 1) * error, 1e-12)
        return int(np.sign(mean)) if sure else 0

    @property
    def sentences(self) -> tuple[str, ...]:
        """What the network, the device and its training add over the linear model, the identity, the untrained device and
        training in silico; and which model without a device does better, if one does, beyond chance."""
        said = []
        for row in self.rows[1:]:
            if row.name not in _OVER or row.label == row.name:  # the second: somebody's own, of a dict
                continue
            what, whole, over = _OVER[row.name]
            over = over.format(label=row.label)
            mean, error = self.difference(row.name)
            size = f"{self.number(abs(mean))} ± {self.number(error)}"
            uncertain = f"{len(row.scores)} folds do not make it certain"
            if not np.isfinite(mean):
                said.append(f"Nothing can be said of {whole[0].lower()}{whole[1:]} and {over}: a fold has no score.")
            elif self.adds_over(row.name):
                said.append(f"{what} adds {size} of {self.metric} over {over}.")
            elif self._beyond_chance(row.name) < 0:
                said.append(f"{what} adds nothing over {over}: it is worse by {size}.")
            elif mean > error:
                said.append(f"{what} may add something over {over}: the difference is {size}, but {uncertain}.")
            elif mean < -error:
                said.append(f"{whole} may be worse than {over}: by {size}, but {uncertain}.")
            else:
                difference = f"{self.number(mean)} ± {self.number(error)}"
                said.append(f"No difference is seen between {whole[0].lower()}{whole[1:]} and {over}: {difference}.")
        best = max((row for row in self.rows[1:] if not row.uses_device), key=lambda row: row.mean, default=None)
        if best is not None and best.name not in _OVER and best.label != best.name:
            mean, error = self.difference(best.name)
            if self._beyond_chance(best.name) < 0:
                size = f"{self.number(-mean)} ± {self.number(error)}"
                said.append(f"No device is needed to do better: {best.label} does, by {size} of {self.metric}.")
        return tuple(said)

    @property
    def _title(self) -> str:
        return f"{self.device}: {self.metric} in {len(self.rows[0].scores)} folds, mean ± standard error"

    @property
    def _note(self) -> str:
        return (
            "Difference: the estimator's score less the row's, fold by fold. Shots are those of one fit (calibration, "
            "training, validation) and of one predicted row; a row of no shots does not use the device. Multiply-adds "
            "are the digital ones for one predicted row, parameters the trained numbers."
        )

    _columns = (
        "",
        "score",
        "difference",
        "shots: calibration",
        "training",
        "validation",
        "prediction",
        "multiply-adds",
        "parameters",
    )

    def number(self, value: float) -> str:
        """A score or a difference, with as many digits as a comparison needs."""
        largest = max(float(np.abs(row.scores).max()) for row in self.rows)
        text = f"{value:.3f}" if largest < 10 else f"{value:.4g}"
        return text if float(text) else text.lstrip("-")

    def _cells(self, row: ComparisonRow) -> list[str]:
        number = self.number
        difference = "" if row is self.rows[0] else "{} ± {}".format(*map(number, self.difference(row.name)))
        shots = [f"{count:,}" for count in (*row.shots.values(), row.n_shots_per_prediction)]
        return [
            row.label,
            f"{number(row.mean)} ± {number(row.standard_error)}",
            difference,
            *(shots if row.uses_device else ["no shots", "", "", ""]),
            "unknown" if row.operations is None else f"{row.operations:,.0f}",
            "unknown" if row.n_parameters is None else f"{row.n_parameters:,}",
        ]

    def __str__(self) -> str:
        table = [list(self._columns), *(self._cells(row) for row in self.rows)]
        widths = [max(len(line[i]) for line in table) for i in range(len(self._columns))]
        lines = [
            "  "
            + "  ".join(
                cell.ljust(width) if not i else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in table
        ]
        return "\n".join([self._title, *lines, *self.sentences, *wrap(self._note, 110)])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        left = 'style="text-align:left;padding:0.2em 0.5em"'
        right = 'style="text-align:right;padding:0.2em 0.5em;white-space:nowrap"'
        wrapped = right.replace("nowrap", "normal")
        head = "".join(f"<th {wrapped if i else left}>{escape(name)}</th>" for i, name in enumerate(self._columns))
        body = "".join(
            "<tr>"
            + "".join(f"<td {right if i else left}>{escape(cell)}</td>" for i, cell in enumerate(self._cells(row)))
            + "</tr>"
            for row in self.rows
        )
        said = "".join(f"<li>{escape(sentence)}</li>" for sentence in self.sentences)
        return (
            f"<div><p><b>{escape(self._title)}</b></p><div style='overflow-x:auto'>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
            + (f"<ul>{said}</ul>" if said else "")
            + f"<p>{escape(self._note)}</p></div>"
        )

    def to_pandas(self) -> Any:
        """All numbers, a line for each estimator.

        Returns
        -------
        pandas.DataFrame
            Rows that do not use the device have ``uses_device`` False and 0 shots.

        Raises
        ------
        ImportError
            Without pandas.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("A table needs pandas. Install it with: pip install pandas") from error
        records = []
        for row in self.rows:
            mean, uncertainty = (np.nan, np.nan) if row is self.rows[0] else self.difference(row.name)
            records.append(
                {"estimator": row.name, "label": row.label, "score": row.mean, "score_error": row.standard_error}
                | {"difference": mean, "difference_error": uncertainty, "uses_device": row.uses_device}
                | {f"{purpose}_shots": count for purpose, count in row.shots.items()}
                | {"shots_per_prediction": row.n_shots_per_prediction}
                | {"operations_per_prediction": np.nan if row.operations is None else row.operations}
                | {"trained_parameters": np.nan if row.n_parameters is None else row.n_parameters}
            )
        return pd.DataFrame(records).set_index("estimator")

    def plot(self, ax: Any = None) -> Any:
        """Scores side by side: the folds, their mean and its standard error.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw. None: a new figure.

        Returns
        -------
        matplotlib Axes

        Raises
        ------
        ImportError
            Without matplotlib.
        """
        from skpat.inspection.comparison_figure import draw

        return draw(self, ax)
