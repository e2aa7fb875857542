"""Leaky integrate-and-fire neurons with synapses: many independent copies of one network, step by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.linalg import solve_discrete_lyapunov

from skpat.devices.noise import standard_normal
from skpat.row_keys import combine_keys, splitmix64

__all__ = ["SpikingNetwork"]

_STRIDE = np.uint64(0xD1342543DE82EF95)  # odd: counters of neighbouring numbers never meet
_STATE, _BACKGROUND = 1, 2  # what a row's noise is used for
_MOST_IN_A_STEP = 20  # background spikes on average
_LEVELS = 2**16  # of the uniform numbers from which background spikes are drawn


@dataclass(frozen=True, eq=False)
class SpikingNetwork:
    r"""A network of leaky integrate-and-fire neurons with exponential synaptic currents.

    With :math:`V` the membrane voltage above rest, :math:`I_e` and :math:`I_i` the currents of the excitatory and of the
    inhibitory synapses, and :math:`I` the injected current,

    .. math::

        \tau_m \dot V &= -V + R\,(I_e + I_i + I), \\
        \tau_e \dot I_e &= -I_e, \qquad \tau_i \dot I_i = -I_i .

    A neuron that reaches the threshold sends a spike and is held at rest for the refractory period. A spike of neuron j adds
    ``weights[j, k]`` to the synaptic current of neuron k after the delay.

    Parameters
    ----------
    weights : array of shape (n_neurons, n_neurons)
        Strength of the synapse from neuron (row) to neuron (column), in nA. A row is nowhere negative (an excitatory neuron)
        or nowhere positive (an inhibitory one): Dale's law.
    dt : float, default=0.4
        Time step, in ms. Times below are rounded to whole steps, at least one.
    resistance : float, default=100.0
        Input resistance R of the membrane, in megaohm.
    tau_membrane : float, default=20.0
        In ms.
    tau_excitatory, tau_inhibitory : float, default=3.0, 6.0
        Decay times of the synaptic currents, in ms.
    threshold : float, default=15.0
        In mV above rest.
    refractory : float, default=2.0
        In ms.
    delay : float, default=1.2
        From a spike to the onset of the currents that it causes, in ms.
    background_rate : float, default=0.0
        Spikes that a neuron gets from unseen neurons, in 1/s, as a Poisson process of its own.
    background_weight : float, default=0.1
        What such a spike adds to the excitatory current, in nA.

    Notes
    -----
    Below threshold the equations are linear and the step is exact for an injected current that is constant within it
    (Rotter and Diesmann 1999). Spikes lie on the grid of time steps: a crossing is seen at the end of its step, so that
    spike times converge with the first power of ``dt``.

    The weights are rounded to 24 bits of the largest sum over a column, so that a sum over spikes is exact in float32: it
    does not depend on the order of its terms, and a row does not depend on the rows beside it.

    The number of background spikes in a step is drawn by inverting the Poisson distribution, to :math:`2^{-16}` in probability.

    References
    ----------
    Rotter, Diesmann, "Exact digital simulation of time-invariant linear systems with applications to neuronal modeling",
    Biol. Cybern. 81, 381 (1999), doi:10.1007/s004220050570; Burkitt, "A review of the integrate-and-fire neuron model",
    Biol. Cybern. 95, 1 (2006), doi:10.1007/s00422-006-0068-6.

    Examples
    --------
    >>> import numpy as np
    >>> from skpat.devices.spiking_network import SpikingNetwork
    >>> pair = SpikingNetwork(np.array([[0.0, 2.0], [0.0, 0.0]]))  # the first drives the second
    >>> kick = np.zeros((40, 1, 2))
    >>> kick[0, 0, 0] = 8.0  # nA
    >>> np.argwhere(pair.spikes(kick)[0])  # (step, neuron): after the delay and the rise of the voltage
    array([[0, 0],
           [9, 1]])
    """

    weights: np.ndarray
    dt: float = 0.4
    resistance: float = 100.0
    tau_membrane: float = 20.0
    tau_excitatory: float = 3.0
    tau_inhibitory: float = 6.0
    threshold: float = 15.0
    refractory: float = 2.0
    delay: float = 1.2
    background_rate: float = 0.0
    background_weight: float = 0.1

    @property
    def n_neurons(self) -> int:
        return len(self.weights)

    def steps(self, time: float) -> int:
        """A time in whole steps, at least one.

        Parameters
        ----------
        time : float
            In ms.

        Returns
        -------
        int
        """
        return max(1, round(time / self.dt))

    @cached_property
    def _synapses(self) -> list[tuple[np.ndarray | slice, np.ndarray]]:
        """(presynaptic neurons, their weights as float32 whose sums are exact), excitatory then inhibitory.

        Raises
        ------
        ValueError
            If a row of the weights has both signs.
        """
        weights = np.asarray(self.weights, dtype=np.float64)
        inhibitory = (weights < 0).any(axis=1)
        mixed = inhibitory & (weights > 0).any(axis=1)
        if mixed.any():
            raise ValueError(
                "'weights' of SpikingNetwork must have one sign in every row (Dale's law). "
                f"Got both in row {int(np.argmax(mixed))}."
            )
        largest = np.abs(weights).sum(axis=0).max(initial=0)
        quantum = 2.0 ** (math.ceil(math.log2(largest)) - 23) if largest else 1.0  # sums stay below 2**24 of them
        exact = (np.round(weights / quantum) * quantum).astype(np.float32)
        return [(_slice_where_possible(np.flatnonzero(kind)), exact[kind]) for kind in (~inhibitory, inhibitory)]

    @cached_property
    def _propagator(self) -> np.ndarray:
        """What one step makes of (V, I_e, I_i, I): a matrix of shape (4, 4), the last current constant in the step."""
        dt, tau = self.dt, self.tau_membrane
        made = np.diag([math.exp(-dt / t) for t in (tau, self.tau_excitatory, self.tau_inhibitory)] + [1.0])
        for column, rate in ((1, 1 / self.tau_excitatory), (2, 1 / self.tau_inhibitory), (3, 0.0)):
            # the integral of exp(-(dt - s) / tau) exp(-rate s), which stays finite where the two times are equal
            x = (1 / tau - rate) * dt
            made[0, column] = self.resistance / tau * dt * math.exp(-rate * dt) * (-math.expm1(-x) / x if x else 1.0)
        return made

    @cached_property
    def stationary(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean (2,) and covariance (2, 2) of V (mV) and I_e (nA) under background alone, had the neuron no threshold."""
        step = self._propagator[:2, :2]
        jump = np.array([0.0, self.background_weight])
        per_step = self.background_rate * self.dt * 1e-3
        mean = np.linalg.solve(np.eye(2) - step, jump * per_step)
        return mean, solve_discrete_lyapunov(step, np.outer(jump, jump) * per_step)

    def spikes(self, current: Iterable[Any], n_rows: int = 1, noise_keys: np.ndarray | None = None) -> np.ndarray:
        """All spikes, computed in float64.

        Parameters
        ----------
        current, n_rows, noise_keys
            As in :meth:`run`.

        Returns
        -------
        ndarray of bool, shape (n_rows, n_steps, n_neurons)
        """
        return np.stack([spikes.copy() for spikes, _ in self.run(current, n_rows, noise_keys)], axis=1)

    def run(
        self,
        current: Iterable[Any],
        n_rows: int = 1,
        noise_keys: np.ndarray | None = None,
        dtype: type | np.dtype = np.float64,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Run independent copies of the network, one for each row.

        Parameters
        ----------
        current : iterable of (array of shape (n_rows, n_neurons) or None)
            The injected current of every time step, in nA; its length is the number of steps. None: no current.
        n_rows : int, default=1
            Number of copies.
        noise_keys : ndarray of uint64, shape (n_rows,), default=None
            Names of the background: equal names, equal background spikes and equal initial state. None: no background, and
            every neuron starts at rest.
        dtype : dtype, default=float64
            Precision.

        Yields
        ------
        spikes : ndarray of bool, shape (n_rows, n_neurons)
            Who spiked in this step. Valid until the next step.
        voltage : ndarray of float, shape (n_rows, n_neurons)
            At the end of this step, in mV above rest. Valid until the next step.

        Raises
        ------
        ValueError
            If a row of the weights has both signs, or there are too many background spikes in a step.
        """
        dtype = np.dtype(dtype)
        shape = n_rows, self.n_neurons
        voltage, excitatory, inhibitory = self._initial_state(noise_keys, shape, dtype)
        of_voltage, of_excitatory, of_inhibitory, of_current = self._propagator[0].astype(dtype)
        decay_excitatory, decay_inhibitory = self._propagator.diagonal()[1:3].astype(dtype)
        receivers = [
            (to, neurons, weights)
            for to, (neurons, weights) in zip((excitatory, inhibitory), self._synapses, strict=True)
            if len(weights)
        ]
        background = self._background(noise_keys)
        threshold, n_refractory = dtype.type(self.threshold), self.steps(self.refractory)
        wait = np.zeros(shape, dtype=np.uint16)  # steps for which a neuron is still held
        held, spikes = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
        on_their_way = np.zeros((self.steps(self.delay), *shape), dtype=np.float32)
        work = np.empty(shape, dtype=dtype)
        for step, injected in enumerate(current):
            voltage *= of_voltage
            voltage += np.multiply(excitatory, of_excitatory, out=work)
            voltage += np.multiply(inhibitory, of_inhibitory, out=work)
            if injected is not None:
                voltage += np.multiply(injected, of_current, out=work)
            np.greater(wait, 0, out=held)
            np.copyto(voltage, 0, where=held)
            wait -= held
            np.greater_equal(voltage, threshold, out=spikes)
            np.copyto(voltage, 0, where=spikes)
            np.copyto(wait, n_refractory, where=spikes)

            excitatory *= decay_excitatory
            inhibitory *= decay_inhibitory
            arriving = on_their_way[step % len(on_their_way)]
            for to, neurons, weights in receivers:
                to += arriving[:, neurons] @ weights
            arriving[...] = spikes
            if background is not None:
                excitatory += background(step, work)
            yield spikes, voltage

    def _initial_state(
        self, noise_keys: np.ndarray | None, shape: tuple[int, int], dtype: np.dtype
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """V, I_e and I_i to start from, drawn as if neurons without a threshold had been at it for long."""
        inhibitory = np.zeros(shape, dtype=dtype)
        if noise_keys is None or not self.background_rate or not self.background_weight:
            return np.zeros(shape, dtype=dtype), np.zeros(shape, dtype=dtype), inhibitory
        mean, covariance = self.stationary
        normal = standard_normal(_STATE, noise_keys, 0, 2 * shape[1])
        first, second = normal[:, : shape[1]], normal[:, shape[1] :]
        factor = np.linalg.cholesky(covariance[::-1, ::-1])  # of (I_e, V)
        excitatory = np.maximum(mean[1] + factor[0, 0] * first, 0)
        voltage = mean[0] + factor[1, 0] * first + factor[1, 1] * second
        voltage[voltage >= self.threshold] = 0  # has just spiked
        return voltage.astype(dtype), excitatory.astype(dtype), inhibitory

    def _background(self, noise_keys: np.ndarray | None) -> Callable[[int, np.ndarray], np.ndarray] | None:
        """``background(step, out)`` -> what background spikes add to the excitatory currents in this step, or None."""
        levels = self._poisson_levels
        if noise_keys is None or not len(levels):
            return None
        base = combine_keys(noise_keys, _BACKGROUND)[:, None]
        n_words = -(-self.n_neurons // 4)  # four numbers of 16 bits each
        counts = np.empty((len(base), self.n_neurons), dtype=np.uint8)
        weight = self.background_weight

        def background(step: int, out: np.ndarray) -> np.ndarray:
            with np.errstate(over="ignore"):
                bits = splitmix64(base + _STRIDE * np.arange(step * n_words, (step + 1) * n_words, dtype=np.uint64))
            uniform = bits.view(np.uint16)[:, : self.n_neurons]
            np.greater_equal(uniform, levels[0], out=counts.view(bool))
            for level in levels[1:]:
                np.add(counts, uniform >= level, out=counts)
            return np.multiply(counts, out.dtype.type(weight), out=out)

        return background

    @cached_property
    def _poisson_levels(self) -> np.ndarray:
        """A uniform 16-bit number that reaches n of these means n spikes.

        Raises
        ------
        ValueError
            If there are too many spikes in a step.
        """
        mean = self.background_rate * self.dt * 1e-3
        if not 0 <= mean <= _MOST_IN_A_STEP:
            raise ValueError(
                f"'background_rate' of SpikingNetwork must give 0 to {_MOST_IN_A_STEP} spikes in a step of {self.dt:g} ms. "
                f"Got {self.background_rate!r}. Use fewer and stronger spikes."
            )
        levels: list[int] = []
        term = total = math.exp(-mean)
        while round(total * _LEVELS) < _LEVELS:
            levels.append(round(total * _LEVELS))
            term *= mean / len(levels)
            total += term
        return np.array(levels, dtype=np.uint16)


def _slice_where_possible(index: np.ndarray) -> np.ndarray | slice:
    """Neurons that follow one another as a slice, which needs no copy."""
    if len(index) and index[-1] - index[0] == len(index) - 1:
        return slice(int(index[0]), int(index[-1]) + 1)
    return index
