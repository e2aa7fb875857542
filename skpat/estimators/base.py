"""What the classifier and the regressor share: parameters, fit, prediction, plan."""

from __future__ import annotations

import copy
import os
from abc import ABCMeta, abstractmethod
from contextlib import suppress
from dataclasses import replace
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.callback import CallbackSupportMixin
from sklearn.utils import check_array, gen_batches
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from skpat.devices.specification import device_name
from skpat.estimators.calibration import Calibrated
from skpat.estimators.callbacks import FitWatch, prediction_session, refuse_within_fit, without_callbacks
from skpat.estimators.cost_report import Costed
from skpat.estimators.exchanged import warn_if_exchanged
from skpat.estimators.journaled import (
    closed_at_the_end,
    find_run,
    left_alone_if_nothing_was_asked,
    own_random_state,
    scales_taken_back_on_error,
    taken_back_on_error,
)
from skpat.estimators.plan import Plan
from skpat.estimators.recalibration import Recalibrated
from skpat.estimators.shot_counts import ShotCounts
from skpat.estimators.specification import (
    Specification,
    construction,
    default_device,
    float_types,
    prepare,
    refuse_changes,
    specify,
)
from skpat.estimators.validation import Validated, dense, warn_of_other_scales
from skpat.exceptions import ShotBudgetError
from skpat.lab.journal import Journal, JournalRun
from skpat.lab.ledger import Ledger
from skpat.lab.session import PREDICTION_ROWS, PREDICTION_SHOT, Session
from skpat.nested_parameters import refuse_nested_of_plain
from skpat.network.forward import Network, forward, representable
from skpat.network.patch_encoder import PatchEncoder
from skpat.network.prediction_watch import PredictionWatch
from skpat.row_keys import hash_rows

__all__ = ["PhysicalNetwork"]

_SMALL_BATCH, _FULL_BATCH_UP_TO = 32, 64


