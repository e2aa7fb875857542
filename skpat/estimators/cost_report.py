"""What a prediction and the training cost, in joules and seconds, and where each figure comes from."""

from __future__ import annotations

import time
from dataclasses import dataclass
from html import escape
from numbers import Real
from textwrap import wrap
from typing import Any

import numpy as np
from sklearn.base import is_classifier
from sklearn.utils.validation import check_is_fitted, validate_data

from skpat.devices.specification import device_name
from skpat.estimators.digital_equivalent import find_equivalent, make_folds
from skpat.network.operations import count_operations
from skpat.value_checks import is_number

__all__ = ["CostReport", "CostRow", "Costed"]

MEASURED, SPECIFIED, ASSUMED, UNKNOWN = "measured", "device's specification", "assumed", "unknown"
_WIDTHS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256)  # of the hidden layer of a digital equivalent; 0: a linear model
_BACKWARD_TOO = 3  # operations of a training step for each of a forward pass
_COLUMNS = ("", "shots or operations", "joules", "seconds", "source")


@dataclass(frozen=True)
class CostRow:
    """One figure of a report.

    Attributes
    ----------
    name : str
        For ``report[name]``, and for people.
    count : float or None
        Shots of the device, conversions, or digital multiply-adds.
    unit : str
        Which of these.
    joules, seconds : float or None
        None: unknown.
    source : str
        "measured", "device's specification", "assumed" or "unknown", for the joules and seconds; and why.
    """

    name: str
    count: float | None
    unit: str
    joules: float | None
    seconds: float | None
    source: str


