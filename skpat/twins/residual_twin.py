"""A twin made of the system's own equations and of what was learned about their error."""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from skpat.controls import ControlBatch
from skpat.exceptions import TwinError
from skpat.nested_parameters import refuse_nested_of_plain
from skpat.seeding import seeded_copy
from skpat.twins.base import (
    LEAST_TRUST,
    TRUST_MOMENTUM,
    Twin,
    check_channels,
    check_shots,
    hold_out,
    of_weight,
    spread_of,
    varies,
)

if TYPE_CHECKING:
    import torch

__all__ = ["ResidualTwin"]


class ResidualTwin(Twin):
    r"""Physics plus a learned correction: the equations say most, and measurements what the equations leave out.

    .. math::

        y(c) = p(c) + r(c, p(c)),

    with the model's answer :math:`p` at the controls :math:`c` and a correction :math:`r` learned from what the model leaves.
    For a device whose equations are known, but neither all of its constants nor every effect: a detector that saturates,
    channels that leak into each other.

    Parameters
    ----------
    physics : PhysicsTwin
        The unfitted model :math:`p`; or another twin. Its parameters are reached as ``physics__...``.
    correction : Twin, default=None
        The unfitted correction :math:`r`. None: :class:`skpat.twins.NeuralTwin` (). Its parameters are reached as
        ``correction__...``.
    feed_physics : bool, default=True
        Whether the correction sees the model's answer beside the controls, as ``n_outputs`` channels more. False:
        :math:`r(c)`. An error that follows the answer (of a detector, an amplifier) is then much harder to learn.
    validation_fraction : float, default=0.1
        Share of the shots that neither part learns from, for ``score_``. 0 holds out none. (Each part may hold out some of the
        others for itself.)
    random_state : int, RandomState instance or None, default=None
        For the held-out shots, and for the parts where they have no seed of their own.

    Attributes
    ----------
    physics_, correction_ : Twin
        As fitted; the constants that were found are ``physics_.constants_``.
    module_ : torch.nn.Module
        Controls (n_rows, n_controls) to outputs (n_rows, n_outputs), in the device's units.
    score_ : float
        R² on the held-out shots.
    physics_score_ : float
        R² of the model alone on the same shots.
    trust_ : ndarray of shape (n_outputs,)
        R² of each output, between 0.02 and 1: of the held-out shots at first, then a running mean over the calls of
        :meth:`partial_fit` of how well new shots were predicted before they were learned.
    n_features_in_ : int
        Number of control channels.

    Notes
    -----
    :meth:`fit` finds the model's constants first, as if nothing else were wrong, and the correction from what remains, in
    units of the outputs' spread. :meth:`partial_fit` does the same in small: first the constants, if the model has any to be
    found, on what the correction leaves; then the correction on what the model leaves.

    The correction needs every control of every row: a device with more channels than it can hold is refused, and wants a
    :class:`skpat.twins.PhysicsTwin`.

    References
    ----------
    Psichogios, Ungar, AIChE J. 38, 1499 (1992), doi:10.1002/aic.690381003, for models that are half equations and half
    network.

    Examples
    --------
    A laser with another crystal than was believed, and a detector that saturates:

    >>> import numpy as np
    >>> from skpat.devices import SecondHarmonicLaser
    >>> from skpat.twins import PhysicsTwin, ResidualTwin
    >>> real = SecondHarmonicLaser(8, 4, coupling=28.0, random_state=0)
    >>> controls = np.random.default_rng(0).uniform(size=(500, 8))
    >>> outputs = 20 * np.tanh(real.measure(controls) / 20)
    >>> believed = PhysicsTwin(SecondHarmonicLaser(8, 4), ["coupling"])
    >>> twin = ResidualTwin(believed, random_state=0).fit(controls, outputs)
    >>> bool(twin.score_ > twin.physics_score_)
    True
    """

    _parameter_constraints = {
        "physics": "no_validation",
        "correction": "no_validation",
        "feed_physics": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "random_state": ["random_state"],
    }

    def __init__(self, physics=None, correction=None, *, feed_physics=True, validation_fraction=0.1, random_state=None):
        self.physics = physics
        self.correction = correction
        self.feed_physics = feed_physics
        self.validation_fraction = validation_fraction
        self.random_state = random_state

    _specification: tuple[np.ndarray, np.ndarray] | None = None

    needs_shots = True

    @property
    def explores(self) -> bool:  # type: ignore[override]  # an attribute of the base class, derived here
        """Whether the training's shots are to be displaced at random: as the correction wants it."""
        return bool(self._unfitted_correction().explores)

    def set_params(self, **params: Any) -> ResidualTwin:
        """Set parameters, those of the parts included.

        Raises
        ------
        NestedParameterError
            If a parameter of ``correction`` is set while ``correction`` is None.
        """
        fixes = {"physics": "physics=PhysicsTwin(device, constants)", "correction": "correction=NeuralTwin()"}
        refuse_nested_of_plain(self, params, fixes)
        return super().set_params(**params)

    def learn_specification(self, bounds: np.ndarray, periods: np.ndarray) -> None:
        """Hand on to both parts, when they are fitted, what the device states of its channels."""
        self._specification = np.asarray(bounds, dtype=np.float64), np.asarray(periods, dtype=np.float64)

    def check(self, n_controls: int, n_outputs: int) -> None:
        """Raise what :meth:`fit` would raise for a device with so many channels and outputs."""
        super().check(n_controls, n_outputs)
        correction = self._unfitted_correction()
        n_seen = n_controls + n_outputs * self.feed_physics
        for name, part, n_channels in (("physics", self.physics, n_controls), ("correction", correction, n_seen)):
            _check_part(name, part)
            part.check(n_channels, n_outputs)

    @property
    def module_(self) -> torch.nn.Module:
        check_is_fitted(self, "n_features_in_")
        import torch

        from skpat.twins.residual_module import ResidualModule

        # Made anew each time: it has no weights of its own, so its weights are those that the parts have now.
        physics, correction = self.physics_.module_, self.correction_.module_
        # With random displacements no channel is the same in all rows: a batch cannot be taken in two parts.
        in_parts = hasattr(physics, "forward_batch") and not self.explores
        unit = torch.from_numpy(self._unit)
        return ResidualModule(physics, correction, unit, feed_physics=self.feed_physics, in_parts=in_parts)

    def fit(self, controls: ControlBatch | np.ndarray, outputs: np.ndarray, sample_weight: Any = None) -> ResidualTwin:
        """Find the model's constants from measured shots, and learn what remains.

        Parameters
        ----------
        controls : ControlBatch or array of shape (n_shots, n_controls)
            What the device received, in its units.
        outputs : array of shape (n_shots, n_outputs)
            What it answered.
        sample_weight : array of shape (n_shots,), default=None
            Weight of each shot.

        Returns
        -------
        self

        Raises
        ------
        TwinError
            If a part is no twin, the model does not fit the device, or the device has more channels than the correction can
            hold.
        ValueError
            If the shapes disagree, a number is not finite, or there are no shots of any weight.
        """
        controls, outputs, sample_weight = of_weight(*check_shots(controls, outputs, sample_weight))
        self.check(controls.shape[1], outputs.shape[1])
        rng = check_random_state(self.random_state)
        physics, correction = (seeded_copy(part, rng) for part in (self.physics, self._unfitted_correction()))
        kept, held_out = hold_out(len(controls), self.validation_fraction, rng)
        if self._specification is not None:
            physics.learn_specification(*self._specification)
        physics.fit(controls[kept], outputs[kept], sample_weight[kept])
        expected = physics.predict(controls[kept])
        self._tell(correction, expected)
        spread = spread_of(outputs[kept])  # what remains may be nothing: it has no scale of its own
        self._unit = np.where(spread > 0, spread, spread[spread > 0].mean() if spread.any() else 1.0)
        correction.fit(
            self._seen(controls[kept], expected), (outputs[kept] - expected) / self._unit, sample_weight[kept]
        )
        self.physics_, self.correction_ = physics, correction
        self.n_features_in_ = controls.shape[1]
        self.score_, self.physics_score_, self.trust_ = np.nan, np.nan, np.ones(outputs.shape[1])
        shots = controls[held_out], outputs[held_out], sample_weight[held_out]
        if shots[2].any() and np.ptp(shots[1], axis=0).max() > 0:
            self.score_, self.physics_score_ = self.score(*shots), self.physics_.score(*shots)
            self.trust_ = _trust(self.predict(shots[0]), *shots[1:])
        return self

    def partial_fit(
        self,
        controls: ControlBatch | np.ndarray,
        outputs: np.ndarray,
        sample_weight: Any = None,
        *,
        pace: float = 1.0,
    ) -> ResidualTwin:
        """Judge the twin by new shots, and let both parts learn from them.

        Parameters and errors are those of :meth:`fit`; an unfitted twin is fitted. ``pace`` multiplies the correction's step
        size, if the correction takes one.
        """
        if not hasattr(self, "n_features_in_"):
            return self.fit(controls, outputs, sample_weight)
        in_parts = controls.numpy() if isinstance(controls, ControlBatch) else None
        controls, outputs, sample_weight = check_shots(controls, outputs, sample_weight)
        check_channels(self, controls, outputs, len(self._unit))
        if not sample_weight.any():
            return self
        batch = controls if in_parts is None else in_parts
        expected = self.physics_.predict(batch)
        correction = self._unit * self.correction_.predict(self._seen(controls, expected))
        judged = _trust(expected + correction, outputs, sample_weight)
        self.trust_ = (1 - TRUST_MOMENTUM) * self.trust_ + TRUST_MOMENTUM * judged
        if hasattr(self.physics_, "partial_fit") and len(getattr(self.physics_, "constants", ("any",))):
            self.physics_.partial_fit(batch, outputs - correction, sample_weight)
            expected = self.physics_.predict(batch)
        if hasattr(self.correction_, "partial_fit"):
            shots = self._seen(controls, expected), (outputs - expected) / self._unit, sample_weight
            self.correction_.partial_fit(*shots, **({"pace": pace} if self.explores else {}))
        return self

    @property
    def is_loaded(self) -> bool:
        """Whether its parts came from a pickle and have not learned since."""
        return any(getattr(getattr(self, name, None), "is_loaded", False) for name in ("physics_", "correction_"))

    def forget(self) -> None:
        """Let both parts forget."""
        for part in (self.physics_, self.correction_):
            part.forget()

    def predict(self, controls: ControlBatch | np.ndarray) -> np.ndarray:
        """What the twin expects the device to answer, shape (n_rows, n_outputs)."""
        check_is_fitted(self, "n_features_in_")
        expected = self.physics_.predict(controls)
        return expected + self._unit * self.correction_.predict(self._seen(np.asarray(controls), expected))

    def _seen(self, controls: np.ndarray, expected: np.ndarray) -> np.ndarray:
        """What the correction is given."""
        return np.hstack([controls, expected]) if self.feed_physics else controls

    def _tell(self, correction: Any, expected: np.ndarray) -> None:
        """Hand the specification on to the correction. Where it sees the model's answers these are channels too, with bounds
        from their mean and standard deviation."""
        if self._specification is None:
            return
        bounds, periods = self._specification
        if self.feed_physics:
            middle, half = expected.mean(axis=0), np.sqrt(3) * expected.std(axis=0)  # of numbers spread evenly
            half = np.where(half > 1e-9 * np.abs(middle), half, 1.0)
            bounds = np.concatenate([bounds, np.column_stack([middle - half, middle + half])])
            periods = np.concatenate([periods, np.zeros(len(middle))])
        correction.learn_specification(bounds, periods)

    def _unfitted_correction(self) -> Any:
        if self.correction is not None:
            return self.correction
        from skpat.twins.neural_twin import NeuralTwin

        return NeuralTwin()


def _check_part(name: str, part: Any) -> None:
    if not isinstance(part, Twin):
        use = "PhysicsTwin(device, constants), or NeuralTwin() alone where there are no equations"
        raise TwinError(
            f"'{name}' of ResidualTwin must be an unfitted twin. Got {part!r}. Use {name}="
            f"{use if name == 'physics' else 'NeuralTwin(), or None'}."
        )


def _trust(expected: np.ndarray, outputs: np.ndarray, sample_weight: np.ndarray) -> np.ndarray:
    """R² of each output, between ``LEAST_TRUST`` and 1."""
    total = sample_weight.sum()
    mean = sample_weight @ outputs / total
    variance, error = (sample_weight @ np.square(outputs - other) / total for other in (mean, expected))
    of_constant = np.maximum(variance.mean(), 1e-12 * mean**2 + np.finfo(outputs.dtype).tiny)
    # the error of an output that stays the same is compared with the variance of the others
    scale = np.where(varies(outputs, sample_weight), variance, of_constant)
    return np.clip(1 - error / scale, LEAST_TRUST, 1.0)