class PhysicalNetwork(
    Calibrated, Validated, Recalibrated, Costed, CallbackSupportMixin, BaseEstimator, metaclass=ABCMeta
):
    """Base class of PhysicalNetworkClassifier and PhysicalNetworkRegressor; use those."""

    _y_checks: dict[str, bool] = {}  # what validate_data shall check of y
    _fewest_validated = 1  # rows that the validation score needs
    _penalty = 0.0  # the part of loss_ that is L2 penalty

    _parameter_constraints = {
        "control_split": "no_validation",  # the objects are checked in specification.py, with better messages
        "device": "no_validation",
        "twin": "no_validation",
        "gradient": "no_validation",
        "n_layers": [Interval(Integral, 1, None, closed="left")],
        "n_units": [Interval(Integral, 1, None, closed="left")],
        "encoder": [StrOptions({"auto", "linear", "direct", "patch"}), PatchEncoder],
        "skip": [StrOptions({"input", "previous"}), None],
        "readout": [StrOptions({"linear", "bins"})],
        "n_calibration_shots": [StrOptions({"auto"}), Interval(Integral, 0, None, closed="left")],
        "n_shots": [Interval(Integral, 1, None, closed="left")],
        "max_shots": [Interval(Integral, 1, None, closed="left"), None],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "shuffle": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "warm_start": ["boolean"],
        "journal": [str, os.PathLike, Journal, None],
        "torch_device": [str],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    @abstractmethod
    def _encode_targets(self, y: Any, classes: Any, first: bool, name: str = "y") -> np.ndarray:
        """Check y, called ``name`` in messages, set what is learned from it, and return what the loss compares scores with."""

    def _prepare_targets(self, targets: np.ndarray, sample_weight: np.ndarray | None, dtype: Any) -> np.ndarray:
        """Bring encoded targets to the scale of the scores; sample_weight is given where that scale is to be set."""
        return targets

    @abstractmethod
    def _count_scores(self) -> int:
        """Columns of the network's scores."""

    @abstractmethod
    def _loss(self) -> Any:
        """The loss per row, on tensors."""

    @abstractmethod
    def _score_targets(self, scores: np.ndarray, targets: np.ndarray, sample_weight: np.ndarray) -> float:
        """The validation score of scores against encoded targets."""

    def set_params(self, **params: Any) -> PhysicalNetwork:
        """Set parameters, nested ones included.

        Raises
        ------
        NestedParameterError
            If ``outer__inner`` is set while ``outer`` is a plain value.
        """
        fixes = {
            "control_split": "control_split=ControlSplit()",
            "encoder": "encoder=PatchEncoder()",
            "device": "device=SecondHarmonicLaser() (or your own)",
            "twin": "twin=NeuralTwin()",
            "gradient": "gradient=PhysicsAware()",
        }
        refuse_nested_of_plain(self, params, fixes)
        return super().set_params(**params)

    def plan(self, X: Any, X_val: Any = None) -> Plan:
        """What a fit on X would cost; with ``warm_start``, one that goes on from the last. Nothing is sent.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        X_val : array-like or sparse matrix of shape (n_val, n_features), default=None
            What ``fit`` will be given as ``X_val``.

        Returns
        -------
        Plan
            Shots by purpose, seconds and joules; print it.

        Raises
        ------
        ValueError
            If a parameter or X is not what it must be, or ``max_shots`` does not allow for the calibration and one batch.
        DeviceContractError, NoExactGradientError
            If ``device`` is not a device, or ``gradient="exact"`` is asked of one that cannot be differentiated.
        ImportError
            If ``gradient="evolution_strategy"`` finds no cma.
        """
        self._validate_params()
        n_rows, n_features = _shape(X, self)
        goes_on = self.warm_start and hasattr(self, "loss_")
        if goes_on:
            refuse_changes(self, self._built_from)
            validate_data(self, X, reset=False, skip_check_array=True)
            device, gradient, twin, network = self.device_, self._gradient, self.twin_, self._network
        else:
            made = self._specify(np.random.RandomState(0))
            device, gradient, twin = made.device, made.gradient, made.twin
            network = self._make_network(made, n_features, n_targets=1, dtype=np.dtype(float))
            gradient.prepare(network)
            prepare(made, network.bounds, self.torch_device, np.dtype(float))
        n_validation = int(np.ceil(self.validation_fraction * n_rows)) if self.early_stopping else 0
        n_training = n_rows - n_validation
        if X_val is not None:
            if np.ndim(X_val) == 1:
                raise ValueError(
                    f"'X_val' of plan must be rows like X, (n_val, {n_features}). Got {len(X_val)} single values. Nothing was "
                    "sent. A plan needs no y: use plan(X)."
                )
            n_training, (n_validation, n_others) = n_rows, _shape(X_val, self)
            if n_others != n_features:
                raise ValueError(f"'X_val' must have the {n_features} features of X. Got {n_others}.")
        counts = ShotCounts.of(self, gradient, twin, n_training, network.n_calls, n_validation)
        counts.check_budget(goes_on)
        calibration = counts.checks if goes_on else counts.calibration + counts.trial
        of_epoch = counts.epoch, counts.validation
        training, validation = (self.max_iter * n for n in of_epoch)
        training += counts.end
        if self.max_shots is not None and calibration + training + validation > self.max_shots:
            left = max(self.max_shots - calibration, 0)
            n_epochs, rest = divmod(left, max(sum(of_epoch), 1)) if validation else (0, left)
            validation = n_epochs * of_epoch[1] + max(rest - of_epoch[0], 0) if validation else 0
            training = left - validation
        return Plan(
            device=device_name(device),
            calibration=calibration,
            training=training,
            validation=validation,
            prediction_per_row=counts.per_row,
            seconds_per_shot=getattr(device, "seconds_per_shot", None),
            settling_seconds=float(getattr(device, "settling_seconds", None) or 0.0),
            joules_per_shot=getattr(device, "joules_per_shot", None),
        )

    def _specify(self, rng: np.random.RandomState) -> Specification:
        made = specify(self.device, self.control_split, self.twin, self.gradient, rng, self.torch_device)
        self._check_calibration(made)
        return made

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        validation: tuple[Any, Any, Any] = (None, None, None),
        *,
        incremental: bool = False,
        classes: Any = None,
    ) -> PhysicalNetwork:
        self._validate_params()
        if incremental:
            self._check_incremental()
        refuse_within_fit(self)
        watch = None if incremental else FitWatch(self, X, y, sample_weight)
        go_on = (incremental or self.warm_start) and hasattr(self, "loss_")
        if go_on:
            refuse_changes(self, self._built_from)
        X_val, y_val, sample_weight_val = validation
        others = {"sample_weight": sample_weight, "X_val": X_val, "y_val": y_val, "classes": classes}
        if sample_weight_val is not None:  # without it a journal knows a fit by what it knew it by before there was one
            others["sample_weight_val"] = sample_weight_val
        record = find_run(self, X, y, others, go_on=go_on, incremental=incremental)
        with closed_at_the_end(self, record):
            rng = self._rng if go_on else own_random_state(self.random_state, record)
            try:
                with (
                    taken_back_on_error(self, record, rng, go_on),
                    left_alone_if_nothing_was_asked(self),
                    scales_taken_back_on_error(self, go_on),
                ):
                    accepted = self._accept(rng, X, y, sample_weight, validation, go_on, incremental, classes)
                    self._fit_from(rng, record, watch, accepted, incremental)
            finally:
                if watch is not None:
                    watch.close()
        return self

    def _fit_from(
        self,
        rng: np.random.RandomState,
        record: JournalRun | None,
        watch: FitWatch | None,
        accepted: tuple[Specification | None, Network, Any, Any],
        incremental: bool,
    ) -> None:
        from skpat.training.loop import History
        from skpat.training.trainer import threads_for

        made, network, data, held_out = accepted
        go_on = made is None
        if made is None:  # a method may keep arrays; another process, or a shallow copy, may hold them too
            self._gradient: Any = copy.deepcopy(self._gradient)
        else:
            self._begin(made, network, rng, data.X, data.sample_weight)
        if go_on:
            self._scale_what_was_constant(data)
        data = self._ready(data, set_scale=not go_on)
        if go_on:
            warn_of_other_scales(data.X, self.weights_, data.targets)
        held_out = None if held_out is None else self._ready(held_out, set_scale=False)

        with (
            Session(
                self.device_, n_shots=self.n_shots, ledger=self.ledger_, journal=record, max_shots=self.max_shots
            ) as session,
            threads_for(self._count_batch(len(data)) * int(self.device_.n_controls)),
        ):
            if watch is not None:
                watch.begin(session)
            counts = self._shot_counts(len(data), len(held_out or ()))
            if not go_on:
                self._calibrate(session, data, counts)
            if watch is None:
                trainer = self._make_trainer(session, len(data))
                with suppress(ShotBudgetError):
                    trainer.epoch(data, self._rng)
                history = History([trainer.loss_so_far], [], [self.ledger_.asked_in_fit])
                weights = trainer.weights_now()
            else:
                trainer, weights, history = self._train(session, data, held_out, watch, counts, go_on)
            if go_on:
                warn_if_exchanged(self, session.identity)
            self._identity = session.identity
            if held_out is not None:
                self._held_out_keys = held_out.row_keys
            self._record(trainer, weights, history, incremental, held_out is not None)
            self._penalty = _penalty(weights, self.alpha, data.sample_weight)
            if watch is not None:
                watch.end(history)
        if record is not None and not history.interrupted:
            record.note_end()

    def _accept(
        self,
        rng: np.random.RandomState,
        X: Any,
        y: Any,
        sample_weight: Any,
        validation: tuple[Any, Any, Any],
        go_on: bool,
        incremental: bool,
        classes: Any,
    ) -> tuple[Specification | None, Network, Any, Any]:
        """The parts of a new network (None, and the old network, for one that goes on), the data to train with and those held
        out. Whatever is wrong with them is told here. Nothing is sent."""
        from skpat.training.trainer import Data

        made = None if go_on else self._specify(rng)
        floats = float_types(made)
        X, y = validate_data(self, X, y, reset=not go_on, accept_sparse="csr", dtype=floats, **self._y_checks)
        sample_weight = _check_sample_weight(sample_weight, X, dtype=X.dtype, ensure_non_negative=True)
        targets = self._encode_targets(y, classes, first=not go_on)
        sample_weight = self._reweight(y, sample_weight)
        if not sample_weight.any():
            raise ValueError("Weights of the rows, class_weight included, must have a positive entry. Got zeros only.")
        kept = sample_weight > 0  # rows of no weight would cost shots
        X, targets, sample_weight = dense(X[kept]), targets[kept], sample_weight[kept]
        data = Data(X, targets, sample_weight, hash_rows(X))
        data, held_out = self._hold_out(data, validation, go_on, incremental, rng)
        if made is None:
            self._shot_counts(len(data)).check_budget(goes_on=True)
            return None, self._network, data, held_out
        network = self._make_network(made, data.X.shape[1], self._count_scores(), data.X.dtype)
        made.gradient.prepare(network)
        n_validation = len(held_out or ())
        ShotCounts.of(self, made.gradient, made.twin, len(data), network.n_calls, n_validation).check_budget()
        prepare(made, network.bounds, self.torch_device, data.X.dtype)
        return made, network, data, held_out

    def _labelled_data(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Rows of positive weight, with their targets, as the fitted network's training takes them. Nothing is sent."""
        from skpat.training.trainer import Data

        dtype = self.weights_["layers.0.gain"].dtype
        X, y = validate_data(self, X, y, reset=False, accept_sparse="csr", dtype=dtype, **self._y_checks)
        sample_weight = _check_sample_weight(sample_weight, X, dtype=dtype, ensure_non_negative=True)
        targets = self._encode_targets(y, None, first=False)
        sample_weight = self._reweight(y, sample_weight)
        kept = sample_weight > 0
        X = dense(X[kept])
        return self._ready(Data(X, targets[kept], sample_weight[kept], hash_rows(X)), set_scale=False)

    def _make_network(self, made: Specification, n_features: int, n_targets: int, dtype: np.dtype) -> Network:
        return Network(
            split=representable(made.split, made.bounds, dtype),
            bounds=made.bounds,
            control_steps=getattr(made.device, "control_steps", None),
            n_features=n_features,
            n_outputs=int(made.device.n_outputs),
            n_targets=n_targets,
            n_layers=self.n_layers,
            n_units=self.n_units,
            encoder=clone(self.encoder, safe=False),
            readout=self.readout,
            skip=self.skip,
        )

    def _begin(
        self,
        made: Specification,
        network: Network,
        rng: np.random.RandomState,
        X: np.ndarray,
        sample_weight: np.ndarray,
    ) -> None:
        """The first weights, and what a fit starts with. Nothing is sent."""
        self.__dict__.pop("recalibration_", None)
        self.__dict__.pop(
            "loss_", None
        )  # until the training has ended, there is nothing to predict with or to go on from
        self._network, self._built_from = network, construction(self)
        X_first = X.astype(np.float64, copy=False)
        first = self._network.initial_weights(X_first, sample_weight.astype(np.float64), rng)
        self.weights_ = {name: value.astype(X.dtype) for name, value in first.items()}
        self.device_, self._gradient = made.device, made.gradient
        self.twin_: Any = made.twin
        self.control_split_ = made.split
        self.ledger_ = Ledger.of(made.device)
        self._rng, self._optimizer_state = rng, None
        self._held_out_keys = ()
        self.n_iter_ = 0
        self.pretrained_ = False
        self.alignments_: list[Any] = []
        self.loss_curve_: list[float] = []
        self.shots_curve_: list[int] = []

    def _ready(self, data: Any, set_scale: bool) -> Any:
        """The data in the weights' dtype, the targets on the scale of the scores."""
        dtype = self.weights_["layers.0.gain"].dtype
        targets = self._prepare_targets(data.targets, data.sample_weight if set_scale else None, dtype)
        X, sample_weight = (part.astype(dtype, copy=False) for part in (data.X, data.sample_weight))
        return replace(data, X=X, targets=targets, sample_weight=sample_weight)

    def _make_trainer(self, session: Session, n_rows: int, purpose: str = "training") -> Any:
        from skpat.training.trainer import Settings, Trainer

        settings = Settings(
            batch_size=self._count_batch(n_rows),
            max_iter=self.max_iter,
            learning_rate_init=self.learning_rate_init,
            alpha=self.alpha,
            tol=self.tol,
            n_iter_no_change=self.n_iter_no_change,
            shuffle=self.shuffle,
            early_stopping=self.early_stopping,
            verbose=int(self.verbose),
        )
        return Trainer(
            self._network,
            self.weights_,
            copy.deepcopy(self._statistics),
            loss=self._loss(),
            gradient=self._gradient,
            session=session,
            twin=self.twin_,
            settings=settings,
            torch_device=self.torch_device,
            optimizer_state=self._optimizer_state if purpose == "training" else None,
            purpose=purpose,
        )

    def _count_batch(self, n_rows: int) -> int:
        if self.batch_size == "auto":
            return n_rows if n_rows <= _FULL_BATCH_UP_TO else _SMALL_BATCH
        return min(self.batch_size, n_rows)

    def _shot_counts(self, n_rows: int, n_validation: int = 0) -> ShotCounts:
        """Those of a training of the network as it is."""
        return ShotCounts.of(self, self._gradient, self.twin_, n_rows, self._network.n_calls, n_validation)

    def _train(
        self, session: Session, data: Any, held_out: Any, watch: FitWatch, counts: ShotCounts, go_on: bool
    ) -> tuple[Any, Any, Any]:
        """All epochs of a fit: in silico first, if the method asks for it. The trainer, its best weights and the history."""
        from skpat.training.loop import Checks, train
        from skpat.training.pretraining import BEGIN_AT
        from skpat.training.progress import Progress
        from skpat.training.useless_twin import CHECK_AT, check_alignment, warn_if_useless

        found: list[Any] = []
        self.alignments_ = found
        in_silico = None if go_on else self._pretrain(session, data, replace(counts, twin=self.twin_).trial_rows)
        trainer = self._make_trainer(session, len(data))
        if in_silico is not None and in_silico.interrupted:
            return trainer, self.weights_, in_silico

        def check() -> None:
            found.append(check_alignment(trainer, data, n_training_shots=counts.training, random_state=len(found)))

        weights, history = train(
            trainer,
            data,
            self._rng,
            validate=None if held_out is None else self._validation(session, held_out),
            note=Progress(session, trainer.settings, on_twin=not self._gradient.validates_on_device),
            watch=watch,
            shots_per_epoch=counts.epoch + counts.validation,
            checks=Checks(check, CHECK_AT, counts.check) if counts.check else None,
            begin_at=BEGIN_AT if self.pretrained_ and not go_on else 0.0,
        )
        warn_if_useless(found, trainer)
        return trainer, weights, history

    def _record(self, trainer: Any, weights: Any, history: Any, incremental: bool, validated: bool) -> None:
        self.weights_, self._statistics = weights, trainer.statistics
        self._optimizer_state = trainer.optimizer_state()
        self.n_iter_ = self.n_iter_ + 1 if incremental else len(history.loss_curve)
        self.loss_curve_ = self.loss_curve_ + history.loss_curve if incremental else history.loss_curve
        self.loss_ = self.loss_curve_[-1]
        self.shots_curve_ = self.shots_curve_ + history.shots_curve if incremental else history.shots_curve
        self.validation_scores_ = history.validation_scores if validated else None
        self.best_validation_score_ = max(history.validation_scores, default=None) if validated else None

    def deploy(self) -> Any:
        """The trained network without what training needed: numpy and the device, to be saved without pickle.

        Returns
        -------
        DeployedNetwork
            Predicts the same numbers on the same device, and is independent of what becomes of this estimator.
            See :class:`skpat.deployment.DeployedNetwork`.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from skpat import PhysicalNetworkClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> network = PhysicalNetworkClassifier(max_iter=1, random_state=0).fit(X, y)
        >>> bool((network.deploy().predict(X) == network.predict(X)).all())
        True
        """
        from skpat.deployment import DeployedNetwork

        check_is_fitted(self, "loss_")
        return DeployedNetwork(
            self.device_,
            self._network,
            self.weights_,
            classes=getattr(self, "classes_", None),
            multilabel=getattr(self, "multilabel_", False),
            target_mean=getattr(self, "_target_mean", None),
            target_scale=getattr(self, "_target_scale", None),
            target_ndim=getattr(self, "_target_ndim", None),
            feature_names=getattr(self, "feature_names_in_", None),
            n_shots=self.n_shots,
            identity=self._identity,
            n_before=self.ledger_.clock,
        )

    @property
    def shots_(self) -> dict[str, int]:
        """Shots so far by purpose: calibration, training, validation, prediction; recalibration from the first one on."""
        check_is_fitted(self, "ledger_")
        return self.ledger_.shots

    def _predict_scores(self, X: Any) -> np.ndarray:
        """Scores (n_rows, n_scores), every layer measured on the device."""
        check_is_fitted(self, "loss_")
        dtype = self.weights_["layers.0.gain"].dtype
        X = validate_data(self, X, reset=False, accept_sparse="csr", dtype=dtype)
        scores = np.empty((X.shape[0], self._count_scores()), dtype=dtype)
        watch = PredictionWatch(self._network, self.weights_)
        with prediction_session(self, X.shape[0]) as session:
            for rows in gen_batches(X.shape[0], PREDICTION_ROWS):
                chunk = dense(X[rows])
                run = session.run(hash_rows(chunk), "prediction", shot=PREDICTION_SHOT)
                scores[rows] = forward(self._network, self.weights_, chunk, watch.over(chunk, run))
            warn_if_exchanged(self, session.identity)
        return scores

    def __sklearn_is_fitted__(self) -> bool:
        """Whether there is a training to predict with; the attributes of one that failed stay, to be looked at."""
        return hasattr(self, "loss_")

    def __getstate__(self) -> dict[str, Any]:
        return without_callbacks(super().__getstate__())

    def _check_incremental(self) -> None:
        """Refuse what ``partial_fit`` cannot do. Nothing is sent."""
        if self.early_stopping:
            raise ValueError(
                "'early_stopping' must be False for partial_fit, which goes through its rows once and holds none of them out. "
                "Got True. Nothing was sent. Use set_params(early_stopping=False), or fit."
            )

    def _reweight(self, y: np.ndarray, sample_weight: np.ndarray) -> np.ndarray:
        return sample_weight

    def _scale_what_was_constant(self, data: Any) -> None:
        """Targets that were constant until now have no scale; a fit that goes on may bring one."""

    def _strata(self, targets: np.ndarray) -> np.ndarray | None:
        return None

    def _sk_visual_block_(self) -> Any:
        """The HTML representation: the estimator around its device and twin, each named."""
        from sklearn.utils._repr_html.estimator import _VisualBlock

        device = default_device() if self.device is None else self.device
        names = [f"device: {device_name(device)}" + (" (default)" if self.device is None else "")]
        parts = [device]
        if self.twin is not None:
            parts.append(self.twin)
            names.append(f"twin: {type(self.twin).__name__}")
        return _VisualBlock("parallel", parts, names=names, name_details=[str(part) for part in parts])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _penalty(weights: dict[str, np.ndarray], alpha: float, sample_weight: np.ndarray) -> float:
    """The part of the loss that is L2 penalty."""
    squares = sum(
        float(np.square(value, dtype=float).sum()) for name, value in weights.items() if name.endswith(".coef")
    )
    return 0.5 * alpha * squares / float(sample_weight.sum())


def _shape(X: Any, estimator: Any) -> tuple[int, int]:
    """Rows and features of data that a fit would take."""
    n_rows, n_features = check_array(
        X, accept_sparse="csr", dtype=float_types(), estimator=estimator, input_name="X"
    ).shape
    return n_rows, n_features
