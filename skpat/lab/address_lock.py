"""One holder of an address among all processes of this computer, by a lock file that dies with its holder."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from skpat.exceptions import DeviceBusyError

__all__ = [
    "AddressLock",
    "address_file",
    "address_in_this_process",
    "is_of_one_process",
    "keep_fresh",
    "normal_address",
]

_POLL_SECONDS = 0.02
_FRESH_SECONDS = 3600.0  # between two signs of life of a lock
_RESOURCE_CLASSES = ("INSTR", "SOCKET", "RAW", "SERVANT", "INTFC", "BACKPLANE", "MEMACC")
_held: dict[int, AddressLock] = {}  # by this process: file -> lock
_LOCKED_BYTE = 1 << 30  # where Windows locks one byte: far from the text, which stays readable


def address_file(address: str, ending: str) -> Path:
    """The file of an address in the directory that all users of this computer share, ``SKPAT_LOCK_DIR`` or a temporary one.

    Raises
    ------
    PermissionError
        If the directory cannot be written to.
    """
    folder = os.environ.get("SKPAT_LOCK_DIR")
    common = Path("/tmp") if os.name == "posix" else Path(tempfile.gettempdir())  # one for all, whatever TMPDIR says
    directory = Path(folder) if folder else common / "skpat-locks"
    try:
        if not directory.is_dir():
            directory.mkdir(parents=True, exist_ok=True)
            if not folder:
                directory.chmod(0o1777)  # as /tmp itself: everybody may lock, nobody remove another's file
        if not os.access(directory, os.W_OK):
            raise PermissionError
    except OSError as error:
        raise PermissionError(
            f"The lock of {address} must stand in {directory}. Got a folder that cannot be written to. Set SKPAT_LOCK_DIR to "
            "one that every user of the instrument can write to."
        ) from error
    address = normal_address(address)
    readable = re.sub(r"[^A-Za-z0-9]+", "-", address).strip("-")[:60]
    return directory / f"{readable}-{hashlib.sha256(address.encode()).hexdigest()[:12]}.{ending}"


def is_of_one_process(address: str) -> bool:
    """Whether only the process that made an address can reach what is there: a live object, not an instrument's place."""
    return re.fullmatch(r"adopted-[0-9a-f]+-in-\d+", address) is not None


def address_in_this_process(token: str) -> str:
    """The address of a live object that a token of hexadecimal digits names; another one in each process."""
    return f"adopted-{token}-in-{os.getpid()}"


def normal_address(address: str) -> str:
    """One spelling for what VISA takes for one place: "TCPIP::host" and "tcpip0::host::inst0::INSTR", say."""
    if "::" not in address:
        return address
    kind, *parts = re.split(r"::(?![^\[]*\])", address.upper())  # an IPv6 address stands in brackets
    kind = re.sub(r"^([A-Z]+)0$", r"\1", kind)
    if re.fullmatch(r"(GPIB|TCPIP|USB|ASRL|VXI|PXI)\d*", kind):
        if parts[-1] not in _RESOURCE_CLASSES:
            parts.append("INSTR")
        if parts[-1] == "INSTR" and kind.startswith("TCPIP") and len(parts) == 2:
            parts.insert(1, "INST0")
        if parts[-1] in ("INSTR", "RAW") and kind.startswith("USB") and len(parts) == 4:
            parts.insert(3, "0")  # the interface
    return "::".join([kind, *parts])


