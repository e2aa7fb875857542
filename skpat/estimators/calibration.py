"""What a fit measures before its first step, and how much of that there is."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import clone

from skpat.devices.specification import channel_periods, slow_channels
from skpat.estimators.shot_counts import ShotCounts
from skpat.exceptions import NonFiniteTrainingError, TwinError
from skpat.lab.session import Session
from skpat.seeding import seeded_copy
from skpat.user_warning import warn_user

__all__ = ["Calibrated"]


class Calibrated:
    """What PhysicalNetwork has from here: the outputs' first statistics, and a twin to begin with."""

    def _calibrate(self: Any, session: Session, data: Any, counts: ShotCounts) -> None:
        """Measure what the output statistics and the twin start from."""
        from skpat.training.calibration import (
            calibrate_in_rounds,
            calibration_shots,
            start_statistics,
            warn_of_first_far,
        )
        from skpat.training.method_contract import check_twin

        if self.verbose:
            print(f"Calibration: at most {counts.calibration - counts.checks:,} shots", flush=True)
        network, weights, rng = self._network, self.weights_, self._rng
        rows = (network, weights, data.X, data.sample_weight, data.row_keys)
        self._statistics, first = start_statistics(
            *rows,
            rng,
            lambda keys: session.run(keys, "calibration"),
            counts.statistics_rows,
        )
        if not self._gradient.uses_twin:
            self.twin_, self.twin_score_ = None, None
            return

        told = False

        def measure(batch: Any) -> np.ndarray:
            nonlocal told
            outputs: np.ndarray = session.run(np.arange(batch.n_rows, dtype=np.uint64), "calibration")(batch, 0, 0)
            told = told or warn_of_first_far(outputs, network.n_outputs)
            return outputs

        if self._gradient.explores(self.twin_):
            self._calibrate_on_policy(data, first, measure, counts.twin_settings)
        else:
            n_most = counts.twin_settings

            def more(n_shots: int) -> Any:
                return calibration_shots(*rows, n_shots, rng, measure, slow_channels(self.device_))

            if self.n_calibration_shots == "auto" and self.twin_.few_shots:
                shots = calibrate_in_rounds(self.twin_, more, n_most)
            else:
                shots = more(n_most)
                self.twin_.fit(*shots)
            if self.twin is None:
                self._correct_equations(data, shots, measure, n_most - len(shots[0]))
        check_twin(self.twin_, network.bounds, network.n_outputs)
        self.twin_score_ = getattr(self.twin_, "score_", np.nan)  # a twin of the user's own need not know
        if self.verbose:
            print(f"Calibration: {session.ledger.total:,} shots, R² of the twin {self.twin_score_:.3f}", flush=True)

    def _correct_equations(
        self: Any, data: Any, shots: tuple[np.ndarray, np.ndarray], measure: Any, n_left: int
    ) -> None:
        """Where the device's equations leave out what the shots of the calibration tell of, the twin learns that, too."""
        from skpat.training.calibration import DITHER_ROWS, FITTED_ERROR
        from skpat.twins import NeuralTwin, PhysicsTwin, ResidualTwin

        if not isinstance(self.twin_, PhysicsTwin) or not 1 - self.twin_.score_ > FITTED_ERROR:
            return
        if hasattr(self.twin_.module_, "forward_batch"):  # too many channels to send each row others
            return
        twin = seeded_copy(ResidualTwin(clone(self.twin_), NeuralTwin(torch_device=self.torch_device)), self._rng)
        if not self._gradient.explores(twin):
            return
        twin.learn_specification(self._network.bounds, channel_periods(self.device_))
        try:
            twin.check(self.device_.n_controls, self.device_.n_outputs)
        except TwinError:  # more channels than a correction can hold
            return
        twin.fit(*shots)
        if twin.score_ > twin.physics_score_:  # else what the equations leave is noise
            self.twin_ = twin
            self._measure_displacements(data, measure, min(DITHER_ROWS, n_left // 3))

    def _calibrate_on_policy(
        self: Any, data: Any, first: tuple[np.ndarray, np.ndarray], measure: Any, n_most: int
    ) -> None:
        """A short calibration where the training begins; the twin goes on learning there."""
        from skpat.training.calibration import DITHER_ROWS, calibrate_on_policy, draw_rows, on_policy_shots

        if not n_most:
            self.twin_.fit(*first)
            return
        dither, n_spent = self._measure_displacements(data, measure, min(DITHER_ROWS, n_most // 6))
        n_moved = 0

        def move(controls: np.ndarray) -> np.ndarray:
            nonlocal n_moved
            keys = np.arange(n_moved, n_moved + len(controls), dtype=np.uint64)
            n_moved += len(controls)
            return dither.displaced(controls, keys, -1, 2 * self._gradient.explorer.initial_size)

        def more(n_shots: int) -> tuple[np.ndarray, np.ndarray]:
            n_rows = -(-n_shots // self._network.n_calls)
            drawn = draw_rows(data.row_keys, data.sample_weight, n_rows, self._rng)
            return on_policy_shots(self._network, self.weights_, data.X[drawn], n_shots, move, measure, dither.slow)

        n_left = n_most - n_spent
        if self.n_calibration_shots == "auto":
            calibrate_on_policy(self.twin_, more, n_left)
        else:
            self.twin_.fit(*more(n_left))

    def _measure_displacements(self: Any, data: Any, measure: Any, n_rows: int) -> tuple[Any, int]:
        """What displaces the settings, by as much as three shots of each of some rows tell; and how many shots that took."""
        from skpat.training.calibration import draw_rows, size_of_dither
        from skpat.training.dither import Dither

        explorer = self._gradient.explorer
        dither = Dither(self._network, self.device_, explorer.seed)
        if explorer.dither != "auto" or not n_rows:
            return dither, 0
        drawn = draw_rows(data.row_keys, data.sample_weight, n_rows, self._rng)
        explorer.size = size_of_dither(self._network, self.weights_, data.X[drawn], dither, measure)
        return dither, 3 * n_rows

    def _pretrain(self: Any, session: Session, data: Any, trial_rows: int) -> Any:
        """A training in silico before the one on the device, if the method asks for it; ``pretrained_`` tells whether the
        device goes on from what it found. There are shots for ``trial_rows`` rows to tell.

        Its history; None if there was none, or none that ended with numbers.
        """
        from skpat.training.pretraining import pretrain

        tried = self._gradient.pretrain == "auto"
        if not self._gradient.begins_in_silico(self.twin_) or (tried and not trial_rows):
            return None
        if self.verbose:
            print("In silico: trains on the twin first, without a shot", flush=True)
        rng = np.random.RandomState()
        rng.set_state(self._rng.get_state())  # what is not kept leaves the training as it would have been
        trainer = self._make_trainer(session, len(data))
        history: Any = None
        kept, said = False, "no finite loss"
        try:
            found, history = pretrain(trainer, data, rng)
            said = f"{len(history.loss_curve)} epochs, loss {history.loss_curve[-1]:.4g}"
            kept = history.interrupted or not tried or self._is_confirmed(trainer, data, trial_rows, rng, history)
        except NonFiniteTrainingError:
            if not tried:
                raise
        if kept:
            self.weights_, self._statistics = found, trainer.statistics
        self.pretrained_ = kept and not history.interrupted
        if self.verbose and self.pretrained_:
            print(f"In silico: {said}; the device goes on from there", flush=True)
        elif self.verbose and not kept:
            print(f"In silico: {said}; not confirmed by the device, which begins anew", flush=True)
        return history

    def _is_confirmed(
        self: Any, trainer: Any, data: Any, n_rows: int, rng: np.random.RandomState, history: Any
    ) -> bool:
        """Whether so many rows on the device confirm what was found in silico; Ctrl-C ends the fit with it, as in silico."""
        from skpat.training.calibration import draw_rows
        from skpat.training.pretraining import is_confirmed

        drawn = draw_rows(data.row_keys, data.sample_weight, n_rows, rng)
        try:
            return is_confirmed(trainer, data.rows(drawn))
        except KeyboardInterrupt:
            history.interrupted = True
            warn_user(
                "The training was interrupted before its first step on the device. The estimator keeps the weights that were "
                "found in silico.",
            )
            return True

    def _check_calibration(self: Any, made: Any) -> None:
        """Refuse a twin that has nothing to learn from. Nothing has been sent."""
        if not (made.gradient.uses_twin and made.twin.needs_shots) or self.n_calibration_shots:
            return
        if not made.gradient.explores(made.twin):  # else it begins with the shots of the statistics, and learns on
            raise ValueError(
                f"'n_calibration_shots' must be at least 1 for {type(made.twin).__name__} with {type(made.gradient).__name__}: "
                "nothing else tells the twin anything before the training begins. Got 0. Nothing was sent. Use "
                "n_calibration_shots='auto', "
                "gradient='physics_aware', or a PhysicsTwin, which also takes its constants on trust."
            )
