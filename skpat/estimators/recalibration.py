"""The estimators' ``recalibrate``: accuracy back on a device that has drifted, or on another one, from few labelled rows."""

from __future__ import annotations

import copy
import secrets
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skpat.estimators.callbacks import refuse_within_fit
from skpat.estimators.journaled import closed_at_the_end, open_run
from skpat.estimators.specification import changed_since, construction, refuse_changes, replacement
from skpat.estimators.validation import warn_of_other_scales
from skpat.exceptions import ShotBudgetError
from skpat.lab.session import Session
from skpat.value_checks import is_int

__all__ = ["Recalibrated"]

_AS_BEFORE = "What is learned of it holds for such rows only: give X scaled as it was for the fit."


class Recalibrated:
    """What PhysicalNetwork has from here: :meth:`recalibrate`."""

    def recalibrate(self: Any, X: Any, y: Any, max_shots: int, *, sample_weight: Any = None) -> Any:
        """Restore what a drift, or an exchange, of the device has cost: first the readout, then the weights.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Labelled rows, at least 16; those of the training will do. As many are measured as the budget allows.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Their labels, known ones, or targets.
        max_shots : int
            Budget, repeats after faults included. It is never exceeded, and not used up where less is enough.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows. A row of weight zero is never sent.

        Returns
        -------
        self
            ``recalibration_`` says what was found and what was changed.

        Raises
        ------
        ValueError
            If X, y, ``max_shots`` or a parameter is not what it must be, fewer than 16 rows have a weight, or none of
            them has some class. Nothing was sent.
        ShotBudgetError
            If ``max_shots`` does not allow for 16 rows; nothing was sent. Or if repeats after faults use it up too early.
        DeviceOutputError, DeviceConnectionError, DeviceBusyError, NonFiniteTrainingError
            As in ``fit``. The weights are those of before, the shots are counted.

        See Also
        --------
        skpat.training.recalibration.recalibrate : What is done, step by step.

        Notes
        -----
        Nothing is changed unless labelled rows that had no part in the change show it to be better, by more than the standard
        error of the difference (a readout: times 1 + 10 / n for n rows). The weights are trained further only if the loss is
        still above that of the fit's last epoch (``loss_`` less its L2 penalty), and only by a method that trains on the
        device; the twin learns on from all these shots. A twin that knows the equations, a
        :class:`~skpat.twins.PhysicsTwin`, finds its constants anew, and the weights are first trained on it, for no shot.

        Shots are counted as "recalibration" in ``shots_``. The clock of a simulated device that drifts goes on from the
        estimator's own count of rows. With a ``journal`` each recalibration is a run of its own: everything is written, nothing
        is replayed, because old answers say nothing about what the device does now. For the same reason the twin keeps what it
        has learned and forgets the shots it had seen, so that a loaded estimator is recalibrated like the one that was saved.
        A deployed network cannot be: recalibrate the estimator, and deploy it again.

        A network is carried over to another specimen by ``set_params(device=specimen)`` and then this method. The specimen must
        have the same bounds, steps, units and outputs. Until then, and if an error ends the recalibration, the network goes on
        with the device that it was trained on. If nothing proved better ("nothing new"), it is on the new one as it was.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from skpat import PhysicalNetworkClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> network = PhysicalNetworkClassifier(max_iter=2, random_state=0).fit(X, y)
        >>> network.recalibrate(X, y, max_shots=200).shots_["recalibration"] <= 200
        True
        """
        from skpat.training.recalibration import recalibrate
        from skpat.training.trainer import threads_for

        check_is_fitted(self, "loss_")
        self._check_recalibration(max_shots)
        data = self._accept_for_recalibration(X, y, sample_weight)
        rng = copy.deepcopy(self._rng)
        device = self._device_to_adapt_to(rng)
        warn_of_other_scales(data.X, self.weights_, data.targets, _AS_BEFORE)
        record = None
        if self.journal is not None:
            title = f"recalibration, {len(data)} rows"
            record = open_run(self, device, f"recalibration {secrets.token_hex(16)}", title)
        twin, gradient = copy.deepcopy(self.twin_), copy.deepcopy(self._gradient)
        if hasattr(twin, "forget"):
            twin.forget()
        with (
            closed_at_the_end(self, record),
            Session(
                device, n_shots=self.n_shots, ledger=self.ledger_, journal=record, max_shots=int(max_shots)
            ) as session,
            threads_for(self._count_batch(len(data)) * int(device.n_controls)),
        ):
            trainer = self._make_trainer(session, len(data), purpose="recalibration")
            trainer.twin, trainer.gradient = twin, gradient
            found = recalibrate(
                trainer,
                data,
                rng,
                strata=self._strata(data.targets),
                good_loss=np.nan_to_num(self.loss_, nan=-np.inf) - self._penalty,
            )
            identity = session.identity
            if record is not None:
                record.note_end()
        self.__dict__.update(  # now, and not before: an error on the way leaves everything as it was
            device_=device,
            weights_=trainer.weights_now(),
            twin_=trainer.twin,
            recalibration_=found,
            _statistics=trainer.statistics,
            _gradient=gradient,
            _rng=rng,
            _identity=identity,
            _built_from=construction(self),
            _optimizer_state=None if found.n_epochs or found.n_epochs_in_silico else self._optimizer_state,
        )
        return self

    def _check_recalibration(self: Any, max_shots: Any) -> None:
        """Whether it may begin, with so many shots."""
        from skpat.training.recalibration import LEAST_ROWS, least_shots

        if not is_int(max_shots, 1):
            raise ValueError(
                f"'max_shots' of recalibrate must be an int of at least 1. Got {max_shots!r}. Use max_shots=1000, say."
            )
        self._validate_params()
        refuse_within_fit(self)
        refuse_changes(self, self._built_from, but="device")
        least = least_shots(self._network, self.n_shots)
        if max_shots < least:
            raise ShotBudgetError(
                f"'max_shots' of recalibrate must allow for {LEAST_ROWS} rows, {least:,} shots in all. Got {max_shots:,}. "
                f"Nothing was sent. Use max_shots={least} or more.",
                max_shots=int(max_shots),
            )

    def _device_to_adapt_to(self: Any, rng: np.random.RandomState) -> Any:
        """The device of the fit, or a copy of the one that has been set in its place. Nothing is sent."""
        if not changed_since(self, self._built_from):
            return self.device_
        return replacement(self.device, self.device_, self._network, self._gradient, rng)

    def _accept_for_recalibration(self: Any, X: Any, y: Any, sample_weight: Any) -> Any:
        """The rows of positive weight, as the training takes them. Nothing is sent."""
        from skpat.training.recalibration import LEAST_ROWS

        data = self._labelled_data(X, y, sample_weight)
        if len(data) < LEAST_ROWS:
            raise ValueError(
                f"'X' of recalibrate must have at least {LEAST_ROWS} rows of positive weight. Got {len(data)}. Nothing "
                "was sent. Give more labelled rows; those of the training will do."
            )
        strata = self._strata(data.targets)
        missing: Any = np.empty(0) if strata is None else np.setdiff1d(self.classes_, strata)
        if len(missing):  # a readout fitted without them would never answer them again
            raise ValueError(
                f"'y' of recalibrate must have every class the network knows. {missing.tolist()} had no row of "
                "positive weight. Nothing was sent. Give rows of every class; those of the training will do."
            )
        return data
