"""Images and long inputs in pieces: one device call for each patch."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from skpat.value_checks import is_int

__all__ = ["PatchEncoder", "Patches"]

Weights = dict[str, Any]
Shape = tuple[int, ...]


class PatchEncoder(BaseEstimator):
    """Cut each row, an image or a signal, into patches; the first layer measures every one of them.

    Nothing digital is trained: pixels are scaled to -1 to 1 by one common range, that of the training data, and laid out on
    the input channels; a patch with fewer pixels than there are channels is repeated in turn until they are full. The first
    layer makes ``n_patches * n_units`` device calls for each row, every later layer ``n_units``.

    Parameters
    ----------
    image_shape : int or tuple of int, default=None
        What a row is, in C order: (height, width), (height, width, n_colours), or (length,). None: a square image where the
        number of features is a square, else a signal.
    patch_shape : int or tuple of int, default=None
        Pixels of a patch, (height, width) or (length,), after ``downsample``; a number means that many along each axis. Must
        divide the image. All colours of a pixel stay together. None: the largest patch that fits the input channels, of equal
        ones the squarest.
    downsample : int, default=1
        Blocks of so many pixels along each axis are averaged first. Must divide the image.
    shared : bool, default=True
        Whether all patches meet the same weights on the device, as in a convolution (with ``n_units`` kernels); gains and
        offsets are shared, too. False: each patch has its own.
    pooling : {"mean"} or None, default=None
        "mean": the next layer, or the readout, gets the outputs averaged over the patches. None: it gets all of them. Where
        a next layer then has fewer input channels than that, neighbouring outputs are averaged.

    Notes
    -----
    Every pixel goes into exactly one patch. ``skip`` adds the first layer's drives averaged over the patches.

    Shots grow with the number of patches: ``plan(X)`` counts them.

    Examples
    --------
    >>> from skpat.network import PatchEncoder
    >>> PatchEncoder().resolve(n_features=64, n_inputs=50)  # 8 x 8 pixels, 50 channels
    Patches of 8 x 4 pixels: 2 on 50 input channels
    >>> PatchEncoder((28, 28), 7, downsample=2).resolve(n_features=784, n_inputs=50)
    Patches of 7 x 7 pixels: 4 on 50 input channels
    """

    def __init__(self, image_shape=None, patch_shape=None, *, downsample=1, shared=True, pooling=None):
        self.image_shape = image_shape
        self.patch_shape = patch_shape
        self.downsample = downsample
        self.shared = shared
        self.pooling = pooling

    def resolve(self, n_features: int, n_inputs: int, n_units: int = 1) -> Patches:
        """Work the patches out.

        Parameters
        ----------
        n_features : int
            Numbers in a row.
        n_inputs : int
            Input channels of a device call.
        n_units : int, default=1
            Device calls for each patch.

        Returns
        -------
        Patches

        Raises
        ------
        ValueError
            If a parameter is not what it must be, or the image cannot be cut so.
        """
        if not isinstance(self.shared, (bool, np.bool_)):
            raise ValueError(
                f"'shared' of PatchEncoder must be True or False. Got {self.shared!r:.80}. Use shared=True."
            )
        if self.pooling is not None and not (isinstance(self.pooling, str) and self.pooling == "mean"):
            raise ValueError(
                f"'pooling' of PatchEncoder must be 'mean' or None. Got {self.pooling!r:.80}. Use pooling=None."
            )
        space, n_colours = self._image(n_features)
        block = self._downsampled(space)
        small = tuple(size // block for size in space)
        patch = self._patch(small, n_colours, n_inputs)
        n_pixels = int(np.prod(small, dtype=object)) * n_colours
        pixel = np.arange(n_features).reshape(*space, n_colours)
        blocks = _blocks(pixel, (block,) * len(space)).reshape(n_pixels // n_colours, -1, n_colours)
        averaged = np.ascontiguousarray(blocks.transpose(1, 0, 2).reshape(-1, n_pixels))
        cut = _blocks(np.arange(n_pixels).reshape(*small, n_colours), patch)
        of_patch = cut.reshape(-1, int(np.prod(patch, dtype=object)) * n_colours)
        return Patches(patch, of_patch, averaged, n_inputs, n_units, bool(self.shared), self.pooling)

    def _image(self, n_features: int) -> tuple[Shape, int]:
        """Sizes along the axes that are cut, and the number of colours."""
        if self.image_shape is None:
            side = int(np.sqrt(n_features) + 0.5)
            return ((side, side), 1) if side * side == n_features else ((n_features,), 1)
        shape = _shape(self.image_shape, "image_shape", "(28, 28)")
        if not 1 <= len(shape) <= 3:
            raise ValueError(
                f"'image_shape' of PatchEncoder must be (height, width), (height, width, n_colours) or (length,). "
                f"Got {shape}. Use image_shape=None for a square."
            )
        if int(np.prod(shape, dtype=object)) != n_features:
            raise ValueError(
                f"'image_shape' of PatchEncoder must have as many pixels as X has features, {n_features}. Got {shape}, "
                f"{int(np.prod(shape, dtype=object))} of them. Give the shape of a row before it was flattened."
            )
        return (shape[:2], shape[2]) if len(shape) == 3 else (shape, 1)

    def _downsampled(self, space: Shape) -> int:
        block = self.downsample
        if not is_int(block, 1):
            raise ValueError(
                f"'downsample' of PatchEncoder must be an int of at least 1. Got {block!r:.80}. Use downsample=1."
            )
        if any(size % int(block) for size in space):
            fitting = [n for n in range(1, min(space) + 1) if not any(size % n for size in space)]
            raise ValueError(
                f"'downsample' of PatchEncoder must divide an image of {_by(space)} pixels. Got {block}. "
                f"Use one of {fitting[:20]}."
            )
        return int(block)

    def _patch(self, space: Shape, n_colours: int, n_inputs: int) -> Shape:
        divisors = [[n for n in range(1, size + 1) if size % n == 0] for size in space]
        if self.patch_shape is None:
            fitting = [
                shape for shape in _products(divisors) if int(np.prod(shape, dtype=object)) * n_colours <= n_inputs
            ]
            if not fitting:
                raise ValueError(
                    f"'patch_shape' of PatchEncoder must fit the input channels. Got {n_inputs} channels for the {n_colours} "
                    "colours of a single pixel. Use a larger input_fraction in control_split=ControlSplit(...)."
                )
            return max(fitting, key=lambda shape: (np.prod(shape, dtype=object), -max(shape), shape))
        asked = self.patch_shape
        patch = _shape((asked,) * len(space) if is_int(asked, 1) else asked, "patch_shape", "(7, 7)")
        if len(patch) != len(space) or any(size % n for size, n in zip(space, patch, strict=True)):
            raise ValueError(
                f"'patch_shape' of PatchEncoder must divide an image of {_by(space)} pixels. Got {patch}. Use sizes among "
                f"{' and '.join(str(sizes[:20]) for sizes in divisors)}, or None."
            )
        n_pixels = int(np.prod(patch, dtype=object)) * n_colours
        if n_pixels > n_inputs:
            raise ValueError(
                f"'patch_shape' of PatchEncoder must fit the {n_inputs} input channels of a device call. Got {patch}, "
                f"{n_pixels} numbers. Use a smaller patch, downsample, or a larger input_fraction in "
                "control_split=ControlSplit(...)."
            )
        return patch


class Patches:
    """A :class:`PatchEncoder` worked out for a number of features and channels.

    Parameters
    ----------
    patch_shape : tuple of int
        Pixels along each axis.
    of_patch : ndarray of int, shape (n_patches, n_numbers)
        Which pixels, after averaging, each patch holds.
    averaged : ndarray of int, shape (n_averaged, n_pixels)
        Which features each pixel averages.
    n_inputs, n_units : int
        Input channels of a call, calls of a patch.
    shared : bool
    pooling : {"mean"} or None
        As in :class:`PatchEncoder`.

    Notes
    -----
    The calls of the first layer are numbered patch by patch: call ``patch * n_units + unit``.
    """

    def __init__(
        self,
        patch_shape: Shape,
        of_patch: np.ndarray,
        averaged: np.ndarray,
        n_inputs: int,
        n_units: int,
        shared: bool,
        pooling: str | None,
    ):
        self.patch_shape = patch_shape
        self.n_patches = len(of_patch)
        self.n_inputs = n_inputs
        self.shared = shared
        self.pooling = pooling
        self.averaged = averaged
        self.source = of_patch[:, np.tile(np.arange(n_inputs) % of_patch.shape[1], n_units)].ravel()

    def __repr__(self) -> str:
        return f"Patches of {_by(self.patch_shape)} pixels: {self.n_patches} on {self.n_inputs} input channels"

    def initial_weights(self, X: np.ndarray, sample_weight: np.ndarray, rng: np.random.RandomState) -> Weights:
        """The common range of all pixels, shape (1,): shared weights must meet the same number for the same light."""
        low, high = X.min(keepdims=True)[0], X.max(keepdims=True)[0]
        half = (high - low) / 2
        return {"encoder.mean": (low + high) / 2, "encoder.scale": np.where(half > 0, half, 1.0)}

    def encode(self, weights: Weights, X: Any) -> Any:
        """Drives of all calls, patch by patch; (n_rows, n_patches * n_units * n_inputs)."""
        pixels = (X - weights["encoder.mean"]) / weights["encoder.scale"]
        if len(self.averaged) > 1:  # one after the other: numpy and torch add in the same order
            total = pixels[:, self.averaged[0]]
            for of_block in self.averaged[1:]:
                total = total + pixels[:, of_block]
            pixels = total / len(self.averaged)
        return pixels[:, self.source]


def _blocks(pixel: np.ndarray, block: Shape) -> np.ndarray:
    """Numbers (*space, n_colours) cut into blocks: (n_blocks along each axis, ..., *block, n_colours)."""
    space, n_colours = pixel.shape[:-1], pixel.shape[-1]
    split = [part for size, n in zip(space, block, strict=True) for part in (size // n, n)]
    n_axes = len(space)
    order = [*range(0, 2 * n_axes, 2), *range(1, 2 * n_axes, 2), 2 * n_axes]
    return pixel.reshape(*split, n_colours).transpose(order)


def _products(choices: list[list[int]]) -> list[Shape]:
    found: list[Shape] = [()]
    for sizes in choices:
        found = [(*shape, size) for shape in found for size in sizes]
    return found


def _shape(value: Any, name: str, example: str) -> Shape:
    sizes = (value,) if is_int(value, 1) else value
    if not isinstance(sizes, (tuple, list, np.ndarray)) or not all(is_int(size, 1) for size in sizes):
        raise ValueError(
            f"{name!r} of PatchEncoder must be an int or a tuple of ints of at least 1, or None. Got {value!r:.80}. "
            f"For example {name}={example}."
        )
    return tuple(int(size) for size in sizes)


def _by(shape: Shape) -> str:
    return " x ".join(map(str, shape))
