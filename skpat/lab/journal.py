"""The record of every answer of a device, written before it is handed on, and read again after a crash."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from skpat.controls import ControlBatch
from skpat.devices.specification import device_name
from skpat.exceptions import DeviceBusyError, JournalError
from skpat.lab.address_lock import AddressLock
from skpat.lab.fingerprint import device_description
from skpat.lab.journal_file import FORMAT, JournalFile
from skpat.lab.replay import Answers, Replay, answers_of, control_keys, layout, sealed
from skpat.row_keys import splitmix64

__all__ = ["Journal", "JournalRun", "only_warn"]

_log = logging.getLogger("skpat.lab")
_NO_SHOTS = np.zeros(2, dtype=np.int64)
_ASIDE = np.uint64(0x61736964652E0001)  # mixed into the keys of rows that are no part of the run itself


class Journal(JournalFile):
    """A file of everything a device has answered.

    Parameters
    ----------
    path : str or path
        SQLite file; made when first needed. Next to it SQLite keeps ``-wal`` and ``-shm`` files while it is open. When a fit or
        a session has ended, everything is in the file itself.

    Notes
    -----
    Every measured piece is one transaction, on the disk (write-ahead log, full synchronous mode) before its outputs are
    handed on. A row is found again by what it was: the device's fingerprint, the run, the controls, and how often the
    same controls had been measured in that run before. A run is named by what was asked for (parameters, data,
    seeds), so the same ``fit`` again, after a crash or a Ctrl-C, takes from the journal what is there and measures the
    rest.

    A file that is moved, removed or replaced while it is in use is noticed: nothing is written to it any more (JournalError),
    and the next run begins a new one.

    Other processes may read the file while it is written. Two fits of the same run take turns, and the second replays what
    the first has recorded. A pickled or copied Journal is its path.

    A device is told by its class, bounds, address and parameters, a function by its code. Two objects of one class behind a
    function or method look the same: give each its own ``name`` (``as_device(..., name="rig 2")``).

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from skpat import as_device
    >>> from skpat.lab import Journal, Session
    >>> device = as_device(lambda c: c**2, n_controls=2, n_outputs=2, bounds=(0, 1), name="squares")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     journal = Journal(f"{folder}/run.db")
    ...     for _ in range(2):
    ...         with Session(device, journal=journal) as session:
    ...             outputs = session.measure(np.array([[0.5, 1.0]]))
    ...         print(session.ledger.shots["prediction"], session.ledger.replayed["prediction"])
    ...     journal.close()
    1 0
    0 1
    """

    def run(self, device: Any, signature: str = "", title: str = "") -> JournalRun:
        """The record of one run on a device, begun or gone on with.

        Parameters
        ----------
        device : Device
        signature : str, default=""
            Names the run: what was asked for.
        title : str, default=""
            For people.

        Raises
        ------
        JournalError
            If the journal was made with another device, or the file is no journal.
        """
        self.let_go_if_lost()
        with self.closed_again_on_error():
            return self._run(device, signature, title)

    def _run(self, device: Any, signature: str, title: str) -> JournalRun:
        mine = device_description(device)
        with self.transaction() as file:
            about = dict(file.execute("SELECT name, value FROM about"))
            if not about:
                entries = {"format": FORMAT, "device": device_name(device), "fingerprint": json.dumps(mine)}
                file.executemany("INSERT INTO about VALUES (?, ?)", entries.items())
            elif (theirs := self._recorded_device(about)) != mine:
                names = sorted(name for name in mine | theirs if mine.get(name) != theirs.get(name))
                raise JournalError(
                    f"The journal {self.path} must be of this device, {device_name(device)}. Got one of {about['device']!r}, "
                    f"which differs in {', '.join(names)}. Use another file for each device; a function "
                    "whose code was edited is another device."
                )
            file.execute(
                "INSERT OR IGNORE INTO runs (signature, title, started) VALUES (?, ?, ?)",
                (signature, title, time.time()),
            )
            found = file.execute("SELECT run FROM runs WHERE signature = ?", (signature,)).fetchone()
            if found is None or type(found[0]) is not int:
                raise self.damaged("a run that was just begun is not there")
        return JournalRun(self, found[0], named=bool(signature), n_outputs=int(device.n_outputs))

    def _recorded_device(self, about: dict[str, Any]) -> dict[str, Any]:
        try:
            theirs = json.loads(about["fingerprint"])
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise self.damaged("it does not say of which device it is") from error
        if not isinstance(theirs, dict):
            raise self.damaged("it does not say of which device it is")
        return theirs

    @property
    def about(self) -> dict[str, str]:
        """Format, device, fingerprint and (once it has answered) identity."""
        return dict(self.query("SELECT name, value FROM about"))

    def answers(self, run: int | None = None) -> Iterator[Answers]:
        """All recorded pieces, in the order of recording; of one run or of all."""
        for (batch,) in self.query("SELECT batch FROM batches WHERE ?1 IS NULL OR run = ?1 ORDER BY batch", run):
            yield self.read_batch(batch)

    def read_batch(self, batch: int) -> Answers:
        """One recorded piece."""
        found = self.query(
            "SELECT run, purpose, shot, n_rows, controls_dtype, outputs_dtype, varying, outputs, time, varying_index, "
            "shared_index, shared, dtype FROM batches JOIN settings USING (setting) WHERE batch = ?",
            batch,
        )
        if not found:
            raise self.damaged(f"piece {batch} lacks its shared settings")
        try:
            return answers_of(found[0])
        except Exception as error:  # whatever stands in the file, it is the file's fault
            raise self.damaged(f"piece {batch}: {error}") from error

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Every recorded row: controls (n, n_controls), outputs (n, n_outputs), purpose, run, shot and time (n,)."""
        parts = list(self.answers())
        if not parts:
            raise JournalError(f"The journal {self.path} holds no measurement yet.")
        shapes = {(part.controls.n_controls, part.outputs.shape[1]) for part in parts}
        if len(shapes) > 1:
            raise self.damaged(f"its pieces are of several shapes: {sorted(shapes)}")
        lengths = [len(part.outputs) for part in parts]
        columns = {"purpose": "purpose", "run": "run", "time": "time"}
        return {
            "controls": np.concatenate([np.asarray(part.controls) for part in parts]),
            "outputs": np.concatenate([part.outputs for part in parts]),
            "shot": np.repeat([part.controls.shot for part in parts], lengths),
            **{name: np.repeat([getattr(part, key) for part in parts], lengths) for name, key in columns.items()},
        }

    def to_npz(self, path: str | os.PathLike[str]) -> None:
        """Save what :meth:`to_arrays` gives, for ``numpy.load``."""
        np.savez_compressed(path, allow_pickle=False, **self.to_arrays())

    def to_pandas(self) -> Any:
        """A DataFrame with a row for each measured row: run, purpose, shot, time, control_0 ..., output_0 ..."""
        try:
            import pandas
        except ImportError as error:
            raise ImportError("Journal.to_pandas needs pandas. Install it with: pip install pandas") from error
        arrays = self.to_arrays()
        wide = {
            f"{name}_{i}": column
            for name, table in (("control", arrays.pop("controls")), ("output", arrays.pop("outputs")))
            for i, column in enumerate(table.T)
        }
        return pandas.DataFrame(arrays | wide)


