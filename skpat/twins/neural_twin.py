"""A twin of any system, learned from measurements alone."""

from __future__ import annotations

from itertools import pairwise
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from skpat.controls import ControlBatch
from skpat.exceptions import TwinError
from skpat.twins.base import LEAST_TRUST, TRUST_MOMENTUM, Twin, check_channels, check_shots, hold_out, of_weight, varies
from skpat.value_checks import is_int

if TYPE_CHECKING:
    import torch

__all__ = ["NeuralTwin"]

_LARGEST_WEIGHT_COUNT = 20_000_000
_WELL_PREDICTED = 0.95


class NeuralTwin(Twin):
    """A linear path plus a multilayer perceptron, fitted to measured shots.

    Parameters
    ----------
    hidden_layer_sizes : tuple of int, default=(256,)
        Widths of the hidden layers. An empty tuple leaves the linear path alone.
    alpha : float, default=1e-5
        Strength of the L2 penalty on the weights (not on the intercepts).
    batch_size : int, default=64
        Shots per step.
    learning_rate_init : float, default=3e-3
        First step size of Adam; it falls along a half cosine.
    max_iter : int, default=60
        Passes over the shots.
    validation_fraction : float, default=0.1
        Share of the shots held out: for early stopping, and for ``score_``. 0 holds out none.
    n_iter_no_change : int, default=10
        Passes without a better held-out error before the fit stops. The best state is kept.
    n_refine_steps : int, default=8
        Steps of Adam in each :meth:`partial_fit`; twice as many while R² of new shots is below 0.95. 0: none, the shots are
        only kept.
    refine_batch_size : int, default=256
        Shots per such step: a quarter of them new, the others from all that were ever seen.
    refine_learning_rate : float, default=7e-3
        Step size there.
    memory_size : int, default=100000
        Most shots kept for :meth:`partial_fit`; the oldest go first.
    torch_device : str, default="cpu"
        Where the twin's tensors live.
    random_state : int, RandomState instance or None, default=None
        For the first weights, the held-out shots and their order.

    Attributes
    ----------
    module_ : torch.nn.Module
        Controls (n_rows, n_controls) to outputs (n_rows, n_outputs), in the device's units.
    score_ : float
        R² on the held-out shots.
    output_scores_ : ndarray of shape (n_outputs,)
        R² on the held-out shots of each output.
    trust_ : ndarray of shape (n_outputs,)
        R² of each output, between 0.02 and 1: of the held-out shots at first, then a running mean over the calls of
        ``partial_fit`` of how well new shots were predicted before they were learned.
    n_features_in_ : int
        Number of control channels.
    n_iter_ : int
        Passes made.
    t_ : int
        Shots seen by the steps of all fits and refinements so far, each as often as it was seen.

    Notes
    -----
    Controls and outputs are standardised inside, controls by the device's bounds where an estimator tells them; a channel that
    the device states to be periodic enters as a sine and a cosine. The precision is that of the controls. A pickle does not
    hold the shots.

    Examples
    --------
    >>> import numpy as np
    >>> from skpat.twins import NeuralTwin
    >>> controls = np.random.default_rng(0).uniform(-1, 1, (400, 3))
    >>> outputs = np.column_stack([controls[:, 0] * controls[:, 1], controls.sum(axis=1)])
    >>> twin = NeuralTwin(random_state=0).fit(controls, outputs)
    >>> bool(twin.score_ > 0.9)
    True
    """

    _parameter_constraints = {
        "hidden_layer_sizes": ["array-like"],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "n_refine_steps": [Interval(Integral, 0, None, closed="left")],
        "refine_batch_size": [Interval(Integral, 1, None, closed="left")],
        "refine_learning_rate": [Interval(Real, 0, None, closed="neither")],
        "memory_size": [Interval(Integral, 1, None, closed="left")],
        "torch_device": [str],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        hidden_layer_sizes=(256,),
        *,
        alpha=1e-5,
        batch_size=64,
        learning_rate_init=3e-3,
        max_iter=60,
        validation_fraction=0.1,
        n_iter_no_change=10,
        n_refine_steps=8,
        refine_batch_size=256,
        refine_learning_rate=7e-3,
        memory_size=100_000,
        torch_device="cpu",
        random_state=None,
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.n_refine_steps = n_refine_steps
        self.refine_batch_size = refine_batch_size
        self.refine_learning_rate = refine_learning_rate
        self.memory_size = memory_size
        self.torch_device = torch_device
        self.random_state = random_state

    explores, needs_shots = True, True
    _bounds: np.ndarray | None = None
    _periods: np.ndarray | None = None

    def learn_specification(self, bounds: np.ndarray, periods: np.ndarray) -> None:
        """Take over the scale of the channels, and which of them are periodic, from a device's specification."""
        self._bounds, self._periods = np.asarray(bounds, dtype=np.float64), np.asarray(periods, dtype=np.float64)

    def check(self, n_controls: int, n_outputs: int) -> None:
        """Raise what :meth:`fit` would raise for a device with so many channels and outputs."""
        super().check(n_controls, n_outputs)
        sizes = list(self.hidden_layer_sizes)
        if not all(is_int(size, 1) for size in sizes):
            raise ValueError(
                f"'hidden_layer_sizes' of NeuralTwin must be positive whole numbers. Got {self.hidden_layer_sizes!r}. "
                "Use hidden_layer_sizes=(256,), or () for a linear twin."
            )
        self._refuse_too_many(n_controls, self._widths(n_controls, n_outputs))

    def _known_periods(self, n_controls: int) -> np.ndarray | None:
        """The periods of the channels, if they were told, and of a device with so many channels; else None."""
        return self._periods if self._periods is not None and len(self._periods) == n_controls else None

    def _widths(self, n_controls: int, n_outputs: int) -> list[int]:
        """Features, hidden units and outputs."""
        periods = self._known_periods(n_controls)
        n_features = n_controls + (0 if periods is None else int((periods > 0).sum()))
        return [n_features, *map(int, self.hidden_layer_sizes), n_outputs]

    @property
    def module_(self) -> torch.nn.Module:
        check_is_fitted(self, "n_features_in_")
        if self.__dict__.get("_module") is None:  # unpickled: build it when first used
            from skpat.twins.neural_module import module_from_state

            self._module = module_from_state(self._module_state, self.torch_device)
        return self._module

    def fit(self, controls: ControlBatch | np.ndarray, outputs: np.ndarray, sample_weight: Any = None) -> NeuralTwin:
        """Learn from measured shots.

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
            If the device has more channels than a learned twin can hold.
        ValueError
            If the shapes disagree, a number is not finite, or no shot has a weight.
        """
        from skpat.twins.neural_module import build_module, train_module

        controls, outputs, sample_weight = of_weight(*check_shots(controls, outputs, sample_weight))
        self.check(controls.shape[1], outputs.shape[1])
        periods = self._known_periods(controls.shape[1])
        bounds = None if periods is None else self._bounds
        rng = check_random_state(self.random_state)
        weights_rng = np.random.RandomState(rng.randint(2**31))  # first weights must not depend on the number of shots
        kept, held_out = hold_out(len(controls), self.validation_fraction, rng)
        self._module = build_module(
            self._widths(controls.shape[1], outputs.shape[1]),
            controls[kept],
            outputs[kept],
            sample_weight[kept],
            weights_rng,
            self.torch_device,
            periods=periods,
            bounds=bounds,
        )
        self._optimizer: Any = None
        self._memory: Any = None
        self.n_features_in_ = controls.shape[1]
        self.n_iter_ = train_module(
            self._module,
            (controls[kept], outputs[kept], sample_weight[kept]),
            (controls[held_out], outputs[held_out], sample_weight[held_out]) if len(held_out) else None,
            rng=rng,
            alpha=self.alpha,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate_init,
            max_iter=self.max_iter,
            n_iter_no_change=self.n_iter_no_change,
        )
        self.t_: int = getattr(self, "t_", 0) + self.n_iter_ * len(kept)
        self.score_, self.output_scores_ = np.nan, np.full(outputs.shape[1], np.nan)
        if len(held_out) and np.ptp(outputs[held_out], axis=0).max() > 0:
            self.score_ = self.score(controls[held_out], outputs[held_out], sample_weight[held_out])
            seen, weight = outputs[held_out], sample_weight[held_out]
            residual = np.average(np.square(seen - self.predict(controls[held_out])), axis=0, weights=weight)
            variance = np.average(np.square(seen - np.average(seen, axis=0, weights=weight)), axis=0, weights=weight)
            variance = np.where(np.ptp(seen, axis=0) > 0, variance, np.inf)
            self.output_scores_ = 1 - residual / variance
        self.trust_ = np.clip(np.where(np.isnan(self.output_scores_), 1.0, self.output_scores_), LEAST_TRUST, 1.0)
        self._rng = np.random.RandomState(rng.randint(2**31))
        self._remember(controls, outputs, sample_weight)
        return self

    def partial_fit(
        self, controls: ControlBatch | np.ndarray, outputs: np.ndarray, sample_weight: Any = None, *, pace: float = 1.0
    ) -> NeuralTwin:
        """Judge the twin by new shots, keep them, and learn: ``n_refine_steps`` steps on new and old ones.

        Parameters and errors are those of :meth:`fit`; an unfitted twin is fitted. ``pace`` multiplies the step size.
        """
        if not hasattr(self, "n_features_in_"):
            return self.fit(controls, outputs, sample_weight)
        import torch

        from skpat.twins.neural_module import make_optimizer, refine_module, standard_tensors
        from skpat.twins.shot_memory import drawn

        controls, outputs, sample_weight = check_shots(controls, outputs, sample_weight)
        check_channels(self, controls, outputs, len(self.trust_))
        if not sample_weight.any():
            return self
        if getattr(self, "_optimizer", None) is None:
            self._optimizer = make_optimizer(self.module_, self.refine_learning_rate, self.alpha)
        x, y, _ = standard_tensors(self.module_, (controls, outputs, sample_weight))
        self._judge(x, y, outputs, sample_weight)
        memory = self._remember(controls, outputs, sample_weight)
        n_new = -(-self.refine_batch_size // 4)
        draws = []
        n_steps = self.n_refine_steps * (2 if np.mean(self.trust_) < _WELL_PREDICTED else 1)
        for uniform in self._rng.uniform(size=(n_steps, self.refine_batch_size)):
            new = drawn(sample_weight, uniform[:n_new])
            old_x, old_y = memory.draw(uniform[n_new:])
            draws.append((torch.cat([x[new], old_x]), torch.cat([y[new], old_y])))
        refine_module(self.module_, self._optimizer, draws, pace * self.refine_learning_rate)
        self.t_ = getattr(self, "t_", 0) + sum(len(x) for x, _ in draws)
        return self

    def _judge(self, x: Any, y: Any, outputs: np.ndarray, sample_weight: np.ndarray) -> None:
        """Move ``trust_`` towards how well new shots are predicted; x and y are their standardised features and outputs."""
        import torch

        with torch.no_grad():
            residual = (self.module_.standard(x) - y).square().cpu().numpy()
        seen = y.cpu().numpy()
        total = sample_weight.sum()
        mean = sample_weight @ seen / total
        variance = sample_weight @ np.square(seen - mean) / total
        variance = np.where(varies(outputs, sample_weight), variance, 1.0)  # a constant one: in units of its scale
        error = sample_weight @ residual / total / variance
        score = np.clip(1 - error, LEAST_TRUST, 1.0)
        self.trust_ = (1 - TRUST_MOMENTUM) * self.trust_ + TRUST_MOMENTUM * score

    def _remember(self, controls: np.ndarray, outputs: np.ndarray, sample_weight: np.ndarray) -> Any:
        from skpat.twins.neural_module import standard_tensors
        from skpat.twins.shot_memory import ShotMemory

        if self.__dict__.get("_memory") is None:
            self._memory = ShotMemory(self.memory_size)
        x, y, _ = standard_tensors(self.module_, (controls, outputs, sample_weight))
        self._memory.add(x, y, sample_weight)
        return self._memory

    def _refuse_too_many(self, n_channels: int, widths: list[int]) -> None:
        n_weights = widths[0] * widths[-1]  # the linear part, beside the hidden layers
        if len(widths) > 2:
            n_weights += sum(a * b for a, b in pairwise(widths))
        if n_weights > _LARGEST_WEIGHT_COUNT:
            raise TwinError(
                f"NeuralTwin would need {n_weights:,} weights for {n_channels:,} channels and {widths[-1]:,} outputs, more "
                "than it can learn. Use PhysicsTwin(device, constants) where the system's equations are known, fewer channels "
                "or outputs (let measure drive groups of channels, and average groups of readings), or gradient='spsa', "
                "which needs no twin."
            )

    @property
    def is_loaded(self) -> bool:
        """Whether it came from a pickle and has not learned since."""
        return hasattr(self, "t_") and "_memory" not in self.__dict__

    def forget(self) -> None:
        """Forget the shots seen, and the optimizer's state."""
        self._memory = self._optimizer = None

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        if state.get("_module") is not None:  # numpy arrays: a pickle that loads without torch, on any machine
            from skpat.twins.neural_module import module_state

            state["_module_state"] = module_state(state["_module"])
        for name in ("_module", "_optimizer", "_memory"):
            state.pop(name, None)
        return state
