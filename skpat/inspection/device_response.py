"""The display of a device: its outputs while one channel is swept over its bounds."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from skpat.controls import ControlBatch
from skpat.devices.specification import check_device_specification, copy_to_work_with, device_name
from skpat.inspection.display_axes import COLORS, axes_for, heading, with_units
from skpat.inspection.legal_settings import LegalSettings, measured_in_runs, slow_beside_others
from skpat.lab.ledger import Ledger
from skpat.lab.session import Session
from skpat.seeding import seeded_copy
from skpat.value_checks import is_int

__all__ = ["DeviceResponseDisplay"]

_MOST_OUTPUTS = 4
_MOST_COLUMNS = 4  # of panels in a figure of its own
_LINES = ("-", "--", "-.", ":")


class DeviceResponseDisplay:
    """Outputs of a device against one channel, all others held; a panel for each channel that is swept.

    Use :meth:`from_device`.

    Parameters
    ----------
    channels : list of int
    settings : list of ndarray of shape (n_points,)
        What each channel was set to, in the device's units.
    means, deviations : list of ndarray of shape (n_points, n_outputs)
        Mean of the repeated readings and their standard deviation: the noise of one reading.
    outputs : list of int, default=None
        Which outputs to draw. None: the four that change most.
    control_units, output_units, name : str, default=""
    n_shots : int, default=0
        What it took.

    Attributes
    ----------
    ax_ : matplotlib Axes with one channel, else ndarray of shape (n_channels,)
    figure_ : matplotlib Figure

    Examples
    --------
    >>> import numpy as np
    >>> from matplotlib.figure import Figure
    >>> from skpat import as_device
    >>> from skpat.inspection import DeviceResponseDisplay
    >>> lamp = as_device(lambda volts: volts**2, n_controls=2, n_outputs=2, bounds=(0, 3), control_units="V")
    >>> display = DeviceResponseDisplay.from_device(lamp, channels=[1], n_points=4, ax=Figure().subplots())
    >>> display.settings[0], display.means[0][:, 1]
    (array([0., 1., 2., 3.]), array([0., 1., 4., 9.]))
    >>> display.ax_.get_xlabel()
    'channel 1 (V)'
    """

    def __init__(
        self,
        channels: Any,
        settings: Any,
        means: Any,
        deviations: Any,
        *,
        outputs: Any = None,
        control_units: str = "",
        output_units: str = "",
        name: str = "",
        n_shots: int = 0,
    ):
        self.channels = channels
        self.settings = settings
        self.means = means
        self.deviations = deviations
        self.outputs = outputs
        self.control_units = control_units
        self.output_units = output_units
        self.name = name
        self.n_shots = n_shots

    @classmethod
    def from_device(
        cls,
        device: Any,
        *,
        channels: Any = (0,),
        outputs: Any = None,
        base: Any = None,
        n_points: int = 41,
        n_repeats: int = 4,
        bounds: Any = None,
        random_state: Any = 0,
        ax: Any = None,
    ) -> DeviceResponseDisplay:
        """Sweep channels up and down between their bounds, one after the other.

        Parameters
        ----------
        device : Device
            A copy of it is used, through a :class:`skpat.lab.Session`.
        channels : list of int, default=(0,)
            Channels to sweep.
        outputs : list of int, default=None
            Outputs to draw. None: the four that change most.
        base : array-like of shape (n_controls,), default=None
            Where the other channels stand, in the device's units. None: the middle of what is legal.
        n_points : int, default=41
            Settings of a sweep, at least 2; fewer where the device's ``control_steps`` allow no more.
        n_repeats : int, default=4
            Sweeps of each channel, every other one downwards.
        bounds : (low, high) or array-like of shape (n_controls, 2), default=None
            Stricter bounds than the device's, in its units.
        random_state : int, RandomState instance or None, default=0
            For the noise of a simulated device that has no seed of its own.
        ax : matplotlib Axes, or array of one for each channel, default=None

        Returns
        -------
        DeviceResponseDisplay

        Raises
        ------
        ValueError
            If a channel, an output or a number is not what it must be. Nothing was sent.
        ControlBoundsError
            If ``base`` is not legal, or the device vetoes all but one setting of a sweep. Nothing was sent.
        ImportError
            Without matplotlib.

        Notes
        -----
        Costs ``len(channels) * n_points * n_repeats`` shots. A device with a ``max_change`` is led from setting to setting in
        steps that it allows; those cost shots too. Settings that the device vetoes are left out.
        """
        check_device_specification(device)
        channels = _numbers_below(channels, device.n_controls, "channels")
        outputs = None if outputs is None else _numbers_below(outputs, device.n_outputs, "outputs")
        for name, value, least in (("n_points", n_points, 2), ("n_repeats", n_repeats, 1)):
            if not is_int(value, least):
                raise ValueError(f"{name!r} must be an int of at least {least}. Got {value!r}.")
        rng = check_random_state(random_state)
        own = copy_to_work_with(device, lambda: seeded_copy(device, rng))
        legal = LegalSettings(own, rng, bounds)
        base = _base(legal, base, device)
        sweeps = [_sweep(legal, base, channel, n_points) for channel in channels]
        there_and_back = [way for sweep in sweeps for way in [sweep, sweep[::-1]] * ((n_repeats + 1) // 2)]
        if n_repeats % 2:
            per_channel = n_repeats + 1
            there_and_back = [way for i, way in enumerate(there_and_back) if i % per_channel != n_repeats]
        path, is_wanted = _led(np.concatenate(there_and_back), legal, getattr(own, "max_change", None))
        with Session(own, ledger=Ledger.of(own), bounds=bounds) as session:
            measure = partial(session.measure, purpose="calibration")
            outputs_of_path = measured_in_runs(measure, ControlBatch.from_dense(path), slow_beside_others(own))
        readings = outputs_of_path[is_wanted].astype(np.float64)
        ends = np.cumsum([n_repeats * len(sweep) for sweep in sweeps])[:-1]
        means, deviations = [], []
        for sweep, of_channel in zip(sweeps, np.split(readings, ends), strict=True):
            repeats = of_channel.reshape(n_repeats, len(sweep), -1)
            repeats[1::2] = repeats[1::2, ::-1]
            means.append(repeats.mean(axis=0))
            deviations.append(repeats.std(axis=0, ddof=1) if n_repeats > 1 else np.zeros_like(means[-1]))
        return cls(
            channels,
            [sweep[:, channel] for sweep, channel in zip(sweeps, channels, strict=True)],
            means,
            deviations,
            outputs=outputs,
            control_units=getattr(own, "control_units", ""),
            output_units=getattr(own, "output_units", ""),
            name=device_name(own),
            n_shots=session.ledger.total,
        ).plot(ax)

    def plot(self, ax: Any = None) -> DeviceResponseDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, or array of one for each channel, default=None
            None: a new pyplot figure.

        Returns
        -------
        self

        Raises
        ------
        ImportError
            Without matplotlib.
        ValueError
            If the axes are not one for each channel.
        """
        n = len(self.channels)
        if ax is None:
            n_columns = min(n, _MOST_COLUMNS)
            n_rows = -(-n // n_columns)
            size = max(6.4, 2 + 3.4 * n_columns), 4.0 if n_rows == 1 else 3.0 * n_rows
            axes, unused = np.split(axes_for(None, n_rows, n_columns, size=size, sharey=True), [n])
            for axis in unused:
                axis.remove()
        else:
            n_columns, axes = n, axes_for(ax, 1, n)
        outputs = self._chosen()
        for axis, channel, settings, means, deviations in zip(
            axes, self.channels, self.settings, self.means, self.deviations, strict=True
        ):
            for number, output in enumerate(outputs):
                color, line = COLORS[number % len(COLORS)], _LINES[number % len(_LINES)]
                middle, half = means[:, output], deviations[:, output]
                axis.fill_between(settings, middle - half, middle + half, color=color, alpha=0.25, linewidth=0)
                axis.plot(settings, middle, color=color, linestyle=line, linewidth=2, label=f"output {output}")
            axis.set_xlabel(with_units(f"channel {channel}", self.control_units))
        for first in axes[::n_columns]:
            first.set_ylabel(with_units("output", self.output_units))
        axes[0].ticklabel_format(axis="y", scilimits=(-3, 4))
        axes[n_columns - 1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        few = f", the {len(outputs)} outputs that move most" if self._leaves_out else ""
        title = f"{self.name}, band: noise of one reading{few}"
        axes[0].set_title(heading(title, 0.7 * axes[0].figure.get_figwidth(), 12), loc="left")
        self.ax_ = axes if n > 1 else axes[0]
        self.figure_ = axes[0].figure
        return self

    @property
    def _leaves_out(self) -> bool:
        return self.outputs is None and np.shape(self.means[0])[1] > _MOST_OUTPUTS

    def _chosen(self) -> list[int]:
        if self.outputs is not None:
            return list(self.outputs)
        change = np.max([np.ptp(means, axis=0) for means in self.means], axis=0)
        return sorted(np.argsort(-change, kind="stable")[:_MOST_OUTPUTS].tolist())


def _numbers_below(values: Any, n: int, name: str) -> list[int]:
    numbers = np.atleast_1d(np.asarray(values))
    if (
        numbers.ndim != 1
        or not len(numbers)
        or numbers.dtype.kind not in "iu"
        or numbers.min() < 0
        or numbers.max() >= n
    ):
        raise ValueError(f"{name!r} must be whole numbers from 0 to {n - 1}. Got {values!r}.")
    return numbers.tolist()


def _base(legal: LegalSettings, base: Any, device: Any) -> np.ndarray:
    if base is None:
        return legal.from_unit(np.full((1, len(legal.low)), 0.5))[0]
    base = np.array(base, dtype=np.float64)
    if base.shape != (device.n_controls,):
        raise ValueError(
            f"'base' must have one value for each of the {device.n_controls} channels of {device_name(device)}. "
            f"Got shape {base.shape}."
        )
    veto = legal.veto(base)
    if veto is not None:
        raise veto
    return base


def _sweep(legal: LegalSettings, base: np.ndarray, channel: int, n_points: int) -> np.ndarray:
    """Settings (n_points, n_controls), upwards; on the device's steps, none twice, none vetoed."""
    low, high = legal.bounds[channel]
    settings = np.repeat(base[None], n_points, axis=0)
    settings[:, channel] = np.linspace(low, high, n_points)
    settings = legal.on_steps(settings)
    settings = settings[np.r_[True, np.diff(settings[:, channel]) > 0]]
    if len(settings) < 2:
        raise ValueError(
            f"'bounds' must leave at least two settings of channel {channel}. Got {low:g} to {high:g} with a step of "
            f"{legal.steps[channel]:g}. Nothing was sent."
        )
    alone = [legal.veto(setting) for setting in settings]  # one by one: the device refuses a whole batch for one row
    allowed = np.array([veto is None for veto in alone])
    if allowed.sum() < 2:
        raise next(veto for veto in alone if veto is not None)
    return settings[allowed]


def _led(settings: np.ndarray, legal: LegalSettings, max_change: Any) -> tuple[np.ndarray, np.ndarray]:
    """The settings with others between them, so that no channel jumps; and which of them are the settings."""
    if max_change is None:
        return settings, np.ones(len(settings), dtype=bool)
    change = np.broadcast_to(np.asarray(max_change, dtype=float), settings.shape[1])
    room = np.maximum(change - legal.steps, np.where(legal.steps > 0, legal.steps, change)) * (1 - 1e-9)
    jumps = np.abs(np.diff(settings, axis=0)) / room
    n_between = np.r_[0, np.ceil(jumps.max(axis=1)).astype(int).clip(1) - 1]
    last = np.cumsum(n_between + 1) - 1
    path = np.stack([np.interp(np.arange(last[-1] + 1), last, column) for column in settings.T], axis=1)
    is_wanted = np.isin(np.arange(len(path)), last)
    path = legal.on_steps(path)
    path[is_wanted] = settings
    return path, is_wanted
