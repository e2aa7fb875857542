"""A journal's file: SQLite, opened when needed, told from another one in its place, on the disk when a transaction ends."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from skpat.exceptions import JournalError
from skpat.lab.fork import ForkSafeLock

__all__ = ["FORMAT", "JournalFile", "connection_to_read", "is_unfinished"]

FORMAT = "skpat journal 1"
_BUSY_SECONDS = 60.0  # how long somebody else may hold the file
_SCHEMA = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS runs (
    run INTEGER PRIMARY KEY, signature TEXT UNIQUE, title TEXT, seed INTEGER, started REAL);
CREATE TABLE IF NOT EXISTS settings (
    setting INTEGER PRIMARY KEY, digest BLOB UNIQUE, varying_index BLOB, shared_index BLOB, shared BLOB, dtype TEXT);
CREATE TABLE IF NOT EXISTS batches (
    batch INTEGER PRIMARY KEY AUTOINCREMENT, run INTEGER, setting INTEGER, purpose TEXT, shot INTEGER, n_rows INTEGER,
    controls_dtype TEXT, outputs_dtype TEXT, row_keys BLOB, varying BLOB, outputs BLOB, time REAL);
CREATE INDEX IF NOT EXISTS batches_of_a_run ON batches (run, batch);
CREATE TABLE IF NOT EXISTS epochs (
    run INTEGER, epoch INTEGER, max_iter INTEGER, loss REAL, score REAL, shots INTEGER, replayed INTEGER, faults INTEGER,
    time REAL, PRIMARY KEY (run, epoch));
CREATE TABLE IF NOT EXISTS fits (run INTEGER PRIMARY KEY, data TEXT, asked TEXT, ended REAL);
CREATE TABLE IF NOT EXISTS lost (
    lost INTEGER PRIMARY KEY, run INTEGER, shots INTEGER, batch INTEGER, ended INTEGER);
CREATE TABLE IF NOT EXISTS faults (fault INTEGER PRIMARY KEY, run INTEGER, kind TEXT, message TEXT, time REAL);
"""


