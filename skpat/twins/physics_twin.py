"""A twin made of the system's own equations, whose constants are fitted to measured shots."""

from __future__ import annotations

import inspect
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from skpat.controls import ControlBatch, as_numpy
from skpat.exceptions import TwinError
from skpat.twins.base import Twin, check_channels, check_shots, hold_out, of_weight, spread_of
from skpat.user_warning import warn_user

if TYPE_CHECKING:
    import torch

__all__ = ["PhysicsTwin"]

_PROBES, _PROBED = 64, 1 << 16  # most settings, and control values in them, to see what constants do to a model
_POOR = 0.5  # R² of a model whose constants stand still
_LEAST_EFFECT = 1e-2  # of one unit of a constant, in parts of the outputs' spread: with less nothing would be found
_MOST_TENFOLDS = 24  # by which a unit grows

_Constants = dict[str, np.ndarray]


class PhysicsTwin(Twin):
    """A simulated device as the twin of a real one: its equations stay, its constants are learned.

    Where the equations are known a handful of constants says everything, and a few hundred shots find them, however many
    channels there are.

    Parameters
    ----------
    device : Device
        The model: a simulated device with ``forward(controls, constants=None)``, with the constants as they are believed to
        be. The twin's tensors live where the model says (``torch_device``).
    constants : sequence of str, default=()
        Names of the constructor constants to be fitted, scalars or arrays; see ``forward`` of the device. Empty: the model is
        taken as it is.
    max_iter : int, default=100
        Most iterations of L-BFGS on all shots together.
    learning_rate_init : float, default=1e-3
        Step size of Adam in :meth:`partial_fit`, in units of :math:`u` (Notes): relative to each constant.
    validation_fraction : float, default=0.1
        Share of the shots held out for ``score_``. 0 holds out none.
    random_state : int, RandomState instance or None, default=None
        For the held-out shots.

    Attributes
    ----------
    module_ : torch.nn.Module
        Controls (n_rows, n_controls) to outputs (n_rows, n_outputs), in the device's units. Where the device has
        ``forward_batch`` the module has it too.
    constants_ : dict of str to float or ndarray
        As fitted.
    score_ : float
        R² on the held-out shots, from what was fitted without them.
    n_features_in_ : int
        Number of control channels.
    n_iter_ : int
        Iterations made.

    Notes
    -----
    Weighted least squares, each output in units of its standard deviation. A constant is sought as :math:`c = c_0 + u s`, with
    :math:`c_0` where it starts and :math:`u = |c_0|` for a scalar, the largest :math:`|c_0|` for all entries of an array, and 1
    if all are zero; ten or more times as much where that would not be seen in the outputs (a constant that starts near 0).
    Not convex: start near the truth.

    References
    ----------
    Wright, Onodera et al., Nature 601, 549 (2022), doi:10.1038/s41586-021-04223-6, for twins of known physics.

    Examples
    --------
    >>> import numpy as np
    >>> from skpat.devices import SecondHarmonicLaser
    >>> from skpat.twins import PhysicsTwin
    >>> real = SecondHarmonicLaser(12, 8, coupling=25.0, random_state=0)
    >>> believed = SecondHarmonicLaser(12, 8, coupling=20.0)
    >>> controls = np.random.default_rng(0).uniform(size=(100, 12))
    >>> twin = PhysicsTwin(believed, ["coupling"], random_state=0).fit(controls, real.measure(controls))
    >>> abs(twin.constants_["coupling"] - 25) < 1
    True
    """

    _parameter_constraints = {
        "device": "no_validation",
        "constants": ["array-like"],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "random_state": ["random_state"],
    }

    few_shots = True

    def __init__(
        self,
        device=None,
        constants=(),
        *,
        max_iter=100,
        learning_rate_init=1e-3,
        validation_fraction=0.1,
        random_state=None,
    ):
        self.device = device
        self.constants = constants
        self.max_iter = max_iter
        self.learning_rate_init = learning_rate_init
        self.validation_fraction = validation_fraction
        self.random_state = random_state

    @property
    def module_(self) -> torch.nn.Module:
        check_is_fitted(self, "n_features_in_")
        if self.__dict__.get("_module") is None:
            self._module: Any = _module_of(self._model, self._start, self._unit, self._moved, self._dtype)
        return self._module

    def check(self, n_controls: int, n_outputs: int) -> None:
        """Raise what :meth:`fit` would raise for a device with so many channels and outputs; the model is asked once."""
        if isinstance(self.constants, str):
            raise TwinError(
                f"'constants' of PhysicsTwin must be a list of names. Got {self.constants!r}. Use [{self.constants!r}]."
            )
        super().check(n_controls, n_outputs)
        if not hasattr(self.device, "forward"):
            raise TwinError(
                "'device' of PhysicsTwin must be a simulated device with forward(controls, constants=None). Got "
                f"{self.device!r}. Use NeuralTwin() where there are no equations."
            )
        missing = [name for name in self.constants if not hasattr(self.device, name)]
        if missing:
            raise TwinError(
                f"'constants' of PhysicsTwin must name constants of {type(self.device).__name__}. Got {', '.join(missing)}. "
                f"Use names that {type(self.device).__name__}.forward(controls, constants) takes."
            )
        if (self.device.n_controls, self.device.n_outputs) != (n_controls, n_outputs):
            raise TwinError(
                f"The model {type(self.device).__name__} must have the channels and outputs of the device, ({n_controls}, "
                f"{n_outputs}). Got ({self.device.n_controls}, {self.device.n_outputs}). Give the model the device's sizes."
            )
        try:
            inspect.signature(self.device.forward).bind(None, None)
        except TypeError as error:
            raise TwinError(
                f"The model {type(self.device).__name__} must have forward(controls, constants=None). Got one that takes "
                f"something else: {error}. Add constants=None to its parameters, and compute with constants[name] where given."
            ) from error
        if len(self.constants):  # a model may ignore what it is given
            self._check_constants(n_controls)

    def _check_constants(self, n_controls: int) -> None:
        """Ask the model, at settings all over its range."""
        import torch

        from skpat.twins.physics_module import answer

        start = self._believed(self.device)
        module = _module_of(self.device, start, _units_of(start), _no_move(start), np.float64)
        low, high = np.broadcast_to(self.device.bounds, (n_controls, 2)).T
        settings = np.random.default_rng(0).uniform(low, high, size=(_count_probes(n_controls), n_controls))
        with torch.enable_grad():
            outputs = answer(module, settings)
        if not outputs.requires_grad:
            raise TwinError(
                f"'constants' of PhysicsTwin must be what {type(self.device).__name__}.forward(controls, constants) computes "
                f"with. Got {', '.join(start)}, and outputs that do not depend on them. Use constants[{next(iter(start))!r}]."
            )

    def fit(self, controls: ControlBatch | np.ndarray, outputs: np.ndarray, sample_weight: Any = None) -> PhysicsTwin:
        """Find the constants from measured shots.

        Parameters
        ----------
        controls : ControlBatch or array of shape (n_shots, n_controls)
            What the device received, in its units.
        outputs : array of shape (n_shots, n_outputs)
            What it answered. With no shots at all the constants stay as they are believed to be.
        sample_weight : array of shape (n_shots,), default=None
            Weight of each shot.

        Returns
        -------
        self

        Raises
        ------
        TwinError
            If the model has no ``forward``, lacks a constant, or has other channels or outputs than the shots.
        ValueError
            If the shapes disagree, a number is not finite, or no shot has a weight.
        """
        from skpat.twins.physics_module import fit_constants

        controls = np.asarray(controls)
        if len(controls):
            controls, outputs, sample_weight = of_weight(*check_shots(controls, outputs, sample_weight))
        elif controls.ndim != 2 or np.ndim(outputs) != 2:
            raise ValueError(
                "A twin needs controls of shape (n_shots, n_controls) and outputs of shape (n_shots, n_outputs), empty "
                f"ones too. Got {controls.shape} and {np.shape(outputs)}."
            )
        self.check(controls.shape[1], outputs.shape[1])
        self._model = clone(self.device, safe=False)
        self._start = self._believed(self._model)
        self._unit, self._moved = _units_of(self._start), _no_move(self._start)
        self._dtype = controls.dtype.name
        self._module = None
        self._optimizer: Any = None
        self.n_features_in_ = controls.shape[1]
        rng = check_random_state(self.random_state)
        kept, held_out = hold_out(len(controls), self.validation_fraction, rng)
        spread = spread_of(outputs[kept]) if len(kept) else np.zeros(outputs.shape[1])
        of_stuck = np.inf if spread.any() else 1.0  # an output that never changes says nothing about the constants
        self._scale = np.where(spread > 0, spread, of_stuck)
        self.n_iter_ = 0
        if len(self.constants) and self.max_iter and len(kept):
            kept_shots = controls[kept], outputs[kept], sample_weight[kept]
            for name in self.constants:
                self._widen(name, kept_shots[0][: _count_probes(controls.shape[1])])
            self.n_iter_ = fit_constants(self.module_, kept_shots, self._scale, self.max_iter)
            if not self.n_iter_ and (score := self.score(*kept_shots)) < _POOR:
                self._warn_of_standstill(score)
        self.score_ = np.nan
        if len(held_out) and np.ptp(outputs[held_out], axis=0).max() > 0:
            self.score_ = self.score(controls[held_out], outputs[held_out], sample_weight[held_out])
        return self

    def partial_fit(
        self, controls: ControlBatch | np.ndarray, outputs: np.ndarray, sample_weight: Any = None
    ) -> PhysicsTwin:
        """One step of Adam on all the given shots together.

        Parameters and errors are those of :meth:`fit`; an unfitted twin is fitted.
        """
        if not hasattr(self, "n_features_in_"):
            return self.fit(controls, outputs, sample_weight)
        if not len(self.constants):
            return self
        from skpat.twins.physics_module import make_optimizer, step_constants

        batch = None
        if isinstance(controls, ControlBatch) and hasattr(self.module_, "forward_batch"):
            batch = controls.numpy()
        checked, outputs, sample_weight = check_shots(
            controls if batch is None else batch.varying, outputs, sample_weight
        )
        check_channels(self, checked if batch is None else batch, outputs, len(self._scale))
        if not sample_weight.any():
            return self
        shots = (checked if batch is None else batch), outputs, sample_weight
        if getattr(self, "_optimizer", None) is None:
            self._optimizer = make_optimizer(self.module_, self.learning_rate_init)
        step_constants(self.module_, self._optimizer, shots, self._scale)
        return self

    def predict(self, controls: ControlBatch | np.ndarray) -> np.ndarray:
        """What the twin expects the device to answer, shape (n_rows, n_outputs)."""
        import torch

        from skpat.twins.physics_module import answer

        check_channels(self, controls if isinstance(controls, ControlBatch) else np.asarray(controls))
        with torch.no_grad():
            return answer(self.module_, controls).cpu().numpy()

    @property
    def constants_(self) -> dict[str, Any]:
        check_is_fitted(self, "n_features_in_")
        return {
            name: float(value) if value.ndim == 0 else value
            for name, value in self.module_.constants_as_numpy().items()
        }

    def _believed(self, device: Any) -> dict[str, np.ndarray]:
        """The constants to be fitted, as the model has them."""
        return {name: np.asarray(getattr(device, name), dtype=np.float64) for name in self.constants}

    def _warn_of_standstill(self, score: float) -> None:
        values = ", ".join(f"{name} = {np.array2string(value, threshold=4)}" for name, value in self._start.items())
        warn_user(
            f"The constants of a PhysicsTwin must lead from where they start to what describes the shots. Got {values}, from "
            f"where no step made {type(self.device).__name__} fit better: an R² of {score:.2f}. Start nearer to the truth."
        )

    def _widen(self, name: str, controls: np.ndarray) -> None:
        """Make the unit of a constant so large that the outputs at these settings tell of it."""
        import torch

        from skpat.twins.physics_module import answer

        start = self._start[name]
        signs = np.random.default_rng(0).choice([-1.0, 1.0], size=start.shape) if start.ndim else np.ones(())

        def answers(unit: np.ndarray, move: np.ndarray) -> np.ndarray:
            units, moves = self._unit | {name: unit}, _no_move(self._start) | {name: move}
            with torch.no_grad():
                return as_numpy(answer(_module_of(self._model, self._start, units, moves, self._dtype), controls))

        here = answers(self._unit[name], np.zeros_like(start))
        if not np.isfinite(here).all():
            return  # what fits the constants says so
        for tenfold in range(_MOST_TENFOLDS):
            unit = np.asarray(10.0**tenfold * self._unit[name])
            try:
                with np.errstate(over="ignore", invalid="ignore"):
                    effect = np.sqrt(np.square((answers(unit, signs) - here) / self._scale).mean())
            except ValueError:  # constants that the model refuses
                return
            if not np.isfinite(effect):
                return
            if effect >= _LEAST_EFFECT:
                self._unit[name] = unit
                return

    @property
    def is_loaded(self) -> bool:
        """Whether it came from a pickle and has not learned since."""
        return hasattr(self, "score_") and "_optimizer" not in self.__dict__

    def forget(self) -> None:
        """Forget the optimizer's state; shots are not kept."""
        self._optimizer = None

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        if state.get("_module") is not None:  # numpy arrays: a pickle that loads without torch
            state["_moved"] = state["_module"].moved_as_numpy()
        state.pop("_module", None)
        state.pop("_optimizer", None)
        return state


def _count_probes(n_controls: int) -> int:
    return max(1, min(_PROBES, _PROBED // n_controls))


def _units_of(start: _Constants) -> _Constants:
    """What each constant is moved by, at first: by as much as it is."""

    def unit(value: np.ndarray) -> np.ndarray:
        largest = np.abs(value).max() if value.size else 0.0
        return np.full_like(value, largest or 1.0)

    return {name: unit(value) for name, value in start.items()}


def _no_move(start: _Constants) -> _Constants:
    return {name: np.zeros_like(value) for name, value in start.items()}


def _module_of(model: Any, start: _Constants, unit: _Constants, moved: _Constants, dtype: Any) -> torch.nn.Module:
    """The model at these constants, there where it wants to live."""
    from skpat.twins.physics_module import PhysicsModule

    return PhysicsModule(model, start, unit, moved, np.dtype(dtype)).to(getattr(model, "torch_device", "cpu"))
