"""The wiring as plain values and arrays, for files, and the wiring again from what a file says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from skpat.controls import ChannelSplit
from skpat.network.encoders import ENCODERS, count_patches
from skpat.network.forward import Network
from skpat.network.patch_encoder import PatchEncoder
from skpat.network.readouts import READOUTS
from skpat.value_checks import is_int

__all__ = ["ENCODER_OBJECTS", "network_from_dict", "network_to_dict", "weight_shapes"]

ENCODER_OBJECTS: dict[str, Any] = {"patches": PatchEncoder}
"""Encoders with parameters of their own, by the name that stands in files. The parameters must be plain values."""

_COUNTS = ("n_features", "n_outputs", "n_targets", "n_layers", "n_units")
_INDICES = ("input_index", "weight_index", "fixed_index")
_LARGEST_COUNT = 1 << 24
_MOST_SHARED = 16  # most inputs and outputs of all calls for each weight; a file that claims more is refused


def network_to_dict(network: Network) -> dict[str, Any]:
    """What a network was made with.

    Parameters
    ----------
    network : Network

    Returns
    -------
    dict of str to plain value or ndarray
        For :func:`network_from_dict`.

    Raises
    ------
    ValueError
        If the encoder is an object that is not among :data:`ENCODER_OBJECTS`.
    """
    split = network.split
    return {
        **network.made_with,
        **{name: int(network.made_with[name]) for name in _COUNTS},
        "encoder": _encoder_to_plain(network.made_with["encoder"]),
        "bounds": np.array(network.bounds, dtype=np.float64),
        "control_steps": np.array(network.control_steps, dtype=np.float64),
        **{name: np.array(getattr(split, name), dtype=np.int64) for name in _INDICES},
        "fixed_values": np.array(split.fixed_values),
    }


def network_from_dict(plain: Mapping[str, Any], n_weights: int) -> Network:
    """The network again; nothing in ``plain`` is trusted.

    Parameters
    ----------
    plain : mapping of str to value
        As :func:`network_to_dict` gives it.
    n_weights : int
        How many weights there are: a wiring that needs more is refused before memory is asked for.

    Returns
    -------
    Network

    Raises
    ------
    ValueError
        If a name is missing or unknown, or a value is not what it must be.
    """
    known = {*_COUNTS, *_INDICES, "encoder", "readout", "skip", "bounds", "control_steps", "fixed_values"}
    if set(plain) != known:
        raise ValueError(f"the network must be described by {sorted(known)}. Got {sorted(map(str, plain))[:40]}")
    counts: dict[str, Any] = {name: _count(plain, name) for name in _COUNTS}
    for name, choices in (("readout", READOUTS), ("skip", {"input", "previous", None})):
        if not isinstance(plain[name], str | None) or plain[name] not in choices:
            raise ValueError(f"{name!r} must be one of {list(choices)}. Got {plain[name]!r:.80}")
    bounds = _array(plain, "bounds", 2, "f")
    if bounds.shape[1] != 2 or not (bounds[:, 0] < bounds[:, 1]).all():
        raise ValueError("'bounds' must be pairs of a lower bound and a higher one")
    with np.errstate(over="ignore"):
        if not np.isfinite(bounds[:, 1] - bounds[:, 0]).all():
            raise ValueError("'bounds' must not lie too far apart to be told in numbers")
    split = _split(plain, bounds)
    n_slots, n_sources = (counts["n_units"] * n for n in (split.n_inputs, counts["n_outputs"]))
    least = counts["n_layers"] * (n_slots + n_sources)
    if least > n_weights * _MOST_SHARED or n_sources * counts["n_targets"] > max(n_weights, _LARGEST_COUNT):
        raise ValueError(f"the network must be one of {n_weights:,} weights. Got a wiring that needs more")
    steps = _array(plain, "control_steps", 1, "f")
    if len(steps) != len(bounds) or not (steps >= 0).all():
        raise ValueError("'control_steps' must be a number of at least 0 for each channel")
    names = {name: plain[name] for name in ("readout", "skip")}
    encoder: Any = _encoder_from_plain(plain["encoder"])
    n_patches = count_patches(encoder, counts["n_features"], split.n_inputs)
    if n_sources * n_patches > n_weights or n_slots * n_patches > max(n_weights * _MOST_SHARED, _LARGEST_COUNT):
        raise ValueError(f"the network must be one of {n_weights:,} weights. Got patches that need more")
    return Network(split=split, bounds=bounds, control_steps=steps, encoder=encoder, **counts, **names)


def _encoder_to_plain(encoder: Any) -> Any:
    """A name, or a dict of ``name`` and parameters."""
    if isinstance(encoder, str):
        return encoder
    for name, kind in ENCODER_OBJECTS.items():
        if type(encoder) is kind:
            return {"name": name, **{key: _as_plain(value) for key, value in encoder.get_params(deep=False).items()}}
    raise ValueError(
        f"The encoder of a network to be saved must be one of {[*ENCODERS]}, or a PatchEncoder. Got {encoder!r:.80}. "
        "Keep the estimator itself, or enter the encoder in skpat.network.description.ENCODER_OBJECTS."
    )


def _encoder_from_plain(plain: Any) -> Any:
    if isinstance(plain, str) and plain in ENCODERS:
        return plain
    if isinstance(plain, dict) and isinstance(plain.get("name"), str) and plain["name"] in ENCODER_OBJECTS:
        try:
            return ENCODER_OBJECTS[plain["name"]](**{name: value for name, value in plain.items() if name != "name"})
        except TypeError as error:
            raise ValueError(f"'encoder' must be described by its parameters. Got {plain!r:.80}") from error
    raise ValueError(f"'encoder' must be one of {[*ENCODERS]}, or a PatchEncoder. Got {plain!r:.80}")


def _as_plain(value: Any) -> Any:
    """Tuples as the lists that files know, numpy's numbers as Python's."""
    if isinstance(value, (tuple, list, np.ndarray)):
        return [_as_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def weight_shapes(network: Network, n_weights: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a network's weights.

    Parameters
    ----------
    network : Network
    n_weights : int
        How many numbers there are; a wiring that needs more is refused before memory is asked for.

    Raises
    ------
    ValueError
        If the network has more weights.
    """
    X = np.zeros((1, network.made_with["n_features"]))
    first = network.initial_weights(X, np.ones(1), _Zeros(n_weights))
    return {name: np.shape(value) for name, value in first.items()}


