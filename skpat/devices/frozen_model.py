"""A trained model whose weights stay as they are: a device that is steered by its continuous inputs alone."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from joblib import hash as hash_by_value
from sklearn.base import clone
from sklearn.utils.metaestimators import available_if

from skpat.controls import ControlBatch, readings_of
from skpat.devices.base import Device
from skpat.value_checks import is_int

if TYPE_CHECKING:
    import torch

__all__ = ["FrozenModel"]

_MODELS_PER_FACTORY = 8
_models: WeakKeyDictionary[Callable, dict[tuple, torch.nn.Module]] = WeakKeyDictionary()
_building = threading.RLock()


def _has_module(device: FrozenModel) -> bool:
    return device.function is None


class FrozenModel(Device):
    r"""Any frozen model as a device: a torch module that a factory returns, or a plain function that returns numbers.

    With data :math:`x` on the first channels, a soft prompt :math:`p` (the control code) on the others and weights
    :math:`w` that nobody touches, one row of outputs is

    .. math::

        y = f_w(x, p) .

    Training the prompt teaches the model a skill it was not built for: prompt tuning, but from outputs alone where the
    gradient goes through a twin.

    Parameters
    ----------
    factory : callable, default=None
        ``factory(**factory_params)`` returns the frozen ``torch.nn.Module``. None: with no ``function`` either,
        ``skpat.devices.small_transformer.small_transformer``. It is called at the first measurement, not before.
        Define it at the top of a module, so that the device can be pickled (by the factory's name, never by weights).
    function : callable, default=None
        In place of a factory: ``function(inputs)`` with a numpy array of shape (n_rows, n_controls), or (n_rows,
        \*input_shape), returns numbers of shape (n_rows, n_outputs). A model behind an interface, or not in torch.
    factory_params : dict, default=None
        Keyword arguments of the factory.
    n_data : int, default=64
        Number of data channels: the first ones. At least 1.
    n_prompt : int, default=64
        Number of prompt channels: those after the data. 0 or more.
    n_outputs : int, default=6
        Number of outputs.
    input_shape : tuple of int, default=None
        Shape in which the model receives the n_data + n_prompt controls of one row, (n_tokens, d_model) say, in C order.
        None: flat.
    bounds : (low, high) or array-like of shape (n_controls, 2), default=(-1.0, 1.0)
        Legal values of all channels alike or of each, in the model's own units: controls are handed on as they are.
    dtype : str, default=None
        Precision in which a torch module is computed, "float32", "float64", "bfloat16" or "float16". None: that of the
        controls. Outputs have the precision of the controls in any case. A function receives the controls' own.
    chunk_rows : int, default=256
        Rows that the model is given at once, at most: the memory does not grow with the number of rows.
    torch_device : str, default="cpu"
        Where the module lives. Controls may be elsewhere.
    control_units, output_units : str, default=""
        Units, for messages and plots.
    seconds_per_shot, joules_per_shot : float, default=None
        Cost of one row, for plans and reports.
    name : str, default=None
        What to call the device in messages. None: its class.

    Attributes
    ----------
    n_controls : int
        n_data + n_prompt.
    data_index, prompt_index : ndarray of int
        The channels of the data and of the prompt: ``control_split=ControlSplit(device.data_index)`` trains the prompt
        and nothing else.

    Notes
    -----
    *Frozen.* What the factory returns is copied; the copy is put in evaluation mode (dropout off, running statistics
    used as they are) and asks for no gradient of its weights. The object that the factory returned is not changed.

    *One copy.* Modules are kept per process for each (factory, factory_params, torch_device, dtype), the last 8 of a factory,
    as long as the factory exists: devices that say the same share one, and clones build nothing. The factory must return
    the same model in every process. To that end torch's global generator stands at seed 0 while it is called, and is put
    back afterwards; whatever else it draws from, it must seed itself.

    *Gradient.* ``forward`` is the module itself, so the exact gradient is autograd's. A device made of a function has no
    ``forward``.

    *Precision.* By default the weights are converted to the precision of the controls, which is exact from float32 to
    float64. The last bits of a row may depend on how many rows share the call, because matrix products are blocked by
    shape: about 1e-16 relative in float64, 1e-7 in float32. A module that takes another path without gradients (the
    fast path of ``torch.nn.TransformerEncoderLayer``) measures and differentiates in different last bits.

    *Noise.* There is none, unless the model makes it. A model that draws random numbers in evaluation mode is not
    repeatable, and its noise not a function of the row.

    References
    ----------
    Lester, Al-Rfou, Constant, "The power of scale for parameter-efficient prompt tuning", EMNLP (2021),
    doi:10.18653/v1/2021.emnlp-main.243.

    Examples
    --------
    >>> import numpy as np
    >>> from skpat import ControlSplit
    >>> from skpat.devices import FrozenModel
    >>> def recall(inputs):
    ...     data, prompt = inputs[:, :3], inputs[:, 3:]
    ...     return np.tanh(4 * data * prompt)
    >>> model = FrozenModel(function=recall, n_data=3, n_prompt=3, n_outputs=3)
    >>> model.measure(np.full((1, 6), 0.5)).round(3)
    array([[0.762, 0.762, 0.762]])
    >>> hasattr(model, "forward")
    False
    >>> ControlSplit(model.data_index).resolve(model.n_controls).weight_index
    array([3, 4, 5])
    """

    def __init__(
        self,
        factory=None,
        *,
        function=None,
        factory_params=None,
        n_data=64,
        n_prompt=64,
        n_outputs=6,
        input_shape=None,
        bounds=(-1.0, 1.0),
        dtype=None,
        chunk_rows=256,
        torch_device="cpu",
        control_units="",
        output_units="",
        seconds_per_shot=None,
        joules_per_shot=None,
        name=None,
    ):
        self.factory = factory
        self.function = function
        self.factory_params = factory_params
        self.n_data = n_data
        self.n_prompt = n_prompt
        self.n_outputs = n_outputs
        self.input_shape = input_shape
        self.bounds = bounds
        self.dtype = dtype
        self.chunk_rows = chunk_rows
        self.torch_device = torch_device
        self.control_units = control_units
        self.output_units = output_units
        self.seconds_per_shot = seconds_per_shot
        self.joules_per_shot = joules_per_shot
        self.name = name

    def __sklearn_clone__(self) -> FrozenModel:
        """A device of its own around the same factory or function: a model behind it is shared, never copied."""
        by_reference = ("factory", "function")
        params = self.get_params(deep=False)
        return type(self)(**{k: v if k in by_reference else clone(v, safe=False) for k, v in params.items()})

    @property
    def n_controls(self) -> int:  # type: ignore[override]  # an attribute of the base class, derived here
        return self.n_data + self.n_prompt

    @property
    def data_index(self) -> np.ndarray:
        return np.arange(self.n_data)

    @property
    def prompt_index(self) -> np.ndarray:
        return np.arange(self.n_data, self.n_controls)

    def measure(self, batch: ControlBatch | np.ndarray) -> np.ndarray:
        """Ask the model once for each row.

        Parameters
        ----------
        batch : ControlBatch or array of shape (n_rows, n_controls)
            Data and prompt, in the model's units.

        Returns
        -------
        ndarray of shape (n_rows, n_outputs)
            In the precision of the controls.

        Raises
        ------
        ValueError
            If a parameter is not what it must be, or the model returns something else than (n_rows, n_outputs) numbers.
        """
        batch = ControlBatch.from_dense(batch).numpy()
        self._check_parameters(batch.n_controls)
        ask = self._ask_module if self.function is None else self._ask_function
        pieces = [
            ask(batch.rows(slice(start, start + self.chunk_rows)).dense())
            for start in range(0, batch.n_rows, self.chunk_rows)
        ]
        if not pieces:
            return np.empty((0, self.n_outputs), dtype=batch.dense().dtype)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _ask_function(self, controls: np.ndarray) -> np.ndarray:
        inputs = np.array(controls).reshape(len(controls), *self._input_shape)  # its own: it may work in place
        outputs = readings_of(self.function(inputs))
        if outputs.dtype.kind not in "biuf" or outputs.shape != (len(controls), self.n_outputs):
            raise self._wrong_outputs(outputs, len(controls))
        return outputs.astype(controls.dtype, copy=False)

    def _ask_module(self, controls: np.ndarray) -> np.ndarray:
        import torch

        with torch.no_grad():
            return self.forward(torch.from_numpy(np.array(controls))).cpu().numpy()

    @available_if(_has_module)
    def forward(self, controls: torch.Tensor, constants: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
        """The module's outputs, differentiable with respect to data and prompt. Only where the model is a torch module.

        Parameters
        ----------
        controls : tensor of shape (n_rows, n_controls)
            Data and prompt.
        constants : dict, default=None
            Must be empty: nothing in a frozen model can be replaced.

        Returns
        -------
        tensor of shape (n_rows, n_outputs)
            In the precision and at the place of the controls.

        Raises
        ------
        ValueError
            As :meth:`measure`, and if ``constants`` names something.
        """
        if constants:
            raise ValueError(
                f"'constants' of {self._title} must be empty: the model is frozen. Got {sorted(constants)}. "
                "Change what the factory returns through factory_params."
            )
        self._check_parameters(controls.shape[1])
        dtype = controls.dtype if self.dtype is None else _torch_dtype(self.dtype)
        module = self._module(dtype)
        inputs = controls.to(device=self.torch_device, dtype=dtype)
        outputs = module(inputs.reshape(len(controls), *self._input_shape))
        real = hasattr(outputs, "is_complex") and not outputs.is_complex()
        if not real or outputs.shape != (len(controls), self.n_outputs):
            raise self._wrong_outputs(outputs, len(controls))
        return outputs.to(controls)

    def _module(self, dtype: torch.dtype) -> torch.nn.Module:
        """The frozen module in that precision, built once in this process; two threads wait for each other."""
        import torch

        factory = self._factory
        values = hash_by_value(self.factory_params) if self.factory_params else ""
        wanted = values, str(self.torch_device), dtype
        with _building, torch.inference_mode(False):  # whoever asks first, others may want gradients
            known = _models.setdefault(factory, {})
            module = known.pop(wanted, None)
            if module is None:
                built = known.pop((values,), None)
                built = self._build() if built is None else built
                tensors = (tensor for tensor in (*built.parameters(), *built.buffers()) if tensor.is_floating_point())
                there = all(t.dtype == dtype and t.device == _torch_place(self.torch_device) for t in tensors)
                module = built if there else copy.deepcopy(built).to(device=self.torch_device, dtype=dtype)
                known[values,] = built
            known[wanted] = module  # last: the first are the longest unused
            for oldest in list(known)[:-_MODELS_PER_FACTORY]:
                del known[oldest]
        return module

    def _build(self) -> torch.nn.Module:
        """A private copy of what the factory returns, in evaluation mode, that asks for no gradient of its weights."""
        import torch

        state = torch.get_rng_state()
        try:
            torch.default_generator.manual_seed(0)  # weights that are drawn are the same in every process
            with torch.enable_grad():  # the factory may train it first
                module = self._factory(**(self.factory_params or {}))
        finally:
            torch.set_rng_state(state)
        if not isinstance(module, torch.nn.Module):
            raise ValueError(
                f"'factory' of {self._title} must return a torch.nn.Module. Got {type(module).__name__}. "
                "Give a function that returns numbers as function=..."
            )
        return copy.deepcopy(module).eval().requires_grad_(False)  # a copy keeps no gradients

    @property
    def _factory(self) -> Callable[..., Any]:
        if self.factory is not None:
            return self.factory
        from skpat.devices.small_transformer import small_transformer  # the recipe is needed by default only

        return small_transformer

    @property
    def _input_shape(self) -> tuple[int, ...]:
        return (self.n_controls,) if self.input_shape is None else tuple(self.input_shape)

    @property
    def _title(self) -> str:
        return self.name or type(self).__name__

    def _wrong_outputs(self, outputs: Any, n_rows: int) -> ValueError:
        got = (
            f"{outputs.dtype} of shape {tuple(outputs.shape)}" if hasattr(outputs, "shape") else type(outputs).__name__
        )
        return ValueError(
            f"The model of {self._title} must return numbers of shape (n_rows, n_outputs) = ({n_rows}, {self.n_outputs}). "
            f"Got {got}. Set n_outputs, or wrap the model in one that picks its outputs."
        )

    def _check_parameters(self, n_channels: int) -> None:
        title = self._title
        for parameter, lowest in (("n_data", 1), ("n_prompt", 0), ("n_outputs", 1), ("chunk_rows", 1)):
            value = getattr(self, parameter)
            if not is_int(value, lowest):
                raise ValueError(f"'{parameter}' of {title} must be an int of at least {lowest}. Got {value!r}.")
        if n_channels != self.n_controls:
            raise ValueError(
                f"The 'controls' of {title} must have n_data + n_prompt = {self.n_data} + {self.n_prompt} channels. "
                f"Got {n_channels}. Give one column for each, the data first, or set n_data and n_prompt."
            )
        shape = self.input_shape
        whole = shape is None or (isinstance(shape, (tuple, list)) and all(is_int(n, 1) for n in shape))
        if not whole or math.prod(self._input_shape) != self.n_controls:
            raise ValueError(
                f"'input_shape' of {title} must be whole numbers that multiply to n_data + n_prompt = {self.n_controls}. "
                f"Got {shape!r}. Use input_shape=None to give the model flat rows."
            )
        if self.function is not None:
            self._check_function()
        else:
            self._check_factory()

    def _check_function(self) -> None:
        if not callable(self.function):
            raise ValueError(
                f"'function' of {self._title} must be callable as function(inputs). Got {self.function!r}."
            )
        for parameter in ("factory", "factory_params", "dtype"):
            if getattr(self, parameter) is not None:
                raise ValueError(
                    f"'{parameter}' of {self._title} must be None where a function is the model. "
                    f"Got {getattr(self, parameter)!r}. Give a factory or a function, not both."
                )

    def _check_factory(self) -> None:
        import torch

        title, factory = self._title, self.factory
        if isinstance(factory, torch.nn.Module):
            raise ValueError(
                f"'factory' of {title} must be a function that returns the module, so that the device can be cloned and "
                f"sent to other processes. Got the module {type(factory).__name__} itself. Define it at the top of a file "
                "and give the function that makes it."
            )
        if factory is not None and (not callable(factory) or type(factory).__hash__ is None):
            raise ValueError(
                f"'factory' of {title} must be callable and hashable, so that its module is built once. Got {factory!r}. "
                "Use a function at the top of a file."
            )
        if self.factory_params is not None and not isinstance(self.factory_params, dict):
            raise ValueError(
                f"'factory_params' of {title} must be a dict of keyword arguments, or None. Got {self.factory_params!r}. "
                "Use factory_params={'name': value} for factory(name=value)."
            )
        if self.dtype is not None and _torch_dtype(self.dtype) is None:
            raise ValueError(
                f"'dtype' of {title} must be 'float32', 'float64', 'bfloat16', 'float16' or None. Got {self.dtype!r}. "
                "Give the name as a string, or None for the precision of the controls."
            )


def _torch_dtype(name: Any) -> Any:
    """The dtype of that name, None for another."""
    import torch

    known = {kind: getattr(torch, kind) for kind in ("float32", "float64", "bfloat16", "float16")}
    return known.get(name) if isinstance(name, str) else None


def _torch_place(name: Any) -> torch.device:
    """The torch device of that name, with its number where it has one."""
    import torch

    return torch.empty(0, device=name).device
