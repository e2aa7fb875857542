"""How well a method's gradient agrees with what the device really does, measured with few shots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from skpat.training.calibration import draw_rows
from skpat.training.loss_probe import LossProbe

if TYPE_CHECKING:
    from skpat.training.trainer import Data, Trainer

__all__ = ["Alignment", "Slopes", "measure_alignment", "pooled"]

_N_PILOTS = 2
_FIRST_MOVES = 0.001, 0.01  # of the controls, in parts of their ranges
_SIGNAL_ALONG, _SIGNAL_ACROSS = 10.0, 3.0  # signal over noise that steps along the gradient and random ones aim at


@dataclass(frozen=True)
class Slopes:
    """What is measured of one gradient.

    Parameters
    ----------
    along, along_variance : float
        Measured slope of the loss along the method's gradient, and its variance.
    across, across_variance : float
        Squared length of what the device's gradient has across the method's, and its variance.
    promised : float
        Length of the method's gradient: the slope that it promises.
    across_noise : float, default=None
        The part of ``across_variance`` that comes from the device's noise; the rest comes from there being few random
        directions. None: all of it.
    held : float, default=None
        The slope that ``along`` is compared with: ``promised`` without the length that the device's noise adds to the
        gradient, times the share of the slope that the twin predicts to be left over a step as long as the measured one.
        None: ``promised``.

    Examples
    --------
    >>> from skpat.training.alignment import Slopes
    >>> made = Slopes(along=0.6, along_variance=0.0, across=0.64, across_variance=0.0, promised=0.5)
    >>> made.cosine_and_error()[0], made.slope
    (0.6, 1.2)
    """

    along: float
    along_variance: float
    across: float
    across_variance: float
    promised: float
    across_noise: float | None = None
    held: float | None = None

    @classmethod
    def together(cls, groups: Sequence[Slopes]) -> Slopes:
        """Several groups of weights as one. What of a group's slope is not along the pooled gradient counts as across."""
        if len(groups) == 1:
            return groups[0]
        promised = math.sqrt(sum(group.promised**2 for group in groups))
        shares = [group.promised / promised if promised > 0 else 0.0 for group in groups]
        pairs = list(zip(shares, groups, strict=True))
        along = sum(share * group.along for share, group in pairs)
        variance = sum(share**2 * group.along_variance for share, group in pairs)
        squared = sum(group.along**2 - group.along_variance + group.across for group in groups)
        crossing = sum(4 * (group.along - share * along) ** 2 * group.along_variance for share, group in pairs)
        across_variance = sum(group.across_variance for group in groups) + crossing
        noise = sum(group.noise_across for group in groups) + crossing
        held = sum(share * group.to_hold for share, group in pairs)
        return cls(along, variance, squared - (along**2 - variance), across_variance, promised, noise, held)

    @property
    def slope(self) -> float:
        """The measured slope over the promised one."""
        return self.along / self.promised if self.promised > 0 else 0.0

    @property
    def noise_across(self) -> float:
        """``across_noise``, or ``across_variance`` where that is not known."""
        return self.across_variance if self.across_noise is None else self.across_noise

    @property
    def to_hold(self) -> float:
        """``held``, or ``promised`` where that is not known."""
        return self.promised if self.held is None else self.held

    def relative(self) -> Slopes:
        """The same divided by one length, made of the promised slope and of the noise: ready to be pooled with others."""
        unit = math.hypot(self.promised, self.across_variance**0.25) or 1.0
        return Slopes(
            self.along / unit,
            self.along_variance / unit**2,
            self.across / unit**2,
            self.across_variance / unit**4,
            self.promised / unit,
            self.noise_across / unit**4,
            self.to_hold / unit,
        )

    def settled(self) -> Slopes:
        """The same, with ``across`` raised where needed so that the squared length is that of :meth:`_least_squared`."""
        across = self._least_squared() - self.along**2 + self.along_variance
        return replace(self, across=across)

    def highest(self) -> float:
        """The largest size of the cosine with ``along`` one standard error larger and ``across`` one smaller."""
        along = abs(self.along) + math.sqrt(self.along_variance)
        across = max(self.across - math.sqrt(self.across_variance), 0.0)
        return along / math.hypot(along, math.sqrt(across)) if along > 0 else 1.0

    def cosine_and_error(self) -> tuple[float, float]:
        """The cosine, and its standard error by propagation; 0 and 1 where there is no slope at all."""
        squared = self._least_squared()
        if squared <= 0:
            return 0.0, 1.0
        cosine = self.along / math.sqrt(squared)
        of_along = (1 - cosine**2) ** 2 * self.along_variance / squared
        of_across = cosine**2 * self.across_variance / (4 * squared**2)
        return cosine, min(math.sqrt(of_along + of_across), 1.0)

    def cosine_and_reach(self) -> tuple[float, float]:
        """The cosine, and its standard error or the distance to the largest cosine that the noise allows, whichever is more.

        Where noise hides the length of the device's gradient, that length is taken too large, and the cosine is too near to 0.
        """
        cosine, error = self.cosine_and_error()
        highest = replace(self, across_variance=self.noise_across).highest()
        return cosine, min(max(error, highest - abs(cosine)), 1.0)

    def _least_squared(self) -> float:
        """Squared length of the device's gradient, not less than ``along**2`` nor than its own standard error: by chance the
        estimate may be near zero or negative, and a cosine made of it would mean nothing."""
        squared = self.along**2 - self.along_variance + self.across
        return max(squared, self.along**2, math.sqrt(self.across_variance))


