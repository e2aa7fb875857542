"""An instrument that understands SCPI as a device, through PyVISA."""

from __future__ import annotations

from typing import Any

import numpy as np

from skpat.controls import ControlBatch
from skpat.devices.base import Device
from skpat.devices.specification import device_name
from skpat.exceptions import ControlBoundsError, DeviceConnectionError
from skpat.lab.scpi import encode_block
from skpat.lab.visa_line import VisaLine

__all__ = ["VisaDevice"]

_MOST_ERRORS = 64  # read from the instrument's queue at opening: some answer for ever


class VisaDevice(Device):
    """An instrument behind a VISA address (a network socket, GPIB, USB) that is set and read with SCPI commands.

    Shared controls are sent when they change, rows in blocks: one command and one answer for a whole batch. Numbers
    travel as IEEE 488.2 definite-length binary blocks (``skpat.lab.scpi``). An instrument with other habits is a subclass
    that overrides :meth:`set_shared` and :meth:`measure`.

    Parameters
    ----------
    address : str
        VISA address, for example "TCPIP::192.168.0.7::5025::SOCKET".
    n_controls, n_outputs : int
        Number of control channels and of outputs.
    bounds : (low, high) or array-like of shape (n_controls, 2)
        Legal values of all channels alike, or of each, in the device's units.
    control_units, output_units, max_batch, seconds_per_shot, joules_per_shot, control_steps, max_change, periodic, \
output_range, on_bad_output, max_retries, settling_seconds, slow_controls
        As in :class:`skpat.Device`.
    timeout : float, default=2.0
        Longest wait for an answer, in seconds. Above what the largest batch takes. A line of text must have ended by then; a
        block whose length is known may take longer as long as it keeps coming.
    channels_command : str or None, default="CHAN"
        Followed by the numbers of the shared channels (a block of int32). Sent when they change. None: the instrument
        knows them; their values are then sent in ascending order of the channels.
    varying_command : str or None, default="VARY"
        Followed by the other channels in the order of the columns (a block of int32). Sent when that is not, or no
        longer, the ascending order. None: columns are sent in ascending order of the channels.
    shared_command : str or None, default="CTRL"
        Followed by the values of the shared channels (a block). None: every channel is sent with every row.
    measure_command : str, default="MEAS?"
        Followed by the varying channels of every row (a block). The answer is a block with the outputs of every row.
    safe_command : str or None, default="SAFE"
        Brings the instrument into a state it can be left in. None: it has no such command.
    identity_command : str or None, default="\\*IDN?"
        Asks who answers. None: it cannot be asked.
    error_command : str or None, default="SYST:ERR?"
        Asks for the oldest error in the instrument's queue; 0 when there is none. None: it has no queue.
    write_termination, read_termination : str, default="\\n"
        What ends a line sent and a line (or a block) received.
    datatype : {"d", "f"}, default="d"
        Numbers on the line: 8 or 4 bytes. What is rounded to 4 bytes stays within the bounds.
    big_endian : bool, default=False
        Byte order on the line; most instruments have a command to choose it.
    backend : str, default="@py"
        PyVISA's back end: "@py" is pyvisa-py, "@ivi" an installed VISA library.

    Notes
    -----
    A time-out leaves an answer on its way: the next question would silently get the previous batch's. After any
    fault, an interruption (Ctrl-C) included, nothing more is measured until the line is opened anew; a
    :class:`skpat.lab.Session` does that, identifies the instrument, sends the shared controls again and repeats the batch.
    An instrument that refuses a value looks like one that is mute. The cause stands in its queue of errors, which is
    read at every opening (:attr:`reported_errors`) and told with the next fault.

    PyVISA is imported by :meth:`open` only. Nothing but the parameters is copied, pickled or printed.

    Examples
    --------
    >>> from skpat.lab import VisaDevice
    >>> device = VisaDevice("TCPIP::192.168.0.7::5025::SOCKET", n_controls=32, n_outputs=10, bounds=(-1, 1))
    >>> device.measure([[0.0] * 32])
    Traceback (most recent call last):
        ...
    skpat.exceptions.DeviceConnectionError: The instrument at TCPIP::192.168.0.7::5025::SOCKET must be open to be sent \
'MEAS?'. Got a closed line. Use `with Session(device) as session: session.measure(controls)`, or device.open() first.
    """

    _line: VisaLine | None = None

    def __init__(
        self,
        address,
        *,
        n_controls,
        n_outputs,
        bounds,
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
        timeout=2.0,
        channels_command="CHAN",
        varying_command="VARY",
        shared_command="CTRL",
        measure_command="MEAS?",
        safe_command="SAFE",
        identity_command="*IDN?",
        error_command="SYST:ERR?",
        write_termination="\n",
        read_termination="\n",
        datatype="d",
        big_endian=False,
        backend="@py",
    ):
        self.address = address
        self.n_controls = n_controls
        self.n_outputs = n_outputs
        self.bounds = bounds
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
        self.timeout = timeout
        self.channels_command = channels_command
        self.varying_command = varying_command
        self.shared_command = shared_command
        self.measure_command = measure_command
        self.safe_command = safe_command
        self.identity_command = identity_command
        self.error_command = error_command
        self.write_termination = write_termination
        self.read_termination = read_termination
        self.datatype = datatype
        self.big_endian = big_endian
        self.backend = backend

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_line"}

    # ---- the line ----

    @property
    def reported_errors(self) -> tuple[str, ...]:
        """What stood in the instrument's queue of errors when the line was opened, oldest first."""
        return () if self._line is None else self._line.reported_errors

    def open(self) -> None:
        """Open the line and empty the instrument's queue of errors into :attr:`reported_errors`.

        Raises
        ------
        ImportError
            If PyVISA or its back end is not installed.
        DeviceConnectionError
            If nobody answers.
        """
        self.close()
        line = VisaLine(
            self.address,
            timeout=self.timeout,
            backend=self.backend,
            write_termination=self.write_termination,
            read_termination=self.read_termination,
        )
        try:
            if self.error_command is not None:
                line.reported_errors = _empty_error_queue(line, self.error_command)
        except BaseException:
            line.close()
            raise
        self._line = line

    def close(self) -> None:
        """Close the line, whatever state it is in. Never raises."""
        line, self._line = self._line, None
        if line is not None:
            line.close()

    def identify(self) -> str:
        """The answer to ``identity_command``; "" without one."""
        return (
            "" if self.identity_command is None else self._open_line(self.identity_command).ask(self.identity_command)
        )

    def safe_state(self) -> None:
        """Send ``safe_command``, also on a line that answers no longer. On one that does, the instrument must confirm that it
        has read it, by its answer to ``error_command``: what is sent into a broken line is not missed by the sender.

        Raises
        ------
        DeviceConnectionError
            If it could not be sent, or was not confirmed.
        """
        if self.safe_command is not None:
            line = self._open_line(self.safe_command)
            line.told.clear()
            line.tell(self.safe_command, even_out_of_step=True)
            if self.error_command is not None and line.is_in_step:
                line.reported_errors += _empty_error_queue(line, self.error_command)

    def _open_line(self, command: str) -> VisaLine:
        if self._line is None:
            raise DeviceConnectionError(
                f"The instrument at {self.address} must be open to be sent {command!r}. Got a closed line. "
                "Use `with Session(device) as session: session.measure(controls)`, or device.open() first."
            )
        return self._line

    # ---- controls and outputs ----

    def set_shared(self, batch: ControlBatch) -> None:
        """Send the channels that all rows share: their numbers if these differ from the last ones sent, and their values.

        Raises
        ------
        DeviceConnectionError
            If they could not be sent. (An instrument that refuses them says so only to the next measurement.)
        """
        batch = self._arranged(batch)
        line = self._open_line(self.shared_command or self.measure_command)
        line.told.pop("shared", None)
        index = batch.shared_index
        if self.channels_command is not None and not _same(index, line.told.get("shared_index")):
            line.told.clear()  # the order of the others too
            line.tell(self.channels_command, encode_block(index, self._dtype("i4")))
        if len(index) and self.shared_command is not None:
            line.tell(self.shared_command, self._encode(batch.shared, index))
        line.told.update(shared_index=np.array(index), shared=np.array(batch.shared))

    def measure(self, batch: ControlBatch | np.ndarray) -> np.ndarray:
        """Send the rows in one block, read the outputs in one block.

        Shared controls that the instrument has not been sent on this line are sent first.

        Parameters
        ----------
        batch : ControlBatch or array of shape (n_rows, n_controls)
            Settings in the device's units.

        Returns
        -------
        ndarray of shape (n_rows, n_outputs)
            float64, or float32 where ``datatype`` is "f".

        Raises
        ------
        DeviceConnectionError
            If the line is not open, or the answer is late, cut short, malformed or of another size.
        """
        batch = self._arranged(batch)
        line = self._open_line(self.measure_command)
        told, order = line.told, batch.varying_index
        if not batch.n_rows:
            return np.empty((0, self.n_outputs))
        if not (_same(batch.shared_index, told.get("shared_index")) and _same(batch.shared, told.get("shared"))):
            self.set_shared(batch)
        if self.varying_command is not None:
            known = told.get("order")
            if not (_same(order, known) if known is not None else _is_ascending(order)):
                line.tell(self.varying_command, encode_block(order, self._dtype("i4")))
                told["order"] = np.array(order)
        dtype = self._dtype("f8" if self.datatype == "d" else "f4")
        n_bytes = batch.n_rows * self.n_outputs * dtype.itemsize
        content = line.ask_block(self.measure_command, self._encode(batch.varying, order), n_bytes)
        return np.frombuffer(content, dtype).astype(dtype.newbyteorder("=")).reshape(batch.n_rows, self.n_outputs)

    def _arranged(self, batch: ControlBatch | np.ndarray) -> ControlBatch:
        """The batch with its channels divided and ordered as the commands can tell."""
        batch = ControlBatch.from_dense(batch).numpy()
        if self.shared_command is None or not len(batch.varying_index):
            batch = ControlBatch.from_dense(batch.dense())
        varying, varying_index = batch.varying, batch.varying_index
        shared, shared_index = batch.shared, batch.shared_index
        if self.varying_command is None and not _is_ascending(varying_index):
            order = np.argsort(varying_index)
            varying, varying_index = varying[:, order], varying_index[order]
        if self.channels_command is None and not _is_ascending(shared_index):
            order = np.argsort(shared_index)
            shared, shared_index = shared[order], shared_index[order]
        return ControlBatch(varying, varying_index, shared, shared_index)

    def check_controls(self, batch: ControlBatch) -> None:
        """With ``datatype="f"``: veto settings that no number of 4 bytes within the bounds comes near.

        Raises
        ------
        ControlBoundsError
        """
        if self.datatype == "d":
            return
        bounds = np.broadcast_to(np.asarray(self.bounds, dtype=np.float64), (self.n_controls, 2))
        parts = ((batch.varying, batch.varying_index), (np.atleast_2d(batch.shared), batch.shared_index))
        for values, index in parts:
            low, high = bounds[index].T
            rounded = self._rounded(np.asarray(values), index)
            outside = (rounded < low) | (rounded > high)
            if outside.any():
                row, column = (int(i) for i in np.argwhere(outside)[0])
                raise ControlBoundsError(
                    f"The bounds of {device_name(self)} must have room for numbers of 4 bytes, which datatype='f' sends. Got "
                    f"{float(low[column])!r} to {float(high[column])!r} in channel {index[column]}. Nothing was sent. "
                    "Use datatype='d'.",
                    row=row,
                    channel=int(index[column]),
                    value=float(values[row, column]),
                )

    def _encode(self, values: np.ndarray, channels: np.ndarray) -> bytes:
        if self.datatype == "d":
            return encode_block(values, self._dtype("f8"))
        return encode_block(self._rounded(values, channels), self._dtype("f4"))

    def _rounded(self, values: np.ndarray, channels: np.ndarray) -> np.ndarray:
        low, high = np.broadcast_to(np.asarray(self.bounds, dtype=np.float64), (self.n_controls, 2))[channels].T
        rounded = values.astype(np.float32)
        # what rounding has put beyond a bound goes back by one step, and no further: illegal values are not made legal
        rounded = np.where(rounded < low, np.nextafter(rounded, np.float32(np.inf)), rounded)
        return np.where(rounded > high, np.nextafter(rounded, np.float32(-np.inf)), rounded)

    def _dtype(self, kind: str) -> np.dtype:
        return np.dtype((">" if self.big_endian else "<") + kind)


def _empty_error_queue(line: VisaLine, command: str) -> tuple[str, ...]:
    found: list[str] = []
    while len(found) < _MOST_ERRORS:
        answer = line.ask(command)
        if answer.partition(",")[0].strip() in ("0", "+0", ""):
            break
        found.append(answer)
    return tuple(found)


def _same(one: np.ndarray, other: np.ndarray | None) -> bool:
    return other is not None and np.array_equal(one, other)


def _is_ascending(index: np.ndarray) -> bool:
    return bool((index[1:] > index[:-1]).all())
