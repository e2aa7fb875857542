"""The open line to a device: one per address, or object without one; one holder at a time, safe when it is let go."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from skpat.controls import ControlBatch
from skpat.devices.base import Device
from skpat.devices.specification import call_hook, device_name
from skpat.exceptions import DeviceBusyError, DeviceIdentityError, UnclearedLineError
from skpat.lab.address_lock import AddressLock, is_of_one_process, keep_fresh, normal_address
from skpat.lab.answers import IncompleteAnswer

__all__ = ["Connection", "attach"]

_log = logging.getLogger("skpat.lab")

_changed = threading.Condition()
_by_place: dict[str | int, Connection] = {}  # by address, else by the id of the device, which is kept alive
_NOTE_AT_EXIT, _WAIT_AT_EXIT = 1.0, 60.0  # seconds for a call that is under way when the process ends
_all: weakref.WeakSet[Connection] = weakref.WeakSet()
_inherited: list[Any] = []  # handles that came through a fork: they are the parent's, and must not be closed here


class Connection:
    """The line to one device, opened when first needed.

    Parameters
    ----------
    address : str or None
        None: nothing is locked, and the threads that use the device take turns call by call.
    device : Device, default=None
        The one without an address.
    """

    def __init__(self, address: str | None, device: Any = None):
        self.address = address
        self.place: str | int = id(device) if address is None else address
        self._device = device  # kept alive: no other one gets its id
        self.io = threading.RLock()
        self.users: set[int] = set()
        self.thread = threading.current_thread()
        self.pid = os.getpid()
        self.closing = False
        self.last_row: np.ndarray | None = None
        self.identity: str | None = None  # who has answered
        self.is_joined = False  # by a session that may know other parameters of the device
        self._expected: str | None = None  # who must answer
        self._lock: AddressLock | None = None
        self._open_device: Any = None
        self._opened_with: dict[str, Any] | None = None
        self._unsafe_device: Any = None  # whose line was dropped before it could be brought into its safe state
        self._shared: tuple[np.ndarray, np.ndarray] | None = None
        self._sends_shared = False
        _all.add(self)

    def take_lock(self, wait: float | None) -> None:
        """Become the one holder among all processes of this computer."""
        if self.address is not None and self._lock is None and not is_of_one_process(self.address):
            lock = AddressLock(self.address)
            lock.acquire(wait, lambda holder: _log.warning("Waiting for %s, held by %s.", self.address, holder))
            self._lock = lock

    def measure(
        self,
        device: Any,
        piece: ControlBatch,
        count: Callable[[float], None] = lambda _: None,
        expected: str | None = None,
    ) -> Any:
        """One call of the device's ``measure``, with everything sent that must precede it.

        An error of any kind leaves the state of the line unknown: it is closed, and the next call opens it anew. After an
        error that is not the line's (Ctrl-C, a bug in the driver) the device is brought into its safe state first.
        ``count`` is called when everything is ready and the measurement is about to be asked for, with the seconds for which
        shared controls have settled. Nothing is sent to another instrument than the one ``expected``.
        """
        with self.io:
            self._expected = expected
            try:
                keep_fresh()
                self._make_ready(device)
                count(self._send_shared(piece) if self._sends_shared else 0.0)
                answer = call_hook(self._open_device, "measure", piece)
                self._unsafe_device = None
                return answer
            except (DeviceIdentityError, IncompleteAnswer):  # not ours to send anything to; the line is as it was
                raise
            except OSError:  # the line: it may work when it is opened anew
                self.drop()
                raise
            except BaseException:
                self.make_safe(device)
                raise

    def _make_ready(self, device: Any) -> None:
        if self._open_device is not None:
            if self._speaks_as(device):
                self._refuse_another(device, self.identity, self._expected)
                return
            self.shut_down()  # the same instrument, to be spoken to in another way
        self._open_device = device  # before it is open: a half-open line is closed too
        self._opened_with, self.is_joined = _parameters(device), False
        call_hook(device, "open")
        identity = str(call_hook(device, "identify") or "")
        try:
            self._refuse_another(device, identity, self.identity, self._expected)
        except DeviceIdentityError:
            self.drop()
            self._unsafe_device = None
            raise
        self.identity = identity
        self._shared = None
        overridden = getattr(type(device), "set_shared", Device.set_shared) is not Device.set_shared
        self._sends_shared = overridden or bool(getattr(device, "settling_seconds", 0))

    def _speaks_as(self, device: Any) -> bool:
        """Whether the line has been opened by a device that is, or was when it was opened, the same as this one."""
        if self._open_device is device and (self._opened_with is None or not self.is_joined):
            return True
        self.is_joined = False
        return type(self._open_device) is type(device) and _equal_parameters(self._opened_with, _parameters(device))

    def _refuse_another(self, device: Any, identity: str | None, *known: str | None) -> None:
        for one in known:
            if one is not None and identity != one:
                raise DeviceIdentityError(
                    f"The instrument at {self.address or device_name(device)} must be the one that answered before, "
                    f"{one!r}. Got {identity!r}. Reconnect the first one, or start a new run."
                )

    def _send_shared(self, piece: ControlBatch) -> float:
        """Send what all rows share, if it has changed, and let it settle; for how many seconds."""
        known = self._shared
        if (
            known is not None
            and np.array_equal(known[0], piece.shared)
            and np.array_equal(known[1], piece.shared_index)
        ):
            return 0.0
        self._shared = None
        call_hook(self._open_device, "set_shared", piece)
        settling = float(getattr(self._open_device, "settling_seconds", None) or 0.0)
        if settling:
            time.sleep(settling)
        self._shared = np.array(piece.shared), np.array(piece.shared_index)
        return settling

    def drop(self) -> None:
        """Close a line in an unknown state. Never raises; the next measurement opens it anew."""
        with self.io:
            device, self._open_device, self._shared = self._open_device, None, None
            if device is not None:
                self._unsafe_device = device
                _quietly(device, "close")

    def shut_down(self) -> bool:
        """Bring the device into its safe state and close it. Never raises; tells whether there was a line to do so."""
        with self.io:
            done, device = False, self._open_device
            try:
                done = device is not None and _quietly(device, "safe_state")
            except BaseException:  # Ctrl-C: a ramp that stops half way is not safe
                # a second one ends it
                done = _quietly(device, "safe_state")
                raise
            finally:
                self.drop()
                if done:
                    self._unsafe_device, self.last_row = None, None
            return done

    def make_safe(self, device: Any) -> None:
        """The safe state, through the line as it is or opened once more. Never raises."""
        has_safe_state = getattr(type(device), "safe_state", Device.safe_state) is not Device.safe_state
        with self.io:
            if not self.shut_down() and has_safe_state:
                try:
                    self._make_ready(device)
                except UnclearedLineError:
                    pass  # no answer is asked of it
                except Exception as error:
                    _log.warning(
                        "%s could not be reached to bring it into its safe state: %s", device_name(device), error
                    )
                self.shut_down()
            self._unsafe_device = None  # all has been tried

    def release(self) -> None:
        """Safe state, on a line opened anew if the present one is broken; close, and let the next holder have the address."""
        try:
            device = self._unsafe_device if self._open_device is None else self._open_device
            if device is not None:
                self.make_safe(device)
        finally:
            if self._lock is not None:
                lock, self._lock = self._lock, None
                lock.release()

    def release_at_exit(self) -> None:
        """Release, but not wait for ever for a driver that hangs in a thread that will not live on."""
        device = self._open_device
        if not self.io.acquire(timeout=_NOTE_AT_EXIT):
            _log.warning("%s is still in a call. Waiting for it, %g s at most.", device_name(device), _WAIT_AT_EXIT)
            if not self.io.acquire(timeout=_WAIT_AT_EXIT):
                _log.warning("%s is still in a call, and was not brought into its safe state.", device_name(device))
                return
        try:
            self.release()
        finally:
            self.io.release()

    def forget(self) -> None:
        """In a forked child: this line is the parent's. Keep its handles alive, and touch nothing."""
        if self._lock is not None:
            self._lock.forget()
        device = self._open_device
        while device is not None:
            _inherited.append(device)
            with suppress(TypeError):  # __slots__
                _inherited.append(dict(vars(device)))  # a handle that the child's own open() would replace
            device = getattr(device, "device", None)  # within a wrapper