@dataclass(frozen=True)
class Alignment:
    """Cosine between a method's gradient and the device's, of a batch's mean loss with respect to the weights.

    The weights are those that stand before a measurement: the encoder's and ``theta``, ``gain``, ``offset`` and ``skip`` of
    each layer.

    Parameters
    ----------
    cosine : float
        Between -1 and 1, over all these weights together.
    standard_error : float
        Of ``cosine``, from the device's noise and the few random directions; the choice of the rows is not in it. Where noise
        hides the length of the device's gradient, the cosine is too near to 0, and the error reaches up to the largest cosine
        that is possible.
    slope : float
        Measured slope of the loss along the method's gradient over the slope that the method promises. 1 for a perfect
        twin; near 0, or negative, if a step along the gradient gains nothing.
    layer_cosines, layer_standard_errors : tuple of float
        The same for the weights of each layer alone, the encoder's with those of the first. Empty if not asked for.
    n_shots, n_rows, n_directions : int
        Shots spent, rows of the batch, and random directions for each group of weights (never more than it has weights).
    slopes : Slopes
        What the cosine was made of.

    Examples
    --------
    >>> from skpat.training.alignment import Alignment
    >>> print(Alignment(0.93, 0.04, 1.02, n_shots=384, n_rows=32, n_directions=4))
    gradient cosine 0.93 ± 0.04, slope 1.02 of the promised one (32 rows, 384 shots)
    """

    cosine: float
    standard_error: float
    slope: float
    layer_cosines: tuple[float, ...] = ()
    layer_standard_errors: tuple[float, ...] = ()
    n_shots: int = 0
    n_rows: int = 0
    n_directions: int = 0
    slopes: Slopes | None = field(default=None, repr=False)

    def __str__(self) -> str:
        lines = [
            f"gradient cosine {self.cosine:.2f} ± {self.standard_error:.2f}, slope {self.slope:.2f} of the promised one "
            f"({self.n_rows} rows, {self.n_shots:,} shots)"
        ]
        for layer, (cosine, error) in enumerate(zip(self.layer_cosines, self.layer_standard_errors, strict=True)):
            lines.append(f"  layer {layer}: {cosine:.2f} ± {error:.2f}")
        return "\n".join(lines)


