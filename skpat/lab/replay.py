"""Finding a row's recorded answer again: by its controls, and by how often they have been asked for."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from skpat.controls import ControlBatch
from skpat.lab.ledger import PURPOSES
from skpat.row_keys import rank_among_equals, splitmix64, sum_of_columns

__all__ = ["Answers", "Replay", "answers_of", "control_keys", "in_layout_of", "layout", "sealed"]

_PIECES_KEPT = 32
_LONGEST_DTYPE = 4  # "<f8"
_COLUMNS_FIRST = "F"  # stands after the dtype of answers that lie so in memory
_SEAL = b"\x01"  # stands before the checksum
_SEAL_LENGTH = 5


@dataclass(frozen=True)
class Answers:
    """A recorded piece: controls, outputs (n_rows, n_outputs), run, purpose and time (seconds since 1970)."""

    controls: ControlBatch
    outputs: np.ndarray
    run: int
    purpose: str
    time: float


def answers_of(row: tuple[Any, ...]) -> Answers:
    """A recorded piece from what stands in the file.

    Parameters
    ----------
    row : tuple
        run, purpose, shot, n_rows, dtype of the controls, dtype of the outputs, varying, outputs, time, varying_index,
        shared_index, shared, dtype of the shared ones.

    Raises
    ------
    ValueError
        If they do not fit together.
    """
    run, purpose, shot, n_rows, kind, out_kind, varying, outputs, when, index, shared_index, shared, shared_kind = row
    if not all(type(number) is int for number in (run, shot, n_rows)) or n_rows < 1 or shot < 0:
        raise ValueError(f"run, shot and number of rows must be numbers. Got {run!r:.40}, {shot!r:.40}, {n_rows!r:.40}")
    if purpose not in PURPOSES or not isinstance(when, float):
        raise ValueError(f"purpose and time must be what they are. Got {purpose!r:.40}, {when!r:.40}")
    varying_index, channels = (np.frombuffer(part, dtype=np.int64) for part in (index, shared_index))
    together = np.concatenate([varying_index, channels])
    if not np.array_equal(np.sort(together), np.arange(len(together))):
        raise ValueError("each channel must be set once")
    controls = ControlBatch(
        _numbers(varying, kind).reshape(n_rows, len(varying_index)),
        varying_index,
        _numbers(shared, shared_kind),
        channels,
        shot=shot,
    )
    if len(controls.shared) != len(channels):
        raise ValueError(f"there must be {len(channels)} shared settings. Got {len(controls.shared)}")
    return Answers(controls, _outputs(outputs, out_kind, n_rows), run, purpose, when)


def _outputs(content: Any, kind: Any, n_rows: int) -> np.ndarray:
    columns_first = isinstance(kind, str) and kind.endswith(_COLUMNS_FIRST)
    kind = kind.removesuffix(_COLUMNS_FIRST) if columns_first else kind
    outputs = _numbers(_unsealed(content, kind), kind).reshape(n_rows, -1)
    return np.asfortranarray(outputs) if columns_first else outputs


def layout(outputs: np.ndarray) -> str:
    """How answers are kept in the file: their dtype, and whether they lie column by column, as a driver that transposes gives
    them. What is computed from them later rounds otherwise, and a training makes the last digit large."""
    return outputs.dtype.str + (_COLUMNS_FIRST if _lies_columns_first(outputs) else "")


def in_layout_of(outputs: np.ndarray, *parts: np.ndarray) -> np.ndarray:
    """Put together from parts: column by column if one of them lies so."""
    return np.asfortranarray(outputs) if any(map(_lies_columns_first, parts)) else np.ascontiguousarray(outputs)


def _lies_columns_first(outputs: np.ndarray) -> bool:
    return outputs.flags.f_contiguous and not outputs.flags.c_contiguous


def sealed(outputs: np.ndarray) -> bytes:
    """Answers as they are kept in the file: their bytes and a checksum, which SQLite has only of its own structure."""
    content = np.ascontiguousarray(outputs).tobytes()
    return content + _SEAL + _checksum(content, outputs.dtype.str)


def _unsealed(content: Any, kind: Any) -> Any:
    """The bytes of the answers; pieces that were recorded without a checksum pass, their length is a multiple of four."""
    _check_kind(kind)
    if not isinstance(content, bytes) or len(content) % 4 == 0:
        return content
    kept, seal = content[:-_SEAL_LENGTH], content[-_SEAL_LENGTH:]
    if seal != _SEAL + _checksum(kept, kind):
        raise ValueError("the answers must be those that were recorded. Their checksum says that they are not")
    return kept


def _checksum(content: bytes, kind: str) -> bytes:
    return zlib.crc32(content, zlib.crc32(kind.encode())).to_bytes(4, "little")


def _check_kind(kind: Any) -> None:
    if not isinstance(kind, str) or len(kind) > _LONGEST_DTYPE or np.dtype(kind).kind != "f":
        raise ValueError(f"numbers must be floats. Got dtype {kind!r:.40}")


def _numbers(content: Any, kind: Any) -> np.ndarray:
    _check_kind(kind)
    values = np.frombuffer(content, dtype=kind)
    if not np.isfinite(values).all():
        raise ValueError("numbers must be finite")
    return values


def control_keys(batch: ControlBatch) -> np.ndarray:
    """One key per row, a function of the values on all channels alone, however they are split into two parts.

    Parameters
    ----------
    batch : ControlBatch

    Returns
    -------
    ndarray of uint64, shape (n_rows,)
    """
    varying = sum_of_columns(batch.varying, batch.varying_index)
    if not len(batch.shared_index):
        return splitmix64(varying)
    return splitmix64(varying + sum_of_columns(batch.shared[None, :], batch.shared_index))


class Replay:
    """Gives each recorded answer once, in the order of recording among rows of the same controls.

    Parameters
    ----------
    pieces : list of (int, ndarray of uint64)
        Number and row keys of each recorded piece, in the order of recording.
    read : callable
        ``read(number)`` -> Answers.
    """

    def __init__(self, pieces: list[tuple[int, np.ndarray]], read: Callable[[int], Answers]):
        self._read = read
        self._kept: OrderedDict[int, Answers] = OrderedDict()
        lengths = [len(keys) for _, keys in pieces]
        keys = np.concatenate([keys for _, keys in pieces]) if pieces else np.empty(0, np.uint64)
        order = np.argsort(keys, kind="stable")
        self._piece = np.repeat(np.array([number for number, _ in pieces], dtype=np.int64), lengths)[order]
        self._row = np.concatenate([np.arange(length) for length in lengths] or [np.empty(0, np.int64)])[order]
        self._keys, self._first, self._count = np.unique(keys[order], return_index=True, return_counts=True)
        self.used = np.zeros(len(self._keys), dtype=np.int64)
        self.n_rows = len(keys)

    def go_on_from(self, earlier: Replay) -> None:
        """Take what an earlier view of the same record has given out as given out."""
        place = np.searchsorted(self._keys, earlier._keys)  # all are here: a record only grows
        self.used[place] = earlier.used

    def left(self) -> dict[int, int]:
        """Rows that have not been asked for, by the number of their piece."""
        given = np.minimum(self.used, self._count)
        place_among_equals = np.arange(self.n_rows) - np.repeat(self._first, self._count)
        pieces, rows = np.unique(self._piece[place_among_equals >= np.repeat(given, self._count)], return_counts=True)
        return dict(zip(pieces.tolist(), rows.tolist(), strict=True))

    def take(self, batch: ControlBatch, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Answers of the rows that are on record, the numbers of the rows that are not, and the pieces whose first row is
        among them."""
        n_rows, none = len(keys), np.empty(0, dtype=np.int64)
        place = np.searchsorted(self._keys, keys)
        found = np.zeros(n_rows, dtype=bool)
        if len(self._keys):
            place[place == len(self._keys)] = 0
            found = self._keys[place] == keys
        if not found.any():
            return np.empty((0, 0)), np.arange(n_rows), none
        occurrence = np.where(found, self.used[place], 0) + rank_among_equals(keys)
        np.add.at(self.used, place[found], 1)
        found &= occurrence < self._count[place]
        rows = np.flatnonzero(found)
        if not len(rows):
            return np.empty((0, 0)), np.arange(n_rows), none
        at = self._first[place[rows]] + occurrence[rows]
        known, same = self._answers(batch, rows, at)
        begun = self._piece[at[same & (self._row[at] == 0)]]
        return in_layout_of(known[same], known), np.setdiff1d(np.arange(n_rows), rows[same]), begun

    def _answers(self, batch: ControlBatch, rows: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The recorded outputs at some places, and whether their controls are those of the rows, not only their keys."""
        outputs, pieces = None, []
        same = np.zeros(len(rows), dtype=bool)
        for number in np.unique(self._piece[at]):
            here = np.flatnonzero(self._piece[at] == number)
            piece = self._kept.pop(int(number), None) or self._read(int(number))
            self._kept[int(number)] = piece
            if len(self._kept) > _PIECES_KEPT:
                self._kept.popitem(last=False)
            recorded = self._row[at[here]]
            same[here] = _same_rows(batch, rows[here], piece.controls, recorded)
            if outputs is None:
                outputs = np.empty((len(rows), piece.outputs.shape[1]), dtype=piece.outputs.dtype)
            outputs = outputs.astype(np.result_type(outputs, piece.outputs), copy=False)
            outputs[here] = piece.outputs[recorded]
            pieces.append(piece.outputs)
        assert outputs is not None
        return in_layout_of(outputs, *pieces), same


def _same_rows(one: ControlBatch, rows: np.ndarray, other: ControlBatch, others: np.ndarray) -> np.ndarray:
    if (
        np.array_equal(one.varying_index, other.varying_index)
        and np.array_equal(one.shared_index, other.shared_index)
        and np.array_equal(one.shared, other.shared)
    ):
        return (one.varying[rows] == other.varying[others]).all(axis=1)
    if one.n_controls != other.n_controls:
        return np.zeros(len(rows), dtype=bool)
    return (np.asarray(one)[rows] == np.asarray(other)[others]).all(axis=1)
