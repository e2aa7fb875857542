"""A line to an instrument that answers in step or not at all."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from skpat.exceptions import DeviceConnectionError
from skpat.lab.scpi import parse_block_header

__all__ = ["VisaLine"]


class VisaLine:
    """An open VISA resource. After a fault it refuses to ask again, so that no answer is taken for another's.

    Parameters
    ----------
    address : str
        VISA address.
    timeout : float
        Longest wait, in seconds.
    backend : str
        PyVISA's back end.
    write_termination, read_termination : str
        What ends a line sent and a line (or a block) received.

    Attributes
    ----------
    told : dict of str to ndarray
        What the instrument was last told on this line, for its user to keep.
    reported_errors : tuple of str
        What the instrument has reported, told with the next fault.

    Raises
    ------
    ImportError
        If PyVISA or its back end is not installed.
    DeviceConnectionError
        If the line cannot be opened.
    """

    def __init__(self, address: Any, *, timeout: float, backend: str, write_termination: str, read_termination: str):
        self.address = address
        self.timeout = timeout
        self.told: dict[str, np.ndarray] = {}
        self.reported_errors: tuple[str, ...] = ()
        self._write_termination = write_termination.encode()
        self._read_termination = read_termination
        self._unfinished = ""  # what was sent or asked, and is not done: an answer may be on its way
        self._came = 0  # bytes of the present answer
        self._resource: Any = None
        manager = _resource_manager(backend)
        try:
            self._resource = manager.open_resource(address, open_timeout=round(1000 * timeout))
            self._resource.timeout = round(1000 * timeout)
            self._socket = _socket_of(self._resource)
            if self._socket is not None:
                refused = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # pyvisa-py takes no notice
                if refused:
                    raise OSError(refused, "the connection was refused")
                # pyvisa-py leaves Nagle's algorithm on, which holds every block above 4 KB back for some 40 ms
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._socket.settimeout(timeout)
        except Exception as error:  # pyvisa-py raises bare Exceptions here
            self.close()
            raise DeviceConnectionError(
                f"The instrument at {address} must accept a connection within {timeout:g} s. "
                f"Got {type(error).__name__}: {error}. Check the address, that it is switched on, and that nobody holds it."
            ) from error

    def close(self) -> None:
        """Close the line, whatever state it is in. Never raises."""
        resource, self._resource, self._socket = self._resource, None, None
        if resource is not None:
            with contextlib.suppress(Exception):  # the line may be what is broken
                resource.close()

    @property
    def is_in_step(self) -> bool:
        """Whether no old answer can be on its way."""
        return not self._unfinished

    def tell(self, command: str, block: bytes = b"", *, even_out_of_step: bool = False) -> None:
        """Send a command that has no answer."""
        with self._step(command, "take it", even_out_of_step):
            self._send(command, block)

    def ask(self, command: str) -> str:
        """Send a command, read a line."""
        with self._step(command, "answer"):
            self._send(command)
            return self._receive_line()

    def ask_block(self, command: str, block: bytes, n_bytes: int) -> bytes:
        """Send a command, read a block; gives its content, which must be ``n_bytes`` long."""
        with self._step(command, f"answer with a block of {n_bytes} bytes"):
            self._send(command, block)
            return self._receive_block(n_bytes)

    @contextlib.contextmanager
    def _step(self, command: str, expected: str, even_out_of_step: bool = False) -> Iterator[None]:
        """All sending and receiving happens in here: whatever goes wrong is told, and the line not used again."""
        unfinished = self._unfinished
        if unfinished and not even_out_of_step:
            raise DeviceConnectionError(
                f"The line to the instrument at {self.address} must be in step to send {command!r}. Got no end of "
                f"{unfinished!r} before: an old answer may be on its way. Open it anew: device.open()."
            )
        self._unfinished, self._came = command, 0
        try:
            yield
        except Exception as error:  # of PyVISA, its back end, the socket, or a malformed block
            reported = ", ".join(self.reported_errors)
            reported = f" When the line was opened the instrument reported {reported}." if reported else ""
            raise DeviceConnectionError(
                f"The instrument at {self.address} must {expected} within {self.timeout:g} s of {command!r}. "
                f"Got {self._came} bytes, then {type(error).__name__}: {error}.{reported} Open the line anew "
                "(a Session does), then see device.reported_errors: a refused value looks like this too."
            ) from error
        self._unfinished = unfinished  # only left over by an interruption or a fault

    def _send(self, command: str, block: bytes = b"") -> None:
        data = command.encode() + (b" " + block if block else b"") + self._write_termination
        if self._socket is None:
            self._resource.write_raw(data)
        else:  # pyvisa-py writes 4096 bytes at a time, and waits for ever if the instrument does not take them
            self._socket.sendall(data)

    def _receive(self, least: int, most: int = 0) -> bytes:
        """At least so many bytes, and what else is there already, up to ``most``."""
        if self._socket is None:
            data = bytes(self._resource.read_bytes(least, chunk_size=least)) if least else b""
            self._came += len(data)
            return data
        # pyvisa-py does not say what came before a time-out, nor that the instrument hung up
        buffer = bytearray(max(least, most))
        free, n_bytes = memoryview(buffer), 0
        while n_bytes < least:
            n_new = self._socket.recv_into(free[n_bytes:])
            if not n_new:
                raise ConnectionResetError("the instrument closed the connection")
            n_bytes += n_new
            self._came += n_new
        return bytes(free[:n_bytes])

    def _receive_line(self) -> str:
        if self._socket is None:
            return str(self._resource.read(termination=self._read_termination)).strip()
        line, termination = b"", self._read_termination.encode()
        deadline = time.monotonic() + self.timeout
        while not line.endswith(termination):
            if time.monotonic() > deadline:  # an instrument left in continuous mode sends for ever
                raise TimeoutError("the line has not ended")
            line += self._receive(1)
        return line.decode(errors="replace").strip()

    def _receive_block(self, n_bytes: int) -> bytes:
        termination = self._read_termination.encode()
        n_header = 2 + len(str(n_bytes))  # at least; more with leading zeros
        data = self._receive(n_header, n_header + n_bytes + len(termination))
        if data[:1] == b"#" and data[1:2].isdigit():
            data += self._receive(max(0, 2 + int(data[1:2]) - len(data)))
        offset, announced = parse_block_header(data)
        if announced != n_bytes:  # told at once, not when the missing bytes have not come
            raise ValueError(f"a block of {announced} bytes")
        end = offset + n_bytes
        data += self._receive(end + len(termination) - len(data))
        if data[end:] != termination:
            raise ValueError(f"a block that goes on with {data[end:]!r}")
        return data[offset:end]


def _resource_manager(backend: str) -> Any:
    try:
        import pyvisa

        return pyvisa.ResourceManager(backend)
    except (ImportError, ValueError, OSError) as error:  # ValueError, OSError: PyVISA without this back end
        raise ImportError(
            f"VisaDevice needs PyVISA and its back end {backend!r}. Got {type(error).__name__}: {error}. "
            'Install them: pip install "skpat[visa]".'
        ) from error


def _socket_of(resource: Any) -> socket.socket | None:
    """The socket behind a TCPIP::...::SOCKET resource of pyvisa-py; None for everything else."""
    try:
        line = resource.visalib.sessions[resource.session].interface
    except (AttributeError, KeyError, TypeError):
        return None
    return line if isinstance(line, socket.socket) else None
