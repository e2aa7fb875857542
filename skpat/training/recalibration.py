"""A trained network on a device that has changed: first what is digital, then, if that is not enough, the weights."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skpat.exceptions import ShotBudgetError
from skpat.network.forward import forward
from skpat.training.in_silico import through_twin
from skpat.training.loss_probe import row_losses
from skpat.training.pretraining import BEGIN_AT, CONFIRMED, TRIAL_ROWS, confirmed_part
from skpat.training.readout_fit import fit_readout, measure_anew
from skpat.training.recalibration_in_silico import Shots, refit_twin, train_in_silico
from skpat.user_warning import warn_user

if TYPE_CHECKING:
    from skpat.network.forward import Network
    from skpat.training.trainer import Data, Trainer

__all__ = ["LEAST_ROWS", "Recalibration", "least_shots", "recalibrate"]

LEAST_ROWS = 16
"""Fewest rows of a recalibration."""

_ENOUGH_ROWS = 256  # for a readout, if the weights are to have a part of the budget
_FOLDS = 5
_CHECK_EVERY = 4  # one row in so many only decides
_MOST_CHECKED = 256  # before a training in silico as many as in its trial
_CHECKED_ON_TWIN = 5  # one row in five decides on the twin, up to those of a trial
_PULLS = (0.0, 10.0, 100.0, 1000.0)
_FIRST_PROGRESS = 0.5  # steps and displacements go on where those of a fit are half way down
_PATIENCE = 5  # epochs
_FEW_ROWS = 10  # with so many rows a gain must exceed two standard errors, with many one

Weights = dict[str, np.ndarray]


@dataclass(frozen=True)
class Recalibration:
    """What a recalibration found, and what it changed.

    Losses are means over labelled rows that were not used for what they judge: by cross-validation for the readout. The first
    two are of the same rows: all that were measured, with several layers a quarter of them. The third is of a quarter.

    Attributes
    ----------
    kept : {"nothing new", "readout", "readout and weights"}
        What was better by more than a standard error (a readout: times 1 + 10 / n for n rows), and is now in place.
    loss_before, loss_readout, loss_weights : float or None
        With everything as it was; with new output statistics and a refitted readout; after the further training. None: not
        tried.
    n_rows : int
        Labelled rows measured for the readout.
    n_epochs : int
        Passes of the further training on the device.
    shots : int
        What it cost.
    n_epochs_in_silico : int
        Passes of the further training on the twin, before.
    """

    kept: str
    loss_before: float
    loss_readout: float
    loss_weights: float | None
    n_rows: int
    n_epochs: int
    shots: int
    n_epochs_in_silico: int = 0

    def __str__(self) -> str:
        epochs = f"{self.n_epochs} epoch{'' if self.n_epochs == 1 else 's'}"
        if self.n_epochs_in_silico:
            epochs = f"{self.n_epochs_in_silico} in silico and {epochs}"
        further = "not tried" if self.loss_weights is None else f"{self.loss_weights:.4g}, {epochs}"
        return (
            f"Recalibration: kept {self.kept}, {self.shots:,} shots. Loss before {self.loss_before:.4g}; readout refitted "
            f"on {self.n_rows:,} rows {self.loss_readout:.4g}; weights trained further: {further}."
        )


def least_shots(network: Network, n_shots: int) -> int:
    """The smallest budget of a recalibration."""
    return (LEAST_ROWS + _count_measured_again(LEAST_ROWS, network.n_layers)) * network.n_calls * n_shots


def recalibrate(
    trainer: Trainer,
    data: Data,
    rng: np.random.RandomState,
    *,
    strata: np.ndarray | None = None,
    good_loss: float = -np.inf,
) -> Recalibration:
    """Adapt a trained network to what the device answers now, within the session's budget.

    Parameters
    ----------
    trainer : Trainer
        Its weights and statistics are set to what proved better. If a measurement of the first part fails, they stay.
    data : Data
        At least ``LEAST_ROWS`` (16) labelled rows.
    rng : RandomState
        For the choice and the order of rows.
    strata : ndarray of shape (n_rows,), default=None
        Classes, which the choice of rows keeps in proportion.
    good_loss : float, default=-inf
        With a mean loss up to this the readout is enough: the weights are not trained.

    Returns
    -------
    Recalibration

    Raises
    ------
    ShotBudgetError
        If repeats after faults use the budget up before the readout is fitted.

    Notes
    -----
    1. Rows are measured once (with several layers: a quarter of them once more, with everything as it was). The output
       statistics become those of these rows, layer by layer. The readout is fitted to the trainer's own loss; how
       strongly it is pulled towards the present one, or whether it stays, is chosen by five-fold cross-validation, and so is
       whether anything of this is better than before.
    2. Where the method trains on the device and the loss is not yet good, the weights are trained further. A quarter of the
       measured rows takes no part: these rows decide. Where the method would begin a fit with this twin in silico
       (``begins_in_silico``), the twin is fitted anew, to at most some 1,000 of the other shots of 1, and if it then predicts
       the deciding rows better, the weights are trained on it for up to twice ``max_iter`` epochs, which costs no shot. If the
       twin says that rows which took no part (up to 100) have become better, the deciding rows are measured once more. The
       device confirms it if their mean loss has gone half of the way, on a logarithmic scale, that it went on the twin
       (:func:`~skpat.training.pretraining.confirmed_part`). Else everything is put back.
    3. If the loss is still not good, what is left of the budget goes into epochs of small steps on the device, smaller ones
       after a training in silico, with a twin that has learned from the shots of 1. After each epoch the deciding rows are
       measured. It ends after five epochs without progress.

    "Better" means by more than the standard error of the paired difference; for a readout, by more than 1 + 10 / n of them,
    with n rows. What was found in silico and confirmed is kept, and so is what was better still on the device from there.
    """
    session = trainer.session
    shots_before, faults_before = session.shots_left, sum(session.ledger.faults.values())
    most = (shots_before - _for_a_repeat(trainer)) / (trainer.network.n_calls * session.n_shots)
    in_silico = _may_begin_in_silico(trainer, most)
    data, n_rows = _chosen(data, strata, most, trainer, rng, in_silico)
    measured = data.rows(np.arange(n_rows))
    check = np.arange(0, n_rows, _CHECK_EVERY)[: _count_check(n_rows, in_silico)]
    try:
        refit = _Refit(trainer, measured, check)
    except ShotBudgetError as error:
        n_faults = sum(session.ledger.faults.values()) - faults_before
        faults = f"{n_faults} fault{'s' if n_faults > 1 else ''} of the device"
        raise ShotBudgetError(
            f"'max_shots' of recalibrate must allow for repeats after faults. Got {session.max_shots:,}, and {faults}: too few "
            "are left to fit the readout. The estimator is as it was. Use a larger max_shots.",
            max_shots=error.max_shots,
        ) from error
    kept, weights, statistics = "readout" if refit.is_better else "nothing new", refit.weights(), refit.statistics
    loss_weights, further = None, _Further(trainer, data, check, rng)
    if trainer.gradient.trains_on_device and refit.loss > good_loss:
        trainer.set_weights(refit.weights(np.setdiff1d(np.arange(n_rows), check)))  # do not know the rows that decide
        trainer.statistics[:] = copy.deepcopy(statistics)
        share = measured.sample_weight[check]
        further.train(refit, in_silico, good_loss)
        if further.best is not None:
            loss_weights = _mean(further.best.losses, share)
            if further.is_confirmed or _is_better(further.best.losses, refit.losses_of_check, share):
                kept, weights, statistics = "readout and weights", further.best.weights, further.best.statistics
    trainer.set_weights(weights)
    trainer.statistics[:] = statistics
    return Recalibration(
        kept=kept,
        loss_before=refit.loss_before,
        loss_readout=refit.loss_readout,
        loss_weights=loss_weights,
        n_rows=n_rows,
        n_epochs=further.n_epochs,
        shots=int(shots_before - session.shots_left),
        n_epochs_in_silico=further.n_epochs_in_silico,
    )


def _for_a_repeat(trainer: Trainer) -> int:
    """Shots of the largest call, where several calls are to be had: one that fails can be repeated. What is left trains."""
    session = trainer.session
    limit = getattr(session.device, "max_batch", None) or 0
    others = max(2 * limit, least_shots(trainer.network, session.n_shots))
    return limit if getattr(session.device, "max_retries", 0) and session.shots_left - limit >= others else 0


class _Refit:
    """Rows measured once, the output statistics and the readout that follow from them, and whether these are better.

    Parameters
    ----------
    trainer : Trainer
        Nothing of it is changed.
    measured : Data
    check : ndarray of int
        The rows that decide. With several layers they are measured once more, with everything as it was.

    Attributes
    ----------
    is_better : bool
    statistics : list of OutputStatistics
        Those to keep: the new ones if they and the readout are better.
    loss_before, loss_readout, loss : float
        Mean losses with everything as it was, with everything new, and with what is kept.
    losses_of_check : ndarray
        With what is kept, of the rows that decide.
    sent : list of (ControlBatch, ndarray)
        All that was sent, and what came back.
    measured : Data
    check : ndarray of int
    """

    def __init__(self, trainer: Trainer, measured: Data, check: np.ndarray):
        network, share = trainer.network, measured.sample_weight
        self._trainer, self.measured, self.check = trainer, measured, check
        self._before = trainer.weights_now()
        has_several = network.n_layers > 1  # the later ones will receive something else once the statistics are new
        judged = check if has_several else np.arange(len(measured))
        scores = _scores(trainer, self._before, measured.rows(check)) if has_several else None
        self._fresh = {name: value.copy() for name, value in self._before.items()}
        self.sent: Shots = []
        statistics, outputs = measure_anew(
            trainer, self._fresh, measured, trainer.purpose, lambda *shots: self.sent.append(shots)
        )
        if scores is None:
            mean, scale = (self._before[f"layers.0.{name}"] for name in ("mean", "scale"))
            scores = network.readout.read(_double(self._before), network.hand_on((outputs - mean) / scale, 0))
        before = row_losses(trainer, scores, measured.targets[judged])
        self._normal = network.hand_on((outputs - statistics[-1].mean) / statistics[-1].scale, network.n_layers - 1)
        self._pull, losses = _choose_pull(trainer, self._fresh, self._normal, measured)

        level = 1 + _FEW_ROWS / len(judged)  # with few rows the best of several pulls is better by chance
        self.is_better = _is_better(losses[judged], before, share[judged], level)
        self.statistics = statistics if self.is_better else copy.deepcopy(trainer.statistics)
        self.loss_before, self.loss_readout = _mean(before, share[judged]), _mean(losses[judged], share[judged])
        self.loss = self.loss_readout if self.is_better else self.loss_before
        of_check = before if has_several else before[check]
        self.losses_of_check = losses[check] if self.is_better else of_check

    def weights(self, rows: np.ndarray | None = None) -> Weights:
        """Those to keep; with ``rows``: such that the readout, if it is a new one, is fitted to these only."""
        if not self.is_better:
            return self._before
        if self._pull is None:  # the present readout reads the new statistics
            return self._fresh
        rows = np.arange(len(self.measured)) if rows is None else rows
        normal, measured = self._normal[rows], self.measured.rows(rows)
        return self._fresh | fit_readout(self._trainer, self._fresh, normal, measured, self._pull)[0]


def _count_measured_again(n_rows: int, n_layers: int, in_silico: bool = False) -> int:
    """Rows that decide, each time that they are measured: with everything as it was, after a training in silico."""
    return _count_check(n_rows, in_silico) * ((n_layers > 1) + in_silico)


def _count_check(n_rows: int, in_silico: bool) -> int:
    """Of so many measured rows, those that decide."""
    return min(-(-n_rows // _CHECK_EVERY), TRIAL_ROWS if in_silico else _MOST_CHECKED)


def _may_begin_in_silico(trainer: Trainer, most: float) -> bool:
    """Whether the method would with this twin, and so many rows allow for asking the device what it is worth."""
    if not trainer.gradient.trains_on_device or not trainer.gradient.begins_in_silico(trainer.twin):
        return False
    return LEAST_ROWS + _count_measured_again(LEAST_ROWS, trainer.network.n_layers, True) <= most


def _chosen(
    data: Data,
    strata: np.ndarray | None,
    most: float,
    trainer: Trainer,
    rng: np.random.RandomState,
    in_silico: bool,
) -> tuple[Data, int]:
    """The rows in an order whose every stretch has the classes in proportion, and how many are measured for the readout."""
    by_value = np.argsort(data.row_keys, kind="stable")
    order = by_value[rng.permutation(len(data))]
    if strata is not None:
        _, group, counts = np.unique(strata[order], return_inverse=True, return_counts=True)
        rank = np.empty(len(order))
        for number, count in enumerate(counts):
            rank[group == number] = (np.arange(count) + 0.5) / count
        order = order[np.argsort(rank, kind="stable")]
    wanted = most if not trainer.gradient.trains_on_device else max(most / 2, min(most, _ENOUGH_ROWS))
    n_rows = min(len(data), int(wanted))
    while n_rows + _count_measured_again(n_rows, trainer.network.n_layers, in_silico) > most:
        n_rows -= 1
    return data.rows(order), n_rows


def _choose_pull(trainer: Trainer, fresh: Weights, normal: np.ndarray, rows: Data) -> tuple[float | None, np.ndarray]:
    """The best pull towards the present readout (None: it stays) and the loss of each row, judged by the other folds."""
    fold = np.arange(len(rows)) % _FOLDS
    best_pull, best = None, row_losses(trainer, trainer.network.readout.read(_double(fresh), normal), rows.targets)
    for pull in _PULLS:
        losses = np.empty(len(rows))
        for number in range(_FOLDS):
            inside, outside = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
            readout = fit_readout(trainer, fresh, normal[inside], rows.rows(inside), pull)[0]
            scores = trainer.network.readout.read(_double(readout), normal[outside])
            losses[outside] = row_losses(trainer, scores, rows.targets[outside])
        if _mean(losses, rows.sample_weight) < _mean(best, rows.sample_weight):
            best_pull, best = pull, losses
    return best_pull, best


@dataclass(frozen=True)
class _State:
    """A trained state: its losses of the rows that decide, weights and statistics."""

    losses: np.ndarray
    weights: Weights
    statistics: Any


class _Further:
    """The further training on the rows that do not decide.

    Attributes
    ----------
    best : _State or None
        That of the smallest loss of the rows that decide, on the device. None: the budget did not allow for one.
    is_confirmed : bool
        Whether the device has confirmed what was found in silico.
    n_epochs, n_epochs_in_silico : int
        On the device, and on the twin.
    """

    def __init__(self, trainer: Trainer, data: Data, check: np.ndarray, rng: np.random.RandomState):
        self._trainer, self._data, self._rng = trainer, data, rng
        self._check, self._deciding = check, data.rows(check)
        self._others = np.setdiff1d(np.arange(len(data)), check)
        self.best: _State | None = None
        self.is_confirmed = False
        self.n_epochs = self.n_epochs_in_silico = 0

    def train(self, refit: _Refit, in_silico: bool, good_loss: float) -> None:
        """In silico, if that is wanted and there is a better twin for it, and then on the device, for as long as the loss is
        above ``good_loss``, epochs help and the budget allows."""
        try:
            if in_silico and refit_twin(self._trainer, refit.sent, refit.measured.sample_weight, refit.check):
                self._train_in_silico(refit)
            else:
                _learn(self._trainer, refit.sent, refit.measured.sample_weight)
            if not self.is_confirmed or self._loss > good_loss:
                self._train_on_device(BEGIN_AT if self.is_confirmed else _FIRST_PROGRESS)
        except ShotBudgetError:  # repeats after faults cost shots, too
            pass
        except KeyboardInterrupt:
            warn_user("The recalibration was interrupted. The estimator keeps the best state so far.")

    def _train_in_silico(self, refit: _Refit) -> None:
        """Train on the twin and ask the device what that is worth. If nothing, weights and statistics are as before."""
        trainer, n_deciding = self._trainer, len(self._deciding)
        wanted = min(len(self._data) // _CHECKED_ON_TWIN, TRIAL_ROWS)
        n_trained = len(self._others) - max(wanted - n_deciding, 0)
        trained, more = self._data.rows(self._others[:n_trained]), self._others[n_trained:]
        judged = self._data.rows(np.concatenate([self._check, more]))
        weights, statistics = trainer.weights_now(), copy.deepcopy(trainer.statistics)
        before = self._losses_on_twin(judged)
        self.n_epochs_in_silico = train_in_silico(trainer, trained, self._rng, _FIRST_PROGRESS)
        promised = self._losses_on_twin(judged)
        if _is_better(promised, before, judged.sample_weight):
            self._judge()
            share = self._deciding.sample_weight
            before_it, on_twin = _mean(refit.losses_of_check, share), _mean(promised[:n_deciding], share)
            self.is_confirmed = confirmed_part(before_it, on_twin, self._loss) >= CONFIRMED
        if not self.is_confirmed:
            trainer.set_weights(weights)
            trainer.statistics[:] = statistics

    def _losses_on_twin(self, rows: Data) -> np.ndarray:
        """Of the present weights."""
        trainer = self._trainer
        assert trainer.twin is not None
        scores = forward(trainer.network, trainer.weights_now(), rows.X, through_twin(trainer.twin))
        return row_losses(trainer, scores, rows.targets)

    def _train_on_device(self, begin_at: float) -> None:
        """Epochs of small steps."""
        trainer, session = self._trainer, self._trainer.session
        per_row = trainer.network.n_calls * session.n_shots
        n_deciding = len(self._deciding)
        left = session.shots_left / per_row - n_deciding
        per_step_row = trainer.gradient.shots_per_row
        n_affordable = int(min(left / max(per_step_row, 1), len(self._others)))
        if n_affordable < min(trainer.settings.batch_size, LEAST_ROWS):
            return
        training = self._data.rows(self._others[:n_affordable])
        per_epoch = len(training) * per_step_row + n_deciding
        n_most = min(trainer.settings.max_iter, max(int(session.shots_left / per_row / per_epoch), 1))
        n_since = 0
        for epoch in range(n_most):
            start, end = (begin_at + (1 - begin_at) * n / n_most for n in (epoch, epoch + 1))
            trainer.epoch(training, self._rng, (start, end))
            self.n_epochs += 1
            n_since = 0 if self._judge() else n_since + 1
            if n_since >= _PATIENCE:
                return

    def _judge(self) -> bool:
        """Measure the rows that decide; whether this is the best state so far."""
        trainer, deciding = self._trainer, self._deciding
        losses = row_losses(trainer, _scores(trainer, trainer.weights_now(), deciding), deciding.targets)
        is_best = self.best is None or _mean(losses, deciding.sample_weight) < self._loss
        if is_best:
            self.best = _State(losses, trainer.weights_now(), copy.deepcopy(trainer.statistics))
        return is_best

    @property
    def _loss(self) -> float:
        return np.inf if self.best is None else _mean(self.best.losses, self._deciding.sample_weight)


def _learn(trainer: Trainer, sent: Shots, sample_weight: np.ndarray) -> None:
    """Let a twin that learns on learn from what was measured for the readout."""
    twin = trainer.twin
    if twin is None or not getattr(trainer.gradient.explorer, "refine", False) or not hasattr(twin, "partial_fit"):
        return
    size = trainer.settings.batch_size
    for batch, outputs in sent:
        for start in range(0, len(outputs), size):
            rows = slice(start, start + size)
            piece = batch.rows(rows)
            in_parts = hasattr(twin.module_, "forward_batch")
            twin.partial_fit(piece if in_parts else np.asarray(piece.dense()), outputs[rows], sample_weight[rows])


def _scores(trainer: Trainer, weights: Weights, rows: Data) -> np.ndarray:
    return forward(trainer.network, weights, rows.X, trainer.session.run(rows.row_keys, trainer.purpose))


def _double(weights: Weights) -> Weights:
    return {name: value.astype(np.float64) for name, value in weights.items() if name.startswith("readout.")}


def _mean(losses: np.ndarray, sample_weight: np.ndarray) -> float:
    return float(np.average(losses, weights=sample_weight))


def _is_better(new: np.ndarray, old: np.ndarray, sample_weight: np.ndarray, level: float = 1.0) -> bool:
    """Whether losses have fallen by more than so many standard errors of their mean difference."""
    share = sample_weight.astype(np.float64) / sample_weight.sum()
    fall = old - new
    mean = float(share @ fall)
    return mean > level * float(np.sqrt(share**2 @ np.square(fall - mean)))