def attach(user: int, device: Any, wait: float | None) -> Connection:
    """The connection of a device for one user (a session), waiting for whoever else holds its address.

    Users of one thread share the connection; other threads and other processes wait. A device without an address is shared by
    all threads of its process.

    Parameters
    ----------
    user : int
        Names the session.
    device : Device
    wait : float or None
        Seconds to wait. None: until it is free.

    Raises
    ------
    DeviceBusyError
        If it is still held when the time is over.
    """
    address = getattr(device, "address", None)
    address = None if address is None else normal_address(address)
    place: str | int = id(device) if address is None else address
    me = threading.current_thread()
    deadline = None if wait is None else time.monotonic() + wait
    told = False
    with _changed:
        while (known := _by_place.get(place)) is not None and (
            known.closing or (address is not None and known.thread is not me and known.thread.is_alive())
        ):
            if deadline is not None and time.monotonic() >= deadline:
                raise DeviceBusyError(
                    f"The instrument at {address or device_name(device)} must be free. Got: held by thread "
                    f"{known.thread.name!r} of this process ({os.getpid()}). Nothing was sent. Wait for it to end, or close "
                    "its Session.",
                    holder=os.getpid(),
                )
            if not told:
                told = True
                gc.collect()  # a session that nobody can reach any more, an error's traceback say, lets go
                if _by_place.get(place) is not known:
                    continue
                if address is not None:
                    _log.warning("Waiting for %s, held by thread %r of this process.", address, known.thread.name)
            _changed.wait(0.1 if deadline is None else min(0.1, max(0.0, deadline - time.monotonic())))
        if known is None:
            known = _by_place[place] = Connection(address, device if address is None else None)
        known.thread = me  # also in the place of a thread that has ended without closing its session
        known.users.add(user)
        known.is_joined = True
    try:
        known.take_lock(None if deadline is None else max(0.0, deadline - time.monotonic()))
    except BaseException:
        detach(user, known)
        raise
    return known


