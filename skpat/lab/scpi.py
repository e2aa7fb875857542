"""Numbers on an instrument's line: the definite-length binary blocks of IEEE 488.2."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["decode_block", "encode_block", "parse_block_header"]


def encode_block(values: Any, dtype: Any = "<f8") -> bytes:
    """An array as a block: ``#``, one digit d, d digits that give the number of bytes n, then n bytes.

    Parameters
    ----------
    values : array-like
        Sent in C order; its shape is not.
    dtype : dtype, default="<f8"
        How a number is sent. Little-endian float64, unless the instrument wants another.

    Returns
    -------
    bytes

    Raises
    ------
    ValueError
        If the array takes more than 999,999,999 bytes, the most that such a block can hold.

    Examples
    --------
    >>> from skpat.lab.scpi import decode_block, encode_block
    >>> encode_block([1, 2], dtype="<i2")
    b'#14\\x01\\x00\\x02\\x00'
    >>> decode_block(encode_block([0.5, -1.0]))
    array([ 0.5, -1. ])
    """
    array = np.asarray(values, dtype=dtype)
    length = b"%d" % array.nbytes
    if len(length) > 9:
        raise ValueError(
            f"'values' of a block must take at most 999999999 bytes. Got {array.nbytes}. "
            "Send fewer rows at once (max_batch)."
        )
    return b"#%d%b%b" % (len(length), length, array.tobytes())


def parse_block_header(data: bytes) -> tuple[int, int]:
    """Where the bytes of a block begin, and how many they are.

    Parameters
    ----------
    data : bytes
        The beginning of a block, its whole header at least.

    Returns
    -------
    offset, n_bytes : int

    Raises
    ------
    ValueError
        If this is not the beginning of a definite-length block.
    """
    n_digits = data[1:2]
    length = data[2 : 2 + int(n_digits)] if n_digits.isdigit() else b""
    if data[:1] != b"#" or not length.isdigit() or len(length) != int(n_digits):
        raise ValueError(
            "A block must begin with '#', a digit from 1 to 9 and as many digits as that says. "
            f"Got {bytes(data[:12])!r}. Make the instrument send definite-length binary blocks (IEEE 488.2)."
        )
    return 2 + len(length), int(length)


def decode_block(data: bytes, dtype: Any = "<f8") -> np.ndarray:
    """The array in a whole block: the inverse of :func:`encode_block`, less the shape.

    Parameters
    ----------
    data : bytes
        The block, without anything after it.
    dtype : dtype, default="<f8"
        How a number was sent.

    Returns
    -------
    ndarray of shape (n_values,)
        A read-only view into ``data``.

    Raises
    ------
    ValueError
        If the header is malformed, or the bytes are not those it announces, or no whole number of values.
    """
    offset, n_bytes = parse_block_header(data)
    if len(data) != offset + n_bytes:
        raise ValueError(
            f"A block must hold the {n_bytes} bytes that its header announces. Got {len(data) - offset}. Ask for it again."
        )
    size = np.dtype(dtype).itemsize
    if n_bytes % size:
        raise ValueError(
            f"A block of {np.dtype(dtype)} must hold a multiple of {size} bytes. Got {n_bytes}. Check the data type."
        )
    return np.frombuffer(data, dtype=dtype, offset=offset)
