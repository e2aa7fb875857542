"""A dish of neurons: where they lie, who is connected to whom and how strongly, now and later."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from skpat.devices.noise import standard_normal

__all__ = ["Culture", "grow"]

_MOST_CHANGED = 4.0  # plasticity keeps a synapse within this factor of its first strength
_LAST_KNOT = 2**30  # of the random walk
_SPREAD = 0.5  # standard deviation of the logarithm of the first strengths


@dataclass(frozen=True, eq=False)
class Culture:
    """Neurons on a multi-electrode array.

    Parameters
    ----------
    number : int
        Which dish.
    neurons, electrodes : ndarray of shape (n_neurons, 2), (n_electrodes, 2)
        Places, in um from the centre of the array. Excitatory neurons come first.
    weights : ndarray of shape (n_neurons, n_neurons)
        Strength of the synapse from neuron (row) to neuron (column) at first, in nA.
    """

    number: int
    neurons: np.ndarray
    electrodes: np.ndarray
    weights: np.ndarray

    @property
    def distance(self) -> np.ndarray:
        """From electrode to neuron, in um, shape (n_electrodes, n_neurons)."""
        return _distance(self.electrodes, self.neurons)

    def weights_at(self, knot: int, spread: float) -> np.ndarray:
        r"""The strengths after ``knot`` steps of plasticity.

        The logarithm of the relative strength is :math:`b \tanh(x / b)`, :math:`b = \ln 4`, with x a Brownian motion that
        is 0 at knot 0.

        Parameters
        ----------
        knot : int
            0 to 2**30; later times are taken as the last.
        spread : float
            Standard deviation of x after one step.

        Returns
        -------
        ndarray of shape (n_neurons, n_neurons)
            In nA. Each has the sign that it had at first.

        Notes
        -----
        Levy's construction: the walk at the far end is drawn first, then the middle of each interval that contains the knot,
        given its ends. Every number is named by (dish, knot), so that any knot can be computed alone, in at most 31 draws.
        """
        knot = min(int(knot), _LAST_KNOT)
        if not knot or not spread:
            return self.weights
        connected = self.weights != 0
        n_synapses = int(connected.sum())

        def normal(place: int) -> np.ndarray:
            return standard_normal(self.number, np.array([place], dtype=np.uint64), 0, n_synapses)[0]

        left, right = 0, _LAST_KNOT
        at_left, at_right = np.zeros(n_synapses), math.sqrt(_LAST_KNOT) * normal(_LAST_KNOT)
        while left < knot < right:
            middle = (left + right) // 2
            at_middle = (at_left + at_right) / 2 + math.sqrt((right - left) / 4) * normal(middle)
            if knot < middle:
                right, at_right = middle, at_middle
            else:
                left, at_left = middle, at_middle
        walk = spread * (at_right if knot == right else at_left)
        most = math.log(_MOST_CHANGED)
        weights = self.weights.copy()
        weights[connected] *= np.exp(most * np.tanh(walk / most))
        return weights


@lru_cache(maxsize=16)
def grow(
    number: int,
    n_neurons: int,
    n_electrodes: int,
    pitch: float,
    excitatory_fraction: float,
    connection_probability: float,
    connection_length: float,
    weight_excitatory: float,
    weight_inhibitory: float,
) -> Culture:
    """Grow a culture, the same for the same arguments.

    Parameters
    ----------
    number : int
        Seed, 0 to 2**32 - 1.
    n_neurons, n_electrodes : int
    pitch : float
        Distance of neighbouring electrodes, in um.
    excitatory_fraction : float
        Share of the neurons whose synapses excite.
    connection_probability : float
        Of two neurons at the same place.
    connection_length : float
        Distance over which it falls to 1/e, in um.
    weight_excitatory, weight_inhibitory : float
        Mean magnitude of a synapse, in nA.

    Returns
    -------
    Culture
        Its arrays are shared and read-only.

    Examples
    --------
    >>> from skpat.devices.culture import grow
    >>> culture = grow(0, 50, 60, 200.0, 0.8, 0.5, 300.0, 0.2, 0.8)
    >>> culture.weights.shape, culture.distance.shape
    ((50, 50), (60, 50))
    """
    rng = np.random.RandomState(number)
    side = math.ceil(math.sqrt(n_electrodes))
    line = np.arange(side) - (side - 1) / 2
    grid = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
    nearest = np.argsort(np.square(grid).sum(axis=1), kind="stable")[:n_electrodes]
    electrodes = pitch * grid[np.sort(nearest)]
    neurons = pitch * side * (rng.uniform(size=(n_neurons, 2)) - 0.5)
    n_excitatory = round(excitatory_fraction * n_neurons)
    probability = connection_probability * np.exp(-_distance(neurons, neurons) / connection_length)
    connected = rng.uniform(size=probability.shape) < probability
    np.fill_diagonal(connected, False)
    strength = np.exp(_SPREAD * rng.standard_normal(probability.shape) - _SPREAD**2 / 2)  # of mean 1
    mean = np.where(np.arange(n_neurons) < n_excitatory, weight_excitatory, -weight_inhibitory)
    culture = Culture(number, neurons, electrodes, np.where(connected, strength * mean[:, None], 0.0))
    for array in (culture.neurons, culture.electrodes, culture.weights):
        array.flags.writeable = False
    return culture


def _distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(first[:, None] - second[None]).sum(axis=-1))
