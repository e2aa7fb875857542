"""Whether a twin is of any use to a training: a few cheap checks, and a warning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from skpat.exceptions import UselessTwinWarning
from skpat.training.alignment import Alignment, measure_alignment, pooled
from skpat.user_warning import warn_user

if TYPE_CHECKING:
    from skpat.training.trainer import Data, Trainer

__all__ = ["CHECK_AT", "count_check_shots", "check_alignment", "is_useless", "warn_if_useless"]

CHECK_AT = (0.0, 0.3, 1.0)
"""When a fit checks its gradients: parts of its epochs."""

# Thresholds of :func:`is_useless`, chosen with tests/benchmarks/useless_twins.py on other seeds than those of its figures. A
# gain is the measured slope of the loss along the gradient, divided by the slope that the gradient promises.
_GOOD_ABOVE = 0.8  # cosine: a good twin, whatever the gain
_USELESS_BELOW = 0.6  # cosine: a useless twin, but for the exceptions below
_GAIN_OF_NOTHING = 0.3  # a cosine between the two needs at least this gain
_DOUBTFUL_ABOVE, _GAIN_THAT_HELPS = 0.45, 0.45  # cosine and gain of a poor twin that still leads downhill,
_KNOWN_TO = 0.3  # if the standard error of its cosine is below this
_PROMISE_HELD = 0.85  # gain of a twin that may be good: in noise it is not called useless if it may reach this
_SURELY = 2.0  # by so many standard errors

# The size of the checks.
_FEWEST_SHOTS, _SHARE = 500, 0.02  # all checks together: evaluations of a row, or a share of the training's shots
_MOST_ROWS = 32
_FEW, _MANY = 3, 4  # random directions of a check, and of one of full size


def _rows_and_directions(n_calls: int, n_training_shots: int) -> tuple[int, int]:
    """How many rows and random directions one check may have; ``n_calls`` as in :func:`count_check_shots`."""
    evaluations = max(_FEWEST_SHOTS, _SHARE * n_training_shots / n_calls) / len(CHECK_AT)
    if evaluations >= _MOST_ROWS * _evaluations(_MANY):
        return _MOST_ROWS, _MANY
    return min(int(evaluations / _evaluations(_FEW)), _MOST_ROWS), _FEW


def _evaluations(n_directions: int) -> int:
    """How often a check evaluates each row: twice as it is, and up and down along the gradient and each direction."""
    return 2 + 2 * (n_directions + 1)


def count_check_shots(n_rows: int, n_calls: int, n_training_shots: int, n_more: int = 0) -> int:
    """Shots of one :func:`check_alignment`.

    Parameters
    ----------
    n_rows : int
        Rows of the training data.
    n_calls : int
        Shots that one row takes: its device calls times ``n_shots``.
    n_training_shots : int
        Shots of the whole training.
    n_more : int, default=0
        Evaluations of the loss that the method's own gradient needs beyond the one at the weights.

    Returns
    -------
    int
        All checks of a fit together take at most ``500 * n_calls`` shots, or 2 % of the training's if that is more. One check
        takes at most ``384 * n_calls``: 32 rows, each evaluated 12 times. The ``n_more`` evaluations come on top. A network
        with fewer weights than random directions spends less.
    """
    most, n_directions = _rows_and_directions(n_calls, n_training_shots)
    return min(most, n_rows) * (_evaluations(n_directions) + n_more) * n_calls


def check_alignment(
    trainer: Trainer, data: Data, *, n_training_shots: int | None = None, random_state: int = 0
) -> Alignment:
    """Measure, with few shots, how well the gradients of a training agree with the device.

    Parameters
    ----------
    trainer : Trainer
        Nothing of it is changed.
    data : Data
        The rows of the training.
    n_training_shots : int, default=None
        Shots of the whole training. None: as many as its epochs take.
    random_state : int, default=0
        For the choice of rows and directions; another one for each check of a fit.

    Returns
    -------
    Alignment

    Notes
    -----
    Costs :func:`count_check_shots` shots, counted as calibration.
    """
    network, settings = trainer.network, trainer.settings
    n_calls = network.n_calls * trainer.session.n_shots
    if n_training_shots is None:
        n_training_shots = math.ceil(settings.max_iter * len(data) * n_calls * trainer.gradient.shots_per_row)
    n_rows, n_directions = _rows_and_directions(n_calls, n_training_shots)
    return measure_alignment(trainer, data, n_rows=n_rows, n_directions=n_directions, random_state=random_state)


def is_useless(alignments: Sequence[Alignment]) -> bool:
    """Whether gradients that were checked so are hardly better than random ones.

    Parameters
    ----------
    alignments : sequence of Alignment
        The checks of one fit.

    Returns
    -------
    bool
        With the pooled cosine and the gain, the measured slope of the loss along the gradient divided by the promised one,
        the first rule that applies decides:

        1. The cosine is at least 0.8: False.
        2. The cosine is at least 0.6, and the gain at least 0.3: False.
        3. Poor, but it leads downhill (the cosine is at least 0.45 with a standard error below 0.3, and the gain is at least
           0.45): False.
        4. The gradient is zero: True.
        5. Noise leaves it open (the cosine plus its standard error reaches 0.6, and the measured slope plus two standard
           errors reaches 0.85 of ``held``, see :class:`skpat.training.alignment.Slopes`): False.
        6. Else: True.
    """
    found = pooled(alignments)
    if found.slopes is None or found.cosine >= _GOOD_ABOVE:
        return False
    if found.cosine >= _USELESS_BELOW and found.slope >= _GAIN_OF_NOTHING:
        return False
    helps = found.cosine >= _DOUBTFUL_ABOVE and found.slope >= _GAIN_THAT_HELPS
    if helps and found.standard_error < _KNOWN_TO:
        return False
    highest = found.slopes.along + _SURELY * math.sqrt(found.slopes.along_variance)
    broken = highest < _PROMISE_HELD * found.slopes.to_hold
    return broken or found.cosine + found.standard_error < _USELESS_BELOW or found.slopes.promised == 0


def warn_if_useless(alignments: Sequence[Alignment], trainer: Trainer) -> None:
    """Issue an :class:`skpat.exceptions.UselessTwinWarning` if the checks of a fit say so.

    Parameters
    ----------
    alignments : sequence of Alignment
        None at all: nothing happens.
    trainer : Trainer
        Names the twin in the message.
    """
    if not alignments or not is_useless(alignments):
        return
    found = pooled(alignments)
    knows_equations = hasattr(trainer.twin, "constants") or hasattr(trainer.twin, "physics")
    other = (
        "Let more of its constants be found, use"
        if knows_equations
        else "Use PhysicsTwin or ResidualTwin if equations are known,"
    )
    message = (
        f"The {type(trainer.twin).__name__} must have gradients like the device's to train with. In {len(alignments)} checks "
        f"({found.n_shots:,} shots) the cosine between its gradient of the loss and the measured one was {found.cosine:.2f} ± "
        f"{found.standard_error:.2f} (1 is perfect, 0 is random; it must be above {_USELESS_BELOW}), and a step along it "
        f"changed the loss by {found.slope:.2f} of what it promised (above {_GAIN_OF_NOTHING}). What was learned was learned "
        f"in spite of the twin. {other} a larger n_calibration_shots, a smaller learning_rate_init, so that a twin that learns "
        "can keep up, or gradient='spsa', which needs no twin."
    )
    warning = UselessTwinWarning(message, cosine=found.cosine, standard_error=found.standard_error)
    warn_user(warning)