def detach(user: int, connection: Connection) -> None:
    """A user is done; the last one out brings the device into its safe state and frees the address."""
    if connection.pid != os.getpid():
        return
    with _changed:
        connection.users.discard(user)
        if connection.users or connection.closing:
            return
        connection.closing = True
    try:
        connection.release()  # outside the condition: closing may take its time
    finally:
        with _changed:
            if _by_place.get(connection.place) is connection:
                del _by_place[connection.place]
            _changed.notify_all()


def _parameters(device: Any) -> dict[str, Any] | None:
    """What a device is made of, the one within a wrapper included; None for one that does not tell."""
    return dict(device.get_params(deep=True)) if hasattr(device, "get_params") else None


def _equal_parameters(mine: dict[str, Any] | None, others: dict[str, Any] | None) -> bool:
    """Whether two device objects speak to an instrument in the same way."""
    if mine is None or others is None or mine.keys() != others.keys():
        return False
    return all(_equal(value, others[name]) for name, value in mine.items())


def _equal(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if hasattr(a, "measure") and hasattr(a, "get_params"):  # within a wrapper: its parameters are compared, too
        return type(a) is type(b)
    try:
        return bool(np.all(np.asarray(a == b)))
    except (TypeError, ValueError):
        return False


def _quietly(device: Any, what: str) -> bool:
    try:
        call_hook(device, what)
        return True
    except Exception as error:  # the line may be what is broken
        _log.warning("%s.%s() failed: %s", device_name(device), what, error)
        return False


def _shut_down_all() -> None:
    for connection in list(_all):
        if connection.pid == os.getpid():
            connection.release_at_exit()


def _after_fork() -> None:
    global _changed
    _changed = threading.Condition()
    for connection in list(_all):
        with suppress(OSError):
            connection.forget()
    _by_place.clear()
    _all.clear()


atexit.register(_shut_down_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