class AddressLock:
    """An exclusive lock that the operating system drops when its holder ends, however it ends.

    Parameters
    ----------
    address : str
    """

    def __init__(self, address: str):
        self.address = address
        self.path = address_file(address, "lock")
        self._file: int | None = None
        self._seen = time.monotonic()  # when its file was last touched
        self._thread: int | None = None  # that has taken it

    @property
    def is_held_by_this_thread(self) -> bool:
        """Whether this very thread holds the lock, by this object or another one: to wait for it would be for ever."""
        mine = threading.get_ident()
        return any(other.path == self.path and other._thread == mine for other in list(_held.values()))

    def acquire(self, wait: float | None, tell: Callable[[str], None]) -> None:
        """Take the lock.

        Parameters
        ----------
        wait : float or None
            Seconds to wait for another holder. None: until it lets go.
        tell : callable
            Called once with who holds it, if somebody does.

        Raises
        ------
        DeviceBusyError
            If it is still held when the time is over.
        """
        deadline = None if wait is None else time.monotonic() + wait
        told = False
        file = self._open()
        try:
            while not self._take(file) or not self._is_at_its_place(file):
                if not self._is_at_its_place(file):  # removed, and perhaps made anew: a lock of it keeps nobody out
                    gone, file = file, self._open()
                    os.close(gone)
                    continue
                holder = self.holder()
                if deadline is not None and time.monotonic() >= deadline:
                    raise DeviceBusyError(
                        f"The instrument at {self.address} must be free. Got: held by {_in_words(holder)}. Nothing was sent. "
                        "Wait for it to end, or close its Session.",
                        holder=holder.get("pid"),
                    )
                if not told and holder:
                    told = True
                    tell(_in_words(holder))
                time.sleep(_POLL_SECONDS)
            mine = {"pid": os.getpid(), "host": socket.gethostname(), "command": _command(), "since": time.time()}
            with suppress(OSError):  # a full disk: it is locked all the same, and nobody can read by whom
                os.ftruncate(file, 0)
                os.write(file, json.dumps(mine).encode())
        except BaseException:
            os.close(file)
            raise
        self._file, self._thread, self._seen = file, threading.get_ident(), time.monotonic()
        _held[file] = self

    def _take(self, file: int) -> bool:
        try:
            return _try_lock(file)
        except OSError as error:  # some network file systems have no locks
            raise OSError(
                f"The lock of {self.address} must stand on a disk that has locks. Got {error} in {self.path.parent}. Set "
                "SKPAT_LOCK_DIR to a folder on a local disk. Nothing was sent."
            ) from error

    def _open(self) -> int:
        flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)
        try:
            file = os.open(self.path, flags)  # without O_CREAT, which Linux refuses for another user's file there
        except FileNotFoundError:
            file = os.open(self.path, flags | os.O_CREAT, 0o666)
        if sys.platform != "win32" and os.fstat(file).st_uid == os.getuid():
            os.fchmod(file, 0o666)  # whatever the umask
        return file

    def _is_at_its_place(self, file: int) -> bool:
        try:
            return os.path.samestat(os.fstat(file), os.stat(self.path))
        except FileNotFoundError:
            return False

    def keep_fresh(self) -> None:
        """A sign of life now and then: what cleans temporary folders removes files that nothing has touched for days."""
        if self._file is not None and time.monotonic() - self._seen >= _FRESH_SECONDS:
            self._seen = time.monotonic()
            with suppress(OSError):
                os.utime(self.path)

    def holder(self) -> dict[str, Any]:
        """Who holds the lock, or held it last: pid, host, command and since (seconds since 1970)."""
        try:
            holder = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}
        told = isinstance(holder, dict) and {"pid", "host", "command", "since"} <= set(holder)
        return holder if told and isinstance(holder["since"], (int, float)) else {}

    def release(self) -> None:
        """Let go. The file stays: removing it would let two processes lock two files of one name."""
        if self._file is not None:
            file, self._file, self._thread = self._file, None, None
            _held.pop(file, None)
            _unlock(file)  # closing would not do where a forked child has inherited the file
            os.close(file)

    def forget(self) -> None:
        """In a forked child: close the file, which leaves the parent's lock as it is."""
        if self._file is not None:
            file, self._file, self._thread = self._file, None, None
            _held.pop(file, None)
            os.close(file)


def keep_fresh() -> None:
    """A sign of life of every lock that this process holds."""
    for lock in list(_held.values()):
        lock.keep_fresh()


def _after_fork() -> None:
    """A child that kept the files open would keep the locks held when its parent is killed."""
    for lock in list(_held.values()):
        with suppress(OSError):
            lock.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _command() -> str:
    return Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "python"


def _in_words(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    seconds = max(0, round(time.time() - holder["since"]))
    return f"process {holder['pid']} ({holder['command']}) on {holder['host']}, for {seconds} s"


def _try_lock(file: int) -> bool:
    if sys.platform == "win32":
        import msvcrt

        os.lseek(file, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(file, 0, os.SEEK_SET)
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _unlock(file: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        os.lseek(file, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_UNLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_UN)