def measure_alignment(
    trainer: Trainer,
    data: Data,
    *,
    n_rows: int = 32,
    n_directions: int = 4,
    per_layer: bool = False,
    random_state: int | np.random.RandomState = 0,
) -> Alignment:
    r"""Measure the cosine between the gradient that a training step would use and the device's own.

    With :math:`g` the gradient of the mean loss of some rows as the device has it, :math:`\hat g` the method's and
    :math:`u = \hat g / |\hat g|`,

    .. math:: \cos = \frac{a}{\sqrt{a^2 + b^2}}, \qquad a = u \cdot g, \qquad b^2 = |g - a u|^2 ,

    where :math:`a` is a central difference of the measured loss along :math:`u`, and :math:`b^2` comes from central
    differences :math:`s_k` along random orthonormal directions :math:`q_k`: with :math:`p` weights and
    :math:`r_k = s_k - a\, q_k \cdot u`, the expectation of :math:`r_k^2` is :math:`b^2 / p`, and the variance of the noise,
    which is known and taken off.

    Parameters
    ----------
    trainer : Trainer
        Its network, weights, loss, gradient estimator, twin and session; nothing of it is changed.
    data : Data
        Rows to draw from.
    n_rows : int, default=32
        Rows of the batch. All of the data where there are no more.
    n_directions : int, default=4
        Random directions for each group of weights; at least 2.
    per_layer : bool, default=False
        Whether each layer is measured alone. The total is put together from them.
    random_state : int or RandomState, default=0
        For the rows and the directions.

    Returns
    -------
    Alignment

    Notes
    -----
    Costs ``2 + 2 * (n_directions + 1)`` shots per row, layer and unit (and patch; times ``n_shots``), counted as calibration;
    with ``per_layer`` the second part once for each layer. A method whose gradient takes more than one forward pass
    (SPSA, finite differences, an evolution strategy) takes the shots of one of its steps on top. All rows share the random
    directions, so that more weights, or rows whose gradients differ, take no more shots. With :math:`K` directions their
    small number adds a relative error of :math:`(1 - \cos^2) / \sqrt{2 K}` to the cosine. That is little for a good twin; for
    a useless one the cosine is small, and so is the error in it.

    The size of the steps is found from the noise, seen in two measurements at the same weights, and from the first two
    random directions: as small as lets the signal stand above the noise, between 0.001 % and 5 % (root mean square) of the
    channels' ranges. Where even that is too far for the device's curvature, the cosine comes out too low.

    Examples
    --------
    See :func:`skpat.inspection.gradient_alignment`, which does this for a fitted network.
    """
    rng = np.random.RandomState(random_state) if isinstance(random_state, (int, np.integer)) else random_state
    probe = LossProbe(trainer, _draw(data, n_rows, rng))
    groups = probe.layer_names if per_layer else [[name for names in probe.layer_names for name in names]]
    n_weights = max(sum(probe.gradient[name].size for name in names) for names in groups)
    n_directions = max(n_directions, 2)
    found = [_measure_group(probe, names, n_directions, rng) for names in groups]
    total = Slopes.together(found)
    layers = found if per_layer else []
    return Alignment(
        *total.cosine_and_reach(),
        slope=total.slope,
        layer_cosines=tuple(layer.cosine_and_reach()[0] for layer in layers),
        layer_standard_errors=tuple(layer.cosine_and_reach()[1] for layer in layers),
        n_shots=probe.n_shots,
        n_rows=len(probe.data),
        n_directions=min(n_directions, n_weights),
        slopes=total,
    )


def pooled(alignments: Sequence[Alignment]) -> Alignment:
    """Several measurements as one: the gradients strung together, each in units of its promised length and of its noise.

    The standard error reaches as far as the largest cosine that one standard error of everything measured allows.

    Parameters
    ----------
    alignments : sequence of Alignment
        At least one; from different rows, or different times of a training.
    """
    parts = [made.slopes.relative() for made in alignments if made.slopes is not None]
    slopes = Slopes.together([part.settled() for part in parts])
    cosine, error = slopes.cosine_and_error()
    return Alignment(
        cosine,
        min(max(error, Slopes.together(parts).highest() - abs(cosine)), 1.0),
        slope=slopes.slope,
        n_shots=sum(made.n_shots for made in alignments),
        n_rows=sum(made.n_rows for made in alignments),
        n_directions=sum(made.n_directions for made in alignments),
        slopes=slopes,
    )


