"""What flows through the whole house: ControlBatch (one device call) and ControlSplit (which channel is what)."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state

from skpat.exceptions import ControlSplitError
from skpat.value_checks import is_int, is_number

__all__ = ["ChannelSplit", "ControlBatch", "ControlSplit", "inner_bounds"]

LAYOUTS = ("interleaved", "contiguous", "random")


@dataclass(frozen=True, eq=False)
class ControlBatch:
    """What one device call carries: ``n_rows`` settings of ``n_controls`` channels, in the device's own units.

    The settings are held in two parts. A driver whose shared channels are slow or many (a coupling matrix with a
    million entries, a bias that takes 50 ms to settle) reads the two parts and never builds the dense array; everyone
    else takes ``np.asarray(batch)``.

    Parameters
    ----------
    varying : array of shape (n_rows, k)
        Channels that differ from row to row. numpy, or torch during training.
    varying_index : ndarray of int, shape (k,)
        The channel of each column of ``varying``.
    shared : array of shape (n_controls - k,)
        Channels that are the same for every row of this call.
    shared_index : ndarray of int, shape (n_controls - k,)
        The channel of each entry of ``shared``.
    row_keys : ndarray of uint64, shape (n_rows,), default=None
        Names of the rows. A simulated device makes its noise a pure function of them; None: unnamed rows.
    shot : int, default=0
        The number of this measurement among all measurements of the same rows.
    clock : ndarray of int, shape (n_rows,), default=None
        How many rows had been measured before each row: the time of a device that drifts. Set by the session.

    Notes
    -----
    Nothing is copied or checked here. The bounds are checked once, by :class:`skpat.lab.Session`.

    Examples
    --------
    >>> import numpy as np
    >>> from skpat import ControlBatch
    >>> batch = ControlBatch(np.zeros((3, 2)), np.array([0, 2]), np.array([0.5]), np.array([1]))
    >>> batch.n_rows, batch.n_controls
    (3, 3)
    >>> np.asarray(batch)[0]
    array([0. , 0.5, 0. ])
    """

    varying: Any
    varying_index: np.ndarray
    shared: Any
    shared_index: np.ndarray
    row_keys: np.ndarray | None = None
    shot: int = 0
    clock: np.ndarray | None = None

    @classmethod
    def from_dense(cls, controls: Any, shared_index: Any = ()) -> ControlBatch:
        """Wrap an array of shape (n_rows, n_controls) in which every channel may vary; a batch passes unchanged.

        Parameters
        ----------
        controls : array-like or tensor of shape (n_rows, n_controls), or ControlBatch
        shared_index : array-like of int, default=()
            Channels that all rows share: what they are in the first.

        Raises
        ------
        ValueError
            If ``controls`` is not two-dimensional.
        """
        if isinstance(controls, ControlBatch):
            return controls
        if not hasattr(controls, "detach"):
            controls = np.asarray(controls)
            if controls.dtype.kind in "iub":
                controls = controls.astype(np.float64)
        elif not controls.is_floating_point():  # whole numbers in a tensor
            controls = controls.double()
        if len(controls.shape) != 2:
            raise ValueError(
                f"'controls' must be an array of shape (n_rows, n_controls). Got shape {tuple(controls.shape)}. "
                "Use controls.reshape(1, -1) for a single row."
            )
        shared = np.asarray(shared_index, dtype=np.intp)
        if len(shared) and len(controls):
            varying = np.setdiff1d(np.arange(controls.shape[1]), shared)
            return cls(controls[:, varying], varying, controls[0, shared], shared)
        return cls(controls, np.arange(controls.shape[1]), controls[0, :0] if len(controls) else np.empty(0), shared)

    @property
    def n_rows(self) -> int:
        return self.varying.shape[0]

    @property
    def n_controls(self) -> int:
        return len(self.varying_index) + len(self.shared_index)

    def __len__(self) -> int:
        return self.n_rows

    def dense(self) -> Any:
        """The array of shape (n_rows, n_controls), of the same kind (numpy or torch) as ``varying``.

        A tensor keeps its graph.
        """
        if self._is_dense:
            return self.varying
        shape = (self.n_rows, self.n_controls)
        if isinstance(self.varying, np.ndarray):
            kinds = self.varying.dtype, as_numpy(self.shared).dtype
            out = np.empty(shape, dtype=kinds[0] if kinds[0] is kinds[1] else np.result_type(*kinds))
        else:
            kind = sys.modules["torch"].promote_types(self.varying.dtype, self.shared.dtype)
            out = self.varying.new_empty(shape, dtype=kind)
        for index, part in ((self.varying_index, self.varying), (self.shared_index, self.shared)):
            if len(index):  # torch takes no reversed views, wants them writable, and does not cast
                out[:, np.array(index)] = part if isinstance(out, np.ndarray) else part.to(out.dtype)
        return out

    @property
    def _is_dense(self) -> bool:
        return not len(self.shared_index) and _is_identity(self.varying_index)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """A fresh array, which a driver may change as it likes; ``copy=False`` gives the batch's own or raises."""
        out = self.numpy().dense()
        converted = out if dtype is None else out.astype(dtype, copy=False)
        if copy is False:
            if not self._is_dense or converted is not out:
                raise ValueError("This ControlBatch has no such array without a copy. Use np.asarray(batch).")
            return out
        return converted.copy() if self._is_dense and converted is out else converted

    def numpy(self) -> ControlBatch:
        """The same batch with numpy parts: tensors are detached and brought to the CPU (no copy where possible)."""
        varying, shared = as_numpy(self.varying), as_numpy(self.shared)
        if varying is self.varying and shared is self.shared:
            return self
        return self.changed(varying=varying, shared=shared)

    def read_only(self) -> ControlBatch:
        """The same batch with arrays that cannot be written to.

        A driver that changes them in place gets an error. Otherwise the next shot of the same batch would start from the
        changed settings, and change them once more.
        """
        varying, shared = self.varying.view(), self.shared.view()
        varying.flags.writeable = shared.flags.writeable = False
        return self.changed(varying=varying, shared=shared)

    def rows(self, selection: slice | np.ndarray) -> ControlBatch:
        """The batch of some of the rows. The shared part is handed on, not copied."""
        keys = None if self.row_keys is None else self.row_keys[selection]
        clock = None if self.clock is None else self.clock[selection]
        return self.changed(varying=self.varying[selection], row_keys=keys, clock=clock)

    def changed(self, **parts: Any) -> ControlBatch:
        """The same batch with some of its fields replaced; dataclasses.replace takes ten times as long, for every shot."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.__dict__.update(parts)
        return other

    def named(self, row_keys: np.ndarray | None, shot: int = 0) -> ControlBatch:
        """The same settings under other names."""
        return self.changed(row_keys=row_keys, shot=shot)

    def named_shot(self, shot: int) -> ControlBatch:
        """The same rows, measured another time."""
        return self if shot == self.shot else self.changed(shot=shot)

    def started_at(self, n_before: int) -> ControlBatch:
        """The same rows, one after the other, when ``n_before`` rows have been measured before."""
        return self.changed(clock=np.arange(n_before, n_before + self.n_rows))


def as_numpy(array: Any) -> np.ndarray:
    """A numpy array of a numpy array, tensor (detached, brought to the CPU) or sequence, copied only if it must be."""
    if hasattr(array, "detach"):
        return array.detach().cpu().numpy()
    return np.asarray(array)  # masks and other subclasses are dropped: what is sent is what is checked


def readings_of(answer: Any) -> np.ndarray:
    """What a driver answered, as a numpy array: NaN where it masks a reading, as a sign that there is none."""
    if isinstance(answer, (list, tuple)) and _has_masks(answer):
        answer = [readings_of(row) for row in answer]
    if isinstance(answer, np.ma.MaskedArray):
        answer = np.ma.filled(answer.astype(np.result_type(answer, np.float32)), np.nan)
    try:
        return as_numpy(answer)
    except ValueError:  # rows of different lengths: an answer of the wrong shape, as others are
        return np.fromiter(answer, dtype=object, count=len(answer))


def _has_masks(rows: list[Any] | tuple[Any, ...]) -> bool:
    """Whether rows, or what they are lists of, mask readings: numpy would drop the masks."""
    return any(
        isinstance(row, np.ma.MaskedArray) or (isinstance(row, (list, tuple)) and _has_masks(row)) for row in rows
    )


def _is_identity(index: np.ndarray) -> bool:
    return bool((index == np.arange(len(index))).all())


@dataclass(frozen=True, eq=False)
class ChannelSplit:
    """A :class:`ControlSplit` worked out for a number of channels: the ``control_split_`` of a fitted estimator.

    Attributes
    ----------
    n_controls : int
    input_index, weight_index, fixed_index : ndarray of int
        The channels that carry data, the trainable ones, and those held. Together a partition of all channels.
        ``input_index`` and ``weight_index`` keep the order in which they were given.
    fixed_values : ndarray of float, shape (n_fixed,)
        In the device's units.
    """

    n_controls: int
    input_index: np.ndarray
    weight_index: np.ndarray
    fixed_index: np.ndarray
    fixed_values: np.ndarray
    shared_index: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        for name in ("input_index", "weight_index", "fixed_index"):
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name)))
        object.__setattr__(self, "shared_index", np.concatenate([self.weight_index, self.fixed_index]))

    @property
    def n_inputs(self) -> int:
        return len(self.input_index)

    @property
    def n_weights(self) -> int:
        return len(self.weight_index)

    def assemble(self, inputs: Any, weights: Any) -> ControlBatch:
        """Put data and weights on their channels.

        Parameters
        ----------
        inputs : array of shape (n_rows, n_inputs)
            In the device's units; numpy or torch.
        weights : array of shape (n_weights,)
            In the device's units; the same kind as ``inputs``.

        Returns
        -------
        ControlBatch
            ``inputs`` varies, ``weights`` and the fixed values are shared.
        """
        if len(self.fixed_index):
            if isinstance(weights, np.ndarray):
                weights = np.concatenate([weights, self.fixed_values.astype(weights.dtype)])
            else:
                shared = weights.new_empty(len(self.shared_index))
                shared[: self.n_weights] = weights
                shared[self.n_weights :] = weights.new_tensor(self.fixed_values)
                weights = shared
        return ControlBatch(inputs, self.input_index, weights, self.shared_index)

    def take_apart(self, batch: ControlBatch) -> tuple[Any, Any]:
        """The inverse of :meth:`assemble`: (inputs, weights) of a batch that it made."""
        return batch.varying, batch.shared[: self.n_weights]


class ControlSplit(BaseEstimator):
    """Which control channels carry the data, and which are trainable weights.

    Parameters
    ----------
    layout : {"interleaved", "contiguous", "random"} or array-like of int, default="interleaved"
        How the inputs lie among the channels: spread evenly, first of all, or drawn at random. An array of channel
        numbers gives the inputs explicitly (every other free channel is a weight); a pair of arrays gives inputs and
        weights, which must then be all the free channels.
    input_fraction : float in (0, 1], default=0.5
        Share of the free channels that carry data. Ignored where ``n_inputs`` or an explicit layout says it.
    n_inputs : int, default=None
        Number of channels that carry data, in place of ``input_fraction``.
    fixed : dict of int to float, default=None
        Channels held at a value (in the device's units): neither data nor weights.
    random_state : int, RandomState instance or None, default=None
        For ``layout="random"``. None inside an estimator: derived from the estimator's ``random_state``.

    Examples
    --------
    >>> from skpat import ControlSplit
    >>> split = ControlSplit("interleaved", input_fraction=0.5).resolve(6)
    >>> split.input_index, split.weight_index
    (array([1, 3, 5]), array([0, 2, 4]))
    >>> ControlSplit([4, 0], fixed={5: 0.1}).resolve(6).weight_index
    array([1, 2, 3])
    """

    def __init__(self, layout="interleaved", *, input_fraction=0.5, n_inputs=None, fixed=None, random_state=None):
        self.layout = layout
        self.input_fraction = input_fraction
        self.n_inputs = n_inputs
        self.fixed = fixed
        self.random_state = random_state

    def resolve(self, n_controls: int) -> ChannelSplit:
        """Work the split out for a device.

        Parameters
        ----------
        n_controls : int
            Number of channels of the device.

        Returns
        -------
        ChannelSplit

        Raises
        ------
        ControlSplitError
            If the parameters do not describe a partition of the channels.
        """
        fixed_index, fixed_values = self._resolve_fixed(n_controls)
        free = np.setdiff1d(np.arange(n_controls), fixed_index)
        if not len(free):
            raise ControlSplitError(
                f"'fixed' must leave at least one channel to carry data. Got values for all {n_controls} channels. "
                "Fix fewer channels."
            )
        if isinstance(self.layout, str):
            inputs, weights = self._lay_out(free)
        else:
            inputs, weights = self._explicit(free, n_controls)
        return ChannelSplit(n_controls, inputs, weights, fixed_index, fixed_values)

    def _resolve_fixed(self, n_controls: int) -> tuple[np.ndarray, np.ndarray]:
        fixed = {} if self.fixed is None else self.fixed
        if not isinstance(fixed, dict):
            raise ControlSplitError(
                f"'fixed' must be a dict of channel number to value. Got {fixed!r}. For example fixed={{3: 0.5}}."
            )
        for channel, value in fixed.items():
            if not is_int(channel, 0) or channel >= n_controls:
                raise ControlSplitError(
                    f"'fixed' must name channels from 0 to {n_controls - 1}. Got channel {channel!r}. "
                    f"Count channels from 0: the last is {n_controls - 1}."
                )
            if not (is_number(value) and np.isfinite(float(value))):
                raise ControlSplitError(
                    f"'fixed' must hold finite numbers. Got {value!r} for channel {channel}. "
                    f"Give a value in the device's units, fixed={{{channel}: 0.5}} for example."
                )
        index = np.array(sorted(fixed), dtype=np.intp)
        return index, np.array([float(fixed[i]) for i in index])

    def _lay_out(self, free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.layout not in LAYOUTS:
            raise ControlSplitError(
                f"'layout' must be one of {', '.join(map(repr, LAYOUTS))}, or arrays of channel numbers. "
                f"Got {self.layout!r}."
            )
        n_free = len(free)
        n_inputs = self._count_inputs(n_free)
        if self.layout == "contiguous":
            is_input = np.arange(n_free) < n_inputs
        elif self.layout == "interleaved":  # Bresenham: the inputs as evenly spread as whole numbers allow
            steps = np.arange(n_free + 1) * n_inputs // n_free
            is_input = np.diff(steps) == 1
        else:
            chosen = check_random_state(self.random_state).permutation(n_free)[:n_inputs]
            is_input = np.isin(np.arange(n_free), chosen)
        return free[is_input], free[~is_input]

    def _count_inputs(self, n_free: int) -> int:
        if self.n_inputs is not None:
            if not is_int(self.n_inputs, 1) or self.n_inputs > n_free:
                raise ControlSplitError(
                    f"'n_inputs' must be an int from 1 to {n_free}, the number of free channels, or None. "
                    f"Got {self.n_inputs!r}. Use n_inputs=None for the share that input_fraction gives."
                )
            return int(self.n_inputs)
        fraction = self.input_fraction
        if not is_number(fraction) or not 0 < float(fraction) <= 1:
            raise ControlSplitError(
                f"'input_fraction' must be a float above 0 and at most 1. Got {fraction!r}. "
                "Use input_fraction=0.5 for one half, or n_inputs for a number of channels."
            )
        return max(1, round(float(fraction) * n_free))

    def _explicit(self, free: np.ndarray, n_controls: int) -> tuple[np.ndarray, np.ndarray]:
        parts = self.layout
        pair = isinstance(parts, (tuple, list)) and len(parts) == 2 and all(np.ndim(part) == 1 for part in parts)
        inputs = _channel_numbers(parts[0] if pair else parts, "inputs", n_controls)
        weights = _channel_numbers(parts[1], "weights", n_controls) if pair else np.setdiff1d(free, inputs)
        if not len(inputs):
            raise ControlSplitError(
                "'layout' must give at least one input channel. Got none. "
                f"Use layout=[{free[0]}] for a single one, or layout='interleaved'."
            )
        together = np.concatenate([inputs, weights])
        counts = np.bincount(together, minlength=n_controls)
        if (counts > 1).any():
            channel = int(np.argmax(counts > 1))
            raise ControlSplitError(
                f"'layout' must name each channel once. Got channel {channel} more than once. "
                "Name it once, as an input or as a weight."
            )
        wrong = np.setxor1d(together, free)
        if len(wrong):
            channel = int(wrong[0])
            if channel in free:
                raise ControlSplitError(
                    f"'layout' must say of every free channel whether it is an input or a weight. Got neither for channel "
                    f"{channel}. Add it to one of them, or hold it with fixed={{{channel}: value}}."
                )
            raise ControlSplitError(
                f"'layout' must name free channels only. Got channel {channel}, which 'fixed' holds. "
                "Remove it from one of them."
            )
        return inputs, weights


def _channel_numbers(values: Any, what: str, n_controls: int) -> np.ndarray:
    try:
        array = np.asarray(values)
    except ValueError:  # ragged
        array = np.empty((0, 0))
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        use = "layout=[0, 2] for channels 0 and 2, for example"
        if array.dtype == bool:
            use = "np.flatnonzero(mask) for the numbers of the channels that a mask marks"
        elif array.ndim > 1 and np.issubdtype(array.dtype, np.integer):
            use = f"numbers of shape ({array.size},): .ravel() makes one row of them"
        raise ControlSplitError(
            f"'layout' must be a name ({', '.join(LAYOUTS)}), an array of channel numbers, or a pair of such arrays. "
            f"Got {values!r:.200} for the {what}. Use {use}."
        )
    if array.size and (array.min() < 0 or array.max() >= n_controls):
        raise ControlSplitError(
            f"'layout' must name channels from 0 to {n_controls - 1}. Got {int(array.min())} to {int(array.max())} "
            f"for the {what}. Count channels from 0: the last is {n_controls - 1}."
        )
    return array.astype(np.intp)


def inner_bounds(bounds: np.ndarray, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """Bounds (2, n) in that precision, rounded inwards: a float32 control must be legal in float64 too."""
    if dtype.itemsize == 8:
        return bounds[0], bounds[1]
    low, high = bounds.astype(np.float32)
    low = np.where(low < bounds[0], np.nextafter(low, np.float32(np.inf)), low)
    high = np.where(high > bounds[1], np.nextafter(high, np.float32(-np.inf)), high)
    return low, high
