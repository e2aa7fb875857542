"""An evolution strategy: CMA-ES over the weights before a measurement."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval

from skpat.network.forward import Network, Run
from skpat.training.gradient import Apparatus, GradientEstimator, device_alone
from skpat.training.movable_weights import MovableWeights, count_movable

if TYPE_CHECKING:
    import torch

__all__ = ["EvolutionStrategy"]

_FULL_COVARIANCE_UP_TO = 100  # weights; beyond, learning the covariance takes more generations than a training has


class EvolutionStrategy(GradientEstimator):
    r"""Covariance matrix adaptation: a population of weights is measured on the batch, its mean moves to the better ones.

    In each step :math:`\lambda` vectors of weights are drawn from a normal distribution, the loss of one batch is measured for
    each, and the better half moves the mean; :math:`\sigma` and the covariance follow:

    .. math:: w_i \sim \mathcal{N}(m, \sigma^2 C), \qquad m' = \sum_{i=1}^{\lambda / 2} \mu_i\, w_{(i)} .

    The network's weights are the mean :math:`m'`. They take no step of the optimiser: ``learning_rate_init`` counts
    for the readout alone. It comes after the last measurement, so its gradient is known without error, averaged over
    the population.

    Needs from the device: ``measure``, and the package ``cma`` (``pip install "skpat[cma]"``). Costs
    :math:`\lambda = 4 + \lfloor 3 \ln p \rfloor` shots per row, layer and unit, with :math:`p` weights before a measurement.

    Parameters
    ----------
    sigma : float, default=0.1
        The first :math:`\sigma`, in units of the network's weights (a device weight's whole range is about 6).
    population_size : int or None, default=None
        :math:`\lambda`, at least 4. None: as above.
    random_state : int, RandomState instance or None, default=None
        For the population. None: seeded by the estimator.

    Notes
    -----
    Only the order of the losses counts, and all of a population are measured on the same rows, so that batches may differ
    from step to step. Up to 100 weights the whole covariance is learned; beyond, its diagonal alone ("separable").

    References
    ----------
    Hansen and Ostermeier, Evolutionary Computation 9, 159 (2001), doi:10.1162/106365601750190398; separable: Ros and
    Hansen, PPSN X, 296 (2008), doi:10.1007/978-3-540-87700-4_30.

    Examples
    --------
    >>> from skpat.training import EvolutionStrategy
    >>> EvolutionStrategy(population_size=12).shots_per_row
    12
    """

    leaves_gradient = False

    _parameter_constraints = {
        "sigma": [Interval(Real, 0, None, closed="neither")],
        "population_size": [Interval(Integral, 4, None, closed="left"), None],
        "random_state": ["random_state"],
    }

    def __init__(self, sigma=0.1, population_size=None, random_state=None):
        self.sigma = sigma
        self.population_size = population_size
        self.random_state = random_state

    @property
    def shots_per_row(self) -> int:
        """The population; known after :meth:`prepare`."""
        return self.population_size or _usual_population(max(getattr(self, "_n_weights", 1), 1))

    def check_device(self, device: Any) -> None:
        """Check the parameters, and that ``cma`` is installed; any device will do.

        Raises
        ------
        ImportError
            If it is not.
        """
        super().check_device(device)
        _import_cma()

    def prepare(self, network: Network) -> None:
        """Count the weights."""
        self._n_weights = count_movable(network)

    def run(self, apparatus: Apparatus) -> Run:
        """The device; its answer is a constant to autograd."""
        return device_alone(apparatus)

    def loss_and_gradient(self, loss_of: Callable[[Run], torch.Tensor], apparatus: Apparatus) -> torch.Tensor:
        """The mean loss of the population; leaves the weights at their new mean, and the readout's gradient."""
        import torch

        movable, run = MovableWeights(apparatus.weights), self.run(apparatus)
        strategy = self._strategy_at(movable.get())
        population = strategy.ask()
        losses = []
        with movable.moving():
            for member in population:
                movable.set(member)
                loss = loss_of(run) / len(population)
                loss.backward()
                losses.append(float(loss.detach()) * len(population))
        movable.set_gradient(None)
        if np.isfinite(losses).all():  # else the training ends with a named error
            strategy.tell(population, losses)
            movable.set(strategy.mean)
            self._mean = movable.get()
        return torch.tensor(float(np.mean(losses)))

    def _strategy_at(self, weights: np.ndarray) -> Any:
        """The strategy so far, its mean where the weights are."""
        if not hasattr(self, "_strategy"):
            cma = _import_cma()
            options = {
                "popsize": self.population_size or _usual_population(len(weights)),
                "CMA_diagonal": len(weights) > _FULL_COVARIANCE_UP_TO,
                "AdaptSigma": cma.sigma_adaptation.CMAAdaptSigmaCSA,  # the other one draws from numpy's global state
                "randn": _Normal(check_random_state(self.random_state)),
                "seed": np.nan,  # numpy's global state is not ours to seed
                "verbose": -9,
                "verb_log": 0,
                "verb_disp": 0,
            }
            self._strategy = cma.CMAEvolutionStrategy(weights, self.sigma, options)
        elif not np.array_equal(weights, self._mean):  # somebody has set other weights
            self._strategy.mean = weights
        return self._strategy


def _usual_population(n_weights: int) -> int:
    return 4 + int(3 * np.log(n_weights))


class _Normal:
    """Standard normal numbers of a given shape; unlike a method of a generator, a deep copy goes its own way."""

    def __init__(self, rng: np.random.RandomState):
        self.rng = rng

    def __call__(self, *shape: int) -> np.ndarray:
        return self.rng.standard_normal(shape)


def _import_cma() -> Any:
    try:
        import cma
    except ImportError as error:
        raise ImportError(
            "gradient='evolution_strategy' needs the package 'cma', which is not installed. Nothing was sent. "
            "Use pip install \"skpat[cma]\", or gradient='spsa', which needs the same of the device."
        ) from error
    return cma
