"""What a network computes outside the device."""

from __future__ import annotations

from typing import Any

from skpat.network.forward import Network

__all__ = ["count_operations"]


def count_operations(network: Network, weights: dict[str, Any]) -> dict[str, int]:
    """Multiply-adds of one prediction outside the device, for each part of the network.

    Parameters
    ----------
    network : Network
    weights : dict of str to array

    Returns
    -------
    dict of str to int
        "encoder": the scaling of the features, the averaging of pixels and the encoder's map. "gains and normalisation": one
        for each number on its way into the device or out of it, the skips, and the means over patches or groups of outputs
        before the next layer. "readout": its map; of bins one for each number they average.
    """
    coef, readout = weights.get("encoder.coef"), weights.get("readout.coef")
    n_features = int(network.made_with["n_features"])
    encoder = n_features * (2 if len(getattr(network.encoder, "averaged", ())) > 1 else 1)
    between = network.n_calls * (network.split.n_inputs + network.n_outputs)
    between += (network.n_layers - 1) * network.n_slots * bool(network.skip)
    if network.pools:
        between += network.n_calls_of(0) * network.n_outputs
    elif network.n_patches > 1 and network.n_layers > 1 and network.n_sources(0) > network.n_slots:
        between += network.n_sources(0)  # with fewer outputs than slots they are only laid out
    if network.n_patches > 1 and network.skip:  # the first layer's drives are averaged over the patches
        n_times = network.n_layers - 1 if network.skip == "input" else min(network.n_layers - 1, 1)
        between += n_times * network.n_patches * network.n_slots
    return {
        "encoder": encoder + (0 if coef is None else int(coef.size)),
        "gains and normalisation": between,
        "readout": network.n_sources(network.n_layers - 1) if readout is None else int(readout.size),
    }
