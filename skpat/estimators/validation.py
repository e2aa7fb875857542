"""The rows that a fit is judged by: what the user gave, or a part of the training data."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.validation import _check_sample_weight, validate_data

from skpat.lab.session import Session
from skpat.network.forward import forward
from skpat.network.prediction_watch import FAR_BEYOND
from skpat.row_keys import hash_rows, rank_among_equals
from skpat.user_warning import warn_user

__all__ = ["Validated", "dense", "warn_of_other_scales"]

_FEWEST_ROWS = 8  # to say so
_ANEW = (
    "Little will be learned of it: fit anew to rows of the whole range, or scale the data by what is known of it before the "
    "first call."
)


class Validated:
    """What PhysicalNetwork has from here: the validation data, and the score on them."""

    _held_out_keys: Any = ()  # names of the rows that the last fit was judged by

    def _hold_out(
        self: Any,
        data: Any,
        given: tuple[Any, Any, Any],
        go_on: bool,
        incremental: bool,
        rng: np.random.RandomState,
    ) -> tuple[Any, Any]:
        """Training and validation data; ``given`` are the user's X_val, y_val and sample_weight_val.

        Where a fit goes on, ``early_stopping`` holds out the rows that it held out before, which nothing was trained on.
        """
        X_val, y_val, sample_weight_val = given
        if (X_val is None) != (y_val is None):
            raise ValueError("'X_val' and 'y_val' must be given together. Got one of them.")
        if X_val is not None:
            return data, self._given_to_validate(X_val, y_val, sample_weight_val, data.X.dtype)
        if sample_weight_val is not None:
            raise ValueError(
                "'sample_weight_val' must come with 'X_val' and 'y_val', whose rows it weighs. Got it alone."
            )
        if not self.early_stopping or incremental:
            return data, None
        held_out = _among(data.row_keys, self._held_out_keys if go_on else ())
        if not self._fewest_validated <= held_out.sum() < len(data):
            held_out = self._draw_held_out(data, rng)
        return data.rows(np.flatnonzero(~held_out)), data.rows(np.flatnonzero(held_out))

    def _given_to_validate(self: Any, X_val: Any, y_val: Any, sample_weight_val: Any, dtype: Any) -> Any:
        """The user's validation data, weighed by the classes like those of the training."""
        from skpat.training.trainer import Data

        X_val, y_val = validate_data(
            self, X_val, y_val, reset=False, accept_sparse="csr", dtype=dtype, **self._y_checks
        )
        targets = self._encode_targets(y_val, None, first=False, name="y_val")
        try:
            weight = _check_sample_weight(sample_weight_val, X_val, dtype=dtype, ensure_non_negative=True)
        except ValueError as error:
            raise ValueError(
                f"'sample_weight_val' must be a weight for each of the {X_val.shape[0]} rows of X_val, none below 0 and one "
                f"above it. Got: {str(error).splitlines()[0].rstrip('!.')}. Nothing was sent."
            ) from error
        weight = self._reweight(y_val, weight)
        kept = weight > 0  # rows of no weight would cost shots
        if kept.sum() < self._fewest_validated:
            least = "a row" if self._fewest_validated == 1 else f"at least {self._fewest_validated} rows"
            why = ": R² is of several" if self._fewest_validated > 1 else ""
            raise ValueError(f"'X_val' must have {least} of positive weight{why}. Got {kept.sum()}. Nothing was sent.")
        X_val = dense(X_val[kept])
        return Data(X_val, targets[kept], weight[kept], hash_rows(X_val))

    def _draw_held_out(self: Any, data: Any, rng: np.random.RandomState) -> np.ndarray:
        """Which rows, shape (n_rows,), are held out from now on: some of every class."""
        from sklearn.model_selection import train_test_split

        strata = self._strata(data.targets)
        try:
            _, chosen = train_test_split(
                np.arange(len(data)), test_size=float(self.validation_fraction), random_state=rng, stratify=strata
            )
        except ValueError as error:
            raise ValueError(
                f"'early_stopping' holds out validation_fraction={self.validation_fraction:g} of the {len(data)} rows"
                f"{'' if strata is None else ', some of every class'}. Got too few for it: {str(error).rstrip('.')}. Nothing "
                "was sent. Give more rows, another validation_fraction, or X_val and y_val."
            ) from error
        if len(chosen) < self._fewest_validated:
            raise ValueError(
                f"'validation_fraction' must hold out at least {self._fewest_validated} of the {len(data)} rows: R² is of "
                f"several. Got {self.validation_fraction:g}, which holds out {len(chosen)}. Nothing was sent. Give more "
                f"rows, {'a larger validation_fraction, ' * (len(data) > self._fewest_validated)}or X_val and y_val."
            )
        held_out = np.zeros(len(data), dtype=bool)
        held_out[chosen] = True
        return held_out

    def _validation(self: Any, session: Session, held_out: Any) -> Any:
        """``validate(weights)``: the score on held-out rows, where the training itself runs."""
        from skpat.training.in_silico import through_twin

        on_device = session.run(held_out.row_keys, "validation")
        run = on_device if self._gradient.validates_on_device else through_twin(self.twin_)

        def validate(weights: dict[str, np.ndarray]) -> float:
            scores = forward(self._network, weights, held_out.X, run)
            return self._score_targets(scores, held_out.targets, held_out.sample_weight)

        return validate


def _among(row_keys: np.ndarray, wanted: Any) -> np.ndarray:
    """Which rows have one of the wanted keys; of equal rows as many as are wanted."""
    wanted = np.sort(np.asarray(wanted, dtype=row_keys.dtype))
    n_wanted = np.searchsorted(wanted, row_keys, side="right") - np.searchsorted(wanted, row_keys, side="left")
    return rank_among_equals(row_keys) < n_wanted


def dense(X: Any) -> np.ndarray:
    """Rows as an array whose rows lie one after the other."""
    return np.ascontiguousarray(X.toarray() if hasattr(X, "toarray") else X)


def warn_of_other_scales(X: np.ndarray, weights: dict[str, np.ndarray], targets: np.ndarray, mend: str = _ANEW) -> None:
    """Warn where what goes on from a fit is given rows far beyond the scales of its first call, which stay.

    Parameters
    ----------
    X : ndarray of shape (n_rows, n_features)
    weights : dict of str to ndarray
        With ``encoder.mean`` and ``encoder.scale``.
    targets : ndarray of shape (n_rows,) or (n_rows, n_targets)
        On the scale of the scores, where they are numbers; classes are no concern.
    mend : str, default=_ANEW
        What to do about it.
    """
    if len(X) < _FEWEST_ROWS:
        return
    features = np.median(np.abs(X - weights["encoder.mean"]) / weights["encoder.scale"], axis=0)
    found = [("features of X", "feature", features)]
    if targets.ndim == 2:
        found.append(("targets", "target", np.median(np.abs(targets), axis=0)))
    for what, one, distance in found:
        if (furthest := distance.max(initial=0.0)) > FAR_BEYOND:
            warn_user(
                f"The {what} must stay on the scale of the first rows that were fitted, which is kept. Got {one} "
                f"{int(distance.argmax())} at {furthest:.3g} times that scale, by its median. {mend}",
            )
            return
