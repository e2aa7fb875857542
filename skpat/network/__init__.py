"""The network around the device: encoders, layers, readouts, and the one ``forward`` that numpy and torch share."""

from skpat._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, {"PatchEncoder": "skpat.network.patch_encoder"})
