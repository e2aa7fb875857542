"""The readout alone, fitted to what the device answers now: one pass over the rows, nothing else is changed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from skpat.controls import ControlBatch
from skpat.network.layers import OutputStatistics
from skpat.training.calibration import Measure, draw_rows, start_statistics

if TYPE_CHECKING:
    from skpat.training.trainer import Data, Trainer

__all__ = ["fit_readout", "measure_anew", "refit_readout"]

_MOST_ITERATIONS = 1000
_GRADIENT_TOLERANCE = 1e-6


def refit_readout(trainer: Trainer, data: Data) -> tuple[float, float]:
    r"""Measure the rows once on the device; fit the normalisation of its outputs and the readout there.

    Layer by layer the mean and scale of the outputs are set to those of the measured rows, before the next layer is
    measured. Then the readout's weights :math:`r` minimise the trainer's own loss of these rows,

    .. math:: \frac{\sum_i w_i\, \ell(s_i(r), t_i)}{\sum_i w_i} + \frac{\alpha}{2 \sum_i w_i} |r_\mathrm{coef}|^2 ,

    with :math:`s_i` the scores, :math:`t_i` the targets and :math:`w_i` the weights of the rows.

    Parameters
    ----------
    trainer : Trainer
        Its ``readout.*`` weights, and the ``mean`` and ``scale`` of each layer, are set; all others stay. If the
        measurement fails, everything stays.
    data : Data
        Rows to fit to.

    Returns
    -------
    before, after : float
        That loss with the old readout, and with the new one, both at the new normalisation. ``after`` is never larger.

    Raises
    ------
    ShotBudgetError
        If the session's ``max_shots`` does not allow a single row, or a repeat after a fault. Nothing was changed.

    Notes
    -----
    Costs one shot per row, layer and unit (times ``n_shots``). Where fewer are left of the session's budget, as many rows
    are drawn as it allows. The fit is convex and has no randomness: L-BFGS in double precision from the present weights.

    Examples
    --------
    What :class:`skpat.training.InSilicoRefitted` does at the end of its training.
    """
    network, session = trainer.network, trainer.session
    rows = _affordable(data, session.shots_left / (network.n_calls * session.n_shots))
    weights = trainer.weights_now()
    statistics, outputs = measure_anew(trainer, weights, rows, "training")
    normal = network.hand_on((outputs - statistics[-1].mean) / statistics[-1].scale, network.n_layers - 1)
    readout, before, after = fit_readout(trainer, weights, normal, rows)
    trainer.set_weights(weights | readout)
    trainer.statistics[:] = copy.deepcopy(statistics)
    return before, after


def measure_anew(
    trainer: Trainer,
    weights: dict[str, np.ndarray],
    rows: Data,
    purpose: str,
    note: Callable[[ControlBatch, np.ndarray], None] = lambda batch, outputs: None,
) -> tuple[list[OutputStatistics], np.ndarray]:
    """Measure rows once, layer by layer, with new output statistics.

    Parameters
    ----------
    trainer : Trainer
        Its network and session; nothing of it is changed.
    weights : dict of str to ndarray
        The ``mean`` and ``scale`` of each layer are set.
    rows : Data
    purpose : {"calibration", "training", "validation", "prediction", "recalibration"}
        What the shots are counted as.
    note : callable, default: nothing is noted
        ``note(batch, outputs)``, called with all that is sent and comes back.

    Returns
    -------
    statistics : list of OutputStatistics
        Of each layer.
    outputs : ndarray of float64, shape (n_rows, n_outputs of all calls)
        Of the last layer.
    """
    network, last_layer = trainer.network, trainer.network.n_layers - 1
    last: dict[int, np.ndarray] = {}

    def measure_for(row_keys: np.ndarray) -> Measure:
        measure = trainer.session.run(row_keys, purpose)

        def noted(batch: ControlBatch, layer: int, unit: int) -> np.ndarray:
            outputs = measure(batch, layer, unit)
            note(batch, outputs)
            if layer == last_layer:
                last[unit] = outputs
            return outputs

        return noted

    of_no_effect = np.random.RandomState(0)  # all rows are taken
    about = (rows.X, rows.sample_weight, rows.row_keys, of_no_effect, measure_for)
    statistics, _ = start_statistics(network, weights, *about, n_rows=len(rows))
    outputs = np.concatenate([last[unit] for unit in range(network.n_calls_of(last_layer))], axis=1)
    return statistics, outputs.astype(np.float64)


def _affordable(data: Data, most: float) -> Data:
    """The data in an order that the rows' values alone decide; if there are more than ``most`` rows, some of them."""
    order = np.argsort(data.row_keys, kind="stable")
    if len(data) > most:
        chosen = draw_rows(data.row_keys, data.sample_weight, max(int(most), 1), np.random.RandomState(0))
        return data.rows(chosen).weighed_alike()
    return data.rows(order)


