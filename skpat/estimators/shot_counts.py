"""How many shots the parts of a fit take, counted before anything is sent."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["ShotCounts"]

_FEWEST_STATISTICS_ROWS = 16
_CHECK_SHARE = 0.1  # of the training's shots: checks of the gradient that would take more are left out
_TRIAL_SHARES = 0.1, 0.25  # what a trial takes of the training's shots, if that is rows enough; what it takes at most
_AUTO_CALIBRATION_SHOTS = (200, 10_000)


@dataclass(frozen=True)
class ShotCounts:
    """What a fit takes at most, part by part.

    Parameters
    ----------
    gradient : GradientEstimator
    twin : Twin or None
    n_rows : int
        Rows to train on.
    n_calls : int
        Device calls of one row.
    n_shots : int
        Measurements of each setting.
    n_calibration_shots : int or "auto"
    batch_size : int
    max_iter : int
    max_shots : int or None
        The budget, of which each part gets a share.
    n_validation : int, default=0
        Rows to validate on after every epoch.
    """

    gradient: Any
    twin: Any
    n_rows: int
    n_calls: int
    n_shots: int
    n_calibration_shots: Any
    batch_size: int
    max_iter: int
    max_shots: int | None
    n_validation: int = 0

    @classmethod
    def of(
        cls, estimator: Any, gradient: Any, twin: Any, n_rows: int, n_calls: int, n_validation: int = 0
    ) -> ShotCounts:
        """Those of an estimator's fit to so many rows, with a network of so many calls."""
        return cls(
            gradient=gradient,
            twin=twin,
            n_rows=n_rows,
            n_calls=n_calls,
            n_shots=estimator.n_shots,
            n_calibration_shots=estimator.n_calibration_shots,
            batch_size=estimator._count_batch(n_rows),
            max_iter=estimator.max_iter,
            max_shots=estimator.max_shots,
            n_validation=n_validation,
        )

    @property
    def per_row(self) -> int:
        """Shots of one row that is predicted."""
        return self.n_calls * self.n_shots

    @property
    def epoch(self) -> int:
        """Shots of the steps of one epoch."""
        return math.ceil(self.n_rows * self.per_row * self.gradient.shots_per_row)

    @property
    def validation(self) -> int:
        """Shots of validating after one epoch."""
        return self.n_validation * self.per_row if self.gradient.validates_on_device else 0

    @property
    def training(self) -> int:
        """Shots of all epochs, as far as the budget allows."""
        n = self.max_iter * self.epoch
        return n if self.max_shots is None else min(n, self.max_shots)

    @property
    def end(self) -> int:
        """Shots that the method takes at the end of a training."""
        return self.n_rows * self.per_row * self.gradient.final_shots_per_row

    @property
    def first_step(self) -> int:
        """Shots of one batch, and of what the method does with it at the end of a training."""
        evaluations = math.ceil(self.gradient.shots_per_row) + self.gradient.final_shots_per_row
        return self.batch_size * evaluations * self.per_row

    @property
    def statistics_rows(self) -> int:
        """Rows that the statistics of the outputs start from."""
        from skpat.training.calibration import STATISTICS_ROWS

        n_rows = min(self.n_rows, STATISTICS_ROWS)
        if self.max_shots is None:
            return n_rows
        most = max(self.max_shots // 8, self._share_of_left(n_rows * self.per_row))
        return min(n_rows, max(_FEWEST_STATISTICS_ROWS, most // self.per_row))

    @property
    def twin_settings(self) -> int:
        """Settings that a twin is calibrated with, each measured ``n_shots`` times."""
        if self.n_calibration_shots != "auto":
            return int(self.n_calibration_shots)
        low, high = _AUTO_CALIBRATION_SHOTS
        wanted = min(max(2 * self.n_rows * self.n_calls, low), high)
        if self.max_shots is None:
            return wanted
        most = max(self.max_shots // 4, self._share_of_left(wanted * self.n_shots))
        return min(wanted, most // self.n_shots)

    def _share_of_left(self, wanted: int) -> int:
        """What a part of the calibration that wants so much gets of the budget that the training has no use for."""
        everything = replace(self, max_shots=None)
        left = (self.max_shots or 0) - everything.whole_training
        all_wanted = everything.calibration + everything.trial
        if self.n_calibration_shots != "auto" and self.gradient.uses_twin:  # these are taken, not shared
            fixed = int(self.n_calibration_shots) * self.n_shots
            left, all_wanted = left - fixed, all_wanted - fixed
        return max(left, 0) * wanted // max(all_wanted, 1)

    @property
    def whole_training(self) -> int:
        """Shots of all epochs, with what is validated after each and what the method does at the end."""
        return self.max_iter * (self.epoch + self.validation) + self.end

    @property
    def check(self) -> int:
        """Shots of one check that tells a useless twin; none where the checks would be a burden."""
        from skpat.training.useless_twin import CHECK_AT, count_check_shots

        if not (self.gradient.uses_twin and self.gradient.trains_on_device):
            return 0
        n = count_check_shots(self.n_rows, self.per_row, self.training, math.ceil(self.gradient.shots_per_row) - 1)
        return n if len(CHECK_AT) * n <= _CHECK_SHARE * self.training else 0

    @property
    def checks(self) -> int:
        """Shots of all of these."""
        from skpat.training.useless_twin import CHECK_AT

        return len(CHECK_AT) * self.check

    @property
    def calibration(self) -> int:
        """Shots that are counted as calibration, the checks of the training among them."""
        n_twin = self.twin_settings if self.gradient.uses_twin else 0
        return (self.statistics_rows * self.n_calls + n_twin) * self.n_shots + self.checks

    @property
    def trial(self) -> int:
        """Shots, counted as calibration, too, that tell what a training in silico is worth."""
        return self.trial_rows * self.per_row

    @property
    def trial_rows(self) -> int:
        """Rows that tell it.

        None, if there is no such training, if the fewest would be a burden, or if the budget would not reach to the first step.
        """
        from skpat.training.pretraining import FEWEST_TRIAL_ROWS, TRIAL_ROWS

        if self.gradient.pretrain != "auto" or not self.gradient.begins_in_silico(self.twin):
            return 0
        wanted, most = (int(share * self.training) // self.per_row for share in _TRIAL_SHARES)
        if self.max_shots is not None:
            most = min(most, (self.max_shots - self.calibration - self.first_step) // self.per_row)
        n_rows = min(max(wanted, FEWEST_TRIAL_ROWS), TRIAL_ROWS, most)
        return n_rows if n_rows >= FEWEST_TRIAL_ROWS else 0

    def check_budget(self, goes_on: bool = False) -> None:
        """Refuse a budget that does not reach to the first step of the training. Nothing has been sent.

        Parameters
        ----------
        goes_on : bool, default=False
            Whether the fit goes on from another, and needs no calibration.

        Raises
        ------
        ValueError
            That says what would be enough.
        """
        if self.max_shots is None:
            return

        def needed(max_shots: int) -> int:
            counts = replace(self, max_shots=max_shots)
            return self.first_step + (counts.checks if goes_on else counts.calibration)

        least = self.max_shots
        while needed(least) > least:  # a larger budget gives more to the calibration
            least = needed(least)
        if self.max_shots < least:
            what = "one batch" if goes_on else "the calibration and one batch"
            raise ValueError(
                f"'max_shots' must allow for {what}, {least:,} shots in all. Got {self.max_shots:,}. Nothing was sent. "
                f"Use a larger max_shots, or a smaller {'' if goes_on else 'n_calibration_shots, '}batch_size or n_shots."
            )