class JournalRun:
    """One run's view of a journal: what it holds of the run, and where the run's new answers go. From ``Journal.run``.

    Each object goes through the record once, from its beginning.
    """

    def __init__(self, journal: Journal, number: int, named: bool, n_outputs: int):
        self.journal = journal
        self.number = number
        self.n_outputs = n_outputs
        self.path = journal.path
        self._own: set[int] = set()  # pieces written by this object; they are never replayed to it
        self._counted: set[int] = set()  # entries of shots without an answer that this object has seen to
        self._lost: dict[
            int | None, np.ndarray
        ] = {}  # such shots, and those that ended a run, by the piece that follows
        # what replays knows nothing of this object: without a cycle a run that is over is gone at once, and its file closed
        self._replay = self._read()
        self._lock = _lock_of(journal, number) if named else None
        self._is_writing = False
        self._is_past_the_record = False
        self._identity: str | None = journal.about.get("identity")
        if not isinstance(self._identity, str | None):
            raise journal.damaged(f"its instrument calls itself {self._identity!r:.80}")

    def seed(self, draw: Callable[[], int]) -> int:
        """The seed the run was begun with; drawn, and kept, where there is none yet."""
        with self.journal.transaction() as file:
            (known,) = file.execute("SELECT seed FROM runs WHERE run = ?", (self.number,)).fetchone() or ("none",)
            if known is not None and (type(known) is not int or not 0 <= known < 1 << 32):
                raise self.journal.damaged(f"the seed of run {self.number} is {known!r:.80}")
            if known is None:
                known = draw()
                file.execute("UPDATE runs SET seed = ? WHERE run = ?", (known, self.number))
        return known

    @property
    def identity(self) -> str | None:
        """Who has answered so far, by its own words."""
        return self._identity

    def check_identity(self, identity: str) -> None:
        """Note who answers; raise JournalError if it was somebody else before."""
        if identity == self._identity:
            return
        if self._identity is not None:
            raise JournalError(
                f"The journal {self.path} must be of the instrument that answers, {identity!r}. Got one of "
                f"{self._identity!r}. Use another file for each instrument."
            )
        with self.journal.transaction() as file:
            file.execute("INSERT OR IGNORE INTO about VALUES ('identity', ?)", (identity,))
        self._identity = identity

    def _read(self) -> Replay:
        statement = "SELECT batch, n_rows, row_keys FROM batches WHERE run = ? ORDER BY batch"
        pieces = []
        for batch, n_rows, keys in self.journal.query(statement, self.number):
            if not isinstance(keys, bytes) or type(n_rows) is not int or len(keys) != 8 * n_rows:
                raise self.journal.damaged(f"piece {batch} does not name its rows")
            if batch not in self._own:
                pieces.append((batch, np.frombuffer(keys, dtype=np.uint64)))
        self._lost = {}
        for _, shots, batch, ended in self._read_lost():
            self._lost[batch] = self._lost.get(batch, _NO_SHOTS) + np.array([shots, shots * bool(ended)])
        return Replay(pieces, partial(_read_piece, self.journal, self.n_outputs))

    def _read_lost(self) -> list[tuple[int, int, int | None, int]]:
        """Entries of shots without an answer, by others than this object: number, shots, the piece that follows, whether they
        ended a run."""
        if not self.journal.query(
            "SELECT 1 FROM sqlite_master WHERE name = 'lost'"
        ):  # of an earlier version, only read
            return []
        found = self.journal.query("SELECT lost, shots, batch, ended FROM lost WHERE run = ?", self.number)
        if not all(type(shots) is int and 0 <= shots < 1 << 53 for _, shots, *_ in found):
            raise self.journal.damaged(f"it does not say how many shots of run {self.number} got no answer")
        return [entry for entry in found if entry[0] not in self._counted]

    @property
    def is_writing(self) -> bool:
        """Whether this one writes the run at present."""
        return self._is_writing

    def position(self) -> np.ndarray:
        """How far the record has been gone through; for :meth:`begin_writing` and :meth:`go_back`."""
        return self._replay.used.copy()

    def go_back(self, position: np.ndarray) -> None:
        """Read on from where :meth:`position` was."""
        self._replay.used = position
        self._is_past_the_record = False

    def begin_writing(self, position: np.ndarray, wait: float | None) -> bool:
        """Become the one who writes this run, and read what others have written of it since.

        Parameters
        ----------
        position : ndarray
            From where to go on reading, should there be more: what :meth:`position` gave.
        wait : float or None
            Seconds to wait for another writer. None: until it has ended.

        Returns
        -------
        bool
            Whether there is more, and reading goes on at ``position``.
        """
        if self._lock is not None and not self._is_writing:
            if self._lock.is_held_by_this_thread:
                raise JournalError(
                    f"A run of the journal {self.path} must be written by one fit at a time. Got the same fit again within "
                    "itself, from a callback say. Nothing was sent. Give the inner one journal=None, or a file of its own."
                )
            self._lock.acquire(
                wait, lambda who: _log.warning("Waiting for this run of %s, written by %s.", self.path, who)
            )
        self._is_writing = True
        fresh = self._read()
        if fresh.n_rows == self._replay.n_rows:
            return False
        self.go_back(position)
        fresh.go_on_from(self._replay)
        self._replay = fresh
        return True

    def end_writing(self) -> None:
        """Let others write this run. What was written is in the file itself, not only in the log beside it."""
        if self._is_writing:
            self._is_writing = False
            try:
                self.journal.checkpoint()
            finally:
                if self._lock is not None:
                    self._lock.release()

    def take(self, batch: ControlBatch, aside: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What is known of a batch.

        Parameters
        ----------
        batch : ControlBatch
        aside : bool, default=False
            Whether its rows are counted apart from those of the run itself.

        Returns
        -------
        known : ndarray of shape (n_known, n_outputs)
            Answers of the rows that the journal holds, in order.
        missing : ndarray of int, shape (n_missing,)
            The other rows.
        keys : ndarray of uint64, shape (n_rows,)
            Names of all rows, for :meth:`record`.
        n_lost : ndarray of int, shape (2,)
            Shots that got no answer, and that came right before the known rows; and how many of them ended a run.

        Raises
        ------
        JournalError
            If rows are missing and others on record have been passed over: this is another course of the same run.
        """
        keys = control_keys(batch)
        if aside:
            keys = splitmix64(keys ^ _ASIDE)
        known, missing, begun = self._replay.take(batch, keys)
        if len(missing) and not aside:
            self._check_course()
        return known, missing, keys, sum((self._lost.get(piece, _NO_SHOTS) for piece in begun.tolist()), _NO_SHOTS)

    def take_pending(self) -> np.ndarray:
        """Lost shots that others noted and no recorded piece follows: they ended a run. Each is reported once."""
        pending = [entry for entry in self._read_lost() if entry[2] is None]
        self._counted.update(entry[0] for entry in pending)
        return sum((np.full(2, entry[1]) for entry in pending), _NO_SHOTS)

    def note_lost(self, n_shots: int, ended: bool) -> None:
        """Write that shots got no answer, so that whoever goes on with the run counts them where they were asked for.

        ``ended``: nor did the rows when they were asked for again.
        """
        with only_warn(), self.journal.transaction() as file:
            statement = "INSERT INTO lost (run, shots, ended) VALUES (?, ?, ?)"
            done = file.execute(statement, (self.number, n_shots, int(ended)))
            self._counted.add(int(done.lastrowid or 0))

    def _check_course(self) -> None:
        """Raise JournalError if some of the record was passed over by a run that asks for what is not on record.

        The same fit asks for the same rows in the same order, so what it has not asked for by then it will not ask for at all:
        its numbers are others than they were. What was measured aside is nobody's concern.
        """
        if self._lock is None or self._is_past_the_record:
            return
        n_left = 0
        for piece, n_rows in self._replay.left().items():
            (keys,) = self.journal.query("SELECT row_keys FROM batches WHERE batch = ?", piece)[0]
            controls = _read_piece(self.journal, self.n_outputs, piece).controls
            if np.array_equal(control_keys(controls), np.frombuffer(keys, dtype=np.uint64)):
                n_left += n_rows
        if n_left:
            raise JournalError(
                f"The same fit must ask for what the journal {self.path} holds of it. It asks for other settings, with "
                f"{n_left:,} recorded rows left. Nothing was sent. On another kind of processor, with another number of "
                "threads (OMP_NUM_THREADS, a worker of joblib) or another version of numpy, scipy or torch, numbers differ in "
                "their last digits, which a training makes large; another version of skpat, or a changed method or "
                "twin of your own, may ask for other rows. Run it where it was begun, or use another file to begin anew."
            )
        self._is_past_the_record = True

    def record(self, batch: ControlBatch, keys: np.ndarray, outputs: np.ndarray, purpose: str) -> None:
        """Write a measured piece; on the disk when this returns."""
        with self.journal.transaction() as file:
            done = file.execute(
                "INSERT INTO batches (run, setting, purpose, shot, n_rows, controls_dtype, outputs_dtype, row_keys, varying, "
                "outputs, time) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    self.number,
                    self._setting(file, batch),
                    purpose,
                    batch.shot,
                    batch.n_rows,
                    batch.varying.dtype.str,
                    layout(outputs),
                    keys.tobytes(),
                    np.ascontiguousarray(batch.varying).tobytes(),
                    sealed(outputs),
                    time.time(),
                ),
            )
            number = int(done.lastrowid or 0)
            file.execute("UPDATE lost SET batch = ? WHERE run = ? AND batch IS NULL", (number, self.number))
        self._own.add(number)

    def _setting(self, file: sqlite3.Connection, batch: ControlBatch) -> int:
        """The number of the shared part, written once however many pieces carry it."""
        parts = [
            np.ascontiguousarray(index, dtype=np.int64).tobytes() for index in (batch.varying_index, batch.shared_index)
        ]
        shared = np.ascontiguousarray(batch.shared).tobytes()
        digest = _digest(*parts, shared, batch.shared.dtype.str.encode())
        found = file.execute("SELECT setting FROM settings WHERE digest = ?", (digest,)).fetchone()
        if found is None:
            done = file.execute(
                "INSERT INTO settings (digest, varying_index, shared_index, shared, dtype) VALUES (?, ?, ?, ?, ?)",
                (digest, *parts, shared, batch.shared.dtype.str),
            )
            return int(done.lastrowid or 0)
        return int(found[0])

    def note_epoch(
        self,
        epoch: int,
        max_iter: int,
        *,
        loss: float,
        score: float | None,
        shots: int,
        replayed: int,
        faults: int,
    ) -> None:
        """Write how the training stands, for those who watch."""
        with only_warn(), self.journal.transaction() as file:
            file.execute(
                "INSERT OR REPLACE INTO epochs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (self.number, epoch, max_iter, loss, score, shots, replayed, faults, time.time()),
            )

    def note_end(self) -> None:
        """Write that the run has ended as it should, for those who watch, and for the next run."""
        with only_warn():
            if self.journal.query("SELECT 1 FROM fits WHERE run = ? AND ended IS NOT NULL", self.number):
                return
            with self.journal.transaction() as file:
                file.execute("INSERT OR IGNORE INTO fits (run) VALUES (?)", (self.number,))
                file.execute("UPDATE fits SET ended = ? WHERE run = ?", (time.time(), self.number))

    def is_written_by_another(self, number: int) -> bool:
        """Whether some other fit, here or elsewhere, is at another run of this journal at present."""
        lock = _lock_of(self.journal, number)
        if lock.is_held_by_this_thread:
            return True
        try:
            lock.acquire(0, lambda who: None)
        except DeviceBusyError:
            return True
        lock.release()
        return False

    @property
    def n_recorded(self) -> int:
        """Rows of this run that were on record when it was last read."""
        return self._replay.n_rows

    def note_fault(self, kind: str, message: str) -> None:
        """Write a fault, for those who watch."""
        with only_warn(), self.journal.transaction() as file:
            file.execute(
                "INSERT INTO faults (run, kind, message, time) VALUES (?, ?, ?, ?)",
                (self.number, kind, message, time.time()),
            )


def _lock_of(journal: Journal, number: int) -> AddressLock:
    return AddressLock(f"journal {journal.place.resolve()} run {number}")


def _read_piece(journal: Journal, n_outputs: int, batch: int) -> Answers:
    piece = journal.read_batch(batch)
    if piece.outputs.shape[1] != n_outputs:
        raise journal.damaged(f"piece {batch} has {piece.outputs.shape[1]} outputs, not {n_outputs}")
    return piece


@contextmanager
def only_warn() -> Iterator[None]:
    """What is written for those who watch is not worth a run."""
    try:
        yield
    except JournalError as error:
        _log.warning("%s", error)


def _digest(*parts: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()