@dataclass(frozen=True)
class CostReport:
    """What :meth:`skpat.PhysicalNetworkClassifier.cost_report` found.

    Attributes
    ----------
    device : str
        Its name.
    prediction, training : tuple of :class:`CostRow`
        Per predicted row; and of the whole training, shots that a journal answered included.
    digital : CostRow or None
        The smallest perceptron of the same score, per predicted row; None: see ``sentences``.
    digital_width : int or None
        Its hidden units; 0: a linear model is enough.
    n_break_even : float or None
        Predictions after which device and training have taken less energy than that perceptron; infinite where the device
        takes more in each. None: unknown.
    sentences : tuple of str
    notes : tuple of str
        What was assumed.
    """

    device: str
    prediction: tuple[CostRow, ...]
    training: tuple[CostRow, ...]
    digital: CostRow | None
    digital_width: int | None
    n_break_even: float | None
    sentences: tuple[str, ...]
    notes: tuple[str, ...]

    def __getitem__(self, name: str) -> CostRow:
        for row in self._rows:
            if row.name == name:
                return row
        raise KeyError(f"{name!r} is no row of this report. Got {', '.join(row.name for row in self._rows)}.")

    @property
    def _rows(self) -> tuple[CostRow, ...]:
        return (*self.prediction, *self.training, *(() if self.digital is None else (self.digital,)))

    @property
    def _title(self) -> str:
        return f"{self.device}: cost of one prediction, and of the training"

    @staticmethod
    def _cells(row: CostRow) -> list[str]:
        count = "" if row.count is None else f"{row.count:,.0f} {row.unit}"
        return [row.name, count, _amount(row.joules, "J"), _amount(row.seconds, "s"), row.source]

    def __str__(self) -> str:
        table = [list(_COLUMNS), *map(self._cells, self._rows)]
        widths = [max(len(line[i]) for line in table) for i in range(len(_COLUMNS))]
        left = (0, len(_COLUMNS) - 1)
        lines = [
            "  " + "  ".join(c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
            for line in table
        ]  # fmt: skip
        said = [line for text in (*self.sentences, *self.notes) for line in wrap(text, 110)]
        return "\n".join([self._title, *(line.rstrip() for line in lines), *said])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        left = 'style="text-align:left;padding:0.2em 0.5em"'
        right = 'style="text-align:right;padding:0.2em 0.5em;white-space:nowrap"'
        sides = [left, right, right, right, left]
        head = "".join(f"<th {side}>{escape(name)}</th>" for name, side in zip(_COLUMNS, sides, strict=True))
        body = "".join(
            "<tr>"
            + "".join(f"<td {side}>{escape(cell)}</td>" for cell, side in zip(self._cells(row), sides, strict=True))
            + "</tr>"
            for row in self._rows
        )
        said = "".join(f"<li>{escape(text)}</li>" for text in (*self.sentences, *self.notes))
        return (
            f"<div><p><b>{escape(self._title)}</b></p><div style='overflow-x:auto'>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
            f"<ul>{said}</ul></div>"
        )

    def to_pandas(self) -> Any:
        """All figures, a line for each; unknown ones are NaN.

        Returns
        -------
        pandas.DataFrame

        Raises
        ------
        ImportError
            Without pandas.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("A table needs pandas. Install it with: pip install pandas") from error
        number = ("count", "joules", "seconds")
        records = [{k: np.nan if v is None and k in number else v for k, v in vars(row).items()} for row in self._rows]
        return pd.DataFrame(records).set_index("name")


class Costed:
    """What PhysicalNetwork has from here: :meth:`cost_report`."""

    def cost_report(
        self: Any,
        X: Any,
        y: Any = None,
        *,
        score: float | None = None,
        measure: bool = False,
        joules_per_operation: float = 4.6e-12,
        seconds_per_operation: float = 1e-9,
        joules_per_conversion: float = 1e-11,
        seconds_per_conversion: float = 1e-6,
        accelerator_joules_per_operation: float = 0.3e-12,
    ) -> CostReport:
        """Joules and seconds of a prediction and of the training, each with its source. Nothing is sent unless asked.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Rows as they will be predicted. The digital models learn from them alone, each fold from the others: to be fair to
            them, give as many as the device was trained with, and its ``score`` on others.
        y : array-like of shape (n_samples,), or array-like or sparse matrix of shape (n_samples, n_targets), default=None
            Their labels or targets, for the search of a digital equivalent. None: there is none in the report.
        score : float, default=None
            What the device reaches on rows that it was not trained on, as ``score`` of the estimator tells it: accuracy, 0 to 1
            (with several labels the share of rows with every label right), or R², at most 1. None: measured on X and y, if
            ``measure`` allows it.
        measure : bool, default=False
            Whether to predict X on the device, to take the time and, with ``y``, the score: as many shots per row
            as ``report["device"].count`` says, counted as predictions.
        joules_per_operation : float, default=4.6e-12
            Of a digital multiply-add beside the device, in joules: 32-bit floats in 45 nm, without memory [1]_.
        seconds_per_operation : float, default=1e-9
            Of the same, in seconds: one in a nanosecond.
        joules_per_conversion : float, default=1e-11
            Of one digital-to-analog or analog-to-digital conversion, in joules: 8 bits at about 40 fJ per step, the figure
            of merit of [2]_. Laboratory instruments take many times that.
        seconds_per_conversion : float, default=1e-6
            All channels at once, one conversion before a shot and one after it.
        accelerator_joules_per_operation : float, default=0.3e-12
            Of a multiply-add of the digital equivalent, in joules: 8-bit integers in 45 nm, without memory [1]_. It favours the
            digital side.

        Returns
        -------
        CostReport
            Print it, or use ``to_pandas()``, ``report["device"].joules`` and ``n_break_even``.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            If a constant is negative or not finite, ``score`` is no accuracy or R², X or y is not like those of ``fit``, or y
            has too few rows for a search. Nothing was sent.

        Notes
        -----
        The device's joules and seconds are those it states (``joules_per_shot``, ``seconds_per_shot``), times shots that were
        counted; what it does not state is unknown, and so is every sum that needs it. In a prediction the channels that carry
        weights are held still and are not converted anew (where one device serves several layers or units, each one's once in a
        call of ``predict``, which is little for many rows); in the training they are where they were moved, as ``ledger_``
        counts. Shots of the training that a journal answered were measured for it once, and count. The time for which shared
        channels settled is a row of its own, without what it was for rows that a journal answered, and not in a prediction.
        The twin's operations are a lower estimate, from its size and the steps of its fits and refinements; the passes through
        it that the gradients need are not counted.

        The digital equivalent is the narrowest perceptron of one hidden layer (or a linear model) whose mean score in five
        folds of X and y reaches the device's; with few rows there are fewer folds. It learns standardised targets, up to 1,000
        rows by L-BFGS, else by Adam. Its own training counts nothing.

        References
        ----------
        .. [1] Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014, 10-14,
           doi:10.1109/ISSCC.2014.6757323.
        .. [2] Walden, "Analog-to-digital converter survey and analysis", IEEE J. Sel. Areas Commun. 17, 539 (1999),
           doi:10.1109/49.761034.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from skpat import PhysicalNetworkClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> report = PhysicalNetworkClassifier(max_iter=2, random_state=0).fit(X, y).cost_report(X)
        >>> report["device"].joules is None, report["encoder"].source  # the simulated laser states no energy
        (True, 'assumed')
        """
        check_is_fitted(self, "loss_")
        constants = {
            "joules_per_operation": joules_per_operation,
            "seconds_per_operation": seconds_per_operation,
            "joules_per_conversion": joules_per_conversion,
            "seconds_per_conversion": seconds_per_conversion,
            "accelerator_joules_per_operation": accelerator_joules_per_operation,
        }
        for name, value in constants.items():
            if not is_number(value, 0, below=np.inf):
                raise ValueError(f"'{name}' must be a finite number of at least 0. Got {value!r}. Nothing was sent.")
        score = _check_score(self, score)
        rows, targets = _check_data(self, X, y)
        folds = None if targets is None or (score is None and not measure) else make_folds(self, targets)
        prediction = _of_prediction(self, constants)
        if measure:
            begun = time.perf_counter()
            scores = self.score(X, y) if y is not None else self.predict(X)
            seconds = (time.perf_counter() - begun) / rows.shape[0]
            score = float(scores) if y is not None and score is None else score
            whole = CostRow("whole prediction, by the clock", None, "", None, seconds, f"{MEASURED} (seconds)")
            prediction = (*prediction, whole)
        training = _of_training(self, constants)
        digital, width, sentences = _equivalent(self, rows, targets, folds, score, accelerator_joules_per_operation)
        n_break_even, said = _break_even(prediction, training, digital)
        notes = (
            "Assumed: " + ", ".join(f"{name} {value:g}" for name, value in constants.items()) + ".",
            "Memory traffic, cooling and the host are not in it.",
        )
        return CostReport(
            device_name(self.device_), prediction, training, digital, width, n_break_even, (*sentences, *said), notes
        )


def _of_prediction(network: Any, constants: dict[str, float]) -> tuple[CostRow, ...]:
    n_shots = network._network.n_calls * network.n_shots
    digital = count_operations(network._network, network.weights_)
    rows = (
        _of_shots("device", n_shots, network.device_),
        _of_conversions("conversion", n_shots, network, constants),
        *(_of_operations(name, count, constants) for name, count in digital.items()),
    )
    return (*rows, _sum_of("prediction", rows))


def _of_training(network: Any, constants: dict[str, float]) -> tuple[CostRow, ...]:
    ledger, rows, n_shots, n_conversions = network.ledger_, [], 0, 0
    replayed = ledger.replayed
    for kind, n in ledger.asked.items():
        if kind == "prediction":
            continue
        rows.append(_of_shots(f"{kind} shots", n, network.device_, replayed.get(kind, 0)))
        n_shots += n
        n_conversions += ledger.conversions.get(kind, 0)
    settling = sum(seconds for kind, seconds in ledger.settling.items() if kind != "prediction")
    if settling:
        rows.append(CostRow("settling in training", None, "", 0.0, settling, SPECIFIED))
    rows.append(_conversions("conversion in training", n_shots, n_conversions, constants))
    if network.twin_ is not None:
        rows.append(_of_operations("twin", _count_twin(network), constants))
    return (*rows, _sum_of("training", tuple(rows)))


def _of_shots(name: str, n_shots: int, device: Any, n_replayed: int = 0) -> CostRow:
    each = [getattr(device, attribute, None) for attribute in ("joules_per_shot", "seconds_per_shot")]
    amounts = [None if value is None else float(value) * n_shots for value in each]
    missing = [name for name, value in zip(("joules_per_shot", "seconds_per_shot"), each, strict=True) if value is None]
    source = SPECIFIED if len(missing) < 2 else UNKNOWN
    if missing:
        source += f" (the device states no {' and no '.join(missing)})"
    source += f"; {n_replayed:,} of them came from the journal" if n_replayed else ""
    return CostRow(name, n_shots, "shot" if n_shots == 1 else "shots", amounts[0], amounts[1], source)


def _of_conversions(name: str, n_shots: int, network: Any, constants: dict[str, float]) -> CostRow:
    count = n_shots * (network._network.split.n_inputs + network._network.n_outputs)
    return _conversions(name, n_shots, count, constants)


def _conversions(name: str, n_shots: int, count: int, constants: dict[str, float]) -> CostRow:
    joules, seconds = count * constants["joules_per_conversion"], 2 * n_shots * constants["seconds_per_conversion"]
    return CostRow(name, count, "conversions", joules, seconds, ASSUMED)


def _of_operations(name: str, count: float | None, constants: dict[str, float]) -> CostRow:
    if count is None:
        return CostRow(name, None, "multiply-adds", None, None, f"{UNKNOWN} (how many there were is not kept)")
    each = constants["joules_per_operation"], constants["seconds_per_operation"]
    return CostRow(name, count, "multiply-adds", count * each[0], count * each[1], ASSUMED)


def _sum_of(name: str, rows: tuple[CostRow, ...]) -> CostRow:
    amounts = [[getattr(row, kind) for row in rows] for kind in ("joules", "seconds")]
    totals = [None if None in values else float(sum(values)) for values in amounts]
    unknown = None in totals
    return CostRow(
        f"{name} in all", None, "", totals[0], totals[1], "sum" + (" (unknown where a part is)" if unknown else "")
    )


def _count_twin(network: Any) -> float | None:
    """Multiply-adds of the twin's fits and refinements: of a learned twin, from its size and the shots its steps have seen."""
    twin = network.twin_
    trained_on = not network._gradient.trains_on_device or network._gradient.begins_in_silico(twin)
    if trained_on:  # for how long is not kept
        return None
    if not hasattr(twin, "t_") or not hasattr(twin.module_, "parameters"):
        return None
    n_weights = sum(parameter.numel() for parameter in twin.module_.parameters())
    return float(_BACKWARD_TOO * n_weights * twin.t_)


def _check_score(network: Any, score: Any) -> float | None:
    if score is None:
        return None
    of_classes = is_classifier(network)
    known = isinstance(score, Real) and not isinstance(score, bool) and np.isfinite(float(score))
    if not known or score > 1 or (of_classes and score < 0):
        wanted = "an accuracy between 0 and 1" if of_classes else "a finite R² of at most 1"
        raise ValueError(
            f"'score' must be {wanted}. Got {score!r:.80}. Nothing was sent. Use score=None and measure=True to measure it."
        )
    return float(score)


def _check_data(network: Any, X: Any, y: Any) -> tuple[Any, np.ndarray | None]:
    """Rows (n_samples, n_features), dense where there is y, and targets as the network's loss knows them."""
    checks = {"reset": False, "accept_sparse": "csr", "dtype": network.weights_["layers.0.gain"].dtype}
    if y is None:
        return validate_data(network, X, **checks), None
    X, y = validate_data(network, X, y, **checks, **network._y_checks)
    targets = network._encode_targets(y, None, first=False)
    targets = targets.ravel() if targets.ndim == 2 and targets.shape[1] == 1 else targets
    return (X.toarray() if hasattr(X, "toarray") else X), targets


def _equivalent(
    network: Any,
    X: np.ndarray,
    targets: np.ndarray | None,
    folds: Any,
    score: float | None,
    joules_per_operation: float,
) -> tuple[CostRow | None, int | None, tuple[str, ...]]:
    """The smallest perceptron that reaches the score."""
    if targets is None:
        return None, None, ("No digital equivalent: it needs y. Use cost_report(X, y, score=...).",)
    if score is None:
        why = "No digital equivalent: it needs the device's score. Give score=..., or measure=True to measure it."
        return None, None, (why,)
    found = find_equivalent(network, X, targets, folds, score, _WIDTHS)
    if found is None:
        reaches = f"reaches {score:.3f} in {folds.n_splits} folds of the {len(X):,} rows given"
        return None, None, (f"No digital equivalent: no perceptron of up to {_WIDTHS[-1]} hidden units {reaches}.",)
    name = f"digital equivalent ({f'{found.width} hidden units' if found.width else 'linear'})"
    joules = found.n_operations * joules_per_operation
    row = CostRow(name, found.n_operations, "multiply-adds", joules, None, f"{ASSUMED}; size {MEASURED}")
    said = f"The digital equivalent scores {found.score:.3f} in {folds.n_splits} folds; the device {score:.3f}."
    return row, found.width, (said,)


def _break_even(
    prediction: tuple[CostRow, ...], training: tuple[CostRow, ...], digital: CostRow | None
) -> tuple[float | None, tuple[str, ...]]:
    if digital is None or digital.joules is None:
        return None, ("No break-even: it needs a digital equivalent.",)
    each, spent = (next(row.joules for row in rows if row.name.endswith(" in all")) for rows in (prediction, training))
    saved = None if each is None else digital.joules - each
    if saved is not None and saved <= 0:
        cost = f"{each:.3g} J on the device, {digital.joules:.3g} J on the accelerator"
        return np.inf, (f"The device never pays for its training: a prediction costs {cost}.",)
    if saved is None or spent is None:
        return None, ("Break-even unknown: it needs the joules of a prediction and of the training.",)
    n = spent / saved
    return n, (f"The device has paid for its training after {n:,.0f} predictions: each saves {saved:.3g} J.",)


def _amount(value: float | None, unit: str) -> str:
    return UNKNOWN if value is None else f"{value:.3g} {unit}"