class JournalFile:
    """The file, and one connection of this process to it.

    Parameters
    ----------
    path : str or path
    """

    def __init__(self, path: str | os.PathLike[str]):
        if str(path) == ":memory:":
            raise ValueError("'path' of a Journal must be a file. Got ':memory:', which no crash would survive.")
        self.path = Path(path)
        self.place = self.path.absolute()  # whatever folder a driver changes to
        self._lock = ForkSafeLock()
        self._file: tuple[int, sqlite3.Connection] | None = None
        self._is_at_rest = False  # what is open is read as a file that nobody writes
        self._number: tuple[int, int] | None = None  # of the file that is open, on its disk

    def damaged(self, fault: str) -> JournalError:
        """The error of a journal that cannot be used."""
        return JournalError(
            f"The journal {self.path} is damaged: {fault[:300].rstrip('.')}. Restore it from a copy, or use another file."
        )

    def query(self, statement: str, *values: Any) -> list[tuple]:
        """Rows of an SQL statement."""
        with self._lock, self._readable():
            found = self._connected().execute(statement, values).fetchall()
            if self._is_at_rest:
                self.close()  # somebody may begin to write
            return found

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, MemoryError, OverflowError) as error:  # a damaged file claims any size
            raise JournalError(f"The journal {self.path} cannot be read: {error}.") from error

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """On the disk as a whole when the block ends, or not at all."""
        with self._lock:
            file = self._connected(to_write=True)
            try:
                file.execute("BEGIN IMMEDIATE")
                yield file
                file.execute("COMMIT")
            except (sqlite3.Error, MemoryError, OverflowError) as error:
                _roll_back(file)
                raise JournalError(
                    f"The journal {self.path} cannot be written to: {error}. What was written before is safe. Mend the cause, "
                    "and run the same fit again."
                ) from error
            except BaseException:
                _roll_back(file)
                raise

    def _connected(self, to_write: bool = False) -> sqlite3.Connection:
        own = self._own
        if own is not None and self._is_lost():
            self._hand_over()
            raise JournalError(
                f"The journal {self.path} must stay where it is while it is in use. Got another file in its place, or none. "
                "Put it back, and run the same fit again; without it, that fit begins a new one."
            )
        if own is not None:
            return own
        _check_file(self.place, to_write)
        self.close()
        may_be_written = _may_be_written(self.place)
        self._is_at_rest = not may_be_written and not to_write and _is_at_rest(self.place)
        try:
            if may_be_written or to_write:
                file = sqlite3.connect(self.place, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            else:
                file = connection_to_read(self.place, isolation_level=None, check_same_thread=False)
        except sqlite3.OperationalError as error:
            question = "May its folder be written to?" if self.place.parent.is_dir() else "Does its folder exist?"
            raise JournalError(f"The journal {self.path} cannot be opened: {error}. {question}") from error
        try:
            if may_be_written:
                _until_free(lambda: file.execute("PRAGMA journal_mode = WAL"))
                file.execute("PRAGMA synchronous = FULL")
                _until_free(lambda: file.executescript(_SCHEMA))
        except (sqlite3.Error, MemoryError) as error:
            file.close()
            raise JournalError(f"The journal {self.path} cannot be opened: {error}.") from error
        except BaseException:
            file.close()
            raise
        self._file, self._number = (os.getpid(), file), _number_of(self.place)
        return file

    @property
    def _own(self) -> sqlite3.Connection | None:
        """The connection of this process; one of the parent's came through a fork."""
        return self._file[1] if self._file is not None and self._file[0] == os.getpid() else None

    def _is_lost(self) -> bool:
        """Whether the file that was opened has been removed, or replaced: what is written to it is nowhere."""
        return _number_of(self.place) != self._number

    def _hand_over(self) -> None:
        """Write to a file that was moved what stands in the log beside its old place: it would be lost with that. Another file
        in that place has taken the log over, and shall not be disturbed."""
        own = self._own
        if own is not None and _number_of(self.place) is None:
            with suppress(sqlite3.Error):
                own.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def checkpoint(self) -> None:
        """Bring what stands in the log beside the file into the file: a copy of it has everything that was recorded."""
        with self._lock:
            own = self._own
            if own is not None and not self._is_lost():
                with suppress(sqlite3.Error):
                    own.execute("PRAGMA wal_checkpoint(PASSIVE)")  # waits for nobody

    def let_go_if_lost(self) -> None:
        """Close a file that was removed or replaced: the next use begins a new one, or opens the one in its place."""
        with self._lock:
            if self._is_lost():
                self.close()

    @contextmanager
    def closed_again_on_error(self) -> Iterator[None]:
        """A file that is first opened within the block does not stay open after an error."""
        was_open = self._own is not None
        try:
            yield
        except BaseException:
            if not was_open:
                self.close()
            raise

    def close(self) -> None:
        """Close the file. It is opened again when needed."""
        with self._lock:
            if (own := self._own) is not None:
                self._hand_over()
                self.checkpoint()
                own.close()
            elif self._file is not None:  # forked: SQLite forbids using, and closing, the parent's connection
                _inherited.append(self._file[1])
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def __del__(self) -> None:
        if self.__dict__.get("_file") is not None:
            self.close()

    def __reduce__(self) -> tuple:
        return type(self), (self.path,)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Of the same file, in whatever folder this process is by now."""
        copied = type(self)(self.path)
        copied.place = self.place
        return copied

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"


_inherited: list[sqlite3.Connection] = []


def connection_to_read(path: Path, mode: str = "ro", **options: Any) -> sqlite3.Connection:
    """A connection that is only read from.

    SQLite makes files beside a journal that it reads. Where it may not, on an archive, it is told that nobody writes, unless
    what somebody has written lately stands in the log beside the file.
    """
    path = path.resolve()
    how = f"{mode}&immutable=1" if _is_at_rest(path) else mode
    return sqlite3.connect(f"file:{quote(str(path))}?mode={how}", uri=True, timeout=_BUSY_SECONDS, **options)


def _is_at_rest(path: Path) -> bool:
    """Whether SQLite may make no files beside this one, and has made none: nobody writes, then."""
    log, index = (path.resolve().with_name(f"{path.name}{ending}") for ending in ("-wal", "-shm"))
    return (
        not os.access(path.resolve().parent, os.W_OK)
        and not index.exists()
        and not (log.exists() and log.stat().st_size)
    )


def is_unfinished(error: sqlite3.Error) -> bool:
    """Whether a file cannot be read for what somebody who was killed has left in it, which reading may not take back."""
    return _code_of(error) == sqlite3.SQLITE_READONLY_ROLLBACK


def _code_of(error: sqlite3.Error) -> int:
    """SQLite's own code; 0 for an error of Python's module."""
    return getattr(error, "sqlite_errorcode", 0)


def _until_free(act: Callable[[], Any]) -> None:
    """Do what SQLite refuses at once, whatever its time-out, while another connection does the same: begin a new file."""
    give_up = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            act()
            return
        except sqlite3.OperationalError as error:
            if _code_of(error) & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise
            if time.monotonic() > give_up:
                raise
        time.sleep(0.005)


def _may_be_written(path: Path) -> bool:
    """Whether a journal, which SQLite writes with files beside it, can be written here."""
    # in this order: somebody may make it between the two questions
    return os.access(path.parent, os.W_OK) and (not path.exists() or os.access(path, os.W_OK))


def _number_of(path: Path) -> tuple[int, int] | None:
    """What tells a file from another one of the same name; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _check_file(path: Path, to_write: bool) -> None:
    """Raise JournalError unless the file is a journal, or may become one.

    It is only read here, unless whoever made it was killed in the middle of a transaction.
    """
    if path.is_dir():
        raise JournalError(
            f"The journal must be a file. Got the folder {path.resolve()}. Use {str(path / 'run.db')!r}."
        )
    if not path.exists() or not path.stat().st_size:
        if to_write:
            return
        raise JournalError(f"There is no journal {path} yet. A fit with journal={str(path)!r} makes it.")
    try:
        try:
            tables, about = _read(path, "ro")
        except sqlite3.OperationalError as error:
            if not is_unfinished(error) or not to_write:
                raise
            tables, about = _read(path, "rw")  # SQLite takes back what is unfinished
    except sqlite3.OperationalError as error:
        raise JournalError(f"The journal {path} cannot be read: {error}.") from error
    except (sqlite3.Error, ValueError, MemoryError, OverflowError) as error:
        raise JournalError(f"{path} is no journal of skpat: {error}. Use another file.") from error
    if (tables and "about" not in tables) or (about and not str(about.get("format", "")).startswith("skpat journal")):
        raise JournalError(f"{path} is a database, but no journal of skpat. Use another file.")
    if about and about["format"] != FORMAT:
        raise JournalError(
            f"{path} must be of format {FORMAT!r}. Got {about['format']!r}. Use a newer skpat, or another file."
        )


def _read(path: Path, mode: str) -> tuple[set[str], dict[str, Any]]:
    """The tables of a file, and what it says of itself."""
    with closing(connection_to_read(path, mode)) as file:
        tables = {name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        return tables, dict(file.execute("SELECT name, value FROM about")) if "about" in tables else {}


def _roll_back(file: sqlite3.Connection) -> None:
    with suppress(sqlite3.Error):
        if file.in_transaction:
            file.execute("ROLLBACK")
