"""In-silico training whose readout is fitted on the device at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skpat.training.in_silico import InSilico

if TYPE_CHECKING:
    from skpat.training.trainer import Data, Trainer

__all__ = ["InSilicoRefitted"]


class InSilicoRefitted(InSilico):
    """The training runs on the twin; then the training rows are measured once, and the readout is fitted to the answers.

    What is fitted on the device is the normalisation of each layer's outputs, and the readout, to the minimum of the
    training's own loss with its ``alpha``. The device's own weights, the gains, the offsets and the encoder stay as they were
    found on the twin. Where the twin's error is static and the last outputs still tell the classes apart, that is all that
    a training on the device could repair: a method that is meant to be better must be compared with this one.

    Needs from the device: ``measure``. Costs the twin's calibration, and one shot per row, layer and unit in the whole
    training. ``partial_fit`` and a training ended by Ctrl-C do not refit. With ``max_shots`` the fit takes as many rows as
    the budget leaves.

    References
    ----------
    Wright, Onodera et al., Nature 601, 549 (2022), doi:10.1038/s41586-021-04223-6, for in-silico training; a readout fitted to
    a physical system that is left as it is: Tanaka et al., Neural Networks 115, 100 (2019),
    doi:10.1016/j.neunet.2019.03.005.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skpat import PhysicalNetworkClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> network = PhysicalNetworkClassifier(gradient="in_silico_refitted", max_iter=2, random_state=0).fit(X, y)
    >>> network.shots_["training"] == len(X)
    True
    """

    final_shots_per_row = 1

    def finish(self, trainer: Trainer, data: Data) -> None:
        """Fit the readout on the device."""
        from skpat.training.readout_fit import refit_readout  # here: a trained network is unpickled without torch

        refit_readout(trainer, data)
