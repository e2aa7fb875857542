"""A neuronal culture on a multi-electrode array: it can be stimulated and listened to, and no synapse can be set."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from skpat.controls import ControlBatch
from skpat.devices.base import Device, _as_seed, demand
from skpat.devices.culture import Culture, grow
from skpat.devices.spiking_network import SpikingNetwork
from skpat.exceptions import ControlBoundsError
from skpat.row_keys import combine_keys, splitmix64
from skpat.value_checks import is_int

__all__ = ["NeuralTissue"]

_ABOVE_ZERO = (
    "max_amplitude",
    "pulse_duration",
    "pulse_interval",
    "duration",
    "pitch",
    "reach",
    "connection_length",
    "threshold",
    "resistance",
    "tau_membrane",
    "tau_excitatory",
    "tau_inhibitory",
    "refractory",
    "delay",
    "dt",
)
_NOT_BELOW_ZERO = (
    "sensitivity",
    "recording_radius",
    "weight_excitatory",
    "weight_inhibitory",
    "background_rate",
    "background_weight",
    "plasticity",
)
_OF_CULTURE = (
    "culture",
    "n_neurons",
    "n_electrodes",
    "pitch",
    "excitatory_fraction",
    "connection_probability",
    "connection_length",
    "weight_excitatory",
    "weight_inhibitory",
)
_OF_NETWORK = (
    "dt",
    "resistance",
    "tau_membrane",
    "tau_excitatory",
    "tau_inhibitory",
    "threshold",
    "refractory",
    "delay",
    "background_rate",
    "background_weight",
)


class NeuralTissue(Device):
    r"""A culture of spiking neurons on a multi-electrode array, which can only be stimulated.

    Leaky integrate-and-fire neurons lie at random on a sheet; near neighbours are connected more often than distant
    ones; every neuron also gets background spikes from neurons not modelled. Each electrode gives a train of charge-balanced
    pulses (the controls are their amplitudes) and afterwards tells how many spikes it heard (the outputs). The
    stimulation current of neuron k is

    .. math:: I_k = \pm s \sum_e \frac{A_e}{\left(1 + (d_{ek} / d_0)^2\right)^{3/2}}

    with :math:`A_e` the amplitude of electrode e, :math:`d_{ek}` its distance, :math:`d_0` the ``reach``, s the
    ``sensitivity``, plus in the first phase of a pulse and minus in the second. The equations of the neurons stand
    in ``skpat.devices.spiking_network.SpikingNetwork``.

    Parameters
    ----------
    n_electrodes : int, default=60
        Electrodes on a square grid, those nearest to its centre (60: a grid of 8 by 8 without corners). Each
        stimulates and records.
    n_neurons : int, default=128
    n_windows : int, default=2
        Equal parts of ``duration``, in which the spikes are counted apart.
    max_amplitude : float, default=10.0
        Largest amplitude of an electrode, in uA.
    max_charge : float, default=None
        Largest charge of one phase, all electrodes together, in nC. None: 85 % of what all electrodes at their largest
        amplitude carry, far above what settings drawn at random carry where there are a dozen electrodes or more. A phase is as
        long as it is played: ``pulse_duration`` in whole steps.
    pulse_duration : float, default=0.4
        Duration of each of the two phases of a pulse, in ms.
    n_pulses : int, default=6
        Pulses of a train. The first begins at time 0.
    pulse_interval : float, default=6.4
        From the beginning of a pulse to that of the next, in ms.
    duration : float, default=40.0
        How long spikes are counted, from the beginning of the first pulse, in ms.
    pitch : float, default=200.0
        Distance of neighbouring electrodes, in um. The sheet is as wide as the grid and half a pitch more on every side.
    reach : float, default=120.0
        Distance from an electrode at which its effect has fallen to 35 %, in um.
    sensitivity : float, default=1.2
        Current that acts on a neuron at an electrode, in nA per uA.
    recording_radius : float, default=150.0
        An electrode hears all neurons within this distance, in um, and at least the nearest one.
    excitatory_fraction : float, default=0.8
        Share of the neurons whose synapses excite.
    connection_probability : float, default=0.5
        Of two neurons at the same place; it falls off as exp(-distance / ``connection_length``).
    connection_length : float, default=300.0
        In um.
    weight_excitatory, weight_inhibitory : float, default=0.2, 0.8
        Mean strength of a synapse, in nA (the inhibitory one's magnitude). The strengths are log-normal.
    threshold, resistance, tau_membrane, tau_excitatory, tau_inhibitory, refractory, delay : float
        Of the neurons and synapses: 15.0 mV above rest, 100.0 megaohm, 20.0 ms, 3.0 ms, 6.0 ms, 2.0 ms, 1.2 ms.
    background_rate : float, default=1000.0
        Background spikes that a neuron gets, in 1/s. 0: none, and the device makes no noise.
    background_weight : float, default=0.035
        Current of one of them, in nA.
    plasticity : float, default=0.0
        Standard deviation by which the logarithm of a synapse's strength changes in ``plasticity_interval`` rows. 0: the
        culture stays as it is.
    plasticity_interval : int, default=1000
        Rows between two changes of the strengths.
    dt : float, default=0.4
        Time step, in ms. All times are rounded to whole steps, at least one.
    culture : int, default=0
        Which dish: the places, connections and strengths of its neurons, and the course of their plasticity, follow from
        this number.
    random_state : int, default=None
        Seed of the background. None: fresh noise at every call.

    Attributes
    ----------
    n_controls : int
        ``n_electrodes``.
    n_outputs : int
        ``n_windows * n_electrodes``: all electrodes in the first window, then in the next.
    bounds : ndarray of shape (n_controls, 2)
        0 to ``max_amplitude``.
    seconds_per_shot : float
        1.0: stimuli follow one another slowly enough for the culture to come to rest.

    Notes
    -----
    There is no ``forward``: spike counts have no gradient. Without background the response is a staircase; the
    background makes its mean smooth.

    What is random in a shot, the background spikes and the state in which the stimulus meets the neurons, is a function of
    (``random_state``, row key, shot). That state is drawn as if neurons had been under background for long without
    a threshold and without one another. A row's counts are the same, to the last spike, whatever other rows are measured
    with it.

    A balanced pulse leaves a membrane that did not spike as it was but for the leak, so only a neuron that reaches its
    threshold in the first phase answers. How current from outside a cell acts on it is put into one number,
    ``sensitivity``; the artefact of the pulse in the recording is not modelled.

    The logarithm x of a synapse's strength relative to its first one is a Brownian motion of the clock (rows measured
    before), seen every ``plasticity_interval`` rows, made bounded as :math:`b \tanh(x / b)` with :math:`b = \ln 4`. It never
    changes its sign. Any time can be computed alone (Levy's construction by midpoints).

    References
    ----------
    Wagenaar, Pine, Potter, "Effective parameters for stimulation of dissociated cultures using multi-electrode arrays",
    J. Neurosci. Methods 138, 27 (2004), doi:10.1016/j.jneumeth.2004.03.005, for the stimulation; Brunel, "Dynamics of
    sparsely connected networks of excitatory and inhibitory spiking neurons", J. Comput. Neurosci. 8, 183 (2000),
    doi:10.1023/A:1008925309027, for the network.

    Examples
    --------
    >>> import numpy as np
    >>> from skpat.devices import NeuralTissue
    >>> tissue = NeuralTissue(random_state=0)
    >>> counts = tissue.measure(np.full((1, 60), 5.0))
    >>> counts.shape, bool(counts.sum() > tissue.measure(np.zeros((1, 60))).sum())
    ((1, 120), True)
    """

    control_units = "uA"
    output_units = "spikes"
    seconds_per_shot = 1.0
    chunk_rows = 64  # fits the processor's cache, and is below the size for which BLAS starts threads

    def __init__(
        self,
        n_electrodes=60,
        n_neurons=128,
        *,
        n_windows=2,
        max_amplitude=10.0,
        max_charge=None,
        pulse_duration=0.4,
        n_pulses=6,
        pulse_interval=6.4,
        duration=40.0,
        pitch=200.0,
        reach=120.0,
        sensitivity=1.2,
        recording_radius=150.0,
        excitatory_fraction=0.8,
        connection_probability=0.5,
        connection_length=300.0,
        weight_excitatory=0.2,
        weight_inhibitory=0.8,
        threshold=15.0,
        resistance=100.0,
        tau_membrane=20.0,
        tau_excitatory=3.0,
        tau_inhibitory=6.0,
        refractory=2.0,
        delay=1.2,
        background_rate=1000.0,
        background_weight=0.035,
        plasticity=0.0,
        plasticity_interval=1000,
        dt=0.4,
        culture=0,
        random_state=None,
    ):
        self.n_electrodes = n_electrodes
        self.n_neurons = n_neurons
        self.n_windows = n_windows
        self.max_amplitude = max_amplitude
        self.max_charge = max_charge
        self.pulse_duration = pulse_duration
        self.n_pulses = n_pulses
        self.pulse_interval = pulse_interval
        self.duration = duration
        self.pitch = pitch
        self.reach = reach
        self.sensitivity = sensitivity
        self.recording_radius = recording_radius
        self.excitatory_fraction = excitatory_fraction
        self.connection_probability = connection_probability
        self.connection_length = connection_length
        self.weight_excitatory = weight_excitatory
        self.weight_inhibitory = weight_inhibitory
        self.threshold = threshold
        self.resistance = resistance
        self.tau_membrane = tau_membrane
        self.tau_excitatory = tau_excitatory
        self.tau_inhibitory = tau_inhibitory
        self.refractory = refractory
        self.delay = delay
        self.background_rate = background_rate
        self.background_weight = background_weight
        self.plasticity = plasticity
        self.plasticity_interval = plasticity_interval
        self.dt = dt
        self.culture = culture
        self.random_state = random_state

    @property
    def n_controls(self) -> int:  # type: ignore[override]  # an attribute of the base class, derived here
        return self.n_electrodes

    @property
    def n_outputs(self) -> int:  # type: ignore[override]  # an attribute of the base class, derived here
        return self.n_windows * self.n_electrodes

    @property
    def bounds(self) -> np.ndarray:
        return np.tile([0.0, float(self.max_amplitude)], (self.n_electrodes, 1))

    def check_controls(self, batch: ControlBatch) -> None:
        """Refuse a setting whose charge, over all electrodes, is above ``max_charge``.

        Parameters
        ----------
        batch : ControlBatch

        Raises
        ------
        ControlBoundsError
            If one phase of a pulse carries too much. Nothing was sent.
        ValueError
            If a parameter is not legal.
        """
        self._check_parameters()
        parts = batch.numpy()
        total = parts.varying.sum(axis=1, dtype=np.float64) + parts.shared.sum(dtype=np.float64)
        phase = self._n_steps(self.pulse_duration) * self.dt  # as it is played
        charge = total * phase
        limit = self.max_charge
        if limit is None:
            limit = 0.85 * self.n_electrodes * self.max_amplitude * phase
        too_much = ~(charge <= limit * (1 + 1e-6))  # controls in float32 may add up to a little more
        if too_much.any():
            row = int(np.argmax(too_much))
            raise ControlBoundsError(
                f"The 'controls' passed to {type(self).__name__}.measure must carry at most {limit:g} nC per phase over all "
                f"electrodes ('max_charge'). Got {charge[row]:g} nC in row {row}: lower the amplitudes. Nothing was sent.",
                row=row,
                value=float(charge[row]),
            )

    def measure(self, batch: ControlBatch | np.ndarray) -> np.ndarray:
        """Stimulate once with every row and count spikes.

        Parameters
        ----------
        batch : ControlBatch or array of shape (n_rows, n_controls)
            Amplitudes, in uA.

        Returns
        -------
        ndarray of shape (n_rows, n_outputs)
            Whole numbers, in the precision of the controls.

        Raises
        ------
        ValueError
            If a parameter is not legal.
        """
        batch = ControlBatch.from_dense(batch).numpy()
        array = self._array()
        outputs = np.empty((batch.n_rows, self.n_outputs), dtype=_precision(batch))
        for rows, part, network in self._pieces(batch):
            train = self._train(part, array.of_amplitudes)
            counts = np.zeros((self.n_windows, part.n_rows, self.n_neurons), dtype=np.float32)
            keys = self._noise_keys(part)
            for step, (spikes, _) in enumerate(network.run(train, part.n_rows, keys, outputs.dtype)):
                counts[step * self.n_windows // len(train)] += spikes
            outputs[rows] = np.concatenate(list(counts @ array.heard), axis=1)
        return outputs

    def spikes(self, batch: ControlBatch | np.ndarray) -> np.ndarray:
        """The spikes of all neurons, of which the electrodes hear a part. The memory grows with the rows.

        Parameters
        ----------
        batch : ControlBatch or array of shape (n_rows, n_controls)
            Amplitudes, in uA.

        Returns
        -------
        ndarray of bool, shape (n_rows, n_steps, n_neurons)
            Those of step i were seen at the time ``(i + 1) * dt``.

        Raises
        ------
        ValueError
            If a parameter is not legal.
        """
        batch = ControlBatch.from_dense(batch).numpy()
        array = self._array()
        raster = np.zeros((batch.n_rows, self._n_steps(self.duration), self.n_neurons), dtype=bool)
        for rows, part, network in self._pieces(batch):
            train = self._train(part, array.of_amplitudes)
            for step, (spikes, _) in enumerate(
                network.run(train, part.n_rows, self._noise_keys(part), _precision(batch))
            ):
                raster[rows, step] = spikes
        return raster

    def grown(self) -> Culture:
        """The dish: places of neurons and electrodes, and the synapses at first.

        Returns
        -------
        Culture

        Raises
        ------
        ValueError
            If a parameter is not legal.
        """
        self._check_parameters()
        return grow(*self._culture_arguments)

    def network(self, clock: int = 0) -> SpikingNetwork:
        """Neurons and synapses after ``clock`` rows.

        Parameters
        ----------
        clock : int, default=0
            Rows measured before.

        Returns
        -------
        SpikingNetwork

        Raises
        ------
        ValueError
            If a parameter is not legal.
        """
        self._check_parameters()
        return self._network(int(clock) // self.plasticity_interval)

    # ---- one shot ----

    def _pieces(self, batch: ControlBatch) -> Iterator[tuple[np.ndarray, ControlBatch, SpikingNetwork]]:
        """Rows that are computed together: their numbers, their batch, and the network that they meet."""
        knots = np.zeros(batch.n_rows, dtype=np.int64)
        if self.plasticity:
            batch = self.in_time(batch)
            knots = np.asarray(batch.clock) // self.plasticity_interval
        for knot in np.unique(knots):
            members = np.flatnonzero(knots == knot)
            for start in range(0, len(members), self.chunk_rows):
                rows = members[start : start + self.chunk_rows]
                yield rows, batch.rows(rows), self._network(int(knot))

    def _train(self, batch: ControlBatch, of_amplitudes: np.ndarray) -> list[np.ndarray | None]:
        """The current on every neuron (nA) in each time step; None between the pulses."""
        controls = batch.dense().astype(_precision(batch), copy=False)
        current = np.zeros((batch.n_rows, self.n_neurons), dtype=controls.dtype)
        for channel, effect in enumerate(of_amplitudes.astype(controls.dtype)):
            # one electrode after the other: a matrix product may sum in another order for another number of rows
            current += controls[:, channel, None] * effect
        train: list[np.ndarray | None] = [None] * self._n_steps(self.duration)
        n_phase = self._n_steps(self.pulse_duration)
        for pulse in range(self.n_pulses):
            start = pulse * self._n_steps(self.pulse_interval)
            train[start : start + 2 * n_phase] = [current] * n_phase + [-current] * n_phase
        return train

    def _noise_keys(self, batch: ControlBatch) -> np.ndarray | None:
        """The names of the rows' background; those of unnamed rows come from the device's own stream."""
        if not self.background_rate:
            return None
        if batch.row_keys is None:
            return splitmix64(self.standard_normal(batch, 1)[:, 0].view(np.uint64))
        return combine_keys(batch.row_keys, _as_seed(self.random_state), batch.shot)

    # ---- what follows from the parameters ----

    @property
    def _culture_arguments(self) -> tuple:
        return tuple(getattr(self, name) for name in _OF_CULTURE)

    def _network(self, knot: int) -> SpikingNetwork:
        constants = tuple((name, getattr(self, name)) for name in _OF_NETWORK)
        return _network_at(self._culture_arguments, knot, self.plasticity, constants)

    def _array(self) -> _ElectrodeArray:
        self._check_parameters()
        return _electrode_array(self._culture_arguments, self.reach, self.sensitivity, self.recording_radius)

    def _n_steps(self, time: float) -> int:
        return max(1, round(time / self.dt))

    def _check_parameters(self) -> None:
        """Raise ValueError for the first parameter that is not legal."""
        for name in ("n_electrodes", "n_neurons", "n_windows", "n_pulses", "plasticity_interval"):
            demand(self, name, is_int(getattr(self, name), 1), "an int of at least 1")
        demand(self, "culture", is_int(self.culture, 0) and self.culture < 2**32, "an int from 0 to 2**32 - 1")
        for name in _ABOVE_ZERO:
            demand(self, name, 0 < getattr(self, name) < math.inf, "a number above 0")
        for name in _NOT_BELOW_ZERO:
            demand(self, name, 0 <= getattr(self, name) < math.inf, "a number of at least 0")
        for name in ("excitatory_fraction", "connection_probability"):
            demand(self, name, 0 <= getattr(self, name) <= 1, "a number from 0 to 1")
        n_steps = self._n_steps(self.duration)
        demand(
            self,
            "n_windows",
            self.n_windows <= n_steps,
            f"at most one for each of the {n_steps} steps",
            "Use fewer windows, or a longer duration.",
        )
        n_pulse = 2 * self._n_steps(self.pulse_duration)
        demand(
            self,
            "pulse_interval",
            self.n_pulses == 1 or n_pulse <= self._n_steps(self.pulse_interval),
            f"at least two phases long, {n_pulse * self.dt:g} ms",
            "Use a longer interval, or a shorter pulse_duration.",
        )
        end = (self.n_pulses - 1) * self._n_steps(self.pulse_interval) + n_pulse
        demand(
            self,
            "duration",
            end <= n_steps,
            f"at least as long as the train of pulses, {end * self.dt:g} ms",
            "Use a longer duration, fewer pulses or a shorter pulse_interval.",
        )


@dataclass(frozen=True, eq=False)
class _ElectrodeArray:
    of_amplitudes: np.ndarray  # current on a neuron for the amplitude of an electrode, nA/uA, (n_electrodes, n_neurons)
    heard: np.ndarray  # whether an electrode hears a neuron, 0 or 1, (n_neurons, n_electrodes)


@lru_cache(maxsize=16)
def _electrode_array(
    culture_arguments: tuple, reach: float, sensitivity: float, recording_radius: float
) -> _ElectrodeArray:
    distance = grow(*culture_arguments).distance
    heard = (distance <= recording_radius) | (distance == distance.min(axis=1, keepdims=True))
    return _ElectrodeArray(sensitivity * (1 + (distance / reach) ** 2) ** -1.5, heard.T.astype(np.float32))


@lru_cache(maxsize=16)
def _network_at(culture_arguments: tuple, knot: int, plasticity: float, constants: tuple) -> SpikingNetwork:
    return SpikingNetwork(grow(*culture_arguments).weights_at(knot, plasticity), **dict(constants))


def _precision(batch: ControlBatch) -> np.dtype:
    """float32 or float64, as the controls."""
    return np.result_type(batch.varying.dtype, batch.shared.dtype, np.float32)