class _Zeros(np.random.RandomState):
    """In the place of random numbers; of shapes that are sane only."""

    def __init__(self, n_most: int):
        super().__init__(0)
        self.n_most = n_most

    def standard_normal(self, size: Any = None) -> Any:
        shape = tuple(np.atleast_1d(() if size is None else size))
        if np.prod([int(n) for n in shape], dtype=object) > self.n_most:
            raise ValueError(f"the network must have {self.n_most:,} weights. Got a wiring that needs more")
        return np.zeros(shape)


def _count(plain: Mapping[str, Any], name: str) -> int:
    value = plain[name]
    if not is_int(value, 1) or value > _LARGEST_COUNT:
        raise ValueError(f"{name!r} must be an int from 1 to {_LARGEST_COUNT:,}. Got {value!r:.80}")
    return int(value)


def _array(plain: Mapping[str, Any], name: str, ndim: int, kind: str) -> np.ndarray:
    value = plain[name]
    if not isinstance(value, np.ndarray) or value.ndim != ndim or value.dtype.kind != kind or value.dtype.itemsize < 4:
        raise ValueError(f"{name!r} must be an array of {ndim} dimensions and kind {kind!r}. Got {value!r:.80}")
    if kind == "f" and not np.isfinite(value).all():
        raise ValueError(f"{name!r} must be finite")
    return value.copy() if kind == "f" else value.astype(np.intp)


def _split(plain: Mapping[str, Any], bounds: np.ndarray) -> ChannelSplit:
    indices = {name: _array(plain, name, 1, "i") for name in _INDICES}
    together = np.concatenate(list(indices.values()))
    if not np.array_equal(np.sort(together), np.arange(len(bounds))) or not len(indices["input_index"]):
        raise ValueError("the channels must each be an input, a weight or fixed, and one at least an input")
    fixed = _array(plain, "fixed_values", 1, "f")
    low, high = bounds[indices["fixed_index"]].T if len(fixed) else np.empty((2, 0))
    if len(fixed) != len(indices["fixed_index"]) or not ((fixed >= low) & (fixed <= high)).all():
        raise ValueError("'fixed_values' must be one number within the bounds for each fixed channel")
    return ChannelSplit(len(bounds), **indices, fixed_values=fixed)
