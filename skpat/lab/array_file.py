"""Plain values and named arrays in one file, read without pickle and without trust in whoever wrote it."""

from __future__ import annotations

import errno
import io
import json
import os
import secrets
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from skpat.exceptions import DeploymentFileError

__all__ = ["LARGEST_ABOUT", "LARGEST_FILE", "read_arrays", "refused", "write_arrays"]

_ABOUT = "about.json"
LARGEST_FILE = 1 << 30
LARGEST_ABOUT = 1 << 20
_MOST_MEMBERS = 1 << 14
_LARGEST_DIRECTORY = _MOST_MEMBERS * 256
_KINDS = "biufUS"
_END = 22  # bytes of a zip file's last record, where it has no comment


def write_arrays(path: str | os.PathLike[str], about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write a file that ``numpy.load`` can open, too: whole under its name, or not at all.

    Parameters
    ----------
    path : str or path
        Taken as it is. A file of that name is replaced.
    about : mapping of str to plain value
        What JSON can hold; no NaN, no infinity.
    arrays : mapping of str to ndarray
        Of numbers, booleans or strings. ``/`` in a name groups them.

    Raises
    ------
    ValueError
        If the file would not be read again: it is too large, an array holds something else, or a string what is no character.
    OSError
        If the file cannot be written. What stood under its name is still there.

    Notes
    -----
    The members are stored uncompressed. Weights hardly shrink, and what a file claims to hold can then not be more than
    what it does hold. Equal contents give equal bytes.
    """
    path = Path(path)
    text = json.dumps(dict(about), allow_nan=False, indent=1)
    size = len(text) + sum(array.nbytes + 1024 for array in arrays.values())
    if size > LARGEST_FILE or len(arrays) >= _MOST_MEMBERS:
        raise ValueError(f"A file must hold at most {LARGEST_FILE:,} bytes in {_MOST_MEMBERS:,} arrays. Got {size:,}.")
    for name, array in arrays.items():
        if array.dtype.kind not in _KINDS:
            raise ValueError(f"{name!r} must hold numbers, booleans or strings. Got dtype {array.dtype}.")
        if array.dtype.kind == "U" and not _are_characters(array):
            raise ValueError(
                f"{name!r} must hold characters. Got half of a pair, as os.fsdecode makes of undecodable bytes."
            )
    if not _is_text(dict(about)):
        raise ValueError("Strings must hold characters. Got half of a pair, as os.fsdecode makes of undecodable bytes.")
    if len(text) > LARGEST_ABOUT:
        raise ValueError(
            f"Names and settings must take at most {LARGEST_ABOUT:,} bytes. Got {len(text):,}. Use shorter ones."
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "There must be a folder to save in", str(path))
    unfinished = path.with_name(f".{secrets.token_hex(8)}.unfinished")  # short, however long the name is
    try:
        with open(unfinished, "xb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=False) as members:
                members.writestr(_member(_ABOUT), text)
                for name, array in arrays.items():
                    npy = io.BytesIO()
                    np.lib.format.write_array(npy, np.array(array, order="C"), version=(1, 0), allow_pickle=False)
                    members.writestr(_member(f"{name}.npy"), npy.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise
    _settle(path.parent)


def _member(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)  # of a fixed date
    member.external_attr = 0o644 << 16
    return member


def _settle(folder: Path) -> None:
    """Have the new name on the disk as well."""
    if os.name != "posix":
        return
    with suppress(OSError):  # not every file system can
        directory = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def read_arrays(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What :func:`write_arrays` has written: the plain values and the arrays, read-only.

    Raises
    ------
    DeploymentFileError
        Whatever is wrong. Nothing in the file is ever executed, and no more memory is asked for than the file is long.
    """
    path = Path(path)
    try:
        if not path.is_file():  # a pipe, say, would never end
            raise DeploymentFileError("there is no such file")
        with open(path, "rb") as file:
            return _read(file)
    except DeploymentFileError as error:
        raise refused(path, str(error)) from None
    except Exception as error:  # a damaged file makes zipfile and numpy raise almost anything
        raise refused(path, f"{type(error).__name__}: {error}") from error


def refused(path: str | os.PathLike[str], fault: str) -> DeploymentFileError:
    """The error of a file that cannot be used."""
    return DeploymentFileError(
        f"{os.fspath(path)!r} must be a deployed network, as save(path) writes it. Got a file that cannot be used: "
        f"{fault[:500].rstrip('.')}. Nothing was sent to the device. Copy the file again, or save the network anew."
    )


def _read(file: IO[bytes]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    length = os.fstat(file.fileno()).st_size
    _check_length(file, length)
    with zipfile.ZipFile(file) as members:
        listed = members.infolist()
        names = [member.filename for member in listed]
        if len(set(names)) != len(names):
            raise DeploymentFileError("two members have one name")
        if _ABOUT not in names:
            raise DeploymentFileError(f"it has no member {_ABOUT!r}")
        if sum(member.file_size for member in listed) > length:
            raise DeploymentFileError("its members claim more bytes than there are")
        for member in listed:
            if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
                raise DeploymentFileError(f"the member {member.filename!r} is compressed")
            if member.filename != _ABOUT and not member.filename.endswith(".npy"):
                raise DeploymentFileError(f"the member {member.filename!r} is no array")
        if members.getinfo(_ABOUT).file_size > LARGEST_ABOUT:
            raise DeploymentFileError(f"the member {_ABOUT!r} is longer than {LARGEST_ABOUT:,} bytes")
        about = _plain(members.read(_ABOUT))
        arrays = {
            member.filename.removesuffix(".npy"): _array(member.filename, members.read(member))
            for member in listed
            if member.filename != _ABOUT
        }
    return about, arrays


def _check_length(file: IO[bytes], length: int) -> None:
    """Look at the end of the file before zipfile does, which believes what stands there."""
    if length > LARGEST_FILE:
        raise DeploymentFileError(f"it is longer than {LARGEST_FILE:,} bytes")
    if length < _END:
        raise DeploymentFileError("it is no npz file, or its end is missing")
    file.seek(-_END, os.SEEK_END)
    end = file.read(_END)
    if not end.startswith(b"PK\5\6"):
        raise DeploymentFileError("it is no npz file, or its end is missing")
    n_members, directory = int.from_bytes(end[10:12], "little"), int.from_bytes(end[12:16], "little")
    if n_members > _MOST_MEMBERS or directory > min(_LARGEST_DIRECTORY, length):
        raise DeploymentFileError("its table of contents is too long")
    file.seek(-min(length, _END + 20), os.SEEK_END)
    if file.read(4) == b"PK\6\7":  # a second, larger table of contents
        raise DeploymentFileError("it is a zip64 file")
    file.seek(0)


def _plain(text: bytes) -> dict[str, Any]:
    def no_number(name: str) -> Any:
        raise DeploymentFileError(f"{name} is no number")

    def no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) != len(pairs):
            raise DeploymentFileError("a name is given twice")
        return values

    about = json.loads(text.decode("utf-8"), parse_constant=no_number, object_pairs_hook=no_repeats)
    if not _is_text(about):
        raise DeploymentFileError(f"the member {_ABOUT!r} holds what is no character")
    if not isinstance(about, dict):
        raise DeploymentFileError(f"the member {_ABOUT!r} holds no names")
    return about


def _array(name: str, content: bytes) -> np.ndarray:
    """An array of numbers, booleans or strings from the bytes of an npy file."""
    npy = io.BytesIO(content)
    if np.lib.format.read_magic(npy) != (1, 0):
        raise DeploymentFileError(f"{name!r} must be of npy version 1.0")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(npy)
    if dtype.hasobject or dtype.names is not None or dtype.subdtype is not None or dtype.kind not in _KINDS:
        raise DeploymentFileError(f"{name!r} must hold numbers, booleans or strings, not {str(dtype)[:60]}")
    if fortran_order or any(n < 0 for n in shape):
        raise DeploymentFileError(f"{name!r} has a shape or an order that is never written")
    n_values = 1
    for n in shape:
        n_values *= int(n)
    n_bytes = len(content) - npy.tell()
    if n_values * dtype.itemsize != n_bytes or not dtype.itemsize:
        raise DeploymentFileError(
            f"{name!r} must hold {n_values} values of {dtype.itemsize} bytes. Got {n_bytes} bytes"
        )
    array = np.frombuffer(content, dtype=dtype, offset=npy.tell()).reshape(shape)
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise DeploymentFileError(f"{name!r} must hold finite numbers only")
    if dtype.kind == "b" and (array.view(np.uint8) > 1).any():
        raise DeploymentFileError(f"{name!r} must hold booleans")
    array = array.astype(dtype.newbyteorder("="), copy=False)
    if dtype.kind == "U" and not _are_characters(array):  # numpy would make strings of them
        raise DeploymentFileError(f"{name!r} must hold characters")
    return array


def _is_text(about: Any) -> bool:
    """Whether all strings in it can be printed."""
    try:
        json.dumps(about, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _are_characters(strings: np.ndarray) -> bool:
    """Whether an array of strings holds nothing beyond Unicode, and no half of a pair."""
    codes = np.frombuffer(strings.astype(strings.dtype.newbyteorder("=")).tobytes(), dtype=np.uint32)
    return not ((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes < 0xE000))).any()