def _draw(data: Data, n_rows: int, rng: np.random.RandomState) -> Data:
    if len(data) <= n_rows:
        return data
    return data.rows(draw_rows(data.row_keys, data.sample_weight, n_rows, rng)).weighed_alike()


def _measure_group(probe: LossProbe, names: list[str], n_directions: int, rng: np.random.RandomState) -> Slopes:
    """The slopes of the loss along the method's gradient with respect to these weights, and across it."""
    gradient = np.concatenate([probe.gradient[name].ravel().astype(float) for name in names])
    n_weights, promised = len(gradient), float(np.linalg.norm(gradient))
    second = probe.second_gradient
    again = None if second is None else np.concatenate([second[name].ravel().astype(float) for name in names])
    unit = gradient / promised if promised > 0 else np.zeros(n_weights)
    n_directions = min(n_directions, n_weights)
    directions = np.linalg.qr(rng.standard_normal((n_weights, n_directions)))[0].T
    noise = math.sqrt(probe.loss_variance / 2)  # of a central difference, times its step
    across = noise * _SIGNAL_ACROSS * math.sqrt(n_weights)
    least, most = _FIRST_MOVES
    first_step = across / promised if promised > 0 else np.inf
    pilots = [probe.slope(d, names, first_step, least=least, most=most) for d in directions[:_N_PILOTS]]
    expected = _guess_norm(pilots, n_weights, promised)
    others = [probe.slope(d, names, across / expected if expected > 0 else 0.0) for d in directions[_N_PILOTS:]]
    expected = _guess_norm([*pilots, *others], n_weights, promised)
    along_step = noise * _SIGNAL_ALONG / expected if expected > 0 else 0.0
    along, along_variance = probe.slope(unit, names, along_step) if promised > 0 else (0.0, 0.0)
    # the second gradient has noise of its own, which adds no length along the first
    alone = promised if again is None or not promised > 0 else float(unit @ again)
    held = alone * probe.foreseen_share(unit, names, along_step) if promised > 0 else 0.0
    slopes, variances = np.transpose([*pilots, *others])
    parallel = directions @ unit
    slopes = slopes - along * parallel  # what is left is the slope along that part of each direction that stands across
    variances = variances + along_variance * parallel**2
    weight = 1 / np.maximum(expected**2 / n_weights + variances, 1e-300) ** 2
    weight = weight / (weight @ (1 - parallel**2)) * (n_weights - 1) if n_weights > 1 else 0 * weight
    across = float(weight @ (slopes**2 - variances))
    each = max(across, 0.0) / max(n_weights - 1, 1)
    sampled = 1 - n_directions / n_weights  # all directions together leave nothing to chance
    by_noise = 4 * each * variances + 2 * variances**2
    spread = float(weight**2 @ (2 * sampled * each**2 + by_noise))
    return Slopes(along, along_variance, across, spread, promised, float(weight**2 @ by_noise), held)


def _guess_norm(measured: list[tuple[float, float]], n_weights: int, promised: float) -> float:
    """The size of the gradient from a few slopes along random directions, and their variances, to choose steps by."""
    slopes, variances = np.transpose(measured)
    weight = 1 / np.maximum(variances / max(variances.max(), 1e-300), 1e-3) ** 2
    weight /= weight.sum()
    signal, noise = float(weight @ (slopes**2 - variances)), float(weight @ variances)
    found = math.sqrt(n_weights * max(signal, noise / 4))
    if not found / 10 < promised < 4 * found:
        return found
    expected = math.sqrt(found * promised)
    return expected if signal > noise else min(found, expected)  # what hides in the noise is small
