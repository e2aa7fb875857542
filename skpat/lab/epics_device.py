"""EpicsDevice: an instrument behind EPICS process variables, one block of rows at a time over Channel Access."""

from __future__ import annotations

import getpass
import secrets
import socket
import time
from types import ModuleType
from typing import Any

import numpy as np

from skpat.controls import ControlBatch
from skpat.devices.base import Device
from skpat.exceptions import DeviceConnectionError, DeviceContractError, DeviceOutputError
from skpat.lab.answers import IncompleteAnswer

__all__ = ["EpicsDevice"]

_LARGEST_NUMBER = 2**31 - 1  # a Channel Access LONG
_SEARCH_SECONDS = 0.2  # between two searches for a name: an IOC may just be starting
_NONE_SHARED = -1
_LOST = ("ECA_TIMEOUT", "ECA_DISCONN", "ECA_DISCONNCHID", "ECA_CONN", "ECA_IOINPROGRESS")


class EpicsDevice(Device):
    """An instrument behind an IOC that takes a block of rows and answers with a block of readings.

    Names of process variables are put behind ``prefix``.

    Parameters
    ----------
    prefix : str, default=""
        What all names begin with, "LAB:PLATE:" say.
    n_controls, n_outputs : int
        Number of control channels and of outputs.
    bounds : (low, high) or array-like of shape (n_controls, 2)
        Legal values.
    rows_pv : str, default="ROWS"
        Waveform of numbers: the channels that differ from row to row, in ascending order, one row after the other.
    shared_pv, channels_pv : str or None, default="SHARED" and "CHANNELS"
        Waveforms of the values of the channels that all rows share, and of these channels' numbers, from 0. ``channels_pv``
        is written first; ``[-1]`` and ``[0.0]`` mean that no channel is shared. None for both: each row holds all channels.
    outputs_pv : str, default="OUTPUTS"
        Waveform of n_rows * n_outputs readings, one row after the other. It must have exactly as many elements. With an alarm
        of severity INVALID they are old ones, and not taken.
    trigger_pv : str, default="TRIGGER"
        Written, with completion, when everything is set. Its value is a number that changes with each batch (32 bits).
    done_pv : str, default="DONE"
        The IOC puts the number of the trigger here when its readings are in ``outputs_pv``.
    identity_pv : str, default=None
        A string, or a waveform of characters, that tells which instrument it is. Not a count of restarts: another answer
        after a fault stops the run.
    safe_pv : str, default=None
        1 is written to it before the device is closed.
    timeout : float, default=5.0
        Longest wait for an answer, in seconds. Measuring a whole batch must fit in.
    control_units, output_units, max_batch, seconds_per_shot, joules_per_shot : optional
        See :class:`skpat.Device`.
    control_steps, max_change, periodic, output_range, on_bad_output, max_retries, settling_seconds, slow_controls : optional
        See :class:`skpat.Device`.

    Notes
    -----
    IOCs are found as EPICS finds them, by the environment variables ``EPICS_CA_ADDR_LIST`` and ``EPICS_CA_AUTO_ADDR_LIST``.
    Needs caproto: ``pip install "skpat[epics]"``.

    An IOC that has restarted has forgotten its controls. A usual client reconnects by itself and would never tell; this
    one holds a single connection to each IOC, and the end of one is a DeviceConnectionError, after which the session
    connects again and sends everything again. Readings count only if ``done_pv`` holds the batch's number before and
    after they are read, so those of an earlier batch, or of another client's, are never taken for this one's.

    Examples
    --------
    >>> from skpat.lab.epics_device import EpicsDevice
    >>> device = EpicsDevice("LAB:PLATE:", n_controls=24, n_outputs=10, bounds=(-1, 1), identity_pv="WHO", max_batch=256)
    >>> device.address
    'epics:LAB:PLATE:TRIGGER'
    """

    def __init__(
        self,
        prefix="",
        *,
        n_controls,
        n_outputs,
        bounds,
        rows_pv="ROWS",
        shared_pv="SHARED",
        channels_pv="CHANNELS",
        outputs_pv="OUTPUTS",
        trigger_pv="TRIGGER",
        done_pv="DONE",
        identity_pv=None,
        safe_pv=None,
        timeout=5.0,
        control_units="",
        output_units="",
        max_batch=None,
        seconds_per_shot=None,
        joules_per_shot=None,
        control_steps=None,
        max_change=None,
        periodic=None,
        output_range=None,
        on_bad_output="retry",
        max_retries=5,
        settling_seconds=0.0,
        slow_controls=None,
    ):
        self.prefix = prefix
        self.n_controls = n_controls
        self.n_outputs = n_outputs
        self.bounds = bounds
        self.rows_pv = rows_pv
        self.shared_pv = shared_pv
        self.channels_pv = channels_pv
        self.outputs_pv = outputs_pv
        self.trigger_pv = trigger_pv
        self.done_pv = done_pv
        self.identity_pv = identity_pv
        self.safe_pv = safe_pv
        self.timeout = timeout
        self.control_units = control_units
        self.output_units = output_units
        self.max_batch = max_batch
        self.seconds_per_shot = seconds_per_shot
        self.joules_per_shot = joules_per_shot
        self.control_steps = control_steps
        self.max_change = max_change
        self.periodic = periodic
        self.output_range = output_range
        self.on_bad_output = on_bad_output
        self.max_retries = max_retries
        self.settling_seconds = settling_seconds
        self.slow_controls = slow_controls

    @property
    def address(self) -> str:  # type: ignore[override]  # an attribute of the base class, derived here
        """The full name of ``trigger_pv``: who triggers has the instrument."""
        return f"epics:{self._name(self.trigger_pv)}"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name not in _LIVE}

    def open(self) -> None:
        """Find the IOC and connect to its process variables.

        Raises
        ------
        ImportError
            If caproto is not installed.
        DeviceConnectionError
            If one of the names is not answered within ``timeout``.
        DeviceContractError
            If names that are written are missing, or the same.
        """
        if (self.shared_pv is None) != (self.channels_pv is None):
            raise DeviceContractError(
                "'shared_pv' and 'channels_pv' of EpicsDevice must both be names, or both None. Got "
                f"{self.shared_pv!r} and {self.channels_pv!r}. Without the channels' numbers the IOC cannot tell which "
                "values it gets."
            )
        set_ = [self.rows_pv, self.shared_pv, self.channels_pv, self.trigger_pv, self.safe_pv]
        twice = [name for name in set_ if name is not None and set_.count(name) > 1]
        if twice:
            raise DeviceContractError(
                "'rows_pv', 'shared_pv', 'channels_pv', 'trigger_pv' and 'safe_pv' of EpicsDevice must be different names: "
                f"each is written with something else. Got {twice[0]!r} twice. Give each its own process variable, or None."
            )
        self.close()
        names = [self.rows_pv, self.outputs_pv, self.trigger_pv, self.done_pv]
        names += [self.shared_pv, self.channels_pv, self.identity_pv, self.safe_pv]
        line = _Line(self.timeout)
        try:
            for name in names:
                if name is not None:
                    line.connect(self._name(name))
        except BaseException:
            line.close()
            raise
        self._line = line
        self._sent: tuple[np.ndarray, np.ndarray] | None = None
        # Chance, not 1: an answer that an earlier connection did not wait for may come yet, and has an earlier number
        self._number = secrets.randbelow(_LARGEST_NUMBER)

    def close(self) -> None:
        """Close the connections."""
        line = self.__dict__.pop("_line", None)
        if line is not None:
            line.close()

    def identify(self) -> str:
        """The text in ``identity_pv``; "" without one."""
        if self.identity_pv is None:
            return ""
        return self._opened().read_text(self._name(self.identity_pv))

    def safe_state(self) -> None:
        """Write 1 to ``safe_pv``."""
        if self.safe_pv is not None:
            self._sent = None
            self._opened().write(self._name(self.safe_pv), [1])

    def set_shared(self, batch: ControlBatch) -> None:
        """Write the channels that all rows share, and their numbers."""
        if self.shared_pv is not None and self.channels_pv is not None:
            line, (_, channels, values) = self._opened(), self._parts(batch)
            self._sent = None
            line.write(self._name(self.channels_pv), channels if len(channels) else np.array([_NONE_SHARED]))
            line.write(self._name(self.shared_pv), values if len(values) else np.array([0.0]))
            self._sent = channels.copy(), values.copy()

    def measure(self, batch: ControlBatch | np.ndarray) -> np.ndarray:
        """Write the rows, trigger, wait until they are done, read; shape (n_rows, n_outputs)."""
        batch = ControlBatch.from_dense(batch).numpy()
        line = self._opened()
        rows, *shared = self._parts(batch)
        if self._sent is None or not all(map(np.array_equal, self._sent, shared)):
            self.set_shared(batch)  # without a session nobody else does
        n_values = batch.n_rows * self.n_outputs
        for what, needed, per_row in (("rows_pv", rows.size, rows.shape[1]), ("outputs_pv", n_values, self.n_outputs)):
            room = line.room(self._name(getattr(self, what)))
            if needed > room:
                raise DeviceContractError(
                    f"'{what}' of EpicsDevice must have room for the {needed} values of {batch.n_rows} rows. Got room for "
                    f"{room}. Nothing was sent. Use max_batch={room // per_row}, or a longer waveform."
                )
        self._number = self._number % _LARGEST_NUMBER + 1
        line.write(self._name(self.rows_pv), rows.ravel())
        line.write(self._name(self.trigger_pv), [self._number])
        self._wait_until_done(line)
        outputs, alarm = line.read_with_alarm(self._name(self.outputs_pv))
        if not self._is_done(line):
            raise DeviceConnectionError(
                f"{self._name(self.done_pv)} must hold {self._number}, the number of this batch, until its readings are read. "
                "Got another one. Keep other clients from triggering the instrument."
            )
        if alarm:  # a record that cannot be read keeps its old value
            raise DeviceConnectionError(
                f"{self._name(self.outputs_pv)} must hold new readings when {self._name(self.done_pv)} says so. Got an alarm "
                f"of severity INVALID ({alarm}). Check the instrument behind the IOC."
            )
        if outputs.size != n_values:
            raise IncompleteAnswer(
                f"{self._name(self.outputs_pv)} must hold n_rows * n_outputs = {n_values} readings. Got {outputs.size}. Let "
                "the IOC set the waveform's length to what it has measured."
            )
        return outputs.reshape(batch.n_rows, self.n_outputs)

    def _wait_until_done(self, line: _Line) -> None:
        deadline, pause = time.monotonic() + self.timeout, 0.0005
        while not self._is_done(line):
            if time.monotonic() > deadline:
                raise DeviceConnectionError(
                    f"{self._name(self.done_pv)} must become {self._number}, the number of this batch, within {self.timeout} s "
                    "of the trigger. Got another one. Check the instrument, or raise 'timeout'."
                )
            time.sleep(pause)
            pause = min(2 * pause, 0.02)

    def _is_done(self, line: _Line) -> bool:
        return line.read(self._name(self.done_pv)).tolist() == [self._number]

    def _parts(self, batch: ControlBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What varies, in ascending order of the channels; the shared channels, and their values."""
        if self.shared_pv is None or not len(batch.varying_index):
            return np.asarray(batch), np.empty(0, dtype=int), np.empty(0)
        return batch.varying[:, np.argsort(batch.varying_index)], batch.shared_index, batch.shared

    def _name(self, name: str) -> str:
        return f"{self.prefix}{name}"

    def _opened(self) -> _Line:
        line = self.__dict__.get("_line")
        if line is None:
            raise DeviceConnectionError(
                "EpicsDevice must be open before it is used. Got a closed one. Measure through skpat.lab.Session, or call "
                "open() first."
            )
        return line


_LIVE = ("_line", "_sent", "_number")


class _Line:
    """Channels, over one TCP connection to each IOC. A connection that ends is never made anew.

    One question at a time is asked and its answer awaited, on caproto's protocol engine. No thread, and nothing that
    goes on by itself.
    """

    def __init__(self, timeout: float):
        self._ca = _caproto()
        self._timeout = timeout
        self._circuits: dict[Any, tuple[Any, socket.socket]] = {}
        self._channels: dict[str, Any] = {}

    def connect(self, name: str) -> None:
        """Find a process variable and make a channel for it."""
        from caproto.sync.client import search

        ca = self._ca
        try:
            with ca.bcast_socket() as udp:
                udp.bind(("", 0))
                tries = max(1, round(self._timeout / _SEARCH_SECONDS))
                address = search(name, udp, self._timeout, max_retries=tries)
            if address not in self._circuits:
                self._greet(address)
            circuit, _ = self._circuits[address]
        except (OSError, ca.CaprotoError) as error:
            raise _lost(name, error) from error
        channel = ca.ClientChannel(name, circuit)
        self._ask(circuit, channel.create(), name, lambda command: channel.states[ca.CLIENT] is ca.CONNECTED)
        self._channels[name] = channel

    def _greet(self, address: tuple[str, int]) -> None:
        ca = self._ca
        circuit = ca.VirtualCircuit(our_role=ca.CLIENT, address=address, priority=0)
        line = socket.create_connection(address, self._timeout)
        self._circuits[address] = circuit, line
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        circuit.our_address = line.getsockname()
        greeting = (
            ca.VersionRequest(priority=0, version=ca.DEFAULT_PROTOCOL_VERSION),
            ca.HostNameRequest(socket.gethostname()),
            ca.ClientNameRequest(getpass.getuser()),
        )
        line.sendall(b"".join(circuit.send(*greeting)))

    def close(self) -> None:
        """Close every connection."""
        for _, line in self._circuits.values():
            line.close()
        self._circuits.clear()

    def room(self, name: str) -> int:
        """The most elements that a process variable can have."""
        return int(self._channels[name].native_data_count)

    def write(self, name: str, values: Any) -> None:
        """Write, and wait until the IOC has done what that makes it do."""
        ca, channel = self._ca, self._channels[name]
        values = np.asarray(values)
        whole = values.dtype.kind in "iu"
        values = values.astype(np.int32 if whole else np.float64)
        kind = ca.ChannelType.LONG if whole else ca.ChannelType.DOUBLE
        if values.size > self.room(name):
            raise DeviceContractError(
                f"{name} must have room for {values.size} values. Got room for {self.room(name)}. Use a longer waveform."
            )
        request = channel.write(values, data_type=kind, data_count=values.size, notify=True)
        answer = self._ask(
            channel.circuit,
            request,
            name,
            lambda command: isinstance(command, ca.WriteNotifyResponse) and command.ioid == request.ioid,
        )
        self._check(name, answer.status)

    def read(self, name: str, kind: str = "DOUBLE") -> np.ndarray:
        """Read all elements that a process variable has now."""
        answer = self._read(name, kind)
        return np.array(answer.data, dtype=np.float64) if kind == "DOUBLE" else np.asarray(answer.data)

    def read_with_alarm(self, name: str) -> tuple[np.ndarray, str]:
        """Numbers, and the name of the alarm that makes them invalid; "" where they are valid."""
        answer = self._read(name, "STS_DOUBLE")
        alarm, ca = answer.metadata, self._ca
        is_invalid = alarm.severity == ca.AlarmSeverity.INVALID_ALARM
        return np.array(answer.data, dtype=np.float64), ca.AlarmStatus(alarm.status).name if is_invalid else ""

    def _read(self, name: str, kind: str) -> Any:
        ca, channel = self._ca, self._channels[name]
        request = channel.read(data_type=ca.ChannelType[kind])
        answer = self._ask(
            channel.circuit,
            request,
            name,
            lambda command: isinstance(command, ca.ReadNotifyResponse) and command.ioid == request.ioid,
        )
        self._check(name, answer.status)
        return answer

    def read_text(self, name: str) -> str:
        """Read a string, or a waveform of characters."""
        if self._ca.native_type(self._channels[name].native_data_type) == self._ca.ChannelType.CHAR:
            text = bytes(self.read(name, "CHAR").astype(np.uint8))
        else:
            text = b" ".join(bytes(part) for part in self.read(name, "STRING"))
        return text.split(b"\0", 1)[0].decode("latin-1")

    def _ask(self, circuit: Any, request: Any, name: str, is_answer: Any) -> Any:
        """Send a request and wait for what answers it."""
        ca = self._ca
        line = self._circuits[circuit.address][1]
        deadline = time.monotonic() + self._timeout
        try:
            line.settimeout(self._timeout)
            line.sendall(b"".join(circuit.send(request)))
            while True:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"no answer within {self._timeout} s")
                line.settimeout(left)
                commands, _ = circuit.recv(line.recv(1 << 16))
                found = None
                for command in commands:
                    circuit.process_command(command)
                    if command is ca.DISCONNECTED or isinstance(command, ca.ServerDisconnResponse):
                        raise ConnectionResetError("the IOC ended the connection")
                    if isinstance(command, ca.CreateChFailResponse):
                        raise ConnectionResetError("the IOC does not have it any more")
                    if isinstance(command, ca.ErrorResponse):
                        self._check(name, command.status, command.error_message)
                    if is_answer(command):
                        found = command
                if found is not None:
                    return found
        except (OSError, ca.CaprotoError) as error:
            if isinstance(error, DeviceConnectionError):
                raise
            raise _lost(name, error) from error

    def _check(self, name: str, status: Any, said: Any = "") -> None:
        """Tell a refusal, which would be the same another time, from a lost connection."""
        if status.name == "ECA_NORMAL":
            return
        text = (
            bytes(said).decode("latin-1").rstrip("\0")
            if isinstance(said, (bytes, bytearray, memoryview))
            else str(said)
        )
        reason = f"{status.name} ({text or status.description})"
        if status.name in _LOST:
            raise DeviceConnectionError(f"The IOC must answer for {name}. Got {reason}")
        raise DeviceOutputError(
            f"The IOC must accept what skpat asks of {name}. Got {reason}. Check the process variable's type, limits and "
            "access rights."
        )


def _lost(name: str, error: BaseException) -> DeviceConnectionError:
    return DeviceConnectionError(
        f"The IOC must answer for {name}. Got {type(error).__name__}: {error}. Check that it runs, and EPICS_CA_ADDR_LIST."
    )


def _caproto() -> ModuleType:
    try:
        import caproto
    except ImportError as error:
        raise ImportError(
            'EpicsDevice needs caproto, which is not installed. Install it with: pip install "skpat[epics]"'
        ) from error
    return caproto
