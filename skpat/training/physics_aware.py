"""Physics-aware training: the device forward, the twin backward, and a twin that learns on the way."""

from __future__ import annotations

import functools
from collections.abc import Callable
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions

from skpat.controls import ControlBatch, as_numpy
from skpat.network.forward import Run
from skpat.training.anchors import Anchors
from skpat.training.dither import Dither
from skpat.training.gradient import Apparatus, GradientEstimator, Measurement, half_cosine
from skpat.twins.base import respond

if TYPE_CHECKING:
    import torch

__all__ = ["PhysicsAware"]

_UNMEASURED_DITHER = 0.02
_TOLERATED_ERROR = 0.1  # of the variance: smaller errors of the twin do not slow the training
_MOST_ANCHORED_STEPS = 8
_ERROR_OF_ONE_STEP = 0.05  # of the variance: a learned twin that is no better takes one anchored step
_ONE_STEP_UNTIL = 0.5  # of the training: before, the weights travel so far that more steps overshoot


class PhysicsAware(GradientEstimator):
    """The forward pass runs on the device, the backward pass through the twin at the controls the device received.

    Needs from the device: ``measure``. Costs one shot per row, layer and unit, and the twin's calibration.

    Parameters
    ----------
    refine : bool, default=True
        Whether the twin goes on learning from the shots of the training itself, after each batch (a twin without
        ``partial_fit`` stays as it was calibrated). It costs no shots, and calibration becomes short and stays
        where the training is. False: the static twin of the paper, from many shots over all settings.
    dither : float or "auto", default="auto"
        Standard deviation of a random displacement of every channel and row, in parts of the channel's range; it fades to
        0 over the training. A weight that is the same in all rows of a batch tells a learned twin nothing about
        itself; displaced a little, it does. "auto": the size that adds a tenth to the variance of the outputs, found by
        measurement during the calibration, for twins that ask for it (``explores``). A number is for any twin. Nothing is
        displaced with ``refine=False``.
    n_anchored_steps : int or "auto", default="auto"
        Steps on the same rows that follow each measured one and cost no shots: the device's answers stay, the twin adds how
        they change with the controls (``skpat.training.anchors``). With a twin that knows the equations such a
        step is the shorter, the flatter the loss has become along the way. With ``refine=False`` there are none.
        "auto": one, and in the second half of the training up to eight while a learned twin predicts new shots with R² above
        0.95: as many as are together as long as 0.05 / (1 - R²) steps at the beginning of the training.
    pretrain : bool or "auto", default="auto"
        Whether a fit first trains in silico, on the calibrated twin, for up to twice ``max_iter`` epochs, which costs time and
        no shot. The device then goes on from there with small steps, the last quarter of their half cosine. True: with any
        twin, with ``refine=False`` too, and without a trial. "auto": for twins that know the equations (``needs_shots`` and
        ``explores`` are False), and only if the device confirms what was found: some rows are measured, and on a logarithmic
        scale their loss must have gone half of the way that it went on the twin, from that of the best constant. Else the
        training begins anew, with the first weights and whole steps. The rows are a tenth of those the training has shots
        for, at most 100 and at least 16. "auto" does not try with ``refine=False``, nor where 16 rows would take more than a
        quarter of the training's shots or more than the budget leaves. (A learned twin is calibrated where the training
        begins, and knows little of where it ends.)
    random_state : int, RandomState instance or None, default=None
        For the displacements. None: seeded by the estimator.

    Notes
    -----
    Where the twin says how well it predicts each output (``trust_``: R² of shots predicted before they were learned), the
    gradient that comes back through an output is shrunk by that number, and the network's step is made smaller while
    that error is larger than it has been.

    References
    ----------
    Wright, Onodera et al., Nature 601, 549 (2022), doi:10.1038/s41586-021-04223-6.
    """

    uses_twin = True
    size = _UNMEASURED_DITHER
    """The size that ``dither="auto"`` was measured to ask for."""

    _parameter_constraints = {
        "refine": ["boolean"],
        "dither": [StrOptions({"auto"}), Interval(Real, 0, 0.5, closed="both")],
        "n_anchored_steps": [StrOptions({"auto"}), Interval(Integral, 0, None, closed="left")],
        "pretrain": ["boolean", StrOptions({"auto"})],
        "random_state": ["random_state"],
    }

    def __init__(self, refine=True, dither="auto", n_anchored_steps="auto", pretrain="auto", random_state=None):
        self.refine = refine
        self.dither = dither
        self.n_anchored_steps = n_anchored_steps
        self.pretrain = pretrain
        self.random_state = random_state

    def run(self, apparatus: Apparatus) -> Run:
        """The bridge between the device's values and the twin's gradients."""
        from skpat.training.autograd_bridge import bridge  # here: a trained network is unpickled without torch

        twin = apparatus.twin
        module, measure = twin.module_, apparatus.measure
        in_parts = hasattr(module, "forward_batch")
        answer: Callable[..., torch.Tensor] = functools.partial(respond, module)
        if self.explores(twin):
            answer = trusted(answer, getattr(twin, "trust_", None))
        if not self.displaces(twin):
            return self._noted(bridge(measure, answer, in_parts=in_parts), apparatus)
        if not hasattr(self, "_sent"):
            self._sent: list[tuple[ControlBatch, np.ndarray]] = []

        def kept(batch: ControlBatch, layer: int, unit: int) -> Any:
            outputs = measure(batch, layer, unit)
            self._sent.append((batch.numpy(), as_numpy(outputs)))
            return outputs

        return self._noted(bridge(kept, answer, in_parts=in_parts), apparatus, self.mover(apparatus))

    def _noted(
        self,
        run: Run,
        apparatus: Apparatus,
        move: Callable[[ControlBatch, int, int], ControlBatch] | None = None,
    ) -> Run:
        """The run with its controls displaced, and a record of what the anchored steps need."""
        wanted = self.count_further_steps(apparatus)
        anchors = Anchors(apparatus.twin, apparatus.sample_weight) if wanted else None
        self._anchors: Anchors | None = anchors
        if anchors is None and move is None:
            return run

        def noted(batch: ControlBatch, layer: int, unit: int) -> torch.Tensor:
            sent = batch if move is None else move(batch, layer, unit)
            outputs: torch.Tensor = run(sent, layer, unit)
            if anchors is not None:
                anchors.note(layer, unit, batch, sent, outputs)
            return outputs

        return noted

    def count_further_steps(self, apparatus: Apparatus) -> int:
        """``n_anchored_steps``; none with the static twin of the paper."""
        if not self.refine:
            return 0
        if self.n_anchored_steps != "auto":
            return int(self.n_anchored_steps)
        error = _error_of(apparatus.twin)
        good = self.explores(apparatus.twin) and error <= _ERROR_OF_ONE_STEP
        if not good or apparatus.progress < _ONE_STEP_UNTIL:
            return 1
        n_steps = _ERROR_OF_ONE_STEP / max(error * half_cosine(apparatus.progress), 1e-9)
        return int(np.clip(round(n_steps), 1, _MOST_ANCHORED_STEPS))

    def run_further(self, apparatus: Apparatus) -> Run:
        """What the device answered, and the twin's change since."""
        assert self._anchors is not None
        return self._anchors.run()

    def explores(self, twin: Any) -> bool:
        """Whether this twin learns how outputs react from shots that are displaced for it."""
        return bool(self.refine and twin.explores)

    def begins_in_silico(self, twin: Any) -> bool:
        """Whether ``pretrain`` says so; "auto": with a twin that knows something without any shot."""
        if self.pretrain == "auto":
            return bool(self.refine) and not (self.explores(twin) or twin.needs_shots)
        return bool(self.pretrain)

    def displaces(self, twin: Any) -> bool:
        """Whether the training's shots are displaced: for a twin that explores, or because a size is given."""
        if self.refine and self.dither != "auto" and self.dither:
            return True
        return self.explores(twin) and not hasattr(twin.module_, "forward_batch")

    def mover(self, apparatus: Apparatus) -> Callable[[ControlBatch, int, int], ControlBatch]:
        """Displace a batch of tensors, by as much as the training's progress asks for."""
        size = self.initial_size * half_cosine(apparatus.progress)
        if not size or apparatus.network is None or apparatus.row_keys is None:
            return lambda batch, layer, unit: batch
        dither, keys = Dither(apparatus.network, apparatus.device, self.seed), apparatus.row_keys
        self._n_calls = getattr(self, "_n_calls", 0)

        def move(batch: ControlBatch, layer: int, unit: int) -> ControlBatch:
            self._n_calls += 1
            return dither.in_parts(dither.displaced(batch.dense(), keys, self._n_calls, size), batch)

        return move

    @property
    def seed(self) -> int:
        """The seed of the displacements."""
        if not hasattr(self, "_seed"):
            self._seed = int(check_random_state(self.random_state).randint(2**31))
        return self._seed

    @property
    def initial_size(self) -> float:
        """The size of displacements at the start of the training; the calibration sets it where ``dither="auto"``."""
        return self.size if self.dither == "auto" else float(self.dither)

    @property
    def step_factor(self) -> float:
        """Below 1 while the twin predicts new shots worse than it has done before."""
        return getattr(self, "_caution", 1.0)

    def _watch(self, twin: Any) -> None:
        error = _error_of(twin)
        self._least_error = min(getattr(self, "_least_error", 1.0), error)
        self._caution = (self._least_error + _TOLERATED_ERROR) / (error + _TOLERATED_ERROR)

    def after_batch(self, apparatus: Apparatus, measurements: list[Measurement]) -> None:
        """Let the twin learn from the shots of this batch."""
        self._anchors = None
        twin = apparatus.twin
        made = [(m.batch, m.outputs) for m in measurements]
        if self.displaces(twin):  # the settings as they were sent, those of the last evaluation of the batch
            made, self._sent = self._sent[-len(measurements) :], []
        if not self.refine or not hasattr(twin, "partial_fit"):
            return
        weights = [m.sample_weight for m in measurements]
        if hasattr(twin.module_, "forward_batch"):  # in parts: the shared channels may be too many to copy
            for (batch, outputs), weight in zip(made, weights, strict=True):
                twin.partial_fit(batch, outputs, weight)
            return
        keys = apparatus.row_keys
        order = slice(None) if keys is None else np.argsort(keys, kind="stable")  # what is learned has no order of rows
        explores = self.explores(twin)
        twin.partial_fit(
            np.concatenate([np.asarray(batch)[order] for batch, _ in made]),
            np.concatenate([outputs[order] for _, outputs in made]),
            np.concatenate([weight[order] for weight in weights]),
            **({"pace": half_cosine(apparatus.progress)} if explores else {}),
        )
        if explores and hasattr(twin, "trust_"):
            self._watch(twin)


def _error_of(twin: Any) -> float:
    """Of the variance of new shots, how much a learned twin does not predict; all of it where the twin does not say."""
    return 1.0 - float(np.mean(getattr(twin, "trust_", 0.0)))


def trusted(module: Callable[[torch.Tensor], torch.Tensor], trust: np.ndarray | None) -> Callable[..., torch.Tensor]:
    """The module with the gradient through each output shrunk; the bridge never uses its value."""
    if trust is None:
        return module

    def shrunk(controls: torch.Tensor) -> torch.Tensor:
        outputs = module(controls)
        return outputs * outputs.new_tensor(trust)

    return shrunk
