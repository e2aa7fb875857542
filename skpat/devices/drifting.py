"""Drift and misalignment around any device."""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np

from skpat.controls import ControlBatch
from skpat.devices.base import _as_seed
from skpat.devices.noise import standard_normal
from skpat.devices.wrapper import DeviceWrapper, _handed_on
from skpat.row_keys import combine_keys
from skpat.value_checks import is_int, is_number

__all__ = ["Drifting"]

_ON = ("controls", "control_gains", "outputs")
_PER_ROWS = 1000  # rows after which a drift has the standard deviation that its parameter states
_NAME = 0x64726966  # mixed into the names of the random numbers, so that they are no other device's
_COMMON, _INDEPENDENT, _MISALIGNMENT = range(3)
_BLOCK_VALUES = 2**14  # numbers by which a walk is taken further
_KEPT_VALUES = 2**18  # numbers of a walk that are kept for a clock that is set back


class Drifting(DeviceWrapper):
    r"""A device that drifts: slowly, all channels together and each on its own, and once by a jolt.

    After :math:`t` rows have been measured, channel :math:`j` with bounds :math:`l_j` to :math:`h_j` that is asked for
    :math:`c_j` really has

    .. math::

        c_j' = \mathrm{clip}\bigl(c_j + (h_j - l_j)\, d_j(t),\, l_j,\, h_j\bigr), \qquad
        d_j(t) = \sigma_c W_0(t) + \sigma_i W_j(t) + \sigma_m z_j\, [t \ge t_m],

    where :math:`W_0, W_j` are independent random walks of variance :math:`t / 1000` and :math:`z_j` standard normal numbers.

    Parameters
    ----------
    device : Device
        What drifts.
    common : float, default=0.01
        :math:`\sigma_c`: standard deviation, after 1,000 rows, of the drift that all channels have in common, as a fraction of
        each channel's range. 0: none.
    independent : float, default=0.0
        :math:`\sigma_i`: the same for the drift of each channel on its own.
    misalignment : float, default=0.0
        :math:`\sigma_m`: standard deviation of what a sudden misalignment adds to each channel for good, as a fraction of its
        range.
    misalignment_at : int, default=None
        :math:`t_m`: rows measured before the misalignment. Needed where ``misalignment`` is above 0.
    on : {"controls", "control_gains", "outputs"}, default="controls"
        What drifts. "controls": the settings, as above. "control_gains": the settings are multiplied,
        :math:`c_j' = \mathrm{clip}((1 + d_j) c_j)`. "outputs": the outputs are multiplied, :math:`y_j' = (1 + d_j) y_j`, with
        one walk for each output.
    interval : int, default=100
        Rows between two knots of the walks, which are straight lines between them. Short intervals cost calls, see Notes.
    random_state : int, default=None
        Seed of the drift. None: a path of its own for each object (a clone drifts in another way, a pickled copy goes on).

    Notes
    -----
    The drift is a pure function of (``random_state``, clock). The clock of a row is the number of rows measured before it: the
    session's count, answers of a journal included, so that a run taken up again drifts as if it had never been interrupted.
    A call without a session goes by the device's own count. Before the first row the drift is exactly zero. A random walk
    forgets nothing: its standard deviation grows with the square root of the number of rows, exactly so at the knots.

    Channels that differ from row to row drift from row to row. Channels that all rows share stay shared: they have
    the drift of the last knot, and a call is handed on in stretches that end at knots. An answer therefore does not depend
    on how rows are divided into calls, and a million shared couplings are never copied for each row. A device that takes
    its shared channels through ``set_shared`` is given them again when their drift has changed; no settling time is added for
    steps as small as these.

    ``forward`` is the response without drift. A device with ``control_steps`` receives the step next to the drifted value: put
    :class:`skpat.devices.Quantized` outside, as in ``Quantized(Drifting(device))``, for a converter in front of what drifts.
    For drift of offsets and of gains at once, wrap twice. A ``periodic`` channel whose setting drifts beyond its bounds comes
    back a period further instead of being clipped. A channel whose gain drifts is not stated to be periodic: its period drifts,
    too.

    Examples
    --------
    >>> import numpy as np
    >>> from skpat.devices import Drifting, IdentityDevice
    >>> bench = IdentityDevice(2, 2, bounds=[[0, 1]] * 2)
    >>> device = Drifting(bench, common=0.05, misalignment=0.2, misalignment_at=300, random_state=0)
    >>> outputs = device.measure(np.full((500, 2), 0.5))
    >>> outputs[[0, 100, 200, 300]].round(3)
    array([[0.5  , 0.5  ],
           [0.509, 0.509],
           [0.488, 0.488],
           [0.754, 0.401]])
    """

    equations: Any = _handed_on("equations")

    def __init__(
        self,
        device,
        *,
        common=0.01,
        independent=0.0,
        misalignment=0.0,
        misalignment_at=None,
        on="controls",
        interval=100,
        random_state=None,
    ):
        super().__init__(device)
        self.common = common
        self.independent = independent
        self.misalignment = misalignment
        self.misalignment_at = misalignment_at
        self.on = on
        self.interval = interval
        self.random_state = random_state

    @property
    def periodic(self) -> Any:
        return None if self.on == "control_gains" else getattr(self._wrapped, "periodic", None)

    def check_parameters(self) -> None:
        """Raise ValueError if a parameter is not what it must be."""
        for name in ("common", "independent", "misalignment"):
            value = getattr(self, name)
            if not is_number(value, 0, below=np.inf):
                raise ValueError(
                    f"'{name}' of Drifting must be a finite float of at least 0, a fraction of the range. Got {value!r}. "
                    "Use 0.01 for 1 %."
                )
        if self.on not in _ON:
            raise ValueError(f"'on' of Drifting must be one of {', '.join(map(repr, _ON))}. Got {self.on!r}.")
        if not is_int(self.interval, 1):
            raise ValueError(
                f"'interval' of Drifting must be an int of at least 1, in rows. Got {self.interval!r}. Use interval=100."
            )
        if self.misalignment_at is not None and not is_int(self.misalignment_at, 0):
            raise ValueError(
                "'misalignment_at' of Drifting must be an int of at least 0, in rows, or None. "
                f"Got {self.misalignment_at!r}."
            )
        if self.misalignment and self.misalignment_at is None:
            raise ValueError(
                "'misalignment_at' of Drifting must be given where 'misalignment' is above 0. Got None. Use "
                "misalignment_at=1000 for a jolt after 1,000 rows."
            )

    def drift(self, clock: np.ndarray) -> np.ndarray:
        """The drift at given times.

        Parameters
        ----------
        clock : array-like of int, shape (n_times,)
            Numbers of rows measured before.

        Returns
        -------
        ndarray of float64, shape (n_times, n_channels)
            As a fraction of the range, for each control channel, or for each output with ``on="outputs"``.

        Examples
        --------
        >>> from skpat.devices import Drifting, SecondHarmonicLaser
        >>> Drifting(SecondHarmonicLaser(3, 2), common=0.05, random_state=0).drift([0, 1000, 2000]).round(3)
        array([[ 0.   ,  0.   ,  0.   ],
               [-0.055, -0.055, -0.055],
               [-0.09 , -0.09 , -0.09 ]])
        """
        self.check_parameters()
        drift = self._drift(np.asarray(clock), np.arange(self._n_channels))
        return np.array(np.broadcast_to(drift, (len(drift), self._n_channels)))

    def transform_controls(self, batch: ControlBatch) -> ControlBatch:
        """The settings that the wrapped device really has; those shared have the drift of the first row's knot."""
        if self.on == "outputs" or not batch.n_rows:
            return batch
        clock = batch.clock
        if clock is None:  # not for a measurement: the device's own count stands still
            clock = np.full(1, getattr(self, "_n_measured", 0))
        varying = self._added(batch.varying, batch.varying_index, clock)
        shared = batch.shared
        if len(batch.shared_index):
            now = int(clock[0])
            knot = np.array([now - now % self.interval])
            shared = self._added(shared, batch.shared_index, knot, now)[0]
        return self._replaced(batch, varying, shared)

    def transform_outputs(self, outputs: np.ndarray, batch: ControlBatch) -> np.ndarray:
        """The outputs, each times its gain."""
        if self.on != "outputs":
            return outputs
        gain = 1 + self._drift(np.asarray(batch.clock), np.arange(outputs.shape[1]))
        return (outputs * gain).astype(outputs.dtype, copy=False)

    def _measure(self, batch: ControlBatch) -> np.ndarray:
        batch = self.in_time(batch)
        assert batch.clock is not None
        if self.on == "outputs" or not len(batch.shared_index) or batch.n_rows < 2:
            return super()._measure(batch)
        stretch = batch.clock // self.interval
        if self.misalignment:
            stretch = 2 * stretch + (batch.clock >= self.misalignment_at)
        ends = [*(np.flatnonzero(np.diff(stretch)) + 1), batch.n_rows]
        if len(ends) == 1:
            return super()._measure(batch)
        pieces = []
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            piece = np.array(super()._measure(batch.rows(slice(start, end))))  # a copy: drivers may fill one buffer
            if piece.shape != (end - start, self.n_outputs):
                return piece  # the session says what is wrong with it
            pieces.append(piece)
        return np.concatenate(pieces)

    def _added(self, values: np.ndarray, index: np.ndarray, clock: np.ndarray, now: int | None = None) -> np.ndarray:
        drift = self._drift(clock, index, now)
        if self.on == "control_gains":
            return values * (1 + drift)
        low, high = self._bounds()[index].T
        return values + (high - low) * drift

    @property
    def _n_channels(self) -> int:
        return int(self.n_outputs if self.on == "outputs" else self.n_controls)

    def _drift(self, clock: np.ndarray, index: np.ndarray, now: int | None = None) -> np.ndarray:
        """The walks at ``clock`` for some channels, and the misalignment as of ``now`` (None: as of ``clock``).

        Of shape (n_times, 1) where all channels have the same.
        """
        drift: Any = np.zeros((len(clock), 1))
        if not len(clock):
            return drift
        knot = clock // self.interval
        fraction = ((clock - knot * self.interval) / self.interval)[:, None]
        first, between = int(knot.min()), bool(fraction.any())
        last, knot = int(knot.max()) + between, knot - first
        per_knot = np.sqrt(self.interval / _PER_ROWS)
        for kind, size in ((_COMMON, self.common), (_INDEPENDENT, self.independent)):
            if size:
                walk = self._walk(kind, first, last)
                walk = (walk if kind == _COMMON else walk[:, index]) * (size * per_knot)
                drift = drift + (walk[knot] + fraction * (walk[knot + 1] - walk[knot]) if between else walk[knot])
        if self.misalignment:
            after = clock >= self.misalignment_at if now is None else np.array([now >= self.misalignment_at])
            if after.any():
                jolt = self._walk(_MISALIGNMENT, 1, 1)[0, index]  # one step of a walk
                drift = drift + after[:, None] * (self.misalignment * jolt)
        return drift

    def _walk(self, kind: int, first: int, last: int) -> np.ndarray:
        """Standard random walks (last - first + 1, n_walks) at knots, kept for the next call."""
        n_walks = 1 if kind == _COMMON else self._n_channels
        key = n_walks, self._seed(), self._n_within(Drifting)
        known, start, path = getattr(self, "_walks", {}).get(kind, (None, 0, None))
        if known != key or first < start:  # another walk, or a clock that was set back: from the beginning
            start, path = 0, np.zeros((1, n_walks))
        n_new = max(1, _BLOCK_VALUES // n_walks)
        while (newest := start + len(path) - 1) < last:
            if path.size > _KEPT_VALUES:
                kept = min(max(first, start), newest)
                start, path = kept, path[kept - start :]
            steps = self._normal(kind, newest + 1, n_new, n_walks)
            path = np.concatenate([path[:-1], np.cumsum(np.concatenate([path[-1:], steps]), axis=0)])
        self._walks = getattr(self, "_walks", {}) | {kind: (key, start, path)}
        return path[first - start : last - start + 1]

    def _normal(self, kind: int, first: int, n_knots: int, n_values: int) -> np.ndarray:
        keys = combine_keys(np.arange(first, first + n_knots, dtype=np.uint64), _NAME, self._n_within(Drifting))
        return standard_normal(self._seed(), keys, kind, n_values)

    def _seed(self) -> int:
        if self.random_state is not None:
            return _as_seed(self.random_state)
        if not hasattr(self, "_own_seed"):
            self._own_seed = secrets.randbits(63)
        return self._own_seed

    def __getstate__(self) -> dict[str, Any]:
        """Without the walks, which are worked out again."""
        return {name: value for name, value in super().__getstate__().items() if name != "_walks"}