def fit_readout(
    trainer: Trainer, weights: dict[str, np.ndarray], normal: np.ndarray, rows: Data, pull: float = 0.0
) -> tuple[dict[str, np.ndarray], float, float]:
    """The readout's weights at the minimum, and the loss before and there. Nothing is measured.

    Parameters
    ----------
    trainer : Trainer
        Its network, loss and ``alpha`` count.
    weights : dict of str to ndarray
        Where the fit starts.
    normal : ndarray of shape (n_rows, n_sources)
        Normalised outputs of the last layer.
    rows : Data
        With the targets and weights of these rows.
    pull : float, default=0
        Strength of a penalty on the squared distance from the given weights, on the scale of ``alpha``: for few rows.
    """
    import torch
    from scipy.optimize import minimize

    from skpat.training.loss import weighted_mean

    names = [name for name in weights if name.startswith("readout.")]
    shapes = [weights[name].shape for name in names]
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
    inputs, sample_weight = torch.from_numpy(normal), torch.from_numpy(rows.sample_weight.astype(np.float64))
    targets = torch.from_numpy(rows.targets)
    targets = targets.double() if targets.is_floating_point() else targets
    total = float(sample_weight.sum())
    penalty = 0.5 * trainer.settings.alpha / total
    here = {name: torch.from_numpy(weights[name].astype(np.float64)) for name in names}

    def parts(flat: np.ndarray) -> dict[str, np.ndarray]:
        pieces = np.split(flat, ends)
        return {name: piece.reshape(shape) for name, piece, shape in zip(names, pieces, shapes, strict=True)}

    def loss_and_slope(flat: np.ndarray) -> tuple[float, np.ndarray]:
        own = {name: torch.from_numpy(part.copy()).requires_grad_() for name, part in parts(flat).items()}
        with torch.enable_grad():
            scores = trainer.network.readout.read(own, inputs)
            loss = weighted_mean(trainer.loss(scores, targets), sample_weight)
            for name, part in own.items():
                if name.endswith(".coef"):
                    loss = loss + penalty * part.square().sum()
                if pull:
                    loss = loss + 0.5 * pull / total * (part - here[name]).square().sum()
            loss.backward()
        slopes = [own[name].grad.numpy().ravel() for name in names]
        return float(loss.detach()), np.concatenate(slopes)

    start = np.concatenate([weights[name].ravel() for name in names]).astype(np.float64)
    before = loss_and_slope(start)[0]
    options = {"maxiter": _MOST_ITERATIONS, "gtol": _GRADIENT_TOLERANCE, "ftol": 1e-14}
    found = minimize(loss_and_slope, start, jac=True, method="L-BFGS-B", options=options)
    best, after = (found.x, float(found.fun)) if found.fun < before else (start, before)
    dtype = weights[names[0]].dtype
    return {name: part.astype(dtype) for name, part in parts(best).items()}, before, after
